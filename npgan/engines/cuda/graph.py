"""Iterations captured as CUDA graphs and replayed to the end of the epoch; the host waits once an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from npgan.backend import Array, to_numpy
from npgan.config import TrainConfig
from npgan.data.mnist import iterations_per_epoch
from npgan.engines.cuda.device import Gpu
from npgan.engines.cuda.kernels import CudaStep, Resident
from npgan.gan import StepMetrics, TrainState
from npgan.nn import philox as random

MOST_IN_A_GRAPH = 40  # iterations: about 1,300 launches


def iterate_epochs(gpu: Gpu, state: TrainState, images: Array, config: TrainConfig) -> Iterator[np.ndarray]:
    """``training.iterate`` on a GPU: trains from ``state.step`` to the config's last epoch, handing over at every epoch's end.

    Yields the StepMetrics of the iterations since the last time, float32 (iterations, 6) in main memory.
    Shapes: images (M, 784) uint8 on the device.
    """
    epochs = Epochs(gpu, state, images, config)
    while state.step < config.epochs * epochs.per_epoch:
        yield epochs.finish_epoch()


class Epochs:
    """A run's data, buffers and graphs on the device."""

    def __init__(self, gpu: Gpu, state: TrainState, images: Array, config: TrainConfig) -> None:
        self.gpu, self.state, self.config = gpu, state, config
        xp, count = state.generator.xp, len(images)
        self.per_epoch = iterations_per_epoch(count, config.batch_size)
        self.whole, self.rest = divmod(count, config.batch_size)  # whole batches, and the rows of the last one
        self.together = self.whole // max(1, -(-self.whole // MOST_IN_A_GRAPH))  # iterations in a graph
        self.resident = Resident(
            images,
            xp.empty(count, dtype=np.uint32),
            xp.full(1, state.step, dtype=np.uint32),
            xp.zeros((self.per_epoch, len(StepMetrics._fields)), dtype=np.float32),
        )
        self.order_epoch = -1
        self.steps: dict[int, CudaStep] = {}  # by rows
        self.graphs: dict[tuple[int, int], Any] = {}  # by rows and iterations
        xp.cuda.get_current_stream().synchronize()  # the streams below do not wait for the one that made all this

    def finish_epoch(self) -> np.ndarray:
        """The iterations up to the end of the epoch. Returns their StepMetrics (iterations, 6)."""
        epoch, first = divmod(self.state.step, self.per_epoch)
        with self.gpu.main:
            if epoch != self.order_epoch:
                self._shuffle(epoch)
            iteration = first
            while iteration < self.per_epoch:
                whole = self.whole - iteration  # batches left
                count = self.together if whole >= self.together > 0 else 1
                self._start(self.config.batch_size if whole > 0 else self.rest, count)
                iteration += count
            self._shuffle(epoch + 1)  # started while the GPU is still busy with this epoch
            done = np.array(to_numpy(self.resident.metrics[first:]))  # waits for all that was started
        self.state.step += len(done)
        self.state.adam_g.step = self.state.adam_d.step = self.state.step  # one update of each in every iteration
        return done

    def _shuffle(self, epoch: int) -> None:
        order = self.resident.order
        order[...] = random.permutation(self.config.seed, epoch, order.size, self.state.generator.xp)
        self.order_epoch = epoch

    def _start(self, rows: int, count: int) -> None:
        """Starts ``count`` iterations. The first ones of a batch size go launch by launch, which loads the kernels."""
        if rows not in self.steps:
            self.steps[rows] = CudaStep(self.gpu, self.state, self.config, self.resident, rows)
            for _ in range(count):
                self.steps[rows].launch()
            return
        if (rows, count) not in self.graphs:
            self.gpu.main.begin_capture()
            for _ in range(count):
                self.steps[rows].launch()
            self.graphs[rows, count] = self.gpu.main.end_capture()
        self.graphs[rows, count].launch(self.gpu.main)
