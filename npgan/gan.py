"""The GAN and its training step. Start reading here: everything that an iteration does is in ``train_step``.

Letters: B is the batch size, b ≤ B the rows of this batch (the last one of an epoch is shorter), Z the latent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from npgan import expect
from npgan.backend import Array, Backend, array_module
from npgan.config import TrainConfig
from npgan.data.batches import scale_pixels
from npgan.nn import philox
from npgan.nn.layers import Dense, Dropout, DropoutKey, LeakyReLU, Sigmoid, Tanh
from npgan.nn.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, Loss, Relativistic
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam

DEFAULTS = TrainConfig()
IMAGE_PIXELS = 784  # 28 × 28
DISCRIMINATOR_SITE = 1000  # where the discriminator's initial draws start, past the generator's
LATENT_D, LATENT_G = 0, 1  # sites of the two noise batches of a step
PASS_D, PASS_G = 0, 1  # the discriminator's forward passes that may use dropout


def generator(
    config: TrainConfig = DEFAULTS, dtype: Any = np.float32, xp: ModuleType = np, drawn: bool = True
) -> Sequential:
    """Noise (N, Z) → images (N, 784), pixels in (−1, 1). Weights drawn from the config's seed, or all 0."""
    slope = config.leaky_slope
    layers = [
        Dense(config.latent_dim, 256), LeakyReLU(slope),
        Dense(256, 512), LeakyReLU(slope),
        Dense(512, 1024), LeakyReLU(slope),
        Dense(1024, IMAGE_PIXELS), Tanh(),
    ]  # fmt: skip
    return Sequential(layers, dtype, xp, config.seed if drawn else None)


def discriminator(
    config: TrainConfig = DEFAULTS, dtype: Any = np.float32, xp: ModuleType = np, drawn: bool = True
) -> Sequential:
    """Images (N, 784) → the probability that each is real (N, 1) or, for the losses on logits, its logit: no sigmoid."""
    slope, dropout = config.leaky_slope, config.dropout
    layers = [
        Dense(IMAGE_PIXELS, 1024), LeakyReLU(slope), Dropout(dropout),
        Dense(1024, 512), LeakyReLU(slope), Dropout(dropout),
        Dense(512, 256), LeakyReLU(slope), Dropout(dropout),
        Dense(256, 1), Sigmoid(),
    ]  # fmt: skip
    layers = layers if config.loss == "bce" else layers[:-1]
    return Sequential(layers, dtype, xp, config.seed if drawn else None, DISCRIMINATOR_SITE)


@dataclass
class TrainState:
    """All that training changes. With the config and the data it decides every later step."""

    generator: Sequential
    discriminator: Sequential
    optimizer_g: Adam
    optimizer_d: Adam
    step: int = 0  # iterations done
    average: Sequential | None = None  # with ``config.ema``: a G whose parameters are the average of G's over the steps

    @property
    def sampler(self) -> Sequential:
        """The generator that samples are drawn with."""
        return self.average or self.generator


class StepMetrics(NamedTuple):
    """What one iteration measured: 0-dimensional arrays, left on the device."""

    loss_d: Array  # what D minimizes: with its penalties
    loss_g: Array
    d_real: Array  # mean D(x) over the real rows, with dropout on, before D's update
    d_fake: Array  # mean D(G(z)) over the D step's fakes, likewise
    grad_norm_d: Array  # Euclidean norm of all of D's gradients
    grad_norm_g: Array


def new_state(config: TrainConfig, backend: Backend, dtype: Any = np.float32) -> TrainState:
    """The state before the first iteration: weights drawn from the config's seed, Adam's moments 0."""
    g, d = generator(config, dtype, backend.xp), discriminator(config, dtype, backend.xp)
    settings = config.beta1, config.beta2, config.adam_epsilon
    average = g.astype(dtype) if config.ema else None
    return TrainState(g, d, Adam(g, config.lr_g, *settings), Adam(d, config.lr_d, *settings), 0, average)


def train_step(state: TrainState, pixels: Array, config: TrainConfig) -> StepMetrics:
    """One iteration: a D step, then a G step. Updates ``state`` in place. Shapes: pixels (b, 784) uint8.

    Goodfellow et al. 2014, algorithm 1 with k = 1, in the form of the Flux tutorial: real and fake rows are one batch for
    D, G minimizes −log D(G(z)), which section 3 of the paper recommends, and Adam does the updates.
    """
    g, d = state.generator, state.discriminator
    loss = loss_of(config)

    # D step: tell b real rows from b fakes. G is left alone: its fakes are just images here.
    real = scale_pixels(pixels, g.parameters.dtype)
    b = len(real)
    fake, _ = g.forward(noise(state, config, LATENT_D, b))
    expect.rows_of_floats("the data", real, width=fake.shape[1])
    output, caches = d.forward(np.concatenate([real, fake]), DropoutKey(config.seed, state.step, PASS_D))
    target = np.zeros_like(output)
    target[:b] = 1.0 - config.label_smoothing
    d.backward(loss.backward(output, target), caches)
    penalty = 0.0
    if config.penalized:
        rate = np.full_like(output, config.r2 / b)
        rate[:b] = config.r1 / b
        penalty = d.gradient_penalty(rate, caches)  # R1 on the real rows, R2 on the fakes: D pays for steep slopes
    state.optimizer_d.update(d.parameters, d.gradients)

    # G step: make the updated D say "real". The gradient goes through D, whose own gradients nobody needs, into G.
    pairs = config.loss == "relativistic"  # "more real than this real image", each fake beside a real row
    fake, g_caches = g.forward(noise(state, config, LATENT_G, b if pairs else config.batch_size))
    key = DropoutKey(config.seed, state.step, PASS_G) if config.dropout_in_g_step else None
    shown = np.concatenate([real, fake]) if pairs else fake
    output_g, d_caches = d.forward(shown, key)
    target_g = np.ones_like(output_g)
    target_g[: -len(fake)] = 0.0
    dshown = d.backward_input(loss.backward(output_g, target_g), d_caches)
    g.backward(dshown[-len(fake) :], g_caches)
    state.optimizer_g.update(g.parameters, g.gradients)
    if state.average is not None:
        average = state.average.parameters
        average += (1.0 - kept_of_average(config.ema, state.step)) * (g.parameters - average)

    state.step += 1
    p = loss.probability(output)
    norms = (np.sqrt(np.dot(net.gradients, net.gradients)) for net in (d, g))
    losses = loss.forward(output, target) + penalty, loss.forward(output_g, target_g)
    return StepMetrics(*losses, p[:b].mean(), p[b:].mean(), *norms)


def noise(state: TrainState, config: TrainConfig, site: int, rows: int) -> Array:
    """The noise (rows, Z) of this iteration's D step or G step: standard normal."""
    like = state.generator.parameters
    shape, xp = (rows, config.latent_dim), array_module(like)
    return philox.normal(config.seed, philox.Stream.LATENT, state.step, site, shape, like.dtype, xp)


def kept_of_average(ema: float, step: int) -> float:
    """The share of itself that the average keeps: ``ema``, but less at first, so that the first weights are soon forgotten."""
    return min(ema, (1.0 + step) / (10.0 + step))


def loss_of(config: TrainConfig) -> Loss:
    losses = {"bce": BinaryCrossEntropy, "bce-logits": BinaryCrossEntropyWithLogits, "relativistic": Relativistic}
    return losses[config.loss]()
