"""npgan's own candidates on a GPU, and what that GPU could do at best."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from npgan.backend import Backend, select
from npgan.bench.base import DISCRIMINATOR, GENERATOR, MNIST, Candidate, flops, pairs, pixels
from npgan.config import TrainConfig
from npgan.data.batches import iterations_per_epoch
from npgan.engines import Compute, choose
from npgan.engines.cuda.kernels import CudaKernels
from npgan.engines.schedule import FusedStep, Resident
from npgan.gan import new_state

PEAK, COPY = "matmul peak", "copy peak"  # candidates
SIDE = 8192  # of the matrices whose matmul is timed
_COPIED = 1 << 30  # bytes read, and as many written
_TIMES = 4  # a peak is taken in a call
_STEPS_OF_REFERENCE = 20  # in a call

# Adam has to read and write parameters, m and v once; gradients could stay where the matmul that makes them ends.
_ADAM_BYTES = 6 * 4


def make(name: str, batch: int, precision: str) -> Candidate:
    """``npgan fused`` or ``reference``, or a peak. Raises InputError."""
    backend = select("cupy", precision)
    if name in (PEAK, COPY):
        return _peak(name, backend)
    config = TrainConfig(dataset="digits", batch_size=batch)
    count = max(MNIST // batch, 1)  # whole batches only
    kernels = name.removeprefix("npgan ")
    choice = choose(Compute("cupy", precision, kernels), backend)
    engine = choice.start(new_state(config, backend), backend.to_device(pixels(count * batch)), config)
    if choice.name == "reference":
        return Candidate(lambda: engine.run(_STEPS_OF_REFERENCE), flops(batch), choice.reason, _STEPS_OF_REFERENCE)
    processors = int(backend.xp.cuda.Device().attributes["MultiProcessorCount"])
    return Candidate(
        lambda: engine.run(count), flops(batch), choice.reason, count, lambda: launches(backend, config, processors)
    )


def _peak(name: str, backend: Backend) -> Candidate:
    xp = backend.xp
    if name == COPY:
        source = xp.arange(_COPIED // 4, dtype=np.float32)
        target = xp.empty_like(source)
        work, operations = (lambda: xp.copyto(target, source)), 0
    else:  # of random numbers: of constants it takes less power, so a GPU at its limit does it faster
        a, b = backend.to_device(np.random.default_rng(0).standard_normal((2, SIDE, SIDE), dtype=np.float32))
        out = xp.empty_like(a)
        work, operations = (lambda: xp.matmul(a, b, out=out)), 2 * SIDE**3

    def run() -> None:
        for _ in range(_TIMES):
            work()
        backend.synchronize()

    return Candidate(run, operations, iterations=_TIMES)


def add_shares(rows: dict[str, dict[str, Any]], batch: int) -> dict[str, float]:
    """Gives every row µs, seconds per 100 epochs of MNIST, and the floors as a share of its time. Returns the floors in µs.

    The floors: an iteration's matmuls at the rate of one large one, as cuBLAS does it at this precision, and Adam's
    traffic at the rate of one large copy, both measured. npgan's fp32 matmuls, three passes of TF32, can be below theirs.
    """
    floors: dict[str, float] = {}
    if "median_ms" in rows.get(PEAK, {}):
        floors["matmuls"] = flops(batch) / rows[PEAK]["gflops"] / 1e3
    if "median_ms" in rows.get(COPY, {}):
        parameters = sum((i + 1) * o for widths in (GENERATOR, DISCRIMINATOR) for i, o in pairs(widths))
        floors["adam"] = parameters * _ADAM_BYTES / copy_rate(rows[COPY]) * 1e6
    for name, row in rows.items():
        if "median_ms" in row and name not in (PEAK, COPY):
            row["median_us"], row["min_us"] = 1e3 * row["median_ms"], 1e3 * row["min_ms"]
            row["s_per_100_epochs"] = 0.1 * iterations_per_epoch(MNIST, batch) * row["median_ms"]
            row["of_floors"] = sum(floors.values()) / row["median_us"] if len(floors) == 2 else None
    return floors


def copy_rate(row: dict[str, Any]) -> float:
    """Bytes read and written in a second, of the row of COPY."""
    return float(2 * _COPIED / row["median_ms"] * 1e3)


def launches(backend: Backend, config: TrainConfig, multiprocessors: int) -> int:
    """Kernels that an iteration of the fused step launches."""
    nothing = backend.xp.zeros((1, 784), dtype=np.uint8)
    counter = _Counter(multiprocessors)
    resident = Resident(nothing, nothing, nothing, nothing)
    FusedStep(
        CudaKernels(counter, backend.xp), new_state(config, backend), config, resident, config.batch_size
    ).launch()
    return counter.launches


class _Counter:
    """A launcher that starts nothing."""

    def __init__(self, multiprocessors: int) -> None:
        self.multiprocessors = multiprocessors
        self.launches = 0

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        self.launches += 1

    def side_stream(self) -> AbstractContextManager[object]:
        return nullcontext()

    def join(self) -> None:
        pass
