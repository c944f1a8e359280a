"""The CUDA kernels compiled by g++ for this CPU (cuda_host.h): NumPy arrays are the device's memory."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npgan.engines.cuda.device import TILES, source

HEADER = Path(__file__).with_name("cuda_host.h")
COMPILER = shutil.which("g++")


def kernel_names(code: str) -> list[str]:
    """Every kernel of the source; those for tiles once for each."""
    plain = re.findall(r'extern "C" __global__ void __launch_bounds__\(THREADS\)\s+(\w+)\(', code)
    tiled = re.findall(r"KERNEL\((\w+), TILE\)\(", code)
    return plain + [f"{name}_{rows}x{columns}" for name in tiled for rows, columns in TILES]


def build(folder: Path, passes: int, change: tuple[str, str] | None = None, more: str = "") -> ctypes.CDLL:
    """The kernels as a library. ``change``: a text of their source and what takes its place; ``more``: C++ to add."""
    assert COMPILER
    code = source(("math.cuh", "gemm.cuh", "step.cu"))
    if change:
        assert code.count(change[0]) == 1, change
        code = code.replace(*change)
    starters = "\n".join(
        f'extern "C" void launch_{name}(int x, int y, void** values) {{ launch({name}, x, y, values); }}'
        for name in kernel_names(code)
    )
    text = "\n".join((f'#include "{HEADER}"', code, starters, more))
    file = folder / f"kernels-{passes}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.cpp"
    library = file.with_suffix(".so")
    if not library.exists():
        file.write_text(text, encoding="utf-8")
        options = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w", f"-DPASSES={passes}"]
        subprocess.run([COMPILER, *options, file, "-o", library], check=True)
    return ctypes.CDLL(str(library))


class HostLauncher:
    """Starts kernels on NumPy arrays."""

    def __init__(self, library: ctypes.CDLL, order: int = 0) -> None:
        self.library = library
        library.set_order(order)

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        starter(self.library, kernel, blocks, arguments)()


def starter(
    library: ctypes.CDLL, kernel: str, blocks: tuple[int, int], arguments: Sequence[np.ndarray | np.generic]
) -> Callable[[], None]:
    """Starts a kernel whenever it is called. It has the arrays' addresses, but does not keep the arrays alive."""
    values = [
        ctypes.c_void_p(argument.ctypes.data)
        if isinstance(argument, np.ndarray)
        else (ctypes.c_char * argument.nbytes).from_buffer_copy(argument.tobytes())
        for argument in arguments
    ]
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    function = getattr(library, f"launch_{kernel}")

    def start() -> None:
        function(*blocks, pointers)
        assert values  # they live as long as `pointers`

    return start
