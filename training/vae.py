"""The autoencoder: trains it (--minutes) or measures one (--measure), in PSNR on scenes it has not seen.

Learned by failure: GroupNorm of many small groups loses flat colours (one group does not); the posterior's log-variance
must start low (−7) or its noise drowns the first thousand steps; 64×64 crops teach as much as whole pictures for a
quarter of the price and are used for the first 70 %.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from scenes import render, sample
from torch import nn


def new_vae():
    """SD 1's structure (factor 8, 4 latent channels) at a sixty-fourth of its channels squared: 1.0 M parameters."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64), layers_per_block=1, latent_channels=4, norm_num_groups=1, sample_size=128,
    )
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -7
    return vae


def batch(rng, n, held_out=False):
    """n pictures [n, 3, 128, 128] in [-1, 1]."""
    pictures = np.stack([render(sample(rng, held_out=held_out), rng) for _ in range(n)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(vae, x):
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    across = (y.diff(dim=3) - x.diff(dim=3)).abs().mean() + (y.diff(dim=2) - x.diff(dim=2)).abs().mean()
    return (y - x).abs().mean() + ((y - x) ** 2).mean() + 0.2 * across + 1e-6 * posterior.kl().mean()


@torch.no_grad()
def psnr(vae, n=64):
    """In dB over n held-out scenes, 8-bit."""
    rng, errors = np.random.default_rng(99), []
    for _ in range(n // 16):
        x = batch(rng, 16, held_out=True)
        y = vae.decode(vae.encode(x).latent_dist.mean).sample
        byte = lambda z: ((z.clamp(-1, 1) + 1) * 127.5).round()
        errors.append(((byte(x) - byte(y)) ** 2).mean())
    return (10 * torch.log10(255**2 / torch.stack(errors).mean())).item()


def train(run, minutes):
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    vae, pool = new_vae(), batch(rng, 3000)
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=0)
    begin, step, done = time.time(), 0, 0.0
    if (run / "vae.pt").exists():
        state = torch.load(run / "vae.pt")
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        step, begin = state["step"], time.time() - state["spent"]
    while (done := (time.time() - begin) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * done)))
        crops = done < 0.7
        x = pool[torch.randint(0, len(pool), (24 if crops else 8,))]
        if crops:
            top, left = (8 * torch.randint(0, 9, (2,))).tolist()
            x = x[:, :, top : top + 64, left : left + 64]
        loss = loss_of(vae, x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(f"{step} {time.time() - begin:.0f} s loss {loss.item():.4f}", flush=True)
            state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": time.time() - begin}
            torch.save(state, run / "vae.pt")
    with torch.no_grad():
        spread = torch.cat([vae.encode(batch(rng, 16)).latent_dist.mean for _ in range(8)]).std()
    vae.register_to_config(scaling_factor=1 / spread.item())
    vae.save_pretrained(run / "vae")
    return vae


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of this training run")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--measure", type=Path, help="folder of an AutoencoderKL: measure it and train nothing")
    args = parser.parse_args()
    torch.set_num_threads(2)
    vae = AutoencoderKL.from_pretrained(args.measure).float() if args.measure else train(args.run, args.minutes)
    print(f"PSNR {psnr(vae):.2f} dB on held-out scenes")
