"""NumPy or CuPy: chosen once, at start-up, with the reason said. The only module that imports CuPy."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import tempfile
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from npgan.errors import InputError, first_line

Array = Any  # numpy.ndarray or cupy.ndarray: the two have no common type
Shape = tuple[int, ...]

_CUPY_ROOM = 1 << 20  # bytes: all kernels of a run take less


@dataclass(frozen=True)
class Backend:
    """Where the arrays live."""

    name: str  # "numpy" or "cupy"
    xp: ModuleType
    device: str  # what a person calls the device
    reason: str  # why this backend

    def to_device(self, array: np.ndarray) -> Array:
        """A copy of ``array`` on the device; on NumPy the array itself."""
        return self.xp.asarray(array)

    def synchronize(self) -> None:
        """Waits until everything asked of the device is done. NumPy never runs behind."""
        if self.name == "cupy":
            self.xp.cuda.get_current_stream().synchronize()


def select(name: str, precision: str = "fp32") -> Backend:
    """The backend for ``--backend`` auto, numpy or cupy.

    Raises InputError, with what is missing and what to install, when CuPy is asked for and cannot work, or when tf32 is
    asked for without a GPU.
    """
    if name not in ("auto", "numpy", "cupy"):
        raise InputError(f"--backend must be auto, numpy or cupy, not {name!r}")
    if name == "numpy":
        return _numpy_backend("asked for by --backend numpy", precision)
    try:
        return _cupy_backend("asked for by --backend cupy" if name == "cupy" else "a GPU was found", precision)
    except _NoGpu as problem:
        if name == "cupy":
            raise InputError(f"--backend cupy: {problem}") from None
        return _numpy_backend(f"no GPU: {problem}", precision)


def array_module(array: Array) -> ModuleType:
    """The library, NumPy or CuPy, that ``array`` belongs to."""
    if isinstance(array, np.ndarray):
        return np
    return sys.modules[type(array).__module__.partition(".")[0]]


def to_numpy(array: Array) -> np.ndarray:
    """The array's values in main memory. Waits for the device."""
    return array if isinstance(array, np.ndarray) else array.get()


class _NoGpu(Exception):
    """Why CuPy cannot be used here, as one line."""


def _numpy_backend(reason: str, precision: str) -> Backend:
    if precision != "fp32":
        raise InputError(f"--precision {precision} needs a GPU: leave it at fp32, or use --backend cupy")
    return Backend("numpy", np, _cpu_name(), reason)


def _cupy_backend(reason: str, precision: str) -> Backend:
    # Read by CuPy at its first matmul. tf32 is the flag's to give, so a variable of the same name does not.
    os.environ["CUPY_TF32"] = "1" if precision == "tf32" else "0"
    if problem := _cupy_cache_problem():
        reason = f"{reason}; {problem}"
    try:
        import cupy
    except (ImportError, OSError) as error:
        if getattr(error, "name", None) == "cupy":
            raise _NoGpu("CuPy is not installed: pip install 'npgan[cuda12]' (CUDA 12) or 'npgan[cuda13]'") from None
        raise _NoGpu(f"CuPy does not load: {first_line(error)}: reinstall it for your CUDA version") from None
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            raise _NoGpu("CuPy is installed but sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES")
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        if precision == "tf32" and properties["major"] < 8:
            capability = f"{properties['major']}.{properties['minor']}"
            raise InputError(
                f"--precision tf32 needs a GPU of compute capability 8.0 or more, this one has {capability}"
            )
        square = cupy.zeros((2, 2), dtype=cupy.float32)
        square @ square + 1  # fails here, not later, when CUDA's libraries are missing or do not fit the driver
    except (_NoGpu, InputError):
        raise
    except Exception as error:  # CuPy has no common base class for the driver's, compiler's and loader's errors
        if re.search("headers|nvrtc|cublas", str(error), re.IGNORECASE):
            raise _NoGpu(
                f"CuPy is installed but not all of CUDA's libraries ({first_line(error)}): "
                "pip install 'npgan[cuda12]' or 'npgan[cuda13]' brings them"
            ) from None
        raise _NoGpu(
            f"CuPy is installed but the GPU does not answer ({first_line(error)}): "
            "install an NVIDIA driver for this CUDA version, or check nvidia-smi"
        ) from None
    return Backend("cupy", cupy, f"{properties['name'].decode()}, CuPy {cupy.__version__}", reason)


def _cupy_cache_problem() -> str:
    """What keeps CuPy from keeping compiled kernels, or "". Then it is told to compile in memory, or it would fail."""
    if not sys.modules.get("cupy") and importlib.util.find_spec("cupy") is None:
        return ""
    folder = os.environ.get("CUPY_CACHE_DIR", os.path.expanduser("~/.cupy/kernel_cache"))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_CUPY_ROOM))
    except OSError as error:
        os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
        os.environ["CUPY_CACHE_DIR"] = os.path.dirname(__file__)  # CuPy wants one that exists, and then leaves it alone
        return (
            f"CuPy's kernels cannot be kept in {folder} ({first_line(error)}): compiled in memory, for this run alone"
        )
    return ""


def _cpu_name() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {cores} core{'s' if cores != 1 else ''}, NumPy {np.__version__}"
