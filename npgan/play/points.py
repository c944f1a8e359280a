"""The lab's data: points in the plane, about from −1 to 1, and how far apart two sets of them are.

Letters: N points of one set, M of the other, K modes. Draws are of the data sets' own stream, so a seed gives one data set.
"""

from __future__ import annotations

import numpy as np

from npgan.evaluation.distances import squared_distances
from npgan.nn import philox

POINTS = 2048  # in a data set
SHAPES = ("eight Gaussians", "ring", "two moons", "line", "drawn")
RADIUS = 0.7  # of the ring, and of the circle on which the Gaussians' centers lie
SPREAD = 0.03  # standard deviation of the noise around each shape
_AROUND = np.arange(8) * (np.pi / 4)
MODES = RADIUS * np.stack([np.cos(_AROUND), np.sin(_AROUND)], axis=1)  # (8, 2)
_WITHIN = 3.0  # standard deviations from a mode within which a point counts as one of its own
_LEAST = 0.25  # of its fair share of the points: from there on a mode counts as found


def points_of(shape: str, seed: int, drawn: np.ndarray | None = None) -> np.ndarray:
    """The data set (POINTS, 2), float32. ``drawn`` (N, 2): what "drawn" is made of, each point many times."""
    u = philox.uniform(seed, philox.Stream.DIGITS, 0, 0, (POINTS, 2), np.float64)
    along, side = u[:, 0], u[:, 1] < 0.5
    angle = 2.0 * np.pi * along
    if shape == "eight Gaussians":
        centers = MODES[(8.0 * along).astype(int)]
    elif shape == "ring":
        centers = RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    elif shape == "two moons":  # half circles, the second turned round and moved into the first
        x, y = np.cos(np.pi * along), np.sin(np.pi * along)
        centers = 0.55 * np.stack([np.where(side, x, 1.0 - x) - 0.5, np.where(side, y, 0.5 - y) - 0.25], axis=1)
    elif shape == "line":
        centers = (2.0 * along - 1.0)[:, None] * np.array([0.8, 0.5])
    elif drawn is not None and len(drawn):
        centers = drawn[(len(drawn) * along).astype(int)]
    else:
        raise ValueError(f"there is no shape {shape!r} without drawn points")
    noise = philox.normal(seed, philox.Stream.DIGITS, 0, 1, (POINTS, 2), np.float64)
    return (centers + SPREAD * noise).astype(np.float32)


def modes_found(x: np.ndarray) -> tuple[int, float]:
    """How many of the eight Gaussians have points x (N, 2), and the share of points that lie on one.

    On one is within 3 standard deviations of its center; a Gaussian has points when at least a quarter of its fair share N/8
    lies on it.
    """
    distances = np.linalg.norm(x[:, None].astype(np.float64) - MODES, axis=2)
    on_one = distances.min(axis=1) <= _WITHIN * SPREAD
    counts = np.bincount(distances.argmin(axis=1)[on_one], minlength=len(MODES))
    return int(np.sum(counts >= _LEAST * len(x) / len(MODES))), float(on_one.mean())


def mean_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The mean over all pairs of ‖x_n − y_m‖. Shapes: x (N, 2), y (M, 2)."""
    total = sum(float(np.sqrt(part).sum()) for _, part in squared_distances(x, y))
    return total / (len(x) * len(y))


def energy_distance(x: np.ndarray, y: np.ndarray, within_y: float) -> float:
    """2·E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖: 0 only for equal distributions. Székely and Rizzo 2013.

    Shapes: x (N, 2), y (M, 2). ``within_y``: ``mean_distance(y, y)``, which a caller whose y stays can keep.
    """
    return 2.0 * mean_distance(x, y) - mean_distance(x, x) - within_y
