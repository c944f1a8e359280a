"""The training step: what each half leaves alone, repeatability, options, and golden losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from npgan.backend import Backend
from npgan.config import TrainConfig
from npgan.data.digits import render
from npgan.engines.base import ReferenceEngine
from npgan.gan import (
    LATENT_D,
    LATENT_G,
    PASS_D,
    StepMetrics,
    TrainState,
    discriminator,
    generator,
    loss_of,
    new_state,
    noise,
    train_step,
)  # fmt: skip
from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU, Maxout, Sigmoid, Tanh
from npgan.nn.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam

_IMAGES = render(200, 1)[0].reshape(200, 784)


def test_the_parameter_counts_are_the_tutorials() -> None:
    g, d = generator(), discriminator()
    assert (g.parameters.size, d.parameters.size) == (1_486_352, 1_460_225)
    assert [layer.out_features for layer in g.layers if isinstance(layer, Dense)] == [256, 512, 1024, 784]
    assert [layer.out_features for layer in d.layers if isinstance(layer, Dense)] == [1024, 512, 256, 1]
    assert [type(layer) for layer in d.layers[:3]] == [Dense, LeakyReLU, Dropout]


def test_the_last_layers_are_as_the_loss_wants_them() -> None:
    assert isinstance(discriminator().layers[-1], Sigmoid)
    assert isinstance(discriminator(TrainConfig(loss="bce-logits")).layers[-1], Dense)
    assert isinstance(generator().layers[-1], Tanh)


def test_the_tutorials_numbers(backend: Backend) -> None:
    """Written out here and not imported: a constant that changes by itself changes what is trained."""
    state = new_state(TrainConfig(), backend)
    layers = [*state.generator.layers, *state.discriminator.layers]
    assert [layer.slope for layer in layers if isinstance(layer, LeakyReLU)] == [0.2] * 6
    assert [layer.rate for layer in layers if isinstance(layer, Dropout)] == [0.3] * 3
    for adam in (state.optimizer_g, state.optimizer_d):
        assert (adam.lr, adam.beta1, adam.beta2, adam.epsilon) == (2e-4, 0.9, 0.999, 1e-8)
    loss, epsilon, zero, one = loss_of(TrainConfig()), 1.1920929e-07, np.zeros((1, 1)), np.ones((1, 1))
    np.testing.assert_allclose([loss.forward(zero, one), loss.forward(one, zero)], -np.log(epsilon), rtol=1e-9)
    np.testing.assert_allclose([-loss.backward(zero, one), loss.backward(one, zero)], 1.0 / epsilon, rtol=1e-9)


def test_the_settings_reach_both_optimizers(backend: Backend) -> None:
    state = new_state(TrainConfig(lr_g=1e-3, lr_d=3e-3, beta1=0.5, beta2=0.99, adam_epsilon=1e-4), backend)
    for adam, lr in ((state.optimizer_g, 1e-3), (state.optimizer_d, 3e-3)):
        assert (adam.lr, adam.beta1, adam.beta2, adam.epsilon) == (lr, 0.5, 0.99, 1e-4)


def test_the_metrics_are_what_their_names_say(backend: Backend, config: TrainConfig) -> None:
    """Of D before its update and with dropout on, worked out here from the forwards; with fewer real rows than fakes of G."""
    config = replace(config, seed=5, label_smoothing=0.1)
    state, before = (new_state(config, backend, np.float64) for _ in range(2))
    pixels = _IMAGES[:6]
    metrics = train_step(state, pixels, config)
    real, fake = pixels / 127.5 - 1.0, before.generator(noise(before, config, LATENT_D, 6))
    p, _ = before.discriminator.forward(np.concatenate([real, fake]), DropoutKey(config.seed, 0, PASS_D))
    assert metrics.d_real == pytest.approx(p[:6].mean(), rel=1e-12)
    assert metrics.d_fake == pytest.approx(p[6:].mean(), rel=1e-12)
    log_likelihood = 0.9 * np.log(p[:6]).sum() + 0.1 * np.log(1.0 - p[:6]).sum() + np.log(1.0 - p[6:]).sum()
    assert metrics.loss_d == pytest.approx(-log_likelihood / 12, rel=1e-5)  # ε
    for norm, net in ((metrics.grad_norm_d, state.discriminator), (metrics.grad_norm_g, state.generator)):
        assert norm == pytest.approx(np.linalg.norm(net.gradients), rel=1e-12)


def test_each_step_changes_its_own_network_only(backend: Backend, config: TrainConfig) -> None:
    """With a learning rate of 0 for one network, the other alone moves, and D's gradients are those of the D step."""
    state = new_state(config, backend)
    state.optimizer_g.lr = 0.0
    g_before, d_before = state.generator.parameters.tobytes(), state.discriminator.parameters.tobytes()
    metrics = train_step(state, _IMAGES[:8], config)
    assert state.generator.parameters.tobytes() == g_before
    assert state.discriminator.parameters.tobytes() != d_before
    np.testing.assert_allclose(np.linalg.norm(state.discriminator.gradients), metrics.grad_norm_d, rtol=1e-5)

    state = new_state(config, backend)
    state.optimizer_d.lr = 0.0
    train_step(state, _IMAGES[:8], config)
    assert state.discriminator.parameters.tobytes() == d_before
    assert state.generator.parameters.tobytes() != g_before


def test_the_g_step_meets_the_updated_d(backend: Backend, config: TrainConfig) -> None:
    state = new_state(config, backend, np.float64)
    latent = noise(state, config, LATENT_G, config.batch_size)
    fake = state.generator(latent)
    metrics = train_step(state, _IMAGES[:8], config)
    after = BinaryCrossEntropy().forward(state.discriminator(fake), np.ones((config.batch_size, 1)))
    np.testing.assert_allclose(metrics.loss_g, after, rtol=1e-12)


def test_in_pairs_the_g_step_meets_the_real_images_again(backend: Backend) -> None:
    """As many fakes as there are real rows, and the loss the other way round."""
    config = TrainConfig(dataset="digits", batch_size=8, loss="relativistic", dropout=0.0)
    state = new_state(config, backend, np.float64)
    pixels = _IMAGES[:5]
    fake = state.generator(noise(state, config, LATENT_G, 5))
    metrics = train_step(state, pixels, config)
    d = state.discriminator
    difference = d(pixels / 127.5 - 1.0) - d(fake)
    np.testing.assert_allclose(metrics.loss_g, np.log1p(np.exp(difference)).mean(), rtol=1e-12)


def test_a_penalty_is_in_ds_loss(backend: Backend) -> None:
    """Here of finite differences: ∂z/∂x in each pixel that is not clipped by anything, as D is piecewise linear."""
    config = TrainConfig(dataset="digits", batch_size=2, loss="bce-logits", dropout=0.0, r1=3.0, r2=5.0)
    states = [new_state(each, backend, np.float64) for each in (config, replace(config, r1=0.0, r2=0.0))]
    d, pixels = states[0].discriminator.astype(np.float64), _IMAGES[:2]
    shown = np.concatenate([pixels / 127.5 - 1.0, states[0].generator(noise(states[0], config, LATENT_D, 2))])
    slopes = np.stack([(d(shown + 1e-6 * row) - d(shown - 1e-6 * row))[:, 0] for row in np.eye(784)]) / 2e-6
    squares = (slopes**2).sum(axis=0)
    without = train_step(states[1], pixels, replace(config, r1=0.0, r2=0.0)).loss_d
    with_penalty = train_step(states[0], pixels, config).loss_d
    expected = 1.5 * squares[:2].mean() + 2.5 * squares[2:].mean()
    np.testing.assert_allclose(with_penalty - without, expected, rtol=1e-6)


def test_the_average_of_g_is_warmed_up(backend: Backend) -> None:
    """θ̄ ← β·θ̄ + (1 − β)·θ with β = min(0.999, (1 + t)/(10 + t)), and samples are drawn with it."""
    config = TrainConfig(dataset="digits", batch_size=8, ema=0.3)
    state = new_state(config, backend, np.float64)
    expected = state.generator.parameters.copy()
    for kept in (1 / 10, 2 / 11, 3 / 12, 0.3, 0.3):
        train_step(state, _IMAGES[:8], config)
        expected = kept * expected + (1.0 - kept) * state.generator.parameters
        assert state.average and state.sampler is state.average
        np.testing.assert_allclose(state.average.parameters, expected, rtol=1e-12)
    assert new_state(replace(config, ema=0.0), backend).average is None


def test_the_g_steps_noise_does_not_depend_on_the_rows_of_the_batch(backend: Backend, config: TrainConfig) -> None:
    state = new_state(config, backend)
    state.step = 3
    for_d = [noise(state, config, LATENT_D, rows) for rows in (8, 3)]
    for_g = noise(state, config, LATENT_G, 8)
    np.testing.assert_array_equal(for_d[0][:3], for_d[1])
    assert not np.array_equal(for_d[0], for_g)
    state.step = 4
    assert not np.array_equal(noise(state, config, LATENT_G, 8), for_g)


@pytest.mark.parametrize(("name", "made"), [("bce", BinaryCrossEntropy), ("bce-logits", BinaryCrossEntropyWithLogits)])
def test_a_loss_is_two_functions_and_what_is_a_probability(name: str, made: Any) -> None:
    loss, output, target = loss_of(TrainConfig(loss=name)), np.array([[0.25], [0.5]]), np.array([[1.0], [0.0]])
    assert loss.forward(output, target) == made().forward(output, target)
    np.testing.assert_array_equal(loss.backward(output, target), made().backward(output, target))
    expected = output if name == "bce" else 1.0 / (1.0 + np.exp(-output))
    np.testing.assert_allclose(loss.probability(output), expected)


def test_a_gan_on_data_of_another_width(backend: Backend, config: TrainConfig) -> None:
    """The step asks nothing of its networks but that they fit each other and the pixels."""
    g = Sequential([Dense(100, 6), LeakyReLU(0.2), Dense(6, 5), Tanh()], np.float64)
    d = Sequential([Dense(5, 6), LeakyReLU(0.2), Dropout(0.3), Dense(6, 1), Sigmoid()], np.float64)
    adams = [Adam(net, 1e-2) for net in (g, d)]
    metrics = train_step(TrainState(g, d, *adams, step=0), _IMAGES[:8, 300:305], config)
    assert np.isfinite([float(value) for value in metrics]).all()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (_IMAGES[:8, :700], r"the data: got float32 of shape \(8, 700\), wanted floats of shape \(N, 784\)"),
        (_IMAGES[0], r"the data: got float32 of shape \(784,\)"),
        (_IMAGES[:0], "at least one row"),
        (_IMAGES[:8].astype(np.int64), "uint8 pixels or of floats, got int64"),
        (_IMAGES[:8].tolist(), "uint8 pixels or of floats, got list"),
        (None, "uint8 pixels or of floats, got NoneType"),
        (np.full((8, 784), np.nan), "the data hold NaN or infinity"),
    ],
)
def test_data_that_do_not_fit_are_refused_and_change_nothing(
    backend: Backend, config: TrainConfig, data: Any, told: str
) -> None:
    state = new_state(config, backend)
    before = state.generator.parameters.copy(), state.discriminator.parameters.copy()
    with pytest.raises(ValueError, match=told):
        train_step(state, data, config)
    assert state.step == 0
    np.testing.assert_array_equal(state.generator.parameters, before[0])
    np.testing.assert_array_equal(state.discriminator.parameters, before[1])


def _run(config: TrainConfig, backend: Backend, steps: int) -> tuple[TrainState, list[tuple[float, float]]]:
    state = new_state(config, backend)
    metrics = ReferenceEngine(state, _IMAGES, config).run(steps)
    return state, [(row[0], row[1]) for row in metrics.tolist()]


def test_a_run_is_a_function_of_its_config(backend: Backend) -> None:
    config = TrainConfig(dataset="digits", epochs=3, batch_size=64)
    first, second = (_run(config, backend, 7)[0] for _ in range(2))
    assert first.generator.parameters.tobytes() == second.generator.parameters.tobytes()
    assert first.discriminator.parameters.tobytes() == second.discriminator.parameters.tobytes()
    other = _run(replace(config, seed=1), backend, 7)[0]
    assert first.generator.parameters.tobytes() != other.generator.parameters.tobytes()


def test_no_float64_creeps_in(backend: Backend, config: TrainConfig) -> None:
    state = new_state(config, backend)
    metrics = train_step(state, _IMAGES[:8], config)
    arrays = [state.generator.parameters, state.generator.gradients, state.optimizer_g.m, state.optimizer_d.v, *metrics]
    assert isinstance(metrics, StepMetrics)
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_the_loss_on_logits_starts_the_same_run(backend: Backend) -> None:
    """Until the sigmoid saturates the two losses are the same function."""
    config = TrainConfig(dataset="digits", batch_size=64)
    _, on_probabilities = _run(config, backend, 3)
    _, on_logits = _run(replace(config, loss="bce-logits"), backend, 3)
    np.testing.assert_allclose(on_logits, on_probabilities, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"dropout_in_g_step": True},
        {"label_smoothing": 0.1},
        {"beta1": 0.5},
        {"loss": "relativistic"},
        {"loss": "bce-logits", "r1": 5.0},
        {"loss": "bce-logits", "r2": 5.0},
    ],
)
def test_options_change_the_run(backend: Backend, change: dict[str, object]) -> None:
    config = TrainConfig(dataset="digits", batch_size=64)
    _, plain = _run(config, backend, 3)
    _, changed = _run(replace(config, **change), backend, 3)  # type: ignore[arg-type]
    assert np.isfinite(changed).all()
    assert not np.allclose(plain[1:], changed[1:], rtol=1e-6)


def test_the_two_passes_of_d_have_masks_of_their_own(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so have its three dropout layers, and every step."""
    keys: list[tuple[int, DropoutKey]] = []
    drawn = Dropout.mask

    def mask(layer: Dropout, x: Any, key: DropoutKey) -> Any:
        keys.append((layer.draw_site(key.forward_pass), key))
        return drawn(layer, x, key)

    monkeypatch.setattr(Dropout, "mask", mask)
    config = TrainConfig(dataset="digits", batch_size=8, dropout_in_g_step=True, seed=3)
    _run(config, backend, 2)
    assert len({(site, key.step) for site, key in keys}) == len(keys) == 2 * 2 * 3
    assert {(key.seed, key.step) for _, key in keys} == {(3, 0), (3, 1)}


# The first ten losses (D, G) of a run on digits. Another CPU's rounding moves them by far less than the tolerance;
# a changed formula, draw or order moves them by far more.
_GOLDEN = [
    (0.634192, 0.691869),
    (0.480434, 0.577522),
    (0.516896, 0.519966),
    (0.560183, 0.472717),
    (0.611454, 0.428218),
    (0.636789, 0.429635),
    (0.650185, 0.434033),
    (0.612804, 0.450914),
    (0.592238, 0.522501),
    (0.579758, 0.582066),
]


def test_golden_losses(backend: Backend) -> None:
    _, losses = _run(TrainConfig(dataset="digits", batch_size=64, seed=42), backend, 10)
    np.testing.assert_allclose(losses, _GOLDEN, rtol=2e-3)


@pytest.mark.parametrize(
    ("layers", "rate", "error"),
    [
        ([Dense(3, 1)], (4, 3), ValueError),
        ([Dense(3, 1)], (4,), ValueError),
        ([Dense(3, 1)], (1, 1), ValueError),  # NumPy would use one rate for four rows
        ([Dense(3, 2)], (4, 1), ValueError),  # two outputs
        ([Dense(3, 2), Tanh(), Dense(2, 1)], (4, 1), NotImplementedError),
        ([Dense(3, 4), Maxout(2), Dense(2, 1)], (4, 1), NotImplementedError),
        ([Sequential([Dense(3, 4), LeakyReLU()]), Dense(4, 1)], (4, 1), NotImplementedError),
    ],
)
def test_penalties_that_cannot_be_are_one_line(
    layers: list[Layer], rate: tuple[int, ...], error: type[Exception]
) -> None:
    net = Sequential(layers, np.float64)
    _, caches = net.forward(np.ones((4, 3)))
    with pytest.raises(error) as caught:
        net.gradient_penalty(np.ones(rate), caches)
    assert "\n" not in str(caught.value) and "double backward" in str(caught.value) or error is ValueError
