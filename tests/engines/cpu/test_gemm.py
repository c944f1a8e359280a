"""npgan's own matrix products: right to rounding at every shape and layout, and they touch nothing beside their result."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="the products need numba: pip install 'npgan[fast]'")

import numba

from npgan.backend import select
from npgan.engines import Choice, Compute, choose
from npgan.engines.cpu import gemm, jit, kernels
from npgan.engines.cpu.blas import Blas
from npgan.engines.cpu.gemm import Gemm

_ROOT = Path(__file__).resolve().parents[3]
_SIZES = st.one_of(st.integers(1, 70), st.sampled_from([100, 128, 256, 784]))


multiply = Gemm(own=True)  # whatever the machine has: without AVX-512 the compiler splits their vectors


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    jit.use_threads(2)
    yield
    _fused()


def _fused(threads: int = 2, blas_asked: bool = False) -> Choice:
    return choose(Compute("numpy", kernels="fused", blas=Blas(threads, asked=blas_asked)), select("numpy"))


def _array(rng: np.random.Generator, rows: int, columns: int, order: str, margin: int = 0) -> np.ndarray:
    """Numbers in an array that is a part of a larger one, whose other numbers are NaN."""
    whole = np.full((rows + margin, columns + margin), np.nan, np.float32, order=order)  # type: ignore[call-overload]
    whole[:rows, :columns] = rng.standard_normal((rows, columns))
    return whole[:rows, :columns]


@given(
    m=_SIZES, k=_SIZES, n=_SIZES, a_order=st.sampled_from("CF"), b_order=st.sampled_from("CF"),
    out_order=st.sampled_from("CF"), margin=st.sampled_from([0, 3]), threads=st.integers(1, 2),
)  # fmt: skip
@example(m=256, k=784, n=1024, a_order="F", b_order="C", out_order="F", margin=0, threads=2)  # D's first layer
@example(m=128, k=256, n=1, a_order="F", b_order="C", out_order="F", margin=0, threads=2)  # D's head
@example(m=784, k=256, n=1024, a_order="C", b_order="F", out_order="C", margin=0, threads=2)  # dW
@settings(max_examples=150, deadline=None)
def test_a_product(
    m: int, k: int, n: int, a_order: str, b_order: str, out_order: str, margin: int, threads: int
) -> None:
    """Summed in float32 with one rounding for each of k terms, so off by at most k·2⁻²⁴ times the sum of the sizes."""
    jit.use_threads(threads)
    rng = np.random.default_rng(m * 1_000_003 + k * 1009 + n)
    a, b = _array(rng, m, k, a_order, margin), _array(rng, k, n, b_order, margin)
    out = _array(rng, m, n, out_order, margin)
    around = out.base if out.base is not None else out
    multiply(a, b, out)
    bound = k * 2.0**-24 * (np.abs(a).astype(np.float64) @ np.abs(b))
    assert np.all(np.abs(out - a.astype(np.float64) @ b) <= bound)
    assert np.isnan(around).sum() == around.size - out.size


@pytest.mark.parametrize("a_order", "CF")
@pytest.mark.parametrize("b_order", "CF")
@pytest.mark.parametrize("out_order", "CF")
def test_they_are_used_for_every_order(
    a_order: str, b_order: str, out_order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("BLAS was called")

    rng = np.random.default_rng(0)
    a, b, out = _array(rng, 20, 30, a_order), _array(rng, 30, 40, b_order), _array(rng, 20, 40, out_order)
    with monkeypatch.context() as patched:
        patched.setattr(gemm.np, "matmul", refuse)
        multiply(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-5)


def test_other_strides_go_to_blas() -> None:
    rng = np.random.default_rng(0)
    a, b, out = _array(rng, 20, 30, "C")[:, ::2], _array(rng, 15, 40, "C"), np.empty((20, 40), np.float32)
    multiply(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-5)
    reverse = np.empty((40, 40), np.float32).T[:, 19::-1]
    multiply(b.T, a.T, reverse)
    np.testing.assert_allclose(reverse, b.T @ a.T, rtol=1e-5, atol=1e-5)


def test_a_row_of_the_batch_does_not_depend_on_the_others_or_on_the_threads() -> None:
    rng = np.random.default_rng(0)
    x, weight = _array(rng, 100, 200, "F"), _array(rng, 200, 64, "C")
    results = []
    for rows, threads in ((100, 1), (100, 2), (37, 2), (1, 1)):
        jit.use_threads(threads)
        y = kernels.CpuKernels(multiply).empty(rows, 64)
        multiply(np.asfortranarray(x[:rows]), weight, y)
        results.append(y)
    for y in results:
        np.testing.assert_array_equal(y, results[0][: len(y)])


def test_infinity_and_nan_come_through() -> None:
    a, b = np.ones((8, 4), np.float32, order="F"), np.ones((4, 32), np.float32)
    a[1, 2], a[2, 3] = np.inf, np.nan
    out = np.empty((8, 32), np.float32)
    multiply(a, b, out)
    assert np.isinf(out[1]).all() and np.isnan(out[2]).all() and (out[3:] == 4).all()


def test_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "npgan's own for AVX-512 (instead of BLAS; for BLAS: --blas-core default), 1 thread"
    monkeypatch.setattr(gemm, "suitable", lambda: True)
    assert (_fused(1).gemm, _fused(1).sums) == (own, "npgan")
    assert own not in _fused(2, blas_asked=True).gemm and _fused(2, blas_asked=True).sums != "npgan"
    assert numba.get_num_threads() == 1  # BLAS has the cores
    monkeypatch.setattr(jit.numba, "threading_layer", lambda: "workqueue")
    chosen = _fused(2)
    assert chosen.sums != "npgan" and "on one thread: numba finds no OpenMP" in chosen.reason
    monkeypatch.setattr(gemm, "suitable", lambda: False)
    assert _fused(2).sums != "npgan"


def test_threads_are_at_most_the_cores() -> None:
    code = "from npgan.engines.cpu import jit; import numba; jit.use_threads(64); print(numba.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == numba.config.NUMBA_NUM_THREADS


@pytest.mark.parametrize(
    ("given", "turns"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "")]
)
def test_threads_that_wait_soon_sleep_unless_the_user_says_how(given: dict[str, str], turns: str) -> None:
    """Else a step takes ten times as long where another program has one of the cores."""
    environment = {name: value for name, value in os.environ.items() if "OMP_" not in name} | given
    code = "import os, npgan.engines.cpu.jit; print(os.environ.get('GOMP_SPINCOUNT', ''))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=_ROOT)
    assert (ended.stdout.strip(), ended.stderr) == (turns, "")


def test_kernels_are_compiled_by_another_process(tmp_path: Path) -> None:
    """A loop with prange that was compiled here sums in another order than the same loop from the cache."""
    code = """if True:
        import subprocess, sys
        def run(command, env, **_):
            compiled = "npgan.engines.cpu.kernels", "npgan.engines.cpu.gemm"
            loaded = [name for name in compiled if name in sys.modules]
            print(command[1:], loaded)
            sys.exit()
        from npgan.backend import select
        from npgan.engines import Compute, choose
        backend = select("numpy")
        subprocess.run = run
        choose(Compute(kernels="fused"), backend)"""
    empty = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, env=empty, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['-c', 'import npgan.engines.cpu.kernels, npgan.engines.cpu.gemm'] []\n"
    assert not list(tmp_path.rglob("*.nb?"))


def test_kernels_come_from_the_cache() -> None:
    _fused()
    for module in (jit, kernels, gemm):
        found = [kernel for kernel in vars(module).values() if hasattr(kernel, "stats")]
        assert found and not any(kernel.stats.cache_misses for kernel in found)
