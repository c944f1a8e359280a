"""What LLVM is told where numba's own loops would not stay in registers: vectors, and tiles of a matrix product.

A vector is one register: ``LANES`` float32. Functions here are written for the compiler, as its instructions one by one;
what they do stands in their docstrings. Their arrays are addresses (``address``), distances count numbers.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_intrinsic: Any = intrinsic
_N = types.int64


def _features() -> set[str]:
    """What the processor that numba compiles for can do, such as "+avx2"; NUMBA_CPU_FEATURES is for tests."""
    given = numba.config.CPU_FEATURES  # type: ignore[attr-defined]
    return set((given or llvmlite.binding.get_host_cpu_features().flatten()).split(","))


def suitable() -> bool:
    """Whether the matrix products of ``gemm`` are for this machine: an x86 with AVX2 at least."""
    return platform.machine() in ("x86_64", "AMD64") and _features() >= {"+avx2", "+fma"}


LANES = 16 if "+avx512f" in _features() else 8
# Rows of a tile: with two vectors a row, its sums and a row of B fill AVX-512's 32 registers or AVX2's 16
ROWS = 8 if LANES == 16 else 6
COLUMNS = 2 * LANES

_FLOAT, _INT, _INT32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR, _MASK = ir.VectorType(_FLOAT, LANES), ir.VectorType(ir.IntType(1), LANES)
_UNROLLED = 4  # turns of the depth loop between two tests of its end


@_intrinsic
def address(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """Of the number that is ``offset`` numbers behind the array's first."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(builder.gep(data, [arguments[1]]), _INT)

    return _N(array, _N), generate


def _at(builder: Any, start: Any, offset: Any, kind: Any = _FLOAT) -> Any:
    """Pointer to what is ``offset`` float32 behind the address ``start``."""
    first = builder.inttoptr(start, _FLOAT.as_pointer())
    return builder.bitcast(builder.gep(first, [offset]), kind.as_pointer())


def _function(builder: Any, result: Any, arguments: list[Any], name: str) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _first_lanes(builder: Any, count: Any) -> Any:
    """The mask of the first ``count`` lanes."""
    mask = ir.Constant(_MASK, ir.Undefined)
    for lane in range(LANES):
        mask = builder.insert_element(mask, builder.icmp_signed(">", count, _INT(lane)), _INT32(lane))
    return mask


def tile(rows: int, masked: bool = False) -> Any:
    """The inner kernel for a tile of C of ``rows`` times two vectors or, if ``masked``, the first ``columns`` lanes of one.

    c[r·cr + j] = Σ_k a[r·ar + k·ak] · b[k·bk + j], summed in the order of k; unless ``add`` is 0, to what is there.
    """

    @_intrinsic
    def inner(typing_context, a, ar, ak, b, bk, c, cr, depth, columns, add):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            a, ar, ak, b, bk, c, cr, depth, columns, add = arguments
            load, store = _access(builder, _first_lanes(builder, columns) if masked else None)
            fma = _function(builder, _VECTOR, [_VECTOR] * 3, f"llvm.fma.v{LANES}f32")
            zero, undefined = ir.Constant(_VECTOR, [0.0] * LANES), ir.Constant(_VECTOR, ir.Undefined)
            first = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
            vectors = 1 if masked else 2
            places = [
                _at(builder, c, builder.add(builder.mul(cr, _INT(r)), _INT(LANES * j)), _VECTOR)
                for r in range(rows)
                for j in range(vectors)
            ]
            sums = [cgutils.alloca_once_value(builder, zero) for _ in places]
            with builder.if_then(builder.icmp_signed("!=", add, _INT(0))):
                for total, place in zip(sums, places, strict=True):
                    builder.store(load(place), total)

            def turn(k: Any) -> None:
                row, column = builder.mul(k, bk), builder.mul(k, ak)
                factors = [load(_at(builder, b, builder.add(row, _INT(LANES * j)), _VECTOR)) for j in range(vectors)]
                for r in range(rows):
                    number = builder.load(_at(builder, a, builder.add(column, builder.mul(ar, _INT(r)))))
                    lane = builder.insert_element(undefined, number, _INT32(0))
                    repeated = builder.shuffle_vector(lane, undefined, first)
                    for factor, total in zip(factors, sums[r * vectors :], strict=False):
                        builder.store(builder.call(fma, [factor, repeated, builder.load(total)]), total)

            _loop(builder, depth, turn, 1 if masked or rows < ROWS else _UNROLLED)
            for total, place in zip(sums, places, strict=True):
                store(builder.load(total), place)
            return context.get_dummy_value()

        return types.void(*[_N] * 10), generate

    return inner


def _loop(builder: Any, count: Any, turn: Callable[[Any], None], unrolled: int) -> None:
    whole = builder.sub(count, builder.srem(count, _INT(unrolled)))
    with cgutils.for_range_slice(builder, _INT(0), whole, _INT(unrolled), _INT) as (k, _):
        for more in range(unrolled):
            turn(builder.add(k, _INT(more)))
    if unrolled > 1:
        with cgutils.for_range_slice(builder, whole, count, _INT(1), _INT) as (k, _):
            turn(k)


def _access(builder: Any, mask: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """How vectors are loaded and stored, whole or the lanes of a mask."""
    if mask is None:
        return (
            lambda place: builder.load(place, align=4),
            lambda vector, place: builder.store(vector, place, align=4),
        )
    align, zero = _INT32(4), ir.Constant(_VECTOR, [0.0] * LANES)
    pointer, name = _VECTOR.as_pointer(), f"v{LANES}f32.p0"
    load = _function(builder, _VECTOR, [pointer, _INT32, _MASK, _VECTOR], f"llvm.masked.load.{name}")
    store = _function(builder, ir.VoidType(), [_VECTOR, pointer, _INT32, _MASK], f"llvm.masked.store.{name}")
    return (
        lambda place: builder.call(load, [place, align, mask, zero]),
        lambda vector, place: builder.call(store, [vector, place, align, mask]),
    )


@_intrinsic
def prefetch(typing_context, start):  # type: ignore[no-untyped-def]
    """Asks for the cache line of the address, without waiting for it."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = _at(builder, arguments[0], _INT(0), ir.IntType(8))
        ask = _function(builder, ir.VoidType(), [place.type, _INT32, _INT32, _INT32], "llvm.prefetch.p0")
        builder.call(ask, [place, _INT32(0), _INT32(3), _INT32(1)])
        return context.get_dummy_value()

    return types.void(_N), generate


@_intrinsic
def copy_rows(typing_context, to, source):  # type: ignore[no-untyped-def]
    """to[:ROWS] = source[:ROWS] in one move."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, source = (_at(builder, start, _INT(0), ir.VectorType(_FLOAT, ROWS)) for start in arguments)
        builder.store(builder.load(source, align=4), to, align=4)
        return context.get_dummy_value()

    return types.void(_N, _N), generate


@_intrinsic
def transpose(typing_context, to, to_row, source, source_row):  # type: ignore[no-untyped-def]
    """Transposes LANES × LANES numbers, by log₂ LANES perfect shuffles of the rows r and r + LANES/2 with one another."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, to_row, source, source_row = arguments

        def row(start: Any, distance: Any, r: int) -> Any:
            return _at(builder, start, builder.mul(distance, _INT(r)), _VECTOR)

        order = [lane for pair in range(LANES) for lane in (pair, LANES + pair)]
        halves = [ir.Constant(ir.VectorType(_INT32, LANES), part) for part in (order[:LANES], order[LANES:])]
        vectors = [builder.load(row(source, source_row, r), align=4) for r in range(LANES)]
        for _ in range(LANES.bit_length() - 1):
            pairs = [(vectors[r], vectors[r + LANES // 2]) for r in range(LANES // 2)]
            vectors = [builder.shuffle_vector(*pair, half) for pair in pairs for half in halves]
        for r, vector in enumerate(vectors):
            builder.store(vector, row(to, to_row, r), align=4)
        return context.get_dummy_value()

    return types.void(_N, _N, _N, _N), generate
