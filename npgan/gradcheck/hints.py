"""What a wrong gradient looks like tells what was forgotten: known patterns of error and what usually causes each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

JUNK = 0.8125  # what gradients hold before a backward assigns them: exact in binary, and easy to recognize

_CLOSE = 1e-5  # patterns are matched more loosely than gradients: central differences have them too


class Hint(NamedTuple):
    """``kind`` is a word for programs, ``text`` a sentence for people."""

    kind: str
    text: str


class Factor(NamedTuple):
    """A constant that explains itself when a gradient is off by just that factor."""

    value: float
    hint: Hint


def rows_factors(rows: int) -> list[Factor]:
    """The factors N and 1/N of a batch of ``rows`` rows."""
    return [
        Factor(
            float(rows), Hint("mean-sum", f"{rows} times too large, and N is {rows}: a mean differentiated as a sum")
        ),
        Factor(
            1.0 / rows, Hint("mean-sum", f"{rows} times too small, and N is {rows}: a sum differentiated as a mean")
        ),
    ]


def find_hint(
    analytic: np.ndarray, numeric: np.ndarray, shape: tuple[int, ...] | None, factors: Sequence[Factor], exact: bool
) -> Hint:
    """The pattern in how ``analytic`` differs from ``numeric``. Shapes: both (K,); ``shape`` when they are all elements.

    ``exact``: an element of ``numeric`` that is 0 is really 0, and not below the rounding of a central difference.
    The first pattern that fits is taken, the most telling first.
    """
    size = float(np.sqrt(np.mean(numeric**2)))
    wrong = ~_close(analytic, numeric, size)
    if size == 0.0:
        return Hint("should-be-zero", "the loss does not depend on this tensor at all, so its gradient should be 0")
    if not wrong.any():
        worst = float(np.max(np.abs(analytic - numeric))) / size
        return Hint(
            "small", f"right but for the small digits ({worst:.0e}): a misplaced ε, float32 or a rounded constant"
        )
    if not analytic.any():
        return Hint(
            "zero", "all zero: the path from the loss is cut (a cache emptied, a result not passed on or dropped)"
        )
    if _close(analytic, -numeric, size).all():
        return Hint("sign", "exactly the opposite: a sign is flipped")
    if _close(analytic - numeric, np.full_like(numeric, JUNK), size).all():
        return Hint("accumulates", "right, plus what the gradient held before: it adds (+=) where it should assign (=)")
    if shape is not None and len(shape) == 2 and _is_transposed(analytic, numeric, shape, size):
        return Hint("transposed", "the right numbers in the wrong places: transposed")
    blocked = wrong & (numeric == 0.0)
    if exact and blocked.any():
        return Hint(
            "mask",
            f"{blocked.sum()} of {wrong.size} should be 0, for the forward does not let them through, and are not: "
            "the mask is forgotten",
        )
    if not analytic[wrong].any():
        return Hint("zero", f"{wrong.sum()} of {wrong.size} are 0 and should not be: a part of the path is cut")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = analytic[wrong] / numeric[wrong]
    others_are_zero = not numeric[~wrong].any()
    if others_are_zero and _is_constant(ratio):
        return _explain_factor(float(np.median(ratio)), factors)
    if _is_constant(ratio):
        known = _explain_factor(float(ratio[0]), factors)
        if known.kind != "factor":
            return known
        return Hint("partial-factor", f"{wrong.sum()} of {wrong.size} are off by the one factor {ratio[0]:.6g}")
    if _is_constant(np.where(np.abs(ratio) < 1.0, ratio, 1.0 / ratio)):
        small = float(np.min(np.abs(ratio)))
        return Hint(
            "branches", f"every element is off by {small:.6g} or by 1/{small:.6g}: the two branches are swapped"
        )
    return Hint(
        "other", f"{wrong.sum()} of {wrong.size} differ, by no simple pattern: compare the formula, factor by factor"
    )


def locate(wrong: dict[str, bool]) -> str:
    """Where the way back through a network goes wrong. ``wrong``: for "0.weight", "0.bias", "2.weight"… in forward order.

    A gradient depends on the backward of all later layers, so the last wrong layer is where to look.
    """
    layers: dict[int, dict[str, bool]] = {}
    for name, is_wrong in wrong.items():
        index, _, tensor = name.partition(".")
        if index.isdigit():
            layers.setdefault(int(index), {})[tensor] = is_wrong
    bad = [index for index, tensors in layers.items() if any(tensors.values())]
    if not bad:
        return ""
    last = max(bad)
    later = [index for index in layers if index > last]
    if not layers[last].get("bias", True):
        return f"layer {last}: the bias is right, so dy arrives as it should; the weight is not, so the cached input x is wrong"
    if layers[last].get("weight") is False:
        return f"layer {last}: the weight is right, so dy and x are; only the bias's own formula is wrong"
    if not later:
        return f"wrong from the last layer ({last}) on: look at what is handed down to it (loss, targets, caches)"
    return (
        f"right back to layer {min(later)}, wrong from layer {last} on: look at the backward of what is between the two"
    )


def _close(a: np.ndarray, b: np.ndarray, size: float) -> np.ndarray:
    close: np.ndarray = np.abs(a - b) <= _CLOSE * np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-3 * size)
    return close


def _is_constant(ratio: np.ndarray) -> bool:
    return bool(ratio.size) and bool((np.abs(ratio - ratio[0]) <= 10.0 * _CLOSE * abs(ratio[0])).all())


def _is_transposed(analytic: np.ndarray, numeric: np.ndarray, shape: tuple[int, ...], size: float) -> bool:
    swapped = analytic.reshape(shape[::-1]).T.reshape(-1)
    return bool(_close(swapped, numeric, size).all())


def _explain_factor(ratio: float, factors: Sequence[Factor]) -> Hint:
    for factor in factors:
        if abs(ratio - factor.value) <= 1e-4 * abs(factor.value):
            return factor.hint
    return Hint("factor", f"off by the constant factor {ratio:.6g}: a scale is missing or applied twice")
