"""The report says what the runs' files say: on six small runs, of which two are dead and one has diverged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from npgan.backend import select
from npgan.config import TrainConfig
from npgan.console import Console
from npgan.engines.base import ReferenceEngine
from npgan.gan import new_state
from npgan.runs.health import first_dead
from npgan.runs.pictures import save_grid
from npgan.sweep.examine import Outcome
from npgan.sweep.plan import Plan, Run, runs_of
from npgan.sweep.report import write_report
from npgan.sweep.results import settings_of

PLAN = Plan({"tutorial": {"epochs": 3}, "a|b": {"epochs": 3, "beta1": 0.5}}, [0, 1, 2])
FIRST = "discriminator: gradient of the input of layer 10 (Sigmoid) (G step)"


@pytest.fixture
def outcomes(tmp_path: Path) -> dict[Run, Outcome]:
    found = {}
    for run in runs_of(PLAN, "digits", tmp_path / "out"):
        dead = run.setting == "tutorial" and run.seed < 2
        (run.folder / "samples").mkdir(parents=True)
        noise = np.random.default_rng(run.seed).uniform(-1, 1, (64, 784))
        save_grid(noise, run.folder / "samples" / "epoch-00003.png")
        lines = [_line(epoch, gradient=1e-5 if dead and epoch > 1 else 3.0) for epoch in (1, 2, 3)]
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        scores = {"epoch": 3, "step": 3, "parzen": 100.0 + run.seed, "frechet": 50.0 + 2 * run.seed}
        (run.folder / "evaluation.jsonl").write_text(json.dumps(scores) + "\n")
        found[run] = Outcome("finished", "", 3, "ab", 1e-5 if dead else 3.0, FIRST if dead else "")
    last = list(found)[-1]
    found[last] = Outcome("diverged", "in iteration 3", 2, "ab", None, "generator: noise")
    return found


def _line(epoch: int, gradient: float) -> dict[str, Any]:
    numbers = {"loss_d": 0.1 * epoch, "loss_g": 2.0, "d_real": 0.5, "d_fake": 0.5, "grad_norm_d": 1.0}
    return {"epoch": epoch, "step": epoch, **numbers, "grad_norm_g": gradient, "seconds": 1.0, "images_per_second": 1.0}


def test_the_four_files(tmp_path: Path, outcomes: dict[Run, Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_report(tmp_path / "out", PLAN, outcomes, Console(width=200))
    values = json.loads(paths[0].read_text())
    tutorial, other = values["settings"]
    assert (tutorial["alive"], tutorial["runs"], other["alive"]) == (1, 3, 2)
    assert tutorial["wilson"] == pytest.approx(_wilson(1, 3)) and other["wilson"] == pytest.approx(_wilson(2, 3))
    assert tutorial["frechet"] == {"mean": 52.0, "deviation": 2.0, "of": 3}
    first = values["runs"][0]
    assert (first["folder"], first["alive"], first["died_in_epoch"], first["dead"]) == (
        "tutorial/seed-0",
        False,
        1,
        FIRST,
    )
    markdown = paths[1].read_text()
    assert "| tutorial | 1 of 3 | 33% | 6% to 79% | 52.0 ± 2.0 | 101.0 ± 1.0 |" in markdown
    assert "| a\\|b | 2 | 3 | generator: noise, not finite in iteration 3 | – |" in markdown
    page = paths[2].read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and "http-equiv" not in page and FIRST in page and "beta1 0.5" in page
    assert not [word for word in ('src="http', "<script", '<link rel="stylesheet') if word in page]
    with Image.open(paths[3]) as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 10
    shown = capsys.readouterr().out
    assert "6% to 79%" in shown and "dead runs" in shown


def _wilson(alive: int, runs: int) -> tuple[float, float]:
    """Wilson 1927, "Probable inference, the law of succession, and statistical inference"."""
    z, p = norm.ppf(0.975), alive / runs
    middle, half = p + z * z / (2 * runs), z * (p * (1 - p) / runs + z * z / (4 * runs * runs)) ** 0.5
    return (middle - half) / (1 + z * z / runs), (middle + half) / (1 + z * z / runs)


def test_runs_that_have_not_ended_do_not_count(outcomes: dict[Run, Outcome]) -> None:
    stopped = {run: Outcome("stopped") if run.seed == 0 else outcome for run, outcome in outcomes.items()}
    tutorial, other = settings_of(PLAN, stopped)
    assert len(tutorial.runs) == len(other.runs) == 2
    none = settings_of(PLAN, {})[0]
    assert none.interval == (0.0, 1.0) and none.spread("parzen") is None


@pytest.mark.parametrize(("loss", "first"), [("bce", "layer 10 (Sigmoid)"), ("bce-logits", None)])
def test_the_first_dead_tensor_of_a_d_that_is_sure(loss: str, first: str | None) -> None:
    """With every fake at p = e⁻³⁰ the cross-entropy on probabilities is flat, and the one on logits is not."""
    config = TrainConfig(dataset="digits", batch_size=8, loss=loss, lr_d=1e-12)
    state = new_state(config, select("numpy"))
    state.discriminator.tensors["9.bias"][...] = -30.0
    engine = ReferenceEngine(state, np.zeros((8, 784), np.uint8), config)
    engine.run(1)
    found = first_dead(engine.tensors())
    if first is None:
        assert found is None
    else:
        assert found == ("discriminator", f"gradient of the input of {first} (G step)")
