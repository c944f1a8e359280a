"""The training step. Start reading here: everything a step does is in ``train_step``, then ``networks``, then ``ops``.

Letters: B is the batch size, b ≤ B the rows of this batch (the last one of an epoch is shorter), Z the latent size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from npgan.nn import philox as random
from npgan.backend import Backend, array_module
from npgan.config import TrainConfig
from npgan.data.mnist import batch_bounds, iterations_per_epoch
from npgan.engines import REFERENCE, Kernels
from npgan.nn.layers import DropoutKey
from npgan.nn.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, Loss
from npgan.nn.network import (
    IMAGE_PIXELS,
    Buffers,
    Sequential,
    discriminator,
    generator,
    paper_discriminator,
    paper_generator,
    take_rows,
)
from npgan.nn.optim import Optimiser, optimiser_for

Array = Any  # numpy.ndarray or cupy.ndarray

DISCRIMINATOR_SITE = 1000  # where the discriminator's initial draws start, past the generator's
LATENT_D, LATENT_G = 0, 1  # sites of the two noise batches of a step
PASS_D, PASS_G = 0, 1  # the discriminator's forward passes that may use dropout


@dataclass
class TrainState:
    """All that training changes. With the config and the data it decides every later step."""

    generator: Sequential
    discriminator: Sequential
    adam_g: Optimiser  # Adam, or what the config asks for
    adam_d: Optimiser
    step: int  # iterations done


class StepMetrics(NamedTuple):
    """What one iteration measured: 0-dimensional arrays or floats, left on the device."""

    loss_d: Array
    loss_g: Array
    d_real: Array  # mean D(x) over the real rows, with dropout on, before D's update
    d_fake: Array  # mean D(G(z)) over the D step's fakes, likewise
    grad_norm_d: Array  # Euclidean norm of all of D's gradients
    grad_norm_g: Array


class Workspace(NamedTuple):
    """Room for one iteration with batches of b rows, allocated once and used again in every step.

    The three kinds of images lie one after the other, so G's tanh writes straight into D's input and nothing is copied:
    rows [0, b) real, [b, 2b) fakes for the D step, [2b, 2b + B) fakes for the G step.
    """

    pixels: Array  # (b, 784) uint8: the batch as it lies in the data set
    images: Array  # (2b + B, 784)
    latent: Array  # (b + B, Z): noise for the D step's fakes, then for the G step's
    generator: Buffers  # forward b + B rows, backward B rows
    discriminator_d: Buffers  # 2b rows
    discriminator_g: Buffers  # B rows
    target_d: Array  # (2b, 1): 1 for real (less with label smoothing), 0 for fake
    target_g: Array  # (B, 1): 1, what G wants D to say


def loss_of(config: TrainConfig, kernels: Kernels = REFERENCE) -> Loss:
    return BinaryCrossEntropyWithLogits() if config.loss == "bce-logits" else BinaryCrossEntropy(kernels)


def new_networks(
    config: TrainConfig, backend: Backend, dtype: Any = np.float32, kernels: Kernels = REFERENCE
) -> tuple[Sequential, Sequential]:
    """The generator and the discriminator of ``config``, with all parameters 0."""
    if config.networks == "paper-2014":
        rates = (config.input_dropout, config.dropout)
        return (
            paper_generator(config.latent_dim, dtype, backend.xp, kernels),
            paper_discriminator(*rates, config.loss == "bce-logits", dtype, backend.xp, kernels),
        )
    return (
        generator(config.latent_dim, config.leaky_slope, dtype, backend.xp, kernels),
        discriminator(config.dropout, config.leaky_slope, config.loss == "bce-logits", dtype, backend.xp, kernels),
    )


def new_state(
    config: TrainConfig, backend: Backend, dtype: Any = np.float32, kernels: Kernels = REFERENCE
) -> TrainState:
    """The state before the first iteration: weights drawn from the config's seed, Adam's moments 0."""
    g, d = new_networks(config, backend, dtype, kernels)
    g.initialise(config.seed, 0)
    d.initialise(config.seed, DISCRIMINATOR_SITE)
    adam_g = optimiser_for(config, g.parameters, config.lr_g, g.kernels)
    adam_d = optimiser_for(config, d.parameters, config.lr_d, d.kernels)
    return TrainState(g, d, adam_g, adam_d, step=0)


def new_workspace(state: TrainState, config: TrainConfig, rows: int) -> Workspace:
    """Buffers for iterations whose batch has ``rows`` real images."""
    g, d, batch = state.generator, state.discriminator, config.batch_size
    xp, dtype = g.xp, g.parameters.dtype
    images = g.empty(2 * rows + batch, IMAGE_PIXELS)
    target_d = xp.zeros((2 * rows, 1), dtype=dtype)
    target_d[:rows] = 1.0 - config.label_smoothing
    return Workspace(
        pixels=xp.empty((rows, IMAGE_PIXELS), dtype=np.uint8),
        images=images,
        latent=xp.empty((rows + batch, config.latent_dim), dtype=dtype),
        generator=g.allocate(rows + batch, backward_rows=batch, output=images[rows:]),
        discriminator_d=d.allocate(2 * rows),
        discriminator_g=d.allocate(batch),
        target_d=target_d,
        target_g=xp.ones((batch, 1), dtype=dtype),
    )


def train_step(state: TrainState, pixels: Array, config: TrainConfig, workspace: Workspace) -> StepMetrics:
    """One iteration: a D step, then a G step. Updates ``state`` in place. Shapes: pixels (b, 784) uint8.

    Goodfellow et al. 2014, algorithm 1 with k = 1, as the Flux tutorial has it: one batch of real and fake rows for D.
    """
    g, d, w = state.generator, state.discriminator, workspace
    b = pixels.shape[0]
    kernels = g.kernels
    loss = loss_of(config, kernels)

    # The images of this step. D's update does not touch G, so both noise batches go through G as one batch.
    kernels.chains.scale_pixels(pixels, out=w.images[:b])
    draw_latent(config, state.step, w.latent, b, kernels)
    _, g_caches = g.forward(w.latent, buffers=w.generator)  # writes w.images[b:]

    # D step: tell real from fake. No gradient goes into G, so the images' own gradient is not needed.
    dropout = DropoutKey(config.seed, state.step, PASS_D)
    loss_d, output = discriminator_gradients(d, loss, w.images[: 2 * b], w.target_d, dropout, w.discriminator_d)
    grad_norm_d = state.adam_d.update(d.parameters, d.gradients)

    # G step: make the updated D say "real". Dropout is off unless asked for.
    dropout_g = DropoutKey(config.seed, state.step, PASS_G) if config.dropout_in_g_step else None
    loss_g = generator_gradients(
        g, d, loss, w.images[2 * b :], take_rows(g_caches, slice(b, None)), w.target_g, dropout_g, w
    )
    grad_norm_g = state.adam_g.update(g.parameters, g.gradients)

    state.step += 1
    probability = loss.probability(output)
    d_real, d_fake = np.mean(probability[:b]), np.mean(probability[b:])
    return StepMetrics(loss_d, loss_g, d_real, d_fake, grad_norm_d, grad_norm_g)


def discriminator_gradients(
    d: Sequential, loss: Loss, images: Array, target: Array, dropout: DropoutKey | None, buffers: Buffers | None = None
) -> tuple[Array, Array]:
    """∂L/∂(D's parameters) into ``d.gradients``. Shapes: images (2b, 784), target (2b, 1) → loss (), output (2b, 1)."""
    output, caches = d.forward(images, dropout, buffers)
    d.backward(loss.backward(output, target), caches, need_dx=False, buffers=buffers)
    return loss.forward(output, target), output


def generator_gradients(
    g: Sequential,
    d: Sequential,
    loss: Loss,
    images: Array,
    g_caches: list[Any],
    target: Array,
    dropout: DropoutKey | None = None,
    workspace: Workspace | None = None,
) -> Array:
    """∂L/∂(G's parameters) into ``g.gradients``, through a D that is left as it is. Returns the loss ().

    Shapes: images (B, 784), G's result, whose forward left ``g_caches``; target (B, 1).
    """
    d_buffers = workspace.discriminator_g if workspace else None
    output, d_caches = d.forward(images, dropout, d_buffers)
    dimages = d.backward(loss.backward(output, target), d_caches, need_params=False, buffers=d_buffers)
    g.backward(dimages, g_caches, need_dx=False, buffers=workspace.generator if workspace else None)
    return loss.forward(output, target)


def draw_latent(config: TrainConfig, step: int, latent: Array, rows: int, kernels: Kernels = REFERENCE) -> None:
    """Fills ``latent`` (b + B, Z) with the noise of iteration ``step``: ``rows`` rows for the D step, the rest for G's."""
    for site, part in ((LATENT_D, latent[:rows]), (LATENT_G, latent[rows:])):
        xp = array_module(part)
        kernels.chains.normal(config.seed, random.Stream.LATENT, step, site, part.shape, part.dtype, xp, out=part)


def iterate(
    state: TrainState, images: Array, config: TrainConfig, workspaces: dict[int, Workspace] | None = None
) -> Iterator[StepMetrics]:
    """Trains from ``state.step`` to the config's last epoch, handing over after every iteration. Shapes: images (M, 784).

    Which images an iteration sees depends on the seed and the iteration alone, so it may start anywhere.
    ``workspaces``: where the workspaces are put, by rows, for a caller who wants to look at what an iteration computed.
    """
    count = images.shape[0]
    per_epoch = iterations_per_epoch(count, config.batch_size)
    workspaces = {} if workspaces is None else workspaces
    order: Array = None
    order_epoch = -1
    while state.step < config.epochs * per_epoch:
        epoch, iteration = divmod(state.step, per_epoch)
        if epoch != order_epoch:
            order, order_epoch = random.permutation(config.seed, epoch, count, state.generator.xp), epoch
        batch = order[batch_bounds(iteration, count, config.batch_size)]
        rows = batch.shape[0]
        if rows not in workspaces:
            workspaces[rows] = new_workspace(state, config, rows)
        workspace = workspaces[rows]
        pixels = state.generator.kernels.chains.gather_rows(images, batch, out=workspace.pixels)
        yield train_step(state, pixels, config, workspace)


def sample(g: Sequential, latent: Array) -> Array:
    """Images (N, 784) in [−1, 1] for noise (N, Z)."""
    return g.forward(latent)[0]
