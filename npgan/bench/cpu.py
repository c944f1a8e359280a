"""npgan's own candidates on a CPU, and the matmuls of an iteration alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from npgan.backend import select
from npgan.bench.base import IMAGES, Candidate, Matmul, Missing, by_rows, flops, matmuls, pixels
from npgan.config import PRESETS, TrainConfig
from npgan.engines import Compute, choose, cpu_gemm
from npgan.engines.cpu.blas import Blas
from npgan.gan import new_state


def make(name: str, batch: int, threads: int) -> Candidate:
    """``npgan fused``, ``blas``, ``reference`` or ``r3gan``, ``matmul own``, ``columns`` or ``rows``, or ``peak``.

    Raises InputError.
    """
    kind, _, variant = name.partition(" ")
    if kind == "peak":
        a, b, out = np.random.default_rng(0).standard_normal((3, 2048, 2048), dtype=np.float32)
        return Candidate(lambda: np.matmul(a, b, out=out), 2 * 2048**3)
    return (_npgan if kind == "npgan" else _matmuls)(variant, batch, threads)


def _npgan(variant: str, batch: int, threads: int) -> Candidate:
    kernels = "reference" if variant == "reference" else "fused"
    choice = choose(Compute("numpy", kernels=kernels, blas=_setup(threads, variant == "blas")), select("numpy"))
    config = TrainConfig(dataset="digits", batch_size=batch, **PRESETS.get(variant, {}))
    images = pixels(max(IMAGES // batch, 1) * batch)  # whole batches only
    engine = choice.start(new_state(config, select("numpy")), images, config)
    return Candidate(lambda: engine.run(1), flops(batch, config), f"{choice.reason}; {choice.gemm}")


def _matmuls(variant: str, batch: int, threads: int) -> Candidate:
    """npgan's own, or BLAS's on arrays that lie by columns, as the fused kernels have them, or by rows."""
    if variant == "rows":
        return _candidate(matmuls(batch, by_rows), np.matmul)
    setup = _setup(threads, blas=variant == "columns")
    choice = choose(Compute("numpy", kernels="fused", blas=setup), select("numpy"))
    from npgan.engines.cpu.kernels import CpuKernels

    gemm = cpu_gemm(setup)
    work = matmuls(batch, CpuKernels(gemm).empty)
    if variant == "columns":
        return _candidate(work, np.matmul)
    if choice.sums != "npgan":
        raise Missing("BLAS multiplies here: npgan's own matmuls need an x86 with AVX2")
    candidate = _candidate(work, gemm)
    recording = gemm.pool.record(candidate.run)  # as a training step is

    def replay() -> list[Matmul]:
        gemm.pool.replay(recording)
        return work  # whose arrays must live as long

    return candidate._replace(run=replay)


def _candidate(work: list[Matmul], multiply: Callable[..., object]) -> Candidate:
    def run() -> None:
        for matmul in work:
            multiply(matmul.a, matmul.b, out=matmul.out)

    return Candidate(run, sum(matmul.flops for matmul in work), f"{len(work)} matmuls")


def _setup(threads: int, blas: bool) -> Blas:
    """``blas``: rather than npgan's own matmuls."""
    return Blas(threads, "set up by npgan bench", asked=blas)
