"""The training step: whole-step gradients, what each step leaves alone, repeatability, and golden losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from npgan.backend import Backend
from npgan.config import TrainConfig
from npgan.data.mnist import scale_pixels
from npgan.data.digits import render
from npgan.nn.layers import DropoutKey
from npgan.nn.network import take_rows
from npgan.gan import (
    PASS_D,
    PASS_G,
    TrainState,
    discriminator_gradients,
    draw_latent,
    generator_gradients,
    iterate,
    loss_of,
    new_state,
    new_workspace,
    sample,
    train_step,
)

_IMAGES = render(200, 1)[0].reshape(200, 784)


def _relative_error(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-12)


def _directional_check(loss_at: object, parameters: np.ndarray, gradients: np.ndarray) -> None:
    """(L(θ + hu) − L(θ − hu))/2h against ∇L·u along random directions u, in float64."""
    rng = np.random.default_rng(0)
    start = parameters.copy()
    for _ in range(3):
        u = rng.standard_normal(parameters.size) / parameters.size**0.5
        h = 1e-5
        losses = []
        for sign in (1, -1):
            parameters[:] = start + sign * h * u
            losses.append(loss_at())  # type: ignore[operator]
        parameters[:] = start
        assert _relative_error((losses[0] - losses[1]) / (2 * h), float(gradients @ u)) < 1e-5


@pytest.mark.parametrize("loss_name", ["bce", "bce-logits"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_d_step_gradient_by_finite_differences(
    backend: Backend, config: TrainConfig, loss_name: str, smoothing: float
) -> None:
    config = replace(config, loss=loss_name, label_smoothing=smoothing)
    state = new_state(config, backend, np.float64)
    d, loss, key = state.discriminator, loss_of(config), DropoutKey(0, 0, PASS_D)
    workspace = new_workspace(state, config, 8)
    images = workspace.images[:16]
    images[:] = np.random.default_rng(1).uniform(-1, 1, images.shape)
    discriminator_gradients(d, loss, images, workspace.target_d, key)
    gradients = d.gradients.copy()
    _directional_check(lambda: loss.forward(d.forward(images, key)[0], workspace.target_d), d.parameters, gradients)


@pytest.mark.parametrize("loss_name", ["bce", "bce-logits"])
@pytest.mark.parametrize("key", [None, DropoutKey(0, 0, PASS_G)], ids=["dropout off", "dropout on"])
def test_g_step_gradient_by_finite_differences(
    backend: Backend, config: TrainConfig, loss_name: str, key: DropoutKey | None
) -> None:
    config = replace(config, loss=loss_name)
    state = new_state(config, backend, np.float64)
    g, d, loss = state.generator, state.discriminator, loss_of(config)
    target = np.ones((8, 1))
    latent = np.random.default_rng(2).standard_normal((8, config.latent_dim))
    images, caches = g.forward(latent)
    generator_gradients(g, d, loss, images, caches, target, key)
    gradients = g.gradients.copy()
    _directional_check(lambda: loss.forward(d.forward(sample(g, latent), key)[0], target), g.parameters, gradients)


def test_each_step_changes_its_own_network_only(backend: Backend, config: TrainConfig) -> None:
    state = new_state(config, backend)
    g, d, loss = state.generator, state.discriminator, loss_of(config)
    w = new_workspace(state, config, 8)
    scale_pixels(_IMAGES[:8], out=w.images[:8])
    draw_latent(config, 0, w.latent, 8)
    _, caches = g.forward(w.latent, buffers=w.generator)

    g_before, d_before = g.parameters.tobytes(), d.parameters.tobytes()
    g_gradients = g.gradients.tobytes()
    discriminator_gradients(d, loss, w.images[:16], w.target_d, DropoutKey(0, 0, PASS_D), w.discriminator_d)
    state.adam_d.update(d.parameters, d.gradients)
    assert g.parameters.tobytes() == g_before
    assert g.gradients.tobytes() == g_gradients
    assert d.parameters.tobytes() != d_before

    d_before, d_gradients = d.parameters.tobytes(), d.gradients.tobytes()
    generator_gradients(g, d, loss, w.images[16:], take_rows(caches, slice(8, None)), w.target_g, None, w)
    state.adam_g.update(g.parameters, g.gradients)
    assert d.parameters.tobytes() == d_before
    assert d.gradients.tobytes() == d_gradients
    assert g.parameters.tobytes() != g_before


def test_a_joint_forward_of_both_noise_batches_is_two_forwards(backend: Backend, config: TrainConfig) -> None:
    state = new_state(config, backend, np.float64)
    w = new_workspace(state, config, 5)
    draw_latent(config, 7, w.latent, 5)
    images, _ = state.generator.forward(w.latent, buffers=w.generator)
    assert np.shares_memory(images, w.images)
    np.testing.assert_allclose(w.images[5:10], sample(state.generator, w.latent[:5]), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(w.images[10:], sample(state.generator, w.latent[5:]), rtol=1e-12, atol=1e-14)


def test_the_g_steps_noise_does_not_depend_on_the_rows_of_the_batch(config: TrainConfig) -> None:
    full, short = np.empty((16, 100)), np.empty((11, 100))
    draw_latent(config, 3, full, 8)
    draw_latent(config, 3, short, 3)
    np.testing.assert_array_equal(short[3:], full[8:])
    np.testing.assert_array_equal(short[:3], full[:3])
    assert not np.array_equal(full[:8], full[8:])


def _run(config: TrainConfig, backend: Backend, steps: int) -> tuple[TrainState, list[tuple[float, float]]]:
    state, losses = new_state(config, backend), []
    for metrics in iterate(state, _IMAGES, config):
        losses.append((float(metrics.loss_d), float(metrics.loss_g)))
        if len(losses) == steps:
            break
    return state, losses


def test_a_run_is_a_function_of_its_config(backend: Backend) -> None:
    config = TrainConfig(dataset="digits", epochs=3, batch_size=64)
    first, second = (_run(config, backend, 7)[0] for _ in range(2))
    assert first.generator.parameters.tobytes() == second.generator.parameters.tobytes()
    assert first.discriminator.parameters.tobytes() == second.discriminator.parameters.tobytes()
    other = _run(replace(config, seed=1), backend, 7)[0]
    assert first.generator.parameters.tobytes() != other.generator.parameters.tobytes()


def test_the_last_short_batch_is_kept(backend: Backend) -> None:
    config = TrainConfig(dataset="digits", epochs=2, batch_size=64)
    state, losses = _run(config, backend, 99)
    assert len(losses) == state.step == 2 * 4  # 64 + 64 + 64 + 8 images, twice
    assert np.isfinite(losses).all()


def test_iterate_starts_anywhere(backend: Backend) -> None:
    """Seven steps at once, and three, then four with fresh buffers: the same bytes."""
    config = TrainConfig(dataset="digits", epochs=2, batch_size=64)
    whole = _run(config, backend, 7)[0]
    parted = _run(config, backend, 3)[0]
    for _ in iterate(parted, _IMAGES, config):
        if parted.step == 7:
            break
    assert parted.generator.parameters.tobytes() == whole.generator.parameters.tobytes()
    assert parted.adam_d.v.tobytes() == whole.adam_d.v.tobytes()


def test_no_float64_creeps_in(backend: Backend, config: TrainConfig) -> None:
    state = new_state(config, backend)
    metrics = train_step(state, _IMAGES[:8], config, new_workspace(state, config, 8))
    arrays = [state.generator.parameters, state.generator.gradients, state.adam_g.m, state.adam_d.v, *metrics]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_the_loss_on_logits_starts_the_same_run(backend: Backend) -> None:
    """Until the sigmoid saturates the two losses are the same function."""
    config = TrainConfig(dataset="digits", batch_size=64)
    _, on_probabilities = _run(config, backend, 3)
    _, on_logits = _run(replace(config, loss="bce-logits"), backend, 3)
    np.testing.assert_allclose(on_logits, on_probabilities, rtol=1e-4)


@pytest.mark.parametrize("change", [{"dropout_in_g_step": True}, {"label_smoothing": 0.1}, {"beta1": 0.5}])
def test_options_change_the_run(backend: Backend, change: dict[str, object]) -> None:
    config = TrainConfig(dataset="digits", batch_size=64)
    _, plain = _run(config, backend, 3)
    _, changed = _run(replace(config, **change), backend, 3)  # type: ignore[arg-type]
    assert np.isfinite(changed).all()
    assert not np.allclose(plain[1:], changed[1:], rtol=1e-6)


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
