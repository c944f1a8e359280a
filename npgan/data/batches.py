"""The batches of an epoch: which images an iteration sees, and how their pixels are scaled.

Letters: N images in a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npgan.backend import Array


def iterations_per_epoch(count: int, batch_size: int) -> int:
    """⌈count / batch_size⌉: the last, shorter batch of an epoch is kept, as in the tutorial."""
    return -(-count // batch_size)


def batch_bounds(iteration: int, count: int, batch_size: int) -> slice:
    """Which part of the epoch's order (``philox.permutation``) is the batch of its iteration 0, 1, …"""
    if not 0 <= iteration < iterations_per_epoch(count, batch_size):
        raise IndexError(f"iteration {iteration} is outside the epoch: {count} images in batches of {batch_size}")
    start = iteration * batch_size
    return slice(start, min(start + batch_size, count))


def scale_pixels(pixels: Array, dtype: Any = np.float32) -> Array:
    """Maps uint8 0 … 255 to −1 … 1, tanh's range: pixels / 127.5 − 1, in ``dtype``. Floats are taken as they are.

    Both ends are exact. The dtype is named because NumPy would divide bytes in float64. Shapes: (N, I) → (N, I).
    Raises ValueError for other integers, for NaN and for infinity.
    """
    dtype_of = getattr(pixels, "dtype", type(pixels).__name__)
    if getattr(dtype_of, "kind", "") == "f":
        if not bool(np.isfinite(pixels).all()):
            raise ValueError("the data hold NaN or infinity")
        return pixels.astype(dtype)
    if dtype_of != np.uint8:
        raise ValueError(f"the data must be an array of uint8 pixels or of floats, got {dtype_of}")
    return np.divide(pixels, 127.5, dtype=dtype) - 1
