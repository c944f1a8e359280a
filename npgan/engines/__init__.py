"""Engines: the training step of ``gan.py``, run fast. They import the textbook; the textbook knows nothing of them.

``base`` says what an engine is; ``schedule`` is the step as calls of fused kernels; ``reference``, ``cpu`` and ``cuda`` are
three tables of these. ``choose`` picks an engine, once, at start-up. Nothing here imports NumPy before it has to:
``cpu.blas`` sets the environment that NumPy's BLAS reads.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgan.engines.cpu.blas import Blas
from npgan.errors import InputError, first_line

if TYPE_CHECKING:
    from npgan.backend import Array, Backend
    from npgan.config import TrainConfig
    from npgan.engines.base import Engine
    from npgan.engines.cpu.gemm import Gemm
    from npgan.engines.cpu.plain import PlainGemm
    from npgan.gan import TrainState

KERNELS = ("auto", "reference", "fused")

Report = Callable[[str], None]  # receives one line for the user
Start = Callable[["TrainState", "Array", "TrainConfig"], "Engine"]

_PATIENCE = 1.0  # seconds: loading compiled kernels takes less, compiling them more


@dataclass(frozen=True)
class Compute:
    """What the flags ask for: where the arithmetic is done, and by what."""

    backend: str = "auto"  # auto, numpy or cupy
    precision: str | None = None  # fp32 or tf32; None: fp32
    kernels: str = "auto"  # one of KERNELS
    blas: Blas = field(default_factory=Blas)

    def as_before(self, runtime: dict[str, Any]) -> Compute:
        """What the flags leave open is taken from the ``runtime`` of a checkpoint, where that can be had."""
        backend = "numpy" if self.backend == "auto" and runtime.get("backend") == "numpy" else self.backend
        kernels = "reference" if self.kernels == "auto" and runtime.get("kernels") == "reference" else self.kernels
        same = runtime.get("backend") == backend or backend == "auto"
        precision = self.precision or (runtime.get("precision") if same else None)
        return replace(self, backend=backend, precision=precision, kernels=kernels)


@dataclass(frozen=True)
class Choice:
    """An engine that was chosen. ``start`` makes one for a state, its images and its config."""

    name: str  # "reference" or "fused"
    reason: str  # why, for the run's header
    gemm: str  # what multiplies matrices on a CPU, for the header; "" on a GPU
    sums: str | None  # what decides the order in which matmuls are summed, so their bytes; None on a GPU
    start: Start


def choose(compute: Compute, backend: Backend, report: Report = lambda line: None) -> Choice:
    """The engine for ``--kernels`` on ``backend``. ``compute.precision`` counts on a GPU only.

    ``report`` is told when kernels have to be compiled first, which happens once on a machine. Raises InputError when fused
    kernels are asked for and cannot be had.
    """
    if compute.kernels not in KERNELS:
        raise InputError(f"--kernels must be one of {', '.join(KERNELS)}, got {compute.kernels!r}")
    if compute.kernels == "reference":
        return _textbook(compute, backend, "asked for by --kernels reference")
    try:
        return _cpu(compute, report) if backend.name == "numpy" else _cuda(compute, backend, report)
    except InputError as problem:
        if compute.kernels == "fused":
            raise InputError(f"--kernels fused: {problem}") from None
        return _textbook(compute, backend, str(problem))


def _textbook(compute: Compute, backend: Backend, why: str) -> Choice:
    """The engine that runs the textbook as it stands."""
    from npgan.engines.base import ReferenceEngine

    on_cpu = backend.name == "numpy"
    gemm, sums = (compute.blas.describe(), compute.blas.sums()) if on_cpu else ("", None)
    return Choice("reference", why, gemm, sums, ReferenceEngine)


def _cpu(compute: Compute, report: Report) -> Choice:
    try:
        import numba
    except ImportError as error:
        missing = "numba is not installed" if error.name == "numba" else f"numba does not load ({error})"
        raise InputError(f"{missing}: pip install 'npgan[fast]' to train twice as fast") from None
    try:
        with _notice(report):
            _compile_elsewhere()
            from npgan.engines.base import FusedEngine
            from npgan.engines.cpu import cache
            from npgan.engines.cpu.kernels import CpuKernels

            multiply = cpu_gemm(compute.blas)
    except Exception as error:  # of numba and LLVM, without a common base class
        raise InputError(f"numba cannot compile the fused kernels: {first_line(error)}") from None
    asked = "asked for by --kernels fused, " if compute.kernels == "fused" else ""
    why = "; ".join([f"{asked}numba {numba.__version__}", *cache.problems])
    return Choice(
        "fused", why, multiply.describe(), multiply.sums, lambda *run: FusedEngine(CpuKernels(multiply), *run)
    )


def cpu_gemm(blas: Blas) -> Gemm | PlainGemm:
    """npgan's own matmuls where they are written for this processor and no core of BLAS was asked for."""
    from npgan.engines.cpu import vectors

    if vectors.suitable() and not blas.asked:
        from npgan.engines.cpu.gemm import Gemm
        from npgan.engines.cpu.pool import Pool

        return Gemm(Pool(blas.threads))
    from npgan.engines.cpu.plain import PlainGemm

    return PlainGemm(blas)


def _cuda(compute: Compute, backend: Backend, report: Report) -> Choice:
    from npgan.engines.base import FusedEngine
    from npgan.engines.cuda.device import Gpu
    from npgan.engines.cuda.kernels import CudaKernels

    with _notice(report):
        gpu = Gpu(backend.xp, compute.precision or "fp32")
    why = f"iterations as CUDA graphs, {gpu.gemm}"
    return Choice("fused", why, "", None, lambda *run: FusedEngine(CudaKernels(gpu, backend.xp), *run))


def _compile_elsewhere() -> None:
    """Where kernels have yet to be compiled, has another process do that, so that this one loads them as later ones will.

    A function that was compiled here may be optimized otherwise than the same one from the cache, and sum in another order:
    the first run on a machine could end with other bytes than every later one.
    """
    from numba.core import event

    from npgan.engines.cpu import vectors

    modules = "npgan.engines.cpu.kernels", f"npgan.engines.cpu.{'gemm' if vectors.suitable() else 'plain'}"
    if all(name in sys.modules for name in modules):
        return

    class Missing(Exception):
        pass

    class Watch(event.Listener):
        def on_start(self, event: Any) -> None:
            raise Missing

        def on_end(self, event: Any) -> None:
            pass

    try:
        with event.install_listener("numba:compile", Watch()):
            for name in modules:
                importlib.import_module(name)
    except Missing:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-c", f"import {', '.join(modules)}"]
        # should it fail, so does compiling them here, or keeping them, and that tells the user why
        environment = {**os.environ, "PYTHONPATH": path, "NPGAN_FILLS_CACHE": "1"}
        subprocess.run(command, env=environment, capture_output=True, check=False)


def _notice(report: Report) -> AbstractContextManager[None]:
    return notice(report, "compiling the fused kernels: once on this machine, ten to twenty seconds")


@contextmanager
def notice(report: Report, line: str) -> Iterator[None]:
    """A context: where it takes longer than a moment, ``line`` says why."""
    timer = threading.Timer(_PATIENCE, report, [line])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
