"""Numbers to hold a backward against: derivatives of a scalar loss found without it, from the forward alone.

- Complex step (Squire and Trapp 1998): f(x + ih) = f(x) + ih·f′(x) + O(h²), so f′(x) = Im f(x + ih)/h. Nothing is
  subtracted, so h = 10⁻²⁰ is no problem and the result is right to the last digits of float64. f must be analytic as
  written: branches look at real parts, nothing takes abs, real or conj of what carries the step.
- Central difference: (f(x + h) − f(x − h))/2h. Works for any f, with 9 or 10 good digits at best, and it goes wrong where
  [x − h, x + h] holds a kink. Such a crossing is seen from the signs that pick the branches; h is made smaller until none
  crosses, or the element is set apart.

Either is taken in one element, or along a direction that moves every element of several tensors at once: one evaluation
then depends on all of them, which is how a million parameters are covered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npgan.backend import Array

COMPLEX, CENTRAL = "complex step", "central difference"
METHODS = (COMPLEX, CENTRAL)
_H_COMPLEX = 1e-20
_H_CENTRAL = 1e-5  # near the cube root of float64's epsilon: rounding and truncation err about as much
_SHRINKS = (1.0, 0.1, 0.01)  # the steps tried when a kink is crossed; below, rounding would drown the difference


class Bound(NamedTuple):
    """A loss and the arrays it reads, in one dtype. ``evaluate`` sees changes made to ``work`` in place.

    ``evaluate`` returns the loss () and the arrays whose signs pick a branch (leaky ReLU's inputs): kinks are their zeros.
    """

    work: dict[str, Array]
    evaluate: Callable[[], tuple[Array, list[Array]]]


Bind = Callable[[Any], Bound]  # dtype → fresh arrays of that dtype and the loss over them


def bind_function(
    f: Callable[..., Array], inputs: dict[str, Array], dy: Array, kinks: Callable[..., Array] | None = None
) -> Bind:
    """The loss Σ dy·f(inputs): its gradient in an input is what f's backward makes of dy."""

    def bind(dtype: Any) -> Bound:
        work = {name: array.astype(dtype) for name, array in inputs.items()}

        def evaluate() -> tuple[Array, list[Array]]:
            loss = (dy * f(*work.values())).sum()
            return loss, [] if kinks is None else [kinks(*work.values())]

        return Bound(work, evaluate)

    return bind


class Derivative(NamedTuple):
    """One numerical derivative. ``value`` is NaN where a kink leaves none."""

    value: float
    shrunk: bool = False  # the step was made smaller to keep off a kink
    at_kink: bool = False  # no step was small enough


def along_element(method: str, bound: Bound, name: str, position: int) -> Derivative:
    """∂loss/∂(element ``position`` of the flattened tensor ``name``). The tensor is left as it was."""
    flat = bound.work[name].reshape(-1)
    if method == COMPLEX:
        flat[position] += 1j * _H_COMPLEX
        derivative = _from_complex(*bound.evaluate())
        flat[position] -= 1j * _H_COMPLEX  # exact: the real part was never touched
        return derivative
    before = float(flat[position])
    size = max(1.0, abs(before))

    def shift(h: float) -> None:
        flat[position] = before + h * size

    return _central(bound, shift, size)


def along_direction(method: str, bound: Bound, direction: dict[str, Array]) -> Derivative:
    """The derivative along ``direction``, arrays with the shapes of the tensors they move, all moved at once."""
    if method == COMPLEX:
        for name, u in direction.items():
            bound.work[name][...] += (1j * _H_COMPLEX) * u
        derivative = _from_complex(*bound.evaluate())
        for name, u in direction.items():
            bound.work[name][...] -= (1j * _H_COMPLEX) * u
        return derivative
    before = {name: bound.work[name].copy() for name in direction}

    def shift(h: float) -> None:
        for name, u in direction.items():
            bound.work[name][...] = before[name] + h * u

    return _central(bound, shift, 1.0)


def random_direction(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A direction of length near 1 with no tiny coordinate, so that no element can hide: ±U(½, 1½), scaled."""
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    return {
        name: rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape) / count**0.5
        for name, shape in shapes.items()
    }


def _from_complex(value: Array, kinks: list[Array]) -> Derivative:
    # Exactly on a kink (real part 0) and moved by the step: the derivative does not exist.
    if any(bool(((kink.real == 0) & (kink.imag != 0)).any()) for kink in kinks):
        return Derivative(float("nan"), at_kink=True)
    return Derivative(float(value.imag) / _H_COMPLEX)


def _central(bound: Bound, shift: Callable[[float], None], size: float) -> Derivative:
    for shrink in _SHRINKS:
        h = _H_CENTRAL * shrink
        shift(h)
        above, kinks_above = bound.evaluate()
        above, signs_above = float(above), [kink > 0 for kink in kinks_above]
        shift(-h)
        below, kinks_below = bound.evaluate()
        below, signs_below = float(below), [kink > 0 for kink in kinks_below]
        shift(0.0)
        crossed = any(bool((a != b).any()) for a, b in zip(signs_above, signs_below, strict=True))
        if not crossed:
            return Derivative((above - below) / (2.0 * h * size), shrunk=shrink < 1.0)
    return Derivative(float("nan"), at_kink=True)
