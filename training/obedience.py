"""The benchmark: does the model draw what the prompt says? Held-out prompts, drawn by diffusers, judged by judge.py."""
import argparse
import json
from collections import Counter
from pathlib import Path

import diffusers
import numpy as np
import torch
from captions import ABOVE, BELOW, LEFT, RIGHT, plain, varied
from diffusers import StableDiffusionPipeline
from judge import judge, see
from PIL import Image
from scenes import Scene, Solid, sample

SHOWPIECE = Scene("gray", (Solid("red", "cube"), Solid("blue", "sphere")), "vertical")


def prompts(n, held_out=True, wording=None, row=0):
    """n scenes training never saw (four of five with two solids, or the share `row` with several alike); plainly worded,
    every relation in turn, or by `wording`."""
    rng = np.random.default_rng(2024)
    relations = {"vertical": ABOVE[:2] + BELOW[:1], "horizontal": [LEFT[0], RIGHT[0]], "": [None], "row": [None]}
    out = []
    while len(out) < n:
        scene = sample(rng, single=0.2, held_out=held_out, row=row)
        if wording:
            out.append((scene, wording(scene, rng)))
            continue
        choices = relations[scene.axis]
        out.append((scene, plain(scene, choices[len(out) % len(choices)])))
    return out


def draw(pipe, texts, seeds, steps, guidance):
    """Pictures u8 [n, 128, 128, 3], each as it comes out alone from its seed."""
    generators = [torch.Generator("cpu").manual_seed(int(s)) for s in seeds]
    out = pipe(list(texts), num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np").images
    return (out * 255).round().astype("uint8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a diffusers folder")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=20, help="of the showpiece, a red cube on top of a blue sphere")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0, help="2 is the model's default")
    parser.add_argument("--scheduler", help="a diffusers class; without one, the folder's own")
    parser.add_argument("--karras", action="store_true", help="that scheduler with Karras' noise levels")
    parser.add_argument("--trained", action="store_true", help="prompts from the trained part instead of the held-out one")
    parser.add_argument("--rows", type=float, default=0, help="share of prompts with two or three alike, as in two red cubes")
    parser.add_argument("--varied", action="store_true", help="synonyms and free word order instead of the plain wording")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--sheet", type=Path, help="write the first 64 pictures here")
    args = parser.parse_args()

    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if args.scheduler:
        options = {"use_karras_sigmas": True} if args.karras else {}
        pipe.scheduler = getattr(diffusers, args.scheduler).from_config(pipe.scheduler.config, **options)
    asked = prompts(args.prompts, held_out=not args.trained, wording=varied if args.varied else None, row=args.rows)
    counts, pairs, pictures, failures = Counter(), Counter(), [], []
    for i in range(0, len(asked), args.batch):
        part = asked[i : i + args.batch]
        for (scene, text), picture in zip(part, draw(pipe, [t for _, t in part], range(i, i + len(part)), args.steps, args.guidance)):
            verdict = judge(picture, scene)
            row = dict(colours=verdict.colours, shapes=verdict.shapes, relation=verdict.relation, background=verdict.background, all=verdict.everything())
            counts.update({k: int(v) for k, v in row.items()})
            if scene.is_pair():
                pairs.update({**{k: int(v) for k, v in row.items()}, "n": 1})
            pictures.append(picture)
            if not row["all"]:
                failures.append((len(pictures) - 1, text, [(s.colour, s.shape) for s in see(picture)[1]]))
    n = len(asked)
    print(json.dumps({"model": args.model.name, "prompts": n, **{k: round(v / n, 4) for k, v in counts.items()}}))
    if pairs["n"]:
        print("two solids:", json.dumps({k: round(v / pairs["n"], 4) for k, v in pairs.items() if k != "n"}), pairs["n"])
    for failure in failures[:12]:
        print("  not as asked:", failure)
    shown = 0
    for i in range(0, args.seeds, args.batch):
        seeds = range(i, min(i + args.batch, args.seeds))
        drawn = draw(pipe, ["a red cube on top of a blue sphere"] * len(seeds), seeds, args.steps, args.guidance)
        shown += sum(judge(picture, SHOWPIECE).everything() for picture in drawn)
        pictures = list(drawn[:8]) + pictures
    print(f"a red cube on top of a blue sphere: {shown} of {args.seeds} seeds")
    if args.sheet:
        tiles = pictures[: len(pictures[:64]) // 8 * 8]
        Image.fromarray(np.concatenate([np.concatenate(tiles[r : r + 8], 1) for r in range(0, len(tiles), 8)])).save(args.sheet)
