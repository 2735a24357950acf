"""Are the edges clean? Compares each solid's outline with a true one's, at the place where the picture has it.

`fit(picture)` finds where the renderer would have put the solids that `judge.see` names, by least squares, and renders
them there. Profiles of picture and render are then taken across the true outline, one about every pixel:

- width: pixels over which the picture goes from 10 to 90 % of the step from outside to inside (a true edge: about 1),
- offset: pixels from the true outline to where the picture passes 50 % (ragged outlines spread it; true: 0),
- halo: how far the profile goes beyond its ends, as a share of the step (ringing).

A point of the outline is clean if its width is at most 0.5 pixels more than the true one's and its offset at most 0.5:
at 4× zoom, two pixels of the screen. Corners and faint steps, where the true profile is no step itself, are left out.
It knows the renderer and no network. As a program it measures itself on renders, clean, blurred and ragged; and then
a model: held-out scenes through the autoencoder, and pictures drawn from held-out prompts.
"""
import argparse
import json
from functools import cache
from pathlib import Path

import numpy as np
from judge import see
from scenes import SIDE, canvas, draw, render, sample

REACH = np.arange(-3.5, 3.51, 0.125)  # pixels along the normal, negative inside
ENDS = np.abs(REACH) >= 2.5
FAINT = 60.0  # RGB length of a step that is too small to measure


@cache
def extent(shape):
    """(centre x, centre y, area) of a solid's visible box, per pixel of radius and radius squared."""
    alpha = silhouette([(shape, "red", 64.0, 64.0, 40.0)])
    ys, xs = np.nonzero(alpha > 0.5)
    return ((xs.min() + xs.max()) / 2 + 0.5 - 64) / 40, ((ys.min() + ys.max()) / 2 + 0.5 - 64) / 40, alpha.sum() / 1600


def silhouette(solids):
    """How much of each pixel the solids (shape, colour, x, y, radius) cover [128, 128]."""
    black, white = np.zeros((SIDE, SIDE, 3), np.float32), np.full((SIDE, SIDE, 3), 255, np.float32)
    for solid in solids:
        draw(black, *solid)
        draw(white, *solid)
    return 1 - (white - black)[..., 0] / 255


def place(picture, ground, solid):
    """The solid (shape, colour, x, y, radius) moved and scaled to match the picture: Gauss-Newton near it."""
    shape, colour, *at = solid
    at, reach = np.array(at), solid[4] + 8
    window = tuple(slice(int(max(0, c - reach)), int(min(SIDE, c + reach))) for c in (at[1], at[0]))

    def drawn(at):
        image = ground.copy()
        draw(image, shape, colour, *at)
        return image[window].ravel()

    target = picture[window].astype(np.float32).ravel()
    for _ in range(6):
        now = drawn(at)
        slopes = np.stack([(drawn(at + 0.25 * e) - now) / 0.25 for e in np.eye(3)], 1)
        wrong = np.clip(target - now, -60, 60)  # so that shading gone astray does not pull
        move = np.linalg.solve(slopes.T @ slopes + 1e-3 * np.eye(3), slopes.T @ wrong)
        at = at + np.clip(move, -2, 2)
        at[2] = np.clip(at[2], 8, 60)
        if np.abs(move).max() < 0.02:
            break
    return (shape, colour, *at)


def fit(picture):
    """(render [128, 128, 3] of what the picture shows, the background's name, the solids as `place` gives them)."""
    background, seen = see(picture)
    ground, solids = canvas(background), []
    for s in seen:
        dx, dy, area = extent(s.shape)
        r = np.sqrt(s.area / area)
        solids.append(place(picture, ground, (s.shape, s.colour, s.x + 0.5 - dx * r, s.y + 0.5 - dy * r, r)))
    image = ground.copy()
    for solid in solids:
        draw(image, *solid)
    return np.clip(image, 0, 255), background, solids


def outline(solid):
    """Points [n, 2] (x, y in pixels) of a solid's outline and their outward normals [n, 2]."""
    alpha = np.pad(silhouette([solid]), 2)
    points = []
    for axis in (0, 1):
        a, b = (alpha[:-1], alpha[1:]) if axis == 0 else (alpha[:, :-1], alpha[:, 1:])
        ys, xs = np.nonzero((a > 0.5) != (b > 0.5))
        share = (0.5 - a[ys, xs]) / (b[ys, xs] - a[ys, xs])
        points.append(np.stack([xs + (share if axis else 0), ys + (0 if axis else share)], 1))
    points = np.concatenate(points)
    smooth = sum(w * np.roll(alpha, s, 0) for s, w in zip((-2, -1, 0, 1, 2), (1, 4, 6, 4, 1))) / 16
    smooth = sum(w * np.roll(smooth, s, 1) for s, w in zip((-2, -1, 0, 1, 2), (1, 4, 6, 4, 1))) / 16
    slope = np.stack([(np.roll(smooth, 1, 1) - np.roll(smooth, -1, 1)), (np.roll(smooth, 1, 0) - np.roll(smooth, -1, 0))], 2)
    normals = bilinear(slope, points)
    return points - 2, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)


def bilinear(values, points):
    """values [h, w, c] at points [..., 2], (x, y) counted from the centre of the first pixel."""
    h, w = values.shape[:2]
    x, y = np.clip(points[..., 0], 0, w - 1.001), np.clip(points[..., 1], 0, h - 1.001)
    i, j = y.astype(int), x.astype(int)
    fy, fx = (y - i)[..., None], (x - j)[..., None]
    top, bottom = (values[i + k, j] * (1 - fx) + values[i + k, j + 1] * fx for k in (0, 1))
    return top * (1 - fy) + bottom * fy


def profiles(image, points, normals):
    """[n, REACH]: 1 inside and 0 outside, each scaled to its own ends; and the length [n] of the step in RGB."""
    rows = bilinear(image.astype(np.float32), points[:, None] + REACH[:, None] * normals[:, None])
    inner, outer = rows[:, ENDS & (REACH < 0)].mean(1), rows[:, ENDS & (REACH > 0)].mean(1)
    step = inner - outer
    length = np.linalg.norm(step, axis=1)
    along = ((rows - outer[:, None]) * step[:, None]).sum(2) / np.maximum(length, 1)[:, None] ** 2
    return along, length


def crossings(rows):
    """Where each profile passes 90, 50 and 10 % [n, 3]: 50 nearest to the outline, the others next to that."""
    out = np.full((len(rows), 3), np.nan)
    for row, found in zip(rows, out):
        down = np.nonzero((row[:-1] >= 0.5) & (row[1:] < 0.5))[0]
        if not len(down):
            continue
        k = down[np.argmin(np.abs(REACH[down]))]
        exact = lambda i, level: REACH[i] + 0.125 * (row[i] - level) / (row[i] - row[i + 1])
        before, after = np.nonzero(row[: k + 1] >= 0.9)[0], np.nonzero(row[k + 1 :] <= 0.1)[0]
        if len(before) and len(after):
            found[:] = exact(before[-1], 0.9), exact(k, 0.5), exact(k + after[0], 0.1)
    return out


def measure(picture):
    """Per point of the outlines: width, true width, offset, halo [n, 4]. NaN where the picture shows no step at all."""
    true, _, solids = fit(picture)
    out = [np.zeros((0, 4))]
    for solid in solids:
        points, normals = outline(solid)
        inside = ((points > 4) & (points < SIDE - 5)).all(1)
        points, normals = points[inside], normals[inside]
        ideal, length = profiles(true, points, normals)
        edge = crossings(ideal)
        flat = np.abs(ideal - (REACH < 0))[:, np.abs(REACH) > 1.5].max(1) < 0.15
        use = (length > FAINT) & flat & (edge[:, 2] - edge[:, 0] < 2) & (np.abs(edge[:, 1]) < 0.5)
        real, _ = profiles(picture, points[use], normals[use])
        seen, edge = crossings(real), edge[use]
        halo = np.maximum(real.max(1) - 1, -real.min(1)) - np.maximum(ideal[use].max(1) - 1, -ideal[use].min(1))
        out.append(np.stack([seen[:, 2] - seen[:, 0], edge[:, 2] - edge[:, 0], seen[:, 1] - edge[:, 1], halo], 1))
    return np.concatenate(out)


def summary(pictures):
    """What the points of all pictures have in common."""
    points = np.concatenate([measure(p) for p in pictures])
    width, true, offset, halo = points.T
    clean = (width < true + 0.5) & (np.abs(offset) < 0.5)  # false for NaN
    return {k: round(float(v), 3) for k, v in {
        "clean": clean.mean(), "width": np.nanmedian(width), "true width": np.median(true), "width 90 %": np.nanquantile(width, 0.9),
        "offset rms": np.sqrt(np.nanmean(offset**2)), "halo": np.nanmean(np.maximum(halo, 0)), "no step": np.isnan(width).mean(),
        "points": len(width),
    }.items()}


def ragged(picture, rng):
    """Each pixel taken from up to a pixel and a half away, by waves a few pixels long: an outline that wobbles."""
    at = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), 2).astype(float)
    for axis in (0, 1):
        phase = rng.uniform(0, 2 * np.pi, 2)
        at[..., axis] += 0.75 * (np.sin(at[..., 0] / 1.6 + phase[0]) + np.sin(at[..., 1] / 1.6 + phase[1]))
    return bilinear(picture.astype(np.float32), at).round().astype(np.uint8)


def blurred(picture):
    """The mean of 3×3 pixels."""
    padded = np.pad(picture.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    return (sum(padded[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)) / 9).round().astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", help="a diffusers folder; without one, the measure alone is measured")
    parser.add_argument("--pictures", type=int, default=100)
    args = parser.parse_args()
    rng = np.random.default_rng(55)
    scenes = [render(sample(rng, held_out=True), rng) for _ in range(args.pictures)]
    for name, pictures in ("rendered", scenes), ("blurred", map(blurred, scenes)), ("ragged", (ragged(p, rng) for p in scenes)):
        print(f"{name}:", json.dumps(summary(pictures)), flush=True)
    if args.model:
        import torch
        from diffusers import StableDiffusionPipeline
        from obedience import draw as generate
        from obedience import prompts

        torch.set_num_threads(1)
        pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            pixels = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1
            back = torch.cat([pipe.vae.decode(pipe.vae.encode(x).latent_dist.mean).sample for x in pixels.split(20)])
            back = ((back.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).byte().numpy()
        print("reconstructed:", json.dumps(summary(back)), flush=True)
        asked = [text for _, text in prompts(args.pictures)]
        drawn = []
        for i in range(0, len(asked), 20):
            part = asked[i : i + 20]
            drawn.extend(generate(pipe, part, range(i, i + len(part)), steps=20, guidance=2.0))
        print("drawn:", json.dumps(summary(drawn)), flush=True)
