"""Bugs of the kind that CUDA programs have, each planted in npgan's kernels: the checks must catch every one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from npgan.engines.cuda.device import DESIGN, options, source
from ptx import checks
from ptx.checks import Bench
from ptx.emulator import Module, Options, only


class Bug(NamedTuple):
    name: str
    old: str  # once in the source
    new: str
    check: Callable[[Bench], None]
    passes: int = 3


_TILE = (32, 32)
_ALL = (Options(), Options(1), Options(2), Options(3))


def _forward(bench: Bench) -> None:
    checks.forward(bench, 40, 200, 72, _TILE, ["forward_leaky_relu"])


def _dropout(bench: Bench) -> None:
    checks.forward(bench, 40, 20, 72, _TILE, ["forward_dropout"])


def _backward(bench: Bench) -> None:
    checks.backward(bench, 40, 72, 100, _TILE, ["backward_tanh"])


def _update(bench: Bench) -> None:
    checks.update(bench, 40, 72, 48, _TILE, penalized=True)


def _penalty(bench: Bench) -> None:
    checks.penalty(bench, 40, 72, 48, _TILE)


def _head(bench: Bench) -> None:
    for dropout in (False, True):
        checks.head(bench, 21, 72, 0, dropout)
    checks.head(bench, 22, 72, 2, False, penalized=True)


def _inputs(bench: Bench) -> None:
    checks.inputs(bench, 3, 5, 7, 20, 38, checks.SEED)


def _finish(bench: Bench) -> None:
    checks.finish(bench, 3, 5, 0, (7, 9), 4, 18)
    checks.finish(bench, 3, 3, 2, (7, 9), 4, 18)


def _cluster(bench: Bench) -> None:
    checks.forward(bench, 40, 300, 72, checks.CLUSTER_TILE, ["forward_leaky_relu"])


def _early(bench: Bench) -> None:
    """With programmatic dependent launch nothing may be touched before the wait."""
    checks.head(bench, 22, 72, 0, False)
    assert not any((touched & 4).any() for touched in bench.module.footprint().values())


def _early_gemm(bench: Bench) -> None:
    checks.early(bench, 40, 100, 24)


_SLAB_HAS_COME = (
    "__syncthreads();  // the slab has come, and nobody still reads the one before it, whose room is filled again"
)
_STORED = (
    "if (SUM_B) room[SUMS + threadIdx.x] = column_sum;\n    if (CLUSTER > 1) cluster_sync();\n    else __syncthreads();"
)
_PARTS = "parts[part][lane] = g;\n    __syncthreads();"

BUGS = [
    # barriers
    Bug("no barrier before a slab is used", _SLAB_HAS_COME, "", _forward),
    Bug("sums over slabs that others still read",
        "__syncthreads();  // nobody reads a slab", "// nobody reads a slab", _forward),
    Bug("sums read before others have written theirs", _STORED, _STORED.partition("\n")[0], _forward),
    Bug("block_sum reads before the barrier", "__syncthreads();\n    float total = 0.0f;", "float total = 0.0f;", _finish),
    Bug("block_sum writes what others still read", "x = warp_sum(x);\n    __syncthreads();", "x = warp_sum(x);", _finish),
    Bug("head_update sums before the barrier", _PARTS, _PARTS.partition("\n")[0], _head),
    Bug("a barrier that not all threads reach", _PARTS, _PARTS.replace("__sync", "if (column <= i) __sync"), _head),
    # copies under way
    Bug("a slab used while it is copied", "wait_copies<TILE::STAGES - 2>();", "wait_copies<TILE::STAGES - 1>();", _forward),
    Bug("copies into the slab in use", "free = now;\n", "free = now + PAIR < RING ? now + PAIR : 0;\n", _forward),
    Bug("groups of copies that never end", "end_copies();\n#pragma unroll 1", "\n#pragma unroll 1", _forward),
    # out of bounds
    Bug("copies from outside of a factor", "int bytes = inside ? 16 : 0;", "int bytes = 16;", _forward),
    Bug("the factor's last k's not cut off",
        "i < outers && 0 < ks : 0 < outers && i < ks", "i < outers : 0 < outers", _forward),
    Bug("a tile stored past the last column",
        "first_row + r < rows && first_column + s < columns", "first_row + r < rows", _forward),
    Bug("rows that there are not", "if (row >= n) return;\n    const float* x_row", "const float* x_row", _head),
    Bug("noise into what pads the rows", "if (element < rows * width) latent", "latent", _inputs),
    Bug("one element too many", "at < count; at +=", "at <= count; at +=", _update),
    Bug("a vector off its boundary",
        "column = threadIdx.x % (WIDTH / 4) * 4;", "column = threadIdx.x % (WIDTH / 4) * 4 + 1;", _forward),
    # races between threads and blocks
    Bug("every block row adds the bias's gradient",
        "if (SUM_B && blockIdx.y == 0 && threadIdx", "if (SUM_B && threadIdx", _update),
    Bug("every thread advances the counter", "if (threadIdx.x > 0) return;", "", _finish),
    Bug("others' sums read before they are there", "if (CLUSTER > 1) cluster_sync();\n    else", "if (CLUSTER == 1)", _cluster),
    Bug("a block that leaves while others read its sums", "if (CLUSTER > 1) cluster_sync();  // others", "// others", _cluster),
    Bug("a cluster's k's without the rest", "(slabs + CLUSTER - 1) / CLUSTER", "slabs / CLUSTER", _cluster),
    Bug("a kernel that does not wait for the one before", "wait_for_kernel_before();\n    if (row", "if (row", _early),
    Bug("the other factor fetched early, too",
        "++ahead) b_copies", "++ahead) a_copies.start(room + ahead * PAIR), b_copies", _early_gemm),
    Bug("weights fetched early, and again",
        "if (!B_EARLY) b_copies", "b_copies", _early_gemm),
    Bug("a prefetch past the last column", "if (row < rows && column < columns) prefetch", "prefetch", _update),
    # fragments and TF32
    Bug("a fragment's rows and k's swapped",
        "16 * m + i % 2 * 8, k + i / 2 * 4", "16 * m + i / 2 * 8, k + i % 2 * 4", _forward),
    Bug("b's fragment at neighboring k's", "B::place(8 * n, k + i * 4)", "B::place(8 * n, k + i)", _forward),
    Bug("a factor not rounded to TF32", "a_big[m][i] = round_to_tf32(x);", "a_big[m][i] = x;", _forward, 1),
    Bug("the small part keeps bits that are cut off",
        "small = __uint_as_float(__float_as_uint(x - big) & 0xFFFFE000u);",
        "small = x - big;", _forward),
    Bug("one of three passes twice", "pass == 1 ? b_small[n] : b_big[n]", "b_big[n]", _forward),
    # sums
    Bug("a share of the k's left out", "part < CLUSTER * TILE::WARPS_K;", "part < CLUSTER * TILE::WARPS_K - 1;", _forward),
    Bug("the bias's gradient of half the rows", "k < SLAB; k += TILE::PARTS", "k < SLAB / 2; k += TILE::PARTS", _update),
    Bug("half a warp's sum", "for (int distance = 16;", "for (int distance = 8;", _head),
    Bug("three of four squares", " + g.w * g.w;", ";", _update),
    Bug("the head's bias without its gradient",
        "column < i ? x[(size_t)row * i + column] : c ? c[row] : 1.0f", "x[(size_t)row * i + column]", _head),
    # the maths
    Bug("dropout's mask from the wrong word",
        "element & 4 ? words.third : words.first", "element & 4 ? words.second : words.first", _dropout),
    Bug("dropout's backward forgets the mask", "dydz ? dydz[(size_t)row * i + c] : ", "", _head),
    Bug("images of another batch", "done % per_epoch * batch + i / 196", "done % per_epoch * rows + i / 196", _inputs),
    Bug("Adam without its bias correction", "rate = lr / (1.0 - power(beta1, t))", "rate = lr", _inputs),
    Bug("an average that moves before the parameters", "(p.x - mean.x)", "(g.x - mean.x)", _update),
    Bug("a pair with itself", "row < pairs ? row + pairs : first", "row", _head),
    Bug("the penalty's backward started from the loss", "start ? start[row] : dz_row", "dz_row", _head),
    Bug("the bias's gradient without its weights", "weights && row < ks ? weights[row] : 1.0f", "1.0f", _update),
    Bug("a penalty of rate² in place of rate", "0.5f * total / rate[row]", "0.5f * total", _penalty),
    Bug("tanh's derivative of z, not of y",
        "[](float x) { return tanh_dydz(x); }", "[](float x) { return tanh_dydz(tanhf(x)); }", _backward),
]  # fmt: skip

# of each check the tile and the kernels with a GEMM that it runs: nothing else is compiled
_RUNS: dict[Callable[[Bench], None], tuple[str, tuple[str, ...]]] = {
    _forward: ("DENSE_KERNELS(32x32)", ("forward_leaky_relu",)),
    _dropout: ("DENSE_KERNELS(32x32)", ("forward_dropout",)),
    _backward: ("DENSE_KERNELS(32x32)", ("backward_tanh",)),
    _update: ("DENSE_KERNELS(32x32)", ("update",)),
    _penalty: ("DENSE_KERNELS(32x32)", ("input_gradient", "tangent_leaky_relu", "tangent_dydz")),
    _early_gemm: ("DENSE_KERNELS(32x32)", ("forward_tanh",)),
    _cluster: ("CHAIN_KERNELS(64x64x4)", ("forward_leaky_relu",)),
}


def planted(bug: Bug) -> Bench:
    """The kernels with the bug in one tile, on an architecture that has what it is about."""
    code = source()
    assert code.count(bug.old) == 1, f"{bug.name}: {code.count(bug.old)} places"
    tile, kernels = _RUNS.get(bug.check, ("", ()))
    design = replace(DESIGN, dependent=bug.check in (_early, _early_gemm))
    return Bench(
        Module(only(code.replace(bug.old, bug.new), tile, kernels), 90, options(bug.passes, design)), bug.passes, _ALL
    )
