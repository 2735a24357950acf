"""Trains the U-Net on encoded scenes, beside text.py's finished encoder. Resumable: it goes on from RUN/unet.pt.

What it rests on:
- The loss weighs high noise up. In the noise prediction an error of the layout at timestep t counts ᾱ/(1 − ᾱ) times what
  it does in the picture, a hundredth at t = 900, and that is where the layout is chosen.
- The text encoder says already what is where (text.py), so it stays as it is.
- Captions are worded anew each time a scene is drawn.

Two processes of one thread each hold half of every batch and average their gradients once a step: beside other work this
loses far less than two threads that wait for each other in every operation.
"""
import argparse
import copy
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from captions import plain, varied
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from scenes import sample
from text import WIDTH, new_encoder
from tokenizer import ids
from transformers import CLIPTextModel, CLIPTokenizer

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHA_BAR = torch.cumprod(1 - BETAS, 0).float()
SNR = ALPHA_BAR / (1 - ALPHA_BAR)
# Min-SNR-5 at low noise; at high noise the square root of what would weigh the error of the picture itself.
WEIGHT = (SNR.clamp(max=5) / SNR) * ((SNR + 1) / SNR).sqrt()


def new_unet():
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(48, 96, 96), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
    )


@torch.no_grad()
def start_from(folder, encoder, tokenizer):
    """An earlier model's U-Net, taught to read this text encoder.

    Its keys and values are linear in the earlier encoder's states, so the new matrices are the least-squares fit of the
    earlier keys and values from the new encoder's states, token by token over plain captions whose words are one token
    each in both vocabularies: what it knew of colours and shapes is kept.
    """
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    before = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    rng = np.random.default_rng(23)
    relations = {"vertical": ["on top of", "above", "below"], "horizontal": ["to the left of", "to the right of"], "": [None]}
    texts = [""] * 100
    for scene in (sample(rng, single=0.4, row=0) for _ in range(4000)):
        text = plain(scene, rng.choice(relations[scene.axis]), rng.random() < 0.6)
        if len(words.tokenize(text)) == len(tokenizer.tokenize(text)):
            texts.append(text)
    texts = texts[:1600]
    old, new = before(ids(words, texts))[0].flatten(0, 1), encoder(ids(tokenizer, texts))[0].flatten(0, 1)
    ridge = 1e-3 * len(new) * new.var() * torch.eye(WIDTH)
    carried = torch.linalg.solve(new.T @ new + ridge, new.T @ old)  # old ≈ new · carried
    print(f"carried over: {1 - (new @ carried - old).var() / old.var():.3f} of the earlier states' variance", flush=True)
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.weight.copy_(module.weight @ carried.T)
    return unet


class Scenes:
    """The encoded scenes of the run's folder; `refresh` takes in shards written meanwhile."""

    def __init__(self, run):
        self.run, self.scenes, self.latents, self.seen = run, [], torch.empty(0, 4, 16, 16), set()
        self.refresh()

    def refresh(self):
        for path in sorted(self.run.glob("latents-*.pt")):
            if path.name not in self.seen and time.time() - path.stat().st_mtime > 5:
                shard = torch.load(path, weights_only=False)
                self.scenes += shard["scenes"]
                self.latents = torch.cat([self.latents, shard["latents"]])
                self.seen.add(path.name)


def weighted_loss(unet, latents, hidden, t, noise):
    """Per sample [n]: the noise prediction's error, weighted by timestep."""
    a = ALPHA_BAR[t].view(-1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = unet(a.sqrt() * latents + (1 - a).sqrt() * noise, t, hidden).sample
    return WEIGHT[t] * F.mse_loss(predicted.float(), noise, reduction="none").mean((1, 2, 3))


class OrderProbe:
    """How much worse the swapped caption explains a scene than the right one, against no caption at all: 0 is chance."""

    def __init__(self, data, tokenizer, n=96):
        self.tokenizer = tokenizer
        index = [i for i, s in enumerate(data.scenes) if s.is_pair()][:n]
        self.latents, scenes = data.latents[index], [data.scenes[i] for i in index]
        self.texts = {"right": [plain(s) for s in scenes], "swapped": [plain(s.swapped()) for s in scenes], "none": [""] * n}
        self.noise = torch.randn(self.latents.shape, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def __call__(self, unet, encoder):
        out = []
        for t in (500, 700, 850):
            loss = {k: weighted_loss(unet, self.latents, encoder(ids(self.tokenizer, v))[0], torch.full((len(v),), t), self.noise).mean().item() for k, v in self.texts.items()}
            out.append(f"t={t}: {(loss['swapped'] - loss['right']) / max(1e-9, loss['none'] - loss['right']):+.2f} ({loss['none'] - loss['right']:.4f} of {loss['right']:.4f})")
        return ", ".join(out)


def save(run, unet, ema, optimizer, step, spent):
    state = {"net": unet.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
    torch.save(state, run / "unet.tmp")
    (run / "unet.tmp").replace(run / "unet.pt")


def worker(rank, world, args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.set_num_threads(1)
    tokenizer = CLIPTokenizer.from_pretrained(args.run / "tokenizer")
    data = Scenes(args.run)
    encoder = new_encoder(tokenizer).requires_grad_(False)
    encoder.load_state_dict(torch.load(args.run / "text.pt")["encoder"])
    resumed = (args.run / "unet.pt").exists()
    unet = start_from(args.start, encoder, tokenizer) if args.start and not resumed else new_unet()
    # The plain attention is faster here than the fused one, whose backward pass dislikes few queries.
    unet.set_attn_processor(AttnProcessor())
    optimizer = torch.optim.AdamW(unet.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=0.01)
    ema, step, spent = copy.deepcopy(unet), 0, 0.0
    if resumed:
        state = torch.load(args.run / "unet.pt", weights_only=False)
        for part, name in ((unet, "net"), (ema, "ema"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])
        step, spent = state["step"], state["spent"]
    if world > 1:  # all start from the first one's weights
        for p in unet.parameters():
            dist.broadcast(p.data, 0)
    probe = OrderProbe(data, tokenizer) if rank == 0 else None
    torch.manual_seed(17 + rank + 1000 * step)
    rng = np.random.default_rng([17, rank, step])
    begin, saved, mean, first = time.time() - spent, time.time(), None, step
    while True:
        # One clock for all: the share of the time that has passed sets the learning rate.
        clock = torch.tensor([(time.time() - begin) / (60 * args.minutes)], dtype=torch.float64)
        dist.broadcast(clock, 0)
        share = clock.item()
        if share >= 1:
            break
        rate = args.rate * min(1, (step - first + 1) / args.warmup) * (0.01 + 0.99 * min(1, (1 - share) / args.decay))
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = rng.integers(len(data.scenes), size=args.batch)
        scenes = [data.scenes[i] for i in index]
        texts = ["" if rng.random() < 0.1 else varied(s, rng) for s in scenes]
        with torch.no_grad():
            hidden = encoder(ids(tokenizer, texts))[0]
        t = (1000 * torch.rand(args.batch) ** args.bias).long().clamp(max=999)
        latents = data.latents[index]
        loss = weighted_loss(unet, latents, hidden, t, torch.randn_like(latents)).mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        grads = [p.grad for p in unet.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat *= min(1.0, args.clip / (flat.norm().item() / world)) / world
        for g, part in zip(grads, flat.split([g.numel() for g in grads])):
            g.copy_(part.view_as(g))
        optimizer.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_([*ema.parameters()], [*unet.parameters()], 1 - min(args.ema, (1 + step) / (10 + step)))
        mean = loss.item() if mean is None else mean * 0.99 + loss.item() * 0.01
        if rank == 0 and step % 25 == 0:
            print(f"{step} {(time.time() - begin) / 60:.1f} min loss {mean:.4f} rate {rate:.5f} scenes {len(data.scenes)}", flush=True)
        if step % args.probe == 0:
            data.refresh()
            if rank == 0:
                print(f"  order at {probe(ema, encoder)}", flush=True)
        if rank == 0 and time.time() - saved > 150:
            saved = time.time()
            save(args.run, unet, ema, optimizer, step, time.time() - begin)
    if rank == 0:
        save(args.run, unet, ema, optimizer, step, time.time() - begin)
        print(f"done: {step} steps, order at {probe(ema, encoder)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of this training run: tokenizer, text.pt, latents-*.pt")
    parser.add_argument("--start", type=Path, help="folder of an earlier model to start from, its U-Net of the same shape")
    parser.add_argument("--minutes", type=float, required=True, help="of training, over all pieces")
    parser.add_argument("--batch", type=int, default=32, help="samples per process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.6, help="share of the time, at its end, in which the rate falls")
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--bias", type=float, default=0.7, help="timesteps are 1000·u^bias: below 1 they favour high noise")
    parser.add_argument("--probe", type=int, default=400, help="steps between two measurements of the order")
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--port", type=int, default=29511)
    args = parser.parse_args()
    torch.multiprocessing.spawn(worker, (args.processes, args), args.processes)
