"""What is timed: npgan's own contestants, and the work of one iteration in products."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npgan import engines as kernels
from npgan.backend import Array, select
from npgan.config import TrainConfig
from npgan.errors import InputError
from npgan.gan import iterate, new_state

IMAGES = 6000  # enough that a batch is a gather from memory, as in training
GENERATOR = (100, 256, 512, 1024, 784)
DISCRIMINATOR = (784, 1024, 512, 256, 1)


class Contestant(NamedTuple):
    """``run()`` does ``iterations`` training iterations, and returns when they are done."""

    run: Callable[[], Any]
    flops: int  # of matrix products in one iteration
    detail: str = ""
    iterations: int = 1
    launches: Callable[[], float | None] | None = None  # counts the kernels of an iteration, on a GPU


class Missing(Exception):
    """Why a contestant cannot run here, as one line."""


class Product(NamedTuple):
    """One matrix product of an iteration: (rows, inner) · (inner, columns)."""

    name: str  # such as "G forward 2"
    a: Array
    b: Array
    out: Array

    @property
    def flops(self) -> int:
        return 2 * self.a.shape[0] * self.a.shape[1] * self.b.shape[1]


def make(name: str, batch: int, threads: int) -> Contestant:
    """The contestant called ``name``. Raises Missing when a library for it is not installed."""
    if name.startswith("gpu "):
        from npgan.bench import gpu

        return gpu.make(name.removeprefix("gpu "), batch)
    if name.startswith("npgan"):
        return _npgan(name.removeprefix("npgan "), batch, threads)
    if name.startswith("products"):
        return _products(name.removeprefix("products "), batch, threads)
    if name == "peak":
        return _peak()
    library = name.split()[0].lower()
    if importlib.util.find_spec(library) is None:
        raise Missing(f"{library} is not installed: pip install 'npgan[bench]'")
    from npgan.bench import peers

    peer = peers.make(name, batch, threads)
    return Contestant(peer.run, flops(batch), peer.detail, peer.iterations)


def pixels(count: int = IMAGES) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 784), dtype=np.uint8)


def products(batch: int, empty: Callable[[int, int], Array] | None = None) -> list[Product]:
    """Every matrix product of an iteration, in order, on arrays of random numbers made by ``empty``."""
    rng = np.random.default_rng(0)

    def new(rows: int, width: int) -> Array:
        array = empty(rows, width) if empty else np.empty((rows, width), dtype=np.float32)
        array[...] = rng.uniform(-1.0, 1.0, (rows, width))
        return array

    weights = {net: [_weights(i, o, rng) for i, o in pairs(widths)] for net, widths in _NETS.items()}
    dweights = {net: [np.empty_like(weight) for weight in net_weights] for net, net_weights in weights.items()}
    g_x, d_x, e_x = ([new(rows, width) for width in widths] for rows, widths in (
        (2 * batch, GENERATOR), (2 * batch, DISCRIMINATOR), (batch, DISCRIMINATOR)))  # fmt: skip
    g_dx, d_dx, e_dx = ([new(rows, width) for width in widths] for rows, widths in (
        (batch, GENERATOR), (2 * batch, DISCRIMINATOR), (batch, DISCRIMINATOR)))  # fmt: skip
    return [
        *_forward("G", g_x, weights["G"]),
        *_forward("D", d_x, weights["D"]),
        *_backward("D", d_dx, d_x, weights["D"], dweights["D"], need_dx=False),
        *_forward("D in the G step", e_x, weights["D"]),
        *_backward("D in the G step", e_dx, e_x, weights["D"], None, need_dx=True),
        *_backward("G", g_dx, [x[batch:] for x in g_x], weights["G"], dweights["G"], need_dx=False),
    ]


_NETS = {"G": GENERATOR, "D": DISCRIMINATOR}


def pairs(widths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return zip(widths, widths[1:], strict=False)


def _weights(inputs: int, outputs: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.05, 0.05, (inputs, outputs)).astype(np.float32)


def _forward(net: str, x: list[Array], weights: list[Array]) -> Iterator[Product]:
    for index, weight in enumerate(weights):
        yield Product(f"{net} forward {index}", x[index], weight, x[index + 1])


def _backward(
    net: str, dx: list[Array], x: list[Array], weights: list[Array], dweights: list[Array] | None, need_dx: bool
) -> Iterator[Product]:
    for index in reversed(range(len(weights))):
        if dweights is not None:
            yield Product(f"{net} dW {index}", x[index].T, dx[index + 1], dweights[index])
        if need_dx or index > 0:
            yield Product(f"{net} dx {index}", dx[index + 1], weights[index].T, dx[index])


def flops(batch: int) -> int:
    return sum(product.flops for product in products(batch))


def _products(kind: str, batch: int, threads: int) -> Contestant:
    """Only the products of an iteration: npgan's own, or BLAS's on arrays that lie by columns, or by rows."""
    multiply: Callable[[Array, Array, Array], Array] = np.matmul
    empty = None
    if kind != "rows":
        chosen = _fused(threads, blas=kind != "own")
        empty = chosen.chains.empty
        if kind == "own":
            if not chosen.products:
                raise Missing("BLAS's products are used here, as there is no AVX-512 or no OpenMP")
            multiply = chosen.chains.matmul
    work = products(batch, empty)

    def run() -> None:
        for product in work:
            multiply(product.a, product.b, product.out)

    return Contestant(run, sum(product.flops for product in work), f"{len(work)} products")


def _fused(threads: int, blas: bool) -> kernels.Kernels:
    try:
        return kernels.select("fused", threads, blas_asked=blas)
    except InputError as problem:
        raise Missing(str(problem)) from None


def _peak() -> Contestant:
    a, b = np.full((2, 2048, 2048), 0.5, dtype=np.float32)
    out = np.empty_like(a)
    return Contestant(lambda: np.matmul(a, b, out=out), 2 * 2048**3)


def _npgan(kind: str, batch: int, threads: int) -> Contestant:
    chosen = kernels.select("reference") if kind == "reference" else _fused(threads, blas=kind == "blas")
    config = TrainConfig(dataset="digits", epochs=2**31 - 1, batch_size=batch)
    images = pixels(max(IMAGES // batch, 1) * batch)  # whole batches only
    steps = iterate(new_state(config, select("numpy"), kernels=chosen), images, config)
    return Contestant(lambda: next(steps), flops(batch), f"{chosen.reason}; {chosen.products or 'BLAS'}")
