"""The workers: Dask's, on the cores of this machine or wherever a scheduler has some."""

from __future__ import annotations

import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
from distributed import Client, Future, LocalCluster
from distributed.scheduler import KilledWorker

from npgan.errors import InputError, first_line
from npgan.sweep.examine import Outcome
from npgan.sweep.work import Processes, Work, difference, do, identity, remote_identity, stop_all

_SECONDS_TO_REACH = 10
_SECONDS_TO_ASK = 30
_SECONDS_WITHOUT = 10.0  # a worker of this machine; that long a nanny has to bring it back
_MOST_STARTS = 5  # of the workers of this machine: one that is killed while it starts spoils the start of all
_MOST_DEATHS = 10  # of workers under a run that gets no further


class SchedulerLost(RuntimeError):
    """The connection to the scheduler is gone. The runs are as they were when their workers noticed."""


class Workers:
    """Takes runs and gives outcomes. A run whose worker died goes to another one."""

    def __init__(self, client: Client, cluster: LocalCluster | None, wanted: int) -> None:
        self._client, self._cluster, self._wanted = client, cluster, wanted
        self._complete = time.monotonic()  # when all workers of this machine were there
        self.plugin = f"npgan-sweep-{uuid.uuid4().hex}"
        self._futures: dict[str, Future[Outcome]] = {}  # by folder
        self._deaths: dict[str, tuple[int | None, int]] = {}  # the step of the last one, and how many at it

    def count(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def check(self) -> int:
        """Raises InputError where a worker is not of this npgan. Returns how many there are."""
        ours = identity()
        try:
            found = self._client.run(remote_identity(), on_error="return")
        except (OSError, TimeoutError) as error:
            raise InputError(f"the workers do not answer: {first_line(error)}") from None
        for address, theirs in sorted(found.items()):
            if told := difference(theirs if isinstance(theirs, dict) else None, ours):
                raise InputError(f"worker {address} has {told}: install the same on every worker")
        return len(found)

    def start(self, work: Work) -> None:
        name = f"npgan-{uuid.uuid4().hex}"  # never one that the scheduler remembers
        self._futures[work.folder] = self._client.submit(do, work, key=name, pure=False)

    def prepare(self) -> None:
        """What every worker needs before it gets a run, also those that come later."""
        self._client.register_plugin(Processes(self.plugin, self._cluster is not None), name=self.plugin)

    def ended(self, work: Work, reached: Callable[[], int | None]) -> Outcome | None:
        """How the run ended; None while it has not. ``reached``: the step of its newest checkpoint. Raises SchedulerLost."""
        future = self._futures[work.folder]
        if self._client.status != "running" or future.status in ("cancelled", "lost"):
            raise SchedulerLost("the scheduler is gone")
        if future.status == "finished":
            outcome = future.result()
            return outcome if isinstance(outcome, Outcome) else Outcome("failed", f"a worker answered {outcome!r}")
        if future.status != "error":
            return None
        error = future.exception()
        if not isinstance(error, KilledWorker):
            return Outcome("failed", first_line(error) if error else "for no reason that is told")
        step = reached()
        last, deaths = self._deaths.get(work.folder, (-1, 0))
        self._deaths[work.folder] = step, (deaths + 1 if last == step else 1)
        if self._deaths[work.folder][1] >= _MOST_DEATHS:
            return Outcome("failed", "workers that take it up die, again and again")
        self.start(work)
        return None

    def keep_up(self) -> None:
        """On this machine: begins new workers in the place of those that have not come back."""
        now = time.monotonic()
        missing = self._wanted - self.count() if self._cluster else 0
        if missing <= 0:
            self._complete = now
        elif self._cluster and now - self._complete > _SECONDS_WITHOUT:
            self._cluster.scale(len(self._cluster.worker_spec) + missing)
            self._complete = now

    def stop(self) -> None:
        """Asks all trainings to save and to stop; tasks that have not begun are taken back."""
        with suppress(Exception):  # a worker may be dying
            self._client.run(stop_all, self.plugin, on_error="ignore")


@contextmanager
def workers(scheduler: str | None, count: int) -> Iterator[Workers]:
    """``count`` processes of this machine, or those of the scheduler. Raises InputError where it cannot be reached."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker or a scheduler that dies is told by us
    settings: dict[str, Any] = {"distributed.scheduler.allowed-failures": 100, "distributed.admin.log-length": 100}
    with dask.config.set(settings), ExitStack() as stack:
        if scheduler is not None:
            yield Workers(stack.enter_context(_reached(scheduler)), None, 0)
        else:
            with _no_interrupts():
                cluster = stack.enter_context(_local(count))
            yield Workers(stack.enter_context(Client(cluster, set_as_default=False)), cluster, count)


def _reached(scheduler: str) -> Client:
    try:
        return Client(scheduler, timeout=_SECONDS_TO_REACH, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise InputError(f"--scheduler {scheduler}: cannot be reached: {first_line(error)}") from None


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes that are started within ignore a Ctrl-C; for this one it is as before, after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _local(count: int) -> LocalCluster:
    """One run at a time on a worker: its training has threads of its own. Memory is the trainings', not the worker's."""
    for left in reversed(range(_MOST_STARTS)):
        try:
            return LocalCluster(
                n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0,
                silence_logs=logging.CRITICAL,
            )  # fmt: skip
        except RuntimeError:
            if not left:
                raise
    raise AssertionError
