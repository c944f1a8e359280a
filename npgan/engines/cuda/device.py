"""Compiles ``step.cu`` for the GPU at hand, and launches its kernels on two streams."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from types import ModuleType
from typing import Any, Protocol

from npgan.errors import InputError, first_line

THREADS = 256  # in every block
TILES = ((64, 64), (32, 64), (32, 32))  # rows and columns of a GEMM that a block computes; gemm.cuh has the same three
TENSOR_CORES = 80  # the compute capability, times ten, from which on there are TF32 tensor cores and cp.async copies
_TF32_AS_FLOAT32 = (
    86,
    89,
    120,
    121,
)  # where tensor cores do TF32 at the rate of plain float32: three passes would cost three times that

_SOURCES = ("math.cuh", "ptx.cuh", "gemm.cuh", "step.cu")


@dataclass(frozen=True)
class Design:
    """How an iteration is launched. Each switch can be measured alone: ``bench.gpu_variants``."""

    side_stream: bool = True  # updates run beside the main chain
    priority: bool = True  # where both streams have work, the main chain's goes first
    overlapped: bool = True  # an iteration's inputs and metrics are made beside the main chain of another
    prefetched: bool = True  # an update fetches its parameters, m and v into the L2 cache before its GEMM
    tile: tuple[int, int] | None = None  # of every GEMM; None: ``tile_of`` picks


DESIGN = Design()


class Launcher(Protocol):
    """What ``kernels`` needs: ``Gpu``, or what the benchmark puts in its place to count and to time."""

    multiprocessors: int

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        """Starts a kernel; arguments are arrays and NumPy scalars of the types that the kernel declares."""

    def side_stream(self) -> AbstractContextManager[object]:
        """A context: what is launched in it waits for all launched before it, and nothing waits for it until ``join``."""

    def join(self) -> None:
        """What is launched from now on waits for everything that was launched on the side stream."""


def source(names: tuple[str, ...] = _SOURCES) -> str:
    """The CUDA C++ of all kernels, in one piece: NVRTC is then spared a search for headers.

    In ASCII, with ? in comments: CuPy writes it to a file in the encoding of the user's language.
    """
    folder = files("npgan.engines.cuda")
    texts = (folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    return "\n".join(texts).encode("ascii", "replace").decode("ascii")


def options(passes: int, design: Design) -> tuple[str, ...]:
    """What NVRTC is told, besides what CuPy tells it."""
    return "--std=c++17", f"-DPASSES={passes}", f"-DPREFETCHED={int(design.prefetched)}"


def passes(precision: str, capability: int) -> int:
    """The option PASSES of gemm.cuh. ``capability``: 90 for 9.0. Raises InputError."""
    if capability < 70:
        raise InputError(f"fused kernels need a GPU of compute capability 7.0 or more, this one has {capability / 10}")
    if capability < TENSOR_CORES or (precision == "fp32" and capability in _TF32_AS_FLOAT32):
        return 0
    return 1 if precision == "tf32" else 3


def kernel_names() -> list[str]:
    """Every kernel of the source; those for tiles once for each."""
    code = source()
    plain = re.findall(r'extern "C" __global__ void __launch_bounds__\(THREADS\)\s+(\w+)\(', code)
    tiled = re.findall(r"KERNEL\((\w+), TILE\)\(", code)
    return plain + [f"{name}_{rows}x{columns}" for name in tiled for rows, columns in TILES]


def tile_of(rows: int, columns: int, multiprocessors: int) -> tuple[int, int]:
    """The largest tile of which a (rows, columns) result has enough to keep most of the GPU busy, else the smallest."""
    for tile in TILES:
        if -(-rows // tile[0]) * -(-columns // tile[1]) >= 0.75 * multiprocessors:
            return tile
    return TILES[-1]


class Gpu:
    """The kernels on CuPy's current device. Compiling takes seconds, once: CuPy keeps the result on disk."""

    def __init__(self, cupy: ModuleType, precision: str, design: Design = DESIGN) -> None:
        """``precision``: fp32 or tf32. Raises InputError where this GPU or this CUDA cannot run them."""
        self._design = design
        device = cupy.cuda.Device()
        self.multiprocessors = int(device.attributes["MultiProcessorCount"])
        self.capability = int(device.compute_capability)
        self._cupy = cupy
        self.compile(passes(precision, self.capability))
        first = {"priority": -1} if design.priority else {}  # the lower the number, the earlier
        self.main = cupy.cuda.Stream(non_blocking=True, **first)
        self.side = cupy.cuda.Stream(non_blocking=True)

    def compile(self, passes: int) -> None:
        """``passes``: how GEMMs are done, see gemm.cuh. Raises InputError where this CUDA cannot do it."""
        self.passes = passes
        try:
            self._module = self._cupy.RawModule(code=source(), options=options(passes, self._design), backend="nvrtc")
            self._module.compile()
        except Exception as error:  # of NVRTC and of the driver, without a common base class
            raise InputError(
                f"the fused kernels cannot be compiled: {first_line(error)}: try --kernels reference"
            ) from None
        self._functions: dict[str, Any] = {}

    @property
    def gemm(self) -> str:
        """How GEMMs are done, for the run's header."""
        if self.passes == 0:
            why = (
                "need compute capability 8.0"
                if self.capability < TENSOR_CORES
                else "do TF32 no faster than float32 here"
            )
            return f"float32 GEMM without tensor cores, which {why}"
        return "TF32 GEMM" if self.passes == 1 else "float32 GEMM in three TF32 passes"

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        if kernel not in self._functions:
            self._functions[kernel] = self._module.get_function(kernel)
        self._functions[kernel](blocks, (THREADS,), arguments)  # on CuPy's current stream

    def facts(self, kernel: str) -> dict[str, int]:
        """Registers of a thread, bytes of shared memory of a block and of local memory of a thread."""
        function = self._module.get_function(kernel)
        return {name: int(getattr(function, name)) for name in ("num_regs", "shared_size_bytes", "local_size_bytes")}

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        if not self._design.side_stream:
            yield
            return
        self._wait(self.side, self.main)
        with self.side:
            yield

    def join(self) -> None:
        if self._design.side_stream:
            self._wait(self.main, self.side)

    def synchronize(self) -> None:
        """Waits for CuPy's current stream."""
        self._cupy.cuda.get_current_stream().synchronize()

    def _wait(self, waiting: Any, working: Any) -> None:
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(working)
        waiting.wait_event(event)
