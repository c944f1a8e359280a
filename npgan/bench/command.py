"""The command ``npgan bench``: runs the candidates in turn, shows a table, writes JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npgan.backend import select
from npgan.bench.gpu import COPY, PEAK, SIDE, add_shares, copy_rate
from npgan.bench.gpu_profile import show_gpu_profile
from npgan.bench.measure import Rows, Worker, busy_machine, check_names, measure, or_dash, show_missing, show_table
from npgan.bench.profile import show_profile
from npgan.console import say
from npgan.engines.cpu.blas import Blas
from npgan.errors import InputError
from npgan.files import named_output
from npgan.runs.owned import is_of_a_run

PRECISIONS = ("fp32", "tf32")
BASE = "npgan fused"  # the ratios are to this one
NAMES = {
    "numpy": {
        BASE: "npgan, fused kernels",
        "npgan blas": "npgan, fused, BLAS",
        "npgan reference": "npgan, reference",
        "npgan r3gan": "npgan, --preset r3gan",
        "matmul own": "matmuls alone, npgan",
        "matmul columns": "matmuls alone, BLAS",
        "matmul rows": "matmuls, BLAS, rows",
        "torch eager": "PyTorch, eager",
        "torch compiled": "PyTorch, compiled",
        "jax step": "JAX, jitted step",
        "jax scan": "JAX, lax.scan",
    },
    "cupy": {
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
    },
}
_CPU_PEAK = "peak"  # a 2048² matmul: what this machine can do at best
_PAUSE = 0.1  # seconds before a turn: the threads of the one before wait by spinning, OpenBLAS's for 30 ms


@dataclass(frozen=True)
class Options:
    """The flags of ``npgan bench``. Raises InputError."""

    batch_sizes: Sequence[int] = (128,)  # a table for each
    backend: str = "numpy"  # or cupy
    precisions: Sequence[str] = ()  # of matmuls on a GPU, a table for each; all of PRECISIONS if empty
    busy: int = 0  # processes that compute beside the candidates
    rounds: int = 15  # turns of every candidate
    calls: int | None = None  # of it in a turn; None: 10, and 3 on a GPU
    only: Sequence[str] = ()  # keys of NAMES; all if empty
    patience: float = 120.0  # seconds that a candidate may take to get ready, see ``measure``
    json_path: Path | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1 or (self.calls is not None and self.calls < 1) or min(self.batch_sizes) < 1:
            raise InputError("--rounds, --calls and --batch-sizes must be at least 1")
        if self.busy < 0:
            raise InputError("--busy must be at least 0")
        if self.precisions and self.backend != "cupy":
            raise InputError("--precisions needs a GPU: use --backend cupy")
        if self.json_path is not None and is_of_a_run(self.json_path):
            raise InputError(f"--json {self.json_path}: is a file of a run: name another one")
        check_names("--precisions", self.precisions, PRECISIONS)
        check_names("--only", self.only, NAMES[self.backend])

    @property
    def turns(self) -> tuple[int, int]:
        """Rounds, and calls in each."""
        return self.rounds, self.calls or (3 if self.backend == "cupy" else 10)


def bench(options: Options, blas: Blas) -> int:
    """Measures and prints; returns the exit status. Raises InputError.

    Each candidate is a process of its own, because the thread pools of OpenBLAS, PyTorch and XLA slow each other down
    within one; they take turns, so that a change of the machine's speed hits all of them alike.
    """
    precisions = options.precisions or PRECISIONS
    if options.profile:
        if options.backend == "cupy":
            show_gpu_profile(options.batch_sizes[0], precisions[0])
        else:
            show_profile(options.batch_sizes[0], blas)
        return 0
    report: dict[str, Any] = {"machine": select(options.backend).device}
    report["rounds"], report["calls"], report["busy"] = *options.turns, options.busy
    if options.backend == "cupy":
        say(report["machine"])
        report["precisions"] = {
            precision: {str(batch): _gpu(options, precision, batch) for batch in options.batch_sizes}
            for precision in precisions
        }
    else:
        report["gemm"] = blas.describe()
        say(f"{report['machine']}; {report['gemm']}")
        report["batch_sizes"] = {str(batch): _cpu(options, batch, blas.threads) for batch in options.batch_sizes}
    if options.json_path is not None:
        try:
            with named_output(options.json_path) as file:
                file.write((json.dumps(report, indent=2) + "\n").encode())
        except OSError as error:
            raise InputError(f"--json {options.json_path}: cannot be written: {error.strerror}") from None
    return 0


def _cpu(options: Options, batch: int, threads: int) -> Rows:
    rounds, calls = options.turns
    say("")
    beside = f", beside {options.busy} busy processes" if options.busy else ""
    say(f"batch {batch}, milliseconds per iteration (a D step and a G step), {rounds} turns of {calls}{beside}")
    workers = (Worker(name, batch, threads) for name in (*(options.only or NAMES["numpy"]), _CPU_PEAK))
    with busy_machine(options.busy):
        rows = measure(workers, rounds, calls, BASE, _CPU_PEAK, options.patience, _PAUSE)
    show_cpu(rows)
    return rows


def _gpu(options: Options, precision: str, batch: int) -> dict[str, Any]:
    rounds, calls = options.turns
    say("")
    say(f"{precision}, batch {batch}, microseconds per iteration, {rounds} turns of {calls}")
    prefix = f"gpu {precision} "
    workers = (Worker(prefix + name, batch, 1) for name in (PEAK, COPY, *(options.only or NAMES["cupy"])))
    measured = measure(workers, rounds, calls, prefix + BASE, prefix + PEAK, options.patience)
    rows = {name.removeprefix(prefix): row for name, row in measured.items()}
    floors = add_shares(rows, batch)
    show_gpu(rows, floors)
    return {"candidates": rows, "floors_us": floors}


def show_cpu(rows: Rows) -> None:
    names = NAMES["numpy"]
    lines = [
        (
            names[name], f"{row['median_ms']:.2f}", f"{row['min_ms']:.2f}", or_dash(row["ratio"], "{:.2f}"),
            f"{row['gflops']:.0f}", or_dash(row["of_peak"], "{:.0%}"), or_dash(row.get("peak_mb"), "{:.0f}"),
        )
        for name, row in rows.items() if "ms" in row and name != _CPU_PEAK
    ]  # fmt: skip
    show_table(("", "median ms", "min ms", "ratio", "GFLOP/s", "of peak", "MB"), lines)
    if "gflops" in rows.get(_CPU_PEAK, {}):
        say(f"peak: a 2048 x 2048 matmul at {rows[_CPU_PEAK]['gflops']:.0f} GFLOP/s")
    show_missing(rows, names)


def show_gpu(rows: Rows, floors: dict[str, float]) -> None:
    names = NAMES["cupy"]
    lines = [
        (
            names[name], f"{row['median_us']:.1f}", f"{row['min_us']:.1f}", or_dash(row["ratio"], "{:.2f}"),
            f"{row['s_per_100_epochs']:.2f}", or_dash(row.get("launches"), "{:.0f}"), or_dash(row["of_floors"], "{:.0%}"),
        )
        for name, row in rows.items() if "median_us" in row
    ]  # fmt: skip
    show_table(("", "median µs", "min µs", "ratio", "s/100 epochs", "launches", "floor/µs"), lines)
    if len(floors) == 2:
        say(
            f"floors: matmuls {floors['matmuls']:.1f} µs at the {rows[PEAK]['gflops'] / 1e3:.0f} TFLOP/s of one of {SIDE}²; "
            f"Adam {floors['adam']:.1f} µs at the {copy_rate(rows[COPY]) / 1e12:.2f} TB/s of a large copy"
        )
    show_missing(rows, names)
