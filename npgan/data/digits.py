"""The embedded data set: handwritten-looking digits drawn from a seed, so that training needs no download.

A digit is one of the ``FORMS`` below: pen strokes, each a smooth curve through a few points. Every image bends the form
in its own way (``TRAITS``), is then scaled to a box of about 20×20 pixels, placed by its center of mass in the 28×28
frame as MNIST does, and inked: a pixel's gray follows from its distance to the pen's path.

All arithmetic is IEEE addition, multiplication, division and square root on numbers from ``uniform``, one operation per
NumPy call. There is no sine, no BLAS and no library random number, so every machine draws the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from npgan.nn.philox import Stream, uniform

Stroke = tuple[tuple[int, int], ...]

SIDE = 28  # pixels in a row and in a column


class Form(NamedTuple):
    """One way to write a digit. ``share``: how often, relative to the digit's other forms.

    A stroke lists the points (x, y) that the pen passes through, in hundredths of a box, x to the right and y down.
    Strokes that share a point meet there in a corner, and stay joined: equal points get equal jitter.
    """

    label: int
    share: int
    strokes: tuple[Stroke, ...]


FORMS = (
    # 0: an oval closed at the top; one whose end overshoots its start; one left open
    Form(0, 5, (((52, 2), (20, 20), (10, 58), (38, 97), (76, 84), (90, 44), (52, 2)),)),
    Form(0, 3, (((64, 5), (26, 14), (8, 58), (36, 97), (78, 78), (86, 30), (64, 5), (40, 9)),)),
    Form(0, 2, (((42, 6), (16, 30), (12, 66), (42, 98), (78, 80), (88, 36), (60, 2)),)),
    # 1: a bare stroke; a stroke with a flag; flag and base
    Form(1, 7, (((50, 0), (50, 50), (50, 100)),)),
    Form(1, 2, (((32, 20), (44, 11), (54, 0)), ((54, 0), (53, 50), (52, 100)))),
    Form(1, 1, (((30, 22), (44, 12), (54, 0)), ((54, 0), (53, 50), (53, 98)), ((28, 98), (53, 98), (78, 97)))),
    # 2: straight base; a loop at the lower left; a small loop and a wavy base
    Form(2, 4, (((14, 22), (40, 2), (76, 14), (74, 42), (44, 74), (10, 97)), ((10, 97), (50, 94), (92, 94)))),
    Form(2, 4, (((16, 20), (46, 2), (76, 20), (66, 52), (34, 86), (12, 90), (20, 72), (48, 84), (92, 96)),)),
    Form(2, 2, (((12, 28), (38, 4), (72, 10), (76, 38), (48, 72), (8, 94)), ((8, 94), (34, 84), (64, 96), (94, 86)))),
    # 3: two bowls that meet in a cusp; one stroke with a loop at the waist; a flat top
    Form(3, 5, (((16, 12), (48, 2), (76, 18), (66, 40), (38, 47)), ((38, 47), (74, 58), (80, 82), (48, 98), (12, 88)))),
    Form(3, 2, (((18, 10), (54, 2), (76, 20), (58, 42), (36, 50), (44, 40), (76, 60), (76, 86), (44, 98), (12, 90)),)),
    Form(3, 1, (((18, 6), (48, 5), (80, 4)), ((80, 4), (60, 26), (44, 42)), ((44, 42), (82, 58), (70, 92), (14, 92)))),
    # 4: open, the bar crossing the stem; open and rounded; closed at the top
    Form(4, 5, (((20, 6), (14, 34), (16, 54)), ((16, 54), (48, 54), (90, 48)), ((74, 2), (70, 50), (64, 100)))),
    Form(4, 3, (((18, 4), (14, 34), (32, 54), (60, 48), (78, 26)), ((82, 2), (78, 26), (72, 60), (68, 100)))),
    Form(4, 2, (((66, 2), (36, 32), (8, 62)), ((8, 62), (50, 62), (94, 58)), ((66, 2), (64, 50), (62, 100)))),
    # 5: the bar as a stroke of its own; in one go from the right; nearly an S
    Form(5, 4, (((30, 6), (26, 24), (20, 44)), ((20, 44), (54, 38), (82, 62), (58, 94), (10, 93)), ((30, 6), (88, 2)))),
    Form(5, 3, (((86, 4), (34, 8)), ((34, 8), (27, 28), (22, 46)), ((22, 46), (62, 46), (76, 72), (50, 96), (10, 90)))),
    Form(5, 2, (((86, 6), (56, 4), (34, 18), (34, 40), (60, 56), (68, 78), (42, 98), (12, 88)),)),
    # 6: a curved stem that runs into the bowl; a straight stem with a small bowl
    Form(6, 5, (((68, 2), (38, 26), (18, 62), (32, 94), (62, 94), (78, 70), (56, 52), (24, 72)),)),
    Form(6, 3, (((54, 0), (32, 34), (22, 74), (42, 98), (68, 86), (66, 62), (44, 62), (24, 82)),)),
    # 7: plain; with a curved stem; with a serif; with a bar across the stem
    Form(7, 4, (((12, 10), (46, 8), (84, 6)), ((84, 6), (62, 50), (44, 100)))),
    Form(7, 3, (((10, 14), (42, 6), (82, 8)), ((82, 8), (70, 34), (48, 62), (42, 100)))),
    Form(7, 2, (((14, 28), (15, 18), (16, 8)), ((16, 8), (48, 10), (84, 4)), ((84, 4), (64, 46), (52, 100)))),
    Form(7, 2, (((12, 10), (48, 7), (84, 6)), ((84, 6), (60, 50), (42, 100)), ((32, 54), (56, 50), (80, 48)))),
    # 8: one stroke that starts at the upper right; one that starts at the waist; two rings
    Form(8, 4, (((78, 14), (48, 2), (22, 22), (48, 46), (76, 74), (48, 98), (20, 76), (46, 48), (76, 24), (78, 14)),)),
    Form(8, 3, (((50, 48), (22, 24), (50, 2), (78, 22), (50, 48), (18, 76), (50, 98), (82, 76), (50, 48)),)),
    Form(8, 2, (((54, 2), (24, 22), (50, 46), (78, 24), (54, 2)), ((50, 46), (18, 74), (48, 98), (80, 74), (50, 46)))),
    # 9: straight stem; stem from the ring in one curve; a tail that hooks to the left
    Form(9, 4, (((74, 18), (44, 4), (20, 26), (36, 48), (66, 38), (74, 18)), ((74, 18), (70, 60), (64, 100)))),
    Form(9, 3, (((72, 12), (42, 6), (22, 32), (42, 50), (68, 30), (74, 10), (70, 46), (56, 76), (44, 100)),)),
    Form(9, 2, (((76, 20), (48, 2), (22, 24), (42, 48), (76, 20)), ((76, 20), (78, 56), (62, 92), (24, 94)))),
)

# What varies from image to image: mean and standard deviation of a bell that ends at three standard deviations.
TRAITS = {
    "aspect": (0.94, 0.14),  # width over height of the box
    "slant": (0.18, 0.20),  # shift to the right per unit of height
    "turn": (0.0, 0.06),  # tangent of half the angle of rotation
    "roundness": (0.56, 0.05),  # of the curves: 0 is a polygon, 0.5 Catmull and Rom's spline, 0.56 an octagon's circle
    "wobble": (0.038, 0.009),  # standard deviation of each point of the form, in units of the box
    "taper": (0.0, 0.20),  # the foot wider than the head
    "waist": (0.0, 0.22),  # the middle moved down
    "bow": (0.0, 0.14),  # the middle moved to the right
    "sag": (0.0, 0.12),  # the middle lower than the sides
    "size": (19.6, 0.45),  # pixels, the longer side with its ink
    "shift_x": (0.0, 0.5),  # pixels
    "shift_y": (0.0, 0.5),  # pixels
    "pen": (1.30, 0.29),  # pixels, half the stroke's width
    "pressure": (0.0, 0.10),  # gain of the pen's width from the path's middle to its end
    "blur": (1.10, 0.12),  # pixels from full ink to none
}
MARGIN = 1.6  # pixels inside the frame's edge that stay black, but for the ink's soft rim

_FORM_SITE = len(TRAITS)  # sites of the random numbers: the traits, the choice of form, then the points' wobble
_WOBBLE_SITE = _FORM_SITE + 1
_SAMPLES_PER_BOX = 28  # at 20 pixels a box the discs lie 0.7 pixels apart: their union has no visible scallops
_BLOCK = 512  # images drawn at once: 60,000 take 1.5 s with 64, 0.7 s with 256, 0.55 s with 512 or more
_FAR = 1e6  # a squared distance that no ink reaches


def render(count: int, seed: int, *, split: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws ``count`` digits: images uint8 (count, 28, 28), white ink on black, and labels uint8 (count,).

    A pure function of ``seed`` and ``split`` (0: training set, 1: test set, ...): image i does not depend on ``count``.
    Labels are i mod 10, so that the classes are balanced; shuffle before use. Raises ValueError when a number is
    negative, ``split`` is 2³² or more, or ``seed`` is 2⁶⁴ or more.
    """
    wobble_sites = 2 * max(len(_points(form)) for form in FORMS)
    traits = {
        name: mean + deviation * _bell(seed, split, site, count)
        for site, (name, (mean, deviation)) in enumerate(TRAITS.items())
    }
    wobble = np.stack([_bell(seed, split, _WOBBLE_SITE + k, count) for k in range(wobble_sites)])
    choice = uniform(seed, Stream.DIGITS, split, _FORM_SITE, (count,))

    images = np.empty((count, SIDE, SIDE), dtype=np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    for form, first, last in _form_ranges():
        members = np.flatnonzero((labels == form.label) & (first <= choice) & (choice < last))
        for start in range(0, len(members), _BLOCK):
            block = members[start : start + _BLOCK]
            hand = {name: values[block] for name, values in traits.items()}
            x, y = _trace(form, hand, wobble[:, block])
            x, y = _place(*_bend(x, y, hand), hand)
            images[block] = _ink(x, y, hand).transpose(2, 0, 1)
    return images, labels


def _bell(seed: int, split: int, site: int, count: int) -> np.ndarray:
    """float32 (count,): mean 0, deviation 1, at most 3 from 0. The sum of three uniforms is near enough to a normal."""
    u = uniform(seed, Stream.DIGITS, split, site, (count, 3))
    return 2.0 * (u[:, 0] + u[:, 1] + u[:, 2] - 1.5)


def _form_ranges() -> Iterator[tuple[Form, float, float]]:
    """Each form with the part of [0, 1) that chooses it among the forms of its digit."""
    totals = [sum(form.share for form in FORMS if form.label == label) for label in range(10)]
    taken = [0] * 10
    for form in FORMS:
        first = taken[form.label]
        taken[form.label] += form.share
        yield form, first / totals[form.label], taken[form.label] / totals[form.label]


def _points(form: Form) -> list[tuple[int, int]]:
    """The form's different points, in the order in which the pen first meets them."""
    return list(dict.fromkeys(point for stroke in form.strokes for point in stroke))


def _trace(form: Form, hand: dict[str, np.ndarray], wobble: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pen's path: x and y, each float32 (S, n) for S samples and n images, in units of the box.

    ``wobble`` (2P or more, n): standard normal-like numbers. A stroke is a cardinal spline: between two points a cubic
    Hermite curve whose tangent at a point is ``roundness`` times the chord of its neighbors.
    """
    where = {
        point: [point[axis] / 100 + hand["wobble"] * wobble[2 * k + axis] for axis in (0, 1)]
        for k, point in enumerate(_points(form))
    }
    xy: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for stroke in form.strokes:
        closed = stroke[0] == stroke[-1]
        before_first, after_last = (stroke[-2], stroke[1]) if closed else (stroke[0], stroke[-1])
        path = (before_first, *stroke, after_last)
        for p0, p1, p2, p3 in zip(path, path[1:], path[2:], path[3:], strict=False):
            steps = 1 + int(_SAMPLES_PER_BOX * math.sqrt((p2[0] - p1[0]) ** 2 + (p2[1] - p1[1]) ** 2) / 100)
            t = (np.arange(steps + 1, dtype=np.float32) / steps)[:, None]
            rise = t * t * (3 - 2 * t)  # the Hermite basis: from 0 to 1, then the tangents' two bumps
            leave, arrive = t * (1 - t) * (1 - t), t * t * (t - 1)
            for axis in (0, 1):
                a0, a1, a2, a3 = (where[p][axis] for p in (p0, p1, p2, p3))
                curve = leave * (a2 - a0) + arrive * (a3 - a1)
                xy[axis].append(a1 + rise * (a2 - a1) + hand["roundness"] * curve)
    return np.concatenate(xy[0]), np.concatenate(xy[1])


def _bend(x: np.ndarray, y: np.ndarray, hand: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One writer's proportions and slant: a smooth map of the plane, the same for all strokes of an image."""
    u, v = x - 0.5, y - 0.5
    bump_x, bump_y = 0.25 - u * u, 0.25 - v * v
    bent_u = hand["aspect"] * (u * (1 + hand["taper"] * v) + hand["bow"] * bump_y) - hand["slant"] * v
    bent_v = v + hand["waist"] * bump_y + hand["sag"] * bump_x
    t = hand["turn"]  # a rotation without sines: cos = (1 - t²)/(1 + t²), sin = 2t/(1 + t²)
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    return cosine * bent_u - sine * bent_v, sine * bent_u + cosine * bent_v


def _place(x: np.ndarray, y: np.ndarray, hand: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Box units to pixels: the longer side gets its size, the path's mean goes to the middle, the ink stays inside."""
    pen = hand["pen"]
    extent = np.maximum(x.max(axis=0) - x.min(axis=0), y.max(axis=0) - y.min(axis=0))
    scale = (hand["size"] - 2 * pen) / extent
    low, high = MARGIN + pen, SIDE - MARGIN - pen
    placed = []
    for path, shift in ((x, hand["shift_x"]), (y, hand["shift_y"])):
        pixels = scale * path
        total = pixels[0].copy()
        for row in pixels[1:]:  # in a fixed order: NumPy may sum in another one on another machine
            total += row
        pixels += SIDE / 2 + shift - total / len(pixels)
        pixels += np.maximum(low - pixels.min(axis=0), 0) - np.maximum(pixels.max(axis=0) - high, 0)
        placed.append(pixels)
    return placed[0], placed[1]


def _ink(x: np.ndarray, y: np.ndarray, hand: dict[str, np.ndarray]) -> np.ndarray:
    """The drawing: uint8 (28, 28, n) from the path's samples x and y, each (S, n), in pixels.

    Every sample is a disc of the pen's radius there. A pixel takes the least distance to a sample, in radii, and turns
    it to gray by a ramp of width ``blur`` around 1. Images are the last axis so that every operation runs over a full
    row of the block; a sample touches only the window of pixels that its discs can reach in some image of the block.
    """
    samples, n = x.shape
    along = np.linspace(-1, 1, samples, dtype=np.float32)[:, None]
    radius = hand["pen"] * (1 + hand["pressure"] * along)
    weight = 1 / (radius * radius)
    reach = (radius * (1 + 0.5 * hand["blur"] / hand["pen"])).max(axis=1)
    centers = np.arange(SIDE, dtype=np.float32)[:, None] + 0.5
    left, right = _window(x, reach)
    top, bottom = _window(y, reach)

    nearest = np.full((SIDE, SIDE, n), _FAR, dtype=np.float32)
    for s in range(samples):
        columns, rows = slice(left[s], right[s]), slice(top[s], bottom[s])
        dx, dy = centers[columns] - x[s], centers[rows] - y[s]
        squared = (dy * dy * weight[s])[:, None] + (dx * dx * weight[s])[None]
        np.minimum(nearest[rows, columns], squared, out=nearest[rows, columns])

    gray = np.sqrt(nearest, out=nearest)
    np.subtract(1, gray, out=gray)
    gray *= 255 * hand["pen"] / hand["blur"]
    gray += 127.5 + 0.5  # the ramp's middle, and a half so that the cast rounds
    return np.clip(gray, 0, 255, out=gray).astype(np.uint8)


def _window(path: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First pixel and the one after the last, int (S,) each, that lie within ``reach`` (S,) of the samples (S, n)."""
    first = np.floor(path.min(axis=1) - reach).astype(int)
    last = np.ceil(path.max(axis=1) + reach).astype(int)
    return np.clip(first, 0, SIDE), np.clip(last, 0, SIDE)
