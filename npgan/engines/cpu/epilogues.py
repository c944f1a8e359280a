"""What follows a matrix product, row by row while the result is in cache: biases, activations, slopes, dropout, Adam.

Rows are those of the transposed arrays, so a row has one output o of all rows of the batch (see ``kernels``): its bias is one
number, and eight rows are one Philox block of each of their numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from npgan.engines.cpu.jit import inlined
from npgan.engines.cpu.philox import philox, tanh
from npgan.engines.cpu.pool import Pool, shared
from npgan.engines.schedule import Parameters

# What ``activation`` makes of z = c + bias, and ``slopes`` of c = ∂L/∂y
NOTHING, LEAKY_RELU, DROPOUT, TANH, TIMES = range(5)
GROUP = 8  # rows of one Philox block
_ROWS_OF_A_PIECE = 64

# Dropout's scale and threshold; the iteration (1,); the rest of Philox's counter and key, and rows before
Mask = tuple[float, int, np.ndarray, tuple[int, int, int, int, int]]
MASK = "float32, uint32, uint32[::1], UniTuple(uint64, 5)"  # to numba

ADAM = ", ".join(["float32[::1]"] * 7)  # ``adam_arrays`` to numba

NONE, NO_ROWS = np.empty(0, np.float32), np.empty((0, 0), np.float32)
NO_MASK: Mask = (0.0, 0, np.empty(0, np.uint32), (0, 0, 0, 0, 0))

_ZERO, _ONE = np.float32(0), np.float32(1)


def _retype(typing_context, array):  # type: ignore[no-untyped-def]
    """Tells the compiler that a row lies in one piece, see ``CpuKernels.empty``; else no loop over it is vectorized."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return array.copy(layout="C")(array), generate


row_of: Any = intrinsic(_retype)


@inlined
def activation(kind, z, first, last, bias, slope, dydz, scale, threshold, done, counter):  # type: ignore[no-untyped-def]
    """z becomes y = f(z + bias), and ``dydz`` ∂y/∂z where it is dropout; rows ``first`` to ``last``."""
    if kind == DROPOUT:
        _dropout(z, first, last, bias, slope, dydz, scale, threshold, np.uint64(done[0]), *counter)
    elif kind != NOTHING:
        for o in range(first, last):
            row, b = row_of(z[o]), bias[o]
            if kind == LEAKY_RELU:
                for n in range(row.size):
                    y = row[n] + b
                    row[n] = max(y, slope * y)
            else:
                for n in range(row.size):
                    row[n] = tanh(row[n] + b)


@inlined
def _dropout(z, first, last, bias, slope, dydz, scale, threshold, step, stream, site, k0, k1, before):  # type: ignore[no-untyped-def]
    """Leaky ReLU, then dropout. ``before``: rows of the batch before these, whose part of the draw is skipped."""
    groups = z.shape[0] // GROUP
    skipped = before * np.uint64(groups)
    bits = np.empty((GROUP, z.shape[1]), np.uint16)
    b0, b1, b2, b3, b4, b5, b6, b7 = bits[0], bits[1], bits[2], bits[3], bits[4], bits[5], bits[6], bits[7]
    for group in range(first // GROUP, last // GROUP):
        for n in range(b0.size):
            w0, w1, w2, w3 = philox(skipped + np.uint64(n * groups + group), step, site, stream, k0, k1)
            b0[n], b1[n] = w0 & np.uint64(0xFFFF), w0 >> np.uint64(16)
            b2[n], b3[n] = w1 & np.uint64(0xFFFF), w1 >> np.uint64(16)
            b4[n], b5[n] = w2 & np.uint64(0xFFFF), w2 >> np.uint64(16)
            b6[n], b7[n] = w3 & np.uint64(0xFFFF), w3 >> np.uint64(16)
        for lane in range(GROUP):
            o = GROUP * group + lane
            row, dydz_row, random_bits, b = row_of(z[o]), row_of(dydz[o]), bits[lane], bias[o]
            for n in range(row.size):
                y = row[n] + b
                kept = scale if random_bits[n] >= threshold else _ZERO
                row[n] = max(y, slope * y) * kept
                dydz_row[n] = kept if y > _ZERO else slope * kept


@inlined
def slopes(kind, dz, first, last, y, slope):  # type: ignore[no-untyped-def]
    """dz = dy∘∂y/∂z in place: ``y`` is the result of a leaky ReLU or tanh, or for TIMES ∂y/∂z itself."""
    if kind == NOTHING:
        return
    for o in range(first, last):
        row, y_row = row_of(dz[o]), row_of(y[o])
        if kind == LEAKY_RELU:
            for n in range(row.size):
                row[n] = row[n] if y_row[n] > _ZERO else slope * row[n]
        elif kind == TANH:
            for n in range(row.size):
                row[n] *= _ONE - y_row[n] * y_row[n]
        else:
            for n in range(row.size):
                row[n] *= y_row[n]


def slopes_alone(pool: Pool, kind: int, dz: np.ndarray, y: np.ndarray, slope: float) -> None:
    """``slopes`` of a matmul that has no epilogue. Shapes: dz and y (O, N), by rows."""
    _slopes(pool.control, -(-len(dz) // _ROWS_OF_A_PIECE), kind, dz, y, slope)


@shared("void(int64, float32[:, :], float32[:, :], float32)")
def _slopes(piece, thread, kind, dz, y, slope):  # type: ignore[no-untyped-def]
    slopes(kind, dz, piece * _ROWS_OF_A_PIECE, min((piece + 1) * _ROWS_OF_A_PIECE, dz.shape[0]), y, slope)


def adam_arrays(p: Parameters) -> tuple[np.ndarray, ...]:
    """Parameter, gradient, m, v, constants, average and squares: NONE for what there is not."""
    gradient, average = (NONE if each is None else each for each in (p.gradient, p.average))
    return p.parameter, gradient, p.m, p.v, p.constants, average, p.squares


@inlined
def adam(start, stop, param, grad, m, v, constants, average):  # type: ignore[no-untyped-def]
    """Adam on the elements from ``start`` to ``stop``, of which ``grad`` is; the sum of their gradients' squares.

    ``constants``: β₁, 1 − β₁, β₂, 1 − β₂, ε, η/(1 − β₁ᵗ), 1/(1 − β₂ᵗ), and the share ``rest`` by which an average follows.
    ``average``: of the parameters, moved by ``rest`` towards them while a block of them is in cache; or empty.
    """
    beta1, rest1, beta2, rest2 = constants[0], constants[1], constants[2], constants[3]
    epsilon, rate, unbias, rest = constants[4], constants[5], constants[6], constants[7]
    p_, g_, m_, v_ = param[start:stop], grad[: stop - start], m[start:stop], v[start:stop]
    total = _ZERO
    for i in range(p_.size):
        g = g_[i]
        m_[i] = m_[i] * beta1 + g * rest1
        v_[i] = v_[i] * beta2 + g * g * rest2
        p_[i] -= m_[i] * rate / (np.sqrt(v_[i] * unbias) + epsilon)
        total += g * g
    if average.size:
        a_ = average[start:stop]
        for i in range(p_.size):
            a_[i] += rest * (p_[i] - a_[i])
    return total
