"""What a run writes down is what its iterations measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npgan.backend import select
from npgan.config import TrainConfig
from npgan.data.mnist import load_dataset
from npgan.engines import Compute
from npgan.engines.base import ReferenceEngine
from npgan.gan import StepMetrics, TrainState, new_state
from npgan.runs.folder import Keeping
from npgan.runs.train import DataChoice, FolderChoice, Request
from npgan.runs.train import train as train_run


def test_a_line_of_metrics_is_the_mean_of_the_epochs_iterations(whole: Path, data: Path) -> None:
    config = TrainConfig.from_json((whole / "config.json").read_text(encoding="utf-8"))
    images = load_dataset("mnist", data).images
    metrics = ReferenceEngine(new_state(config, select("numpy")), images, config).run(4 * 2)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 2), (2, 4), (3, 6), (4, 8)]
    for line, expected in zip(lines, metrics.reshape(4, 2, 6).mean(axis=1), strict=True):
        np.testing.assert_allclose([line[name] for name in StepMetrics._fields], expected, rtol=1e-12)
        assert line["images_per_second"] == pytest.approx(16 / line["seconds"], rel=0.05)


def test_a_checkpoint_on_disk_has_its_epochs_lines_on_disk(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the curves have no gap: the lines are flushed before a checkpoint gets its name."""
    metrics, flushed, lines = tmp_path / "run" / "metrics.jsonl", [0], {}
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        if metrics.exists() and os.path.samestat(os.fstat(descriptor), metrics.stat()):
            flushed.append(len(metrics.read_bytes().splitlines()))

    def rename(old: Path, new: Path) -> None:
        lines[Path(new).name] = flushed[-1]
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    assert train("--out", tmp_path / "run") == 0
    saved = {name: count for name, count in lines.items() if name.startswith("step-")}
    assert list(saved.values()) == [0, 1, 2, 3, 4]


class _Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def observe(self, state: TrainState, epoch: int) -> str:
        self.seen.append((epoch, state.step))
        return f"seen after {epoch}"


@pytest.mark.parametrize(("every", "seen"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (5, [5]), (6, []), (None, [])])
def test_when_a_run_is_evaluated(data: Path, tmp_path: Path, every: int | None, seen: list[int]) -> None:
    observer = _Observer()
    config: dict[str, Any] = {"epochs": 5, "batch_size": 16, "eval_every": every}
    request = Request(
        config,
        DataChoice("mnist", data),
        FolderChoice(tmp_path / "run"),
        Compute("numpy", kernels="reference"),
        quiet=True,
    )
    assert train_run(request, lambda *arguments: observer) == 0
    assert observer.seen == [(epoch, epoch) for epoch in seen]


@pytest.mark.parametrize(
    ("keeping", "words"),
    [
        (Keeping(), "every minute, at an epoch's end; kept: the last 3, and one every 100 epochs (at most 20)"),
        (Keeping(every=1), "after every epoch; kept: the last 3, and one every 100 epochs (at most 20)"),
        (Keeping(every=2, last=5), "every 2 epochs; kept: the last 5, and one every 100 epochs (at most 20)"),
    ],
)
def test_the_header_says_which_checkpoints_there_will_be(keeping: Keeping, words: str) -> None:
    assert keeping.describe(100) == words
