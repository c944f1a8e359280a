"""What a worker does with a run: ``npgan train`` in a process of its own until it has ended, and then a look at it.

So each run is an ordinary one, to the same bytes as by hand. The process stops when its worker is gone (``child``); whoever
takes the run up next resumes it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Worker, WorkerPlugin, get_worker

from npgan import __version__
from npgan.engines.ranks import environment_without
from npgan.errors import InputError, one_line
from npgan.runs.folder import IN_USE
from npgan.sweep.examine import Outcome, checkpoint_step, diverged, examine, is_finished

_MOST_TRIES = 5  # of a run that gets no further: each ends in another way than a training does
_SECONDS_BETWEEN_LOOKS = 1.0  # at a run that another process has


class Work(NamedTuple):
    """A run for a worker, in words that mean the same on every machine."""

    folder: str
    epochs: int
    words: list[str]  # flags of npgan train, but for --out and --resume
    identity: dict[str, str]  # of the sweep's own npgan: another one would train to other bytes
    plugin: str  # the sweep's ``Processes`` on the worker


class Processes(WorkerPlugin):
    """The trainings that a worker has started: it ends them when it ends, or when the sweep does."""

    def __init__(self, name: str, in_terminal: bool) -> None:
        """``name``: of this sweep; a scheduler may have several. ``in_terminal``: whether a Ctrl-C there reaches the worker."""
        self.name, self._in_terminal = name, in_terminal
        self.stopping = False
        self.running: set[subprocess.Popen[bytes]] = set()

    def setup(self, worker: Worker) -> None:
        if self._in_terminal and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep has it too, and asks for an end in its own way

    def teardown(self, worker: Worker) -> None:
        self.stop()

    def stop(self) -> None:
        """Asks every training to save and to stop, and starts none from now on."""
        self.stopping = True
        for process in list(self.running):
            if process.stdin is not None:
                process.stdin.close()

    def train(self, words: list[str]) -> tuple[int, str]:
        """``npgan train``. Returns its exit status and the last line of what it complains of."""
        command = [sys.executable, "-m", "npgan.sweep.child", "train", "--quiet", *words]
        with tempfile.TemporaryFile() as said:
            # a session of its own: no Ctrl-C either
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True,
                env=environment_without(os.environ),
            )  # fmt: skip
            self.running.add(process)
            try:
                if self.stopping:
                    self.stop()
                status = process.wait()
            finally:
                self.running.discard(process)
                if process.stdin is not None:
                    process.stdin.close()
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        return status, one_line(lines[-1]).removeprefix("npgan train: error: ") if lines else ""


def stop_all(name: str, dask_worker: Worker) -> None:
    """For ``Client.run``."""
    plugin = dask_worker.plugins.get(name)
    if isinstance(plugin, Processes):
        plugin.stop()


def identity() -> dict[str, str]:
    """What must be the same on every worker: npgan to the letter, and what computes for it."""
    from importlib.metadata import PackageNotFoundError, version

    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    found = {"npgan": f"{__version__} (source {digest.hexdigest()[:8]})"}
    for name in ("numpy", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def difference(theirs: dict[str, str] | None, ours: dict[str, str]) -> str:
    """What a worker has that is not ours, such as "npgan 0.1 (…) and not 0.2 (…)"; "" where it is the same."""
    if theirs is None:
        return f"no npgan that sweeps, or one that does not load, and not {ours['npgan']}"
    return next(
        (f"{name} {theirs.get(name)} and not {wanted}" for name, wanted in ours.items() if theirs.get(name) != wanted),
        "",
    )


def do(work: Work) -> Outcome:
    """On a worker: the run to its end."""
    worker = get_worker()
    plugin = worker.plugins[work.plugin]
    assert isinstance(plugin, Processes)
    if told := difference(identity(), work.identity):
        return Outcome("failed", f"worker {worker.address} has {told}")
    return finish(work, plugin.train, lambda: plugin.stopping)


def finish(work: Work, train: Callable[[list[str]], tuple[int, str]], stopping: Callable[[], bool]) -> Outcome:
    """Trains what is missing. A process that ends in another way than a training does is begun again, and resumes."""
    folder, tries, furthest = Path(work.folder), 0, -1
    while True:
        if stopping():
            return Outcome("stopped")
        try:
            if is_finished(folder, work.epochs):
                return examine(folder)
            if found := diverged(folder):
                return found
        except InputError as error:
            return Outcome("failed", str(error))
        step = checkpoint_step(folder)
        status, said = train([*work.words, "--out" if step is None else "--resume", work.folder])
        if status in (1, 2) and IN_USE in said:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        elif status in (1, 2):
            return diverged(folder) or Outcome("failed", said)
        elif status == 0:
            return examine(folder)
        elif not stopping():
            reached = checkpoint_step(folder)
            tries = 0 if reached is not None and reached > furthest else tries + 1
            furthest = max(furthest, -1 if reached is None else reached)
            if tries >= _MOST_TRIES:
                return Outcome("failed", f"its process ended with status {status}, {tries} times at one place; {said}")


def remote_identity() -> Callable[[], Any]:
    """A function to send to workers that may have another npgan or none: dask sends one like this by its code."""

    def look() -> dict[str, str] | None:
        try:
            from npgan.sweep.work import identity

            return identity()
        except Exception:  # whatever goes wrong there, there is no npgan of ours
            return None

    return look
