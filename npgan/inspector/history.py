"""A run over time: its metrics, and one step taken apart at each of its checkpoints; and two steps side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgan.backend import select
from npgan.config import TrainConfig
from npgan.console import say
from npgan.data.batches import batch_bounds, iterations_per_epoch
from npgan.data.mnist import first_images, load_dataset
from npgan.engines.base import set_learning_rates
from npgan.errors import InputError, one_line
from npgan.gan import TrainState
from npgan.inspector.trace import StepTrace, inspect_step
from npgan.nn import philox
from npgan.runs.checkpoint import Checkpoint, DamagedCheckpoint, load, restore
from npgan.runs.folder import RunFolder

MOST_CHECKPOINTS = 5  # taken apart; evenly spaced over the run
_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")


class Snapshot(NamedTuple):
    """What one step says about the health of the training. The dicts go by tensor ("D.0.weight") or layer ("G.7")."""

    step: int  # the iteration, counted from 1
    epoch: float  # of data seen before it
    figures: dict[str, float]  # losses, D's means, accuracy
    gradient: dict[str, float]  # norms
    ratio: dict[str, float]  # update over weight, without biases that were 0
    share: dict[str, float]  # "G.7 saturated", "D.1 negative slope"


class RunHistory(NamedTuple):
    """``metrics``: one object per epoch, as in metrics.jsonl. ``snapshots``: one per checkpoint looked at, in order."""

    name: str
    metrics: list[dict[str, Any]]
    snapshots: list[Snapshot]


class Chart(NamedTuple):
    """Curves over epochs: label → (x, y)."""

    title: str
    curves: dict[str, tuple[list[float], list[float]]]
    logarithmic: bool = False


def next_batch(images: np.ndarray, config: TrainConfig, step: int) -> np.ndarray:
    """The pixels (b, 784) that iteration ``step``, counted from 0, trains on."""
    count = len(images)
    epoch, iteration = divmod(step, iterations_per_epoch(count, config.batch_size))
    order = philox.permutation(config.seed, epoch, count)
    return images[order[batch_bounds(iteration, count, config.batch_size)]]


def checkpoint_files(run: RunFolder) -> dict[int, Path]:
    """The run's checkpoints by step, in order."""
    matches = ((_CHECKPOINT.fullmatch(path.name), path) for path in run.checkpoints.glob("step-*.safetensors"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def checkpoint_at(run: RunFolder, step: int | None) -> Checkpoint:
    """The checkpoint after ``step`` iterations, or the latest. Raises InputError that lists the steps there are."""
    if step is None:
        return run.latest_checkpoint()
    files = checkpoint_files(run)
    if step not in files:
        raise InputError(f"--step {step}: {run.path} has checkpoints after steps {', '.join(map(str, files))}")
    return load(files[step])


def images_of(checkpoint: Checkpoint, data_dir: Path | None) -> np.ndarray:
    """The run's training images (M, 784) uint8. ``data_dir``: None for the folder that the run recorded."""
    recorded = checkpoint.runtime.get("data_dir")
    folder = data_dir or (Path(recorded) if recorded else None)
    return first_images(
        load_dataset(checkpoint.config.dataset, folder, labels=False), checkpoint.config.train_images
    ).images


def step_of(checkpoint: Checkpoint, images: np.ndarray) -> StepTrace:
    """The step that comes next after the checkpoint."""
    return next_step(restore(checkpoint, select("numpy")), images, checkpoint.config)


def next_step(state: TrainState, images: np.ndarray, config: TrainConfig) -> StepTrace:
    """The step that training does next. Shapes: images (M, 784) uint8, the whole training set."""
    set_learning_rates(state, config, state.step // iterations_per_epoch(len(images), config.batch_size))
    return inspect_step(state, next_batch(images, config, state.step), config)


def history_of(run: RunFolder, images: np.ndarray, at: Checkpoint, trace: StepTrace) -> RunHistory:
    """Everything over time. ``trace``: the step after ``at``, which need not be computed again."""
    files = checkpoint_files(run)
    steps = list(files)
    places = np.linspace(0, len(steps) - 1, min(MOST_CHECKPOINTS, len(steps))).round().astype(int)
    chosen = {steps[place] for place in places} | {at.step}
    snapshots = []
    for step in sorted(chosen):
        try:
            taken = trace if step == at.step else step_of(load(files[step]), images)
        except DamagedCheckpoint as error:
            say(f"{error}; left out", to_stderr=True)
            continue
        snapshots.append(snapshot(taken, len(images)))
    return RunHistory(one_line(str(run.path)), run.read_metrics(), snapshots)


def snapshot(trace: StepTrace, images: int) -> Snapshot:
    b = len(trace.p_d) // 2
    figures = {
        "loss of D": trace.loss_d,
        "loss of G": trace.loss_g,
        "D(real)": float(np.mean(trace.p_d[:b])),
        "D(fake)": float(np.mean(trace.p_d[b:])),
        "D(fake), G step": float(np.mean(trace.p_g)),
        "accuracy of D": trace.accuracy,
    }
    shares: dict[str, float] = {}
    for op in trace.ops:
        for name, share in op.shares.items():
            if name != "kept":
                shares.setdefault(f"{op.key} {name}", share)
    per_epoch = iterations_per_epoch(images, trace.config.batch_size)
    return Snapshot(
        trace.number,
        (trace.number - 1) / per_epoch,
        figures,
        {f"{u.net}.{u.name}": u.gradient for u in trace.updates},
        {f"{u.net}.{u.name}": u.ratio for u in trace.updates if u.ratio == u.ratio},
        shares,
    )


def charts(history: RunHistory) -> list[Chart]:
    """The run's pictures: per epoch from its metrics, per layer from its checkpoints."""
    epochs = [float(line["epoch"]) for line in history.metrics]

    def measured(*names: str) -> dict[str, tuple[list[float], list[float]]]:
        return {name: (epochs, [line[name] for line in history.metrics]) for name in names}

    drawn = []
    if epochs:
        drawn += [
            Chart("Losses, mean of each epoch", measured("loss_d", "loss_g")),
            Chart("What D says of real images and of fakes, mean of each epoch", measured("d_real", "d_fake")),
            Chart("Norm of each network's gradient, mean of each epoch", measured("grad_norm_d", "grad_norm_g"), True),
        ]
    at = [shot.epoch for shot in history.snapshots]

    def per_layer(of: str, keep: str) -> dict[str, tuple[list[float], list[float]]]:
        tables: list[dict[str, float]] = [getattr(shot, of) for shot in history.snapshots]
        names = [name for name in tables[0] if re.search(keep, name)]
        return {name: (at, [table.get(name, float("nan")) for table in tables]) for name in names}

    return [
        *drawn,
        Chart(
            "Accuracy of D, one batch at each checkpoint",
            {"accuracy of D": per_layer("figures", "accuracy")["accuracy of D"]},
        ),
        Chart("Gradient norm of D's layers, at each checkpoint", per_layer("gradient", r"^D.*weight"), True),
        Chart("Gradient norm of G's layers, at each checkpoint", per_layer("gradient", r"^G.*weight"), True),
        Chart("Update over weight, D's layers", per_layer("ratio", r"^D.*weight"), True),
        Chart("Update over weight, G's layers", per_layer("ratio", r"^G.*weight"), True),
        Chart("Share of saturated outputs", per_layer("share", "saturated")),
        Chart("Share of units on the negative slope", per_layer("share", "negative")),
    ]


def comparison(a: Snapshot, b: Snapshot) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Two steps side by side: (heading, rows of (name, value in a, value in b)) for what both of them have."""

    def rows(first: dict[str, float], second: dict[str, float]) -> list[tuple[str, float, float]]:
        return [(name, first[name], second[name]) for name in first if name in second]

    return [
        ("Losses and what D says", rows(a.figures, b.figures)),
        ("Norm of the gradient", rows(a.gradient, b.gradient)),
        ("Update over weight", rows(a.ratio, b.ratio)),
        ("Shares", rows(a.share, b.share)),
    ]
