"""Iterations captured as CUDA graphs and replayed: the host waits for metrics alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from npgan.engines.cuda.device import Gpu
from npgan.engines.schedule import FusedStep

MOST_IN_A_GRAPH = 40  # iterations: 1,200 launches

Launch = Callable[[FusedStep, FusedStep, int], None]  # so many iterations of a step and its twin


class Graphs:
    """A run on the main stream of ``gpu``. A graph keeps no array alive: the steps that own them are kept here."""

    def __init__(self, gpu: Gpu, launch: Launch) -> None:
        self.gpu, self._launch = gpu, launch
        self._twins: dict[FusedStep, FusedStep] = {}
        self._captured: dict[FusedStep, dict[int, Any]] = {}  # by step and iterations

    @contextmanager
    def stream(self) -> Iterator[None]:
        """The main stream waits for no other by itself, so the one whose arrays it is going to use is waited for here."""
        self.gpu.synchronize()
        with self.gpu.main:
            yield

    def repeat(self, step: FusedStep, count: int) -> None:
        """A step's first iteration goes launch by launch, which loads the kernels. A graph is captured when it is needed."""
        if count and step not in self._captured:
            self._twins[step] = step.twin()
            self._captured[step] = {}
            step.launch()
            count -= 1
        many = _iterations_in_a_graph(step)
        for size in [many] * (count // many) + [1] * (count % many):
            graphs = self._captured[step]
            if size not in graphs:
                graphs[size] = self._capture(step, size)
            graphs[size].launch(self.gpu.main)

    def _capture(self, step: FusedStep, iterations: int) -> Any:
        self.gpu.main.begin_capture()
        self._launch(step, self._twins[step], iterations)
        return self.gpu.main.end_capture()


def _iterations_in_a_graph(step: FusedStep) -> int:
    """The whole batches of an epoch, shared out evenly."""
    whole = len(step.resident.pixels) // step.config.batch_size
    return max(1, whole // max(1, -(-whole // MOST_IN_A_GRAPH)))
