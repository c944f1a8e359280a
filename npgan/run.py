"""The jobs behind ``npgan train`` and ``npgan sample``: data in, training, and everything that goes on screen and disk."""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from npgan import random
from npgan.backend import Backend, select, to_numpy
from npgan.checkpoint import restore
from npgan.config import TrainConfig
from npgan.data import Dataset, iterations_per_epoch, load_dataset
from npgan.display import TrainingDisplay, save_grid
from npgan.errors import InputError
from npgan.networks import Sequential
from npgan.run_folder import RunFolder, newest_run
from npgan.training import StepMetrics, TrainState, iterate, new_state, sample

RUNS = Path("runs")
SAMPLE_GRID = 64  # images in a PNG of samples, always from the same noise
PREVIEW = 4  # of them shown in the terminal
SECONDS_BETWEEN_CHECKPOINTS = 60.0  # besides those at previews and at the end


class TrainingDiverged(RuntimeError):
    """A loss or a gradient is no longer a finite number."""


def train(
    config_flags: dict[str, Any],
    *,
    dataset: str = "auto",
    data_dir: Path | None = None,
    backend_name: str = "auto",
    precision: str = "fp32",
    kernels: str = "auto",
    out: Path | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Trains and returns the exit status: 0, or 128 + the signal that asked to stop, after saving a checkpoint.

    ``config_flags``: fields of TrainConfig given on the command line. ``resume``: a run folder, or "" for the newest.
    Raises InputError for the user's mistakes and TrainingDiverged.
    """
    report = _reporter(quiet)
    if kernels == "fused":
        raise InputError("--kernels fused: this version has no fused kernels; use auto or reference")
    backend = select(backend_name, precision)
    if resume is None:
        TrainConfig(dataset="digits", **config_flags)  # a bad flag is told before anything is loaded
        data = load_dataset(dataset, data_dir, report=report)
        config = TrainConfig(dataset=data.name, **config_flags)
        run = RunFolder.create(out or _new_run_path(data.name), overwrite)
        run.clear()
        state = new_state(config, backend)
        history: list[dict[str, Any]] = []
        totals = np.zeros(len(StepMetrics._fields))
    else:
        run = RunFolder.open_existing(Path(resume) if resume else newest_run(RUNS))
        checkpoint = run.latest_checkpoint()
        config = _resumed_config(checkpoint.config, config_flags, dataset)
        data_dir = data_dir or (Path(recorded) if (recorded := checkpoint.runtime["data_dir"]) else None)
        data = load_dataset(config.dataset, data_dir, report=report)
        if _fingerprint(data) != checkpoint.runtime["data_sha256"]:
            raise InputError(
                f"--resume {run.path}: the images are not those that the run was trained on ({data.source})"
            )
        state = restore(checkpoint, backend)
        history = run.cut_metrics(state.step)
        totals = checkpoint.epoch_totals
    runtime = {
        "backend": backend.name,
        "precision": precision,
        "kernels": "reference",
        "data_dir": str(data_dir.resolve()) if data_dir else None,
        "data_sha256": _fingerprint(data),
    }
    run.write_config(config)
    per_epoch = iterations_per_epoch(len(data.images), config.batch_size)
    with TrainingDisplay(config.epochs, per_epoch, state.step, quiet=quiet) as display, _stop_signals() as stopped_by:
        display.header(_header(run, config, backend, runtime, data, state))
        interrupted = _train_loop(run, state, config, runtime, backend, data, history, totals, display, stopped_by)
        display.curves(history)
        if interrupted:
            display.done([("stopped", f"after step {state.step}"), ("go on with", f"--resume {run.path}")])
            return 128 + interrupted
        display.done([("run", str(run.path)), ("samples", str(run.sample_path(config.epochs)))])
    return 0


def _train_loop(
    run: RunFolder,
    state: TrainState,
    config: TrainConfig,
    runtime: dict[str, Any],
    backend: Backend,
    data: Dataset,
    history: list[dict[str, Any]],
    totals: np.ndarray,
    display: TrainingDisplay,
    stopped_by: Callable[[], int],
) -> int:
    """Runs the iterations; after each epoch metrics, previews, checkpoints. Returns the signal that stopped it, or 0."""
    noise = _fixed_noise(config, SAMPLE_GRID, backend)
    images = backend.to_device(data.images)
    per_epoch = iterations_per_epoch(len(data.images), config.batch_size)
    epoch_start = last_save = time.perf_counter()
    totals = np.array(totals)  # sums of StepMetrics over the epoch, float64
    steps_here = 0  # of this epoch, in this process
    for metrics in iterate(state, images, config):
        totals += [float(value) for value in metrics]
        steps_here += 1
        display.step(state.step, metrics.loss_d, metrics.loss_g)
        if state.step % per_epoch == 0:
            epoch = state.step // per_epoch
            seconds = time.perf_counter() - epoch_start
            line = _epoch_metrics(
                epoch, state.step, totals / per_epoch, seconds, len(data.images) * steps_here / per_epoch
            )
            if not all(math.isfinite(value) for value in line.values()):
                raise TrainingDiverged(
                    f"epoch {epoch}: a loss or gradient is not finite; the last checkpoint is from before"
                )
            history.append(line)
            run.append_metrics(line)
            display.epoch(line)
            totals[:] = 0.0
            if epoch % config.output_period == 0 or epoch == config.epochs:
                samples = to_numpy(sample(state.generator, noise))
                save_grid(samples, run.sample_path(epoch))
                display.preview(samples[:PREVIEW], epoch, run.sample_path(epoch))
                run.save_checkpoint(state, config, runtime, totals)
                last_save = time.perf_counter()
            elif time.perf_counter() - last_save > SECONDS_BETWEEN_CHECKPOINTS:
                run.save_checkpoint(state, config, runtime, totals)
                last_save = time.perf_counter()
            epoch_start, steps_here = time.perf_counter(), 0
        if stopped_by():
            run.save_checkpoint(state, config, runtime, totals)
            return stopped_by()
    return 0


def generate(run_path: Path, count: int, out: Path, *, seed: int, interpolate: bool, backend_name: str) -> str:
    """Draws from a run's latest checkpoint into ``out`` (.png: a grid; .npy: float32 (count, 28, 28) in [−1, 1]).

    ``interpolate``: each row of eight walks on a great circle from one noise vector to another. Returns a line to print.
    """
    if out.suffix not in (".png", ".npy"):
        raise InputError(f"--out {out}: must end in .png or .npy")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist")
    if not 1 <= count <= 1_000_000:
        raise InputError(f"--n must be from 1 to 1000000, got {count}")
    if not 0 <= seed < 2**64:
        raise InputError(f"--seed must be from 0 to 2**64 - 1, got {seed}")
    backend = select(backend_name)
    checkpoint = RunFolder.open_existing(run_path).latest_checkpoint()
    g = restore(checkpoint, backend).generator
    latent_dim = checkpoint.config.latent_dim
    noise = _interpolation(seed, count, latent_dim) if interpolate else _noise(seed, count, latent_dim)
    images = _generate_in_batches(g, noise, backend).reshape(count, 28, 28)
    try:
        if out.suffix == ".npy":
            with open(out, "wb") as file:
                np.save(file, images)
        else:
            save_grid(images, out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from None
    return f"{out}: {count} samples of {run_path} after step {checkpoint.step}"


def _generate_in_batches(g: Sequential, noise: np.ndarray, backend: Backend, rows: int = 1000) -> np.ndarray:
    parts = [noise[start : start + rows] for start in range(0, len(noise), rows)]
    return np.concatenate([to_numpy(sample(g, backend.to_device(part))) for part in parts])


def _noise(seed: int, count: int, latent_dim: int, site: int = 0) -> np.ndarray:
    return random.normal(seed, random.Stream.EVAL, 0, site, (count, latent_dim))


def _interpolation(seed: int, count: int, latent_dim: int, columns: int = 8) -> np.ndarray:
    """Noise (count, Z) in rows of ``columns``, from one draw to another along a great circle (White 2016).

    On the straight line between two Gaussian vectors the middle is too short to be one; on the circle lengths stay typical.
    """
    rows = -(-count // columns)
    start, end = (_noise(seed, rows, latent_dim, site)[:, None, :].astype(np.float64) for site in (0, 1))
    lengths = np.linalg.norm(start, axis=-1) * np.linalg.norm(end, axis=-1)
    angle = np.arccos(np.clip(np.sum(start * end, axis=-1) / lengths, -1.0, 1.0))[..., None]
    t = np.linspace(0.0, 1.0, columns)[None, :, None]
    walk = (np.sin((1.0 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
    return walk.reshape(rows * columns, latent_dim)[:count].astype(np.float32)


def _fixed_noise(config: TrainConfig, count: int, backend: Backend) -> Any:
    return backend.to_device(_noise(config.seed, count, config.latent_dim))


def _epoch_metrics(epoch: int, step: int, means: np.ndarray, seconds: float, images: float) -> dict[str, Any]:
    """A line of metrics.jsonl. Losses are means over the iterations of the epoch."""
    return {
        "epoch": epoch,
        "step": step,
        **{name: float(mean) for name, mean in zip(StepMetrics._fields, means, strict=True)},
        "seconds": round(seconds, 4),
        "images_per_second": round(images / seconds, 1),
    }


def _resumed_config(saved: TrainConfig, flags: dict[str, Any], dataset: str) -> TrainConfig:
    """The saved config; only ``epochs`` may grow. Raises InputError that lists every flag that disagrees."""
    asked = dict(flags)
    if dataset != "auto":
        asked["dataset"] = dataset
    epochs = asked.pop("epochs", saved.epochs)
    differing = [
        f"--{name.replace('_', '-')} is {getattr(saved, name)}, not {value}"
        for name, value in sorted(asked.items())
        if value != getattr(saved, name)
    ]
    if differing:
        raise InputError(f"--resume: the run was made with other settings: {'; '.join(differing)}")
    if epochs < saved.epochs:
        raise InputError(f"--resume: --epochs {epochs} is less than the run's {saved.epochs}; it may only grow")
    return replace(saved, epochs=epochs)


def _header(
    run: RunFolder, config: TrainConfig, backend: Backend, runtime: dict[str, Any], data: Dataset, state: TrainState
) -> list[tuple[str, str]]:
    g, d = state.generator.parameters.size, state.discriminator.parameters.size
    start = f", from step {state.step}" if state.step else ""
    return [
        ("backend", f"{backend.name} ({backend.reason})"),
        ("device", backend.device),
        ("kernels", f"{runtime['kernels']}, {runtime['precision']}"),
        ("parameters", f"{g:,} generator + {d:,} discriminator"),
        ("data", f"{data.name}, {len(data.images):,} images: {data.source}"),
        ("training", f"{config.epochs} epochs of {iterations_per_epoch(len(data.images), config.batch_size)}{start}"),
        ("seed", str(config.seed)),
        ("run folder", str(run.path)),
    ]


def _fingerprint(data: Dataset) -> str:
    return hashlib.sha256(data.images).hexdigest()


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
