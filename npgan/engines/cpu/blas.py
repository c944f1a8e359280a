"""Settings of NumPy's matmuls that are read once, when NumPy is imported: so NumPy is not imported here.

OpenBLAS has kernels ("cores") per processor and picks by the processor's name, unless OPENBLAS_CORETYPE names one. On a
2-core Zen 5 its AVX-512 kernels do the matmuls of an iteration in 12 ms, those for AVX2 in 20. OpenBLAS releases older
than a processor take AVX2 for it: npgan then names the AVX-512 core. Intel's processors tell OpenBLAS by their flags.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from npgan.errors import InputError

CORE_VARIABLE = "OPENBLAS_CORETYPE"
AVX512_CORE = "SkylakeX"  # against Cooperlake and SapphireRapids: as fast or faster here, and asks least of a processor
_AVX2_CORES = ("Haswell", "Zen")
_AVX512_FLAGS = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}  # what that core's kernels are compiled for
_AVX2_FLAGS = {"avx2", "fma"}
# OpenBLAS's cores for x86-64 and what their kernels are compiled for: another processor would stop with SIGILL
_CORES: dict[str, set[str]] = {
    **dict.fromkeys(
        ("Prescott", "Core2", "Penryn", "Dunnington", "Nehalem", "Atom", "Nano", "Opteron", "Barcelona"), set()
    ),
    **dict.fromkeys(("Bobcat", "Sandybridge", "Bulldozer", "Piledriver", "Steamroller"), {"avx"}),
    **dict.fromkeys(("Excavator", "Haswell", "Zen"), _AVX2_FLAGS),
    "SkylakeX": _AVX512_FLAGS,
    "Cooperlake": _AVX512_FLAGS | {"avx512_bf16"},
    "SapphireRapids": _AVX512_FLAGS | {"avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
}
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Blas:
    """How NumPy's matmuls were set up in this process."""

    threads: int = 1
    reason: str = ""  # why this core
    asked: bool = False  # by naming a core: then npgan's own GEMM is left off

    def describe(self) -> str:
        """For the run's header: what NumPy's matmuls really run on."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        core = core_in_use()
        return f"OpenBLAS, {core} core ({self.reason}), {threads}" if core else f"no OpenBLAS seen, {threads}"

    def sums(self) -> str:
        """What decides the order in which a matmul is summed, so its bytes."""
        return f"{core_in_use()} x {self.threads}"


def prepare(core: str = "auto", threads: int | None = None) -> Blas:
    """Sets the environment that OpenBLAS reads. Call it before NumPy is imported; later it changes nothing.

    ``core``: auto, default (OpenBLAS chooses), or the name of one of OpenBLAS's cores. ``threads``: None for the cores that
    this process may run on. Variables that the user has set win over auto and None. Raises InputError for ``threads`` < 1,
    and for a core that OpenBLAS does not have or this processor cannot run.
    """
    if threads is not None and not 1 <= threads <= 1024:
        raise InputError(f"--threads must be from 1 to 1024, got {threads}")
    return Blas(_prepare_threads(threads), _prepare_core(core, _cpu_flags()), core != "auto")


def core_in_use() -> str:
    """The core that NumPy's OpenBLAS runs, such as "SkylakeX"; "" where NumPy has another BLAS or does not say."""
    import numpy  # noqa: F401 - loads its BLAS
    from threadpoolctl import threadpool_info

    try:
        found = [library for library in threadpool_info() if library["internal_api"] == "openblas"]
    except OSError:  # it looks for the libraries in /proc
        return ""
    return next((str(library["architecture"]) for library in found), "")


def available_cores() -> int:
    """The processor cores that this process may use: its affinity, cut to the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def _prepare_threads(threads: int | None) -> int:
    if threads is None:
        given = next((value for name in _THREAD_VARIABLES if (value := os.environ.get(name, "")).isdigit()), "0")
        threads = int(given) or available_cores()
    if "numpy" not in sys.modules:
        for name in _THREAD_VARIABLES:
            os.environ[name] = str(threads)
    return threads


def _prepare_core(core: str, flags: set[str]) -> str:
    given = os.environ.get(CORE_VARIABLE)
    if core == "default":
        return f"{CORE_VARIABLE} is set" if given else "chosen by OpenBLAS, as --blas-core default asks"
    if core != "auto":
        if flags and core not in _CORES:
            raise InputError(f"--blas-core must be auto, default or one of {', '.join(_CORES)}, got {core!r}")
        if flags and (missing := _CORES[core] - flags):
            raise InputError(f"--blas-core {core}: this processor lacks {', '.join(sorted(missing))}")
        if "numpy" in sys.modules:
            raise InputError("--blas-core: NumPy is loaded already; it reads this once, when it is imported")
        os.environ[CORE_VARIABLE] = core
        return "asked for by --blas-core"
    if given:
        better = given in _AVX2_CORES and flags >= _AVX512_FLAGS
        return f"{CORE_VARIABLE} is set" + (f"; faster here: --blas-core {AVX512_CORE}" if better else "")
    if "AuthenticAMD" not in flags or not flags >= _AVX512_FLAGS:
        return "chosen by OpenBLAS"
    if "numpy" in sys.modules:
        return "chosen by OpenBLAS: NumPy was imported before npgan could choose"
    os.environ[CORE_VARIABLE] = AVX512_CORE
    return "for AVX-512; against it: --blas-core default"


def _cpu_flags() -> set[str]:
    """The flags and the vendor of the first processor; empty where /proc does not tell, as outside Linux on x86."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return set()
    found: set[str] = set()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if not line.strip():
                    break
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "vendor_id"):
                    found |= set(value.split())
    except OSError:
        pass
    return found
