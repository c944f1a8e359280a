"""What every fused kernel computes, as a composition of ``ops``: any dtype, NumPy or CuPy. The other tables are held to it."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import Array, array_module
from npgan.data.batches import scale_pixels
from npgan.engines.schedule import Draw, FusedStep, InOrder, Parameters, Pass
from npgan.gan import LATENT_D, LATENT_G, loss_of
from npgan.nn import ops, philox
from npgan.nn.layers import Dense


class ReferenceKernels(InOrder):
    """``schedule.Kernels`` by ``ops``."""

    def __init__(self, dtype: Any = np.float64, xp: ModuleType = np) -> None:
        self.dtype, self.xp = dtype, xp

    def empty(self, rows: int, width: int) -> Array:
        return self.xp.empty((rows, width), self.dtype)

    def partial_sums(self, layer: Dense) -> int:
        return 1

    def inputs(self, step: FusedStep, real: Array, noise_d: Array, noise_g: Array) -> None:
        resident, config, done = step.resident, step.config, int(step.resident.step[0])
        start = done % len(resident.metrics) * config.batch_size
        real[...] = scale_pixels(resident.pixels[resident.order[start : start + len(real)]], self.dtype)
        for site, latent in ((LATENT_D, noise_d), (LATENT_G, noise_g)):
            draw = config.seed, philox.Stream.LATENT, done, site
            latent[...] = philox.normal(*draw, latent.shape, self.dtype, self.xp)

    def forward_leaky_relu(self, x: Array, layer: Dense, slope: float, y: Array) -> None:
        y[...] = ops.leaky_relu_forward(ops.dense_forward(x, layer.weight, layer.bias), slope)

    def forward_dropout(self, x: Array, layer: Dense, slope: float, draw: Draw, y: Array, dydz: Array) -> None:
        z = ops.dense_forward(x, layer.weight, layer.bias)
        where = draw.seed, philox.Stream.DROPOUT, int(draw.step[0]), draw.site
        bits = philox.random_halfwords(*where, z.size, array_module(z)).reshape(z.shape)
        mask = (bits >= draw.dropout.threshold) * z.dtype.type(draw.dropout.scale)
        y[...] = ops.dropout_forward(ops.leaky_relu_forward(z, slope), mask)
        dydz[...] = ops.leaky_relu_backward(mask, z, slope)

    def forward_tanh(self, x: Array, layer: Dense, y: Array) -> None:
        y[...] = ops.tanh_forward(ops.dense_forward(x, layer.weight, layer.bias))

    def head(self, p: Pass, layer: Dense, slope: float, logits: bool) -> None:
        x = p.y[-1]
        z = ops.dense_forward(x, layer.weight, layer.bias)
        if logits:
            p.output[...], p.output_dz[...] = z, ops.binary_cross_entropy_with_logits_backward(z, p.target)
        else:
            p.output[...] = ops.sigmoid_forward(z)
            dp = ops.binary_cross_entropy_backward(p.output, p.target)
            p.output_dz[...] = ops.sigmoid_backward(dp, p.output)
        if p.dydz:
            self.backward_dydz(p.output_dz, layer, p.dydz[-1], p.dz[-1])
        else:
            self.backward_leaky_relu(p.output_dz, layer, x, slope, p.dz[-1])

    def backward_leaky_relu(self, dz: Array, layer: Dense, y: Array, slope: float, dz_before: Array) -> None:
        """From y, because y > 0 exactly where z > 0."""
        dz_before[...] = ops.leaky_relu_backward(ops.dense_backward_dx(dz, layer.weight), y, slope)

    def backward_dydz(self, dz: Array, layer: Dense, dydz: Array, dz_before: Array) -> None:
        dz_before[...] = ops.dense_backward_dx(dz, layer.weight) * dydz

    def backward_tanh(self, dz: Array, layer: Dense, y: Array, dz_before: Array) -> None:
        dz_before[...] = ops.tanh_backward(ops.dense_backward_dx(dz, layer.weight), y)

    def update(self, x: Array, dz: Array, p: Parameters, step: Array) -> None:
        self.gradients(x, dz, p)
        self.adam(p, step)

    def gradients(self, x: Array, dz: Array, p: Parameters) -> None:
        p.layer.dweight[...], p.layer.dbias[...] = ops.dense_backward_params(dz, x)

    def adam(self, p: Parameters, step: Array) -> None:
        part = copy.copy(p.optimizer)
        part.m, part.v, part.step = p.m, p.v, int(step[0])
        part.update(p.parameter, p.gradient)
        p.squares[...] = np.dot(p.gradient, p.gradient)

    def finish(self, step: FusedStep) -> None:
        resident, d, g, b = step.resident, step.pass_d, step.pass_g, step.rows
        loss = loss_of(step.config)
        p = loss.probability(d.output)
        norms = (np.sqrt(squares.sum()) for squares in (step.squares_d, step.squares_g))
        row = resident.metrics[int(resident.step[0]) % len(resident.metrics)]
        losses = loss.forward(d.output, d.target), loss.forward(g.output, g.target)
        for column, value in enumerate((*losses, p[:b].mean(), p[b:].mean(), *norms)):
            row[column] = value
        resident.step[...] += 1
