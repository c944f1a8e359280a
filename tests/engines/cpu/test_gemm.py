"""npgan's own matrix products: right to rounding at every shape and layout, and they touch nothing beside their result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="the products need numba: pip install 'npgan[fast]'")

import numba

from npgan.backend import select
from npgan.engines import Choice, Compute, choose
from npgan.engines.cpu import gemm, kernels, vectors
from npgan.engines.cpu.blas import Blas
from npgan.engines.cpu.gemm import Gemm
from npgan.engines.cpu.pool import Pool

_ROOT = Path(__file__).resolve().parents[3]
_SIZES = st.one_of(st.integers(1, 70), st.sampled_from([100, 128, 256, 784]))


_GEMMS = {threads: Gemm(Pool(threads)) for threads in (1, 2, 3)}
multiply = _GEMMS[2]


def _fused(threads: int = 2, blas_asked: bool = False) -> Choice:
    return choose(Compute("numpy", kernels="fused", blas=Blas(threads, asked=blas_asked)), select("numpy"))


def _array(rng: np.random.Generator, rows: int, columns: int, order: str, margin: int = 0) -> np.ndarray:
    """Numbers in an array that is a part of a larger one, whose other numbers are NaN."""
    whole = np.full((rows + margin, columns + margin), np.nan, np.float32, order=order)  # type: ignore[call-overload]
    whole[:rows, :columns] = rng.standard_normal((rows, columns))
    return whole[:rows, :columns]


@given(
    m=_SIZES, k=_SIZES, n=_SIZES, a_order=st.sampled_from("CF"), b_order=st.sampled_from("CF"),
    out_order=st.sampled_from("CF"), margin=st.sampled_from([0, 3]), threads=st.integers(1, 3),
)  # fmt: skip
@example(m=256, k=784, n=1024, a_order="F", b_order="C", out_order="F", margin=0, threads=2)  # D's first layer
@example(m=128, k=256, n=1, a_order="F", b_order="C", out_order="F", margin=0, threads=2)  # D's head
@example(m=784, k=256, n=1024, a_order="C", b_order="F", out_order="C", margin=0, threads=2)  # dW
@settings(max_examples=150, deadline=None)
def test_a_product(
    m: int, k: int, n: int, a_order: str, b_order: str, out_order: str, margin: int, threads: int
) -> None:
    """Summed in float32 with one rounding for each of k terms, so off by at most k·2⁻²⁴ times the sum of the sizes."""
    multiply = _GEMMS[threads]
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


def test_other_strides_are_refused() -> None:
    rng = np.random.default_rng(0)
    a, b, out = _array(rng, 20, 30, "C")[:, ::2], _array(rng, 15, 40, "C"), np.empty((20, 40), np.float32)
    with pytest.raises(ValueError, match="by rows or by columns"):
        multiply(a, b, out)
    with pytest.raises(ValueError, match="by rows or by columns"):
        multiply(b.T, a.T, np.empty((40, 40), np.float32).T[::-1, ::2])


def test_a_row_of_the_batch_does_not_depend_on_the_others_or_on_the_threads() -> None:
    rng = np.random.default_rng(0)
    x, weight = _array(rng, 100, 200, "F"), _array(rng, 200, 64, "C")
    results = []
    for rows, threads in ((100, 1), (100, 2), (37, 2), (1, 1)):
        y = kernels.CpuKernels(_GEMMS[threads]).empty(rows, 64)
        _GEMMS[threads](np.asfortranarray(x[:rows]), weight, y)
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
    monkeypatch.setattr(vectors, "suitable", lambda: True)
    chosen = _fused(1)
    assert chosen.gemm.startswith("npgan's own for AVX") and chosen.gemm.endswith("default), 1 thread")
    assert chosen.sums == "npgan"
    asked = _fused(2, blas_asked=True)
    assert "npgan's own" not in asked.gemm and asked.sums != "npgan"
    monkeypatch.setattr(vectors, "suitable", lambda: False)
    assert _fused(2).sums != "npgan"


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", "+avx2,+fma", True), ("AMD64", "+avx2,+fma,+avx512f", True), ("x86_64", "+avx", False),
        ("x86_64", "+avx2", False), ("aarch64", "+neon,+fp-armv8", False), ("arm64", "+avx2,+fma", False),
    ],
)  # fmt: skip
def test_machines(machine: str, features: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    assert vectors.suitable() == expected


def test_without_x86_nothing_of_it_is_imported_and_training_is_the_same() -> None:
    """The machine is faked in a process of its own; the fused kernels still train as the textbook does."""
    code = """if True:
        import sys, platform
        platform.machine = lambda: "aarch64"
        import numpy as np
        from npgan.backend import select
        from npgan.config import TrainConfig
        from npgan.engines import Compute, choose
        from npgan.gan import new_state
        config = TrainConfig(dataset="digits", batch_size=8)
        images = np.random.default_rng(0).integers(0, 256, (16, 784), np.uint8)
        found = []
        for kernels in ("fused", "reference"):
            state = new_state(config, select("numpy"))
            choice = choose(Compute("numpy", kernels=kernels), select("numpy"))
            found.append(choice.start(state, images, config).run(3))
            assert "npgan" not in choice.sums
        np.testing.assert_allclose(*found, rtol=1e-4)
        print("npgan.engines.cpu.gemm" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_kernels_are_compiled_by_another_process(tmp_path: Path) -> None:
    """A loop with prange that was compiled here sums in another order than the same loop from the cache."""
    code = """if True:
        import subprocess, sys
        def run(command, env, **_):
            compiled = "npgan.engines.cpu.kernels", "npgan.engines.cpu.gemm", "npgan.engines.cpu.plain"
            loaded = [name for name in compiled if name in sys.modules]
            print(command[1:], loaded)
            sys.exit()
        from npgan.backend import select
        from npgan.engines import Compute, choose
        backend = select("numpy")
        subprocess.Popen = run
        choose(Compute(kernels="fused"), backend)"""
    empty = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, env=empty, capture_output=True, text=True, check=True
    )
    module = "gemm" if vectors.suitable() else "plain"
    assert done.stdout == f"['-c', 'import npgan.engines.cpu.kernels, npgan.engines.cpu.{module}'] []\n"
    assert not list(tmp_path.rglob("*.nb?"))


def test_kernels_come_from_the_cache() -> None:
    _fused()
    code = """if True:
        from numba.core import event
        class Compiled(event.Listener):
            def on_start(self, event): print("compiled")
            def on_end(self, event): pass
        with event.install_listener("numba:compile", Compiled()):
            import npgan.engines.cpu.gemm, npgan.engines.cpu.kernels, npgan.engines.cpu.plain"""
    for _ in range(2):  # the first may be the first on this machine that needs all of them
        done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
