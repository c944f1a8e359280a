"""The lab's GAN: its steps are ``train_step``'s, back is exactly back, and what is drawn is what was computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from npgan.config import PRESETS, TrainConfig
from npgan.gan import TrainState, train_step
from npgan.inspector import inspect_step
from npgan.inspector.history import next_batch
from npgan.inspector.trace import copied
from npgan.nn.layers import DropoutKey
from npgan.play.learner import Learner, Which, first_state
from npgan.play.points import MODES, POINTS, SHAPES, SPREAD, energy_distance, mean_distance, modes_found, points_of
from npgan.play.settings import LABELS, LIVE, LabConfig, controls, presets, read
from npgan.play.slow import slow_motion

SMALL = {"hidden_g": "8, 4", "hidden_d": "8", "batch_size": "16"}


def _learner(preset: str = "r3gan", **texts: str) -> Learner:
    return Learner(*read({**presets()[preset], **SMALL, **texts}))


def _bytes(state: TrainState) -> list[bytes]:
    average = state.average.parameters.tobytes() if state.average else b""
    return [*_of_d(state), *_of_g(state), average, bytes(state.step)]


def _of_d(state: TrainState) -> list[bytes]:
    adam = state.optimizer_d
    return [array.tobytes() for array in (state.discriminator.parameters, adam.m, adam.v)] + [bytes(adam.step)]


def _of_g(state: TrainState) -> list[bytes]:
    adam = state.optimizer_g
    return [array.tobytes() for array in (state.generator.parameters, adam.m, adam.v)] + [bytes(adam.step)]


@pytest.mark.parametrize("preset", ["tutorial", "r3gan"])
def test_its_steps_are_those_of_train_step(preset: str) -> None:
    learner = _learner(preset, batch_size="600")  # the last batch of an epoch is shorter
    state = first_state(learner.lab, learner.config)
    for step in range(5):
        metrics = train_step(state, next_batch(learner.data, learner.config, step), learner.config)
        assert learner.step() == metrics
        assert _bytes(learner.state) == _bytes(state)


@pytest.mark.parametrize("preset", ["tutorial", "r3gan"])
def test_a_step_of_one_network_is_that_half_of_train_step(preset: str) -> None:
    learner = _learner(preset)
    learner.step()
    before, whole = copied(learner.state), copied(learner.state)
    train_step(whole, learner.batch(), learner.config)
    learner.step("D")
    after_d = copied(learner.state)
    assert np.array_equal(after_d.discriminator.parameters, whole.discriminator.parameters)
    assert np.array_equal(after_d.sampler.parameters, before.sampler.parameters)
    assert _of_g(after_d) == _of_g(before) and _of_d(after_d) == _of_d(whole) != _of_d(before)
    learner.step("G")
    assert _of_d(learner.state) == _of_d(after_d) and _of_g(learner.state) != _of_g(after_d)
    assert learner.state.step == 3


def test_back_is_exactly_back_through_all_that_was_changed() -> None:
    learner = _learner()
    kinds: tuple[Which, ...] = ("both", "D", "G", "both", "both")
    seen = [(_bytes(learner.state), learner.metrics)]
    for step in range(150):
        if step % 40 == 20:
            learner.rates = 1e-3 / (step + 1), 2e-3
        learner.step(kinds[step // 3 % 5])
        seen.append((_bytes(learner.state), learner.metrics))
    for step in [*range(149, 110, -1), *range(110, 0, -20)]:
        while learner.state.step > step:
            learner.back()
        assert (_bytes(learner.state), learner.metrics) == seen[step]
    learner.step()
    for _ in range(20):
        learner.back()
    assert (_bytes(learner.state), learner.metrics) == seen[0] and learner.metrics is None


def test_few_states_are_kept_of_many_steps() -> None:
    learner = _learner(hidden_g="1", hidden_d="1", batch_size="1")
    for step in range(0, 100_000, 32):
        learner.state.step = step
        learner._keep()
    assert len(learner._kept) < 200 and max(learner._kept) == step // 32 and 0 in learner._kept


@pytest.mark.parametrize("preset", ["tutorial", "r3gan"])
def test_arrows_are_the_gradient_that_train_step_hands_to_g(preset: str) -> None:
    learner = _learner(preset)
    learner.step()
    trace = inspect_step(learner.state, learner.batch(), learner.config)
    learner.state.discriminator = trace.after.discriminator
    learner._real = trace.images[: len(trace.images) // 2]
    assert np.array_equal(learner.gradient_at(trace.samples), trace.dsamples)


@pytest.mark.slow
def test_the_default_settings_find_all_gaussians_and_the_tutorials_do_not() -> None:
    def most(preset: str, steps: int) -> int:
        learner, found = Learner(*read(presets()[preset])), 0
        while learner.state.step < steps and found < 8:
            learner.step()
            if learner.state.step % 100 == 0:
                found = max(found, learner.measures().modes or 0)
        return found

    assert most("r3gan", 3000) == 8
    assert most("tutorial", 1500) <= 4


def test_a_sample_of_each_shape_lies_on_it() -> None:
    for shape in SHAPES[:-1]:
        points = points_of(shape, 0)
        assert points.shape == (POINTS, 2) and points.dtype == np.float32 and np.abs(points).max() < 1.2
        assert not np.array_equal(points, points_of(shape, 1))
    assert modes_found(points_of("eight Gaussians", 0)) == (
        8,
        pytest.approx(1 - np.exp(-4.5), abs=0.01),
    )  # of 3 σ in the plane
    drawn = points_of("drawn", 0, np.array([[0.5, 0.5], [-0.5, 0.0]]))
    assert sorted(np.unique(np.rint(2 * drawn[:, 0]))) == [-1, 1]
    with pytest.raises(ValueError, match="drawn"):
        points_of("drawn", 0)


def test_a_gaussian_needs_a_quarter_of_its_share() -> None:
    at = np.repeat(MODES, 32, axis=0)
    assert modes_found(at) == (8, 1.0)
    far = at.copy()
    far[:25] = 9.0  # 7 of the first one's 32 are left
    assert modes_found(far)[0] == 7
    assert modes_found(np.repeat(MODES[:1] + 3.1 * SPREAD, 8, axis=0)) == (0, 0.0)


def test_the_energy_distance_of_two_pairs_of_points() -> None:
    x, y = np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [3.0, 0.0]])
    within = mean_distance(y, y)
    assert within == 0.0
    assert energy_distance(x, y, within) == pytest.approx(2 * (3 + 13**0.5) / 2 - 1.0)
    assert energy_distance(x, x, mean_distance(x, x)) == pytest.approx(0.0)


def test_controls_are_config_fields_and_the_defaults_a_preset() -> None:
    texts = {each["name"]: each["value"] for each in controls()}
    lab, config = read(texts)
    assert lab == LabConfig()
    assert config == TrainConfig(latent_dim=2, **PRESETS["r3gan"])
    assert read({**texts, **presets()["tutorial"]})[1] == TrainConfig(latent_dim=2)
    assert {each["name"] for each in controls() if each["live"]} == set(LIVE) <= set(LABELS)


@pytest.mark.parametrize("which", ["both", "D", "G"])
def test_slow_motion_tells_every_operation_with_its_proof(which: Which) -> None:
    learner = _learner("tutorial", dropout_in_g_step="true")
    learner.step()
    before = _bytes(learner.state)
    told = slow_motion(learner, which)
    assert _bytes(learner.state) == before
    trace = learner.trace(which)
    assert [(op["where"], op["source"]) for op in told["ops"]] == [
        (op.where, f"{op.source.file}:{op.source.line}") for op in trace.ops
    ]
    assert {op["step"][0] for op in told["ops"]} == ({"D", "G"} if which == "both" else {which})
    verdicts = [text for op in told["ops"] for text in op["verdicts"]]
    assert verdicts and all(text.startswith("✓") for text in verdicts)
    for op in told["ops"]:
        assert op["formula"] and op["code"] and op["tensors"] and op["lit"] and told["pictures"][op["picture"]]
        if "_backward" in op["name"]:
            assert op["verdicts"], op["name"]


def test_dropout_is_on_where_it_is_set() -> None:
    learner = _learner("tutorial", dropout="0.5")
    x = np.ones((4, 2), np.float32)
    d = learner.state.discriminator
    assert not np.array_equal(d.forward(x)[0], d.forward(x, DropoutKey(0, 0, 0))[0])


def test_a_picture_and_measures_of_what_is_not_finite() -> None:
    learner = _learner()
    learner.state.generator.parameters[...] = np.nan
    with np.errstate(all="ignore"):
        measures: Any = learner.measures()
        picture = learner.picture()
    assert np.isnan(measures.distance) and measures.modes is None and np.isnan(picture.fake).all()
