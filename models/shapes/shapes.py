"""Pictures of coloured shapes with their captions, and a judge that says what a picture shows.

Pictures are f32 [32, 32, 3] in 0..1. A caption reads `a [SIZE] COLOUR SHAPE [on GROUND] [in STYLE]`.
"""
import colorsys
import dataclasses

import numpy as np
from scipy import ndimage

SIDE = 32
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "pink": 300}   # hues in degrees
SIZES = {"small": (5.5, 7.5), "big": (9.5, 11.5)}                                          # half widths in pixels
GROUNDS = {"white": 0.95, "gray": 0.5, "black": 0.05}
NIGHT = np.array([0.06, 0.03, 0.20])                                                       # the ground of neon
WORDS = ("a", "on", "in", "flat", "neon", *SHAPES, *COLOURS, *SIZES, *GROUNDS)


@dataclasses.dataclass(frozen=True)
class Scene:
    shape: str
    colour: str
    size: str = ""
    ground: str = ""
    style: str = ""

    def caption(self):
        on = f" on {self.ground}" if self.ground else ""
        within = f" in {self.style}" if self.style else ""
        return " ".join(f"a {self.size} {self.colour} {self.shape}".split()) + on + within


def distance(shape, x, y, r):
    """Signed distance, roughly, of points to the outline of a shape about the origin; negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.88 * r
    if shape == "triangle":
        return np.maximum(y - 0.8 * r, (abs(x) * 0.87 - (y + r * 0.9) * 0.5) * 1.0)
    if shape == "cross":
        arm = lambda a, b: np.maximum(abs(a) - r, abs(b) - 0.33 * r)
        return np.minimum(arm(x, y), arm(y, x))
    return abs(np.hypot(x, y) - 0.72 * r) - 0.28 * r


def draw(scene, rng):
    """A picture of the scene; what the scene leaves open is drawn by lot."""
    low, high = SIZES[scene.size or rng.choice(list(SIZES))]
    r = rng.uniform(low, high)
    cx, cy = (SIDE / 2 + rng.uniform(-1, 1) * (SIDE / 2 - r - 2) for _ in range(2))
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    d = distance(scene.shape, x - cx, y - cy, r)
    hue = (COLOURS[scene.colour] + rng.uniform(-8, 8)) % 360 / 360
    if scene.style == "neon":
        tube = np.exp(-(d / 1.1) ** 2)[..., None]
        glow = (0.55 * np.exp(-abs(d) / 3.0))[..., None]
        bright = np.array(colorsys.hsv_to_rgb(hue, 0.75, 1.0))
        ground = NIGHT * (1.2 - 0.4 * (y / SIDE))[..., None]
        picture = ground * (1 - tube) + bright * np.maximum(tube, glow)
    else:
        ground = GROUNDS[scene.ground or rng.choice(list(GROUNDS))] + rng.uniform(-0.04, 0.04)
        cover = np.clip(0.5 - d, 0, 1)[..., None]
        paint = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.8, 0.95), rng.uniform(0.8, 0.95)))
        picture = ground * (1 - cover) + paint * cover
    return np.clip(picture, 0, 1).astype(np.float32)


def scenes(n, rng, style, shapes=SHAPES, colours=tuple(COLOURS)):
    """Scenes with parts left open at random."""
    maybe = lambda names, share: str(rng.choice(list(names))) if rng.random() < share else ""
    return [Scene(str(rng.choice(shapes)), str(rng.choice(colours)), maybe(SIZES, 0.5),
                  maybe(GROUNDS, 0.6) if style != "neon" else "", style) for _ in range(n)]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a picture shows; `shape` is empty where nothing fits."""
    shape: str
    colour: str
    style: str

    def agrees(self, scene):
        return self.shape == scene.shape and self.colour == scene.colour


def judge(picture):
    """Reads a picture: the figure is what differs from the border, its shape the ideal that overlaps it most."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ground = np.median(border, axis=0)
    far = np.linalg.norm(picture - ground, axis=2)
    if far.max() < 0.2:
        return Verdict("", "", "")
    line = far > 0.5 * np.quantile(far, 0.98)
    labels, count = ndimage.label(line, np.ones((3, 3)))
    sizes = ndimage.sum_labels(line, labels, np.arange(count + 1))
    line = (sizes > 0.15 * sizes[1:].max())[labels] & line
    colour = picture[line].mean(axis=0) - 0.5 * picture[line].mean(axis=0).min()
    hue = colorsys.rgb_to_hsv(*colour)[0] * 360
    named = min(COLOURS, key=lambda name: min((hue - COLOURS[name]) % 360, (COLOURS[name] - hue) % 360))
    rows, columns = np.flatnonzero(line.any(1)), np.flatnonzero(line.any(0))
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    fits = []
    for shape in SHAPES:
        for cx, cy, r in candidates(rows, columns):
            d = distance(shape, x - cx, y - cy, r)
            fits += [(overlap(line, d < 0), shape), (overlap(line, abs(d) < 1.3), shape)]
    fit, shape = max(fits)
    night = ground[2] - ground[0] > 0.06 and ground.max() < 0.4
    return Verdict(shape if fit > 0.55 else "", named, "neon" if night else "flat")


def overlap(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def candidates(rows, columns):
    """Centres and half widths to try for a figure that fills these rows and columns."""
    cy, cx = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
    r = max(rows[-1] - rows[0], columns[-1] - columns[0]) / 2 + 0.5
    return [(cx, cy + dy, r * k) for k in (0.8, 0.87, 0.94, 1.0, 1.07, 1.14) for dy in (-1, -0.5, 0, 0.5, 1)]
