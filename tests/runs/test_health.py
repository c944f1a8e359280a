"""A loss or gradient that is not finite is traced to its first tensor; signs of collapse are told once, and not too early."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from npgan.runs.health import collapse_signs, samples_alike, spread, what_is_normal

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
    assert list(collapse_signs(history(10, **values), 469, CONFIG, 1_486_352)) == [sign]
    assert not collapse_signs(history(9, **values), 469, CONFIG, 1_486_352)
    assert not collapse_signs(
        history(100, per_epoch=5, **values), 5, CONFIG, 1_486_352
    )  # 500 iterations are early days
    assert not collapse_signs(history(9, **values) + history(1), 469, CONFIG, 1_486_352)


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
    assert sign not in collapse_signs(history(10, **below), 469, CONFIG, 1_486_352)
    assert sign in collapse_signs(history(10, **above), 469, CONFIG, 1_486_352)
    assert sign not in collapse_signs(history(99, per_epoch=40, **above), 40, CONFIG, 1_486_352)  # 3,960 iterations
    assert sign in collapse_signs(history(100, per_epoch=40, **above), 40, CONFIG, 1_486_352)


def test_a_healthy_run_shows_no_sign() -> None:
    """The first epochs of MNIST with the tutorial's settings, as measured: D is nearly perfect, then G catches up."""
    d_real = [0.959, 0.998, 0.975, 0.923, 0.908, 0.931, 0.923, 0.916, 0.899, 0.876, 0.869, 0.851]
    d_fake = [0.090, 0.002, 0.026, 0.094, 0.113, 0.082, 0.088, 0.094, 0.109, 0.131, 0.138, 0.154]
    norms = [25.5, 17.1, 15.2, 17.3, 18.3, 16.9, 13.9, 12.8, 10.3, 8.9, 7.0, 6.3]
    lines = [
        {"epoch": n + 1, "step": 469 * (n + 1), "d_real": real, "d_fake": fake, "grad_norm_g": norm}
        for n, (real, fake, norm) in enumerate(zip(d_real, d_fake, norms, strict=True))
    ]
    assert not [sign for n in range(len(lines)) for sign in collapse_signs(lines[: n + 1], 469, CONFIG, 1_486_352)]


def test_samples_that_are_all_alike() -> None:
    different = np.random.default_rng(0).uniform(-1, 1, (64, 784))
    alike = different[:1] + 0.01 * different
    assert samples_alike(alike, spread(different), 5000)
    assert samples_alike(alike, spread(different), 100) is None  # a net that has hardly begun
    assert samples_alike(0.3 * different, spread(different), 5000) is None


def test_a_warning_is_printed_once_also_when_the_run_is_resumed(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        run_module, "collapse_signs", lambda history, *others: {"x": "a sign"} if len(history) > 1 else {}
    )
    monkeypatch.setattr(run_module, "samples_alike", lambda *others: None)
    assert train("--out", tmp_path / "run", "--checkpoint-every", "100") == 0
    assert capsys.readouterr().out.count("a sign") == 1
    assert train("--resume", tmp_path / "run", "--epochs", "5") == 0
    assert "a sign" not in capsys.readouterr().out


def test_what_is_normal_is_said_of_the_tutorials_recipe_on_mnist_alone() -> None:
    normal = what_is_normal(TrainConfig(), 60_000, 0)
    assert normal is not None and normal.startswith("D leads for the first 10 epochs")
    assert what_is_normal(TrainConfig(epochs=12, seed=3, output_period=2, eval_every=4), 60_000, 9) == normal
    for other in ({"lr_d": 1e-4}, {"loss": "bce-logits"}, {"dataset": "digits"}, {"train_images": 50_000}):
        assert what_is_normal(TrainConfig(**other), 60_000, 0) is None
    assert what_is_normal(TrainConfig(), 40, 0) is None
    assert what_is_normal(TrainConfig(), 60_000, 10) is None
