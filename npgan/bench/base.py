"""What a candidate of the benchmark is, and the work of one iteration as matmuls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npgan.backend import Array
from npgan.config import TrainConfig
from npgan.errors import InputError

IMAGES = 6000  # enough that a batch is a gather from memory, as in training
MNIST = 60_000  # images: an epoch on a GPU is as long as in training
GENERATOR = (100, 256, 512, 1024, 784)
DISCRIMINATOR = (784, 1024, 512, 256, 1)


class Candidate(NamedTuple):
    """``run()`` does ``iterations`` training iterations, and returns when they are done."""

    run: Callable[[], Any]
    flops: int  # of the matmuls of one iteration
    detail: str = ""
    iterations: int = 1
    launches: Callable[[], float | None] | None = None  # counts the kernels of an iteration, on a GPU


class Missing(InputError):
    """Why a candidate cannot run here, as one line."""


class Matmul(NamedTuple):
    """One matrix product of an iteration: (rows, inner) · (inner, columns)."""

    name: str  # such as "G forward 2"
    a: Array
    b: Array
    out: Array

    @property
    def flops(self) -> int:
        return 2 * self.a.shape[0] * self.a.shape[1] * self.b.shape[1]


def pixels(count: int) -> np.ndarray:
    """Random images (count, 784) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, 784), dtype=np.uint8)


def pairs(widths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Inputs and outputs of each layer."""
    return zip(widths, widths[1:], strict=False)


def flops(batch: int, config: TrainConfig | None = None) -> int:
    """Of all matmuls of an iteration, by default of the tutorial's."""
    count = sum(matmul.flops for matmul in matmuls(batch))
    if config and config.loss == "relativistic":  # the real images in the G step's pairs
        count += sum(2 * batch * i * o for i, o in pairs(DISCRIMINATOR))
    if config and config.penalized:  # back to the images, and the derivative of that up to the last layer's input
        first, *others = list(pairs(DISCRIMINATOR))[:-1]
        count += sum(2 * 2 * batch * i * o for i, o in (first, first, *others))
    return count


def by_rows(rows: int, width: int) -> np.ndarray:
    return np.empty((rows, width), dtype=np.float32)


def matmuls(batch: int, empty: Callable[[int, int], Array] = by_rows) -> list[Matmul]:
    """Every matrix product of an iteration, in order, on arrays of random numbers made by ``empty``."""
    rng = np.random.default_rng(0)

    def rows(count: int, widths: tuple[int, ...]) -> list[Array]:
        arrays = [empty(count, width) for width in widths]
        for array in arrays:
            array[...] = rng.uniform(-1.0, 1.0, array.shape)
        return arrays

    def weights(widths: tuple[int, ...]) -> list[np.ndarray]:
        return [rng.uniform(-0.05, 0.05, pair).astype(np.float32) for pair in pairs(widths)]

    g, d = weights(GENERATOR), weights(DISCRIMINATOR)
    x_g, x_d, x_g_step = rows(2 * batch, GENERATOR), rows(2 * batch, DISCRIMINATOR), rows(batch, DISCRIMINATOR)
    dx_g, dx_d, dx_g_step = rows(batch, GENERATOR), rows(2 * batch, DISCRIMINATOR), rows(batch, DISCRIMINATOR)
    return [
        *_forward("G", g, x_g),
        *_forward("D", d, x_d),
        *_backward("D", d, dx_d, x_d, first_dx=False),
        *_forward("D in the G step", d, x_g_step),
        *_backward("D in the G step", d, dx_g_step, None, first_dx=True),
        *_backward("G", g, dx_g, [x[batch:] for x in x_g], first_dx=False),
    ]


def _forward(net: str, weights: list[np.ndarray], x: list[Array]) -> Iterator[Matmul]:
    for index, weight in enumerate(weights):
        yield Matmul(f"{net} forward {index}", x[index], weight, x[index + 1])


def _backward(
    net: str, weights: list[np.ndarray], dx: list[Array], x: list[Array] | None, first_dx: bool
) -> Iterator[Matmul]:
    """``x``: None where the weights get no gradient. ``first_dx``: whether the first layer's input gets one."""
    for index, weight in reversed(list(enumerate(weights))):
        if x is not None:
            yield Matmul(f"{net} dW {index}", x[index].T, dx[index + 1], np.empty_like(weight))
        if first_dx or index:
            yield Matmul(f"{net} dx {index}", dx[index + 1], weight.T, dx[index])
