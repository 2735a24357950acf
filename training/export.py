"""Writes the trained model as a complete diffusers folder in f16."""
import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from text import new_encoder
from transformers import CLIPTokenizer
from unet import new_unet

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", type=Path, help="folder of the training run")
parser.add_argument("model", type=Path, help="folder to write")
parser.add_argument("--vae", type=Path, required=True, help="folder of the trained AutoencoderKL")
parser.add_argument("--weights", choices=["ema", "net"], default="ema", help="the averaged weights, or the last ones")
args = parser.parse_args()

state = torch.load(args.run / "unet.pt", weights_only=False)
tokenizer = CLIPTokenizer.from_pretrained(args.run / "tokenizer", model_max_length=77, pad_token="<|endoftext|>")
encoder, unet = new_encoder(tokenizer), new_unet()
encoder.load_state_dict(torch.load(args.run / "text.pt")["encoder"])
unet.load_state_dict(state[args.weights])
# DDIM: PNDM's fourth-order extrapolation overshoots at 20 steps, see README.
scheduler = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
    steps_offset=1, timestep_spacing="leading",
)
pipe = StableDiffusionPipeline(
    vae=AutoencoderKL.from_pretrained(args.vae), text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
    safety_checker=None, feature_extractor=None, requires_safety_checker=False,
)
shutil.rmtree(args.model, ignore_errors=True)
pipe.to(torch.float16).save_pretrained(args.model)
for name in ("vocab.json", "merges.txt"):  # what tokenizer.json holds already
    (args.model / "tokenizer" / name).unlink(missing_ok=True)
for config in args.model.glob("*/config.json"):  # where a part was loaded from is nobody's concern
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
size = sum(f.stat().st_size for f in args.model.rglob("*") if f.is_file())
print(f"{args.model}: {size / 1e6:.2f} MB after {state['step']} steps")
if size > 9e6:
    raise SystemExit("larger than 9 MB")
