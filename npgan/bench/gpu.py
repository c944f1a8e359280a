"""``npgan bench --backend cupy``: microseconds per iteration of npgan and its peers, beside what the GPU could do at best."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from npgan.bench import gpu_peers
from npgan.bench.command import Worker, check_names, measure, or_dash, print_missing, print_table
from npgan.bench.cpu import DISCRIMINATOR, GENERATOR, Contestant, Missing, flops, pairs, pixels
from npgan.bench.gpu_profile import launches
from npgan.config import TrainConfig
from npgan.data.mnist import iterations_per_epoch
from npgan.engines.cuda.graph import MOST_IN_A_GRAPH

PRECISIONS = ("fp32", "tf32")
BASE = "npgan fused"  # the ratios are to this one
NAMES = {
    BASE: "npgan, fused, CUDA graphs",
    "npgan reference": "npgan, reference",
    "torch eager": "PyTorch, eager",
    "torch compiled": "PyTorch, compiled",
    "torch graph": "PyTorch, CUDA graph",
    "torch compiled graph": "PyTorch, compiled, CUDA graph",
    "jax step": "JAX, jitted step",
    "jax scan": "JAX, epoch in lax.scan",
    "jax scan unrolled": "JAX, scan of 4 at a time",
    "jax scan cuda graphs": "JAX, scan, CUDA graphs",
    "jax scan cublas": "JAX, scan, cuBLAS only",
    "jax scan three passes": "JAX, scan, TF32 in three passes",
}
_PEAK, _COPY = "products peak", "copy peak"  # what this GPU can do at best
_MNIST = 60_000  # images
_STEPS_OF_REFERENCE = 20  # in a call
_COPIED = 1 << 30  # bytes read, and as many written
_TIMES = 4  # a peak is taken in a call
_SIDE = 8192  # of the matrices of which the product is timed
_COLUMNS = ("", "median µs", "min µs", "ratio", "s/100 epochs", "launches", "floor/µs")

# Adam has to read and write parameters, m and v once; gradients could stay where the product that makes them ends.
_ADAM_BYTES = 6 * 4


def bench_gpu(
    batch_sizes: list[int],
    precisions: list[str],
    rounds: int,
    calls: int,
    only: list[str] | None,
    patience: float,
    patience_in_all: float | None,
) -> dict[str, Any]:
    """Measures and prints. Returns the report for JSON. Raises InputError, also where there is no GPU."""
    from npgan.backend import select

    check_names("--only", only or [], NAMES)
    report: dict[str, Any] = {"machine": select("cupy").device, "rounds": rounds, "calls": calls, "precisions": {}}
    print(report["machine"])
    for precision in precisions:
        report["precisions"][precision] = {}
        for batch in batch_sizes:
            print(f"\n{precision}, batch {batch}, microseconds per iteration, {rounds} turns of {calls}", flush=True)
            prefix = f"gpu {precision} "
            names = [prefix + name for name in (_PEAK, _COPY, *(only or NAMES))]
            workers = (Worker(name, batch, 1, patience) for name in names)
            measured = measure(workers, rounds, calls, prefix + BASE, prefix + _PEAK, patience_in_all)
            rows = {name.removeprefix(prefix): row for name, row in measured.items()}
            floors = add_shares(rows, batch)
            report["precisions"][precision][str(batch)] = {"contestants": rows, "floors_us": floors}
            show(rows, floors)
    return report


def add_shares(rows: dict[str, dict[str, Any]], batch: int) -> dict[str, float]:
    """Gives every row µs, seconds per 100 epochs of MNIST, and the floors as a share of its time. Returns the floors in µs.

    The floors: an iteration's products at the rate of one large product, as cuBLAS does it at this precision, and Adam's
    traffic at the rate of one large copy, both measured. npgan's fp32 products, three passes of TF32, can be below theirs.
    """
    floors: dict[str, float] = {}
    if "median_ms" in rows.get(_PEAK, {}):
        floors["products"] = flops(batch) / rows[_PEAK]["gflops"] / 1e3
    if "median_ms" in rows.get(_COPY, {}):
        parameters = sum((i + 1) * o for widths in (GENERATOR, DISCRIMINATOR) for i, o in pairs(widths))
        floors["adam"] = parameters * _ADAM_BYTES / (2 * _COPIED) * 1e3 * rows[_COPY]["median_ms"]
    for name, row in rows.items():
        if "median_ms" in row and name not in (_PEAK, _COPY):
            row["median_us"], row["min_us"] = 1e3 * row["median_ms"], 1e3 * row["min_ms"]
            row["s_per_100_epochs"] = 0.1 * iterations_per_epoch(_MNIST, batch) * row["median_ms"]
            row["of_floors"] = sum(floors.values()) / row["median_us"] if len(floors) == 2 else None
    return floors


def show(rows: dict[str, dict[str, Any]], floors: dict[str, float]) -> None:
    table = [_COLUMNS]
    for name, row in rows.items():
        if "median_us" in row:
            table.append((
                NAMES[name], f"{row['median_us']:.1f}", f"{row['min_us']:.1f}", or_dash(row["ratio"], "{:.2f}"),
                f"{row['s_per_100_epochs']:.2f}", or_dash(row.get("launches"), "{:.0f}"),
                or_dash(row["of_floors"], "{:.0%}"),
            ))  # fmt: skip
    print_table(table)
    if len(floors) == 2:
        peak = rows[_PEAK]["gflops"] / 1e3
        copy = 2 * _COPIED / rows[_COPY]["median_ms"] / 1e9
        print(
            f"floors: products {floors['products']:.1f} µs at the {peak:.0f} TFLOP/s of one of {_SIDE}²; "
            f"Adam {floors['adam']:.1f} µs at the {copy:.2f} TB/s of a large copy"
        )
    print_missing(rows, NAMES)


def make(name: str, batch: int) -> Contestant:
    """The contestant ``name``: a precision, then one of NAMES or a peak. Raises Missing and InputError."""
    precision, _, name = name.partition(" ")
    if name in (_PEAK, _COPY):
        return _peak(name, precision)
    iterations = max(_MNIST // batch, 1)  # whole batches only: a captured iteration has one size
    if name.startswith("npgan"):
        return _npgan(name.removeprefix("npgan "), batch, iterations, precision)
    library = name.split()[0]
    if importlib.util.find_spec(library) is None:
        raise Missing(f"{library} is not installed")
    together = max(count for count in range(1, MOST_IN_A_GRAPH + 1) if iterations % count == 0)
    peer = gpu_peers.make(name, batch, iterations, together, pixels(iterations * batch), precision)
    return Contestant(peer.run, flops(batch), peer.detail, peer.iterations, peer.launches)


def _peak(name: str, precision: str) -> Contestant:
    from npgan.backend import select

    backend = select("cupy", precision)
    if name == _COPY:
        source = backend.xp.zeros(_COPIED // 4, dtype=np.float32)
        target = backend.xp.empty_like(source)
        work, operations = (lambda: backend.xp.copyto(target, source)), 0
    else:
        a, b = backend.xp.full((2, _SIDE, _SIDE), 0.5, dtype=np.float32)
        out = backend.xp.empty_like(a)
        work, operations = (lambda: backend.xp.matmul(a, b, out=out)), 2 * _SIDE**3

    def run() -> None:
        for _ in range(_TIMES):
            work()
        backend.synchronize()

    return Contestant(run, operations, iterations=_TIMES)


def _npgan(kernels_name: str, batch: int, iterations: int, precision: str) -> Contestant:
    from npgan import engines as kernels
    from npgan.backend import select
    from npgan.engines.cuda.graph import Epochs
    from npgan.gan import iterate, new_state

    backend = select("cupy", precision)
    chosen = kernels.select_for_gpu(kernels_name, backend.xp, precision, None)
    config = TrainConfig(dataset="digits", epochs=2**31 - 1, batch_size=batch)
    state, images = new_state(config, backend), backend.to_device(pixels(iterations * batch))
    if chosen.gpu is not None:
        epochs = Epochs(chosen.gpu, state, images, config)
        count = lambda: launches(backend, config, chosen.gpu.multiprocessors)  # noqa: E731
        return Contestant(epochs.finish_epoch, flops(batch), chosen.reason, iterations, count)
    steps = iterate(state, images, config)

    def run() -> None:
        for _ in range(_STEPS_OF_REFERENCE):
            next(steps)
        backend.synchronize()

    return Contestant(run, flops(batch), chosen.reason, _STEPS_OF_REFERENCE)
