"""Fused kernels: chains of operations of ``npgan.ops`` done in one pass over memory. Chosen once, at start-up.

``reference`` says what every kernel computes, as a composition of ``ops``. ``cpu`` has the same functions, compiled by
numba; ``stages`` lets a network walk them. With the reference kernels a network walks its layers, the plain maths.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from npgan.errors import InputError
from npgan.kernels import reference

CHOICES = ("auto", "reference", "fused")

_PATIENCE = 1.0  # seconds: loading compiled kernels takes less, compiling them more


@dataclass(frozen=True)
class Kernels:
    """Which kernels a run uses."""

    name: str  # "reference" or "fused"
    reason: str  # why, for the run's header
    chains: Any  # the module kernels.reference, or a module with the same functions


REFERENCE = Kernels("reference", "the plain maths of ops.py", reference)


def select(name: str, backend: str, threads: int = 1, report: Callable[[str], None] = lambda line: None) -> Kernels:
    """The kernels for ``--kernels`` auto, reference or fused on a backend, "numpy" or "cupy".

    ``threads``: how many the fused kernels may use. ``report`` is told when the kernels have to be compiled first, which
    happens once on a machine. Raises InputError when fused kernels are asked for and cannot be had.
    """
    if name not in CHOICES:
        raise InputError(f"--kernels must be one of {', '.join(CHOICES)}, got {name!r}")
    if name == "reference":
        return Kernels("reference", "asked for by --kernels reference", reference)
    if backend != "numpy":
        if name == "fused":
            raise InputError(f"--kernels fused: there are none for {backend} in this version; use auto or reference")
        return Kernels("reference", f"no fused kernels for {backend} in this version", reference)
    try:
        import numba
    except ImportError as error:
        missing = "numba is not installed" if error.name == "numba" else f"numba does not load ({error})"
        if name == "fused":
            raise InputError(f"--kernels fused: {missing}: pip install 'npgan[fast]'") from None
        return Kernels("reference", f"{missing}: pip install 'npgan[fast]' to train twice as fast", reference)
    notice = threading.Timer(_PATIENCE, report, ["compiling the fused kernels: once on this machine, about 10 seconds"])
    notice.start()
    try:
        from npgan.kernels import cpu
    finally:
        notice.cancel()
    cpu.use_threads(threads)
    asked = "asked for by --kernels fused, " if name == "fused" else ""
    return Kernels("fused", f"{asked}numba {numba.__version__}", cpu)
