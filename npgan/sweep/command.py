"""The job behind ``npgan sweep``: what is missing is run, wherever there are workers, and all of it is told of."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from npgan.backend import select
from npgan.console import Console, say
from npgan.data.mnist import first_images, load_dataset
from npgan.engines import Compute, choose
from npgan.engines.cpu.blas import available_cores
from npgan.errors import InputError
from npgan.runs.folder import IN_USE, Keeping, RunFolder
from npgan.runs.resume import resumed_config
from npgan.sweep.display import Display, Progress
from npgan.sweep.examine import Outcome, checkpoint_step
from npgan.sweep.plan import Fields, Plan, Run, flags_of, make_plan, runs_of

LOCK_FILE = "sweep.lock"
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_STOP = 60.0  # in which trainings save; what does not, is resumed from the checkpoint before


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    file: Path | None = None
    given: Fields = field(default_factory=dict)  # of TrainConfig, and preset: for all runs
    sets: Sequence[str] = ()
    seeds: str | None = None
    out: Path | None = None
    dataset: str = "auto"
    data_dir: Path | None = None
    scheduler: str | None = None
    workers: int | None = None
    threads: int | None = None
    backend: str = "auto"
    kernels: str = "auto"
    keeping: Keeping = Keeping()
    quiet: bool = False


def sweep(options: Options) -> int:
    """Runs what is missing, and writes sweep.json, .md, .html and .png on what has ended. Returns 0 when all has, 1 when a run
    failed. Raises InputError for the user's mistakes, before anything is started; KeyboardInterrupt when all is saved."""
    try:
        from npgan.sweep.cluster import SchedulerLost, workers
        from npgan.sweep.report import write_report
        from npgan.sweep.work import Work, identity
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'npgan[sweep]'") from None
    console = Console(quiet=options.quiet)
    plan = make_plan(options.file, options.given, options.sets, options.seeds)
    out = options.out or Path("runs") / (options.file.stem if options.file else "sweep")
    runs, data_dir, count, threads = _checked(plan, options, out)
    for problem in _conflicts(runs):
        raise InputError(problem)
    with workers(options.scheduler, count) as found, ExitStack() as stack:
        many = found.check()
        stack.enter_context(_locked(out))
        stack.enter_context(_terminable())
        found.prepare()
        where = f"at {options.scheduler}" if options.scheduler else "on this machine"
        share = f"{threads} thread{'s' if threads != 1 else ''} a run"
        console.print(
            f"{len(runs)} runs in {out}, {many} worker{'s' if many != 1 else ''} {where}, {share}", soft_wrap=True
        )
        if not many:
            say("there are no workers yet: waiting for some", to_stderr=True)
        ours = identity()
        works = {
            run: Work(str(run.folder), run.config.epochs, _words(run, options, data_dir, threads), ours, found.plugin)
            for run in runs
        }
        progress = [Progress(run) for run in runs]
        ended_by: BaseException | None = None
        with Display(progress, console, options.quiet) as display:
            try:
                for run in runs:
                    found.start(works[run])
                while any(each.outcome is None for each in progress):
                    for each in progress:
                        if each.outcome is None:
                            each.outcome = found.ended(works[each.run], partial(checkpoint_step, each.run.folder))
                    found.keep_up()
                    display.show()
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
            except KeyboardInterrupt as stop:
                found.stop()
                _wait_for_the_rest(progress)
                ended_by = KeyboardInterrupt(f"{str(stop) or 'stopped'}, {display.summary()}; {_GO_ON}")
            except SchedulerLost as error:
                ended_by = RuntimeError(f"{error}, {display.summary()}; {_GO_ON}")
    outcomes: dict[Run, Outcome] = {each.run: each.outcome for each in progress if each.outcome}
    written = write_report(out, plan, outcomes, console)
    for run, outcome in outcomes.items():
        if not outcome.ended:
            say(f"{run.name}: {outcome.state}: {outcome.message}", to_stderr=True)
    if ended_by is not None:
        raise ended_by
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
    return 0 if all(outcome.ended for outcome in outcomes.values()) else 1


_GO_ON = "the same command goes on from here"


def _wait_for_the_rest(progress: Sequence[Progress]) -> None:
    """Until those that train have saved; those that wait need not be waited for."""
    end = time.perf_counter() + _SECONDS_TO_STOP
    while time.perf_counter() < end and any(each.outcome is None and each.folder.holder() for each in progress):
        time.sleep(_SECONDS_BETWEEN_LOOKS / 5)


def _checked(plan: Plan, options: Options, out: Path) -> tuple[list[Run], Path | None, int, int]:
    """Runs, folder of the data, workers and threads of a run. Raises InputError."""
    options.keeping.check()
    cores = available_cores()
    if options.workers is not None and options.scheduler is not None:
        raise InputError("--workers is how many to start on this machine: leave it out with --scheduler")
    count = min(cores, len(plan.settings) * len(plan.seeds)) if options.workers is None else options.workers
    if not 1 <= count <= 1024:
        raise InputError(f"--workers must be from 1 to 1024, got {count}")
    threads = options.threads or (1 if options.scheduler else max(1, cores // count))
    data_dir = options.data_dir.resolve() if options.data_dir else None
    data = load_dataset(options.dataset, data_dir, report=lambda line: say(line, to_stderr=True), labels=False)
    runs = runs_of(plan, data.name, out)
    for setting in plan.settings:
        first_images(data, next(run.config.train_images for run in runs if run.setting == setting))
    if options.scheduler is None:  # kernels are compiled once, before many processes would want to
        choose(
            Compute(options.backend, kernels=options.kernels),
            select(options.backend),
            lambda line: say(line, to_stderr=True),
        )
    return runs, data_dir, count, threads


def _conflicts(runs: Sequence[Run]) -> Iterator[str]:
    """Folders that hold other runs than these, a line each."""
    for run in runs:
        if checkpoint_step(run.folder) is None:
            RunFolder(run.folder).check_free(overwrite=False)
        elif (saved := RunFolder(run.folder).read_config()) is not None:
            try:
                resumed_config(
                    saved, {n: v for n, v in run.config.to_dict().items() if n != "dataset"}, run.config.dataset
                )
            except InputError as error:
                yield f"{run.folder}: holds another run: {str(error).removeprefix('--resume: ')}; name another --out"


def _words(run: Run, options: Options, data_dir: Path | None, threads: int) -> list[str]:
    words = [
        *flags_of(run.config),
        "--threads",
        str(threads),
        "--backend",
        options.backend,
        "--kernels",
        options.kernels,
    ]
    every, last = options.keeping
    for flag, value in (("--data-dir", data_dir), ("--checkpoint-every", every), ("--keep", last)):
        words += [] if value is None else [flag, str(value)]
    return words


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One sweep at a time has the folder. Raises InputError."""
    from filelock import FileLock, Timeout

    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / LOCK_FILE, timeout=0):
            yield
    except Timeout:
        raise InputError(f"{out}: {IN_USE} another sweep") from None


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP are taken like a Ctrl-C: all is saved first."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
