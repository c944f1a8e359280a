"""GEMM for AVX-512 in place of BLAS's: float32, of matrices that lie by rows or by columns, compiled by numba.

A batch of this model is small, so BLAS spends a good part of a matmul on copying both factors into the order that its
inner loop likes, and on waking its threads. The way ``kernels`` keeps its arrays, little of that is needed. Everything here is
C = A·B with C by rows; x, y and dz lie by columns, so their transposes lie by rows (letters as in ``ops``):

    dxᵀ (I, N) = W (I, O) · dzᵀ (O, N)    both by rows: used as they lie
    yᵀ (O, N) = Wᵀ (O, I) · xᵀ (I, N)     A by columns: 64 rows of it at a time are packed into panels
    dW (I, O) = xᵀ (I, N) · dz (N, O)     B by columns: 32 columns of it at a time are transposed into a panel

The inner kernel (``_tile``; the name is Goto and van de Geijn's, 2008) keeps 8 rows of two vectors of C in 16 registers
while it runs through the depth: two vectors of B, eight numbers of A, sixteen fused multiply-adds. Every number of C is
summed in the order of the depth, whatever the threads, the batch and the place in it.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange
from numba.core import cgutils, types
from numba.extending import intrinsic

from npgan.engines.cpu.jit import compiled, shared

_LANES = 16  # float32 in an AVX-512 register
_ROWS = 8
_TILE = 2 * _LANES  # columns
_PANELS = 8  # panels of _ROWS rows that are packed at once: 64 neighbors in memory, four cache lines
_BLOCK = 128  # columns of B that all rows of A meet before the next: 512 KB at a depth of 1024, in the L2 cache

_intrinsic: Any = intrinsic

_FLOAT = ir.FloatType()
_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, _LANES)
_MASK = ir.VectorType(ir.IntType(1), _LANES)


def suitable() -> bool:
    """Whether this machine has AVX-512. Elsewhere BLAS is the faster one."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))


class Gemm:
    """``gemm(a, b, out)``: a·b into ``out``, by the GEMM below or by NumPy's BLAS. Shapes: (M, K)·(K, N) → (M, N)."""

    def __init__(self, own: bool) -> None:
        self.own = own
        self._scratch = np.empty(0, np.float32)  # what they pack and turn parts of A and B into, used again and again

    def describe(self) -> str:
        """For the run's header: "" where it is BLAS's."""
        count = numba.get_num_threads()
        threads = f"{count} thread{'s' if count != 1 else ''}"
        return (
            f"npgan's own for AVX-512 (instead of BLAS; for BLAS: --blas-core default), {threads}" if self.own else ""
        )

    def __call__(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        if not self.own or not self._multiply(a, b, out):
            np.matmul(a, b, out=out)

    def _multiply(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> bool:
        """a·b into ``out``; or False where one of them lies neither by rows nor by columns."""
        if out.strides[0] == out.itemsize and out.shape[1] > 1:
            a, b, out = b.T, a.T, out.T  # (a·b)ᵀ = bᵀ·aᵀ
        a_by_rows, a_by_columns = (stride == a.itemsize for stride in reversed(a.strides))
        b_by_rows, b_by_columns = (stride == b.itemsize for stride in reversed(b.strides))
        if out.strides[1] != out.itemsize and out.shape[1] > 1:
            return False
        shares, depth = numba.get_num_threads(), len(b)
        if a_by_rows and b_by_rows:
            _rows_by_rows(a, b, out, shares)
        elif a_by_columns and b_by_rows:
            _columns_by_rows(a, b, out, shares, self._space(shares * depth * _PANELS * _ROWS))
        elif a_by_rows and b_by_columns:
            _rows_by_columns(a, b, out, shares, self._space(shares * depth * _TILE))
        elif a_by_columns and b_by_columns:
            space = self._space(b.size + shares * depth * _PANELS * _ROWS)
            transposed = space[: b.size]
            _transpose_panel(b, transposed, b.shape[1])
            _columns_by_rows(a, transposed.reshape(b.shape), out, shares, space[b.size :])
        else:
            return False
        return True

    def _space(self, count: int) -> np.ndarray:
        """Room for ``count`` numbers, the same at every call."""
        if self._scratch.size < count:
            self._scratch = np.empty(count, np.float32)
        return self._scratch


# --- what the compiler is told ---------------------------------------------------------------------------------------


def _data(context: Any, builder: Any, signature: Any, arguments: Any, index: int) -> Any:
    return context.make_array(signature.args[index])(context, builder, arguments[index]).data


def _vector_at(builder: Any, pointer: Any, offset: int = 0) -> Any:
    return builder.bitcast(builder.gep(pointer, [_INDEX(offset)]), _VECTOR.as_pointer())


def _make_tile(rows: int, vectors: int, masked: bool) -> Any:
    """The inner kernel for a tile of C of ``rows`` times ``vectors`` vectors; ``masked``: only ``columns`` of them exist.

    c[c0 + r·cr + j] = Σ_k a[a0 + r·ar + k·ak] · b[b0 + k·bk + j], the offsets counted in numbers from an array's start.
    """

    @_intrinsic
    def tile(typing_context, a, a0, ar, ak, b, b0, bk, c, c0, cr, depth, columns):  # type: ignore[no-untyped-def]
        n = types.int64

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            _, a0, ar, ak, _, b0, bk, _, c0, cr, depth, columns = arguments
            a, b, c = (_data(context, builder, signature, arguments, index) for index in (0, 4, 7))
            fma, load, store = _vector_functions(builder.module)
            mask = _first_lanes(builder, columns) if masked else None
            zero = ir.Constant(_VECTOR, [0.0] * _LANES)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(rows)]
            align = ir.IntType(32)(4)

            with cgutils.for_range(builder, depth) as loop:
                row = builder.gep(b, [builder.add(b0, builder.mul(loop.index, bk))])
                factors = []
                for j in range(vectors):
                    pointer = _vector_at(builder, row, _LANES * j)
                    if mask is None:
                        factors.append(builder.load(pointer, align=4))
                    else:
                        factors.append(builder.call(load, [pointer, align, mask, zero]))
                column = builder.gep(a, [builder.add(a0, builder.mul(loop.index, ak))])
                for r in range(rows):
                    number = builder.load(builder.gep(column, [builder.mul(ar, _INDEX(r))]))
                    lane = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.IntType(32)(0))
                    lanes = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
                    repeated = builder.shuffle_vector(lane, ir.Constant(_VECTOR, ir.Undefined), lanes)
                    for factor, total in zip(factors, sums[r], strict=True):
                        builder.store(builder.call(fma, [factor, repeated, builder.load(total)]), total)

            for r in range(rows):
                row = builder.gep(c, [builder.add(c0, builder.mul(cr, _INDEX(r)))])
                for j, total in enumerate(sums[r]):
                    pointer = _vector_at(builder, row, _LANES * j)
                    if mask is None:
                        builder.store(builder.load(total), pointer, align=4)
                    else:
                        builder.call(store, [builder.load(total), pointer, align, mask])
            return context.get_dummy_value()

        return types.void(a, n, n, n, b, n, n, c, n, n, n, n), generate

    return tile


def _vector_functions(module: Any) -> tuple[Any, Any, Any]:
    """LLVM's fused multiply-add, masked load and masked store for a vector."""
    int32, pointer = ir.IntType(32), _VECTOR.as_pointer()
    name = f"v{_LANES}f32"

    def declared(result: Any, arguments: list[Any], function: str) -> Any:
        return cgutils.get_or_insert_function(module, ir.FunctionType(result, arguments), function)

    return (
        declared(_VECTOR, [_VECTOR, _VECTOR, _VECTOR], f"llvm.fma.{name}"),
        declared(_VECTOR, [pointer, int32, _MASK, _VECTOR], f"llvm.masked.load.{name}.p0"),
        declared(ir.VoidType(), [_VECTOR, pointer, int32, _MASK], f"llvm.masked.store.{name}.p0"),
    )


def _first_lanes(builder: Any, count: Any) -> Any:
    """The mask of the first ``count`` lanes."""
    mask = ir.Constant(_MASK, ir.Undefined)
    for lane in range(_LANES):
        mask = builder.insert_element(mask, builder.icmp_signed(">", count, _INDEX(lane)), ir.IntType(32)(lane))
    return mask


@_intrinsic
def _copy_rows(typing_context, to, to0, source, source0):  # type: ignore[no-untyped-def]
    """to[to0 : to0 + 8] = source[source0 : source0 + 8] in one move."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, to0, _, source0 = arguments
        to, source = (_data(context, builder, signature, arguments, index) for index in (0, 2))
        half = ir.VectorType(_FLOAT, _ROWS).as_pointer()
        numbers = builder.load(builder.bitcast(builder.gep(source, [source0]), half), align=4)
        builder.store(numbers, builder.bitcast(builder.gep(to, [to0]), half), align=4)
        return context.get_dummy_value()

    return types.void(to, types.int64, source, types.int64), generate


@_intrinsic
def _transpose(typing_context, to, to0, to_row, source, source0, source_row):  # type: ignore[no-untyped-def]
    """Transposes 16 × 16 numbers. Four times the rows r and r + 8 are interleaved: a perfect shuffle of 256 numbers each."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, to0, to_row, _, source0, source_row = arguments
        to, source = (_data(context, builder, signature, arguments, index) for index in (0, 3))
        indices = ir.VectorType(ir.IntType(32), _LANES)
        order = [lane for pair in range(_LANES) for lane in (pair, _LANES + pair)]
        low, high = ir.Constant(indices, order[:_LANES]), ir.Constant(indices, order[_LANES:])
        vectors = []
        for r in range(_LANES):
            row = builder.gep(source, [builder.add(source0, builder.mul(source_row, _INDEX(r)))])
            vectors.append(builder.load(_vector_at(builder, row), align=4))
        for _ in range(4):
            pairs = [(vectors[r], vectors[r + _LANES // 2]) for r in range(_LANES // 2)]
            vectors = [builder.shuffle_vector(*pair, part) for pair in pairs for part in (low, high)]
        for r, vector in enumerate(vectors):
            row = builder.gep(to, [builder.add(to0, builder.mul(to_row, _INDEX(r)))])
            builder.store(vector, _vector_at(builder, row), align=4)
        return context.get_dummy_value()

    n = types.int64
    return types.void(to, n, n, source, n, n), generate


_tile = _make_tile(_ROWS, 2, masked=False)
_edge_tile = _make_tile(_ROWS, 1, masked=True)
_row_tile = _make_tile(1, 1, masked=True)


# --- the four GEMMs --------------------------------------------------------------------------------------------------


_MATRICES = "float32[:, :], float32[:, :], float32[:, :], int64"


@njit(inline="always", nogil=True)
def _tiles(a, a0, ar, ak, b, b0, bk, c, c0, cr, depth, rows, columns):  # type: ignore[no-untyped-def]
    """Up to 8 rows and 32 columns of C: one tile, or at C's edges as many smaller ones as it takes."""
    if rows == _ROWS and columns == _TILE:
        _tile(a, a0, ar, ak, b, b0, bk, c, c0, cr, depth, columns)
        return
    for column in range(0, columns, _LANES):
        if rows == _ROWS:
            _edge_tile(a, a0, ar, ak, b, b0 + column, bk, c, c0 + column, cr, depth, columns - column)
        else:
            for r in range(rows):
                _row_tile(
                    a, a0 + r * ar, 0, ak, b, b0 + column, bk, c, c0 + r * cr + column, 0, depth, columns - column
                )


@shared(f"void({_MATRICES})")
def _rows_by_rows(a, b, c, shares):  # type: ignore[no-untyped-def]
    (rows, columns), depth = c.shape, b.shape[0]
    ar, bk, cr = a.strides[0] // 4, b.strides[0] // 4, c.strides[0] // 4
    groups = -(-rows // _ROWS)
    for share in prange(shares):
        for block in range(0, columns, _BLOCK):
            for group in range(groups * share // shares, groups * (share + 1) // shares):
                r = group * _ROWS
                for j in range(block, min(block + _BLOCK, columns), _TILE):
                    height, width = min(_ROWS, rows - r), min(_TILE, columns - j)
                    _tiles(a, r * ar, ar, 1, b, j, bk, c, r * cr + j, cr, depth, height, width)


@shared(f"void({_MATRICES}, float32[::1])")
def _columns_by_rows(a, b, c, shares, space):  # type: ignore[no-untyped-def]
    (rows, columns), depth = c.shape, b.shape[0]
    ak, bk, cr = a.strides[1] // 4, b.strides[0] // 4, c.strides[0] // 4
    groups, size = -(-rows // _ROWS), _PANELS * depth * _ROWS
    for share in prange(shares):
        packed = space[share * size : (share + 1) * size]  # [panel, k, row]
        first, last = groups * share // shares, groups * (share + 1) // shares
        for start in range(first, last, _PANELS):
            panels = min(_PANELS, last - start)
            whole = min(panels, rows // _ROWS - start)
            for k in range(depth):
                for panel in range(whole):
                    _copy_rows(packed, (panel * depth + k) * _ROWS, a, (start + panel) * _ROWS + k * ak)
            if whole < panels:
                for k in range(depth):
                    for r in range(rows % _ROWS):
                        packed[(whole * depth + k) * _ROWS + r] = a[(start + whole) * _ROWS + r, k]
            for j in range(0, columns, _TILE):
                for panel in range(panels):
                    r = (start + panel) * _ROWS
                    height, width = min(_ROWS, rows - r), min(_TILE, columns - j)
                    a0 = panel * depth * _ROWS
                    _tiles(packed, a0, 1, _ROWS, b, j, bk, c, r * cr + j, cr, depth, height, width)


@compiled("void(float32[:, :], float32[::1], int64)")
def _transpose_panel(b, rows, pitch):  # type: ignore[no-untyped-def]
    """``b``, which lies by columns, by rows: row k to ``rows[k * pitch :]``."""
    depth, columns = b.shape
    square, wide = depth - depth % _LANES, columns - columns % _LANES
    bj = b.strides[1] // 4
    for j in range(0, wide, _LANES):
        for k in range(0, square, _LANES):
            _transpose(rows, k * pitch + j, pitch, b, j * bj + k, bj)
    for j in range(columns):
        for k in range(square if j < wide else 0, depth):
            rows[k * pitch + j] = b[k, j]


@shared(f"void({_MATRICES}, float32[::1])")
def _rows_by_columns(a, b, c, shares, space):  # type: ignore[no-untyped-def]
    (rows, columns), depth = c.shape, b.shape[0]
    ar, cr = a.strides[0] // 4, c.strides[0] // 4
    tiles = -(-columns // _TILE)
    for share in prange(shares):
        panel = space[share * depth * _TILE : (share + 1) * depth * _TILE]  # [k, column]
        for j in range(tiles * share // shares * _TILE, min(tiles * (share + 1) // shares * _TILE, columns), _TILE):
            width = min(_TILE, columns - j)
            _transpose_panel(b[:, j : j + width], panel, _TILE)
            for r in range(0, rows, _ROWS):
                height = min(_ROWS, rows - r)
                _tiles(a, r * ar, ar, 1, panel, 0, _TILE, c, r * cr + j, cr, depth, height, width)
