"""The launches of a fused iteration on a GPU, and how long each takes when nothing runs beside it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import select
from npgan.bench.base import pixels
from npgan.bench.measure import show_table
from npgan.config import TrainConfig
from npgan.console import say
from npgan.engines.cuda.device import Gpu
from npgan.engines.cuda.kernels import CudaKernels
from npgan.engines.schedule import FusedStep, Resident
from npgan.gan import StepMetrics, new_state

_REPEATED = 50  # copies of a launch in one captured graph: the host's share of each is nothing
_REPLAYS = 5


def show_gpu_profile(batch: int, precision: str) -> None:
    """Prints every launch of one iteration in order. Raises InputError where fused kernels cannot run."""
    backend = select("cupy", precision)
    xp, config = backend.xp, TrainConfig(dataset="digits", batch_size=batch)
    resident = Resident(
        backend.to_device(pixels(batch)), xp.arange(batch, dtype=np.uint32), xp.zeros(1, dtype=np.uint32),
        xp.zeros((1, len(StepMetrics._fields)), dtype=np.float32),
    )  # fmt: skip
    stopwatch = Stopwatch(Gpu(xp, precision), xp.cuda)
    step = FusedStep(CudaKernels(stopwatch, xp), new_state(config, backend), config, resident, batch)
    backend.synchronize()
    step.launch()
    say(f"{backend.device}, {precision}, batch {batch}: microseconds of each launch on its own, best of {_REPLAYS}")
    lines = [(kernel, str(blocks), f"{time:.2f}") for kernel, blocks, time in stopwatch.timed]
    total = sum(time for _, _, time in stopwatch.timed)
    show_table(
        ("kernel", "blocks", "µs"), [*lines, (f"{len(lines)} launches, one after the other", "", f"{total:.1f}")]
    )


class Stopwatch:
    """A launcher that times each launch: it repeats it, so what is computed is of no use."""

    def __init__(self, gpu: Gpu, cuda: ModuleType) -> None:
        self.multiprocessors, self.main = gpu.multiprocessors, gpu.main
        self.timed: list[tuple[str, int, float]] = []  # kernel, blocks, microseconds
        self._gpu, self._cuda = gpu, cuda

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        stream = self.main
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
        self.timed.append((kernel, blocks[0] * blocks[1], min(times)))

    def side_stream(self) -> AbstractContextManager[object]:
        return nullcontext()

    def join(self) -> None:
        pass
