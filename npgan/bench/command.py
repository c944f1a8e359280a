"""The command ``npgan bench``: runs the contestants in turn, shows a table, writes JSON."""

from __future__ import annotations

import json
import math
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from npgan.engines.cpu import blas
from npgan.errors import InputError

BASE = "npgan fused"  # the ratios are to this one
NAMES = {
    BASE: "npgan, fused kernels",
    "npgan blas": "npgan, fused, BLAS",
    "npgan reference": "npgan, reference",
    "products own": "products only, npgan",
    "products columns": "products only, BLAS",
    "products rows": "products, BLAS, rows",
    "torch eager": "PyTorch, eager",
    "torch compiled": "PyTorch, compiled",
    "jax step": "JAX, jitted step",
    "jax scan": "JAX, lax.scan",
}
_PEAK = "peak"  # a 2048² product: what this machine can do at best
_PAUSE = 0.1  # seconds before a turn: the threads of the one before wait by spinning, OpenBLAS's for 30 ms
_COLUMNS = ("", "median ms", "min ms", "ratio", "GFLOP/s", "of peak", "MB")


def bench(
    products: blas.Products,
    batch_sizes: list[int],
    backend: str = "numpy",
    precisions: list[str] | None = None,
    rounds: int = 15,
    calls: int | None = None,
    only: list[str] | None = None,
    patience: float = 300.0,
    patience_in_all: float | None = None,
    json_path: Path | None = None,
    profile: bool = False,
) -> int:
    """Measures and prints; returns the exit status. ``rounds``: turns of every contestant; ``calls``: of it in a turn.

    ``precisions``: of products on a GPU, a table for each. ``patience``: seconds that a contestant may take to get ready;
    ``patience_in_all``: those of a table.

    Each contestant is a process of its own, because the thread pools of OpenBLAS, PyTorch and XLA slow each other down
    within one; they take turns, so that a change of the machine's speed hits all of them alike. Raises InputError.
    """
    if rounds < 1 or (calls is not None and calls < 1) or any(size < 1 for size in batch_sizes):
        raise InputError("--rounds, --calls and --batch-sizes must be at least 1")
    if backend == "cupy":
        from npgan.bench.gpu import PRECISIONS, bench_gpu

        precisions = precisions or list(PRECISIONS)
        check_names("--precisions", precisions, PRECISIONS)
        if profile:
            from npgan.bench.gpu_profile import show_gpu_profile

            show_gpu_profile(batch_sizes[0], precisions[0])
            return 0
        report = bench_gpu(batch_sizes, precisions, rounds, calls or 3, only, patience, patience_in_all)
    elif precisions:
        raise InputError("--precisions needs a GPU: use --backend cupy")
    elif profile:
        from npgan.bench.profile import show_profile

        show_profile(batch_sizes[0], products)
        return 0
    else:
        report = _bench_cpu(products, batch_sizes, rounds, calls or 10, only, patience, patience_in_all)
    if json_path is not None:
        try:
            json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"--json {json_path}: cannot be written: {error.strerror}") from None
    return 0


def _bench_cpu(
    products: blas.Products,
    batch_sizes: list[int],
    rounds: int,
    calls: int,
    only: list[str] | None,
    patience: float,
    patience_in_all: float | None,
) -> dict[str, Any]:
    check_names("--only", only or [], NAMES)
    report: dict[str, Any] = {"machine": _machine(), "products": products.describe(), "rounds": rounds, "calls": calls}
    print(f"{report['machine']}; {report['products']}")
    report["batch_sizes"] = {}
    for batch in batch_sizes:
        print(f"\nbatch {batch}, milliseconds per iteration (a D step and a G step), {rounds} turns of {calls}")
        workers = (Worker(name, batch, products.threads, patience) for name in [*(only or NAMES), _PEAK])
        rows = measure(workers, rounds, calls, BASE, _PEAK, patience_in_all, _PAUSE)
        report["batch_sizes"][str(batch)] = rows
        _show(rows)
    return report


def check_names(flag: str, names: Collection[str], known: Collection[str]) -> None:
    """Raises InputError when one of the names is not known."""
    if unknown := set(names) - set(known):
        raise InputError(f"{flag} {', '.join(sorted(unknown))}: must be among {', '.join(known)}")


def measure(
    workers: Iterable[Worker],
    rounds: int,
    calls: int,
    base: str,
    peak: str,
    patience_in_all: float | None = None,
    pause: float = 0,
) -> dict[str, dict[str, Any]]:
    """For each contestant: its times and what follows from them, or why it is missing.

    ``base``: the contestant that others are put in a ratio to; ``peak``: the one whose rate is what can be reached;
    ``patience_in_all``: seconds until all have to be ready; ``pause``: seconds before each turn.
    """
    started: dict[str, Worker] = {}
    rows: dict[str, dict[str, Any]] = {}
    try:
        began = time.monotonic()
        for worker in workers:  # each is started when the one before is ready
            started[worker.name] = worker
            left = math.inf if patience_in_all is None else began + patience_in_all - time.monotonic()
            rows[worker.name] = worker.read(max(left, 0.0))
        times: dict[str, list[float]] = {name: [] for name in started}
        for _ in range(rounds):
            for name, worker in started.items():
                if "missing" in rows[name]:
                    continue
                time.sleep(pause)
                answer = worker.ask(str(calls if not name.endswith("peak") else 2))
                rows[name] |= {key: value for key, value in answer.items() if key == "missing"}
                times[name] += answer.get("ms", [])
        for name, worker in started.items():
            if "missing" in rows[name]:
                continue
            rows[name] |= {"ms": times[name], "median_ms": statistics.median(times[name]), "min_ms": min(times[name])}
            rows[name]["gflops"] = rows[name]["flops"] / rows[name]["median_ms"] / 1e6
            rows[name] |= {key: value for key, value in worker.ask("end").items() if key != "missing"}
    finally:
        for worker in started.values():
            worker.stop()
    for row in rows.values():
        if "ms" in row:
            row["of_peak"] = row["gflops"] / rows[peak]["gflops"] if "ms" in rows.get(peak, {}) else None
            row["ratio"] = row["median_ms"] / rows[base]["median_ms"] if "ms" in rows.get(base, {}) else None
    return rows


class Worker:
    """A contestant's process. An answer is {"missing": why} when it has ended, or does not answer in time."""

    def __init__(self, name: str, batch: int, threads: int, patience: float) -> None:
        """``patience``: seconds to wait for any answer."""
        self.name = name
        self._patience = patience
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - what it writes to standard error, until stop()
        command = [sys.executable, "-m", "npgan.bench.worker", name, str(batch), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )

    def ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._ended()
        return self.read()

    def read(self, most: float = math.inf) -> dict[str, Any]:
        """``most``: seconds to wait, if that is less than its patience."""
        assert self._process.stdout is not None
        seconds = min(self._patience, most)
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            self._process.kill()  # or it would go on working beside the others
            return {"missing": f"no answer in {seconds:.0f} s"}
        line = self._process.stdout.readline()
        if not line:
            return self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _ended(self) -> dict[str, Any]:
        status = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return {"missing": f"its process ended with status {status}: {lines[-1] if lines else ''}"[:200]}


def _show(rows: dict[str, dict[str, Any]]) -> None:
    table = [_COLUMNS]
    for name, row in rows.items():
        if "ms" in row and name != _PEAK:
            table.append((
                NAMES[name], f"{row['median_ms']:.2f}", f"{row['min_ms']:.2f}", or_dash(row["ratio"], "{:.2f}"),
                f"{row['gflops']:.0f}", or_dash(row["of_peak"], "{:.0%}"), f"{row['peak_mb']:.0f}",
            ))  # fmt: skip
    print_table(table)
    if "gflops" in rows.get(_PEAK, {}):
        print(f"peak: a 2048 x 2048 product at {rows[_PEAK]['gflops']:.0f} GFLOP/s")
    print_missing(rows, NAMES)


def print_table(table: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print(first.ljust(widths[0]), *cells, sep="  ")


def print_missing(rows: dict[str, dict[str, Any]], names: dict[str, str]) -> None:
    for name, row in rows.items():
        if "missing" in row:
            print(f"missing: {names.get(name, name)}: {row['missing']}")


def or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _machine() -> str:
    from npgan.backend import select

    return select("numpy").device
