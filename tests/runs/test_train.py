"""What a run writes down is what its iterations measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from npgan.backend import select
from npgan.config import TrainConfig
from npgan.data.mnist import load_dataset
from npgan.engines.base import ReferenceEngine
from npgan.gan import StepMetrics, new_state


def test_a_line_of_metrics_is_the_mean_of_the_epochs_iterations(whole: Path, data: Path) -> None:
    config = TrainConfig.from_json((whole / "config.json").read_text(encoding="utf-8"))
    images = load_dataset("mnist", data).images
    metrics = ReferenceEngine(new_state(config, select("numpy")), images, config).run(4 * 2)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 2), (2, 4), (3, 6), (4, 8)]
    for line, expected in zip(lines, metrics.reshape(4, 2, 6).mean(axis=1), strict=True):
        np.testing.assert_allclose([line[name] for name in StepMetrics._fields], expected, rtol=1e-12)
        assert line["images_per_second"] == pytest.approx(16 / line["seconds"], rel=0.05)
