"""Every kernel and tile, as NVRTC compiles it for one architecture of each way to do GEMMs, emulated beside float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from npgan.engines.cuda.device import CLUSTERS, DESIGN, TILES, kernel_names, options, source
from ptx import checks
from ptx.checks import CLUSTER_TILE, FEW, ORDERS, Bench, F, N
from ptx.emulator import Module, Options, empty, kernels, missing, only, written

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Array = Any

# rows, inputs, outputs: less than a tile, more than one, odd latent sizes, widths that are no multiple of 8
SHAPES = [(5, 12, 24), (40, 100, 48), (65, 7, 68), (33, 36, 40)]
_BY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)
_BY_TILE = pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile[0]}x{tile[1]}")


@pytest.fixture(scope="module", params=[(90, 3), (90, 1), (75, 0)], ids=["three passes", "tf32", "no tensor cores"])
def bench(request: pytest.FixtureRequest) -> Bench:
    architecture, passes = request.param
    return Bench(kernels(architecture, passes), passes)


def _orders(bench: Bench, shape: tuple[int, int, int]) -> Any:
    """Several for one shape, one for the others; of three ways to do GEMMs, which end alike, two with fewer shapes."""
    if bench.passes != 3 and shape not in SHAPES[1:3]:
        pytest.skip("with three passes alone")
    return FEW if shape == SHAPES[1] else (Options(3, 1, 2),)


@_BY_SHAPE
@_BY_TILE
def test_forward(bench: Bench, shape: tuple[int, int, int], tile: tuple[int, int]) -> None:
    bench.options = _orders(bench, shape)
    checks.forward(bench, *shape, tile)


@_BY_SHAPE
@_BY_TILE
def test_backward(bench: Bench, shape: tuple[int, int, int], tile: tuple[int, int]) -> None:
    n, o, i = shape[0], shape[1] // 4 * 4 + 4, shape[2]
    bench.options = _orders(bench, shape)
    checks.backward(bench, n, i, o, tile)


@_BY_SHAPE
@_BY_TILE
def test_update(bench: Bench, shape: tuple[int, int, int], tile: tuple[int, int]) -> None:
    bench.options = _orders(bench, shape)
    checks.update(bench, *shape, tile, penalized=shape in SHAPES[::2])


@_BY_SHAPE
@_BY_TILE
def test_penalty(bench: Bench, shape: tuple[int, int, int], tile: tuple[int, int]) -> None:
    n, i, o = shape[0], shape[1] // 4 * 4 + 4, shape[2]
    bench.options = _orders(bench, shape)
    checks.penalty(bench, n, i, o, tile)


@pytest.mark.parametrize("shape", [(40, 300, 48), (65, 7, 68), (33, 330, 72)], ids=str)
def test_clusters_of_blocks(bench: Bench, shape: tuple[int, int, int]) -> None:
    """One of them has fewer slabs of k's than blocks."""
    if bench.module.architecture < CLUSTERS:
        pytest.skip("clusters need compute capability 9.0")
    bench.options = FEW
    n, i, o = shape
    checks.forward(bench, n, i, o, CLUSTER_TILE)
    checks.backward(bench, n, o, i // 4 * 4 + 4, CLUSTER_TILE)
    checks.penalty(bench, n, o, i // 4 * 4 + 4, CLUSTER_TILE)


def test_a_kernel_that_begins_early_touches_only_its_weights_before_it_waits() -> None:
    code = only(source(), "DENSE_KERNELS(32x32)", ("forward_tanh",))
    bench = Bench(Module(code, 90, options(3, replace(DESIGN, dependent=True))), 3)
    checks.early(bench, 40, 100, 24)
    checks.head(bench, 22, 72, 0, True)
    with pytest.raises(AssertionError, match="touched early"):  # it is told apart
        checks.early(Bench(kernels(90, 3), 3), 40, 100, 24)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=lambda kind: checks.LOSSES[kind].name)
@pytest.mark.parametrize("dropout", [False, True])
def test_head(bench: Bench, kind: int, dropout: bool) -> None:
    bench.options = ORDERS
    for n, i, scale in ((22, 72, 1.0), (2, 4, 1.0), (34, 100, 40.0)):
        checks.head(bench, n, i, kind, dropout, scale, penalized=n == 22)


@pytest.mark.parametrize(
    ("rows", "batch", "z", "count", "step", "seed", "epochs"),
    [(3, 5, 7, 20, 38, 2**40 + 3, 0), (2, 3, 1, 9, 469_000, 2**64 - 1, 200_000), (16, 16, 3, 64, 2**31 + 5, 123, 0)],
)
def test_inputs(bench: Bench, rows: int, batch: int, z: int, count: int, step: int, seed: int, epochs: int) -> None:
    checks.inputs(bench, rows, batch, z, count, step, seed, epochs)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=lambda kind: checks.LOSSES[kind].name)
def test_finish(bench: Bench, kind: int) -> None:
    checks.finish(bench, 3, 3, kind, (7, 9), 4, 18)
    checks.finish(bench, 128, 128, kind, (300, 513), 1, 2**32 - 2)
    checks.finish(bench, 50, 50 if kind == 2 else 60, kind, (20, 30), 3, 7, scale=60.0)


@_BY_TILE
def test_what_is_not_finite_goes_through_a_gemm(bench: Bench, tile: tuple[int, int]) -> None:
    n, i, o = 40, 72, 48
    for word in (0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800000, 0xFF800000):
        x, weight, bias = bench.normal(n, i), bench.normal(i, o), bench.normal(o)
        x.view(np.uint32)[17, 33] = word
        bench.options, y = (Options(),), empty(n, o)
        (found,) = bench.run_tiled(
            "forward_leaky_relu", tile, (n, o), (x, weight, bias, y, N(n), N(i), N(o), checks.SLOPE), [y]
        )[0]
        hit = np.zeros((n, o), bool)
        hit[17] = True
        np.testing.assert_array_equal(~np.isfinite(found), hit)


def test_three_passes_are_as_exact_as_float32() -> None:
    n, i, o = 32, 784, 32
    bench = Bench(kernels(90, 3), 3, (Options(),))
    x, weight, bias, y = bench.normal(n, i), bench.normal(i, o), np.zeros(o, F), empty(n, o)
    exact = x.astype(np.float64) @ weight
    arguments = (x, weight, bias, y, N(n), N(i), N(o), F(1.0))
    (found,) = bench.run_tiled("forward_leaky_relu", TILES[2], (n, o), arguments, [y])[0]
    sequential = np.zeros((n, o), F)
    for k in range(i):
        sequential += x[:, k : k + 1] * weight[k]
    error, plain = (np.linalg.norm(result - exact) for result in (found, sequential))
    assert error < 1.5 * plain


def test_every_kernel_is_emulated() -> None:
    module = kernels(90, 3)
    assert sorted(module.names()) == sorted(kernel_names())
    for name in module.names():
        module.program(name)


def test_what_is_unwritten_is_known() -> None:
    x = empty(4)
    assert np.isnan(x).all() and not written(x).any()
    x[1] = np.nan
    assert written(x).tolist() == [False, True, False, False]
