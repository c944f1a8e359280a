"""What the compiler makes of the kernels in the end, and its report: registers, what it spills of them, stacks."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from typing import NamedTuple

from npgan.engines.cuda.device import DESIGN, Design, kernel_names, options, source


class Compiled(NamedTuple):
    cubin: bytes
    registers: dict[str, int]  # of each kernel
    spills: dict[str, int]  # bytes, where there are any
    stacks: dict[str, int]  # bytes of local memory, where there are any


def compile_cubin(architecture: int, passes: int, design: Design = DESIGN, code: str | None = None) -> Compiled:
    """Raises CuPy's CompileException."""
    from cupy.cuda import compiler
    from cupy_backends.cuda.libs import nvrtc

    added = (f"-arch=sm_{architecture}", "-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v")
    program = compiler._NVRTCProgram(source() if code is None else code, "step.cu", method="cubin")
    with _stderr() as said:
        cubin, _ = program.compile((*options(passes, design), *added))
    return Compiled(bytes(cubin), *_report(nvrtc.getProgramLog(program.ptr) + said.text))


def problems(compiled: Compiled, architecture: int) -> list[str]:
    """Kernels that are missing, spill registers or have a stack."""
    names = kernel_names(architecture)
    missing = [name for name in names if f".text.{name}\0".encode() not in compiled.cubin]
    unreported = [name for name in names if name not in compiled.registers]
    return [f"{what}: {found}" for what, found in (
        ("not compiled", missing), ("not in ptxas' report", unreported), ("spills", compiled.spills),
        ("stacks", compiled.stacks),
    ) if found]  # fmt: skip


def _report(text: str) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    registers: dict[str, int] = {}
    spills: dict[str, int] = {}
    stacks: dict[str, int] = {}
    name = ""
    for line in text.splitlines():
        if entry := re.search(r"entry function '(\w+)'|Function properties for (\w+)", line):
            name = entry[1] or entry[2]
        if found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stacks |= {name: int(found[1])} if int(found[1]) else {}
            spills |= {name: int(found[2]) + int(found[3])} if int(found[2]) + int(found[3]) else {}
        if found := re.search(r"Used (\d+) registers", line):
            registers[name] = int(found[1])
    return registers, spills, stacks


class _stderr:  # noqa: N801
    """What is written to the process's standard error in between, by C code too: some versions of NVRTC report there."""

    def __enter__(self) -> _stderr:
        sys.stderr.flush()
        self._file = tempfile.TemporaryFile("w+")
        self._before = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *problem: object) -> None:
        os.dup2(self._before, 2)
        os.close(self._before)
        self._file.seek(0)
        self.text = self._file.read()
        self._file.close()
