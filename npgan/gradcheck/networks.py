"""The checks of ``backward`` and ``backward_input``, of a layer or of a network: small ones in every element, the real ones
by sample. And the networks they are made on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from npgan import gan
from npgan.backend import Array, array_module
from npgan.config import TrainConfig
from npgan.gradcheck.check import Check, FormulaCheck
from npgan.gradcheck.hints import JUNK, rows_factors
from npgan.gradcheck.methods import Bind, Bound
from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU, Maxout, Sigmoid, Tanh
from npgan.nn.network import Sequential

Make = Callable[[Any], Sequential]  # dtype → a network with all parameters 0

SLOPE = 0.2
RATE = 0.3
TOLERANCE = 1e-10


class Pair(NamedTuple):
    """How to make the generator and the discriminator of a check, in any dtype."""

    generator: Make
    discriminator: Make


def small_pair(
    xp: ModuleType, logits: bool, generator: Sequence[int] = (3, 4, 6, 4), discriminator: Sequence[int] = (4, 5, 4)
) -> Pair:
    """The same layers as the real networks in the same order, a few units each: the widths from the input on."""

    def make_g(dtype: Any) -> Sequential:
        layers: list[Layer] = []
        for width, units in pairwise(generator):
            layers += [Dense(width, units), LeakyReLU(SLOPE)]
        return Sequential([*layers[:-1], Tanh()], dtype, xp)

    def make_d(dtype: Any) -> Sequential:
        layers: list[Layer] = []
        for width, units in pairwise(discriminator):
            layers += [Dense(width, units), LeakyReLU(SLOPE), Dropout(RATE)]
        layers.append(Dense(discriminator[-1], 1))
        return Sequential(layers if logits else [*layers, Sigmoid()], dtype, xp)

    return Pair(make_g, make_d)


def real_pair(xp: ModuleType) -> Pair:
    """The tutorial's two networks."""
    return Pair(
        lambda dtype: gan.generator(TrainConfig().latent_dim, SLOPE, dtype, xp),
        lambda dtype: gan.discriminator(RATE, SLOPE, dtype=dtype, xp=xp),
    )


def network_checks(rng: np.random.Generator, xp: ModuleType, real: bool) -> Iterator[Check | FormulaCheck]:
    """``Sequential`` on small networks and, with ``real``, on the tutorial's."""
    small = small_pair(xp, logits=False)
    cases = [("small generator", small.generator, (5, 3)), ("small discriminator", small.discriminator, (5, 4))]
    if real:
        tutorial = real_pair(xp)
        cases += [
            ("real generator, 8 rows", tutorial.generator, (8, TrainConfig().latent_dim)),
            ("real discriminator, 8 rows", tutorial.discriminator, (8, gan.IMAGE_PIXELS)),
        ]
    for case, make, shape in cases:
        more: dict[str, Any] = {"elements": 6, "directions": 3} if "real" in case else {}
        x, key = xp.asarray(rng.normal(size=shape)), random_key(rng)
        yield from backward_checks("network", case, make, x, key, rng, factors=rows_factors(shape[0]), **more)


def backward_checks(
    level: str,
    case: str,
    make: Make,
    x: Array,
    key: DropoutKey,
    rng: np.random.Generator,
    alone: bool = False,
    tolerance: float = TOLERANCE,
    **more: Any,
) -> Iterator[Check | FormulaCheck]:
    """``backward``: dx and all gradients. ``backward_input``: the same dx, and the gradients are left as they were.

    Of the network that ``make`` makes or, with ``alone``, of the one layer in it. A layer that does not write its own
    ``backward_input`` is checked in a network's.
    """
    net = randomized(make(np.float64), rng)
    subject = net.layers[0] if alone else net
    dy = array_module(x).asarray(rng.normal(size=subject.forward(x, key)[0].shape))
    op = f"{type(subject).__module__.removeprefix('npgan.')}.{type(subject).__name__}"

    def named(tensors: dict[str, Array]) -> dict[str, Array]:
        return {name.removeprefix("0.") if alone else name: tensor for name, tensor in tensors.items()}

    def bind(dtype: Any) -> Bound:
        twin = copied(make, net, dtype)
        work = {"x": x.astype(dtype), **named(twin.tensors)}

        def evaluate() -> tuple[Array, list[Array]]:
            y, cache = (twin.layers[0] if alone else twin).forward(work["x"], key)
            return (dy * y).sum(), kinks(twin, [cache] if alone else cache)

        return Bound(work, evaluate)

    def backward() -> tuple[dict[str, Array], Bind]:
        net.gradients[...] = JUNK
        dx = subject.backward(dy, subject.forward(x, key)[1])
        return {"x": dx, **named(net.gradient_tensors)}, bind

    def backward_input() -> tuple[dict[str, Array], Bind]:
        net.gradients[...] = JUNK
        return {"x": subject.backward_input(dy, subject.forward(x, key)[1])}, bind

    def left_alone() -> dict[str, tuple[Array, Array]]:
        backward_input()
        return {"gradients": (net.gradients, np.full_like(net.gradients, JUNK))}

    yield Check(level, f"{op}.backward", backward, case, tolerance, **more)
    if "backward_input" in vars(type(subject)):
        yield Check(level, f"{op}.backward_input", backward_input, case, tolerance, **more)
        yield FormulaCheck(level, f"{op}.backward_input", left_alone, case)


def copied(make: Make, net: Sequential, dtype: Any) -> Sequential:
    """The same network in another dtype, with parameters of its own."""
    twin = make(dtype)
    twin.parameters[...] = net.parameters
    return twin


def randomized(net: Sequential, rng: np.random.Generator) -> Sequential:
    """Glorot's weights as in training, but biases that are not 0: a check at 0 would not see them."""
    net.initialize(int(rng.integers(2**32)))
    for name, tensor in net.tensors.items():
        if name.endswith("bias"):
            tensor[...] = array_module(tensor).asarray(0.1 * rng.normal(size=tensor.shape))
    return net


def random_key(rng: np.random.Generator) -> DropoutKey:
    return DropoutKey(int(rng.integers(2**32)), int(rng.integers(1000)), 0)


def kinks(net: Sequential, caches: Sequence[Any]) -> list[Array]:
    """What branches go by: leaky ReLU's inputs, and how far apart maxout's pieces are. Their caches are their inputs."""
    found: list[Array] = []
    for layer, cache in zip(net.layers, caches, strict=True):
        if isinstance(layer, Sequential):
            found += kinks(layer, cache)
        elif isinstance(layer, LeakyReLU):
            found.append(cache)
        elif isinstance(layer, Maxout):
            pieces = np.sort(cache.real.reshape(len(cache), layer.pieces, -1), axis=1)
            found.append(pieces[:, -1] - pieces[:, -2])
    return found
