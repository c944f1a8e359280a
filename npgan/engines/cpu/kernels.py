"""The kernels of ``reference`` for a CPU, compiled ahead by numba; float32 only. Matrix products are those of ``products``.

Activations are stored column by column: an (N, O) array here is in Fortran order, so a compiled loop sees (O, N) with the
rows of a batch side by side. Why: (1) products need less copying (``products``), and OpenBLAS is faster with it too;
(2) a bias is one number for a whole inner loop and its gradient the sum of one; (3) eight columns of a row are one Philox
block, so a loop over rows draws eight columns' masks, vectorised.

The outer loops are shared out to the threads. No sum crosses from one turn to another, so results do not depend on them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from npgan.nn import philox as random
from npgan.engines.cpu.jit import compiled, shared
from npgan.engines.cpu.philox import counter, normal, philox  # noqa: F401 - normal and matmul are kernels too
from npgan.engines.cpu.gemm import matmul
from npgan.nn.layers import DropoutKey, dropout_threshold
from npgan.nn.ops import BCE_EPSILON

Array = Any  # numpy.ndarray

_ZERO, _ONE = np.float32(0), np.float32(1)
_ADAM_BLOCK = 1 << 14


def empty(rows: int, width: int) -> Array:
    """
    A new float32 array (rows, width), stored column by column; columns start on a cache line if rows % 16 == 0.

    Columns a power of two apart would share a few sets of the cache and push each other out: 16 elements are left free
    behind each (1.37 times the speed of a step at batch 2048, 1.13 times at 512, nothing at 128).
    """
    pitch = rows + 16 if rows % 64 == 0 and width > 1 else rows
    memory = np.empty(pitch * width * 4 + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + pitch * width * 4].view(np.float32).reshape((width, pitch))[:, :rows].T


def _retype(typing_context, array):  # type: ignore[no-untyped-def]
    """Tells the compiler that a row lies in one piece, as ``_wide`` made sure of; else no loop over it is vectorised."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return array.copy(layout="C")(array), generate


_row: Any = intrinsic(_retype)


def _wide(array: Array) -> Array:
    """(N, O) as (O, N) with each row in one piece; a copy where it is not stored column by column."""
    turned = array.T
    return turned if turned.strides[1] == turned.itemsize else np.ascontiguousarray(turned)


def _result(out: Array | None, rows: int, width: int) -> tuple[Array, Array]:
    """``out``, or a new array, and the same as ``_wide`` turns it. Raises ValueError for a row-by-row ``out``."""
    y = empty(rows, width) if out is None else out
    if y.strides[0] != y.itemsize and rows > 1:
        raise ValueError("out must be stored column by column (Fortran order)")
    return y, y.T


# --- dense and leaky ReLU --------------------------------------------------------------------------------------------


def dense_leaky_relu_forward(x: Array, weight: Array, bias: Array, slope: float, out: Array | None = None) -> Array:
    y, rows = _result(out, x.shape[0], weight.shape[1])
    matmul(x, weight, y)
    _bias_leaky_relu(rows, bias, slope)
    return y


@shared("void(float32[:, :], float32[::1], float32)")
def _bias_leaky_relu(y, bias, slope):  # type: ignore[no-untyped-def]
    for o in prange(y.shape[0]):
        row, b = _row(y[o]), bias[o]
        for n in range(row.size):
            z = row[n] + b
            row[n] = max(z, slope * z)


def dense_leaky_relu_backward(
    dy: Array, y: Array, slope: float, dbias: Array | None = None, out: Array | None = None
) -> Array:
    dz, rows = _result(out, *dy.shape)
    _leaky_relu_backward(_wide(dy), _wide(y), slope, _sums(dbias, rows), rows)
    return dz


@shared("void(float32[:, :], float32[:, :], float32, float32[::1], float32[:, :])")
def _leaky_relu_backward(dy, y, slope, dbias, dz):  # type: ignore[no-untyped-def]
    for o in prange(dz.shape[0]):
        dy_row, y_row, dz_row = _row(dy[o]), _row(y[o]), _row(dz[o])
        total = _ZERO
        for n in range(dz_row.size):
            value = dy_row[n] if y_row[n] > _ZERO else slope * dy_row[n]
            dz_row[n] = value
            total += value
        if dbias.size:
            dbias[o] = total


# --- dense, leaky ReLU and dropout -----------------------------------------------------------------------------------


def dense_leaky_relu_dropout_forward(
    x: Array,
    weight: Array,
    bias: Array,
    slope: float,
    rate: float,
    site: int,
    key: DropoutKey,
    out: Array | None = None,
    slopes: Array | None = None,
) -> tuple[Array, Array]:
    width = weight.shape[1]
    if width % 8:
        raise ValueError(f"the width must be a multiple of 8, got {width}")  # a Philox block would span two rows
    y, rows = _result(out, x.shape[0], width)
    slopes, slope_rows = _result(slopes, *y.shape)
    matmul(x, weight, y)
    _bias_leaky_relu_dropout(
        rows,
        bias,
        slope,
        1.0 / (1.0 - rate),
        dropout_threshold(rate),
        *counter(random.Stream.DROPOUT, key.step, 16 * key.forward_pass + site, key.seed),
        slope_rows,
    )
    return y, slopes


@shared(
    "void(float32[:, :], float32[::1], float32, float32, uint32, uint64, uint64, uint64, uint64, uint64, float32[:, :])",
)
def _bias_leaky_relu_dropout(y, bias, slope, scale, threshold, stream, step, site, k0, k1, slopes):  # type: ignore[no-untyped-def]
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
            row, slope_row, random_bits, b = _row(y[o]), _row(slopes[o]), bits[lane], bias[o]
            for n in range(row.size):
                z = row[n] + b
                kept = scale if random_bits[n] >= threshold else _ZERO
                row[n] = max(z, slope * z) * kept
                slope_row[n] = kept if z > _ZERO else slope * kept


def dense_leaky_relu_dropout_backward(
    dy: Array, slopes: Array, dbias: Array | None = None, out: Array | None = None
) -> Array:
    dz, rows = _result(out, *dy.shape)
    _scale_backward(_wide(dy), _wide(slopes), _sums(dbias, rows), rows)
    return dz


@shared("void(float32[:, :], float32[:, :], float32[::1], float32[:, :])")
def _scale_backward(dy, slopes, dbias, dz):  # type: ignore[no-untyped-def]
    for o in prange(dz.shape[0]):
        dy_row, slope_row, dz_row = _row(dy[o]), _row(slopes[o]), _row(dz[o])
        total = _ZERO
        for n in range(dz_row.size):
            value = dy_row[n] * slope_row[n]
            dz_row[n] = value
            total += value
        if dbias.size:
            dbias[o] = total


# --- dense and tanh --------------------------------------------------------------------------------------------------


def dense_tanh_forward(x: Array, weight: Array, bias: Array, out: Array | None = None) -> Array:
    y, rows = _result(out, x.shape[0], weight.shape[1])
    matmul(x, weight, y)
    _add_bias(rows, bias)
    return np.tanh(y, out=y)  # NumPy's is vectorised, numba's is not


@shared("void(float32[:, :], float32[::1])")
def _add_bias(y, bias):  # type: ignore[no-untyped-def]
    for o in prange(y.shape[0]):
        row, b = _row(y[o]), bias[o]
        for n in range(row.size):
            row[n] += b


def dense_tanh_backward(dy: Array, y: Array, dbias: Array | None = None, out: Array | None = None) -> Array:
    dz, rows = _result(out, *dy.shape)
    _tanh_backward(_wide(dy), _wide(y), _sums(dbias, rows), rows)
    return dz


@shared("void(float32[:, :], float32[:, :], float32[::1], float32[:, :])")
def _tanh_backward(dy, y, dbias, dz):  # type: ignore[no-untyped-def]
    for o in prange(dz.shape[0]):
        dy_row, y_row, dz_row = _row(dy[o]), _row(y[o]), _row(dz[o])
        total = _ZERO
        for n in range(dz_row.size):
            value = dy_row[n] * (_ONE - y_row[n] * y_row[n])
            dz_row[n] = value
            total += value
        if dbias.size:
            dbias[o] = total


# --- the discriminator's head ----------------------------------------------------------------------------------------


def dense_sigmoid_forward(x: Array, weight: Array, bias: Array, out: Array | None = None) -> Array:
    y, rows = _result(out, x.shape[0], weight.shape[1])
    matmul(x, weight, y)
    _bias_sigmoid(rows, bias)
    return y


@compiled("void(float32[:, :], float32[::1])")
def _bias_sigmoid(y, bias):  # type: ignore[no-untyped-def]
    for o in range(y.shape[0]):
        for n in range(y.shape[1]):
            z = y[o, n] + bias[o]
            e = np.exp(-abs(z))
            y[o, n] = (_ONE if z > _ZERO else e) / (_ONE + e)


def dense_sigmoid_backward(dy: Array, y: Array, dbias: Array | None = None, out: Array | None = None) -> Array:
    dz, rows = _result(out, *dy.shape)
    _sigmoid_backward(_wide(dy), _wide(y), _sums(dbias, rows), rows)
    return dz


@compiled("void(float32[:, :], float32[:, :], float32[::1], float32[:, :])")
def _sigmoid_backward(dy, y, dbias, dz):  # type: ignore[no-untyped-def]
    for o in range(dz.shape[0]):
        total = _ZERO
        for n in range(dz.shape[1]):
            value = dy[o, n] * y[o, n] * (_ONE - y[o, n])
            dz[o, n] = value
            total += value
        if dbias.size:
            dbias[o] = total


def dense_backward_dx(dy: Array, weight: Array, out: Array | None = None) -> Array:
    dx, rows = _result(out, dy.shape[0], weight.shape[0])
    if weight.shape[1] > 1:
        return matmul(dy, weight.T, dx)
    _outer(_wide(dy)[0], weight[:, 0], rows)  # 0.01 ms; as a matrix product it takes 0.08
    return dx


@compiled("void(float32[:], float32[:], float32[:, :])")
def _outer(dy, weight, dx):  # type: ignore[no-untyped-def]
    source = _row(dy)
    for i in range(dx.shape[0]):
        row, w = _row(dx[i]), weight[i]
        for n in range(row.size):
            row[n] = source[n] * w


def binary_cross_entropy_forward(p: Array, target: Array, epsilon: float = BCE_EPSILON) -> Array:
    return _cross_entropy(p, target, epsilon)


@compiled("float32(float32[:, :], float32[:, :], float32)")
def _cross_entropy(p, target, epsilon):  # type: ignore[no-untyped-def]
    total = 0.0
    for n in range(p.shape[0]):
        q, t = p[n, 0], target[n, 0]
        total -= t * np.log(q + epsilon) + (_ONE - t) * np.log(_ONE - q + epsilon)
    return total / p.shape[0]


def binary_cross_entropy_backward(
    p: Array, target: Array, epsilon: float = BCE_EPSILON, out: Array | None = None
) -> Array:
    dp = np.empty_like(p) if out is None else out
    _cross_entropy_backward(p, target, epsilon, dp)
    return dp


@compiled("void(float32[:, :], float32[:, :], float32, float32[:, :])")
def _cross_entropy_backward(p, target, epsilon, dp):  # type: ignore[no-untyped-def]
    rows = np.float32(p.shape[0])
    for n in range(p.shape[0]):
        q, t = p[n, 0], target[n, 0]
        dp[n, 0] = ((_ONE - t) / (_ONE - q + epsilon) - t / (q + epsilon)) / rows


# --- Adam ------------------------------------------------------------------------------------------------------------


def adam_update(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> Array:
    blocks = -(-param.size // _ADAM_BLOCK)
    squares = np.empty(blocks)  # Σ grad² of each block, added up in this order whoever computed it
    rate, unbias = lr / (1.0 - beta1**step), 1.0 / (1.0 - beta2**step)
    _adam(param, grad, m, v, beta1, beta2, epsilon, rate, unbias, squares)
    return math.sqrt(squares.sum())


@shared(
    "void(float32[::1], float32[::1], float32[::1], float32[::1], float32, float32, float32, float32, float32, float64[::1])",
)
def _adam(param, grad, m, v, beta1, beta2, epsilon, rate, unbias, squares):  # type: ignore[no-untyped-def]
    for block in prange(squares.size):
        start, stop = block * _ADAM_BLOCK, min((block + 1) * _ADAM_BLOCK, param.size)
        p_, g_, m_, v_ = param[start:stop], grad[start:stop], m[start:stop], v[start:stop]
        total = _ZERO
        for i in range(p_.size):
            g = g_[i]
            m_[i] = m_[i] * beta1 + g * (_ONE - beta1)
            v_[i] = v_[i] * beta2 + g * g * (_ONE - beta2)
            p_[i] -= m_[i] * rate / (np.sqrt(v_[i] * unbias) + epsilon)
            total += g * g
        squares[block] = total


# --- pixels ----------------------------------------------------------------------------------------------------------


def gather_rows(images: Array, rows: Array, out: Array | None = None) -> Array:
    return np.take(images, rows, axis=0, out=out, mode="clip")  # the default mode makes a copy on the way to out


def scale_pixels(pixels: Array, out: Array | None = None, dtype: Any = np.float32) -> Array:
    y, rows = _result(out, *pixels.shape)
    _scale_pixels(pixels, rows)
    return y


@shared("void(uint8[:, ::1], float32[:, :])")
def _scale_pixels(pixels, y):  # type: ignore[no-untyped-def]
    for part in prange(-(-y.shape[0] // 64)):  # 64 columns of a row of pixels are on one cache line or two
        for o in range(64 * part, min(64 * part + 64, y.shape[0])):
            row = _row(y[o])
            for n in range(row.size):
                row[n] = np.float32(pixels[n, o]) / np.float32(127.5) - _ONE


def _sums(dbias: Array | None, rows: Array) -> Array:
    """``dbias``, or nothing to fill where the parameters' gradients are not wanted."""
    return rows[:0, 0] if dbias is None else dbias
