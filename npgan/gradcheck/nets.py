"""The checks of whole networks and of the training step: small ones in every element, the real ones by sample.

What a step's gradient should be the derivative of is written down here once more, from the forwards alone: the D step's
loss as a function of D's parameters, the G step's as a function of G's. Dropout's masks are those of the step's own keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npgan import gan as training
from npgan.backend import Array
from npgan.config import TrainConfig
from npgan.data.mnist import scale_pixels
from npgan.gradcheck.check import Check, FormulaCheck
from npgan.gradcheck.hints import JUNK, Factor, Hint, rows_factors
from npgan.gradcheck.maths import RATE, SLOPE, adam_factors, adam_formula
from npgan.gradcheck.methods import Bind, Bound
from npgan.nn import network as networks
from npgan.nn.layers import Dense, Dropout, DropoutKey, LeakyReLU, Sigmoid, Tanh
from npgan.nn.losses import Loss
from npgan.nn.network import IMAGE_PIXELS, Sequential
from npgan.nn.optim import Adam

Make = Callable[[Any], Sequential]  # dtype → a network with all parameters 0

TOLERANCE = 1e-10
_HALF_BATCH = [
    Factor(2.0, Hint("mean-sum", "twice too large: the mean is over real and fake rows together, not over each kind")),
    Factor(0.5, Hint("mean-sum", "half of what it should be: the mean is over the wrong number of rows")),
]


class Pair(NamedTuple):
    """How to make the generator and the discriminator of a check, in any dtype."""

    generator: Make
    discriminator: Make


def small_pair(xp: Any, latent: int, pixels: int, logits: bool) -> Pair:
    """The same layers as the real networks in the same order, a few units each."""

    def make_d(dtype: Any) -> Sequential:
        layers: list[Any] = [Dense(pixels, 5), LeakyReLU(SLOPE), Dropout(RATE, 0)]
        layers += [Dense(5, 4), LeakyReLU(SLOPE), Dropout(RATE, 1), Dense(4, 1)]
        return Sequential(layers if logits else [*layers, Sigmoid()], pixels, dtype, xp)

    def make_g(dtype: Any) -> Sequential:
        layers: list[Any] = [
            Dense(latent, 4),
            LeakyReLU(SLOPE),
            Dense(4, 6),
            LeakyReLU(SLOPE),
            Dense(6, pixels),
            Tanh(),
        ]
        return Sequential(layers, latent, dtype, xp)

    return Pair(make_g, make_d)


def real_pair(xp: Any, config: TrainConfig) -> Pair:
    """The two networks that training builds for ``config``."""
    logits = config.loss == "bce-logits"
    return Pair(
        lambda dtype: networks.generator(config.latent_dim, config.leaky_slope, dtype, xp),
        lambda dtype: networks.discriminator(config.dropout, config.leaky_slope, logits, dtype, xp),
    )


def network_checks(rng: np.random.Generator, xp: Any, real: bool) -> Iterator[Check]:
    """``Sequential.backward`` on small networks and, with ``real``, on the tutorial's."""
    small = small_pair(xp, latent=3, pixels=4, logits=False)
    op = "networks.Sequential.backward"
    yield _network_check(op, "small generator", small.generator, 5, None, rng, xp)
    yield _network_check(op, "small discriminator", small.discriminator, 5, random_key(rng), rng, xp)
    if real:
        pair = real_pair(xp, TrainConfig())
        for name, make, key in (
            ("generator", pair.generator, None),
            ("discriminator", pair.discriminator, random_key(rng)),
        ):
            yield _network_check(op, f"real {name}, 8 rows", make, 8, key, rng, xp, elements=6, directions=3)


def _network_check(
    op: str, case: str, make: Make, rows: int, key: DropoutKey | None, rng: np.random.Generator, xp: Any, **more: Any
) -> Check:
    net = randomised(make(np.float64), rng)
    x = xp.asarray(rng.normal(size=(rows, net.input_width)))
    dy = xp.asarray(rng.normal(size=(rows, net.widths[-1])))

    def prepare() -> tuple[dict[str, Array], Bind]:
        buffers = net.allocate(rows)
        for buffer in (*buffers.y, *buffers.dx, net.gradients):
            buffer[...] = JUNK
        _, caches = net.forward(x, key, buffers)
        dx = net.backward(dy, caches, buffers=buffers)

        def bind(dtype: Any) -> Bound:
            twin = _twin(make, net, dtype)
            work = {"x": x.astype(dtype), **twin.tensors}

            def evaluate() -> tuple[Array, list[Array]]:
                y, caches = twin.forward(work["x"], key)
                return (dy * y).sum(), _kinks(twin, caches)

            return Bound(work, evaluate)

        return {"x": dx, **net.gradient_tensors}, bind

    return Check("network", op, prepare, case, TOLERANCE, factors=rows_factors(rows), **more)


def step_checks(rng: np.random.Generator, xp: Any) -> Iterator[Check | FormulaCheck]:
    """``training``'s two gradient functions, on small networks, for both losses: every element."""
    for name in ("bce", "bce-logits"):
        loss = training.loss_of(TrainConfig(loss=name))
        pair = small_pair(xp, latent=3, pixels=4, logits=name == "bce-logits")
        yield _d_step_check(name, loss, pair, rng, xp)
        for key in (None, random_key(rng)):
            yield from _g_step_checks(f"{name}, dropout {'on' if key else 'off'}", loss, pair, key, rng, xp)


def _d_step_check(name: str, loss: Loss, pair: Pair, rng: np.random.Generator, xp: Any) -> Check:
    d, b = randomised(pair.discriminator(np.float64), rng), 3
    images = xp.asarray(rng.uniform(-1.0, 1.0, (2 * b, d.input_width)))
    target = xp.asarray(np.repeat([0.9, 0.0], b).reshape(2 * b, 1))
    key = random_key(rng)

    def prepare() -> tuple[dict[str, Array], Bind]:
        d.gradients[...] = JUNK
        training.discriminator_gradients(d, loss, images, target, key)
        return d.gradient_tensors, _d_loss(pair, d, loss, images, target, key)

    factors = [*rows_factors(2 * b), *_HALF_BATCH]
    case = f"{name}, target 0.9"
    return Check("step", "training.discriminator_gradients", prepare, case, TOLERANCE, factors=factors)


def _g_step_checks(
    case: str, loss: Loss, pair: Pair, key: DropoutKey | None, rng: np.random.Generator, xp: Any
) -> Iterator[Check | FormulaCheck]:
    g, d = (randomised(make(np.float64), rng) for make in pair)
    z, ones = xp.asarray(rng.normal(size=(3, g.input_width))), xp.ones((3, 1))

    def prepare() -> tuple[dict[str, Array], Bind]:
        g.gradients[...] = JUNK
        d.gradients[...] = JUNK
        fakes, caches = g.forward(z)
        training.generator_gradients(g, d, loss, fakes, caches, ones, key)
        return g.gradient_tensors, _g_loss(pair, g, d.parameters, loss, z, ones, key)

    def d_left_alone() -> dict[str, tuple[Array, Array]]:
        prepare()
        return {"D's gradients": (d.gradients, xp.full_like(d.gradients, JUNK))}

    op = "training.generator_gradients"
    yield Check("step", op, prepare, case, TOLERANCE, factors=rows_factors(3))
    yield FormulaCheck("step", op, d_left_alone, case)


def train_step_checks(rng: np.random.Generator, xp: Any, real: bool) -> Iterator[Check | FormulaCheck]:
    """The whole of ``train_step``: small networks over the settings, and with ``real`` the tutorial's own networks."""
    seed = int(rng.integers(2**32))
    tutorial = TrainConfig(batch_size=5, latent_dim=3, seed=seed)
    options = TrainConfig(
        batch_size=5, latent_dim=3, seed=seed, loss="bce-logits", dropout_in_g_step=True, label_smoothing=0.1, beta1=0.5
    )
    for case, config in (("small", tutorial), ("small, all options", options)):
        pair = small_pair(xp, config.latent_dim, IMAGE_PIXELS, logits=config.loss == "bce-logits")
        yield from _train_step_checks(case, pair, config, 3, rng, xp, elements=12)
    if real:
        config = TrainConfig(batch_size=32, seed=seed)
        yield from _train_step_checks("real, 32 rows", real_pair(xp, config), config, 32, rng, xp, elements=6)


class _Ran(NamedTuple):
    """One ``train_step``: parameters before and after, gradients, what it reported."""

    before: dict[str, Array]
    after: dict[str, Array]
    gradients: dict[str, dict[str, Array]]
    flat_gradients: dict[str, Array]
    metrics: training.StepMetrics


def _train_step_checks(
    case: str, pair: Pair, config: TrainConfig, rows: int, rng: np.random.Generator, xp: Any, elements: int
) -> Iterator[Check | FormulaCheck]:
    g, d = (randomised(make(np.float64), rng) for make in pair)
    start = {"G": g.parameters.copy(), "D": d.parameters.copy()}
    pixels = xp.asarray(rng.integers(0, 256, (rows, IMAGE_PIXELS)).astype(np.uint8))
    step, betas = 3, (config.beta1, config.beta2, config.adam_epsilon)

    @functools.cache
    def ran() -> _Ran:
        g.parameters[...], d.parameters[...] = start["G"], start["D"]
        adams = (
            Adam.for_parameters(g.parameters, config.lr_g, *betas),
            Adam.for_parameters(d.parameters, config.lr_d, *betas),
        )
        state = training.TrainState(g, d, *adams, step)
        workspace = training.new_workspace(state, config, rows)
        for part in (workspace.generator, workspace.discriminator_d, workspace.discriminator_g):
            for buffer in (*part.y, *part.dx):
                if buffer is not None:
                    buffer[...] = JUNK
        g.gradients[...], d.gradients[...] = JUNK, JUNK
        metrics = training.train_step(state, pixels, config, workspace)
        return _Ran(
            start,
            {"G": g.parameters.copy(), "D": d.parameters.copy()},
            {"G": g.gradient_tensors, "D": d.gradient_tensors},
            {"G": g.gradients, "D": d.gradients},
            metrics,
        )

    # The step again, as its definition: images and targets from the config, no buffers, no caches.
    loss = training.loss_of(config)
    latent = xp.empty((rows + config.batch_size, config.latent_dim))
    training.draw_latent(config, step, latent, rows)
    real_images = scale_pixels(pixels, dtype=np.float64)
    fakes = g.forward(latent[:rows])[0]
    images = xp.concatenate([real_images, fakes])
    target = xp.asarray(np.repeat([1.0 - config.label_smoothing, 0.0], rows).reshape(2 * rows, 1))
    ones = xp.ones((config.batch_size, 1))
    key_d = DropoutKey(config.seed, step, training.PASS_D)
    key_g = DropoutKey(config.seed, step, training.PASS_G) if config.dropout_in_g_step else None
    d_start = _twin(pair.discriminator, d, np.float64)
    g_start = _twin(pair.generator, g, np.float64)
    d_loss = _d_loss(pair, d_start, loss, images, target, key_d)

    def g_loss() -> Bind:
        return _g_loss(pair, g_start, ran().after["D"], loss, latent[rows:], ones, key_g)

    def check(name: str, factors: list[Factor], bind: Callable[[], Bind]) -> Check:
        def prepare() -> tuple[dict[str, Array], Bind]:
            return ran().gradients[name], bind()

        full_case = f"{name} step, {case}"
        more: dict[str, Any] = {"elements": elements, "directions": 3, "factors": factors}
        return Check("train_step", "training.train_step", prepare, full_case, TOLERANCE, **more)

    yield check("D", [*rows_factors(2 * rows), *_HALF_BATCH], lambda: d_loss)
    yield check("G", rows_factors(config.batch_size), g_loss)

    def adam_and_losses() -> dict[str, tuple[Array, Array]]:
        r = ran()
        compared = {}
        for name, lr in (("D", config.lr_d), ("G", config.lr_g)):
            zero = xp.zeros_like(r.before[name])
            change, _, _ = adam_formula(r.flat_gradients[name], zero, zero, 1, lr, *betas)
            compared[f"{name}'s change"] = (r.after[name] - r.before[name], change)
        compared["loss_d"] = (xp.asarray(r.metrics.loss_d), xp.asarray(d_loss(np.float64).evaluate()[0]))
        compared["loss_g"] = (xp.asarray(r.metrics.loss_g), xp.asarray(g_loss()(np.float64).evaluate()[0]))
        return compared

    factors = adam_factors(1, config.beta1, config.beta2)
    yield FormulaCheck("train_step", "training.train_step", adam_and_losses, f"updates, {case}", TOLERANCE, factors)


def _d_loss(pair: Pair, d: Sequential, loss: Loss, images: Array, target: Array, key: DropoutKey | None) -> Bind:
    """The D step's loss as a function of D's parameters."""

    def bind(dtype: Any) -> Bound:
        twin = _twin(pair.discriminator, d, dtype)

        def evaluate() -> tuple[Array, list[Array]]:
            output, caches = twin.forward(images, key)
            return loss.forward(output, target), _kinks(twin, caches)

        return Bound(twin.tensors, evaluate)

    return bind


def _g_loss(
    pair: Pair, g: Sequential, d_parameters: Array, loss: Loss, z: Array, target: Array, key: DropoutKey | None
) -> Bind:
    """The G step's loss as a function of G's parameters, through a fixed D."""

    def bind(dtype: Any) -> Bound:
        twin, d = _twin(pair.generator, g, dtype), pair.discriminator(np.float64)
        d.parameters[...] = d_parameters

        def evaluate() -> tuple[Array, list[Array]]:
            images, caches = twin.forward(z)
            output, d_caches = d.forward(images, key)
            return loss.forward(output, target), _kinks(twin, caches) + _kinks(d, d_caches)

        return Bound(twin.tensors, evaluate)

    return bind


def _twin(make: Make, net: Sequential, dtype: Any) -> Sequential:
    """The same network in another dtype, with parameters of its own."""
    twin = make(dtype)
    twin.parameters[...] = net.parameters
    return twin


def randomised(net: Sequential, rng: np.random.Generator) -> Sequential:
    """Glorot's weights as in training, but biases that are not 0: a check at 0 would not see them."""
    net.initialise(int(rng.integers(2**32)), 0)
    for name, tensor in net.tensors.items():
        if name.endswith("bias"):
            tensor[...] = net.xp.asarray(0.1 * rng.normal(size=tensor.shape))
    return net


def _kinks(net: Sequential, caches: list[Any]) -> list[Array]:
    """What leaky ReLU's branches go by: its inputs."""
    pairs = zip(net.layers, caches, strict=True)
    return [cache.x for layer, cache in pairs if isinstance(layer, LeakyReLU)]


def random_key(rng: np.random.Generator) -> DropoutKey:
    return DropoutKey(int(rng.integers(2**32)), int(rng.integers(1000)), 0)
