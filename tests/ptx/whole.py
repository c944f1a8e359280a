"""Whole iterations of ``schedule.FusedStep`` by emulated kernels, each held against ``train_step`` in float64.

Word by word, launches that may run at once on the two streams are kept from each other's results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from npgan.backend import select
from npgan.config import TrainConfig
from npgan.data.batches import iterations_per_epoch
from npgan.engines.base import set_learning_rates
from npgan.engines.cuda.kernels import CudaKernels
from npgan.engines.schedule import FusedStep, Resident
from npgan.gan import TrainState, new_state, train_step
from npgan.nn import philox
from ptx.emulator import Module, Options, empty, written

Array = Any
_READ, _WRITTEN = 1, 2  # in a footprint


class EmulatedLauncher:
    """A ``Launcher``. ``multiprocessors`` decides which tiles are taken."""

    def __init__(self, module: Module, multiprocessors: int, options: Options) -> None:
        self.module, self.multiprocessors, self.options = module, multiprocessors, options
        self.launches = 0
        self._beside: list[tuple[str, dict[int, Array]]] = []  # launches of the side stream that nobody has waited for
        self._side = False

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        self.module.launch(kernel, blocks, *arguments, options=self.options)
        self.launches += 1
        if not self.options.checked:
            return
        touched = self.module.footprint()
        if self._side:
            self._beside.append((kernel, touched))
            return
        for other, others in self._beside:
            for address in touched.keys() & others.keys():
                one, two = touched[address], others[address]
                clash = ((one & _WRITTEN > 0) & (two > 0)) | ((two & _WRITTEN > 0) & (one > 0))
                assert not clash.any(), (
                    f"{kernel} may run beside {other}, and they touch {clash.sum()} words of an array"
                )

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        self._side = True
        try:
            yield
        finally:
            self._side = False

    def join(self) -> None:
        self._beside = []


def iterate(
    module: Module, config: TrainConfig, images: int, iterations: int, multiprocessors: int = 132, first: int = 0,
    options: Options = Options(),  # noqa: B008
) -> dict[str, float]:  # fmt: skip
    """Iterations from the one after ``first`` on; the exact ones start from the same state each. Returns the largest errors.

    Of gradients, parameters and Adam's state as a share of their norm, of metrics of each one.
    """
    backend = select("numpy")
    pixels = np.random.default_rng(0).integers(0, 256, (images, 784), dtype=np.uint8)
    state, exact = (new_state(config, backend, dtype) for dtype in (np.float32, np.float64))
    state.step = first
    per_epoch = iterations_per_epoch(images, config.batch_size)
    resident = Resident(pixels, np.zeros(images, np.uint32), np.full(1, first, np.uint32), empty(per_epoch, 6))
    launcher = EmulatedLauncher(module, multiprocessors, options)
    kernels = CudaKernels(launcher, SimpleNamespace(empty=lambda shape, dtype: empty(*shape), zeros=np.zeros))  # type: ignore[arg-type]
    worst: dict[str, float] = {}
    for _ in range(iterations):
        epoch, iteration = divmod(state.step, per_epoch)
        resident.order[...] = philox.permutation(config.seed, epoch, images)
        rows = min(config.batch_size, images - iteration * config.batch_size)
        _copy(exact, state)
        set_learning_rates(exact, config, epoch)
        FusedStep(kernels, state, config, resident, rows).launch()
        chosen = resident.order[iteration * config.batch_size :][:rows]
        expected = np.array([float(value) for value in train_step(exact, pixels[chosen], config)])
        state.step += 1
        assert int(resident.step[0]) == state.step
        errors = {"metrics": float((np.abs(resident.metrics[iteration] - expected) / (np.abs(expected) + 1e-2)).max())}
        for (name, found), (_, right) in zip(_vectors(state), _vectors(exact), strict=True):
            assert written(found).all(), f"{name}: not everything is written"
            errors[name] = float(np.linalg.norm(found - right) / (np.linalg.norm(right) + 1e-30))
        worst = {name: max(error, worst.get(name, 0.0)) for name, error in errors.items()}
    return worst


def _vectors(state: TrainState) -> list[tuple[str, Array]]:
    nets = ("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d)
    named = [
        (f"{net}'s {name}", array)
        for net, network, adam in nets
        for name, array in (
            ("gradients", network.gradients), ("parameters", network.parameters), ("m", adam.m), ("v", adam.v),
        )
    ]  # fmt: skip
    return named + ([("average", state.average.parameters)] if state.average else [])


def _copy(to: TrainState, state: TrainState) -> None:
    for (_, array), (_, other) in zip(_vectors(to), _vectors(state), strict=True):
        array[...] = other
    to.step = to.optimizer_g.step = to.optimizer_d.step = state.step
