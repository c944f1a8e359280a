"""A loss or gradient that is not finite is traced to its first tensor; signs of collapse are told once, and not too early."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import after_steps

from npgan.backend import select
from npgan.config import TrainConfig
from npgan.gan import TrainState, new_state
from npgan.runs import train as run_module
from npgan.runs.checkpoint import NotFinite, save
from npgan.runs.health import CollapseWatch

Train = Callable[..., int]
CONFIG = TrainConfig(dataset="digits")


@pytest.mark.parametrize("seconds", [0.0, 1.0], ids=["one by one", "several in a call"])
@pytest.mark.parametrize("kernels", ["reference", "fused"])
@pytest.mark.parametrize(
    ("net", "tensor", "told"),
    [
        ("generator", "4.weight", "generator's output of layer 4 (Dense)"),
        ("discriminator", "3.bias", "discriminator's output of layer 3 (Dense)"),
    ],
)
def test_the_first_tensor_is_named(
    train: Train, tmp_path: Path, net: str, tensor: str, told: str, kernels: str, seconds: float,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if kernels == "fused":
        pytest.importorskip("numba")

    def poison(state: TrainState) -> None:
        getattr(state, net).tensors[tensor].flat[0] = np.nan

    monkeypatch.setattr(run_module, "choose", after_steps(run_module.choose, {3: poison}))
    monkeypatch.setattr(run_module, "SECONDS_PER_CALL", seconds)
    run = tmp_path / "run"
    assert train("--out", run, "--kernels", kernels) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"in iteration 4 the {told}" in line
    assert "step-000000002.safetensors" in line  # the last good checkpoint
    diagnosis = json.loads((run / "checkpoints/diagnosis-step-000000004.json").read_text())
    assert (diagnosis["step"], diagnosis["net"]) == (4, net)
    assert diagnosis["recent"][-1]["loss_d"] == "nan"
    assert sorted(path.name for path in (run / "checkpoints").glob("step-*"))[-1] == "step-000000002.safetensors"


def test_learning_rates_that_are_far_too_high(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--lr-g", "1e6", "--lr-d", "1e6", "--loss", "bce-logits", "--epochs", "40", "--checkpoint-every", "100")
    assert train("--out", tmp_path / "run", *flags) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "training diverged" in error


@pytest.mark.parametrize("kernels", ["reference", "fused"])
def test_an_engine_that_has_gone_on_finds_the_first_tensor_too(
    train: Train, tmp_path: Path, kernels: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Iterations 4 to 7 are one call of the engine, and 4 diverges: it is done once more from the last checkpoint."""
    if kernels == "fused":
        pytest.importorskip("numba")

    def poison(state: TrainState) -> None:
        state.generator.tensors["2.weight"].flat[0] = np.nan

    monkeypatch.setattr(run_module, "choose", after_steps(run_module.choose, {3: poison}))
    monkeypatch.setattr(run_module, "SECONDS_PER_CALL", 100.0)
    run = tmp_path / "run"
    assert train("--out", run, "--kernels", kernels, "--batch-size", "2", "--checkpoint-every", "100") == 1
    assert "in iteration 4 the generator's output of layer 2 (Dense)" in capsys.readouterr().err
    diagnosis = json.loads((run / "checkpoints/diagnosis-step-000000004.json").read_text())
    assert diagnosis["step"] == diagnosis["recent"][-1]["step"] == 4
    assert diagnosis["tensors_after_the_update"]["generator.0.weight"]["not_finite"] > 0


def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    state = new_state(CONFIG, select("numpy"))
    state.optimizer_g.v[5] = np.inf
    with pytest.raises(NotFinite, match=r"generator\.adam\.v"):
        save(tmp_path / "a.safetensors", state, CONFIG, {}, np.zeros(6))
    assert list(tmp_path.iterdir()) == []


def history(epochs: int, per_epoch: int = 469, **values: float) -> list[dict[str, Any]]:
    healthy = {"d_real": 0.7, "d_fake": 0.3, "grad_norm_g": 2.0}
    return [{"epoch": n, "step": n * per_epoch, **healthy, **values} for n in range(1, epochs + 1)]


def signs(lines: list[dict[str, Any]], per_epoch: int = 469) -> list[list[str]]:
    """After each of the epochs."""
    watch = CollapseWatch(per_epoch, CONFIG, 1_486_352)
    return [list(watch.epoch(line)) for line in lines]


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        ({"d_real": 0.999, "d_fake": 0.001}, "D wins"),
        ({"d_fake": 0.99}, "D is fooled"),
        ({"d_real": 0.01, "d_fake": 0.01}, "D rejects all"),
        ({"grad_norm_g": 1e-6}, "G's gradient vanishes"),
    ],
)
def test_signs_of_collapse(values: dict[str, float], sign: str) -> None:
    assert signs(history(11, **values)) == [[]] * 9 + [[sign]] * 2
    assert not any(signs(history(100, per_epoch=5, **values), 5))  # 500 iterations are early days
    assert signs(history(800, per_epoch=5, **values), 5)[-2:] == [[], [sign]]
    assert not any(signs(history(9, **values) + history(1) + history(9, **values)))


@pytest.mark.parametrize(
    ("loss", "words"), [("bce", "bce-logits"), ("bce-logits", "--r1"), ("relativistic", "--r1 and")]
)
def test_what_is_advised_goes_with_the_loss(loss: str, words: str) -> None:
    watch = CollapseWatch(469, replace(CONFIG, loss=loss), 1_486_352)
    told = [watch.epoch(line) for line in history(10, d_real=0.999, d_fake=0.001)][-1]["D wins"]
    assert words in told and (loss != "relativistic" or "smoothing" not in told)


def iterations(count: int, loss_g: float, norm: float) -> np.ndarray:
    return np.array([[1e-3, loss_g, 0.99, 1e-8, 0.01, norm]] * count)


def test_a_dead_gradient_is_told_in_the_epoch_in_which_it_dies() -> None:
    watch = CollapseWatch(469, CONFIG, 1_486_352)
    assert watch.iterations(1, iterations(170, 12.0, 24.0)) == {}
    assert watch.iterations(171, iterations(99, 15.94, 4e-4)) == {}
    told = watch.iterations(270, iterations(1, 15.94, 4e-4))
    assert list(told) == ["G is dead"]
    assert "from iteration 171 on, or before, it is below 0.01. D gives" in told["G is dead"]
    assert "npgan train --preset r3gan --seed 0 --epochs 1000" in told["G is dead"]
    lines = history(20, d_real=0.9999, d_fake=1e-9, grad_norm_g=6e-6)
    assert not any(watch.epoch(line) for line in lines)  # what D's means show then has been told


@pytest.mark.parametrize(
    ("before", "metrics", "config"),
    [
        (99, iterations(1, 15.8, 4.0), CONFIG),  # near the ceiling, and back: it lives
        (0, iterations(300, 14.9, 4e-4), CONFIG),  # small for some other reason
        (0, iterations(300, 15.94, 1.1e-2), CONFIG),
        (0, iterations(300, 15.94, 4e-4), replace(CONFIG, loss="bce-logits")),  # which has no ceiling
    ],
)
def test_what_is_no_dead_gradient(before: int, metrics: np.ndarray, config: TrainConfig) -> None:
    watch = CollapseWatch(469, config, 1_486_352)
    watch.iterations(1, iterations(before, 15.94, 4e-4) if before else metrics[:1])
    assert watch.iterations(before + 1, metrics) == {}
    assert watch.iterations(before + len(metrics) + 1, iterations(50, 15.0, 2.0)) == {}


@pytest.mark.parametrize(
    ("below", "above", "sign"),
    [
        ({"d_real": 0.979, "d_fake": 0.001}, {"d_real": 0.981, "d_fake": 0.001}, "D wins"),
        ({"d_real": 0.999, "d_fake": 0.021}, {"d_real": 0.999, "d_fake": 0.019}, "D wins"),
        ({"d_fake": 0.98}, {"d_fake": 0.9801}, "D is fooled"),
        ({"d_real": 0.021}, {"d_real": 0.019}, "D rejects all"),
        ({"grad_norm_g": 1.23e-5}, {"grad_norm_g": 1.21e-5}, "G's gradient vanishes"),  # 1e-8·√1,486,352 = 1.22e-5
    ],
)
def test_where_a_sign_begins(below: dict[str, float], above: dict[str, float], sign: str) -> None:
    assert sign not in signs(history(10, **below))[-1]
    assert sign in signs(history(10, **above))[-1]
    assert sign not in signs(history(99, per_epoch=40, **above), 40)[-1]  # 3,960 iterations
    assert sign in signs(history(100, per_epoch=40, **above), 40)[-1]
