"""Compiles the CUDA kernels to PTX by NVRTC, as ``Gpu`` has CuPy do it; launches them on NumPy arrays by ``emulator.cpp``."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgan.engines.cuda.device import DESIGN, THREADS, Design, options, source
from ptx.program import SIZES, Program, kernels_of, parse

COMPILER = shutil.which("g++")
_UNWRITTEN = np.uint32(0x7FFADBAD)  # a NaN; emulator.cpp has the same
_FLAGS = (
    "-O3", "-std=c++17", "-march=native", "-ffp-contract=off", "-frounding-math", "-fno-strict-aliasing", "-shared", "-fPIC",
    "-Wno-unknown-pragmas",
)  # fmt: skip
_GUARD = 1 << 20  # bytes between arrays, so that what leaves one does not hit another


class Problem(AssertionError):
    """What the emulator found in a launch."""


class Options(NamedTuple):
    """How a launch is run, for a kernel must not depend on it."""

    order: int = 0  # warps 0 one after the other, 1 from the last, 2 an instruction each in turn, 3 in random slices
    tensor_cores: int = 0  # 0 sum exactly, 1 cut off what is below the largest addend's last place
    approximately: int = 0  # units of the last place that .approx instructions are off by
    checked: bool = True  # races and unwritten shared memory are looked for


_PLAIN = Options()


def missing() -> str | None:
    """What this machine lacks to run any of it, or None."""
    if COMPILER is None:
        return "needs g++"
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as problem:  # whatever the loader raises where libnvrtc is missing
        return f"needs CuPy's compiler (pip install 'npgan[nvrtc]'): {problem}"
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """``emulator.cpp``, built once for all tests of a process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "emulator.so"
        subprocess.run([str(COMPILER), *_FLAGS, Path(__file__).with_name("emulator.cpp"), "-o", file], check=True)
        built = ctypes.CDLL(str(file))
    built.launch.restype = ctypes.c_char_p
    return built


def compile_ptx(code: str, architecture: int, more: tuple[str, ...]) -> str:
    """``architecture``: 90 for compute capability 9.0. Raises CuPy's CompileException."""
    from cupy.cuda import compiler

    added = (f"-arch=compute_{architecture}", "-ftz=true", "--device-as-default-execution-space", "-lineinfo")
    ptx, _ = compiler._NVRTCProgram(code, "step.cu", method="ptx").compile((*more, *added))
    return ptx.decode() if isinstance(ptx, bytes) else str(ptx)


def kernels(architecture: int, passes: int, design: Design = DESIGN) -> Module:
    """npgan's, for PASSES."""
    return compiled(architecture, options(passes, design))


@functools.cache
def compiled(architecture: int, more: tuple[str, ...]) -> Module:
    """npgan's, by what NVRTC is told."""
    return Module(source(), architecture, more)


def only(code: str, tile: str, kernels: tuple[str, ...]) -> str:
    """Of the kernels with a GEMM those in one tile, given as in DENSE_KERNELS(32x32): the rest need not be compiled."""

    def kept(kernel: re.Match[str]) -> str:
        return kernel[0] if kernel[1] in kernels else ""

    code = re.sub(r"    KERNEL\((\w+), TILE\)\(.*?\n    \}[ \\]*\n", kept, code, flags=re.DOTALL)
    return re.sub(r"\n((?:DENSE|CHAIN)_KERNELS\(\w+\))(?=\n)", lambda line: line[0] if line[1] == tile else "", code)


def empty(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """An array that nobody has written: the emulator reports a kernel that reads it."""
    return np.full(shape, _UNWRITTEN).view(dtype)


def written(array: np.ndarray) -> np.ndarray:
    """Which 32-bit words have been written."""
    return np.ascontiguousarray(array).view(np.uint32) != _UNWRITTEN


class Signature(NamedTuple):
    """A kernel's parameter, from the CUDA C++."""

    name: str
    type: str
    pointer: bool
    const: bool


@functools.cache
def signature(code: str, kernel: str) -> tuple[Signature, ...]:
    name = re.sub(r"_\d+(x\d+)+$", "", kernel)
    found = re.search(rf"(?:KERNEL\({name}, TILE\)|\b{name})\(([^)]*)\)\s*\\?\s*\{{", code)
    assert found, kernel
    parameters: list[Signature] = []
    for each in re.sub(r"\\\n", " ", found[1]).split(","):
        declared = re.fullmatch(r"\s*(const\s)?\s*(.*?)\s*(\*?)\s*(\w+)\s*", each, re.S)
        assert declared, each
        before = parameters[-1] if parameters and not declared[2] else None  # as in: float *y, *dydz
        kind, const = (before.type, before.const) if before else (declared[2], bool(declared[1]))
        parameters.append(Signature(declared[4], kind, declared[3] == "*", const))
    return tuple(parameters)


class Module:
    """The kernels of one source, for one architecture."""

    def __init__(self, code: str, architecture: int, more: tuple[str, ...]) -> None:
        self.code, self.architecture = code, architecture
        self._texts = kernels_of(compile_ptx(code, architecture, more))
        self._programs: dict[str, tuple[Program, int]] = {}
        self._owners: list[np.ndarray] = []  # of the last launch

    def names(self) -> list[str]:
        return list(self._texts)

    def program(self, kernel: str) -> tuple[Program, int]:
        """Parsed at its first launch. Raises SyntaxError for an instruction that is not emulated."""
        if kernel not in self._programs:
            self._programs[kernel] = _load(parse(kernel, *self._texts[kernel]))
        return self._programs[kernel]

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any, options: Options = _PLAIN) -> None:
        """Arguments: arrays, and NumPy scalars of the types that the kernel declares. Raises Problem."""
        program, number = self.program(kernel)
        declared = signature(self.code, kernel)
        assert len(program.parameters) == len(arguments) == len(declared), (kernel, len(arguments))
        assert not program.threads or program.threads == THREADS, kernel
        memory = _Memory()
        data = bytearray(max(program.parameter_bytes, 1))
        for (kind, start), parameter, value in zip(program.parameters, declared, arguments, strict=True):
            raw = (
                memory.add(value, not parameter.const) if isinstance(value, np.ndarray) else np.asarray(value).tobytes()
            )
            assert len(raw) == SIZES[kind], (kernel, kind, value)
            data[start : start + len(raw)] = raw
        memory.set()
        self._owners = memory.owners if options.checked else []
        run = library()
        run.set_options(options.order, options.tensor_cores, options.approximately, int(options.checked))
        buffer = (ctypes.c_char * len(data)).from_buffer(data)
        found = run.launch(
            number, *map(int, blocks), THREADS, program.first_wide, buffer, program.parameter_bytes
        ).decode()
        if found:
            raise Problem(found.strip())

    def footprint(self) -> dict[int, np.ndarray]:
        """Of the last launch, by an array's address: a word's 1 if read, 2 if written, 4 if before griddepcontrol.wait."""
        found = {}
        for index, owner in enumerate(self._owners):
            flags = np.zeros(owner.nbytes // 4, np.uint8)
            library().footprint(index, ctypes.c_void_p(flags.ctypes.data))
            found[owner.ctypes.data] = flags
        return found


def owner_of(array: np.ndarray) -> np.ndarray:
    """The array whose memory this is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def extent(array: np.ndarray) -> int:
    """Bytes from the first element to the end of the last row, with the zeros that pad it to 16 bytes."""
    if array.flags.c_contiguous:
        return array.nbytes
    assert array.ndim == 2 and array.strides == (-(-array.shape[1] // 4) * 16, 4), (array.shape, array.strides)
    return array.shape[0] * array.strides[0]


class _Memory:
    """The arrays of a launch at addresses of the device, far from each other and on 256-byte boundaries, as CuPy's are."""

    def __init__(self) -> None:
        self.owners: list[np.ndarray] = []
        self._bases: list[int] = []
        self._next = 1 << 32
        self._ranges: list[tuple[int, int, int, int]] = []

    def add(self, array: np.ndarray, writable: bool) -> bytes:
        """Returns the address as eight bytes."""
        owner = owner_of(array)
        known = [index for index, each in enumerate(self.owners) if each is owner]
        if not known:
            known = [len(self.owners)]
            self.owners.append(owner)
            self._bases.append(self._next)
            self._next += (owner.nbytes + _GUARD + 255) // 256 * 256
        start = self._bases[known[0]] + array.ctypes.data - owner.ctypes.data
        self._ranges.append((start, start + extent(array), known[0], int(writable)))
        return start.to_bytes(8, "little")

    def set(self) -> None:
        def of(kind: Any, values: Any) -> Any:
            values = list(values)
            return (kind * max(len(values), 1))(*values)

        address, number = ctypes.c_uint64, ctypes.c_int
        library().set_arrays(
            len(self.owners), of(address, (each.ctypes.data for each in self.owners)), of(address, self._bases),
            of(address, (each.nbytes for each in self.owners)),
        )  # fmt: skip
        starts, ends, arrays, writable = zip(*self._ranges, strict=True) if self._ranges else ((),) * 4
        library().set_ranges(
            len(self._ranges), of(address, starts), of(address, ends), of(number, arrays), of(number, writable)
        )


def _load(program: Program) -> tuple[Program, int]:
    run = library()
    number = run.kernel_new(program.name.encode(), program.registers, program.shared_bytes, program.cluster)
    for start, end in program.shared:
        run.kernel_shared(number, ctypes.c_uint64(start), ctypes.c_uint64(end))
    for each in program.code:
        count = len(each.kinds)
        kinds, values = (ctypes.c_int * count)(*each.kinds), (ctypes.c_uint64 * count)(*each.values)
        refused = run.kernel_add(
            number, each.name.encode(), each.predicate, int(each.negated), count, kinds, values, each.target, each.line,
            each.source,
        )  # fmt: skip
        if refused:
            raise SyntaxError(f"{program.name}, line {each.line}: {each.name} is not emulated")
    return program, number
