"""Engines: the training step of ``gan.py``, run fast. They import the textbook; the textbook knows nothing of them.

``base`` says what an engine is; ``schedule`` is the step as calls of fused kernels; ``reference``, ``cpu`` and ``cuda`` are
three tables of these. ``choose`` picks an engine, once, at start-up. Nothing here imports NumPy before it has to:
``cpu.blas`` sets the environment that NumPy's BLAS reads.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgan.engines.cpu.blas import Blas
from npgan.engines.ranks import Ranks
from npgan.errors import InputError, first_line

if TYPE_CHECKING:
    from npgan.backend import Array, Backend
    from npgan.config import TrainConfig
    from npgan.engines.base import Engine
    from npgan.engines.cpu.gemm import Gemm
    from npgan.engines.cpu.plain import PlainGemm
    from npgan.engines.schedule import Kernels
    from npgan.gan import TrainState

KERNELS = ("auto", "reference", "fused")
SAME_BYTES = "eight shards"  # what a checkpoint says of --same-bytes

Report = Callable[[str], None]  # receives one line for the user
Progress = Callable[[float], None]  # receives how much is done, from 0 to 1
Start = Callable[["TrainState", "Array", "TrainConfig"], "Engine"]

_PATIENCE = 1.0  # seconds: loading compiled kernels takes less, compiling them more


@dataclass(frozen=True)
class Compute:
    """What the flags ask for: where the arithmetic is done, and by what."""

    backend: str = "auto"  # auto, numpy or cupy
    precision: str | None = None  # fp32 or tf32; None: fp32
    kernels: str = "auto"  # one of KERNELS
    blas: Blas = field(default_factory=Blas)
    ranks: Ranks = field(default_factory=Ranks)
    same_bytes: bool = False  # whatever the number of ranks

    @property
    def workers(self) -> str:
        """What of several workers decides the bytes, "one" without any."""
        ranks = "one" if self.ranks.size == 1 else f"{self.ranks.size} ranks"
        return SAME_BYTES if self.same_bytes else ranks

    def as_before(self, runtime: dict[str, Any]) -> Compute:
        """What the flags leave open is taken from the ``runtime`` of a checkpoint, where that can be had."""
        backend = "numpy" if self.backend == "auto" and runtime.get("backend") == "numpy" else self.backend
        kernels = "reference" if self.kernels == "auto" and runtime.get("kernels") == "reference" else self.kernels
        same = runtime.get("backend") == backend or backend == "auto"
        precision = self.precision or (runtime.get("precision") if same else None)
        same_bytes = self.same_bytes or runtime.get("workers") == SAME_BYTES
        return replace(self, backend=backend, precision=precision, kernels=kernels, same_bytes=same_bytes)


@dataclass(frozen=True)
class Choice:
    """An engine that was chosen. ``start`` makes one for a state, its images and its config."""

    name: str  # "reference" or "fused"
    reason: str  # why, for the run's header
    gemm: str  # what multiplies matrices on a CPU, for the header; "" on a GPU
    sums: str | None  # what decides the order in which matmuls are summed, so their bytes; None on a GPU
    start: Start
    kernels: Kernels | None = None  # a CPU's table of fused kernels, for an engine of several workers


def choose(
    compute: Compute, backend: Backend, report: Report = lambda line: None, progress: Progress = lambda done: None
) -> Choice:
    """The engine for ``--kernels`` on ``backend``. ``compute.precision`` counts on a GPU only.

    ``report`` is told when kernels have to be compiled first, which happens once on a machine, ``progress`` how far it is.

    Raises InputError when fused
    kernels are asked for and cannot be had.
    """
    if compute.kernels not in KERNELS:
        raise InputError(f"--kernels must be one of {', '.join(KERNELS)}, got {compute.kernels!r}")
    if compute.workers != "one":
        return _shared(compute, backend, report, progress)
    if compute.kernels == "reference":
        return _textbook(compute, backend, "asked for by --kernels reference")
    try:
        return _cpu(compute, report, progress) if backend.name == "numpy" else _cuda(compute, backend, report)
    except InputError as problem:
        if compute.kernels == "fused":
            raise InputError(f"--kernels fused: {problem}") from None
        return _textbook(compute, backend, str(problem))


def _shared(compute: Compute, backend: Backend, report: Report, progress: Progress) -> Choice:
    """The engine that shares a run out to several workers, on the table that ``choose`` would take alone."""
    if backend.name != "numpy":
        raise InputError("one run on several workers is not there yet on a GPU: take --backend numpy")
    alone = choose(replace(compute, ranks=Ranks(), same_bytes=False), backend, report, progress)
    kernels, why = _kernels_of(alone), alone.reason
    if not kernels.draws_from_any_row:
        lacking = "on several workers not yet: their dropout draws whole batches only"
        if compute.kernels == "fused":
            raise InputError(f"--kernels fused: {lacking}")
        alone = _textbook(compute, backend, "")
        kernels, why = _kernels_of(alone), f"the fused kernels {lacking}"

    def start(state: TrainState, images: Array, config: TrainConfig) -> Engine:
        from npgan.engines.mpi import lead

        return lead(compute.ranks, kernels, alone.name, compute.same_bytes, state, images, config)

    count = f"{compute.ranks.size} rank{'s' if compute.ranks.size > 1 else ''}"
    order = ", the same bytes on 1 to 8" if compute.same_bytes else ""
    return replace(alone, reason=f"{count}{order}; {why}", start=start)


def _kernels_of(choice: Choice) -> Kernels:
    """The table of kernels that a chosen engine runs on a CPU, for the schedule: the textbook's are those of ``reference``."""
    import numpy as np

    from npgan.engines.reference import ReferenceKernels

    return choice.kernels or ReferenceKernels(np.float32)


def follow(compute: Compute) -> None:
    """What all ranks but the first do, until that lets them go. Raises InputError where they cannot take its kernels."""
    from npgan.engines.mpi import follow as follow_rank_0

    def kernels_of(name: str) -> Kernels:
        from npgan.backend import select

        return _kernels_of(choose(replace(compute, ranks=Ranks(), same_bytes=False, kernels=name), select("numpy")))

    follow_rank_0(compute.ranks, kernels_of)


def _textbook(compute: Compute, backend: Backend, why: str) -> Choice:
    """The engine that runs the textbook as it stands."""
    from npgan.engines.base import ReferenceEngine

    on_cpu = backend.name == "numpy"
    gemm, sums = (compute.blas.describe(), compute.blas.sums()) if on_cpu else ("", None)
    return Choice("reference", why, gemm, sums, ReferenceEngine)


def _cpu(compute: Compute, report: Report, progress: Progress) -> Choice:
    try:
        import numba
    except ImportError as error:
        missing = "numba is not installed" if error.name == "numba" else f"numba does not load ({error})"
        raise InputError(f"{missing}: pip install 'npgan[fast]' to train twice as fast") from None
    try:
        with _notice(report):
            _compile_elsewhere(progress)
            from npgan.engines.base import FusedEngine
            from npgan.engines.cpu import cache
            from npgan.engines.cpu.kernels import CpuKernels

            multiply = cpu_gemm(compute.blas)
            table = CpuKernels(multiply)
    except Exception as error:  # of numba and LLVM, without a common base class
        raise InputError(f"numba cannot compile the fused kernels: {first_line(error)}") from None
    asked = "asked for by --kernels fused, " if compute.kernels == "fused" else ""
    why = "; ".join([f"{asked}numba {numba.__version__}", *cache.problems])
    start = partial(FusedEngine, table)
    return Choice("fused", why, multiply.describe(), multiply.sums, start, table)


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


def _compile_elsewhere(progress: Progress) -> None:
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
        sources = Path(__file__).with_name("cpu").glob("*.py")
        unused = "plain" if vectors.suitable() else "gemm"
        code = "".join(path.read_text(encoding="utf-8") for path in sources if path.stem != unused)
        functions = len(re.findall(r"^@(?:shared|compiled)\(", code, re.M))
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as compiler:
            try:
                for done, _ in enumerate(compiler.stdout or (), 1):  # a line for each function
                    progress(min(done / functions, 1.0))
            except BaseException:
                compiler.kill()
                raise


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
