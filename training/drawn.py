"""The model's own latents and what they should have become: RUN/drawn-*.pt, for `decoder.py`.

Prompts of the training part are drawn; `edges.fit` finds where the renderer would have put the solids, and its render
is what a decoder should make of those latents. Pictures that are not as asked are left out.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
from captions import plain
from diffusers import StableDiffusionPipeline
from edges import fit
from judge import judge
from scenes import sample

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", type=Path, help="folder of this training run")
parser.add_argument("--model", type=Path, required=True, help="a diffusers folder")
parser.add_argument("--pictures", type=int, default=1000, help="how many in all")
parser.add_argument("--shard", type=int, default=40, help="how many in one file")
args = parser.parse_args()

torch.set_num_threads(1)
torch.set_grad_enabled(False)
pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
args.run.mkdir(parents=True, exist_ok=True)
for shard in range(args.pictures // args.shard):
    path = args.run / f"drawn-{shard:02}.pt"
    if path.exists():
        continue
    rng = np.random.default_rng(7000 + shard)
    scenes = [sample(rng) for _ in range(args.shard)]
    generator = torch.Generator().manual_seed(7000 + shard)
    with torch.autocast("cpu", torch.bfloat16):
        latents = pipe([plain(s) for s in scenes], num_inference_steps=20, guidance_scale=2.0, generator=generator, output_type="latent").images
    latents = latents.float() / pipe.vae.config.scaling_factor
    decoded = ((pipe.vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).byte().numpy()
    kept, targets = [], []
    for i, (scene, picture) in enumerate(zip(scenes, decoded)):
        verdict = judge(picture, scene)
        if verdict.everything() and verdict.background:
            kept.append(i)
            targets.append(fit(picture)[0].astype(np.uint8))
    torch.save({"latents": latents[kept], "targets": torch.from_numpy(np.stack(targets))}, path)
    print(path.name, len(kept), flush=True)
