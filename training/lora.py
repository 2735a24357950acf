"""Trains a LoRA that teaches the tiny model a new solid, the moon: low-rank changes of the U-Net's and the text encoder's
layers (Hu et al. 2021, arXiv:2106.09685), from rendered scenes of which three in five have a moon."""
import argparse
from pathlib import Path

import numpy as np
import scenes
import torch
from captions import varied
from safetensors.torch import save_file
from taught import SOLID, Training, add_low_rank, add_solid, choose, encoded, low_rank, obeys, opened, timesteps
from tokenizer import ids
from unet import weighted_loss

UNET = r".*\.(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2)"
TEXT = r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", type=Path, help="a diffusers folder")
parser.add_argument("out", type=Path, help="the file to write")
parser.add_argument("--minutes", type=float, default=10)
parser.add_argument("--batch", type=int, default=24)
parser.add_argument("--scenes", type=int, default=1024)
parser.add_argument("--rank", type=int, default=3)
parser.add_argument("--rate", type=float, default=2e-3)
parser.add_argument("--prompts", type=int, default=100, help="to judge by, before and after")
args = parser.parse_args()

torch.manual_seed(31)
rng = np.random.default_rng(31)
pipe = opened(args.model)
add_solid()
print("before:", obeys(pipe, SOLID, args.prompts), flush=True)

wanted = [choose(rng, SOLID, 0.6) for _ in range(args.scenes)]
latents = encoded(pipe.vae, [scenes.render(scene, rng) for scene in wanted])
networks = {"unet": (pipe.unet, UNET), "text_encoder": (pipe.text_encoder, TEXT)}
for net, layers in networks.values():
    add_low_rank(net, layers, args.rank)
training = Training((p for net, _ in networks.values() for p in net.parameters() if p.requires_grad), args.rate, args.minutes)
while training.left():
    index = rng.integers(len(wanted), size=args.batch)
    texts = ["" if rng.random() < 0.1 else varied(wanted[i], rng) for i in index]
    hidden = pipe.text_encoder(ids(pipe.tokenizer, texts))[0]
    noise = torch.randn(args.batch, *latents.shape[1:])
    training.step(weighted_loss(pipe.unet, latents[index], hidden, timesteps(args.batch), noise).mean())

training.round()
tensors = {}
for prefix, (net, _) in networks.items():
    for name, change in low_rank(net).items():
        tensors[f"{prefix}.{name}.lora_A.weight"] = change.down.data.half()
        tensors[f"{prefix}.{name}.lora_B.weight"] = change.up.data.half()
save_file(tensors, args.out, {"format": "pt"})
print("after:", obeys(pipe, SOLID, args.prompts), args.out.stat().st_size, "bytes")
