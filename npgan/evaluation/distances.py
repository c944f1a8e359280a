"""Distances between many images, in blocks of rows: the largest array is a block, never all pairs.

Letters: N queries, M points, F numbers each (784 pixels, or a classifier's features).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from npgan.backend import Array

BLOCK_BYTES = 1 << 26  # 64 MB of distances: at 10,000 points 1,677 queries at a time


def squared_distances(x: Array, points: Array) -> Iterator[tuple[slice, Array]]:
    """For one block of queries after the other, which they are and their ‖x_n − p_m‖² (block, M), all ≥ 0.

    Shapes: x (N, F), points (M, F), one floating dtype, which the distances have too. The array is the caller's to change.

    ‖x − p‖² = ‖x‖² + ‖p‖² − 2x·p turns almost all of the work into a matrix product. What it costs is that large squares
    cancel; so the points' mean is taken off both first, which leaves distances as they are and makes the squares small.
    """
    if x.shape[1:] != points.shape[1:]:
        raise ValueError(f"cannot compare rows of {x.shape[1:]} numbers with rows of {points.shape[1:]}")
    center = points.mean(axis=0, dtype=np.float64).astype(points.dtype)
    points = points - center
    points_squared = np.square(points).sum(axis=1)
    block = max(1, BLOCK_BYTES // (points.dtype.itemsize * len(points)))
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        part = x[rows] - center
        distances = np.matmul(part, points.T)
        distances *= -2.0
        distances += points_squared
        distances += np.square(part).sum(axis=1)[:, None]
        yield rows, np.maximum(distances, 0.0, out=distances)


def nearest(x: Array, points: Array, itself: Array | None = None) -> tuple[Array, Array]:
    """Each query's distance to its nearest point and that point's index. Shapes: x (N, F), points (M, F) → (N,), (N,).

    ``itself`` (N,): where in ``points`` each query is found again, a place that then does not count.
    """
    distances, indices = [], []
    for rows, part in squared_distances(x, points):
        if itself is not None:
            part[np.arange(len(part), like=part), itself[rows]] = np.inf
        distances.append(np.sqrt(part.min(axis=1)))
        indices.append(part.argmin(axis=1))
    return np.concatenate(distances), np.concatenate(indices)


def radii(x: Array, k: int) -> Array:
    """Each row's distance to its k-th nearest other row. Shapes: x (N, F), N > k → (N,)."""
    parts = [np.partition(part, k, axis=1)[:, k] for _, part in squared_distances(x, x)]  # place 0 is the row itself
    return np.sqrt(np.concatenate(parts))


def in_balls(x: Array, points: Array, radius: Array) -> Iterator[Array]:
    """For one block of queries after the other, which lie in whose ball. Shapes: x (N, F), points (M, F), radius (M,) → bool
    (block, M)."""
    limit = np.square(radius)
    return (part <= limit for _, part in squared_distances(x, points))
