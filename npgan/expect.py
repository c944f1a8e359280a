"""What layers and losses refuse, each with one line: who, what it got, what it wanted. All raise ValueError."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np

from npgan.backend import Array


def whole_numbers(who: str, low: int, *values: object) -> None:
    """Unless all are integers from ``low`` on."""
    kinds = int, np.integer
    if any(not isinstance(value, kinds) or isinstance(value, bool) or value < low for value in values):
        raise ValueError(f"{who}({', '.join(map(repr, values))}): wanted whole numbers from {low} on")


def share(who: str, name: str, value: object) -> None:
    """Unless ``value`` is a number from 0 up to, and without, 1. NaN is none."""
    if not _is_number(value) or not 0.0 <= value < 1.0:
        raise ValueError(f"{who}({value!r}): the {name} must be at least 0 and below 1")


def rates(lr: float, beta1: float, beta2: float, epsilon: float) -> None:
    """Unless they can be Adam's."""
    given = lr, beta1, beta2, epsilon
    above = all(_is_number(each) for each in given) and 0.0 < lr < np.inf and 0.0 < epsilon < np.inf
    if not above or not (0.0 <= beta1 < 1.0 and 0.0 <= beta2 < 1.0):
        raise ValueError(f"Adam: wanted lr > 0, 0 ≤ β₁, β₂ < 1 and ε > 0, got {', '.join(map(repr, given))}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def vector(parameters: Array) -> None:
    """Unless it is a vector of floats."""
    dtype, shape = getattr(parameters, "dtype", None), getattr(parameters, "shape", ())
    if dtype is None or dtype.kind not in "fc" or len(shape) != 1:
        raise ValueError(f"Adam: wanted a network or a vector of floats, got {parameters!r}")


def vectors_like(m: Array, parameters: Array, gradients: Array) -> None:
    """Unless all have one shape: NumPy would add a single gradient to every parameter."""
    shapes = [tuple(getattr(array, "shape", ())) for array in (parameters, gradients)]
    if shapes != [m.shape, m.shape]:
        raise ValueError(f"Adam: wanted parameters and gradients of shape {m.shape}, got {shapes[0]} and {shapes[1]}")


def rows_of_floats(who: object, array: Array, rows: int | None = None, width: int | None = None) -> None:
    """Unless ``array`` is (rows, width) of floats; None stands for any number above 0. ``who`` is a layer."""
    dtype, shape = getattr(array, "dtype", None), tuple(getattr(array, "shape", ()))
    fits = len(shape) == 2 and min(shape) > 0 and (rows or shape[0], width or shape[1]) == shape
    if dtype is None or dtype.kind not in "fc" or not fits:
        got = type(array).__name__ if dtype is None else f"{dtype} of shape {shape}"
        raise ValueError(
            f"{who}: got {got}, wanted floats of shape ({rows or 'N'}, {width or 'any'}), at least one row"
        )


def rows_of_finite_floats(who: object, array: Array) -> None:
    """The same, and unless all numbers are finite."""
    rows_of_floats(who, array)
    if not bool(np.isfinite(array).all()):
        raise ValueError(f"{who}: got an input with NaN or infinity, wanted finite numbers")


def same_shape(loss: str, output: Array, target: Array) -> None:
    """Unless output and target have one shape, with at least one element: NumPy would make (N, 1) and (N,) an (N, N)."""
    shape = getattr(target, "shape", type(target).__name__)
    if getattr(output, "shape", None) != shape or not output.size:
        got = getattr(output, "shape", type(output).__name__)
        raise ValueError(f"{loss}: got a target of shape {shape} for an output of shape {got}")
    if not bool(np.isfinite(target).all()):
        raise ValueError(f"{loss}: got a target with NaN or infinity")


def probabilities(loss: str, output: Array, target: Array) -> None:
    """The same, and unless every target is from 0 to 1."""
    same_shape(loss, output, target)
    if not bool(((target >= 0) & (target <= 1)).all()):
        raise ValueError(f"{loss}: got a target outside of 0 to 1")


def pairs(loss: str, output: Array, target: Array) -> None:
    """The same, and unless they are of shape (2b, 1)."""
    probabilities(loss, output, target)
    if len(output) % 2 or output.shape[1:] != (1,):
        raise ValueError(f"{loss}: wanted the logits (2b, 1) of b pairs, got {output.shape}")


def labels(loss: str, output: Array, label: Array) -> None:
    """Unless ``label`` holds one class for every row of ``output`` (N, K): integers from 0 to K − 1."""
    rows_of_floats(loss, output)
    rows, classes = output.shape
    dtype, shape = getattr(label, "dtype", None), getattr(label, "shape", None)
    if shape != (rows,) or dtype is None or dtype.kind not in "iu":
        got = type(label).__name__ if dtype is None else f"{dtype} of shape {shape}"
        raise ValueError(f"{loss}: got labels {got}, wanted integers of shape ({rows},)")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"{loss}: got a label {wrong}, wanted numbers from 0 to {classes - 1}")
