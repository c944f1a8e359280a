"""What layers and losses refuse, each with one line: who, what it got, what it wanted. All raise ValueError."""

from __future__ import annotations

import numpy as np

from npgan.backend import Array


def whole_numbers(who: str, low: int, *values: object) -> None:
    """Unless all are integers from ``low`` on."""
    kinds = int, np.integer
    if any(not isinstance(value, kinds) or isinstance(value, bool) or value < low for value in values):
        raise ValueError(f"{who}({', '.join(map(repr, values))}): wanted whole numbers from {low} on")


def rows_of_floats(who: object, array: Array, rows: int | None = None, width: int | None = None) -> None:
    """Unless ``array`` is (rows, width) of floats; None stands for any number above 0. ``who`` is a layer."""
    dtype, shape = getattr(array, "dtype", None), tuple(getattr(array, "shape", ()))
    fits = len(shape) == 2 and min(shape) > 0 and (rows or shape[0], width or shape[1]) == shape
    if dtype is None or dtype.kind not in "fc" or not fits:
        got = type(array).__name__ if dtype is None else f"{dtype} of shape {shape}"
        raise ValueError(
            f"{who!r}: got {got}, wanted floats of shape ({rows or 'N'}, {width or 'any'}), at least one row"
        )


def finite(who: object, array: Array) -> None:
    """Unless all numbers are finite."""
    if not bool(np.isfinite(array).all()):
        raise ValueError(f"{who!r}: got an input with NaN or infinity, wanted finite numbers")


def same_shape(loss: str, output: Array, target: Array) -> None:
    """Unless output and target have one shape, with at least one element: NumPy would make (N, 1) and (N,) an (N, N)."""
    if output.shape != target.shape or not output.size:
        raise ValueError(f"{loss}: got a target of shape {target.shape} for an output of shape {output.shape}")


def labels(loss: str, output: Array, label: Array) -> None:
    """Unless ``label`` holds one class for every row of ``output`` (N, K): integers from 0 to K − 1."""
    rows, classes = output.shape
    if label.shape != (rows,) or label.dtype.kind not in "iu" or not rows:
        raise ValueError(f"{loss}: got labels {label.dtype} of shape {label.shape}, wanted integers of shape ({rows},)")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"{loss}: got a label {wrong}, wanted numbers from 0 to {classes - 1}")
