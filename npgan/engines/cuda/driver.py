"""The one call of CUDA's driver that CuPy does not have: a launch that may begin while the kernel before it still runs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

OLDEST = 12_030  # of the driver and the runtime, as CUDA counts: graphs take such launches from 12.3 on

_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # cuda.h, CUlaunchAttributeID


class Attribute(ctypes.Structure):
    """cuda.h, CUlaunchAttribute, with its value as a number."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60)]


class Config(ctypes.Structure):
    """cuda.h, CUlaunchConfig."""

    _fields_ = [
        *((f"{of}_{axis}", ctypes.c_uint) for of in ("grid", "block") for axis in "xyz"), ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(Attribute)), ("count", ctypes.c_uint),
    ]  # fmt: skip


def load() -> Any:
    """``cuLaunchKernelEx``. Raises OSError or AttributeError where the driver does not have it."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1").cuLaunchKernelEx


def launch_dependent(
    call: Any, function: int, blocks: tuple[int, int], threads: int, arguments: Sequence[Any], stream: int
) -> None:
    """``function`` and ``stream``: the driver's handles. Arguments: CuPy's arrays and NumPy's scalars. Raises RuntimeError."""
    values = [argument if isinstance(argument, np.generic) else np.uint64(argument.data.ptr) for argument in arguments]
    rooms = [ctypes.create_string_buffer(value.tobytes(), value.nbytes) for value in values]
    pointers = (ctypes.c_void_p * len(rooms))(*(ctypes.addressof(room) for room in rooms))
    attribute = Attribute(_PROGRAMMATIC_STREAM_SERIALIZATION, b"", 1)
    config = Config(*blocks, 1, threads, 1, 1, 0, stream, ctypes.pointer(attribute), 1)
    if problem := call(ctypes.byref(config), ctypes.c_void_p(function), pointers, None):
        raise RuntimeError(f"cuLaunchKernelEx: error {problem}")
