"""What an engine is, the one that runs the textbook as it stands, and the one that runs the schedule of fused kernels."""

from __future__ import annotations

import copy
import ctypes
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from npgan.backend import Array, array_module
from npgan.config import TrainConfig
from npgan.data.batches import batch_bounds, iterations_per_epoch
from npgan.engines.schedule import FusedStep, Kernels, Resident, unsupported
from npgan.gan import StepMetrics, TrainState, train_step
from npgan.nn import philox
from npgan.nn.layers import DropoutKey, Layer
from npgan.nn.network import Sequential

Tensor = tuple[str, str, Array]  # net, name, array

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


class Engine(Protocol):
    """Advances a training state. Between calls the state is whole: it is what checkpoints and previews read.

    An engine reads ``state.step`` at every call, so a state that was set back is trained again from there. Which images an
    iteration sees depends on the seed and the iteration alone.
    """

    asynchronous: bool  # it can go on with later iterations while its caller looks at the metrics of earlier ones

    def run(self, iterations: int, ahead: int = 0) -> np.ndarray:
        """So many iterations, as ``gan.train_step`` does them. Returns their StepMetrics (iterations, 6) in main memory.

        It may stop after the first whose metrics are not finite: ``tensors`` then tells of that one. An asynchronous engine
        starts ``ahead`` more before it returns. Who asks for these looks at nothing but the metrics until the next call, which
        is for at least as many.
        """

    def tensors(self) -> Iterator[Tensor]:
        """What the last iteration computed, in its order: the first that is not finite says where training diverged."""


class ReferenceEngine:
    """Calls ``gan.train_step``: any config, dtype and array library."""

    asynchronous = False

    def __init__(self, state: TrainState, images: Array, config: TrainConfig) -> None:
        """Shapes: images (M, 784) uint8, where the state lives."""
        self.state, self.images, self.config = state, images, config
        self._record: list[Tensor] = []
        g, d = state.generator, state.discriminator
        self._watched = replace(
            state,
            generator=_watched("generator", g, self._record),
            discriminator=_watched("discriminator", d, self._record),
        )
        self._order, self._order_epoch = images[:0], -1
        _keep_freed_memory()

    def run(self, iterations: int, ahead: int = 0) -> np.ndarray:
        state, count, batch = self.state, len(self.images), self.config.batch_size
        done: list[list[float]] = []
        for _ in range(iterations):
            epoch, iteration = divmod(state.step, iterations_per_epoch(count, batch))
            set_learning_rates(state, self.config, epoch)
            if epoch != self._order_epoch:
                self._order = philox.permutation(self.config.seed, epoch, count, array_module(self.images))
                self._order_epoch = epoch
            pixels = self.images[self._order[batch_bounds(iteration, count, batch)]]
            self._record.clear()
            self._watched.step = state.step
            done.append([float(value) for value in train_step(self._watched, pixels, self.config)])
            state.step = self._watched.step
            if not all(map(math.isfinite, done[-1])):
                break
        return np.array(done).reshape(-1, len(StepMetrics._fields))

    def tensors(self) -> Iterator[Tensor]:
        told: Counter[tuple[str, str]] = Counter()
        for net, name, array in self._record:
            # every network has its second forward in the G step, and D another backward, after that of its penalty
            between = [" (penalty)"] * (self.config.penalized and net == "discriminator" and "of the input" in name)
            passes = ["", *between, " (G step)"]
            yield net, name + passes[told[net, name]], array
            told[net, name] += 1


class FusedEngine:
    """Runs ``schedule.FusedStep`` on a table of fused kernels."""

    def __init__(self, kernels: Kernels, state: TrainState, images: Array, config: TrainConfig) -> None:
        """Shapes: images (M, 784) uint8, where the state lives. Raises ValueError for networks that it cannot train."""
        if reason := unsupported(state, config):
            raise ValueError(reason)
        self.kernels, self.state, self.config = kernels, state, config
        self.asynchronous = kernels.asynchronous
        like, count = state.generator.parameters, len(images)
        self._xp = array_module(like)
        self.per_epoch = iterations_per_epoch(count, config.batch_size)
        self._whole, self._rest = divmod(count, config.batch_size)  # whole batches, and the rows of the last one
        with kernels.stream():
            self.resident = Resident(
                images,
                self._xp.empty(count, np.uint32),
                self._xp.empty(1, np.uint32),
                self._xp.zeros((self.per_epoch, len(StepMetrics._fields)), like.dtype),
            )
        self._order_epoch = -1
        self._steps: dict[int, FusedStep] = {}  # by rows
        self._last: FusedStep | None = None
        self._ahead = _Started(0, 0, [])

    def run(self, iterations: int, ahead: int = 0) -> np.ndarray:
        state, none = self.state, np.empty((0, len(StepMetrics._fields)), self.resident.metrics.dtype)
        with self.kernels.stream():
            begun, self._ahead = self._ahead, _Started(0, 0, [])
            if begun.iterations > iterations:
                raise ValueError(f"{begun.iterations} iterations were asked for ahead, now {iterations}")
            if not begun.iterations:
                begun = _Started(state.step, 0, [])
                self.resident.step[...] = state.step
            begun = self._start(begun, iterations - begun.iterations)
            if ahead and self.asynchronous:
                self._ahead = self._start(_Started(state.step + iterations, 0, []), ahead)
            metrics = np.concatenate([none, *(wait() for wait in begun.metrics)])
            state.step += len(metrics)
            state.optimizer_d.step = state.optimizer_g.step = state.step
        return metrics

    def _start(self, begun: _Started, iterations: int) -> _Started:
        """So many more, in parts that end with an epoch. A table may stop early."""
        at, metrics = begun.first + begun.iterations, list(begun.metrics)
        while iterations:
            epoch, first = divmod(at, self.per_epoch)
            self._shuffle(epoch)
            set_learning_rates(self.state, self.config, epoch)
            wanted = min(iterations, self.per_epoch - first)
            whole = min(wanted, max(self._whole - first, 0))
            count = self._repeat(self.config.batch_size, whole)
            if count == whole:
                count += self._repeat(self._rest, wanted - whole)
            iterations = iterations - count if count == wanted else 0
            metrics.append(self.kernels.fetch(self.resident.metrics[first : first + count]))
            at += count
            if first + count == self.per_epoch:
                self._shuffle(epoch + 1)  # started while a GPU is still busy with this epoch
        return _Started(begun.first, at - begun.first, metrics)

    def tensors(self) -> Iterator[Tensor]:
        if self._last is not None:
            if not self.kernels.keeps_gradients and self._last.gradients_last:
                self._last.gradients()
            yield from self._last.tensors()

    def _repeat(self, rows: int, count: int) -> int:
        if not count:
            return 0
        if rows not in self._steps:
            self._steps[rows] = FusedStep(self.kernels, self.state, self.config, self.resident, rows)
        self._last = self._steps[rows]
        return self.kernels.repeat(self._last, count)

    def _shuffle(self, epoch: int) -> None:
        if epoch != self._order_epoch:
            order = self.resident.order
            order[...] = philox.permutation(self.config.seed, epoch, order.size, self._xp)
            self._order_epoch = epoch


class _Started(NamedTuple):
    """Iterations that have been started, whose metrics may be waited for."""

    first: int  # those done before them
    iterations: int
    metrics: list[Callable[[], np.ndarray]]


def set_learning_rates(state: TrainState, config: TrainConfig, epoch: int) -> None:
    """Both optimizers' rates in this epoch, counted from 0: the config's or, on a cosine, ½·(1 + cos(π·epoch/epochs)) of it."""
    share = 0.5 * (1.0 + math.cos(math.pi * epoch / config.epochs)) if config.lr_schedule == "cosine" else 1.0
    state.optimizer_g.lr, state.optimizer_d.lr = share * config.lr_g, share * config.lr_d


def _keep_freed_memory() -> None:
    """Tells glibc not to give memory back to the system, only to take it again page by page in every step: 29 ms, not 44."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option, size in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 512 << 20)):
            mallopt(option, size)


def _watched(name: str, net: Sequential, record: list[Tensor]) -> Sequential:
    """The same network, parameters and all, whose layers note what they compute in ``record``."""
    twin = copy.copy(net)
    twin.layers = [_Watched(name, index, layer, record) for index, layer in enumerate(net.layers)]
    return twin


class _Watched(Layer):
    def __init__(self, net: str, index: int, layer: Layer, record: list[Tensor]) -> None:
        self.net, self.index, self.layer, self.record = net, index, layer, record
        self.name = f"layer {index} ({type(layer).__name__})"

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Any]:
        y, cache = self.layer.forward(x, key)
        self.record.append((self.net, f"output of {self.name}", y))
        return y, cache

    def backward(self, dy: Array, cache: Any) -> Array:
        dx = self.layer.backward(dy, cache)
        for tensor in self.layer.shapes():
            self.record.append((self.net, f"gradient of {self.index}.{tensor}", getattr(self.layer, f"d{tensor}")))
        return self._note(dx)

    def backward_input(self, dy: Array, cache: Any) -> Array:
        return self._note(self.layer.backward_input(dy, cache))

    def double_backward(self, u: Array, dy: Array, cache: Any) -> Array:
        ddy = self.layer.double_backward(u, dy, cache)
        self.record.append((self.net, f"penalty's output of {self.name}", ddy))
        return ddy

    def _note(self, dx: Array) -> Array:
        self.record.append((self.net, f"gradient of the input of {self.name}", dx))
        return dx
