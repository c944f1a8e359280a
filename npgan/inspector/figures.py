"""What is told about one operation besides its result: the formula and code it comes from, arithmetic, statistics."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rich.filesize import pick_unit_and_suffix

from npgan.gradcheck.source import Source, read_source, resolve

SATURATED = 0.99  # |tanh| from here on, or a sigmoid as far from ½ in either direction

WHY_CACHED = {
    "dense_forward": "dW = xᵀ·dy: each weight's gradient is a sum over the inputs that it met",
    "leaky_relu_forward": "its sign says which of the two slopes each element took",
    "dropout_forward": "the gradient goes through the elements that were kept, and through no others",
    "sigmoid_forward": "the slope y·(1 − y) is a function of the result: x need not be kept",
    "tanh_forward": "the slope 1 − y² is a function of the result: x need not be kept",
    "binary_cross_entropy_forward": "the slope of the logarithm is one over its argument",
    "binary_cross_entropy_with_logits_forward": "its sigmoid is the gradient, but for the target",
    "relativistic_forward": "the gradient is the sigmoid of a pair's difference, but for the target",
}

# Arithmetic on one element of the result, read off the code: each +, −, ×, ÷, comparison and call of exp, log, √, tanh is one.
_PER_ELEMENT = {
    "leaky_relu_forward": 2, "leaky_relu_backward": 2, "dropout_forward": 1, "dropout_backward": 1, "sigmoid_forward": 5,
    "sigmoid_backward": 3, "tanh_forward": 1, "tanh_backward": 3, "Adam.update": 14,
    "Dropout.forward": 0, "Dropout.backward": 0,  # off
    "binary_cross_entropy_forward": 10, "binary_cross_entropy_backward": 8,
    "binary_cross_entropy_with_logits_forward": 8, "binary_cross_entropy_with_logits_backward": 7,
    "relativistic_forward": 5, "relativistic_backward": 5,  # of 2b logits: the same on b differences, and one − or sign each
}  # fmt: skip


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


def shares(function: str, tensors: dict[str, np.ndarray]) -> dict[str, float]:
    """What part of the elements takes which way through the function."""
    match function:
        case "leaky_relu_forward":
            name, where = "negative slope", tensors["x"] <= 0
        case "tanh_forward":
            name, where = "saturated", np.abs(tensors["y"]) > SATURATED
        case "sigmoid_forward":
            name, where = "saturated", np.abs(tensors["y"] - 0.5) > SATURATED - 0.5
        case "dropout_forward":
            name, where = "kept", tensors["mask"] != 0
        case "Dropout.forward" | "Dropout.backward":
            return {"kept": 1.0}
        case _:
            return {}
    return {name: float(np.mean(where))}


def flops(function: str, tensors: dict[str, np.ndarray]) -> int:
    """Floating-point operations of a call. A matrix product (N, I)·(I, O) is 2·N·I·O: a × and a + for each term."""
    if function == "dense_backward_dx":
        return 2 * tensors["dx"].size * tensors["dy"].shape[1]
    if function == "dense_double_backward":
        return 4 * tensors["u"].size * tensors["dy"].shape[1]
    if function.startswith("dense"):
        n, i = tensors["x"].shape
        o = tensors["y" if function == "dense_forward" else "dy"].shape[1]
        return 2 * n * i * o + n * o
    return _PER_ELEMENT[function] * int(next(iter(tensors.values())).size)


def moved_bytes(tensors: dict[str, np.ndarray]) -> int:
    """The least a memory has to move: every tensor read or written once."""
    return sum(int(array.nbytes) for array in tensors.values())


def read_op(dotted: str) -> Source:
    """Formula, file, line and code of a function such as "nn.ops.dense_forward", as they are now."""
    source = read_source(resolve(dotted))
    if source is None:
        raise LookupError(f"npgan.{dotted} has no Python source")
    return source._replace(formula=source.formula.removesuffix(".").replace("``", ""))


def reason(dotted: str) -> str:
    """The docstring after the formula: one line on why it is so. For Adam, what m̂ and v̂ are."""
    if dotted == "nn.optim.Adam.update":
        return " ".join(inspect.getdoc(resolve(f"nn.optim.Adam.{name}")) or "" for name in ("m_hat", "v_hat"))
    paragraphs = (inspect.getdoc(resolve(dotted)) or "").split("\n\n")[1:]
    return " ".join(" ".join(paragraphs).split()).replace("``", "")


def result_names(function: Callable[..., Any]) -> list[str]:
    """What the docstring's shapes call the results: ["dweight", "dbias"] for "… → dweight (I, O), dbias (O,)"."""
    shapes = (inspect.getdoc(function) or "").partition("\n\n")[0].partition("→")[2]
    return re.findall(r"(\w+) \(", shapes)


def quantity(count: float, unit: str = "") -> str:
    """1,234,567 as 1.23 M; below 10,000 in full."""
    if count < 10_000:
        return f"{count:,.0f} {unit}".rstrip()
    size, prefix = pick_unit_and_suffix(int(count), ["", "k", "M", "G"], 1000)
    return f"{count / size:.3g} {prefix}{unit}"


def gray_pixels(image: np.ndarray) -> np.ndarray:
    """Shapes: image (784,) in [−1, 1] → (28, 28) uint8."""
    return np.rint((np.clip(image, -1, 1).reshape(28, 28) + 1.0) * 127.5).astype(np.uint8)


def wanted_change(gradient: np.ndarray) -> np.ndarray:
    """−gradient, scaled to [−1, 1]. Shapes: (784,) → (28, 28)."""
    return -gradient.reshape(28, 28) / max(float(np.abs(gradient).max()), 1e-30)


def change_colors(wanted: np.ndarray) -> np.ndarray:
    """Yellow for 1, near black for 0, blue for −1. Shapes: (28, 28) → (28, 28, 3) uint8."""
    black, end = np.array([16, 16, 20]), np.where(wanted[..., None] > 0, [255, 200, 40], [70, 140, 255])
    strength = np.sqrt(np.abs(wanted))[..., None]  # most of the pixels' gradients are small beside the largest
    return np.rint(black + (end - black) * strength).astype(np.uint8)


def shape_text(array: np.ndarray) -> str:
    return " × ".join(str(size) for size in array.shape) if array.shape else "scalar"


def number(value: float) -> str:
    """Four significant digits, in at most ten characters; a dash for NaN, what cannot be told."""
    return "–" if math.isnan(value) else f"{value:.4g}".replace("-", "−") if value else "0"


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
