"""The launches of a fused iteration on a GPU: how many they are, and how long each takes when nothing runs beside it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from npgan import engines as kernels
from npgan.backend import Backend, select
from npgan.bench.cpu import pixels
from npgan.config import TrainConfig
from npgan.engines.cuda.kernels import CudaStep, Resident
from npgan.gan import StepMetrics, new_state

_REPEATED = 50  # copies of a launch in one captured graph: the host's share of each is nothing
_REPLAYS = 5


class Timed(NamedTuple):
    kernel: str
    blocks: int
    microseconds: float


def show_gpu_profile(batch: int, precision: str) -> None:
    """Prints every launch of one iteration in order. Raises InputError where fused kernels cannot run."""
    backend = select("cupy", precision)
    gpu = kernels.select_for_gpu("fused", backend.xp, precision, None).gpu
    config = TrainConfig(dataset="digits", batch_size=batch)
    xp = backend.xp
    resident = Resident(
        backend.to_device(pixels(batch)), xp.arange(batch, dtype=np.uint32), xp.zeros(1, dtype=np.uint32),
        xp.zeros((1, len(StepMetrics._fields)), dtype=np.float32),
    )  # fmt: skip
    stopwatch = Stopwatch(gpu, xp.cuda)
    step = CudaStep(stopwatch, new_state(config, backend), config, resident, batch)
    backend.synchronize()
    step.launch()
    print(
        f"{backend.device}, {precision}, batch {batch}: microseconds of each launch on its own, minimum of {_REPLAYS}"
    )
    print(f"{'kernel':<40}{'blocks':>8}{'µs':>8}")
    for each in stopwatch.timed:
        print(f"{each.kernel:<40}{each.blocks:>8}{each.microseconds:>8.2f}")
    total = sum(each.microseconds for each in stopwatch.timed)
    print(f"{f'{len(stopwatch.timed)} launches, one after the other':<48}{total:>8.1f}")


def launches(backend: Backend, config: TrainConfig, multiprocessors: int) -> int:
    """Kernels that an iteration of the fused step launches."""
    nothing = backend.xp.zeros((1, 784), dtype=np.uint8)
    counter = _Counter(multiprocessors)
    CudaStep(counter, new_state(config, backend), config, Resident(*[nothing] * 4), config.batch_size).launch()
    return counter.launches


class _InOrder:
    """The part of a ``Launcher`` that says what runs beside what: here nothing does."""

    def beside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def join(self) -> None:
        pass


class _Counter(_InOrder):
    """A ``Launcher`` that starts nothing."""

    def __init__(self, multiprocessors: int) -> None:
        self.multiprocessors = multiprocessors
        self.launches = 0

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        self.launches += 1


class Stopwatch(_InOrder):
    """A ``Launcher`` that times each launch: it repeats it, so what is computed is of no use."""

    def __init__(self, gpu: Any, cuda: Any) -> None:
        self.multiprocessors = gpu.multiprocessors
        self.timed: list[Timed] = []
        self._gpu, self._cuda = gpu, cuda

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        stream = self._gpu.main
        with stream:
            self._gpu.launch(kernel, blocks, *arguments)  # loads it
            stream.begin_capture()
            for _ in range(_REPEATED):
                self._gpu.launch(kernel, blocks, *arguments)
            graph = stream.end_capture()
            times = []
            for _ in range(_REPLAYS):
                start, end = self._cuda.Event(), self._cuda.Event()
                start.record(stream)
                graph.launch(stream)
                end.record(stream)
                end.synchronize()
                times.append(1e3 * self._cuda.get_elapsed_time(start, end) / _REPEATED)
        self.timed.append(Timed(kernel, blocks[0] * blocks[1], min(times)))
