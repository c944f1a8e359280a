"""The fused kernels for a CPU, compiled ahead by numba; float32 only. Matmuls and what follows them are those of ``gemm``.

Activations are stored column by column: an (N, O) array here is in Fortran order, so a compiled loop sees (O, N) with the
rows of a batch side by side. Why: (1) matmuls need less copying (``gemm``), and OpenBLAS is faster with it too;
(2) a bias is one number for a whole inner loop and its gradient the sum of one; (3) eight columns of a row are one Philox
block, so a loop over rows draws eight columns' masks, vectorized.

Work is shared out to threads in pieces (``pool``). No sum crosses from one piece to another, so results do not depend on
the threads.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numba import types

from npgan.data.batches import scale_pixels
from npgan.engines.cpu.epilogues import DROPOUT, LEAKY_RELU, TANH, TIMES, Mask, Settings, row_of, slopes_alone
from npgan.engines.cpu.jit import compiled
from npgan.engines.cpu.philox import counter, normal
from npgan.engines.cpu.pool import Pool, shared
from npgan.engines.schedule import Draw, FusedStep, InOrder, Parameters, Pass, Penalty
from npgan.gan import LATENT_D, LATENT_G, kept_of_average, loss_of
from npgan.nn.layers import Dense
from npgan.nn.losses import BinaryCrossEntropy, Loss
from npgan.nn.ops import BCE_EPSILON
from npgan.nn.philox import Stream

_ZERO, _ONE = np.float32(0), np.float32(1)
_SCALED = scale_pixels(np.arange(256, dtype=np.uint8))
_PIXELS_OF_A_PIECE = 64  # of each image: on one cache line or two
_ROWS_OF_A_PIECE = 64


class Gemm(Protocol):
    """``gemm.Gemm``, or ``plain.PlainGemm``: matmuls, and what follows them."""

    pool: Pool

    def __call__(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None: ...
    def activation(
        self, x: np.ndarray, layer: Dense, y: np.ndarray, kind: int, slope: float = ...,
        dydz: np.ndarray = ..., mask: Mask = ...,
    ) -> None: ...  # fmt: skip
    def slopes(
        self, dz: np.ndarray, layer: Dense, out: np.ndarray, kind: int, y: np.ndarray, slope: float = ...
    ) -> None: ...
    def update(
        self, x: np.ndarray, dz: np.ndarray, p: Parameters, c: np.ndarray | None, settings: Settings | None
    ) -> None: ...
    def adam(self, p: Parameters, settings: Settings) -> None: ...
    def partial_sums(self, layer: Dense) -> int: ...


class CpuKernels(InOrder):
    """``schedule.Kernels`` by compiled loops. Arrays (N, O) of more than one column are in Fortran order."""

    draws_from_any_row = True

    def __init__(self, gemm: Gemm) -> None:
        self.gemm, self.pool = gemm, gemm.pool

    def empty(self, rows: int, width: int) -> np.ndarray:
        """Columns start on a cache line if rows % 16 == 0.

        Columns a power of two apart would share a few sets of the cache and push each other out: 16 elements are left free
        behind each (1.37 times the speed of a step at batch 2048, 1.13 times at 512, nothing at 128).
        """
        pitch = rows + 16 if rows % 64 == 0 and width > 1 else rows
        memory = np.empty(pitch * width * 4 + 64, dtype=np.uint8)
        start = -memory.ctypes.data % 64
        return memory[start : start + pitch * width * 4].view(np.float32).reshape((width, pitch))[:, :rows].T

    def partial_sums(self, layer: Dense) -> int:
        return self.gemm.partial_sums(layer)

    def inputs(self, step: FusedStep, real: np.ndarray, noise_d: np.ndarray, noise_g: np.ndarray) -> None:
        resident, config, done = step.resident, step.config, int(step.resident.step[0])
        start = done % len(resident.metrics) * config.batch_size
        pieces, order = -(-real.shape[1] // _PIXELS_OF_A_PIECE), resident.order[start : start + len(real)]
        _scaled_images(self.pool.control, pieces, resident.pixels, order, _SCALED, real.T)
        for site, latent in ((LATENT_D, noise_d), (LATENT_G, noise_g)):
            latent[...] = normal(self.pool, config.seed, Stream.LATENT, done, site, latent.shape)

    def forward_leaky_relu(self, x: np.ndarray, layer: Dense, slope: float, y: np.ndarray) -> None:
        self.gemm.activation(x, layer, y, LEAKY_RELU, slope)

    def forward_dropout(
        self, x: np.ndarray, layer: Dense, slope: float, draw: Draw, y: np.ndarray, dydz: np.ndarray
    ) -> None:
        """Raises ValueError for a width that is not a multiple of 8: a Philox block would span two rows."""
        if layer.out_features % 8:
            raise ValueError(f"the width must be a multiple of 8, got {layer.out_features}")
        words = counter(Stream.DROPOUT, int(draw.step[0]), draw.site, draw.seed)
        mask = draw.dropout.scale, draw.dropout.threshold, (*words, draw.first)
        self.gemm.activation(x, layer, y, DROPOUT, slope, dydz, mask)

    def forward_tanh(self, x: np.ndarray, layer: Dense, y: np.ndarray) -> None:
        self.gemm.activation(x, layer, y, TANH)

    def head(self, p: Pass, layer: Dense, slope: float, loss: Loss) -> None:
        weight = layer.weight[:, 0]
        _weighted_rows(p.y[-1].T, weight, layer.bias[0], p.output.T[0])
        if loss.name == BinaryCrossEntropy().name:
            _sigmoid_cross_entropy(p.output, p.target, BCE_EPSILON, p.output_dz)
        else:
            p.output_dz[...] = loss.backward(p.output, p.target)
        if p.dydz:
            _outer_dydz(p.start.T[0], weight, p.dydz[-1].T, p.dz[-1].T)
        else:
            _outer_leaky_relu(p.start.T[0], weight, p.y[-1].T, slope, p.dz[-1].T)

    def backward_leaky_relu(
        self, dz: np.ndarray, layer: Dense, y: np.ndarray, slope: float, dz_before: np.ndarray
    ) -> None:
        self.gemm.slopes(dz, layer, dz_before, LEAKY_RELU, y, slope)

    def backward_dydz(self, dz: np.ndarray, layer: Dense, dydz: np.ndarray, dz_before: np.ndarray) -> None:
        self.gemm.slopes(dz, layer, dz_before, TIMES, dydz)

    def backward_tanh(self, dz: np.ndarray, layer: Dense, y: np.ndarray, dz_before: np.ndarray) -> None:
        self.gemm.slopes(dz, layer, dz_before, TANH, y)

    def input_gradient(self, dz: np.ndarray, layer: Dense, penalty: Penalty) -> None:
        self.gemm(dz, layer.weight.T, penalty.u[0])
        _penalty(penalty.u[0].T, penalty.rate.T[0], penalty.value.T[0])

    def tangent_leaky_relu(self, u: np.ndarray, layer: Dense, y: np.ndarray, slope: float, out: np.ndarray) -> None:
        self.gemm(u, layer.weight, out)
        slopes_alone(self.pool, LEAKY_RELU, out.T, y.T, slope)

    def tangent_dydz(self, u: np.ndarray, layer: Dense, dydz: np.ndarray, out: np.ndarray) -> None:
        self.gemm(u, layer.weight, out)
        slopes_alone(self.pool, TIMES, out.T, dydz.T, 0.0)

    def combine(self, c: np.ndarray, x: np.ndarray, u: np.ndarray) -> None:
        _combine(self.pool.control, _pieces(u), c.T[0], x.T, u.T)

    def copy(self, x: np.ndarray, out: np.ndarray) -> None:
        out[...] = x

    def update(
        self, x: np.ndarray, dz: np.ndarray, p: Parameters, step: np.ndarray, c: np.ndarray | None = None
    ) -> None:
        self.gemm.update(x, dz, p, c, _settings(p, step))

    def gradients(self, x: np.ndarray, dz: np.ndarray, p: Parameters, c: np.ndarray | None = None) -> None:
        self.gemm.update(x, dz, p, c, None)

    def adam(self, p: Parameters, step: np.ndarray) -> None:
        self.gemm.adam(p, _settings(p, step))

    def finish(self, step: FusedStep) -> None:
        resident, d, g, b = step.resident, step.pass_d, step.pass_g, step.rows
        loss = loss_of(step.config)
        p = loss.probability(d.output)
        row = resident.metrics[int(resident.step[0]) % len(resident.metrics)]
        row[:2] = loss.forward(d.output, d.target), loss.forward(g.output, g.target)
        if step.penalty:
            row[0] += step.penalty.value.sum()
        row[2:4] = p[:b].mean(), p[b:].mean()
        row[4:] = [np.sqrt(squares.sum(dtype=np.float64)) for squares in (step.squares_d, step.squares_g)]
        resident.step[0] += 1


def _settings(p: Parameters, step: np.ndarray) -> Settings:
    """What ``epilogues.adam`` takes of this iteration."""
    o, t = p.optimizer, int(step[0]) + 1
    rate, unbias = o.lr / (1.0 - o.beta1**t), 1.0 / (1.0 - o.beta2**t)
    rest = 0.0 if p.average is None else 1.0 - kept_of_average(p.ema, t - 1)
    # 1 - 0.999 taken in float32 would be off by 5e-5 of itself
    return o.beta1, 1.0 - o.beta1, o.beta2, 1.0 - o.beta2, o.epsilon, rate, unbias, rest


def _pieces(array: np.ndarray) -> int:
    return -(-array.shape[1] // _ROWS_OF_A_PIECE)


# --- the discriminator's head ----------------------------------------------------------------------------------------


@compiled("void(float32[:, :], float32[::1], float32, float32[::1])")
def _weighted_rows(y, weight, bias, z):  # type: ignore[no-untyped-def]
    """z_n = bias + Σ_i weight_i·y_in, summed in the order of i."""
    z[:] = _ZERO
    for i in range(y.shape[0]):
        row, w = row_of(y[i]), weight[i]
        for n in range(row.size):
            z[n] += w * row[n]
    for n in range(z.size):
        z[n] += bias


@compiled("void(float32[:, ::1], float32[:, ::1], float32, float32[:, ::1])")
def _sigmoid_cross_entropy(z, target, epsilon, dz):  # type: ignore[no-untyped-def]
    """z becomes p = sigmoid(z); dz is the gradient of the mean cross-entropy of p."""
    rows = np.float32(z.shape[0])
    for n in range(z.shape[0]):
        e = np.exp(-abs(z[n, 0]))
        p, t = (_ONE if z[n, 0] > _ZERO else e) / (_ONE + e), target[n, 0]
        z[n, 0] = p
        dz[n, 0] = ((_ONE - t) / (_ONE - p + epsilon) - t / (p + epsilon)) / rows * p * (_ONE - p)


@compiled("void(float32[::1], float32[::1], float32[:, :], float32[:, :])")
def _outer_dydz(dz, weight, dydz, dz_before):  # type: ignore[no-untyped-def]
    for i in range(dz_before.shape[0]):
        row, dydz_row, w = row_of(dz_before[i]), row_of(dydz[i]), weight[i]
        for n in range(row.size):
            row[n] = dz[n] * w * dydz_row[n]


@compiled("void(float32[::1], float32[::1], float32[:, :], float32, float32[:, :])")
def _outer_leaky_relu(dz, weight, y, slope, dz_before):  # type: ignore[no-untyped-def]
    for i in range(dz_before.shape[0]):
        row, y_row, w = row_of(dz_before[i]), row_of(y[i]), weight[i]
        for n in range(row.size):
            row[n] = dz[n] * w if y_row[n] > _ZERO else slope * (dz[n] * w)


# --- gradient penalties ----------------------------------------------------------------------------------------------


@compiled("void(float32[:, :], float32[::1], float32[::1])")
def _penalty(g, rate, value):  # type: ignore[no-untyped-def]
    """g becomes rate·g; ``value`` is each row's ½·rate·Σ g²."""
    value[:] = _ZERO
    for i in range(g.shape[0]):
        row = row_of(g[i])
        for n in range(row.size):
            scaled = rate[n] * row[n]
            value[n] += np.float32(0.5) * scaled * row[n]
            row[n] = scaled


@shared("void(float32[::1], float32[:, :], float32[:, :])")
def _combine(piece, thread, c, x, u):  # type: ignore[no-untyped-def]
    for i in range(piece * _ROWS_OF_A_PIECE, min((piece + 1) * _ROWS_OF_A_PIECE, u.shape[0])):
        x_row, u_row = row_of(x[i]), row_of(u[i])
        for n in range(u_row.size):
            u_row[n] += c[n] * x_row[n]


# --- pixels ----------------------------------------------------------------------------------------------------------


_PIXELS = types.Array(types.uint8, 2, "C", readonly=True)  # MNIST's may be a view of a file that was read


@shared(types.void(_PIXELS, types.uint32[::1], types.float32[::1], types.float32[:, :]))
def _scaled_images(piece, thread, pixels, order, scaled, y):  # type: ignore[no-untyped-def]
    for n in range(y.shape[1]):
        image = pixels[order[n]]
        for o in range(piece * _PIXELS_OF_A_PIECE, min((piece + 1) * _PIXELS_OF_A_PIECE, y.shape[0])):
            y[o, n] = scaled[image[o]]
