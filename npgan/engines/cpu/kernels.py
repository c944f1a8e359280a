"""The fused kernels for a CPU, compiled ahead by numba; float32 only. Matmuls are those of ``gemm``.

Activations are stored column by column: an (N, O) array here is in Fortran order, so a compiled loop sees (O, N) with the
rows of a batch side by side. Why: (1) matmuls need less copying (``gemm``), and OpenBLAS is faster with it too;
(2) a bias is one number for a whole inner loop and its gradient the sum of one; (3) eight columns of a row are one Philox
block, so a loop over rows draws eight columns' masks, vectorized.

The outer loops are shared out to the threads. No sum crosses from one turn to another, so results do not depend on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from npgan.engines.cpu.gemm import Gemm
from npgan.engines.cpu.jit import compiled, shared
from npgan.engines.cpu.philox import counter, normal, philox
from npgan.engines.schedule import Draw, FusedStep, InOrder, Parameters, Pass, Penalty
from npgan.gan import LATENT_D, LATENT_G, kept_of_average, loss_of
from npgan.nn.layers import Dense
from npgan.nn.losses import BinaryCrossEntropy, Loss
from npgan.nn.ops import BCE_EPSILON
from npgan.nn.philox import Stream

_ZERO, _ONE = np.float32(0), np.float32(1)
_ADAM_BLOCK = 1 << 14
_NONE = np.empty(0, np.float32)


class CpuKernels(InOrder):
    """``schedule.Kernels`` by the compiled loops below. Arrays (N, O) of more than one column are in Fortran order."""

    def __init__(self, gemm: Gemm) -> None:
        self.gemm = gemm

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
        return -(-(layer.in_features + 1) * layer.out_features // _ADAM_BLOCK)

    def inputs(self, step: FusedStep, real: np.ndarray, noise_d: np.ndarray, noise_g: np.ndarray) -> None:
        resident, config, done = step.resident, step.config, int(step.resident.step[0])
        start = done % len(resident.metrics) * config.batch_size
        _scaled_images(resident.pixels, resident.order[start : start + len(real)], real.T)
        for site, latent in ((LATENT_D, noise_d), (LATENT_G, noise_g)):
            latent[...] = normal(config.seed, Stream.LATENT, done, site, latent.shape)

    def forward_leaky_relu(self, x: np.ndarray, layer: Dense, slope: float, y: np.ndarray) -> None:
        self.gemm(x, layer.weight, y)
        _bias_leaky_relu(y.T, layer.bias, slope)

    def forward_dropout(
        self, x: np.ndarray, layer: Dense, slope: float, draw: Draw, y: np.ndarray, dydz: np.ndarray
    ) -> None:
        """Raises ValueError for a width that is not a multiple of 8: a Philox block would span two rows."""
        if layer.out_features % 8:
            raise ValueError(f"the width must be a multiple of 8, got {layer.out_features}")
        self.gemm(x, layer.weight, y)
        mask = draw.dropout.scale, draw.dropout.threshold
        words = counter(Stream.DROPOUT, int(draw.step[0]), draw.site, draw.seed)
        _bias_leaky_relu_dropout(y.T, layer.bias, slope, *mask, *words, dydz.T)

    def forward_tanh(self, x: np.ndarray, layer: Dense, y: np.ndarray) -> None:
        self.gemm(x, layer.weight, y)
        _add_bias(y.T, layer.bias)
        np.tanh(y, out=y)  # NumPy's is vectorized, numba's is not

    def head(self, p: Pass, layer: Dense, slope: float, loss: Loss) -> None:
        self.gemm(p.y[-1], layer.weight, p.output)
        p.output += layer.bias
        if loss.name == BinaryCrossEntropy().name:
            _sigmoid_cross_entropy(p.output, p.target, BCE_EPSILON, p.output_dz)
        else:
            p.output_dz[...] = loss.backward(p.output, p.target)
        if p.dydz:
            _outer_dydz(p.start.T[0], layer.weight[:, 0], p.dydz[-1].T, p.dz[-1].T)
        else:
            _outer_leaky_relu(p.start.T[0], layer.weight[:, 0], p.y[-1].T, slope, p.dz[-1].T)

    def backward_leaky_relu(
        self, dz: np.ndarray, layer: Dense, y: np.ndarray, slope: float, dz_before: np.ndarray
    ) -> None:
        self.gemm(dz, layer.weight.T, dz_before)
        _leaky_relu_backward(y.T, slope, dz_before.T)

    def backward_dydz(self, dz: np.ndarray, layer: Dense, dydz: np.ndarray, dz_before: np.ndarray) -> None:
        self.gemm(dz, layer.weight.T, dz_before)
        _scale(dydz.T, dz_before.T)

    def backward_tanh(self, dz: np.ndarray, layer: Dense, y: np.ndarray, dz_before: np.ndarray) -> None:
        self.gemm(dz, layer.weight.T, dz_before)
        _tanh_backward(y.T, dz_before.T)

    def input_gradient(self, dz: np.ndarray, layer: Dense, penalty: Penalty) -> None:
        self.gemm(dz, layer.weight.T, penalty.u[0])
        _penalty(penalty.u[0].T, penalty.rate.T[0], penalty.value.T[0])

    def tangent_leaky_relu(self, u: np.ndarray, layer: Dense, y: np.ndarray, slope: float, out: np.ndarray) -> None:
        self.gemm(u, layer.weight, out)
        _leaky_relu_backward(y.T, slope, out.T)

    def tangent_dydz(self, u: np.ndarray, layer: Dense, dydz: np.ndarray, out: np.ndarray) -> None:
        self.gemm(u, layer.weight, out)
        _scale(dydz.T, out.T)

    def combine(self, c: np.ndarray, x: np.ndarray, u: np.ndarray) -> None:
        _combine(c.T[0], x.T, u.T)

    def copy(self, x: np.ndarray, out: np.ndarray) -> None:
        out[...] = x

    def update(
        self, x: np.ndarray, dz: np.ndarray, p: Parameters, step: np.ndarray, c: np.ndarray | None = None
    ) -> None:
        self.gradients(x, dz, p, c)
        self.adam(p, step)

    def gradients(self, x: np.ndarray, dz: np.ndarray, p: Parameters, c: np.ndarray | None = None) -> None:
        self.gemm(x.T, dz, p.layer.dweight)
        if c is None:
            _column_sums(dz.T, p.layer.dbias)
        else:
            _weighted_column_sums(dz.T, c.T[0], p.layer.dbias)

    def adam(self, p: Parameters, step: np.ndarray) -> None:
        o, t = p.optimizer, int(step[0]) + 1
        rate, unbias = o.lr / (1.0 - o.beta1**t), 1.0 / (1.0 - o.beta2**t)
        # 1 - 0.999 taken in float32 would be off by 5e-5 of itself
        betas = o.beta1, 1.0 - o.beta1, o.beta2, 1.0 - o.beta2
        average = (_NONE, 0.0) if p.average is None else (p.average, 1.0 - kept_of_average(p.ema, t - 1))
        _adam(p.parameter, p.gradient, p.m, p.v, *betas, o.epsilon, rate, unbias, p.squares, *average)

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


def _retype(typing_context, array):  # type: ignore[no-untyped-def]
    """Tells the compiler that a row lies in one piece, see ``CpuKernels.empty``; else no loop over it is vectorized."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return array.copy(layout="C")(array), generate


_row: Any = intrinsic(_retype)


# --- epilogues of forward matmuls ------------------------------------------------------------------------------------


@shared("void(float32[:, :], float32[::1], float32)")
def _bias_leaky_relu(y, bias, slope):  # type: ignore[no-untyped-def]
    for o in prange(y.shape[0]):
        row, b = _row(y[o]), bias[o]
        for n in range(row.size):
            z = row[n] + b
            row[n] = max(z, slope * z)


@shared(
    "void(float32[:, :], float32[::1], float32, float32, uint32, uint64, uint64, uint64, uint64, uint64, float32[:, :])",
)
def _bias_leaky_relu_dropout(y, bias, slope, scale, threshold, stream, step, site, k0, k1, dydz):  # type: ignore[no-untyped-def]
    groups = y.shape[0] // 8
    for group in prange(groups):
        bits = np.empty((8, y.shape[1]), np.uint16)
        b0, b1, b2, b3, b4, b5, b6, b7 = bits[0], bits[1], bits[2], bits[3], bits[4], bits[5], bits[6], bits[7]
        for n in range(b0.size):
            w0, w1, w2, w3 = philox(np.uint64(n * groups + group), step, site, stream, k0, k1)
            b0[n], b1[n] = w0 & np.uint64(0xFFFF), w0 >> np.uint64(16)
            b2[n], b3[n] = w1 & np.uint64(0xFFFF), w1 >> np.uint64(16)
            b4[n], b5[n] = w2 & np.uint64(0xFFFF), w2 >> np.uint64(16)
            b6[n], b7[n] = w3 & np.uint64(0xFFFF), w3 >> np.uint64(16)
        for lane in range(8):
            o = 8 * group + lane
            row, dydz_row, random_bits, b = _row(y[o]), _row(dydz[o]), bits[lane], bias[o]
            for n in range(row.size):
                z = row[n] + b
                kept = scale if random_bits[n] >= threshold else _ZERO
                row[n] = max(z, slope * z) * kept
                dydz_row[n] = kept if z > _ZERO else slope * kept


@shared("void(float32[:, :], float32[::1])")
def _add_bias(y, bias):  # type: ignore[no-untyped-def]
    for o in prange(y.shape[0]):
        row, b = _row(y[o]), bias[o]
        for n in range(row.size):
            row[n] += b


# --- epilogues of backward matmuls: dy is multiplied by ∂y/∂z in place -----------------------------------------------------


@shared("void(float32[:, :], float32, float32[:, :])")
def _leaky_relu_backward(y, slope, dz):  # type: ignore[no-untyped-def]
    for o in prange(dz.shape[0]):
        y_row, dz_row = _row(y[o]), _row(dz[o])
        for n in range(dz_row.size):
            dz_row[n] = dz_row[n] if y_row[n] > _ZERO else slope * dz_row[n]


@shared("void(float32[:, :], float32[:, :])")
def _scale(dydz, dz):  # type: ignore[no-untyped-def]
    for o in prange(dz.shape[0]):
        dydz_row, dz_row = _row(dydz[o]), _row(dz[o])
        for n in range(dz_row.size):
            dz_row[n] *= dydz_row[n]


@shared("void(float32[:, :], float32[:, :])")
def _tanh_backward(y, dz):  # type: ignore[no-untyped-def]
    for o in prange(dz.shape[0]):
        y_row, dz_row = _row(y[o]), _row(dz[o])
        for n in range(dz_row.size):
            dz_row[n] *= _ONE - y_row[n] * y_row[n]


# --- the discriminator's head ----------------------------------------------------------------------------------------


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
        row, dydz_row, w = _row(dz_before[i]), _row(dydz[i]), weight[i]
        for n in range(row.size):
            row[n] = dz[n] * w * dydz_row[n]


@compiled("void(float32[::1], float32[::1], float32[:, :], float32, float32[:, :])")
def _outer_leaky_relu(dz, weight, y, slope, dz_before):  # type: ignore[no-untyped-def]
    for i in range(dz_before.shape[0]):
        row, y_row, w = _row(dz_before[i]), _row(y[i]), weight[i]
        for n in range(row.size):
            row[n] = dz[n] * w if y_row[n] > _ZERO else slope * (dz[n] * w)


# --- gradient penalties ----------------------------------------------------------------------------------------------


@compiled("void(float32[:, :], float32[::1], float32[::1])")
def _penalty(g, rate, value):  # type: ignore[no-untyped-def]
    """g becomes rate·g; ``value`` is each row's ½·rate·Σ g²."""
    value[:] = _ZERO
    for i in range(g.shape[0]):
        row = _row(g[i])
        for n in range(row.size):
            scaled = rate[n] * row[n]
            value[n] += np.float32(0.5) * scaled * row[n]
            row[n] = scaled


@shared("void(float32[::1], float32[:, :], float32[:, :])")
def _combine(c, x, u):  # type: ignore[no-untyped-def]
    for i in prange(u.shape[0]):
        x_row, u_row = _row(x[i]), _row(u[i])
        for n in range(u_row.size):
            u_row[n] += c[n] * x_row[n]


@shared("void(float32[:, :], float32[::1], float32[::1])")
def _weighted_column_sums(dz, c, dbias):  # type: ignore[no-untyped-def]
    for o in prange(dz.shape[0]):
        row, total = _row(dz[o]), _ZERO
        for n in range(row.size):
            total += c[n] * row[n]
        dbias[o] = total


# --- gradients and Adam ----------------------------------------------------------------------------------------------


@shared("void(float32[:, :], float32[::1])")
def _column_sums(dz, dbias):  # type: ignore[no-untyped-def]
    for o in prange(dz.shape[0]):
        row, total = _row(dz[o]), _ZERO
        for n in range(row.size):
            total += row[n]
        dbias[o] = total


@shared(
    "void(float32[::1], float32[::1], float32[::1], float32[::1], float32, float32, float32, float32, float32, float32,"
    "float32, float32[::1], float32[::1], float32)"
)
def _adam(  # type: ignore[no-untyped-def]
    param, grad, m, v, beta1, rest1, beta2, rest2, epsilon, rate, unbias, squares, average, rest
):
    """``average``: of the parameters, moved by ``rest`` towards them while a block of them is in cache; or empty."""
    for block in prange(squares.size):
        start, stop = block * _ADAM_BLOCK, min((block + 1) * _ADAM_BLOCK, param.size)
        p_, g_, m_, v_ = param[start:stop], grad[start:stop], m[start:stop], v[start:stop]
        total = _ZERO
        for i in range(p_.size):
            g = g_[i]
            m_[i] = m_[i] * beta1 + g * rest1
            v_[i] = v_[i] * beta2 + g * g * rest2
            p_[i] -= m_[i] * rate / (np.sqrt(v_[i] * unbias) + epsilon)
            total += g * g
        squares[block] = total
        if average.size:
            a_ = average[start:stop]
            for i in range(p_.size):
                a_[i] += rest * (p_[i] - a_[i])


# --- pixels ----------------------------------------------------------------------------------------------------------


_PIXELS = types.Array(types.uint8, 2, "C", readonly=True)  # MNIST's may be a view of a file that was read


@shared(types.void(_PIXELS, types.uint32[::1], types.float32[:, :]))
def _scaled_images(pixels, order, y):  # type: ignore[no-untyped-def]
    for part in prange(-(-y.shape[0] // 64)):  # 64 columns of a row of pixels are on one cache line or two
        for o in range(64 * part, min(64 * part + 64, y.shape[0])):
            row = _row(y[o])
            for n in range(row.size):
                row[n] = np.float32(pixels[order[n], o]) / np.float32(127.5) - _ONE
