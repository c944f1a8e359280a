"""GEMM in place of BLAS's on x86: float32, of matrices that lie by rows or by columns, each with what follows it.

A batch of this model is small, so BLAS spends a good part of a matmul on copying both factors into the order that its
inner loop likes, and on waking its threads. The way ``kernels`` keeps its arrays, little of that is needed. Everything here
is C = A·B with C by rows; x, y and dz lie by columns, so their transposes lie by rows (letters as in ``ops``):

    yᵀ (O, N) = Wᵀ (O, I) · xᵀ (I, N)     A by columns: some rows of it at a time are packed into panels
    dxᵀ (I, N) = W (I, O) · dzᵀ (O, N)    both by rows: used as they lie
    dW (I, O) = xᵀ (I, N) · dz (N, O)     B by columns: transposed into panels first

The loops are those of Goto and van de Geijn (2008). The innermost (``vectors.tile``) keeps a tile of C, some rows of two
vectors, in registers while it runs through the depth: two vectors of B, a number of A for each row, a fused multiply-add
for each register. The tile's two vectors of B, as deep as ``_depth``, stay in the L1 cache while all rows of a piece meet
them; the piece of C and its rows of A are in the L2 cache. Then, while they are there, come the activation, the slopes, or
Adam (``epilogues``). A piece is also what threads claim (``pool``).

Every number of C is summed in the order of the depth, whatever the threads, the batch and the place in it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from npgan.engines.cpu.epilogues import (
    ADAM,
    MASK,
    NO_MASK,
    NO_ROWS,
    NONE,
    NOTHING,
    Mask,
    activation,
    adam,
    adam_arrays,
    row_of,
    slopes,
)  # fmt: skip
from npgan.engines.cpu.jit import compiled, inlined
from npgan.engines.cpu.pool import Pool, shared
from npgan.engines.cpu.vectors import COLUMNS, LANES, ROWS, address, copy_rows, prefetch, tile, transpose
from npgan.engines.schedule import Parameters
from npgan.nn.layers import Dense

_BYTES = 4  # of a number
_STEP = 24  # rows of a piece are a multiple of it: whole panels, and whole Philox blocks of 8


def _cache(level: str, default: int) -> int:
    """Bytes of a core's cache; ``default`` where the system does not say."""
    try:
        return os.sysconf(f"SC_LEVEL{level}_SIZE") or default
    except (AttributeError, OSError, ValueError):
        return default


_MOST_ROWS = 48
_AHEAD = 6  # columns that ``_pack`` asks for in advance
_L1, _L2 = _cache("1_DCACHE", 32 << 10), _cache("2_CACHE", 512 << 10)
_DEPTH = max(128, _L1 * 2 // 3 // (COLUMNS * _BYTES) // 128 * 128)


# --- tiles -----------------------------------------------------------------------------------------------------------

_whole, _four, _two, _one = (tile(rows) for rows in (ROWS, 4, 2, 1))
_whole_edge, _four_edge, _two_edge, _one_edge = (tile(rows, masked=True) for rows in (ROWS, 4, 2, 1))


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def _edge(a, ar, ak, b, bk, c, cr, rows, columns, depth, add):  # type: ignore[no-untyped-def]
    """A tile of fewer rows or columns, as several."""
    r = 0
    while r < rows:
        height = rows - r
        a_, c_ = a + r * ar * _BYTES, c + r * cr * _BYTES
        if columns == COLUMNS:
            if height >= 4:
                _four(a_, ar, ak, b, bk, c_, cr, depth, 0, add)
            elif height >= 2:
                _two(a_, ar, ak, b, bk, c_, cr, depth, 0, add)
            else:
                _one(a_, ar, ak, b, bk, c_, cr, depth, 0, add)
        else:
            for j in range(0, columns, LANES):
                b_, cj, left = b + j * _BYTES, c_ + j * _BYTES, columns - j
                if height == ROWS:
                    _whole_edge(a_, ar, ak, b_, bk, cj, cr, depth, left, add)
                elif height >= 4:
                    _four_edge(a_, ar, ak, b_, bk, cj, cr, depth, left, add)
                elif height >= 2:
                    _two_edge(a_, ar, ak, b_, bk, cj, cr, depth, left, add)
                else:
                    _one_edge(a_, ar, ak, b_, bk, cj, cr, depth, left, add)
        r += ROWS if height == ROWS and columns < COLUMNS else 4 if height >= 4 else 2 if height >= 2 else 1


@compiled(f"void({', '.join(['int64'] * 13)})")
def _tiles(a, ar, ak, ap, b, bk, bt, c, cr, rows, columns, depth, add):  # type: ignore[no-untyped-def]
    """A piece of C: for every COLUMNS of it, all its rows. Panels of A are ``ap`` apart, of B ``bt``."""
    for j in range(0, columns, COLUMNS):
        for first in range(0, rows, ROWS):
            a_, c_ = a + first // ROWS * ap * _BYTES, c + (first * cr + j) * _BYTES
            if rows - first >= ROWS and columns - j >= COLUMNS:
                _whole(a_, ar, ak, b, bk, c_, cr, depth, 0, add)
            else:
                _edge(a_, ar, ak, b, bk, c_, cr, min(ROWS, rows - first), min(COLUMNS, columns - j), depth, add)
        b += bt * _BYTES


@compiled("void(float32[:, :], int64, int64, int64, int64, float32[::1])")
def _pack(a, first, last, start, end, panels):  # type: ignore[no-untyped-def]
    """Rows of A, which lies by columns, as panels [panel, k, row]."""
    column = a.strides[1] // _BYTES
    whole = (last - first) // ROWS
    for k in range(end - start):
        source = address(a, first + (start + k) * column)
        for line in range(0, (last - first) * _BYTES, 64):  # the next column may be pages away
            prefetch(source + _AHEAD * column * _BYTES + line)
        for panel in range(whole):
            to = address(panels, (panel * (end - start) + k) * ROWS)
            copy_rows(to, source + panel * ROWS * _BYTES)
        for r in range(first + whole * ROWS, last):
            panels[(whole * (end - start) + k) * ROWS + r - first - whole * ROWS] = a[r, start + k]


@inlined
def _product(piece, a, b, bk, bt, c, step, packed):  # type: ignore[no-untyped-def]
    """One piece of C = A·B, ``step`` rows; which they are."""
    first, last = piece * step, min((piece + 1) * step, c.shape[0])
    depth, cr = a.shape[1], c.strides[0] // _BYTES
    parts = -(-depth // _DEPTH)
    for part in range(parts):
        k, end = depth * part // parts, depth * (part + 1) // parts
        if a.strides[1] == _BYTES:
            ar, ak = a.strides[0] // _BYTES, 1
            a_, ap = address(a, first * ar + k), ROWS * ar
        else:
            _pack(a, first, last, k, end, packed)
            a_, ar, ak, ap = address(packed, 0), 1, ROWS, (end - k) * ROWS
        size = last - first, c.shape[1], end - k
        _tiles(a_, ar, ak, ap, address(b, k * bk), bk, bt, address(c, first * cr), cr, *size, part)
    return first, last


# --- kernels ---------------------------------------------------------------------------------------------------------

_FACTORS = "float32[:, :], float32[:, :], int64, int64, float32[:, :], int64, float32[:, ::1]"


@shared(f"void({_FACTORS}, int64, float32[::1], float32, float32[:, :], {MASK})")
def _forward(piece, thread, a, b, bk, bt, c, step, packed, kind, bias, slope, dydz, scale, threshold, done, counter):  # type: ignore[no-untyped-def]
    rows = _product(piece, a, b, bk, bt, c, step, packed[thread])
    activation(kind, c, *rows, bias, slope, dydz, scale, threshold, done, counter)


@shared(f"void({_FACTORS}, int64, float32[:, :], float32)")
def _backward(piece, thread, a, b, bk, bt, c, step, packed, kind, y, slope):  # type: ignore[no-untyped-def]
    rows = _product(piece, a, b, bk, bt, c, step, packed[thread])
    slopes(kind, c, *rows, y, slope)


@shared("void(float32[:, :], float32[::1], float32[::1], float32[::1])")
def _into_panels(piece, thread, b, panels, weights, sums):  # type: ignore[no-untyped-def]
    """COLUMNS columns of B, which lies by columns, as a panel [k, column], and the sums of its columns Σ_k weights_k·b_k.

    ``weights``: empty for ones. ``sums``: empty for none.
    """
    depth, first = b.shape[0], piece * COLUMNS
    columns, distance = min(COLUMNS, b.shape[1] - first), b.strides[1] // _BYTES
    to = piece * depth * COLUMNS
    square, wide = depth - depth % LANES, columns - columns % LANES
    for j in range(0, wide, LANES):
        for k in range(0, square, LANES):
            source = address(b, (first + j) * distance + k)
            transpose(address(panels, to + k * COLUMNS + j), COLUMNS, source, distance)
    for j in range(columns):
        column = row_of(b.T[first + j])
        for k in range(square if j < wide else 0, depth):
            panels[to + k * COLUMNS + j] = column[k]
        if sums.size:
            total = np.float32(0)
            if weights.size:
                for k in range(depth):
                    total += weights[k] * column[k]
            else:
                for k in range(depth):
                    total += column[k]
            sums[first + j] = total


@shared(f"void({_FACTORS}, float32[:, ::1], float32[::1], boolean, {ADAM})")
def _gradient(  # type: ignore[no-untyped-def]
    piece, thread, a, b, bk, bt, c, step, packed, room, bias, learn, param, grad, m, v, constants, average, squares
):
    """A piece of dW in the thread's own room, then Adam on it; the last piece is the bias, whose gradient is there already."""
    width, own = c.shape[1], room[thread]
    first, last = piece * step, min((piece + 1) * step, c.shape[0])
    if first < last:
        rows = own[: (last - first) * width].reshape((last - first, width))
        _product(0, a[first:last], b, bk, bt, rows, step, packed[thread])
    else:
        first, last, own = c.shape[0], c.shape[0] + 1, bias
    start, stop = first * width, last * width
    if learn:
        squares[piece] = adam(start, stop, param, own, m, v, constants, average)
    kept = grad[start:stop]  # none where nobody will look at it
    for i in range(kept.size):
        kept[i] = own[i]


@shared(f"void({ADAM}, int64, int64)")
def _adam(piece, thread, param, grad, m, v, constants, average, squares, width, step):  # type: ignore[no-untyped-def]
    """The pieces of ``_gradient`` without the product."""
    rows = param.size // width - 1
    first = piece * step if piece * step < rows else rows
    last = min(first + step, rows) if first < rows else rows + 1
    start, stop = first * width, last * width
    squares[piece] = adam(start, stop, param, grad[start:stop], m, v, constants, average)


# --- what the table of kernels calls ---------------------------------------------------------------------------------


class Gemm:
    """``gemm(a, b, out)``: a·b into ``out``, (M, K)·(K, N) → (M, N); the other methods do what follows too."""

    recordable = True

    def __init__(self, pool: Pool) -> None:
        self.pool, self.sums = pool, "npgan"
        self._panels, self._rooms = [NONE], [NONE]  # of B, and of dW, see ``_room``
        self._packed = np.empty((pool.threads, _DEPTH * _MOST_ROWS), np.float32)  # panels of A, for each thread

    def describe(self) -> str:
        """For the run's header."""
        count = self.pool.threads
        kind, threads = "AVX-512" if LANES == 16 else "AVX2", f"{count} thread{'s' if count != 1 else ''}"
        return f"npgan's own for {kind} (instead of BLAS; for BLAS: --blas-core default), {threads}"

    def __call__(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        """Raises ValueError where one of them lies neither by rows nor by columns."""
        if out.strides[1] != _BYTES and out.shape[1] > 1:
            a, b, out = b.T, a.T, out.T  # (a·b)ᵀ = bᵀ·aᵀ
        if not (_lies_well(a) and _lies_well(b) and (out.strides[1] == _BYTES or out.shape[1] == 1)):
            raise ValueError("a matrix must lie by rows or by columns")
        self._run(_backward, a, b, out, NOTHING, NO_ROWS, 0.0)

    def activation(
        self, x: np.ndarray, layer: Dense, y: np.ndarray, kind: int, slope: float = 0.0,
        dydz: np.ndarray = NO_ROWS, mask: Mask = NO_MASK,
    ) -> None:  # fmt: skip
        """y = f(x·W + b). Shapes: x (N, I), y (N, O), all by columns."""
        self._run(_forward, layer.weight.T, x.T, y.T, kind, layer.bias, slope, dydz.T, *mask)

    def slopes(
        self, dz: np.ndarray, layer: Dense, out: np.ndarray, kind: int, y: np.ndarray, slope: float = 0.0
    ) -> None:
        """out = (dz·Wᵀ)∘∂y/∂z. Shapes: dz (N, O), out and y (N, I), all by columns."""
        self._run(_backward, layer.weight, dz.T, out.T, kind, y.T, slope)

    def update(self, x: np.ndarray, dz: np.ndarray, p: Parameters, c: np.ndarray | None, learn: bool) -> None:
        """dW = xᵀ·dz, db = Σ_n c_n·dz_n and, to ``learn``, Adam."""
        factors = self._into_panels(dz, NONE if c is None else c.T[0], p.layer.dbias)
        rows, width = update_rows(p.layer.out_features), p.layer.out_features
        rooms = _room(self._rooms, self.pool.threads * rows * width).reshape(self.pool.threads, -1)
        _gradient(
            self.pool.control, p.squares.size, x.T, *factors, p.layer.dweight, rows, self._packed, rooms, p.layer.dbias,
            learn, *adam_arrays(p),
        )  # fmt: skip

    def adam(self, p: Parameters) -> None:
        """The part of ``update`` that reads ``p.gradient``."""
        width = p.layer.out_features
        _adam(self.pool.control, p.squares.size, *adam_arrays(p), width, update_rows(width))

    def partial_sums(self, layer: Dense) -> int:
        """The pieces of ``update``."""
        return -(-layer.in_features // update_rows(layer.out_features)) + 1

    def _run(self, kernel: Any, a: np.ndarray, b: np.ndarray, out: np.ndarray, *more: Any) -> None:
        step = _MOST_ROWS if len(out) > 512 else _STEP
        if b.strides[1] == _BYTES:
            factor = b, b.strides[0] // _BYTES, COLUMNS
        else:
            factor = self._into_panels(b, NONE, NONE)
        kernel(self.pool.control, -(-len(out) // step), a, *factor, out, step, self._packed, *more)

    def _into_panels(self, b: np.ndarray, weights: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Panels of B, the distance of their rows, and theirs."""
        tiles, depth = -(-b.shape[1] // COLUMNS), len(b)
        panels = _room(self._panels, tiles * COLUMNS * depth)
        _into_panels(self.pool.control, tiles, b, panels, weights, sums)
        return panels.reshape(1, -1), COLUMNS, depth * COLUMNS


def update_rows(width: int) -> int:
    """Rows of dW in a piece: with p, m and v they fill three quarters of the L2 cache."""
    fit = _L2 * 3 // 4 // (4 * width * _BYTES)
    return min(max(fit // _STEP, 1) * _STEP, _MOST_ROWS)


def _room(buffers: list[np.ndarray], size: int) -> np.ndarray:
    """So many numbers of the last buffer, used again and again. Those before it are kept: recorded calls use them."""
    if buffers[-1].size < size:
        buffers.append(np.empty(size, np.float32))
    return buffers[-1][:size]


def _lies_well(array: np.ndarray) -> bool:
    return _BYTES in array.strides or 1 in array.shape
