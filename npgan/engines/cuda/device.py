"""Compiles ``step.cu`` for the GPU at hand, and launches its kernels on two streams."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from types import ModuleType
from typing import Any, Protocol

from npgan.engines.cuda.driver import OLDEST, launch_dependent, load
from npgan.errors import InputError, first_line

THREADS = 256  # in every block
TILES = ((64, 64), (32, 64), (32, 32))  # rows and columns of a GEMM that a block computes; gemm.cuh has the same three
TENSOR_CORES = 80  # the compute capability, times ten, from which on there are TF32 tensor cores and cp.async copies
CLUSTERS = 90  # from which on there are clusters of blocks
CLUSTERED, CLUSTER = "64x64x4", 4  # a tile as it is in kernels' names, and the blocks that share out its k's
# where tensor cores do TF32 at the rate of plain float32, so that three passes would cost three times that
_TF32_AS_FLOAT32 = (86, 89, 120, 121)

_CHAIN = ("forward_", "backward_", "head", "input_gradient", "tangent_")  # kernels that wait by themselves

_SOURCES = ("math.cuh", "ptx.cuh", "gemm.cuh", "step.cu")


@dataclass(frozen=True)
class Design:
    """How an iteration is launched. Each switch can be measured alone: ``bench.gpu_variants``."""

    side_stream: bool = True  # updates run beside the main chain
    priority: bool = True  # where both streams have work, the main chain's goes first
    overlapped: bool = True  # an iteration's inputs and metrics are made beside the main chain of another
    prefetched: bool = True  # an update fetches its parameters, m and v into the L2 cache before its GEMM
    tile: tuple[int, int] | None = None  # of every GEMM; None: ``tile_of`` picks
    # not yet measured, and for compute capability 9.0 or more:
    clusters: bool = False  # four blocks share out the k's of a tile where the result is too small to fill the GPU
    dependent: bool = False  # a kernel of the main chain begins while the one before it still runs


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
    switches = {"PASSES": passes, "PREFETCHED": int(design.prefetched), "DEPENDENT": int(design.dependent)}
    return "--std=c++17", *(f"-D{name}={value}" for name, value in switches.items())


def passes(precision: str, capability: int) -> int:
    """The option PASSES of gemm.cuh. ``capability``: 90 for 9.0. Raises InputError."""
    if capability < 70:
        raise InputError(f"fused kernels need a GPU of compute capability 7.0 or more, this one has {capability / 10}")
    if capability < TENSOR_CORES or (precision == "fp32" and capability in _TF32_AS_FLOAT32):
        return 0
    return 1 if precision == "tf32" else 3


def kernel_names(capability: int = 90) -> list[str]:
    """Every kernel that is compiled for a GPU; those for tiles once for each."""
    code = source()
    plain = re.findall(r'extern "C" __global__ void __launch_bounds__\(THREADS\)\s+(\w+)\(', code)
    tiled = re.findall(r"KERNEL\((\w+), TILE\)\(", code)
    clusters = [f"{name}_{CLUSTERED}" for name in tiled if name != "update"] if capability >= CLUSTERS else []
    return plain + [f"{name}_{rows}x{columns}" for name in tiled for rows, columns in TILES] + clusters


def in_chain(kernel: str) -> bool:
    """Whether it may begin while the one before it, another such, still runs: it waits by itself."""
    return kernel.startswith(_CHAIN) and kernel != "head_update"


def tile_of(rows: int, columns: int, multiprocessors: int) -> tuple[int, int]:
    """The largest tile of which a (rows, columns) result has enough to keep most of the GPU busy, else the smallest."""
    for tile in TILES:
        if -(-rows // tile[0]) * -(-columns // tile[1]) >= 0.75 * multiprocessors:
            return tile
    return TILES[-1]


def clustered(rows: int, columns: int, ks: int, multiprocessors: int) -> bool:
    """Whether a (rows, columns) result of sums over ``ks`` products has few tiles, and k's enough to be shared out.

    Two of these blocks fit on a multiprocessor.
    """
    tiles = -(-rows // 64) * -(-columns // 64)
    return tiles * CLUSTER <= 2 * multiprocessors and ks >= 64 * CLUSTER


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
        self._call = self._dependent_launch()
        self._on_side = self._after_chain = False  # what the main stream's last launch was

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
        """On CuPy's current stream."""
        if kernel not in self._functions:
            self._functions[kernel] = self._module.get_function(kernel)
        function, chain = self._functions[kernel], in_chain(kernel) and not self._on_side
        if chain and self._call and self._after_chain:
            stream = self._cupy.cuda.get_current_stream().ptr
            launch_dependent(self._call, function.kernel.ptr, blocks, THREADS, arguments, stream)
        else:
            function(blocks, (THREADS,), arguments)
        if not self._on_side:
            self._after_chain = chain

    def _dependent_launch(self) -> Any:
        """The driver's call, or None where it is not wanted or the driver or CUDA is too old for it."""
        runtime = self._cupy.cuda.runtime
        if not self._design.dependent or self.capability < CLUSTERS:
            return None
        if min(runtime.driverGetVersion(), runtime.runtimeGetVersion()) < OLDEST:
            return None
        try:
            return load()
        except (OSError, AttributeError):
            return None

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
        self._on_side = True
        try:
            with self.side:
                yield
        finally:
            self._on_side = False

    def join(self) -> None:
        if self._design.side_stream:
            self._wait(self.main, self.side)
            self._after_chain = False  # what comes next waits for more than the kernel before it

    def synchronize(self) -> None:
        """Waits for CuPy's current stream."""
        self._cupy.cuda.get_current_stream().synchronize()

    def _wait(self, waiting: Any, working: Any) -> None:
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(working)
        waiting.wait_event(event)
