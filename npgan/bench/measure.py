"""Takes the times: candidates in processes of their own that take turns, and tables of what came out."""

from __future__ import annotations

import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.table import Table

from npgan.console import Console, say
from npgan.errors import InputError

_PATIENCE = 300.0  # seconds for an answer of a candidate that is ready

Rows = dict[str, dict[str, Any]]  # for each candidate its times and what follows from them, or why it is "missing"


def check_names(flag: str, names: Collection[str], known: Collection[str]) -> None:
    """Raises InputError when one of the names is not known."""
    if unknown := set(names) - set(known):
        raise InputError(f"{flag} {', '.join(sorted(unknown))}: must be among {', '.join(known)}")


def measure(
    workers: Iterable[Worker], rounds: int, calls: int, base: str, peak: str, patience: float, pause: float = 0
) -> Rows:
    """So many ``rounds`` in which every candidate has a turn of so many ``calls``.

    ``base``: the candidate that others are put in a ratio to; ``peak``: the one whose rate is what can be reached;
    ``patience``: seconds that each may take to get ready, and those that the ones before it did not need; ``pause``: seconds
    before each turn.
    """
    started: dict[str, Worker] = {}
    rows: Rows = {}
    try:
        deadline = time.monotonic()
        for worker in workers:  # each is started when the one before is ready
            started[worker.name] = worker
            deadline += patience
            rows[worker.name] = worker.read(max(deadline - time.monotonic(), 0.0))
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
            row, ms = rows[name], times[name]
            if "missing" in row:
                continue
            row |= {"ms": ms, "median_ms": statistics.median(ms), "min_ms": min(ms)}
            row["gflops"] = row["flops"] / row["median_ms"] / 1e6
            row |= {key: value for key, value in worker.ask("end").items() if key != "missing"}
    finally:
        for worker in started.values():
            worker.stop()
    for row in rows.values():
        if "ms" in row:
            row["of_peak"] = row["gflops"] / rows[peak]["gflops"] if "ms" in rows.get(peak, {}) else None
            row["ratio"] = row["median_ms"] / rows[base]["median_ms"] if "ms" in rows.get(base, {}) else None
    return rows


@contextmanager
def busy_machine(count: int) -> Iterator[None]:
    """So many processes compute all the time meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Worker:
    """A candidate's process. An answer is {"missing": why} when it has ended, or does not answer in time."""

    def __init__(self, name: str, batch: int, threads: int) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - what it writes to standard error, until stop()
        command = [sys.executable, "-m", "npgan.bench.worker", name, str(batch), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        # a thread reads: on Windows nobody can wait for a pipe with a limit. It sleeps while the candidate works
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end

    def ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        except OSError:  # a broken pipe; Windows calls it otherwise
            return self._ended()
        return self.read(_PATIENCE)

    def read(self, patience: float) -> dict[str, Any]:
        """``patience``: seconds to wait."""
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            self._process.kill()  # or it would go on working beside the others
            return {"missing": f"no answer in {patience:.0f} s"}
        if not line:
            return self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # a question that nobody read
                    stream.close()
        self._said.close()

    def _ended(self) -> dict[str, Any]:
        status = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return {"missing": f"its process ended with status {status}: {lines[-1] if lines else ''}"[:200]}


def show_table(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    """Prints it, whole also where nobody knows the width. All columns but the first are figures."""
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    Console(width=200).print(table)


def show_missing(rows: Rows, names: dict[str, str]) -> None:
    for name, row in rows.items():
        if "missing" in row:
            say(f"missing: {names.get(name, name)}: {row['missing']}")


def or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
