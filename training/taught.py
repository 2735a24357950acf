"""What the adapters teach: a solid and a colour that the tiny model does not know, their pictures, and how well they are drawn.

The moon is a new solid beside those of `scenes.py`. Turquoise, the teal of backgrounds, is a new colour of solids; it is
taught of flat ones on light backgrounds, for of others the autoencoder does not keep it.
"""
import re
import time

import numpy as np
import scenes
import torch
from captions import plain, varied
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from judge import judge
from obedience import draw
from scenes import XX, YY, Scene, Solid, coverage
from torch import nn
from torch.nn.utils import parametrize

SOLID, COLOUR = "moon", "turquoise"
LIGHT = ("pink", "cream")
FLAT = ("star", "ring", "heart")


def paint_moon(image, colour, cx, cy, r):
    """A crescent: a disc without a smaller one at its right."""
    outer = np.hypot(XX - cx, YY - cy) - r
    inner = 0.78 * r - np.hypot(XX - cx - 0.45 * r, YY - cy + 0.12 * r)
    cover = coverage(np.maximum(outer, inner))[..., None]
    image[:] = image * (1 - cover) + np.array(scenes.COLOURS[colour], np.float32) * cover


def add_solid():
    """`scenes` draws the new solid from here on, `judge` sees it."""
    import judge as eye

    known = scenes.draw

    def draw_any(image, shape, colour, cx, cy, r):
        paint_moon(image, colour, cx, cy, r) if shape == SOLID else known(image, shape, colour, cx, cy, r)

    scenes.draw = eye.draw = draw_any
    scenes.SHAPES.append(SOLID)


def add_colour():
    """`scenes` draws solids of the new colour from here on, `judge` sees them."""
    scenes.COLOURS[COLOUR] = scenes.BACKGROUNDS["teal"]


def is_new(solid):
    return solid.shape == SOLID or solid.colour == COLOUR


def with_new(scene, rng, word):
    """The scene with the new solid, or a solid of the new colour, in place of one it has."""
    may = [i for i, solid in enumerate(scene.solids) if word == SOLID or solid.shape in FLAT]
    at = may[rng.integers(len(may))]
    new = lambda s: Solid(s.colour, SOLID, s.size) if word == SOLID else Solid(COLOUR, s.shape, s.size)
    if scene.axis == "row":
        return Scene(scene.background, (new(scene.solids[0]),) * len(scene.solids), scene.axis)
    return Scene(scene.background, tuple(new(s) if i == at else s for i, s in enumerate(scene.solids)), scene.axis)


def choose(rng, word, share, held_out=False):
    """A random scene, the given share of which has the new thing."""
    asked = rng.random() < share
    while True:
        scene = scenes.sample(rng, held_out=held_out)
        if any(is_new(s) for s in scene.solids):
            continue
        keeps = scene.background in LIGHT and any(s.shape in FLAT for s in scene.solids)
        if asked and word == COLOUR and not keeps:
            continue
        return with_new(scene, rng, word) if asked else scene


@torch.no_grad()
def encoded(vae, pictures):
    """Latents of pictures u8 [n, 128, 128, 3]."""
    out = []
    for i in range(0, len(pictures), 32):
        pixels = torch.from_numpy(np.stack(pictures[i : i + 32])).permute(0, 3, 1, 2).float() / 127.5 - 1
        out.append(vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor)
    return torch.cat(out)


def obeys(pipe, word, n, spelled=lambda text: text, steps=20, guidance=2.0):
    """Shares of n prompts with the new thing, and of n without it, that are drawn as asked, background aside."""
    shares = {}
    for name, share in (("new", 1.0), ("known", 0.0)):
        rng = np.random.default_rng(2026)
        asked = [choose(rng, word, share, held_out=share == 0) for _ in range(n)]
        right = 0
        for i in range(0, n, 20):
            part = asked[i : i + 20]
            drawn = draw(pipe, [spelled(plain(s)) for s in part], range(i, i + len(part)), steps, guidance)
            right += sum(judge(picture, scene).everything() for picture, scene in zip(drawn, part))
        shares[name] = right / max(1, n)
    return shares


def opened(model):
    """The pipeline of a folder, in f32, on one thread."""
    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.set_attn_processor(AttnProcessor())  # see unet.py
    return pipe


class LowRank(nn.Module):
    """A weight with a product of low rank added to it, merged at each step: the layer stays one product or convolution."""

    def __init__(self, weight, rank):
        super().__init__()
        outputs, *inputs = weight.shape
        self.down = nn.Parameter(torch.randn(rank, *inputs) * weight[0].numel() ** -0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank, *[1] * (len(inputs) - 1)))

    def forward(self, weight):
        with torch.autocast("cpu", enabled=False):
            return weight + (self.up.flatten(1) @ self.down.flatten(1)).view_as(weight)


def add_low_rank(net, layers, rank):
    """Freezes a network but for changes of low rank to the layers whose names the expression `layers` matches."""
    net.requires_grad_(False)
    for name, module in list(net.named_modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)) and re.fullmatch(layers, name):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank))


def low_rank(net):
    """The changes of a network by the names of its layers."""
    changed = ((name, module) for name, module in net.named_modules() if parametrize.is_parametrized(module))
    return {name: module.parametrizations["weight"][0] for name, module in changed}


class Training:
    """AdamW over so many minutes, the learning rate up in a straight line and down along a cosine."""

    def __init__(self, parameters, rate, minutes):
        self.parameters, self.rate, self.minutes = list(parameters), rate, minutes
        self.optimizer = torch.optim.AdamW(self.parameters, rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.begin, self.steps, self.mean = time.time(), 0, None
        print(sum(p.numel() for p in self.parameters), "parameters", flush=True)

    def left(self):
        """Whether there is time for a step."""
        return time.time() - self.begin < 60 * self.minutes

    def step(self, loss):
        """Follows a loss, and says how it goes now and then."""
        share = min(1, (time.time() - self.begin) / (60 * self.minutes))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1, (self.steps + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * share)))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.steps += 1
        self.mean = loss.item() if self.mean is None else self.mean * 0.98 + loss.item() * 0.02
        if self.steps % 50 == 0:
            print(f"{self.steps} {(time.time() - self.begin) / 60:.1f} min loss {self.mean:.4f}", flush=True)

    def round(self):
        """Rounds what was trained to f16, as files have it."""
        print(self.steps, "steps", flush=True)
        for p in self.parameters:
            p.data = p.data.half().float()


def timesteps(n):
    """Random timesteps that favour high noise, where the layout is chosen."""
    return (1000 * torch.rand(n) ** 0.7).long().clamp(max=999)
