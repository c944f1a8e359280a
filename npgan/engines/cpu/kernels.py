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
from weakref import WeakKeyDictionary

import numpy as np
from numba import types

from npgan.data.batches import scale_pixels
from npgan.engines.cpu.epilogues import DROPOUT, LEAKY_RELU, NONE, TANH, TIMES, Mask, row_of, slopes_alone
from npgan.engines.cpu.jit import inlined
from npgan.engines.cpu.philox import LINE, counter, normal
from npgan.engines.cpu.pool import Pool, shared
from npgan.engines.schedule import (
    BCE,
    BCE_LOGITS,
    RELATIVISTIC,
    Draw,
    FusedStep,
    InOrder,
    Parameters,
    Pass,
    Penalty,
    loss_number,
)
from npgan.gan import LATENT_D, LATENT_G, kept_of_average
from npgan.nn.layers import Dense
from npgan.nn.losses import Loss
from npgan.nn.ops import BCE_EPSILON
from npgan.nn.philox import Stream

_ZERO, _ONE = np.float32(0), np.float32(1)
_SCALED = scale_pixels(np.arange(256, dtype=np.uint8))
_PIXELS_OF_A_PIECE = 64  # of each image: on one cache line or two
_ROWS_OF_A_PIECE = 64
_EPSILON = np.float32(BCE_EPSILON)


class Gemm(Protocol):
    """``gemm.Gemm``, or ``plain.PlainGemm``: matmuls, and what follows them."""

    pool: Pool
    recordable: bool  # everything is done by the pool's kernels, so calls can be recorded

    def __call__(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None: ...
    def activation(
        self, x: np.ndarray, layer: Dense, y: np.ndarray, kind: int, slope: float = ...,
        dydz: np.ndarray = ..., mask: Mask = ...,
    ) -> None: ...  # fmt: skip
    def slopes(
        self, dz: np.ndarray, layer: Dense, out: np.ndarray, kind: int, y: np.ndarray, slope: float = ...
    ) -> None: ...
    def update(self, x: np.ndarray, dz: np.ndarray, p: Parameters, c: np.ndarray | None, learn: bool) -> None: ...
    def adam(self, p: Parameters) -> None: ...
    def partial_sums(self, layer: Dense) -> int: ...


class CpuKernels(InOrder):
    """``schedule.Kernels`` by compiled loops. Arrays (N, O) of more than one column are in Fortran order."""

    draws_from_any_row = True

    def __init__(self, gemm: Gemm, record: bool = True) -> None:
        """``record``: an iteration's calls once, then replay them without Python in between; else each call is made anew."""
        self.gemm, self.pool = gemm, gemm.pool
        self._recordings: WeakKeyDictionary[FusedStep, np.ndarray] | None = None
        if record and gemm.recordable:
            self._recordings = WeakKeyDictionary()
        self.keeps_gradients = self._recordings is None

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

    def launch(self, step: FusedStep) -> None:
        if self._recordings is None:
            step.launch()
        elif step not in self._recordings:
            keep_gradients = not step.gradients_last
            self._recordings[step] = self.pool.record(lambda: step.launch(keep_gradients))
        else:
            for each in (step.parameters_d[0], step.parameters_g[0]):  # all of a net's share them
                _set_constants(each, step.resident.step)
            self.pool.replay(self._recordings[step])

    def inputs(self, step: FusedStep, real: np.ndarray, noise_d: np.ndarray, noise_g: np.ndarray) -> None:
        resident, config = step.resident, step.config
        pieces = -(-real.shape[1] // _PIXELS_OF_A_PIECE)
        _scaled_images(
            self.pool.control, pieces, resident.pixels, resident.order, resident.step, len(resident.metrics),
            config.batch_size, _SCALED, real.T,
        )  # fmt: skip
        for site, latent in ((LATENT_D, noise_d), (LATENT_G, noise_g)):
            normal(self.pool, config.seed, Stream.LATENT, resident.step, site, latent)

    def forward_leaky_relu(self, x: np.ndarray, layer: Dense, slope: float, y: np.ndarray) -> None:
        self.gemm.activation(x, layer, y, LEAKY_RELU, slope)

    def forward_dropout(
        self, x: np.ndarray, layer: Dense, slope: float, draw: Draw, y: np.ndarray, dydz: np.ndarray
    ) -> None:
        """Raises ValueError for a width that is not a multiple of 8: a Philox block would span two rows."""
        if layer.out_features % 8:
            raise ValueError(f"the width must be a multiple of 8, got {layer.out_features}")
        words = counter(Stream.DROPOUT, draw.site, draw.seed)
        mask = draw.dropout.scale, draw.dropout.threshold, draw.step, (*words, draw.first)
        self.gemm.activation(x, layer, y, DROPOUT, slope, dydz, mask)

    def forward_tanh(self, x: np.ndarray, layer: Dense, y: np.ndarray) -> None:
        self.gemm.activation(x, layer, y, TANH)

    def head(self, p: Pass, layer: Dense, slope: float, loss: Loss) -> None:
        weight, control = layer.weight[:, 0], self.pool.control
        kind, z, dz = loss_number(loss), p.output.T[0], p.output_dz.T[0]
        _last_layer(control, 1, p.y[-1].T, weight, layer.bias, kind, p.target.T[0], z, dz)
        if p.dydz:
            _outer_dydz(control, _pieces(p.dz[-1]), p.start.T[0], weight, p.dydz[-1].T, p.dz[-1].T)
        else:
            _outer_leaky_relu(control, _pieces(p.dz[-1]), p.start.T[0], weight, p.y[-1].T, slope, p.dz[-1].T)

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
        _penalty(self.pool.control, 1, penalty.u[0].T, penalty.rate.T[0], penalty.value.T[0])

    def tangent_leaky_relu(self, u: np.ndarray, layer: Dense, y: np.ndarray, slope: float, out: np.ndarray) -> None:
        self.gemm(u, layer.weight, out)
        slopes_alone(self.pool, LEAKY_RELU, out.T, y.T, slope)

    def tangent_dydz(self, u: np.ndarray, layer: Dense, dydz: np.ndarray, out: np.ndarray) -> None:
        self.gemm(u, layer.weight, out)
        slopes_alone(self.pool, TIMES, out.T, dydz.T, 0.0)

    def combine(self, c: np.ndarray, x: np.ndarray, u: np.ndarray) -> None:
        _combine(self.pool.control, _pieces(u), c.T[0], x.T, u.T)

    def copy(self, x: np.ndarray, out: np.ndarray) -> None:
        _copied(self.pool.control, _pieces(out), x.T, out.T)

    def update(
        self, x: np.ndarray, dz: np.ndarray, p: Parameters, step: np.ndarray, c: np.ndarray | None = None
    ) -> None:
        _set_constants(p, step)
        self.gemm.update(x, dz, p, c, learn=True)

    def gradients(self, x: np.ndarray, dz: np.ndarray, p: Parameters, c: np.ndarray | None = None) -> None:
        self.gemm.update(x, dz, p, c, learn=False)

    def adam(self, p: Parameters, step: np.ndarray) -> None:
        _set_constants(p, step)
        self.gemm.adam(p)

    def finish(self, step: FusedStep) -> None:
        resident, d, g = step.resident, step.pass_d, step.pass_g
        penalty = step.penalty.value.T[0] if step.penalty else NONE
        _metrics(
            self.pool.control, 1, loss_number(step.loss), d.output.T[0], d.target.T[0], g.output.T[0], g.target.T[0],
            step.rows, penalty, step.squares_d, step.squares_g, resident.metrics, resident.step,
        )  # fmt: skip


def _set_constants(p: Parameters, step: np.ndarray) -> None:
    """What ``epilogues.adam`` takes of this iteration."""
    o, t = p.optimizer, int(step[0]) + 1
    rate, unbias = o.lr / (1.0 - o.beta1**t), 1.0 / (1.0 - o.beta2**t)
    rest = 0.0 if p.average is None else 1.0 - kept_of_average(p.ema, t - 1)
    # 1 - 0.999 taken in float32 would be off by 5e-5 of itself
    p.constants[...] = o.beta1, 1.0 - o.beta1, o.beta2, 1.0 - o.beta2, o.epsilon, rate, unbias, rest


def _pieces(array: np.ndarray) -> int:
    return -(-array.shape[1] // _ROWS_OF_A_PIECE)


# --- the discriminator's head, and metrics ---------------------------------------------------------------------------


@inlined
def _sigmoid(z):  # type: ignore[no-untyped-def]
    e = np.exp(-abs(z))
    return (_ONE if z > _ZERO else e) / (_ONE + e)


@shared("void(float32[:, :], float32[::1], float32[::1], int64, float32[::1], float32[::1], float32[::1])")
def _last_layer(piece, thread, y, weight, bias, loss, target, z, dz):  # type: ignore[no-untyped-def]
    """z_n = bias + Σ_i weight_i·y_in, summed in the order of i, and ∂L/∂z; for "bce" z becomes p = sigmoid(z)."""
    z[:] = _ZERO
    for i in range(y.shape[0]):
        row, w = row_of(y[i]), weight[i]
        for n in range(row.size):
            z[n] += w * row[n]
    rows = np.float32(z.size)
    pairs = z.size // 2
    for n in range(z.size):
        z[n] += bias[0]
    for n in range(z.size if loss != RELATIVISTIC else pairs):
        logit = z[n] if loss != RELATIVISTIC else z[n] - z[pairs + n]
        p, t = _sigmoid(logit), target[n]
        if loss == BCE:
            z[n] = p
            dz[n] = ((_ONE - t) / (_ONE - p + _EPSILON) - t / (p + _EPSILON)) / rows * p * (_ONE - p)
        elif loss == BCE_LOGITS:
            dz[n] = (p - t) / rows
        else:
            dz[n] = (p - t) / np.float32(pairs)
            dz[pairs + n] = -dz[n]


@shared("void(float32[::1], float32[::1], float32[:, :], float32[:, :])")
def _outer_dydz(piece, thread, dz, weight, dydz, dz_before):  # type: ignore[no-untyped-def]
    for i in range(piece * _ROWS_OF_A_PIECE, min((piece + 1) * _ROWS_OF_A_PIECE, dz_before.shape[0])):
        row, dydz_row, w = row_of(dz_before[i]), row_of(dydz[i]), weight[i]
        for n in range(row.size):
            row[n] = dz[n] * w * dydz_row[n]


@shared("void(float32[::1], float32[::1], float32[:, :], float32, float32[:, :])")
def _outer_leaky_relu(piece, thread, dz, weight, y, slope, dz_before):  # type: ignore[no-untyped-def]
    for i in range(piece * _ROWS_OF_A_PIECE, min((piece + 1) * _ROWS_OF_A_PIECE, dz_before.shape[0])):
        row, y_row, w = row_of(dz_before[i]), row_of(y[i]), weight[i]
        for n in range(row.size):
            row[n] = dz[n] * w if y_row[n] > _ZERO else slope * (dz[n] * w)


@inlined
def _loss(loss, z, target):  # type: ignore[no-untyped-def]
    """The mean over the rows, or pairs of them, of what ``nn.ops`` says; for "bce" z are probabilities."""
    total, count = 0.0, z.size // 2 if loss == RELATIVISTIC else z.size
    for n in range(count):
        t = target[n]
        if loss == BCE:
            total -= t * np.log(z[n] + _EPSILON) + (_ONE - t) * np.log(_ONE - z[n] + _EPSILON)
        else:
            logit = z[n] - z[count + n] if loss == RELATIVISTIC else z[n]
            total += (logit if logit > _ZERO else _ZERO) - t * logit + np.log1p(np.exp(-abs(logit)))
    return total / count


@shared(
    "void(int64, float32[::1], float32[::1], float32[::1], float32[::1], int64, float32[::1], float32[::1], float32[::1], "
    "float32[:, ::1], uint32[::1])"
)
def _metrics(piece, thread, loss, d, target_d, g, target_g, rows, penalty, squares_d, squares_g, metrics, step):  # type: ignore[no-untyped-def]
    """A row of StepMetrics. Sums in float64."""
    row = metrics[step[0] % len(metrics)]
    loss_d, real, fake, norm_d, norm_g = _loss(loss, d, target_d), 0.0, 0.0, 0.0, 0.0
    for n in range(penalty.size):
        loss_d += penalty[n]
    for n in range(rows):
        x, y = d[n], d[rows + n]
        if loss == RELATIVISTIC:
            x, y = x - y, y - x
        real += x if loss == BCE else _sigmoid(x)
        fake += y if loss == BCE else _sigmoid(y)
    for n in range(squares_d.size):
        norm_d += squares_d[n]
    for n in range(squares_g.size):
        norm_g += squares_g[n]
    row[0], row[1] = loss_d, _loss(loss, g, target_g)
    row[2], row[3] = real / rows, fake / rows
    row[4], row[5] = np.sqrt(norm_d), np.sqrt(norm_g)
    step[0] += np.uint32(1)


# --- gradient penalties ----------------------------------------------------------------------------------------------


@shared("void(float32[:, :], float32[::1], float32[::1])")
def _penalty(piece, thread, g, rate, value):  # type: ignore[no-untyped-def]
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


@shared("void(float32[:, :], float32[:, :])")
def _copied(piece, thread, x, y):  # type: ignore[no-untyped-def]
    for i in range(piece * _ROWS_OF_A_PIECE, min((piece + 1) * _ROWS_OF_A_PIECE, y.shape[0])):
        x_row, y_row = row_of(x[i]), row_of(y[i])
        for n in range(y_row.size):
            y_row[n] = x_row[n]


# --- pixels ----------------------------------------------------------------------------------------------------------


_PIXELS = types.Array(types.uint8, 2, "C", readonly=True)  # MNIST's may be a view of a file that was read


@shared(
    types.void(
        _PIXELS, types.uint32[::1], types.uint32[::1], types.int64, types.int64, types.float32[::1], types.float32[:, :]
    )
)
def _scaled_images(piece, thread, pixels, order, step, per_epoch, batch, scaled, y):  # type: ignore[no-untyped-def]
    """Of some pixels all images. Some rows at a time, so that a whole cache line of ``y`` is written at once."""
    start, last = step[0] % per_epoch * batch, min((piece + 1) * _PIXELS_OF_A_PIECE, y.shape[0])
    for first in range(0, y.shape[1], LINE):
        rows = order[start + first : start + min(first + LINE, y.shape[1])]
        for o in range(piece * _PIXELS_OF_A_PIECE, last):
            row = row_of(y[o])
            for n in range(rows.size):
                row[first + n] = scaled[pixels[rows[n], o]]
