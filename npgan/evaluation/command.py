"""The job behind ``npgan evaluate``: a run's samples, and what gives their figures meaning, measured and reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from npgan.backend import Array, Backend, select, to_numpy
from npgan.console import Console
from npgan.data.batches import iterations_per_epoch
from npgan.data.mnist import Dataset, fingerprint, first_images, load_dataset
from npgan.errors import InputError, one_line
from npgan.evaluation.classifier import epochs_left
from npgan.evaluation.figures import RECIPE, Judge, check_sample_count
from npgan.evaluation.picture import save_picture
from npgan.evaluation.report import Facts, Row, Steps, tables, warnings, write_json
from npgan.evaluation.sources import KMEANS_ITERATIONS, from_generator, kmeans_centers, noise_images, which_real
from npgan.gan import new_state
from npgan.nn.network import Sequential
from npgan.runs.checkpoint import Checkpoint, restore
from npgan.runs.folder import RunFolder

Source = Callable[[int], tuple[Array, np.ndarray | None]]  # seed → images, and where they lie among the training images

# Seconds on two cores, for the ETA: only their ratios count
_EPOCH_COST = 2.8  # of the classifier
_FIGURES_COST = 5.9e-4  # for each of the n images
_CENTRES_COST = 4.1e-4  # likewise, in each round of k-means


def evaluate(
    run_path: Path,
    *,
    data_dir: Path | None = None,
    n: int = 10_000,
    seed: int = 0,
    seeds: int = 1,
    backend_name: str = "auto",
    quiet: bool = False,
) -> int:
    """Measures the run's latest checkpoint; writes evaluation.json and evaluation.png into the run. Returns 0.

    Each row takes n images, once for each of the seeds seed, seed + 1, …; the k-means centers once. Raises InputError.
    """
    if not 1 <= seeds <= 100:
        raise InputError(f"--seeds must be from 1 to 100, got {seeds}")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed must be from 0 to 2**32 - 1, got {seed}")
    start = time.perf_counter()
    console, problems = Console(quiet=quiet), Console(stderr=True)

    def report(line: str) -> None:
        problems.print(one_line(f"warning: {line}"), style="yellow", soft_wrap=True)

    backend = select(backend_name)
    run = RunFolder.open_existing(run_path)
    run.check_files(checkpoints=False)  # it writes there
    checkpoint = run.latest_checkpoint()
    train, test = _data_of(checkpoint, data_dir, run_path, report)
    check_sample_count(n, len(train.images))
    g = restore(checkpoint, backend).sampler
    epochs = epochs_left(train, RECIPE, backend) if train.labels is not None else 0
    with _steps(console, epochs, n, seeds, quiet) as steps:
        judge = Judge(train, test, backend, report, lambda line: steps.step(line, _EPOCH_COST))
        steps.step(f"classifier: {judge.accuracy:.2%} of the test images right", 1.0)
        rows: list[Row] = []

        def centres(line: str) -> None:
            steps.step(line, _CENTRES_COST * n)

        for name, source, count in _sources(checkpoint, g, judge, backend, n, centres):
            draws = []
            for number in range(seed, seed + min(count, seeds)):
                images, itself = source(number)
                figures, details = judge.figures(images, itself)
                draws.append(figures)
                if not rows and number == seed:
                    shown = to_numpy(images), details
                text = f"{name}: Parzen {figures.parzen.mean:.1f} nats, Fréchet {figures.frechet:.1f}"
                steps.step(text, _FIGURES_COST * n)
            rows.append(Row(name, draws))
    facts = _facts(checkpoint, run_path, train, judge, n, list(range(seed, seed + seeds)), backend, start)
    write_json(run_path / "evaluation.json", rows, facts)
    save_picture(run_path / "evaluation.png", *shown, to_numpy(judge.train), run)
    if not quiet:
        console.print(
            f"\n{run_path}, epoch {facts.epoch:g}, {facts.train_images:,} training images, seeds {seed} to {seed + seeds - 1}",
            soft_wrap=True,
        )  # fmt: skip
        for table in tables(rows, facts):
            console.print(table)
            console.print()
        console.print(
            f"{facts.seconds:.0f} s on {facts.device}; written: {run_path / 'evaluation.json'}, {run_path / 'evaluation.png'}",
            soft_wrap=True,
        )  # fmt: skip
    for line in warnings(rows, facts):
        report(line)
    return 0


def _steps(console: Console, epochs: int, n: int, seeds: int, quiet: bool) -> Steps:
    """Progress of the classifier's ``epochs``, its accuracy, k-means, and the figures: four rows for each seed, one alone."""
    figures = 4 * seeds + 1
    cost = epochs * _EPOCH_COST + 1.0 + n * (KMEANS_ITERATIONS * _CENTRES_COST + figures * _FIGURES_COST)
    return Steps(console, epochs + 1 + KMEANS_ITERATIONS + figures, cost, quiet)


def _sources(
    checkpoint: Checkpoint, g: Sequential, judge: Judge, backend: Backend, n: int, progress: Callable[[str], None]
) -> Iterator[tuple[str, Source, int]]:
    """What is measured: a name, images for a seed, and for how many seeds at most."""

    def real(seed: int) -> tuple[Array, np.ndarray | None]:
        places = which_real(judge.fair, n, seed)
        return judge.train[backend.to_device(places)], places

    def untrained(seed: int) -> tuple[Array, np.ndarray | None]:
        fresh = new_state(replace(checkpoint.config, seed=seed), backend).generator
        return from_generator(fresh, n, seed, backend), None

    many = 100
    yield "this run", lambda seed: (from_generator(g, n, seed, backend), None), many
    yield "real train", real, many
    yield "k-means centers", lambda seed: (kmeans_centers(judge.train[: judge.fair], n, seed, progress), None), 1
    yield "untrained", untrained, many
    yield "noise", lambda seed: (noise_images(n, seed, backend), None), many


def _data_of(
    checkpoint: Checkpoint, data_dir: Path | None, run_path: Path, report: Callable[[str], None]
) -> tuple[Dataset, Dataset]:
    """The data set that the run was trained on. Raises InputError when it is another one."""
    config, recorded = checkpoint.config, checkpoint.runtime
    data_dir = data_dir or (Path(folder) if (folder := recorded.get("data_dir")) else None)
    train, test = (load_dataset(config.dataset, data_dir, split, report) for split in ("train", "test"))
    if fingerprint(first_images(train, config.train_images)) != recorded.get("data_sha256"):
        raise InputError(f"{run_path}: the images are not those that the run was trained on ({train.source})")
    return train, test


def _facts(
    checkpoint: Checkpoint,
    run_path: Path,
    train: Dataset,
    judge: Judge,
    n: int,
    seeds: list[int],
    backend: Backend,
    start: float,
) -> Facts:
    config = checkpoint.config
    used = config.train_images or len(train.images)
    return Facts(
        run=str(run_path),
        checkpoint=checkpoint.path.name,
        step=checkpoint.step,
        epoch=round(checkpoint.step / iterations_per_epoch(used, config.batch_size), 3),
        train_images=used,
        fair=used <= judge.fair,
        dataset=config.dataset,
        n=n,
        test_images=len(judge.test),
        validation=(judge.fair, judge.fair + len(judge.validation)),
        seeds=seeds,
        classifier=judge.classifier.name,
        accuracy=judge.accuracy,
        seconds=round(time.perf_counter() - start, 1),
        device=backend.device,
    )
