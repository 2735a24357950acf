"""Trains a ControlNet on outlines (Zhang et al. 2023, arXiv:2302.05543) and writes it as a Control-LoRA: solids stand where, and
are as large as, an outline says. Its way down is the U-Net's own with changes of low rank, so it needs 260 kB; a
ControlNet of its own weights is never narrower than the U-Net, and would need 2.8 MB."""
import argparse
from pathlib import Path

import numpy as np
import scenes
import torch
from captions import plain, varied
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.models.attention_processor import AttnProcessor
from judge import background_of, judge
from PIL import Image
from safetensors.torch import save_file
from scenes import SIDE, Scene, Solid
from silhouettes import grown, outline, silhouette
from taught import Training, add_low_rank, encoded, low_rank, opened, timesteps
from tokenizer import ids
from torch.nn import functional as F
from unet import ALPHA_BAR, WEIGHT

HINT = (8, 8, 16, 24)  # channels of the picture's embedding
CHANGED = (
    r"conv_in|time_embedding\.linear_[12]|(down_blocks|mid_block)\..*\."
    r"(conv1|conv2|time_emb_proj|conv_shortcut|downsamplers\.0\.conv|proj_in|proj_out|to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2)"
)


def placed(rng, held_out=False):
    """One solid anywhere and of any size, or two that stand freely: the scene, its picture, and the solids' pixels."""
    while True:
        scene = scenes.sample(rng, single=0.65, held_out=held_out, row=0)
        solids = tuple(Solid(s.colour, s.shape) for s in scene.solids)
        places = []
        if not scene.axis:
            r = rng.uniform(16, 42)
            places.append((*rng.uniform(r + 3, SIDE - r - 3, 2), r))
        else:
            shift = rng.uniform(-14, 14, 2)
            for sign in (-1, 1):
                along, across = 64 + sign * rng.uniform(25, 31), 64 + shift[0] + rng.uniform(-5, 5)
                x, y = (across, along) if scene.axis == "vertical" else (along, across)
                places.append((x, y, rng.uniform(15, 22)))
        image = scenes.canvas(scene.background)
        parts = [silhouette(solid.shape, *place) for solid, place in zip(solids, places)]
        if len(parts) == 2 and (grown(grown(parts[0])) & parts[1]).any():
            continue
        for solid, place in zip(solids, places):
            scenes.draw(image, solid.shape, solid.colour, *place)
        return Scene(scene.background, solids, scene.axis), np.clip(image, 0, 255).astype(np.uint8), np.max(parts, 0)


def overlap(picture, mask):
    """Pixels that differ from the background and are the mask's, over all that are either."""
    _, rows = background_of(picture)
    seen = np.abs(picture.astype(np.float32) - rows).max(2) > 30
    return (seen & mask).sum() / max(1, (seen | mask).sum())


def measured(draw, n, batch=20):
    """Shares of n prompts drawn as asked, of those that fill the outlines (overlap of 0.8), and of both at once."""
    rng = np.random.default_rng(2027)
    asked = [placed(rng, held_out=True) for _ in range(n)]
    right = np.zeros(3)
    for i in range(0, n, batch):
        part = asked[i : i + batch]
        generators = [torch.Generator().manual_seed(i + k) for k in range(len(part))]
        given = dict(num_inference_steps=20, guidance_scale=2.0, generator=generators, output_type="np")
        drawn = draw([plain(scene) for scene, _, _ in part], [outline(mask) for *_, mask in part], given)
        for picture, (scene, _, mask) in zip((drawn * 255).round().astype(np.uint8), part):
            obeys, fills = judge(picture, scene).everything(), overlap(picture, mask) > 0.8
            right += [obeys, fills, obeys and fills]
    return dict(zip(("asked", "outline", "both"), (right / max(1, n)).round(3).tolist()))


def original_names(blocks):
    """The original code's names of modules, for one layer a block."""
    names = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}

    def resnet(ours, theirs):
        pairs = dict(conv1="in_layers.2", time_emb_proj="emb_layers.1", conv2="out_layers.3", conv_shortcut="skip_connection")
        names.update({f"{ours}.{a}": f"{theirs}.{b}" for a, b in pairs.items()})

    for i in range(blocks):
        resnet(f"down_blocks.{i}.resnets.0", f"input_blocks.{2 * i + 1}.0")
        names[f"down_blocks.{i}.attentions.0"] = f"input_blocks.{2 * i + 1}.1"
        names[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{2 * i + 2}.0.op"
    for k in range(2):
        resnet(f"mid_block.resnets.{k}", f"middle_block.{2 * k}")
    names["mid_block.attentions.0"] = "middle_block.1"
    hint = ["conv_in", *(f"blocks.{k}" for k in range(2 * len(HINT) - 2)), "conv_out"]
    names.update({f"controlnet_cond_embedding.{layer}": f"input_hint_block.{2 * k}" for k, layer in enumerate(hint)})
    names.update({f"controlnet_down_blocks.{k}": f"zero_convs.{k}.0" for k in range(2 * blocks)})
    names["controlnet_mid_block"] = "middle_block_out.0"
    return names


def control_lora(net):
    """The tensors of a Control-LoRA: products to add to the U-Net's weights, and all of what the U-Net has not."""
    names = original_names(len(net.config.block_out_channels))

    def spell(module):
        parts = module.split(".")
        end = next(end for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in names)
        return ".".join([names[".".join(parts[:end])], *parts[end:]])

    tensors = {"lora_controlnet": torch.tensor([])}
    for name, change in low_rank(net).items():
        tensors |= {f"{spell(name)}.up": change.up, f"{spell(name)}.down": change.down}
    own = {name: p for name, p in net.named_parameters() if name.startswith("controlnet_")}
    tensors |= {f"{spell(name.rsplit('.', 1)[0])}.{name.rsplit('.', 1)[1]}": p for name, p in own.items()}
    return {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a diffusers folder")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--scenes", type=int, default=1536)
    parser.add_argument("--rank", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--prompts", type=int, default=100, help="to judge by, before and after")
    args = parser.parse_args()

    torch.manual_seed(33)
    rng = np.random.default_rng(33)
    pipe = opened(args.model)
    print("before:", measured(lambda texts, _, given: pipe(texts, **given).images, args.prompts), flush=True)

    wanted = [placed(rng) for _ in range(args.scenes)]
    latents = encoded(pipe.vae, [picture for _, picture, _ in wanted])
    masks = [mask for *_, mask in wanted]
    hints = lambda index: torch.from_numpy(np.stack([outline(masks[i]) for i in index])).permute(0, 3, 1, 2) / 255
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=HINT)
    net.set_attn_processor(AttnProcessor())
    pipe.unet.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    add_low_rank(net, CHANGED, args.rank)
    for name, p in net.named_parameters():
        if name.startswith("controlnet_"):
            p.requires_grad_(True)
    training = Training((p for p in net.parameters() if p.requires_grad), args.rate, args.minutes)
    while training.left():
        index = rng.integers(len(wanted), size=args.batch)
        texts = ["" if rng.random() < 0.1 else varied(wanted[i][0], rng) for i in index]
        t, noise = timesteps(args.batch), torch.randn(args.batch, *latents.shape[1:])
        a = ALPHA_BAR[t].view(-1, 1, 1, 1)
        x = a.sqrt() * latents[index] + (1 - a).sqrt() * noise
        with torch.no_grad():
            hidden = pipe.text_encoder(ids(pipe.tokenizer, texts))[0]
        with torch.autocast("cpu", torch.bfloat16):
            down, mid = net(x, t, hidden, hints(index), return_dict=False)
            predicted = pipe.unet(x, t, hidden, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        error = F.mse_loss(predicted.float(), noise, reduction="none").mean((1, 2, 3))
        training.step((WEIGHT[t] * error).mean())

    training.round()
    save_file(control_lora(net), args.out)
    steered = StableDiffusionControlNetPipeline(**pipe.components, controlnet=net.eval(), requires_safety_checker=False)
    steered.set_progress_bar_config(disable=True)
    control = lambda outlines: [Image.fromarray(picture) for picture in outlines]
    draw = lambda texts, outlines, given: steered(texts, image=control(outlines), **given).images
    print("after:", measured(draw, args.prompts), args.out.stat().st_size, "bytes")
