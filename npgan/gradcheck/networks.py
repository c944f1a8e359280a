"""The checks of ``backward`` and ``backward_input``, of a layer or of a network: small ones in every element, the real ones
by sample. And the networks they are made on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from npgan import gan
from npgan.backend import Array, array_module
from npgan.config import TrainConfig
from npgan.gradcheck.check import Check, FormulaCheck
from npgan.gradcheck.hints import JUNK, rows_factors
from npgan.gradcheck.methods import Bind, Bound
from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU, Maxout, Sigmoid, Softmax, Tanh
from npgan.nn.network import Sequential

L = TypeVar("L", bound=Layer)

SLOPE = 0.2
RATE = 0.3
TOLERANCE = 1e-10


class Pair(NamedTuple):
    """The generator and the discriminator of a check, in float64."""

    generator: Sequential
    discriminator: Sequential


def small_pair(
    xp: ModuleType, logits: bool, generator: Sequence[int] = (3, 4, 6, 4), discriminator: Sequence[int] = (4, 5, 4)
) -> Pair:
    """The same layers as the real networks in the same order, a few units each: the widths from the input on."""
    g: list[Layer] = []
    for width, units in pairwise(generator):
        g += [Dense(width, units), LeakyReLU(SLOPE)]
    d: list[Layer] = []
    for width, units in pairwise(discriminator):
        d += [Dense(width, units), LeakyReLU(SLOPE), Dropout(RATE)]
    d += [Dense(discriminator[-1], 1)] if logits else [Dense(discriminator[-1], 1), Sigmoid()]
    return Pair(Sequential([*g[:-1], Tanh()], np.float64, xp), Sequential(d, np.float64, xp))


def real_pair(xp: ModuleType) -> Pair:
    """The tutorial's two networks."""
    return Pair(gan.generator(dtype=np.float64, xp=xp), gan.discriminator(dtype=np.float64, xp=xp))


def network_checks(rng: np.random.Generator, xp: ModuleType, real: bool) -> Iterator[Check | FormulaCheck]:
    """``Sequential`` on small networks, one of them in another, and, with ``real``, on the tutorial's."""
    small = small_pair(xp, logits=False)
    inner = Sequential([Dense(4, 6), LeakyReLU(SLOPE), Maxout(2)])
    nested = Sequential([inner, Dropout(RATE), Dense(3, 2), Softmax()], np.float64, xp)
    cases = [
        ("small generator", small.generator, (5, 3)),
        ("small discriminator", small.discriminator, (5, 4)),
        ("nested", nested, (5, 4)),
    ]
    if real:
        tutorial = real_pair(xp)
        cases += [
            ("real generator, 8 rows", tutorial.generator, (8, TrainConfig().latent_dim)),
            ("real discriminator, 8 rows", tutorial.discriminator, (8, gan.IMAGE_PIXELS)),
        ]
    for case, net, shape in cases:
        more: dict[str, Any] = {"elements": 6, "directions": 3} if "real" in case else {}
        x, key = xp.asarray(rng.normal(size=shape)), random_key(rng)
        yield from backward_checks(
            "network", case, randomized(net, rng), x, key, rng, factors=rows_factors(shape[0]), **more
        )


def backward_checks(
    level: str,
    case: str,
    subject: Layer,
    x: Array,
    key: DropoutKey,
    rng: np.random.Generator,
    tolerance: float = TOLERANCE,
    **more: Any,
) -> Iterator[Check | FormulaCheck]:
    """``backward``: dx and all gradients. ``backward_input``: the same dx, and the gradients are left as they were.

    Of a layer or network in float64. A layer that does not write its own ``backward_input`` is checked in a network's.
    """
    dy = array_module(x).asarray(rng.normal(size=subject.forward(x, key)[0].shape))
    written = next(kind for kind in type(subject).__mro__ if "backward" in vars(kind))  # ReLU's backward is LeakyReLU's
    op = f"{written.__module__.removeprefix('npgan.')}.{written.__name__}"

    def bind(dtype: Any) -> Bound:
        twin = subject.astype(dtype)
        work = {"x": x.astype(dtype), **twin.tensors}

        def evaluate() -> tuple[Array, list[Array]]:
            y, cache = twin.forward(work["x"], key)
            return (dy * y).sum(), kinks(twin, cache)

        return Bound(work, evaluate)

    def backward() -> tuple[dict[str, Array], Bind]:
        subject.gradients[...] = JUNK
        dx = subject.backward(dy, subject.forward(x, key)[1])
        return {"x": dx, **subject.gradient_tensors}, bind

    def backward_input() -> tuple[dict[str, Array], Bind]:
        subject.gradients[...] = JUNK
        return {"x": subject.backward_input(dy, subject.forward(x, key)[1])}, bind

    def left_alone() -> dict[str, tuple[Array, Array]]:
        backward_input()
        return {"gradients": (subject.gradients, np.full_like(subject.gradients, JUNK))}

    yield Check(level, f"{op}.backward", backward, case, tolerance, **more)
    if "backward_input" in vars(written):
        yield Check(level, f"{op}.backward_input", backward_input, case, tolerance, **more)
        yield FormulaCheck(level, f"{op}.backward_input", left_alone, case)


def alone(layer: L, xp: ModuleType = np) -> L:
    """A copy of a layer in float64 that can be called without a network: with its parameters, else with newly drawn ones."""
    if hasattr(layer, "parameters"):
        return layer.astype(np.float64)
    twin = copy.deepcopy(layer)
    twin.bind(xp.zeros(layer.size), xp.zeros(layer.size))
    twin.initialize(0, 0)
    return twin


def randomized(layer: L, rng: np.random.Generator) -> L:
    """Glorot's weights as in training, but biases that are not 0: a check at 0 would not see them."""
    layer.initialize(int(rng.integers(2**32)), 0)
    for name, tensor in layer.tensors.items():
        if name.endswith("bias"):
            tensor[...] = array_module(tensor).asarray(0.1 * rng.normal(size=tensor.shape))
    return layer


def random_key(rng: np.random.Generator) -> DropoutKey:
    return DropoutKey(int(rng.integers(2**32)), int(rng.integers(1000)), 0)


def kinks(layer: Layer, cache: Any) -> list[Array]:
    """What branches go by: leaky ReLU's inputs, and how far apart maxout's pieces are. Their caches are their inputs."""
    if isinstance(layer, Sequential):
        return [found for each, part in zip(layer.layers, cache, strict=True) for found in kinks(each, part)]
    if isinstance(layer, LeakyReLU):
        return [cache]
    if isinstance(layer, Maxout):
        pieces = cache.reshape(len(cache), layer.pieces, -1)
        return [pieces[:, a] - pieces[:, b] for a in range(layer.pieces) for b in range(a)]
    return []
