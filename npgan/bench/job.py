"""The command ``npgan bench``: runs the contestants in turn, shows a table, writes JSON."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgan import blas
from npgan.errors import InputError

BASE = "npgan fused"  # the ratios are to this one
NAMES = {
    BASE: "npgan, fused kernels",
    "npgan reference": "npgan, reference",
    "products rows": "products only, rows",
    "products columns": "products only, columns",
    "torch eager": "PyTorch, eager",
    "torch compiled": "PyTorch, compiled",
    "jax step": "JAX, jitted step",
    "jax scan": "JAX, lax.scan",
}
_PEAK = "peak"  # a 2048² product: what this machine can do at best
_COLUMNS = ("", "median ms", "min ms", "ratio", "GFLOP/s", "of peak", "MB")


def bench(
    products: blas.Products,
    batch_sizes: list[int],
    rounds: int = 15,
    calls: int = 10,
    only: list[str] | None = None,
    json_path: Path | None = None,
    profile: bool = False,
) -> int:
    """Measures and prints; returns the exit status. ``rounds``: turns of every contestant; ``calls``: of it in a turn.

    Each contestant is a process of its own, because the thread pools of OpenBLAS, PyTorch and XLA slow each other down
    within one; they take turns, so that a change of the machine's speed hits all of them alike. Raises InputError.
    """
    if rounds < 1 or calls < 1 or any(size < 1 for size in batch_sizes):
        raise InputError("--rounds, --calls and --batch-sizes must be at least 1")
    if unknown := set(only or []) - set(NAMES):
        raise InputError(f"--only {', '.join(sorted(unknown))}: must be among {', '.join(NAMES)}")
    if profile:
        from npgan.bench.profile import show_profile

        show_profile(batch_sizes[0], products)
        return 0
    report: dict[str, Any] = {"machine": _machine(), "products": products.describe(), "rounds": rounds, "calls": calls}
    print(f"{report['machine']}; {report['products']}")
    report["batch_sizes"] = {}
    for batch in batch_sizes:
        print(f"\nbatch {batch}, milliseconds per iteration (a D step and a G step), {rounds} turns of {calls}")
        rows = measure([*(only or NAMES), _PEAK], batch, products.threads, rounds, calls)
        report["batch_sizes"][str(batch)] = rows
        _show(rows)
    if json_path is not None:
        try:
            json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"--json {json_path}: cannot be written: {error.strerror}") from None
    return 0


def measure(names: list[str], batch: int, threads: int, rounds: int, calls: int) -> dict[str, dict[str, Any]]:
    """For each contestant: its times and what follows from them, or why it is missing."""
    workers: dict[str, _Worker] = {}
    rows: dict[str, dict[str, Any]] = {}
    try:
        for name in names:
            worker = _Worker(name, batch, threads)
            workers[name] = worker
            rows[name] = worker.read()
        running = {name: worker for name, worker in workers.items() if "missing" not in rows[name]}
        times: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(rounds):
            for name, worker in running.items():
                times[name] += worker.ask(str(calls if name != _PEAK else 2))["ms"]
        for name, worker in running.items():
            rows[name] |= {"ms": times[name], "median_ms": statistics.median(times[name]), "min_ms": min(times[name])}
            rows[name] |= worker.ask("end")
            rows[name]["gflops"] = rows[name]["flops"] / rows[name]["median_ms"] / 1e6
    finally:
        for worker in workers.values():
            worker.stop()
    for row in rows.values():
        if "ms" in row:
            row["of_peak"] = row["gflops"] / rows[_PEAK]["gflops"] if "ms" in rows.get(_PEAK, {}) else None
            row["ratio"] = row["median_ms"] / rows[BASE]["median_ms"] if "ms" in rows.get(BASE, {}) else None
    return rows


class _Worker:
    """A contestant's process."""

    def __init__(self, name: str, batch: int, threads: int) -> None:
        self.name = name
        command = [sys.executable, "-m", "npgan.bench.worker", name, str(batch), str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, question: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name!r} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def _show(rows: dict[str, dict[str, Any]]) -> None:
    table = [_COLUMNS]
    missing = []
    for name, row in rows.items():
        if "missing" in row:
            missing.append(f"{NAMES.get(name, name)}: {row['missing']}")
        elif name != _PEAK:
            table.append((
                NAMES[name], f"{row['median_ms']:.2f}", f"{row['min_ms']:.2f}", _or_dash(row["ratio"], "{:.2f}".format),
                f"{row['gflops']:.0f}", _or_dash(row["of_peak"], "{:.0%}".format), f"{row['peak_mb']:.0f}",
            ))  # fmt: skip
    widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))]
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print(first.ljust(widths[0]), *cells, sep="  ")
    if "gflops" in rows.get(_PEAK, {}):
        print(f"peak: a 2048 x 2048 product at {rows[_PEAK]['gflops']:.0f} GFLOP/s")
    for line in missing:
        print(f"missing: {line}")


def _or_dash(value: float | None, shown: Callable[[float], str]) -> str:
    return "-" if value is None else shown(value)


def _machine() -> str:
    from npgan.backend import select

    return select("numpy").device
