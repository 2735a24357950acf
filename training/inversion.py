"""Trains a textual inversion of a colour that the tiny model has no word for: vectors that stand for `turquoise` in prompts
(Gal et al. 2022, arXiv:2208.01618), from rendered scenes with a solid of that colour. All else stays as it is."""
import argparse
from pathlib import Path

import numpy as np
import scenes
import torch
from captions import varied
from safetensors.torch import save_file
from taught import COLOUR, Training, add_colour, choose, encoded, obeys, opened, timesteps
from tokenizer import ids
from torch import nn
from torch.nn.utils import parametrize
from unet import weighted_loss


class Words(nn.Module):
    """A table of tokens whose last rows are trained."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, table):
        return torch.cat([table[: -len(self.rows)], self.rows])


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", type=Path, help="a diffusers folder")
parser.add_argument("out", type=Path, help="the file to write; its stem is the word")
parser.add_argument("--vectors", type=int, default=2)
parser.add_argument("--start", nargs="+", default=["green", "blue"], help="words to start from, one after the other")
parser.add_argument("--minutes", type=float, default=5)
parser.add_argument("--batch", type=int, default=24)
parser.add_argument("--scenes", type=int, default=512)
parser.add_argument("--rate", type=float, default=1e-2)
parser.add_argument("--prompts", type=int, default=100, help="to judge by, before and after")
args = parser.parse_args()

torch.manual_seed(32)
rng = np.random.default_rng(32)
pipe = opened(args.model)
add_colour()
print("before:", obeys(pipe, COLOUR, args.prompts), flush=True)

words = [f"<{COLOUR}-{k}>" for k in range(args.vectors)]
pipe.tokenizer.add_tokens(words)
pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
spelled = lambda text: text.replace(COLOUR, " ".join(words))
starts = pipe.tokenizer.convert_tokens_to_ids([f"{args.start[k % len(args.start)]}</w>" for k in range(args.vectors)])
table = pipe.text_encoder.get_input_embeddings()
own = Words(table.weight.data[starts].clone())
pipe.unet.requires_grad_(False)
pipe.text_encoder.requires_grad_(False)
parametrize.register_parametrization(table, "weight", own)

wanted = [choose(rng, COLOUR, 1.0) for _ in range(args.scenes)]
latents = encoded(pipe.vae, [scenes.render(scene, rng) for scene in wanted])
training = Training(own.parameters(), args.rate, args.minutes)
while training.left():
    index = rng.integers(len(wanted), size=args.batch)
    hidden = pipe.text_encoder(ids(pipe.tokenizer, [spelled(varied(wanted[i], rng)) for i in index]))[0]
    noise = torch.randn(args.batch, *latents.shape[1:])
    training.step(weighted_loss(pipe.unet, latents[index], hidden, timesteps(args.batch), noise).mean())

training.round()
save_file({"emb_params": own.rows.data.half()}, args.out)
print("after:", obeys(pipe, COLOUR, args.prompts, spelled), args.out.stat().st_size, "bytes")
