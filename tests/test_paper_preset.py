"""``--preset paper-2014``: its networks' gradients, its optimiser, and a run that stops and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npgan.backend import Backend
from npgan.cli import main
from npgan.config import PRESETS, TrainConfig
from npgan.data.digits import render
from npgan.data.idx import write_idx
from npgan.nn.layers import DropoutKey, Maxout
from npgan.nn.optim import Momentum, optimiser_for
from npgan.gan import (
    PASS_D,
    PASS_G,
    discriminator_gradients,
    generator_gradients,
    iterate,
    loss_of,
    new_state,
    new_workspace,
    sample,
)

_PAPER = TrainConfig(dataset="digits", **{**PRESETS["paper-2014"], "batch_size": 6, "train_images": None})
_RNG = np.random.default_rng(8)


def _along_directions(loss_at: object, parameters: np.ndarray, gradients: np.ndarray) -> None:
    start, h = parameters.copy(), 1e-6
    for _ in range(3):
        u = _RNG.standard_normal(parameters.size) / parameters.size**0.5
        losses = []
        for sign in (1, -1):
            parameters[:] = start + sign * h * u
            losses.append(loss_at())  # type: ignore[operator]
        parameters[:] = start
        assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(float(gradients @ u), rel=1e-4, abs=1e-9)


def test_both_steps_gradients_by_finite_differences(backend: Backend) -> None:
    state = new_state(_PAPER, backend, np.float64)
    g, d, loss = state.generator, state.discriminator, loss_of(_PAPER)
    w = new_workspace(state, _PAPER, 6)
    images, key_d, key_g = _RNG.uniform(-1, 1, (12, 784)), DropoutKey(0, 0, PASS_D), DropoutKey(0, 0, PASS_G)
    discriminator_gradients(d, loss, images, w.target_d, key_d, w.discriminator_d)
    _along_directions(lambda: loss.forward(d.forward(images, key_d)[0], w.target_d), d.parameters, d.gradients.copy())
    latent = _RNG.standard_normal((6, 100))
    fakes, caches = g.forward(latent)
    generator_gradients(g, d, loss, fakes, caches, w.target_g, key_g)
    _along_directions(
        lambda: loss.forward(d.forward(sample(g, latent), key_g)[0], w.target_g), g.parameters, g.gradients.copy()
    )


def test_maxout_must_divide_the_width() -> None:
    assert Maxout(5).output_width(1200) == 240
    with pytest.raises(ValueError, match="Maxout"):
        Maxout(5).output_width(1201)


def test_momentum_and_learning_rate_follow_their_schedules() -> None:
    """lr 0.1 divided by 2 after each step, momentum 0.5 → 0.7 over two steps, gradient 1 all the time."""
    config = replace(_PAPER, lr_decay=2.0, momentum_steps=2)
    parameters = np.zeros(3)
    optimiser = optimiser_for(config, parameters, 0.1)
    assert isinstance(optimiser, Momentum)
    expected, m = 0.0, 0.0
    for lr, momentum in ((0.1, 0.5), (0.05, 0.6), (0.025, 0.7), (0.0125, 0.7)):
        m = momentum * m - lr
        expected += m
        assert optimiser.update(parameters, np.ones(3)) == pytest.approx(3**0.5)
        np.testing.assert_allclose(parameters, expected, rtol=1e-14)


def test_it_trains(backend: Backend) -> None:
    images = render(60, 1)[0].reshape(60, 784)
    state, losses = new_state(_PAPER, backend), []
    for metrics in iterate(state, images, _PAPER):
        losses.append(float(metrics.loss_d))
        if len(losses) == 20:
            break
    assert np.isfinite(losses).all() and min(losses[10:]) < losses[0]


def test_stopped_and_resumed_it_is_the_same_run(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_idx(data / "train-images-idx3-ubyte", render(40, 1)[0])
    flags = ["--backend", "numpy", "--quiet"]
    new = [*flags, "--preset", "paper-2014", "--data-dir", str(data), "--train-images", "32", "--batch-size", "8"]
    assert main(["train", *new, "--epochs", "2", "--out", str(tmp_path / "whole")]) == 0
    assert main(["train", *new, "--epochs", "1", "--out", str(tmp_path / "parts")]) == 0
    assert main(["train", *flags, "--resume", str(tmp_path / "parts"), "--epochs", "2"]) == 0
    whole, parts = (tmp_path / name / "checkpoints" / "step-000000008.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    config = TrainConfig.from_json((tmp_path / "whole" / "config.json").read_text())
    assert (config.networks, config.optimiser, config.batch_size, config.train_images) == ("paper-2014", "sgd", 8, 32)


def test_every_field_that_was_added_may_be_missing_from_an_old_config() -> None:
    old = {name: value for name, value in TrainConfig().to_dict().items() if name not in ("networks", "train_images")}
    assert TrainConfig.from_dict(old) == TrainConfig()
