"""Silhouettes and outlines of solids. Run as a program it writes the silhouettes of all solids side by side, black on white, by
which `sd-tiny/tests/trained` knows them, and outlines for examples."""
import argparse
from pathlib import Path

import numpy as np
import scenes
from PIL import Image
from scenes import SIDE

# What the outlines of an example are of: solids, and where and how large each is.
EXAMPLES = {
    "star": [("star", 44, 50, 34)],
    "cube": [("cube", 82, 76, 38)],
    "pair": [("heart", 34, 50, 18), ("sphere", 92, 56, 22)],
}


def silhouette(shape, cx, cy, r):
    """Pixels of a solid."""
    image = np.full((SIDE, SIDE, 3), 255, np.float32)
    scenes.draw(image, shape, "black", cx, cy, r)
    return image.max(2) < 190


def grown(mask):
    """The mask with its neighbours."""
    padded = np.pad(mask, 1)
    return np.max([padded[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)], 0)


def outline(mask):
    """Lines of two pixels along the edge, white on black, u8 [128, 128, 3]."""
    line = grown(mask) & grown(~mask)
    return np.repeat((255 * line).astype(np.uint8)[..., None], 3, 2)


if __name__ == "__main__":
    from taught import add_solid

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("outlines", type=Path, help="an existing folder for the outlines")
    args = parser.parse_args()
    add_solid()
    row = [silhouette(shape, 64, 64, 60) for shape in scenes.SHAPES]
    Image.fromarray(~np.concatenate(row, 1)).save(args.out, optimize=True)
    for name, solids in EXAMPLES.items():
        mask = np.max([silhouette(*solid) for solid in solids], 0)
        Image.fromarray(outline(mask)[..., 0] > 0).save(args.outlines / f"{name}.png", optimize=True)
