"""BLAS's matmuls with plain loops after them give what npgan's own matmuls do, to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fused kernels need numba: pip install 'npgan[fast]'")

from npgan.engines.cpu import vectors  # noqa: E402

if not vectors.suitable():
    pytest.skip("npgan's own matmuls need an x86 with AVX2", allow_module_level=True)

from npgan.engines.cpu.blas import Blas  # noqa: E402
from npgan.engines.cpu.epilogues import DROPOUT, LEAKY_RELU, NOTHING, TANH, TIMES  # noqa: E402
from npgan.engines.cpu.gemm import Gemm  # noqa: E402
from npgan.engines.cpu.kernels import CpuKernels  # noqa: E402
from npgan.engines.cpu.plain import PlainGemm  # noqa: E402
from npgan.engines.cpu.pool import Pool  # noqa: E402
from npgan.engines.schedule import Parameters  # noqa: E402
from npgan.nn.layers import Dense  # noqa: E402
from npgan.nn.network import Sequential  # noqa: E402

_GEMMS: tuple[Any, Any] = Gemm(Pool(2)), PlainGemm(Blas())
_CLOSE = {"rtol": 1e-5, "atol": 1e-5}
_CONSTANTS = np.array((0.5, 0.5, 0.999, 1e-3, 1e-8, 2e-4, 1.5, 0.25), np.float32)


def _columns(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    array = CpuKernels(_GEMMS[0]).empty(rows, width)
    array[...] = rng.standard_normal((rows, width))
    return array


def _dense(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[Sequential, Dense]:
    layer = Dense(inputs, outputs)
    net = Sequential([layer])
    net.parameters[...] = rng.standard_normal(net.parameters.size) / 8
    return net, layer


@pytest.mark.parametrize("kind", [NOTHING, LEAKY_RELU, DROPOUT, TANH])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(128, 100, 256), (37, 50, 40), (3, 300, 104)])
def test_activations(kind: int, rows: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(kind)
    x, (_, layer) = _columns(rng, rows, inputs), _dense(rng, inputs, outputs)
    results = []
    for gemm in _GEMMS:
        y, dydz = _columns(rng, rows, outputs), _columns(rng, rows, outputs)
        gemm.activation(x, layer, y, kind, 0.2, dydz, (1.25, 13107, np.array([2], np.uint32), (1, 3, 4, 5, 6)))
        results.append((y, dydz))
    np.testing.assert_allclose(results[0][0], results[1][0], **_CLOSE)
    if kind == DROPOUT:
        np.testing.assert_array_equal(results[0][1] == 0, results[1][1] == 0)


@pytest.mark.parametrize("kind", [NOTHING, LEAKY_RELU, TANH, TIMES])
def test_slopes(kind: int) -> None:
    rng = np.random.default_rng(kind)
    dz, y, (_, layer) = _columns(rng, 50, 40), _columns(rng, 50, 90), _dense(rng, 90, 40)
    results = [_columns(rng, 50, 90) for _ in _GEMMS]
    for gemm, out in zip(_GEMMS, results, strict=True):
        gemm.slopes(dz, layer, out, kind, y, 0.2)
    np.testing.assert_allclose(*results, **_CLOSE)


@pytest.mark.parametrize(("inputs", "outputs"), [(100, 256), (53, 1), (70, 99)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("averaged", [False, True])
def test_updates_and_their_halves(inputs: int, outputs: int, weighted: bool, averaged: bool) -> None:
    """On one table ``update`` is its two halves to the bit."""
    rng = np.random.default_rng(0)
    x, dz, c = _columns(rng, 60, inputs), _columns(rng, 60, outputs), rng.standard_normal((60, 1)).astype(np.float32)
    results = []
    for gemm in _GEMMS:
        for halves in (False, True):
            net, layer = _dense(np.random.default_rng(1), inputs, outputs)
            m, v, average = (np.full_like(net.parameters, number) for number in (0.1, 0.2, 0.3))
            squares = np.zeros(gemm.partial_sums(layer), np.float32)
            none: Any = None  # its optimizer's settings are in _CONSTANTS
            moved = average if averaged else None
            p = Parameters(layer, net.gradients, net.parameters, m, v, none, _CONSTANTS, squares, moved, 0.9)
            weights = c if weighted else None
            gemm.update(x, dz, p, weights, learn=not halves)
            if halves:
                gemm.adam(p)
            results.append((net.gradients, net.parameters, m, v, average, squares))
    for one, other in (results[0:2], results[2:4]):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in list(zip(results[0], results[2], strict=True))[:5]:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(results[0][5].sum(), (results[0][0].astype(np.float64) ** 2).sum(), rtol=1e-4)
