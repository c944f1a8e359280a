"""The CUDA kernels compiled by g++ for this CPU (cuda_host.h): NumPy arrays are the device's memory."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from npgan.kernels.cuda.gpu import TILES, source

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
    code = source(("device.cuh", "product.cuh", "step.cu"))
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
    """``Launcher`` of ``npgan.kernels.cuda.gpu`` on the CPU. What is launched beside runs at once, or as late as it may."""

    def __init__(
        self, library: ctypes.CDLL, multiprocessors: int = 4, order: int = 0, beside_late: bool = False
    ) -> None:
        self.library, self.multiprocessors, self.beside_late = library, multiprocessors, beside_late
        self.launches: list[str] = []
        self._later: list[tuple[str, tuple[int, int], tuple[Any, ...]]] = []
        self._is_beside = False
        library.set_order(order)

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        self.launches.append(kernel)
        if self._is_beside and self.beside_late:
            self._later.append((kernel, blocks, arguments))
        else:
            self._run(kernel, blocks, arguments)

    def beside(self) -> Any:
        launcher = self

        class Beside(nullcontext[None]):
            def __enter__(self) -> None:
                launcher._is_beside = True

            def __exit__(self, *problem: object) -> None:
                launcher._is_beside = False

        return Beside()

    def join(self) -> None:
        for each in self._later:
            self._run(*each)
        self._later.clear()

    def _run(self, kernel: str, blocks: tuple[int, int], arguments: tuple[Any, ...]) -> None:
        values = [
            ctypes.c_void_p(argument.ctypes.data) if isinstance(argument, np.ndarray) else _scalar(argument)
            for argument in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        getattr(self.library, f"launch_{kernel}")(*blocks, pointers)


def _scalar(value: np.generic) -> Any:
    return (ctypes.c_char * value.nbytes).from_buffer_copy(value.tobytes())
