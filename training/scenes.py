"""Procedural scenes: shaded solids on a plain background (one, a pair, or a row of two or three alike), and what is in them.

`sample(rng)` chooses what a scene holds, `render(scene, rng)` draws it. Wording is `captions.py`'s business, so one
picture can be described in many ways.
"""
from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 70), "blue": (45, 85, 220), "yellow": (240, 205, 50),
    "purple": (145, 60, 190), "orange": (245, 135, 35), "white": (240, 240, 240), "black": (35, 35, 40),
}
BACKGROUNDS = {"gray": (128, 128, 132), "pink": (250, 190, 205), "teal": (60, 150, 150), "cream": (250, 240, 215)}
SHAPES = ["sphere", "cube", "cone", "star", "ring", "cylinder", "pyramid", "heart"]
SIZES = {"small": 17.0, "": 27.0, "large": 42.0}
# Where a solid can stand: a pair fills (top, bottom) or (left, right), a single one the centre, a row left to right.
SLOTS = ["top", "bottom", "left", "right", "centre"]
SIDE = 128
PAIR_RADIUS, ROW_RADIUS = 22.0, 17.0
YY, XX = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5


@dataclass(frozen=True)
class Solid:
    colour: str
    shape: str
    size: str = ""


@dataclass(frozen=True)
class Scene:
    background: str
    solids: tuple[Solid, ...]  # one (centre); the top/left one and then the bottom/right one; or a row of the same one
    axis: str = ""  # "vertical" or "horizontal" for a pair, "row" for two or three of a kind

    def slots(self):
        """The slot of each solid, in the order of `solids`."""
        row = ("left", "right") if len(self.solids) == 2 else ("left", "centre", "right")
        return {"": ("centre",), "vertical": ("top", "bottom"), "horizontal": ("left", "right"), "row": row}[self.axis]

    def is_pair(self):
        return self.axis in ("vertical", "horizontal")

    def swapped(self):
        """The same two solids, each where the other one was."""
        return Scene(self.background, self.solids[::-1], self.axis)

    def is_held_out(self):
        """Whether training must not see this scene: a tenth of colour × shape × slot (size, for a single solid)."""
        for solid, slot in zip(self.solids, self.slots()):
            colour, shape = list(COLOURS).index(solid.colour), SHAPES.index(solid.shape)
            place = SLOTS.index(slot) if self.axis else 4 + list(SIZES).index(solid.size)
            if (3 * colour + 7 * shape + 5 * place + 4) % 10 == 0:
                return True
        return False


def sample(rng, single=0.25, held_out=False, row=0.2):
    """A random scene outside the held-out part, or inside it. A white solid is not put on cream: it would vanish.

    `single` and `row` are the shares of scenes with one solid and with several alike.
    """
    pick = lambda options: options[rng.integers(len(options))]
    while True:
        background = pick(list(BACKGROUNDS))
        kind = rng.random()
        if kind < row:
            solid = Solid(pick(list(COLOURS)), pick(SHAPES))
            scene = Scene(background, (solid,) * (2 + rng.integers(2)), "row")
        elif kind < row + single:
            scene = Scene(background, (Solid(pick(list(COLOURS)), pick(SHAPES), pick(["small", "", "large"])),))
        else:
            a, b = rng.choice(list(COLOURS), 2, replace=False)
            scene = Scene(background, (Solid(str(a), pick(SHAPES)), Solid(str(b), pick(SHAPES))), pick(["vertical", "horizontal"]))
        vanishes = background == "cream" and any(s.colour == "white" for s in scene.solids)
        if not vanishes and scene.is_held_out() == held_out:
            return scene


def coverage(distance):
    """Of each pixel, from its signed distance to the edge in pixels (negative inside)."""
    return np.clip(0.5 - distance, 0, 1)


def polygon(points):
    """Approximate signed distance to a convex polygon, clockwise in image coordinates."""
    distance = np.full((SIDE, SIDE), -1e9, np.float32)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]):
        nx, ny = y1 - y0, x0 - x1
        distance = np.maximum(distance, ((XX - x0) * nx + (YY - y0) * ny) / np.hypot(nx, ny))
    return distance


def draw(image, shape, colour, cx, cy, r):
    """Paint one solid of radius r (pixels) around (cx, cy) over the image [128, 128, 3], in place."""
    c = np.array(COLOURS[colour], np.float32)

    def put(cover, value):
        image[:] = image * (1 - cover[..., None]) + np.clip(value, 0, 255) * cover[..., None]

    if shape == "sphere":
        nx, ny = (XX - cx) / r, (YY - cy) / r
        nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))
        light = np.clip(-0.45 * nx - 0.6 * ny + 0.66 * nz, 0, 1)[..., None]
        put(coverage(np.hypot(XX - cx, YY - cy) - r), c * (0.45 + 0.55 * light) + 70 * light**18)
    elif shape == "cube":
        h = r * 0.92
        w = h * 0.866
        top = [(cx, cy - h), (cx + w, cy - h / 2), (cx, cy), (cx - w, cy - h / 2)]
        left = [(cx - w, cy - h / 2), (cx, cy), (cx, cy + h), (cx - w, cy + h / 2)]
        right = [(cx, cy), (cx + w, cy - h / 2), (cx + w, cy + h / 2), (cx, cy + h)]
        put(coverage(polygon([top[0], top[1], right[2], right[3], left[3], top[3]])), c * 0.75)
        for face, shade in ((top, c + 25), (left, c * 0.78), (right, c * 0.52)):
            put(coverage(polygon(face)), shade)
    elif shape == "cone":
        h = r * 0.95
        foot = cy + h * 0.72
        side = polygon([(cx, cy - h), (cx + h * 0.85, foot), (cx - h * 0.85, foot)])
        base = np.hypot(XX - cx, (YY - foot) / 0.3) - h * 0.85
        shade = 1.0 - 0.5 * np.clip((XX - cx) / (h * 0.85) * 0.5 + 0.5, 0, 1)
        put(np.maximum(coverage(side), coverage(base * 0.5)), c * shade[..., None] + 10)
    elif shape == "star":
        k = 2 * np.pi / 5
        angle = np.abs((np.arctan2(XX - cx, cy - YY) + k / 2) % k - k / 2)
        radius = np.hypot(XX - cx, YY - cy)
        x1, y1 = 0.42 * r * np.cos(k / 2), 0.42 * r * np.sin(k / 2)
        nx, ny = y1, r - x1
        put(coverage(((radius * np.cos(angle) - r) * nx + radius * np.sin(angle) * ny) / np.hypot(nx, ny)), c)
    elif shape == "cylinder":
        w, h, tilt = r * 0.66, r * 0.72, 0.32  # half the width and height, and how flat the lid is
        ellipse = lambda y: (np.hypot(XX - cx, (YY - y) / tilt) - w) * (tilt + 1) / 2
        side = np.maximum(np.abs(XX - cx) - w, np.abs(YY - cy) - h)
        shade = 1.0 - 0.5 * np.clip((XX - cx) / w * 0.5 + 0.5, 0, 1)
        put(np.maximum(coverage(side), coverage(ellipse(cy + h))), c * shade[..., None] + 5)
        put(coverage(ellipse(cy - h)), c + 25)
    elif shape == "pyramid":
        h, w = r * 0.95, r * 0.9
        top, left, front, right = (cx, cy - h), (cx - w, cy + h * 0.5), (cx + w * 0.25, cy + h * 0.85), (cx + w, cy + h * 0.4)
        put(coverage(polygon([top, right, front, left])), c * 0.75)
        put(coverage(polygon([top, front, left])), c + 10)
        put(coverage(polygon([top, right, front])), c * 0.5)
    elif shape == "heart":
        cover = 0
        for dx, dy in ((i, j) for i in (-0.375, -0.125, 0.125, 0.375) for j in (-0.375, -0.125, 0.125, 0.375)):
            x, y = (XX + dx - cx) / (r * 0.82), (cy - YY - dy) / (r * 0.82) + 0.12
            cover = cover + ((x * x + y * y - 1) ** 3 < x * x * y**3) / np.float32(16)
        put(cover, c)
    elif shape == "ring":
        put(coverage(np.abs(np.hypot(XX - cx, YY - cy) - r * 0.74) - r * 0.24), c)
    else:
        raise ValueError(f"no solid is called {shape}")


def canvas(background):
    """The background alone: a plain colour, a little lighter at the top."""
    shade = (1.03 - 0.06 * (YY / SIDE))[..., None]
    return np.ones((SIDE, SIDE, 3), np.float32) * np.array(BACKGROUNDS[background], np.float32) * shade


def render(scene, rng):
    """The scene as u8 [128, 128, 3], each solid a little off its place and size."""
    image = canvas(scene.background)
    jitter = lambda width: rng.uniform(-width, width)
    if scene.axis == "row":
        n = len(scene.solids)
        radius = (PAIR_RADIUS if n == 2 else ROW_RADIUS) * rng.uniform(0.92, 1.08)
        apart = 58 if n == 2 else 41
        for i, solid in enumerate(scene.solids):
            x = (i - (n - 1) / 2) * apart + jitter(2)
            draw(image, solid.shape, solid.colour, 64 + x, 64 + jitter(4), radius)
    elif scene.axis:
        # Drawn one after the other, in an order that says nothing about the relation.
        radius = PAIR_RADIUS * rng.uniform(0.92, 1.08)
        along, across = (27 if scene.axis == "vertical" else 29), 4
        for i in rng.permutation(2):
            offset = (2 * i - 1) * along + jitter(2)
            x, y = (jitter(across), offset) if scene.axis == "vertical" else (offset, jitter(across))
            draw(image, scene.solids[i].shape, scene.solids[i].colour, 64 + x, 64 + y, radius)
    else:
        solid = scene.solids[0]
        radius = SIZES[solid.size] * rng.uniform(0.92, 1.08)
        draw(image, solid.shape, solid.colour, 64 + jitter(10), 64 + jitter(10), radius)
    return np.clip(image, 0, 255).astype(np.uint8)
