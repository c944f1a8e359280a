"""What ``cuLaunchKernelEx`` is given: read as cuda.h lays it out."""

from __future__ import annotations

import ctypes
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from npgan.engines.cuda.driver import Attribute, Config, launch_dependent


def test_the_structs_are_as_large_as_in_cuda_h() -> None:
    assert (ctypes.sizeof(Attribute), ctypes.sizeof(Config)) == (72, 56)


@pytest.mark.parametrize("status", [0, 700])
def test_a_launch_that_may_begin_early(status: int) -> None:
    told: list[Any] = []

    def call(config: Any, function: Any, parameters: Any, extra: None) -> int:
        address = ctypes.cast(config, ctypes.c_void_p).value
        numbers = struct.unpack("7I4xQQI", ctypes.string_at(address, 52))
        attribute = struct.unpack("i4xi", ctypes.string_at(numbers[8], 12))
        array, number = (ctypes.cast(pointer, ctypes.POINTER(kind))[0] for pointer, kind in zip(
            parameters, (ctypes.c_uint64, ctypes.c_int32), strict=True))  # fmt: skip
        told.append((numbers[:8], numbers[9], attribute, function.value, array, number))
        return status

    arguments = [SimpleNamespace(data=SimpleNamespace(ptr=2**40)), np.int32(-7)]
    if status:
        with pytest.raises(RuntimeError, match="error 700"):
            launch_dependent(call, 5, (3, 4), 256, arguments, 9)
    else:
        launch_dependent(call, 5, (3, 4), 256, arguments, 9)
    assert told == [((3, 4, 1, 256, 1, 1, 0, 9), 1, (6, 1), 5, 2**40, -7)]
