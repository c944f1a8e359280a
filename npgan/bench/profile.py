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
from npgan.engines import Choice, Compute, choose
from npgan.engines.base import FusedEngine
from npgan.engines.cpu.blas import Blas
from npgan.engines.schedule import Parameters, Pass
from npgan.gan import new_state

ITERATIONS = 40
_KERNELS = (  # of the table, without ``update``, which calls two of them
    "inputs", "forward_leaky_relu", "forward_dropout", "forward_tanh", "head", "backward_leaky_relu", "backward_dydz",
    "backward_tanh", "gradients", "adam", "finish",
)  # fmt: skip


@dataclass
class Operation:
    """One call in one iteration: a matmul, or a kernel without the matmul in it. The bytes: each of its arrays once."""

    name: str
    seconds: float
    flops: int
    bytes: int


def show_profile(batch: int, blas: Blas) -> None:
    """Prints the median time of every operation, and the totals by kind."""
    choice = choose(Compute("numpy", blas=blas), select("numpy"))
    if choice.name != "fused":
        raise RuntimeError(f"there is nothing to profile: {choice.reason}")
    iterations, whole = record(batch, choice)
    say(f"{choice.gemm}; batch {batch}, medians of {ITERATIONS} iterations")
    lines = []
    sums = {"matmuls": 0.0, "passes": 0.0}
    for calls in zip(*iterations, strict=True):
        first, seconds = calls[0], statistics.median(call.seconds for call in calls)
        sums["matmuls" if first.flops else "passes"] += seconds
        rate = f"{first.flops / seconds / 1e9:.0f}" if first.flops else ""
        traffic = f"{first.bytes / seconds / 1e9:.0f}" if first.bytes else ""
        lines.append((first.name, f"{1e3 * seconds:.3f}", rate, traffic))
    median = statistics.median(whole)
    for name, total in {**sums, "Python and the rest": median - sum(sums.values()), "iteration": median}.items():
        lines.append((name, f"{1e3 * total:.3f}", "", ""))
    show_table(("operation", "ms", "GFLOP/s", "GB/s"), lines)


def record(batch: int, choice: Choice) -> tuple[list[list[Operation]], list[float]]:
    """The operations of each of ``ITERATIONS`` iterations, and how long each iteration took in seconds."""
    from npgan.engines.cpu.gemm import Gemm
    from npgan.engines.cpu.kernels import CpuKernels

    operations: list[Operation] = []
    inside = 0.0  # seconds of the matmul in the kernel that is running

    def timed(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            nonlocal inside
            start = time.perf_counter()
            function(*arguments)
            seconds = time.perf_counter() - start
            arrays, flops = _arrays(arguments), 0
            if name == "gemm":
                shown, flops = f"matmul {arrays[0].shape} {arrays[1].shape}", 2 * arrays[0].size * arrays[1].shape[1]
                inside = seconds
            else:
                arrays = arrays[1:] if inside else arrays  # the first is the matmul's
                shown = f"{name} {arrays[0].shape if arrays else ''}"
                seconds, inside = seconds - inside, 0.0
            operations.append(Operation(shown, seconds, flops, sum(array.nbytes for array in arrays)))

        return call

    kernels = CpuKernels(Gemm(choice.sums == "npgan"))
    for name in (*_KERNELS, "gemm"):
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


def _arrays(arguments: tuple[Any, ...]) -> list[np.ndarray]:
    first = arguments[0]
    if isinstance(first, Parameters):  # of adam
        return [first.gradient, first.parameter, first.m, first.v]
    if isinstance(first, Pass):  # of head
        return [first.y[-1], (first.dydz or first.y)[-1], first.dz[-1]]
    return [argument for argument in arguments if isinstance(argument, np.ndarray)]
