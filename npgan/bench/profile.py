"""``npgan bench --profile``: how long every operation of an iteration takes, and how close to the machine it comes."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from npgan import engines as kernels
from npgan.backend import select
from npgan.bench.cpu import pixels
from npgan.config import TrainConfig
from npgan.engines.cpu import blas
from npgan.gan import iterate, new_state

ITERATIONS = 40


@dataclass
class Operation:
    """One call in one iteration; the bytes are those of its arrays, each counted once."""

    name: str
    seconds: float
    flops: int
    bytes: int


def show_profile(batch: int, products: blas.Products) -> None:
    """Prints the median time of every operation, and the totals by kind."""
    chosen = kernels.select("auto", products.threads, blas_asked=products.asked)
    if chosen.name != "fused":
        raise RuntimeError(f"there is nothing to profile: {chosen.reason}")
    iterations, whole = record(batch, chosen)
    print(f"{chosen.products or products.describe()}; batch {batch}, medians of {ITERATIONS} iterations")
    print(f"{'operation':<58}{'ms':>8}{'GFLOP/s':>9}{'GB/s':>7}")
    sums = {"products": 0.0, "passes": 0.0}
    for calls in zip(*iterations, strict=True):
        first, seconds = calls[0], statistics.median(call.seconds for call in calls)
        rate = f"{first.flops / seconds / 1e9:.0f}" if first.flops else ""
        print(f"{first.name:<58}{1e3 * seconds:>8.3f}{rate:>9}{first.bytes / seconds / 1e9:>7.0f}")
        sums["products" if first.flops else "passes"] += 1e3 * seconds
    median = 1e3 * statistics.median(whole)
    for name, total in [*sums.items(), ("Python and the rest", median - sum(sums.values())), ("iteration", median)]:
        print(f"{name:<58}{total:>8.3f}")


def record(batch: int, chosen: kernels.Kernels) -> tuple[list[list[Operation]], list[float]]:
    """The operations of each of ``ITERATIONS`` iterations, and how long each iteration took in seconds."""
    operations: list[Operation] = []
    inside = [0.0]  # seconds of products within the kernel that is running

    def timed(name: str, function: Callable[..., Any], is_product: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            inside[0] = 0.0 if not is_product else inside[0]
            start = time.perf_counter()
            result = function(*arguments, **named)
            seconds = time.perf_counter() - start
            arrays = [value for value in (*arguments, *named.values()) if isinstance(value, np.ndarray)]
            if is_product:
                inside[0] += seconds
                (rows, inner), columns = arguments[0].shape, arguments[1].shape[1]
                shown, flops = f"product ({rows}, {inner}) ({inner}, {columns})", 2 * rows * inner * columns
            else:
                seconds -= inside[0]
                shown, flops = f"{name} {' '.join(str(array.shape) for array in arrays[:1])}", 0
            operations.append(Operation(shown, seconds, flops, sum(array.nbytes for array in arrays)))
            return result

        return call

    chains = SimpleNamespace(empty=chosen.chains.empty)
    for name, _ in inspect.getmembers(kernels.reference, inspect.isfunction):
        if not name.startswith("_") and name != "empty":
            setattr(chains, name, timed(name, getattr(chosen.chains, name), is_product=name == "matmul"))
    config = TrainConfig(dataset="digits", epochs=2**31 - 1, batch_size=batch)
    images = pixels(-(-6000 // batch) * batch)
    state = new_state(config, select("numpy"), kernels=replace(chosen, chains=chains))
    steps = iterate(state, images, config)
    iterations: list[list[Operation]] = []
    whole: list[float] = []
    with patch.object(chosen.chains, "matmul", chains.matmul):  # for the products inside the fused forwards
        for count in range(ITERATIONS + 3):
            operations.clear()
            start = time.perf_counter()
            next(steps)
            if count >= 3:  # the first ones allocate
                whole.append(time.perf_counter() - start)
                iterations.append(list(operations))
    return iterations, whole
