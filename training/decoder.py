"""Goes on training the autoencoder's decoder alone, for clean edges: RUN/vae-clean. The latents, and so all that the U-Net
learned, stay as they are.

Edges are few of the pixels and all of what one looks at, so they weigh more. The loss is of absolute differences: where
an edge's place is uncertain their minimum is a step at its median place, where squares would blur it. Half of the
latents are the encoder's, half the U-Net's own with the render that they should have become (`drawn.py`), or lie between
those and the encoder's of that render: so the decoder learns to draw straight what the U-Net leaves a little ragged.
"""
import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from torch.nn import functional as F
from vae import batch, psnr

SIDE = 64  # pixels of a crop


def edges(x):
    """[n, 1, h, w] in 0..1: how near an edge of the picture a pixel is."""
    step = F.pad(x.diff(dim=3).abs().amax(1, True), (0, 1)) + F.pad(x.diff(dim=2).abs().amax(1, True), (0, 0, 0, 1))
    return (4 * F.max_pool2d(step, 5, 1, 2)).clamp(max=1)


def prepare(vae, run, scenes):
    """Latents before and after (the same for the encoder's own) and pictures u8, kept in RUN/decoder-pool.pt."""
    path = run / "decoder-pool.pt"
    if not path.exists():
        pictures = batch(np.random.default_rng(4), scenes)
        pairs = [torch.load(p) for p in sorted(run.glob("drawn-*.pt"))]
        drawn = torch.cat([p["targets"] for p in pairs]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            encoded = [torch.cat([vae.encode(x).latent_dist.mean for x in part.split(20)]) for part in (pictures, drawn)]
        byte = lambda x: ((x + 1) * 127.5).round().byte()
        latents = torch.cat([p["latents"] for p in pairs])
        torch.save([(encoded[0], encoded[0], byte(pictures)), (latents, encoded[1], byte(drawn))], path)
    return torch.load(path)


def pick(pool, n, crop, noise):
    """n latents and the pictures they should decode to; crops around a point of an edge, or whole pictures."""
    before, after, pictures = pool
    index = torch.randint(0, len(pictures), (n,))
    x = pictures[index].float() / 127.5 - 1
    share = (2 * torch.rand(n, 1, 1, 1) - 1).clamp(min=0)  # half of them as they are
    z = before[index].lerp(after[index], share)
    z = z + noise * torch.rand(n, 1, 1, 1) * torch.randn_like(z)
    if not crop:
        return z, x
    near = edges(x)[:, 0].flatten(1)
    place = torch.multinomial(near + 1e-4, 1)[:, 0]
    at = lambda p: ((p - SIDE // 2 + torch.randint(-16, 17, (n,))) // 8).clamp(0, (128 - SIDE) // 8).tolist()
    places = list(zip(at(place // 128), at(place % 128)))
    s = SIDE // 8
    z = torch.stack([a[:, i : i + s, j : j + s] for a, (i, j) in zip(z, places)])
    return z, torch.stack([a[:, 8 * i : 8 * i + SIDE, 8 * j : 8 * j + SIDE] for a, (i, j) in zip(x, places)])


def loss_of(y, x):
    weight = 1 + 5 * edges(x)
    across = (y.diff(dim=3) - x.diff(dim=3)).abs().mean() + (y.diff(dim=2) - x.diff(dim=2)).abs().mean()
    return (weight * (y - x).abs()).mean() + across


def worker(rank, world, args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.set_num_threads(1)
    vae = AutoencoderKL.from_pretrained(args.start).float()
    pools = torch.load(args.run / "decoder-pool.pt")
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(parameters, args.rate, betas=(0.9, 0.98), weight_decay=0)
    step, spent = 0, 0.0
    if (args.run / "decoder.pt").exists():
        state = torch.load(args.run / "decoder.pt")
        with torch.no_grad():
            for p, value in zip(parameters, state["parameters"]):
                p.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    torch.manual_seed(31 + rank + 1000 * step)
    begin, saved, mean = time.time() - spent, time.time(), None

    def save():
        state = {"parameters": [p.data for p in parameters], "optimizer": optimizer.state_dict(), "step": step, "spent": time.time() - begin}
        torch.save(state, args.run / "decoder.tmp")
        (args.run / "decoder.tmp").replace(args.run / "decoder.pt")

    while True:
        # One clock for all: the share of the time that has passed sets the learning rate.
        clock = torch.tensor([(time.time() - begin) / (60 * args.minutes)], dtype=torch.float64)
        dist.broadcast(clock, 0)
        if (done := clock.item()) >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        crop = done < args.crops
        n = args.batch if crop else max(2, args.batch // 4)
        parts = [pick(pool, n // 2, crop, args.noise) for pool in pools]
        z, x = (torch.cat(p) for p in zip(*parts))
        with torch.autocast("cpu", torch.bfloat16, enabled=done < 0.9):
            y = vae.decode(z).sample
        loss = loss_of(y.float(), x)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat *= min(1.0, 1 / (flat.norm().item() / world)) / world
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad.copy_(part.view_as(p))
        optimizer.step()
        step += 1
        mean = loss.item() if mean is None else mean * 0.97 + loss.item() * 0.03
        if rank == 0 and step % 20 == 0:
            print(f"{step} {(time.time() - begin) / 60:.1f} min loss {mean:.4f}", flush=True)
        if rank == 0 and time.time() - saved > 100:
            saved = time.time()
            save()
    if rank == 0:
        save()
        vae.save_pretrained(args.run / "vae-clean")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of this training run, with drawn-*.pt")
    parser.add_argument("--start", type=Path, required=True, help="folder of the AutoencoderKL to go on with")
    parser.add_argument("--minutes", type=float, required=True, help="of training, over all pieces")
    parser.add_argument("--batch", type=int, default=8, help="crops per process; a quarter as many whole pictures")
    parser.add_argument("--crops", type=float, default=0.7, help="share of the time with crops")
    parser.add_argument("--noise", type=float, default=0.08, help="largest standard deviation of what is added to the latents")
    parser.add_argument("--scenes", type=int, default=1000, help="rendered and encoded")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--port", type=int, default=29513)
    args = parser.parse_args()
    torch.set_num_threads(1)
    prepare(AutoencoderKL.from_pretrained(args.start).float(), args.run, args.scenes)
    torch.multiprocessing.spawn(worker, (args.processes, args), args.processes)
    print(f"PSNR {psnr(AutoencoderKL.from_pretrained(args.run / 'vae-clean').float()):.2f} dB on held-out scenes")
