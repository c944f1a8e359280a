"""The job behind ``npgan train``: data in, training, and everything that goes on screen and disk."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from npgan.engines.cpu import blas
from npgan import engines as kernels
from npgan.backend import Backend, to_numpy
from npgan.runs.checkpoint import NotFinite, restore
from npgan.config import TrainConfig
from npgan.data.mnist import Dataset, batch_bounds, fingerprint, first_images, iterations_per_epoch, load_dataset
from npgan.runs.display import TrainingDisplay
from npgan.errors import InputError
from npgan.runs.health import TrainingDiverged, collapse_signs, diagnosis, first_non_finite, samples_alike, spread
from npgan.runs.resume import file_config, keeping_of, resumed_config, select_as_before, what_changed
from npgan.runs.folder import Keeping, RunFolder, newest_run
from npgan.runs.sample import noise_vectors
from npgan.gan import StepMetrics, TrainState, Workspace, iterate, new_state, sample

if TYPE_CHECKING:
    from npgan.evaluation.callback import Observer

RUNS = Path("runs")
SAMPLE_GRID = 64  # images in a PNG of samples, always from the same noise
PREVIEW = 4  # of them shown in the terminal
SECONDS_BETWEEN_CHECKPOINTS = 60.0  # besides those at previews and at the end; one takes about 0.2 s


class RunFailed(RuntimeError):
    """The disk or the machine stopped the run. What was saved before is as it was."""


@dataclass
class _Job:
    """A run that is ready to go on."""

    run: RunFolder
    config: TrainConfig
    runtime: dict[str, Any]
    keeping: Keeping
    backend: Backend
    data: Dataset
    state: TrainState
    history: list[dict[str, Any]]  # metrics of the epochs done
    totals: np.ndarray  # sums of StepMetrics over the unfinished epoch, float64
    gpu: Any  # kernels.cuda.gpu.Gpu, where whole epochs are done at once, else None

    @property
    def per_epoch(self) -> int:
        return iterations_per_epoch(len(self.data.images), self.config.batch_size)

    def save(self) -> None:
        """Raises OSError and, when a tensor is not finite, TrainingDiverged."""
        milestone_steps = self.config.output_period * self.per_epoch
        try:
            self.run.save_checkpoint(
                self.state, self.config, self.runtime, self.totals, self.keeping.last, milestone_steps
            )
        except NotFinite as error:
            raise _diverged(self, ("state", str(error)), ()) from None


def train(
    config_flags: dict[str, Any],
    *,
    dataset: str = "auto",
    data_dir: Path | None = None,
    backend_name: str = "auto",
    precision: str | None = None,
    kernels_name: str = "auto",
    products: blas.Products | None = None,
    out: Path | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    checkpoint_every: int | None = None,
    keep: int | None = None,
    quiet: bool = False,
) -> int:
    """Trains and returns the exit status: 0, or 128 + the signal that asked to stop, after saving a checkpoint.

    ``config_flags``: fields of TrainConfig given on the command line. ``resume``: a run folder, or "" for the newest; what
    is left at None or "auto" is then as it was. Raises InputError for the user's mistakes, TrainingDiverged and RunFailed.
    """
    report, warn = _reporter(quiet), _reporter(False)
    products = products or blas.prepare()
    before: dict[str, Any] = {}  # the runtime of the checkpoint that is resumed
    with ExitStack() as lock:
        if resume is None:
            asked = TrainConfig(dataset="digits", **config_flags)  # a bad flag is told before anything is loaded
            keeping = keeping_of(Keeping(), checkpoint_every, keep)
            backend, precision, chosen = select_as_before(
                backend_name, precision, kernels_name, products, before, asked, report
            )
            data = load_dataset(dataset, data_dir, report=report)
            config = TrainConfig(dataset=data.name, **config_flags)
            data = first_images(data, config.train_images)
            run = RunFolder.create(out or _new_run_path(data.name), overwrite)
            lock.enter_context(run.locked(warn))
            run.refuse_to_overwrite(overwrite)  # by now another process may have made one
            run.clear()
            state = new_state(config, backend, kernels=chosen)
            history: list[dict[str, Any]] = []
            totals = np.zeros(len(StepMetrics._fields))
        else:
            run = RunFolder.open_existing(Path(resume) if resume else newest_run(RUNS))
            lock.enter_context(run.locked(warn))
            checkpoint = run.recover(warn)
            before = checkpoint.runtime
            config = resumed_config(file_config(run, checkpoint), config_flags, dataset)
            keeping = keeping_of(run.read_keeping(), checkpoint_every, keep)
            backend, precision, chosen = select_as_before(
                backend_name, precision, kernels_name, products, before, config, report
            )
            data_dir = data_dir or (Path(recorded) if (recorded := before.get("data_dir")) else None)
            data = first_images(load_dataset(config.dataset, data_dir, report=report), config.train_images)
            if fingerprint(data) != before.get("data_sha256"):
                raise InputError(
                    f"--resume {run.path}: the images are not those that the run was trained on ({data.source})"
                )
            state = restore(checkpoint, backend, chosen)
            epochs_done = state.step // iterations_per_epoch(len(data.images), config.batch_size)
            history = run.cut_metrics(state.step, epochs_done, warn)
            totals = np.array(checkpoint.epoch_totals)
        runtime = {
            "backend": backend.name,
            "precision": precision,
            "kernels": chosen.name,
            "products": _products(chosen, products) if backend.name == "numpy" else None,
            "data_dir": str(data_dir.resolve()) if data_dir else None,
            "data_sha256": fingerprint(data),
        }
        if changed := what_changed(before, runtime):
            warn(changed)
        job = _Job(run, config, runtime, keeping, backend, data, state, history, totals, chosen.gpu)
        try:
            observer = None
            if config.eval_every is not None:
                from npgan.evaluation.callback import Observer

                observer = Observer(run, data.name, data_dir, backend, state.step, report)
            run.write_keeping(keeping)
            if resume is None:
                job.save()  # from now on there is something to resume
            run.write_config(config)
            header = _header(run, config, backend, chosen, products, runtime, data, state, keeping)
            return _train(job, header, observer, quiet)
        except BrokenPipeError:
            raise
        except OSError as error:
            saved = f"the last checkpoint is {run.last_saved}, " if run.last_saved else "there is no checkpoint, "
            raise RunFailed(
                f"{error.filename or run.path}: {error.strerror or error}; stopped after step {state.step}, {saved}"
                f"go on with --resume {run.path}"
            ) from None


def _train(job: _Job, header: list[tuple[str, str]], observer: Observer | None, quiet: bool) -> int:
    run, config, state = job.run, job.config, job.state
    with (
        TrainingDisplay(config.epochs, job.per_epoch, state.step, quiet=quiet) as display,
        _stop_signals() as stopped_by,
        np.errstate(all="ignore"),  # a number that is not finite stops the run, in one line that says more
    ):
        display.header(header)
        interrupted = _train_loop(job, display, stopped_by, observer)
        display.curves(job.history)
        if interrupted:
            display.done([("stopped", f"after step {state.step}"), ("go on with", f"--resume {run.path}")])
            return 128 + interrupted
        display.done([("run", str(run.path)), ("samples", str(run.sample_path(config.epochs)))])
    return 0


def _train_loop(job: _Job, display: TrainingDisplay, stopped_by: Callable[[], int], observer: Observer | None) -> int:
    """Runs the iterations; after each epoch metrics, previews, checkpoints. Returns the signal that stopped it, or 0."""
    run, config, state, history, totals = job.run, job.config, job.state, job.history, job.totals
    count, per_epoch = len(job.data.images), job.per_epoch
    workspaces: dict[int, Workspace] = {}
    recent: deque[tuple[int, list[float]]] = deque(maxlen=20)
    told = {sign for done in range(len(history)) for sign in _signs(job, history[: done + 1])}
    epoch_start = last_save = time.perf_counter()
    steps_here = 0  # of this epoch, in this process
    for done in _iterations(job, workspaces):
        for step, values in enumerate(done, state.step - len(done) + 1):
            recent.append((step, values))
            if not math.isfinite(sum(values)):
                bounds = batch_bounds((step - 1) % per_epoch, count, config.batch_size)
                workspace = workspaces.get(bounds.stop - bounds.start)
                first = first_non_finite(state, config, workspace) or ("metrics", _first_name(values))
                raise _diverged(job, first, recent)
            totals += values
        steps_here += len(done)
        display.step(state.step, *done[-1][:2])
        if state.step % per_epoch == 0:
            epoch = state.step // per_epoch
            seconds = time.perf_counter() - epoch_start
            line = _epoch_metrics(epoch, state.step, totals / per_epoch, seconds, count * steps_here / per_epoch)
            history.append(line)
            run.append_metrics(line)
            display.epoch(line)
            totals[:] = 0.0
            signs = _signs(job, history)
            show = epoch % config.output_period == 0 or epoch == config.epochs
            if show:
                signs |= _show_samples(job, epoch, display)
            for sign in signs.keys() - told:
                display.warn(signs[sign])
                told.add(sign)
            if observer is not None and config.eval_every and epoch % config.eval_every == 0:
                display.note(observer.observe(state, epoch))
            if show or _due(job.keeping, epoch, last_save):
                job.save()
                last_save = time.perf_counter()
            epoch_start, steps_here = time.perf_counter(), 0
        if number := stopped_by():
            job.save()
            return number
    return 0


def _iterations(job: _Job, workspaces: dict[int, Workspace]) -> Iterator[list[list[float]]]:
    """Trains, handing over the StepMetrics of what was done: of every iteration, or on a GPU of an epoch at a time."""
    images = job.backend.to_device(job.data.images)
    if job.gpu is not None:
        from npgan.engines.cuda.graph import iterate_epochs

        for metrics in iterate_epochs(job.gpu, job.state, images, job.config):
            yield metrics.tolist()
        return
    for each in iterate(job.state, images, job.config, workspaces):
        yield [[float(value) for value in each]]


def _due(keeping: Keeping, epoch: int, last_save: float) -> bool:
    if keeping.every is None:
        return time.perf_counter() - last_save > SECONDS_BETWEEN_CHECKPOINTS
    return epoch % keeping.every == 0


def _show_samples(job: _Job, epoch: int, display: TrainingDisplay) -> dict[str, str]:
    """Writes and shows samples of always the same noise. Returns a warning, by sign, when they are all alike."""
    noise = noise_vectors(job.config.seed, SAMPLE_GRID, job.config.latent_dim)
    samples = to_numpy(sample(job.state.generator, job.backend.to_device(noise)))
    if not np.isfinite(samples).all():
        raise _diverged(job, ("generator", "samples"), ())
    display.preview(samples[:PREVIEW], epoch, job.run.save_samples(samples, epoch))
    alike = samples_alike(samples, spread(job.data.images[:1000] / 127.5), job.state.step)
    return {"samples alike": alike} if alike else {}


def _signs(job: _Job, history: list[dict[str, Any]]) -> dict[str, str]:
    return collapse_signs(history, job.per_epoch, job.config, job.state.generator.parameters.size)


def _first_name(values: list[float]) -> str:
    return next(name for name, value in zip(StepMetrics._fields, values, strict=True) if not math.isfinite(value))


def _diverged(job: _Job, first: tuple[str, str], recent: Sequence[tuple[int, list[float]]]) -> TrainingDiverged:
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


def _products(chosen: kernels.Kernels, products: blas.Products) -> str:
    """What decides the bytes of a product: npgan's own sums in one order, BLAS in one that depends on core and threads."""
    return "npgan" if chosen.products else f"{blas.core_in_use()} x {products.threads}"


def _header(
    run: RunFolder,
    config: TrainConfig,
    backend: Backend,
    chosen: kernels.Kernels,
    products: blas.Products,
    runtime: dict[str, Any],
    data: Dataset,
    state: TrainState,
    keeping: Keeping,
) -> list[tuple[str, str]]:
    g, d = state.generator.parameters.size, state.discriminator.parameters.size
    start = f", from step {state.step}" if state.step else ""
    return [
        ("backend", f"{backend.name} ({backend.reason})"),
        ("device", backend.device),
        ("kernels", f"{chosen.name}, {runtime['precision']} ({chosen.reason})"),
        *([("products", chosen.products or products.describe())] if backend.name == "numpy" else []),
        ("parameters", f"{g:,} generator + {d:,} discriminator"),
        ("data", f"{data.name}, {len(data.images):,} images: {data.source}"),
        ("training", f"{config.epochs} epochs of {iterations_per_epoch(len(data.images), config.batch_size)}{start}"),
        ("seed", str(config.seed)),
        ("run folder", str(run.path)),
        ("checkpoints", _when_saved(keeping, config)),
    ]


def _when_saved(keeping: Keeping, config: TrainConfig) -> str:
    if keeping.every is None:
        when = "every minute, at an epoch's end"
    else:
        when = "after every epoch" if keeping.every == 1 else f"every {keeping.every} epochs"
    return f"{when}; kept: the last {keeping.last}, and one every {config.output_period} epochs"


def _new_run_path(dataset: str) -> Path:
    return RUNS / f"{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"


def _reporter(quiet: bool) -> Callable[[str], None]:
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    return lambda line: console.print(line, markup=False)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Ctrl-C and SIGTERM are noted, and the loop stops after the iteration. A second one ends the process at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, previous[each])

    previous = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
