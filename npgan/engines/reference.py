"""What every fused kernel computes, as a composition of ``ops``: any dtype, NumPy or CuPy. The other tables are held to it."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import Array, array_module
from npgan.data.batches import scale_pixels
from npgan.engines.schedule import Draw, FusedStep, InOrder, Parameters, Pass, Penalty
from npgan.gan import LATENT_D, LATENT_G, kept_of_average, loss_of
from npgan.nn import ops, philox
from npgan.nn.layers import Dense
from npgan.nn.losses import BinaryCrossEntropy, Loss


class ReferenceKernels(InOrder):
    """``schedule.Kernels`` by ``ops``."""

    draws_from_any_row = True

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
        before = draw.first * layer.out_features
        bits = philox.random_halfwords(*where, before + z.size, array_module(z))[before:].reshape(z.shape)
        mask = (bits >= draw.dropout.threshold) * z.dtype.type(draw.dropout.scale)
        y[...] = ops.dropout_forward(ops.leaky_relu_forward(z, slope), mask)
        dydz[...] = ops.leaky_relu_backward(mask, z, slope)

    def forward_tanh(self, x: Array, layer: Dense, y: Array) -> None:
        y[...] = ops.tanh_forward(ops.dense_forward(x, layer.weight, layer.bias))

    def head(self, p: Pass, layer: Dense, slope: float, loss: Loss) -> None:
        x = p.y[-1]
        z = ops.dense_forward(x, layer.weight, layer.bias)
        if loss.name == BinaryCrossEntropy().name:
            p.output[...] = ops.sigmoid_forward(z)
            p.output_dz[...] = ops.sigmoid_backward(loss.backward(p.output, p.target), p.output)
        else:
            p.output[...], p.output_dz[...] = z, loss.backward(z, p.target)
        if p.dydz:
            self.backward_dydz(p.start, layer, p.dydz[-1], p.dz[-1])
        else:
            self.backward_leaky_relu(p.start, layer, x, slope, p.dz[-1])

    def backward_leaky_relu(self, dz: Array, layer: Dense, y: Array, slope: float, dz_before: Array) -> None:
        """From y, because y > 0 exactly where z > 0."""
        dz_before[...] = ops.leaky_relu_backward(ops.dense_backward_dx(dz, layer.weight), y, slope)

    def backward_dydz(self, dz: Array, layer: Dense, dydz: Array, dz_before: Array) -> None:
        dz_before[...] = ops.dense_backward_dx(dz, layer.weight) * dydz

    def backward_tanh(self, dz: Array, layer: Dense, y: Array, dz_before: Array) -> None:
        dz_before[...] = ops.tanh_backward(ops.dense_backward_dx(dz, layer.weight), y)

    def input_gradient(self, dz: Array, layer: Dense, penalty: Penalty) -> None:
        g = ops.dense_backward_dx(dz, layer.weight)
        penalty.u[0][...] = penalty.rate * g
        penalty.value[...] = 0.5 * (penalty.u[0] * g).sum(axis=1, keepdims=True)

    def tangent_leaky_relu(self, u: Array, layer: Dense, y: Array, slope: float, out: Array) -> None:
        out[...] = ops.leaky_relu_backward(u @ layer.weight, y, slope)

    def tangent_dydz(self, u: Array, layer: Dense, dydz: Array, out: Array) -> None:
        out[...] = (u @ layer.weight) * dydz

    def combine(self, c: Array, x: Array, u: Array) -> None:
        u += c * x

    def copy(self, x: Array, out: Array) -> None:
        out[...] = x

    def update(self, x: Array, dz: Array, p: Parameters, step: Array, c: Array | None = None) -> None:
        self.gradients(x, dz, p, c)
        self.adam(p, step)

    def gradients(self, x: Array, dz: Array, p: Parameters, c: Array | None = None) -> None:
        p.layer.dweight[...], p.layer.dbias[...] = ops.dense_backward_params(dz, x)
        if c is not None:
            p.layer.dbias[...] = (c * dz).sum(axis=0)

    def adam(self, p: Parameters, step: Array) -> None:
        part = copy.copy(p.optimizer)
        part.m, part.v, part.step = p.m, p.v, int(step[0])
        part.update(p.parameter, p.gradient)
        if p.average is not None:
            average = p.average
            average += (1.0 - kept_of_average(p.ema, int(step[0]))) * (p.parameter - average)
        p.squares[...] = np.dot(p.gradient, p.gradient)

    def finish(self, step: FusedStep) -> None:
        resident, d, g, b = step.resident, step.pass_d, step.pass_g, step.rows
        loss = loss_of(step.config)
        p = loss.probability(d.output)
        norms = (np.sqrt(squares.sum()) for squares in (step.squares_d, step.squares_g))
        row = resident.metrics[int(resident.step[0]) % len(resident.metrics)]
        penalty = step.penalty.value.sum() if step.penalty else 0.0
        losses = loss.forward(d.output, d.target) + penalty, loss.forward(g.output, g.target)
        for column, value in enumerate((*losses, p[:b].mean(), p[b:].mean(), *norms)):
            row[column] = value
        resident.step[...] += 1
