"""Fused kernels: chains of operations of ``npgan.nn.ops`` done in one pass over memory. Chosen once, at start-up.

``reference`` says what every kernel computes, as a composition of ``ops``. ``cpu`` has the same functions, compiled by
numba; ``stages`` lets a network walk them. With the reference kernels a network walks its layers, the plain maths.
``cuda`` is another way: a whole iteration on a GPU, captured and replayed.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from npgan.errors import InputError
from npgan.engines import reference

CHOICES = ("auto", "reference", "fused")

Report = Callable[[str], None]  # receives one line for the user

_PATIENCE = 1.0  # seconds: loading compiled kernels takes less, compiling them more


@dataclass(frozen=True)
class Kernels:
    """Which kernels a run uses."""

    name: str  # "reference" or "fused"
    reason: str  # why, for the run's header
    chains: Any  # the module kernels.reference, or a module with the same functions
    products: str = ""  # what multiplies matrices, where it is not NumPy's BLAS
    gpu: Any = None  # kernels.cuda.gpu.Gpu, where iterations are captured and replayed instead of walking the networks

    @property
    def in_stages(self) -> bool:
        """Whether a network walks stages of several layers each."""
        return self.chains is not reference


REFERENCE = Kernels("reference", "the plain maths of ops.py", reference)


def select(name: str, threads: int = 1, report: Report = lambda line: None, blas_asked: bool = False) -> Kernels:
    """The kernels for ``--kernels`` auto, reference or fused on NumPy.

    ``threads``: how many the fused kernels may use. ``report`` is told when the kernels have to be compiled first, which
    happens once on a machine. ``blas_asked``: matrix products stay NumPy's; else the fused kernels bring their own where
    those are faster. Raises InputError when fused kernels are asked for and cannot be had.
    """
    if _checked(name) == "reference":
        return Kernels("reference", "asked for by --kernels reference", reference)
    try:
        import numba
    except ImportError as error:
        missing = "numba is not installed" if error.name == "numba" else f"numba does not load ({error})"
        if name == "fused":
            raise InputError(f"--kernels fused: {missing}: pip install 'npgan[fast]'") from None
        return Kernels("reference", f"{missing}: pip install 'npgan[fast]' to train twice as fast", reference)
    with _notice(report):
        _compile_elsewhere()
        from npgan.engines import cpu, jit, products
    # BLAS's threads and the kernels' own would keep the cores from each other, so only one of the two has more than one
    own = products.suitable() and not blas_asked
    alone = jit.use_threads(threads if own else 1)
    products.use(own and not alone)
    asked = "asked for by --kernels fused, " if name == "fused" else ""
    reason = f"{asked}numba {numba.__version__}" + (f"; on one thread: {alone}" if alone else "")
    return Kernels("fused", reason, cpu, products.describe())


def select_for_gpu(
    name: str, cupy: ModuleType, precision: str, unsupported: str | None, report: Report = lambda line: None
) -> Kernels:
    """The kernels on CuPy's current device. ``unsupported``: why fused ones do not fit the run, if they do not.

    Raises InputError when fused kernels are asked for and cannot be had.
    """
    if _checked(name) == "reference":
        return Kernels("reference", "asked for by --kernels reference", reference)
    from npgan.engines.cuda.device import Gpu

    try:
        if unsupported:
            raise InputError(unsupported)
        with _notice(report):
            gpu = Gpu(cupy, precision)
    except InputError as problem:
        if name == "fused":
            raise InputError(f"--kernels fused: {problem}") from None
        return Kernels("reference", str(problem), reference)
    return Kernels("fused", f"iterations as CUDA graphs, {gpu.products}", reference, gpu=gpu)


def _compile_elsewhere() -> None:
    """Where kernels have yet to be compiled, has another process do that, so that this one loads them as later ones will.

    The process that compiles a loop with ``prange`` runs another version of it (optimised alone, not with what calls it),
    which sums in another order: the first run on a machine would end with other bytes than every later one.
    """
    from numba.core import event

    modules = "npgan.engines.cpu.kernels", "npgan.engines.cpu.gemm"
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
        # should it fail, so does compiling them here, and that tells the user why
        subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)


def _checked(name: str) -> str:
    if name not in CHOICES:
        raise InputError(f"--kernels must be one of {', '.join(CHOICES)}, got {name!r}")
    return name


@contextmanager
def _notice(report: Report) -> Iterator[None]:
    notice = threading.Timer(
        _PATIENCE, report, ["compiling the fused kernels: once on this machine, ten to twenty seconds"]
    )
    notice.start()
    try:
        yield
    finally:
        notice.cancel()
