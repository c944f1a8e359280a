"""What is told about one operation besides its result: the formula and code it comes from, arithmetic, statistics."""

from __future__ import annotations

import inspect
import math
from typing import NamedTuple

import numpy as np

from npgan.gradcheck.source import Source, read_source, resolve

SATURATED = 0.99  # |tanh| from here on, or a sigmoid as far from ½ in either direction

# Arithmetic on one element of the result, read off the code: each +, −, ×, ÷, comparison and call of exp, log, √, tanh is one.
_PER_ELEMENT = {
    "leaky_relu_forward": 2,
    "leaky_relu_backward": 2,
    "relu_forward": 1,
    "relu_backward": 2,
    "dropout_forward": 1,
    "dropout_backward": 1,
    "sigmoid_forward": 5,
    "sigmoid_backward": 3,
    "tanh_forward": 1,
    "tanh_backward": 3,
    "binary_cross_entropy_forward": 10,
    "binary_cross_entropy_backward": 8,
    "binary_cross_entropy_with_logits_forward": 8,
    "binary_cross_entropy_with_logits_backward": 7,
    "adam_update": 12,
    "momentum_update": 4,
}


class Stats(NamedTuple):
    """Five numbers on one tensor. ``norm`` is Euclidean, over all elements."""

    mean: float
    std: float
    min: float
    max: float
    norm: float


def statistics(array: np.ndarray) -> Stats:
    values = np.asarray(array, dtype=np.float64).reshape(-1)
    mean, square = float(values.mean()), float(values @ values)
    std = max(square / values.size - mean * mean, 0.0) ** 0.5
    return Stats(mean, std, float(values.min()), float(values.max()), square**0.5)


def flops(name: str, tensors: dict[str, np.ndarray]) -> int:
    """Floating-point operations of ``ops.<name>``. A matrix product (N, I)·(I, O) is 2·N·I·O: a × and a + for each term."""
    if name == "dense_forward":
        (n, i), o = tensors["x"].shape, tensors["y"].shape[1]
        return 2 * n * i * o + n * o
    if name == "dense_backward_dx":
        n, o = tensors["dy"].shape
        return 2 * n * tensors["dx"].shape[1] * o
    if name == "dense_backward_params":
        (n, i), o = tensors["x"].shape, tensors["dy"].shape[1]
        return 2 * n * i * o + n * o
    first, last = (tensors[key] for key in (next(iter(tensors)), next(reversed(tensors))))
    if name.startswith("maxout"):
        return 2 * max(first.size, last.size)
    return _PER_ELEMENT[name] * int(first.size)


def moved_bytes(tensors: dict[str, np.ndarray]) -> int:
    """The least a memory has to move: every tensor read or written once."""
    return sum(int(array.nbytes) for array in tensors.values())


def read_op(dotted: str) -> Source:
    """Formula, file, line and code of a function such as "ops.dense_forward", as they are now."""
    source = read_source(resolve(dotted))
    if source is None:
        raise LookupError(f"npgan.{dotted} has no Python source")
    return source._replace(formula=source.formula.removesuffix("."))


def reason(dotted: str) -> str:
    """The docstring after the formula: one line on why it is so."""
    paragraphs = (inspect.getdoc(resolve(dotted)) or "").split("\n\n")[1:]
    formula = read_op(dotted).formula
    texts = (" ".join(part.split()) for part in paragraphs)
    return " ".join(text for text in texts if not text.startswith(formula)).replace("``", "")


def quantity(count: float) -> str:
    """1,234,567 as 1.23 M; below 10,000 in full."""
    if count < 10_000:
        return f"{count:,.0f}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    raise AssertionError(count)


def shape_text(array: np.ndarray) -> str:
    return " × ".join(str(size) for size in array.shape) if array.shape else "scalar"


def number(value: float) -> str:
    """Four significant digits, in at most ten characters."""
    return f"{value:.4g}".replace("-", "−") if value else "0"


def round_ticks(low: float, high: float, logarithmic: bool = False) -> list[float]:
    """Round numbers from ``low`` to ``high`` to label an axis with; where they are few, the two ends."""
    if logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for mantissas in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
            ticks = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
            inside = [tick for tick in ticks if low <= tick <= high]
            if len(inside) >= 2:
                return inside
        return [float(f"{end:.2g}") for end in (low, high)]
    exponent = 10.0 ** math.floor(math.log10(high - low)) if high > low else 1.0
    for step in (exponent / 5, exponent / 2, exponent, 2 * exponent):
        ticks = [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(ticks) <= 6:
            return ticks if len(ticks) > 1 else [low, high]
    return [low, high]
