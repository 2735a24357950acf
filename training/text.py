"""Teaches the text encoder what captions say, before any picture is drawn.

In a causal encoder the first solid's tokens cannot know the relation that follows; only later tokens can work out which
solid is where, and diffusion's loss says so very faintly: the layout is decided at timesteps where the weight of a wrong
layout in the noise prediction is a hundredth. So the encoder learns it here from captions alone, in minutes: from its
hidden states one cross-attention layer with a query per place (the way the U-Net will read them) must name the colour,
solid and size at each place and the background.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captions import plain, varied
from scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, SLOTS, sample
from tokenizer import ids
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 96
NOTHING = -100  # cross_entropy leaves it out
SHORT = 24  # longer than any caption; the encoder is causal, so cutting the padding changes no state before the cut


def new_encoder(tokenizer):
    """CLIP's text model with random weights; the start and end tokens are the vocabulary's last two."""
    size = len(tokenizer)
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=size, hidden_size=WIDTH, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=WIDTH,
        bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1,
    ))


@torch.no_grad()
def begin_from(folder, encoder, tokenizer):
    """An earlier model's encoder of the same shape: its layers, and its vectors of the tokens both vocabularies have."""
    state = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32).state_dict()
    known, name = CLIPTokenizer.from_pretrained(folder / "tokenizer").get_vocab(), "embeddings.token_embedding.weight"
    vectors = encoder.state_dict()[name].clone()
    for token, i in tokenizer.get_vocab().items():
        if token in known:
            vectors[i] = state[name][known[token]]
    encoder.load_state_dict({**state, name: vectors})


class Reader(nn.Module):
    """Reads the places' contents from hidden states [n, 77, 96]; used in training only."""

    OPTIONS = {"colour": [*COLOURS, None], "shape": [*SHAPES, None], "size": list(SIZES)}

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(SLOTS) + 1, WIDTH) * 0.5)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.heads = nn.ModuleDict({k: nn.Linear(WIDTH, len(v)) for k, v in self.OPTIONS.items()})
        self.background = nn.Linear(WIDTH, len(BACKGROUNDS) + 1)

    def forward(self, hidden):
        """Logits: per place [n, 5, options] by name, and the background's [n, 5]."""
        queries = self.queries.expand(len(hidden), -1, -1)
        read = self.attention(queries, hidden, hidden, need_weights=False)[0]
        out = {k: head(read[:, :-1]) for k, head in self.heads.items()}
        return out, self.background(read[:, -1])


def targets(scenes, texts):
    """Class indices [n, 5] by name (an empty place has no colour and no size) and the background's [n]."""
    out = {k: np.full((len(scenes), len(SLOTS)), NOTHING) for k in Reader.OPTIONS}
    for k in ("colour", "shape"):
        out[k][:] = len(Reader.OPTIONS[k]) - 1
    for i, scene in enumerate(scenes):
        for solid, slot in zip(scene.solids, scene.slots()):
            for k, options in Reader.OPTIONS.items():
                out[k][i, SLOTS.index(slot)] = options.index(getattr(solid, k))
    said = [list(BACKGROUNDS).index(s.background) if "background" in t else len(BACKGROUNDS) for s, t in zip(scenes, texts)]
    return {k: torch.from_numpy(v) for k, v in out.items()}, torch.tensor(said)


def reading_loss(reader, hidden, goal):
    logits, background = reader(hidden)
    loss = F.cross_entropy(background, goal[1])
    for k, v in logits.items():
        loss = loss + F.cross_entropy(v.flatten(0, 1), goal[0][k].flatten(), ignore_index=NOTHING)
    return loss


@torch.no_grad()
def accuracy(encoder, reader, tokenizer, rng, held_out, wording, n=500):
    """The share of captions of which everything is read rightly."""
    scenes = [sample(rng, held_out=held_out) for _ in range(n)]
    texts = [wording(scene, rng) for scene in scenes]
    goal, background_goal = targets(scenes, texts)
    logits, background = reader(encoder(ids(tokenizer, texts)[:, :SHORT])[0])
    right = background.argmax(-1) == background_goal
    for k, v in logits.items():
        right &= ((v.argmax(-1) == goal[k]) | (goal[k] == NOTHING)).all(1)
    return right.float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of this training run, with its tokenizer")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--start", type=Path, help="folder of an earlier model to start from")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    tokenizer = CLIPTokenizer.from_pretrained(args.run / "tokenizer")
    encoder, reader = new_encoder(tokenizer), Reader()
    both = [*encoder.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(both, args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    done = 0
    if (args.run / "text.pt").exists():
        state = torch.load(args.run / "text.pt")
        encoder.load_state_dict(state["encoder"])
        reader.load_state_dict(state["reader"])
        done = state.get("step", 0)
        rng = np.random.default_rng([3, done])
    elif args.start:
        begin_from(args.start, encoder, tokenizer)
    begin = time.time()
    for step in range(done + 1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (step - done) / 50) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / args.steps)))
        scenes = [sample(rng, single=0.2) for _ in range(args.batch)]
        texts = [varied(scene, rng) for scene in scenes]
        loss = reading_loss(reader, encoder(ids(tokenizer, texts)[:, :SHORT])[0], targets(scenes, texts))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both, 1.0)
        optimizer.step()
        if step % 50 == 0:
            seen, unseen = (accuracy(encoder, reader, tokenizer, np.random.default_rng(9), h, varied, 200) for h in (False, True))
            print(f"{step} {time.time() - begin:.0f} s loss {loss.item():.4f} right: trained {seen:.3f}, held out {unseen:.3f}", flush=True)
            state = {"encoder": encoder.state_dict(), "reader": reader.state_dict(), "step": step}
            torch.save(state, args.run / "text.pt")
    plain_unseen = accuracy(encoder, reader, tokenizer, rng, True, lambda scene, _: plain(scene))
    print(f"plain wording, held out: {plain_unseen:.3f}")
