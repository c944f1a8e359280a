"""The checks of ``gan.train_step``: on small networks in every element, over its settings, and on the real ones by sample.

What a step's gradient should be the derivative of is written down here once more, from the forwards alone (``StepLosses``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from npgan import gan
from npgan.backend import Array, array_module
from npgan.config import TrainConfig
from npgan.data.batches import scale_pixels
from npgan.gradcheck.adam import adam_factors, adam_formula
from npgan.gradcheck.check import Check, FormulaCheck
from npgan.gradcheck.hints import JUNK, Factor, Hint, rows_factors
from npgan.gradcheck.methods import Bind, Bound
from npgan.gradcheck.networks import TOLERANCE, Pair, kinks, randomized, real_pair, small_pair
from npgan.nn import philox
from npgan.nn.layers import DropoutKey
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam

PENALTIES: dict[str, Any] = {"loss": "relativistic", "r1": 0.5, "r2": 2.0, "dropout_in_g_step": True}
ALL_OPTIONS: dict[str, Any] = {"loss": "bce-logits", "dropout_in_g_step": True, "label_smoothing": 0.1, "beta1": 0.5}

_STEP = 3  # iterations done before the one that is checked
_CASES: dict[str, dict[str, Any]] = {
    "small": {},
    "target 0.9, dropout": {"label_smoothing": 0.1, "dropout_in_g_step": True},
    "target 0.9, logits": {"label_smoothing": 0.1, "loss": "bce-logits"},
    "small, all options": {**ALL_OPTIONS, "ema": 0.25},  # below (1 + t)/(10 + t)
    "logits, R1": {"loss": "bce-logits", "r1": 3.0},
    "relativistic, R1 and R2": {**PENALTIES, "ema": 0.999},  # above
}
_HALF_BATCH = [
    Factor(2.0, Hint("mean-sum", "twice too large: the mean is over real and fake rows together, not over each kind")),
    Factor(0.5, Hint("mean-sum", "half of what it should be: the mean is over the wrong number of rows")),
]


@dataclass(frozen=True)
class StepLosses:
    """The losses of the iteration after ``step`` others, each with what the forward's branches go by (``networks.kinks``).

    ``images`` (2b, pixels): real, then fake. Dropout's masks are those of the iteration's own keys.
    """

    config: TrainConfig
    step: int
    images: Array

    @property
    def key_d(self) -> DropoutKey:
        return DropoutKey(self.config.seed, self.step, gan.PASS_D)

    def of_d(self, d: Sequential) -> tuple[Array, list[Array]]:
        """What D should lower, with the gradient penalties."""
        config, xp, b = self.config, array_module(self.images), len(self.images) // 2
        output, caches = d.forward(self.images, self.key_d)
        target = xp.asarray(np.repeat([1.0 - config.label_smoothing, 0.0], b)[:, None])
        value = gan.loss_of(config).forward(output, target)
        if config.penalized:
            rate = xp.asarray(np.repeat([config.r1, config.r2], b)[:, None] / b)
            value = value + 0.5 * (rate * d.backward_input(xp.ones_like(output), caches) ** 2).sum()
        return value, kinks(d, caches)

    def of_g(self, g: Sequential, noise: Array, updated_d: Sequential) -> tuple[Array, list[Array]]:
        """What G should lower. ``updated_d``: D as it is after its own update."""
        fakes, caches = g.forward(noise)
        value, branches = self.of_fakes(fakes, updated_d)
        return value, [*kinks(g, caches), *branches]

    def of_fakes(self, fakes: Array, updated_d: Sequential) -> tuple[Array, list[Array]]:
        """``of_g`` as a function of G's images (B, pixels)."""
        config, xp = self.config, array_module(self.images)
        paired = self.images[: len(self.images) // 2 if config.loss == "relativistic" else 0]
        key = DropoutKey(config.seed, self.step, gan.PASS_G) if config.dropout_in_g_step else None
        output, caches = updated_d.forward(xp.concatenate([paired, fakes]), key)
        target = xp.asarray(np.repeat([0.0, 1.0], [len(paired), len(fakes)])[:, None])
        return gan.loss_of(config).forward(output, target), kinks(updated_d, caches)


def train_step_checks(rng: np.random.Generator, xp: ModuleType, real: bool) -> Iterator[Check | FormulaCheck]:
    """Every element of small networks for both losses, with dropout off and on in the G step; ``real``: the tutorial's."""
    config = TrainConfig(batch_size=5, latent_dim=3, seed=int(rng.integers(2**32)))
    for case, changes in _CASES.items():
        pair = small_pair(xp, logits="loss" in changes)
        yield from _checks(case, pair, replace(config, **changes), (3, 4), rng, xp)
    if real:
        config, shape = TrainConfig(batch_size=32, seed=config.seed), (32, gan.IMAGE_PIXELS)
        yield from _checks("real, 32 rows", real_pair(xp), config, shape, rng, xp, elements=6, directions=3)


def state_of(config: TrainConfig, g: Sequential, d: Sequential, step: int) -> gan.TrainState:
    """These networks after ``step`` iterations, with Adam's moments at 0."""
    settings = config.beta1, config.beta2, config.adam_epsilon
    optimizer_g = Adam(g, config.lr_g, *settings)
    optimizer_d = Adam(d, config.lr_d, *settings)
    optimizer_g.step = optimizer_d.step = step
    average = g.astype(g.parameters.dtype) if config.ema else None
    return gan.TrainState(g, d, optimizer_g, optimizer_d, step, average)


def _checks(
    case: str,
    pair: Pair,
    config: TrainConfig,
    shape: tuple[int, int],
    rng: np.random.Generator,
    xp: ModuleType,
    **more: Any,
) -> Iterator[Check | FormulaCheck]:
    """Shapes: pixels ``shape``, which is (b, pixels of an image)."""
    g, d = (randomized(net, rng) for net in pair)  # as they are before the step
    pixels = xp.asarray(rng.integers(0, 256, shape).astype(np.uint8))

    @functools.cache
    def ran() -> tuple[gan.TrainState, gan.StepMetrics]:
        nets = g.astype(np.float64), d.astype(np.float64)
        for net in nets:
            net.gradients[...] = JUNK
        state = state_of(config, *nets, _STEP)
        return state, gan.train_step(state, pixels, config)

    # The step again, as its definition: noise, images and targets from the config, and forwards alone.
    b, loss, pairs = len(pixels), gan.loss_of(config), config.loss == "relativistic"
    noise_d, noise_g = (
        philox.normal(config.seed, philox.Stream.LATENT, _STEP, site, (rows, config.latent_dim), np.float64, xp)
        for site, rows in ((gan.LATENT_D, b), (gan.LATENT_G, b if pairs else config.batch_size))
    )
    images = xp.concatenate([scale_pixels(pixels, np.float64), g(noise_d)])
    losses = StepLosses(config, _STEP, images)

    def loss_g(twin: Sequential) -> tuple[Array, list[Array]]:
        return losses.of_g(twin, noise_g, ran()[0].discriminator)

    def check(name: str, factors: list[Factor], net: str, bind: Bind) -> Check:
        def prepare() -> tuple[dict[str, Array], Bind]:
            gradients = dict(getattr(ran()[0], net).gradient_tensors)
            if pairs and net == "discriminator":
                gradients.popitem()  # the last bias falls out of every difference of two logits: 0, but for rounding
            return gradients, bind

        return Check("train_step", "gan.train_step", prepare, f"{name}, {case}", TOLERANCE, factors=factors, **more)

    bind_d, bind_g = _bind(d, losses.of_d), _bind(g, loss_g)
    yield check("D step", [*rows_factors(2 * b), *_HALF_BATCH], "discriminator", bind_d)
    yield check("G step", rows_factors(config.batch_size), "generator", bind_g)

    def updates_and_metrics() -> dict[str, tuple[Array, Array]]:
        state, metrics = ran()
        compared, norms = {}, []
        for name, before, after, adam in (
            ("D", d, state.discriminator, state.optimizer_d),
            ("G", g, state.generator, state.optimizer_g),
        ):
            zero = xp.zeros_like(before.parameters)
            lr = config.lr_d if name == "D" else config.lr_g
            settings = lr, config.beta1, config.beta2, config.adam_epsilon
            change, m, v = adam_formula(after.gradients, zero, zero, _STEP + 1, *settings)
            compared[f"{name}'s change"] = after.parameters - before.parameters, change
            compared[f"{name}'s m"], compared[f"{name}'s v"] = (adam.m, m), (adam.v, v)
            norms.append((after.gradients**2).sum() ** 0.5)
        compared["steps done"] = xp.asarray([state.step]), xp.asarray([_STEP + 1])
        if state.average is not None:
            kept = min(config.ema, (1 + _STEP) / (10 + _STEP))
            average = kept * g.parameters + (1 - kept) * state.generator.parameters
            compared["G's average"] = state.average.parameters, average
        p = loss.probability(d.forward(images, losses.key_d)[0])
        expected = losses.of_d(d)[0], loss_g(g)[0], p[:b].mean(), p[b:].mean(), *norms
        for name, got, wanted in zip(metrics._fields, metrics, expected, strict=True):
            compared[name] = xp.asarray(got), xp.asarray(wanted)
        return compared

    factors = adam_factors(_STEP + 1, config.beta1, config.beta2)
    yield FormulaCheck("train_step", "gan.train_step", updates_and_metrics, f"updates, {case}", TOLERANCE, factors)


def _bind(net: Sequential, loss: Callable[[Sequential], tuple[Array, list[Array]]]) -> Bind:
    """``loss`` as a function of the network's parameters."""

    def bind(dtype: Any) -> Bound:
        twin = net.astype(dtype)
        return Bound(twin.tensors, lambda: loss(twin))

    return bind
