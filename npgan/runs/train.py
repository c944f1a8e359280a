"""The job behind ``npgan train``: data in, training, and everything that goes on screen and disk."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import numpy as np

from npgan.backend import Backend, select, to_numpy
from npgan.config import TrainConfig
from npgan.console import say
from npgan.data.batches import iterations_per_epoch
from npgan.data.mnist import Dataset, fingerprint, first_images, load_dataset
from npgan.engines import Choice, Compute, Report, choose, notice
from npgan.engines.base import Engine
from npgan.errors import InputError
from npgan.gan import StepMetrics, TrainState, new_state
from npgan.runs.checkpoint import Checkpoint, NotFinite, load, load_into, restore
from npgan.runs.colormaps import COLORMAP
from npgan.runs.display import TrainingDisplay
from npgan.runs.folder import Keeping, RunFolder, newest_run
from npgan.runs.health import (
    CollapseWatch,
    TrainingDiverged,
    diagnosis,
    first_non_finite,
    samples_alike,
    spread,
    what_is_normal,
)  # fmt: skip
from npgan.runs.output import RunLog, unfailing_output
from npgan.runs.resume import file_config, resumed_config, what_changed
from npgan.runs.sample import noise_vectors

RUNS = Path("runs")
SAMPLE_GRID = 64  # images in a PNG of samples, always from the same noise
SECONDS_BETWEEN_CHECKPOINTS = 60.0  # besides milestones and the end; one takes about 0.2 s
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2")  # the last by batch systems
SECONDS_PER_CALL = 0.1  # of the engine: so long a Ctrl-C waits, and so often the display is told

Recent = Sequence[tuple[int, list[float]]]  # the last iterations: step, StepMetrics


class RunFailed(RuntimeError):
    """The disk or the machine stopped the run. What was saved before is as it was."""


class DataChoice(NamedTuple):
    """Which images."""

    dataset: str = "auto"  # auto, mnist or digits
    folder: Path | None = None  # of MNIST's files


class FolderChoice(NamedTuple):
    """Which run folder."""

    out: Path | None = None  # of a new run; None: a name with the date
    resume: Path | bool = False  # a run folder, or True for the one that trained last; False: a new run
    overwrite: bool = False


@dataclass(frozen=True)
class Request:
    """What the command line asks for. A resumed run keeps what is not given here."""

    config: dict[str, Any] = field(default_factory=dict)  # the fields of TrainConfig that were given
    data: DataChoice = DataChoice()
    folder: FolderChoice = FolderChoice()
    compute: Compute = field(default_factory=Compute)
    keeping: Keeping = Keeping()
    quiet: bool = False
    colormap: str = COLORMAP  # of previews and the animation


class Observer(Protocol):
    """Evaluates a run while it trains."""

    def observe(self, state: TrainState, epoch: int) -> str:
        """Measures and writes. Returns a line that says what came out. ``state`` is left as it is."""


Observe = Callable[[RunFolder, str, Path | None, Backend, int, Report], Observer]


@dataclass
class _Job:
    """A run that is ready to start or to be resumed."""

    run: RunFolder
    config: TrainConfig
    runtime: dict[str, Any]  # how it is run: what a checkpoint records besides the config
    keeping: Keeping
    backend: Backend
    data: Dataset
    state: TrainState
    engine: Engine
    display: TrainingDisplay
    watch: CollapseWatch  # which has seen the epochs done
    told: set[str]  # the signs that it has found
    totals: np.ndarray  # sums of StepMetrics over the unfinished epoch, float64

    @property
    def per_epoch(self) -> int:
        return iterations_per_epoch(len(self.data.images), self.config.batch_size)

    def save(self) -> None:
        """Raises OSError and, when a tensor is not finite, TrainingDiverged."""
        milestone_steps = self.config.milestone_period * self.per_epoch
        try:
            self.run.save_checkpoint(
                self.state, self.config, self.runtime, self.totals, self.keeping.most, milestone_steps
            )
        except NotFinite as error:
            raise _diverged(self, ("state", str(error)), ()) from None


def train(request: Request, observe: Observe | None = None) -> int:
    """Trains and returns the exit status: 0, or 128 + the signal that asked to stop, after saving a checkpoint.

    ``observe`` makes what ``--eval-every`` evaluates with. Raises InputError for the user's mistakes, TrainingDiverged and
    RunFailed. What is said is also in the run's log, and that it cannot be shown is no reason to stop.
    """
    log = RunLog()
    with unfailing_output(log):
        try:
            return _start_and_train(request, observe, log)
        except Exception as error:
            log(f"error: {error}")
            raise


def _start_and_train(request: Request, observe: Observe | None, log: RunLog) -> int:
    report, warn = _reporter(request.quiet, log), _reporter(False, log)
    with ExitStack() as stack:
        job = (_resumed_job if request.folder.resume else _new_job)(request, stack, report, warn, log)
        run, config = job.run, job.config
        try:
            observer = None
            if config.eval_every is not None and observe is not None:
                folder = Path(job.runtime["data_dir"]) if job.runtime["data_dir"] else None
                observer = observe(run, job.data.name, folder, job.backend, job.state.step, report)
            if not request.folder.resume:
                run.begin(job.state, config, job.runtime, job.totals, warn)  # from now on there is something to resume
            log.open(run.log_file)
            log(f"process {os.getpid()} trains from step {job.state.step}")
            run.write_config(config)
            return _train(job, observer)
        except OSError as error:
            what = f"{error.filename or run.path}: {error.strerror or error}; "
            if run.last_saved is None:
                raise RunFailed(f"{what}the run has not begun, and what {run.path} held is as it was") from None
            raise RunFailed(
                f"{what}stopped after step {job.state.step}, the last checkpoint is {run.last_saved}, "
                f"resume with --resume {run.path}"
            ) from None


def _new_job(request: Request, stack: ExitStack, report: Report, warn: Report, log: RunLog) -> _Job:
    asked, folder = TrainConfig(dataset="digits", **request.config), request.folder  # bad flags are told before loading
    request.keeping.check()
    backend = _backend(request.compute, request.compute, asked)
    data = load_dataset(*request.data, report=report, labels=False)
    config = replace(asked, dataset=data.name)
    data = first_images(data, config.train_images)
    path = folder.out or _new_run_path(data.name, stack)
    RunFolder(path).check_free(folder.overwrite)
    display = _display(request, config, data, 0, log)
    with _first_use(backend, display, report):
        state = new_state(config, backend)
    _introduce(display, config, request.keeping, backend, data, state, path)
    choice = _choice(request.compute, request.compute, backend, display, report)
    run = RunFolder.create(path, folder.overwrite)
    stack.enter_context(run.locked(warn))
    run.settle()
    run.check_free(folder.overwrite)  # by now another process may have made one
    runtime = _runtime(request.compute, backend, choice, request.keeping, request.data.folder, data)
    engine = choice.start(state, backend.to_device(data.images), config)
    totals = np.zeros(len(StepMetrics._fields))
    watch = _watch(config, data, state)
    return _Job(run, config, runtime, request.keeping, backend, data, state, engine, display, watch, set(), totals)


def _resumed_job(request: Request, stack: ExitStack, report: Report, warn: Report, log: RunLog) -> _Job:
    asked = request.folder.resume
    run = RunFolder.open_existing(newest_run(RUNS) if isinstance(asked, bool) else asked)
    run.check_files(checkpoints=False)
    stack.enter_context(run.locked(warn))
    checkpoint, config, folder, data = _recovered(run, request, report, warn)
    before = checkpoint.runtime
    keeping = run.keeping(checkpoint).updated(request.keeping)
    compute = request.compute.as_before(before)
    backend = _backend(compute, request.compute, config)
    if fingerprint(data) != before.get("data_sha256"):
        raise InputError(f"--resume {run.path}: the images are not those that the run was trained on ({data.source})")
    display = _display(request, config, data, checkpoint.step, log)
    with _first_use(backend, display, report):
        state = restore(checkpoint, backend)
    _introduce(display, config, keeping, backend, data, state, run.path)
    choice = _choice(compute, request.compute, backend, display, report)
    epochs_done = state.step // iterations_per_epoch(len(data.images), config.batch_size)
    watch, told = _watch(config, data, state), set[str]()
    run.cut_metrics(state.step, epochs_done, warn, lambda line: told.update(watch.epoch(line)))
    runtime = _runtime(compute, backend, choice, keeping, folder, data)
    if changed := what_changed(before, runtime):
        warn(changed)
    engine = choice.start(state, backend.to_device(data.images), config)
    totals = np.array(checkpoint.epoch_totals)
    return _Job(run, config, runtime, keeping, backend, data, state, engine, display, watch, told, totals)


def _watch(config: TrainConfig, data: Dataset, state: TrainState) -> CollapseWatch:
    per_epoch = iterations_per_epoch(len(data.images), config.batch_size)
    return CollapseWatch(per_epoch, config, state.generator.parameters.size)


def _recovered(
    run: RunFolder, request: Request, report: Report, warn: Report
) -> tuple[Checkpoint, TrainConfig, Path | None, Dataset]:
    """The checkpoint to resume from, the run's config and its images. Where a run ends is known with these only."""
    most_steps = None
    while True:
        checkpoint = run.recover(warn, most_steps)
        config = resumed_config(file_config(run, checkpoint), request.config, request.data.dataset)
        recorded = checkpoint.runtime.get("data_dir")
        folder = request.data.folder or (Path(recorded) if recorded else None)
        data = first_images(load_dataset(config.dataset, folder, report=report, labels=False), config.train_images)
        most_steps = config.epochs * iterations_per_epoch(len(data.images), config.batch_size)
        if checkpoint.step <= most_steps:
            return checkpoint, config, folder, data


def _backend(compute: Compute, asked: Compute, config: TrainConfig) -> Backend:
    """The backend for ``compute``, of which some may be as before and not as ``asked``. Raises InputError."""
    if compute.precision == "tf32" and config.eval_every is not None:
        raise InputError(
            "--eval-every measures in float32, so not with --precision tf32: npgan evaluate can, afterwards"
        )
    backend = select(compute.backend, compute.precision or "fp32")
    return backend if compute.backend == asked.backend else replace(backend, reason="as before")


def _choice(compute: Compute, asked: Compute, backend: Backend, display: TrainingDisplay, report: Report) -> Choice:
    """The engine for ``compute``, likewise. Compiling it is shown, and then what was chosen. Raises InputError."""
    with display.preparing(report) as (say, progress):
        choice = choose(compute, backend, say, progress)
    if compute.kernels != asked.kernels:
        choice = replace(choice, reason="as before")
    kernels = f"{choice.name}, {compute.precision or 'fp32'} ({choice.reason})"
    display.header([("kernels", kernels), *([("matmul", choice.gemm)] if choice.gemm else [])])
    return choice


def _display(request: Request, config: TrainConfig, data: Dataset, step: int, log: RunLog) -> TrainingDisplay:
    per_epoch = iterations_per_epoch(len(data.images), config.batch_size)
    return TrainingDisplay(config.epochs, per_epoch, step, quiet=request.quiet, colormap=request.colormap, log=log)


@contextmanager
def _first_use(backend: Backend, display: TrainingDisplay, report: Report) -> Iterator[None]:
    """The textbook on CuPy compiles a kernel for every kind of operation, when it first meets it."""
    with display.preparing(report) as (say, _):
        compiling = notice(say, "CuPy compiles its kernels: once on this machine, up to a minute")
        with compiling if backend.name == "cupy" else nullcontext():
            yield


def _introduce(
    display: TrainingDisplay,
    config: TrainConfig,
    keeping: Keeping,
    backend: Backend,
    data: Dataset,
    state: TrainState,
    path: Path,
) -> None:
    """All that is known before there is an engine."""
    per_epoch = iterations_per_epoch(len(data.images), config.batch_size)
    g, d = state.generator.parameters.size, state.discriminator.parameters.size
    start = f", from step {state.step}" if state.step else ""
    normal = what_is_normal(config, len(data.images), state.step // per_epoch)
    display.header(
        [
            ("backend", f"{backend.name} ({backend.reason})"),
            ("device", backend.device),
            ("parameters", f"{g:,} generator + {d:,} discriminator"),
            ("data", f"{data.name}, {len(data.images):,} images: {data.source}"),
            ("training", f"{config.epochs} epochs of {per_epoch}{start}"),
            *([("normal", normal)] if normal else []),
            ("seed", str(config.seed)),
            ("run folder", str(path)),
            ("checkpoints", keeping.describe(config.milestone_period)),
        ]
    )


def _runtime(
    compute: Compute, backend: Backend, choice: Choice, keeping: Keeping, data_dir: Path | None, data: Dataset
) -> dict[str, Any]:
    return {
        "backend": backend.name,
        "precision": compute.precision or "fp32",
        "kernels": choice.name,
        "gemm": choice.sums,
        "data_dir": str(data_dir.resolve()) if data_dir else None,
        "data_sha256": fingerprint(data),
        **({} if compute.workers == "one" else {"workers": compute.workers}),
        **keeping.to_runtime(),
    }


def _train(job: _Job, observer: Observer | None) -> int:
    run, config, state = job.run, job.config, job.state
    with (
        job.display as display,
        _stop_signals() as stopped_by,
        np.errstate(all="ignore"),  # a number that is not finite stops the run, in one line that says more
    ):
        interrupted = _train_loop(job, stopped_by, observer)
        display.curves(run.read_metrics())
        if interrupted:
            display.done([("stopped", f"after step {state.step}"), ("resume with", f"--resume {run.path}")])
            return 128 + interrupted
        rows = [("run", str(run.path)), ("samples", str(run.sample_path(config.epochs)))]
        try:
            run.save_animation(run.animation_file, display.colormap)
            rows.append(("animation", str(run.animation_file)))
        except InputError as error:  # one of the pictures was spoiled
            display.warn(f"no animation: {error}")
        display.done(rows)
    return 0


def _train_loop(job: _Job, stopped_by: Callable[[], int], observer: Observer | None) -> int:
    """Runs the iterations, and after each epoch what belongs to it. Returns the signal that stopped it, or 0."""
    config, state, totals = job.config, job.state, job.totals
    display = job.display
    count, per_epoch = len(job.data.images), job.per_epoch
    recent: deque[tuple[int, list[float]]] = deque(maxlen=20)
    epoch_start = last_save = time.perf_counter()
    steps_here = 0  # of this epoch, in this process
    together, ahead = 1, 0  # iterations in a call of the engine, and those that the last call has started besides
    while state.step < config.epochs * per_epoch:
        call_start = time.perf_counter()
        wanted = ahead or min(together, per_epoch - state.step % per_epoch)
        epoch, rest = divmod(state.step + wanted, per_epoch)
        due = rest == 0 and _due(job, epoch, last_save)
        quiet = rest == 0 and not (due or _looked_at(config, epoch, observer) or stopped_by())
        # a GPU goes on while the metrics are written down
        ahead = min(together, per_epoch) if quiet and job.engine.asynchronous else 0
        metrics = job.engine.run(wanted, ahead) if ahead else job.engine.run(wanted)
        speed = len(metrics) / (time.perf_counter() - call_start)
        together = max(1, min(2 * len(metrics), int(speed * SECONDS_PER_CALL)))
        for step, values in enumerate(metrics.tolist(), state.step - len(metrics) + 1):
            recent.append((step, values))
            if not math.isfinite(sum(values)):
                raise _diverged(job, _first_bad(job, step, values, ahead), recent)
            totals += values
        _warn(job, job.watch.iterations(state.step - len(metrics) + 1, metrics))
        steps_here += len(metrics)
        display.step(state.step, *metrics[-1, :2].tolist())
        if state.step % per_epoch == 0:
            seconds = time.perf_counter() - epoch_start
            line = _epoch_metrics(epoch, state.step, totals / per_epoch, seconds, count * steps_here / per_epoch)
            totals[:] = 0.0
            with _saved_on_error(job, ahead):
                _end_epoch(job, line, observer)
                if due:
                    job.save()
                    last_save = time.perf_counter()
            epoch_start, steps_here = time.perf_counter(), 0
        if not ahead and (number := stopped_by()):
            job.save()
            return number
    return 0


def _looked_at(config: TrainConfig, epoch: int, observer: Observer | None) -> bool:
    """Whether previews or an evaluation need the networks as they are after ``epoch``."""
    return config.previewed(epoch) or bool(observer and config.eval_every and epoch % config.eval_every == 0)


def _end_epoch(job: _Job, line: dict[str, Any], observer: Observer | None) -> None:
    """Metrics, previews, warnings, evaluation. ``line``: for metrics.jsonl."""
    epoch, display = line["epoch"], job.display
    job.run.append_metrics(line)
    display.epoch(line)
    signs = job.watch.epoch(line)
    if job.config.previewed(epoch):
        signs |= _show_samples(job, epoch)
    _warn(job, signs)
    if observer is not None and job.config.eval_every and epoch % job.config.eval_every == 0:
        display.note(observer.observe(job.state, epoch))


def _warn(job: _Job, signs: dict[str, str]) -> None:
    """Each sign of a collapse is told once."""
    for sign in signs.keys() - job.told:
        job.display.warn(signs[sign])
        job.told.add(sign)


@contextmanager
def _saved_on_error(job: _Job, ahead: int) -> Iterator[None]:
    """What goes wrong between two calls of the engine does not cost what it has computed, if that can be saved.

    ``ahead``: iterations that it has been told to go on with. Only after these the state is whole.
    """
    try:
        yield
    except TrainingDiverged:
        raise
    except Exception:
        with suppress(Exception):  # a full disk has no room for this either; the first error is the one to tell
            job.totals += job.engine.run(ahead).sum(axis=0)
            job.save()
        raise


def _due(job: _Job, epoch: int, last_save: float) -> bool:
    """Whether a checkpoint is to be made after ``epoch``."""
    if epoch == job.config.epochs or epoch % job.config.milestone_period == 0:
        return True
    if job.keeping.every is None:
        return time.perf_counter() - last_save > SECONDS_BETWEEN_CHECKPOINTS
    return epoch % job.keeping.every == 0


def _show_samples(job: _Job, epoch: int) -> dict[str, str]:
    """Writes and shows samples of always the same noise. Returns a warning, by sign, when they are all alike."""
    noise = noise_vectors(job.config.seed, SAMPLE_GRID, job.config.latent_dim)
    samples = to_numpy(job.state.sampler(job.backend.to_device(noise)))
    if not np.isfinite(samples).all():
        raise _diverged(job, ("generator", "samples"), ())
    job.display.preview(samples, epoch, job.run.save_samples(samples, epoch))
    alike = samples_alike(samples, spread(job.data.images[:1000] / 127.5), job.state.step, job.config)
    return {"samples alike": alike} if alike else {}


def _first_bad(job: _Job, step: int, values: list[float], ahead: int) -> tuple[str, str]:
    """Net and name of the first tensor of iteration ``step`` that is not finite. ``values``: its metrics.

    The engine can tell of its last iteration only: where it has gone on, as on a GPU, it does those from the last checkpoint
    to ``step`` once more.
    """
    state, last = job.state, job.run.last_saved
    gone_on = state.step + ahead > step
    if ahead:  # nothing may be set back while they are under way
        job.engine.run(ahead)
    if gone_on and last is not None:
        job.display.warn(f"iteration {step} diverged: doing those since {last.name} once more, to find where")
        load_into(load(last), state, job.backend)
        if state.step < step - 1:
            job.engine.run(step - 1 - state.step)
        job.engine.run(1)
    name = next(name for name, value in zip(StepMetrics._fields, values, strict=True) if not math.isfinite(value))
    return first_non_finite(job.engine.tensors()) or ("metrics", name)


def _diverged(job: _Job, first: tuple[str, str], recent: Recent) -> TrainingDiverged:
    """The error to raise, after writing down what is known. Nothing of the state is saved."""
    step = recent[-1][0] if recent else job.state.step
    try:
        where = f"see {job.run.write_diagnosis(step, diagnosis(job.state, job.config, first, recent))}"
    except OSError as error:
        where = f"no diagnosis could be written ({error.strerror})"
    return TrainingDiverged(
        f"training diverged: in iteration {step} the {first[0]}'s {first[1]} was the first that is not finite; {where}; "
        f"the last good checkpoint is {job.run.last_saved}; try a lower --lr-g and --lr-d, or --loss bce-logits"
    )


def _epoch_metrics(epoch: int, step: int, means: np.ndarray, seconds: float, images: float) -> dict[str, Any]:
    """A line of metrics.jsonl. Losses are means over the iterations of the epoch."""
    return {
        "epoch": epoch,
        "step": step,
        **{name: float(mean) for name, mean in zip(StepMetrics._fields, means, strict=True)},
        "seconds": round(seconds, 4),
        "images_per_second": round(images / seconds, 1),
    }


def _new_run_path(dataset: str, stack: ExitStack) -> Path:
    """A folder that nobody else has, made now; ``stack`` removes it if it is still empty then. Raises InputError."""
    name = f"{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        RUNS.mkdir(exist_ok=True)
        for number in itertools.count(1):
            path = RUNS / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):  # of a start in the same second
                path.mkdir()
                break
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be made: {error.strerror}") from None
    stack.callback(_remove_if_empty, path)
    return path


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _reporter(quiet: bool, log: RunLog) -> Report:
    def report(line: str) -> None:
        log(line)
        if not quiet:
            say(line, to_stderr=True)

    return report


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Signals that ask to stop are noted, and the loop stops after the call. A second one ends the process at once.

    Those that are ignored (nohup's SIGHUP, Ctrl-C for a job in the background) or that a caller handles are left alone. In
    other threads than the main one Python has no signals: there nothing is noted.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)

    known = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        known = []
    usual = (signal.SIG_DFL, signal.default_int_handler)
    previous = {each: handler for each in known if (handler := signal.getsignal(each)) in usual}
    for each in previous:
        signal.signal(each, note)
    try:
        yield lambda: received[0] if received else 0
    finally:
        restore()
