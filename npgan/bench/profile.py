"""``npgan bench --profile``: how long every operation of an iteration takes, and how close to the machine it comes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgan.backend import select
from npgan.bench.base import IMAGES, pixels
from npgan.bench.measure import show_table
from npgan.config import TrainConfig
from npgan.console import say
from npgan.data.batches import iterations_per_epoch
from npgan.engines import Compute, choose, cpu_gemm
from npgan.engines.base import FusedEngine
from npgan.engines.cpu.blas import Blas
from npgan.engines.schedule import Parameters, Pass
from npgan.gan import new_state
from npgan.nn.layers import Dense

ITERATIONS = 40
_KERNELS = (  # of the table, as the tutorial's step calls them
    "inputs", "forward_leaky_relu", "forward_dropout", "forward_tanh", "head", "backward_leaky_relu", "backward_dydz",
    "backward_tanh", "update", "finish",
)  # fmt: skip


@dataclass
class Operation:
    """One call of a kernel in one iteration. The flops are of its matmul. The bytes: each of its arrays once."""

    name: str
    seconds: float
    flops: int
    bytes: int


def show_profile(batch: int, blas: Blas) -> None:
    """Prints the median time of every operation, and the totals by kind."""
    choice = choose(Compute("numpy", blas=blas), select("numpy"))
    if choice.name != "fused":
        raise RuntimeError(f"there is nothing to profile: {choice.reason}")
    iterations, whole = record(batch, blas)
    say(f"{choice.gemm}; batch {batch}, medians of {ITERATIONS} iterations")
    lines = []
    sums = {"kernels with a matmul": 0.0, "others": 0.0}
    for calls in zip(*iterations, strict=True):
        first, seconds = calls[0], statistics.median(call.seconds for call in calls)
        sums["kernels with a matmul" if first.flops else "others"] += seconds
        rate = f"{first.flops / seconds / 1e9:.0f}" if first.flops else ""
        traffic = f"{first.bytes / seconds / 1e9:.0f}" if first.bytes else ""
        lines.append((first.name, f"{1e3 * seconds:.3f}", rate, traffic))
    median = statistics.median(whole)
    for name, total in {**sums, "Python and the rest": median - sum(sums.values()), "iteration": median}.items():
        lines.append((name, f"{1e3 * total:.3f}", "", ""))
    show_table(("operation", "ms", "GFLOP/s", "GB/s"), lines)


def record(batch: int, blas: Blas) -> tuple[list[list[Operation]], list[float]]:
    """The operations of each of ``ITERATIONS`` iterations, and how long each iteration took in seconds."""
    from npgan.engines.cpu.kernels import CpuKernels

    operations: list[Operation] = []

    def timed(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            start = time.perf_counter()
            function(*arguments)
            seconds = time.perf_counter() - start
            arrays, weight = _arrays(arguments)
            flops = 0 if weight is None else 2 * len(arrays[0]) * weight.size
            shown = f"{name} {arrays[0].shape if arrays else ''} {weight.shape if weight is not None else ''}"
            operations.append(Operation(shown.strip(), seconds, flops, sum(array.nbytes for array in arrays)))

        return call

    kernels = CpuKernels(cpu_gemm(blas), record=False)
    for name in _KERNELS:
        setattr(kernels, name, timed(name, getattr(kernels, name)))
    config = TrainConfig(dataset="digits", batch_size=batch)
    images = pixels(iterations_per_epoch(IMAGES, batch) * batch)
    engine = FusedEngine(kernels, new_state(config, select("numpy")), images, config)
    iterations: list[list[Operation]] = []
    whole: list[float] = []
    for count in range(ITERATIONS + 3):
        operations.clear()
        start = time.perf_counter()
        engine.run(1)
        if count >= 3:  # the first ones allocate
            whole.append(time.perf_counter() - start)
            iterations.append(list(operations))
    return iterations, whole


def _arrays(arguments: tuple[Any, ...]) -> tuple[list[np.ndarray], np.ndarray | None]:
    """What a kernel reads and writes, and the weight of its matmul."""
    arrays: list[np.ndarray] = []
    weight = None
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            arrays.append(argument)
        elif isinstance(argument, Dense):
            weight = argument.weight
            arrays.append(weight)
        elif isinstance(argument, Parameters):  # of an update
            weight = argument.layer.weight
            arrays += [argument.gradient, argument.parameter, argument.m, argument.v]
        elif isinstance(argument, Pass):  # of the head, whose matmul has one column
            return [argument.y[-1], (argument.dydz or argument.y)[-1], argument.dz[-1]], None
    return arrays, weight
