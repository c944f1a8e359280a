"""The Parzen-window log-likelihood against a straightforward computation in float64, and block by block."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npgan.data.digits import render
from npgan.evaluation import distances
from npgan.evaluation.parzen import SIGMAS, log_likelihoods, parzen

_DIGITS = (render(600, 3)[0].reshape(600, 784) / 255.0).astype(np.float32)
_MODEL, _VALIDATION, _TEST = _DIGITS[:400], _DIGITS[400:500], _DIGITS[500:]


def _straightforward(x: np.ndarray, model: np.ndarray, sigma: float) -> np.ndarray:
    """The definition, one image at a time, all in float64, no matrix product."""
    x, model = x.astype(np.float64), model.astype(np.float64)
    result = []
    for image in x:
        exponents = -((image - model) ** 2).sum(axis=1) / (2 * sigma**2)
        largest = exponents.max()
        result.append(largest + math.log(np.exp(exponents - largest).mean()))
    return np.array(result) - 784 * math.log(sigma * math.sqrt(2 * math.pi))


def test_the_grid_is_the_published_one() -> None:
    np.testing.assert_array_equal(SIGMAS, np.logspace(-1, 0, 10))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_real_images_agree_with_float64(sigma: float) -> None:
    ours = log_likelihoods(_TEST, _MODEL, (sigma,))[0]
    np.testing.assert_allclose(ours, _straightforward(_TEST, _MODEL, sigma), rtol=0, atol=0.01)


def test_images_of_the_model_itself_and_far_away_ones_agree_too() -> None:
    """A distance of 0 is where cancellation hurts most; noise is the farthest there is."""
    noise = np.random.default_rng(0).random((50, 784)).astype(np.float32)
    for x in (_MODEL[:50], noise):
        np.testing.assert_allclose(
            log_likelihoods(x, _MODEL, (0.1,))[0], _straightforward(x, _MODEL, 0.1), rtol=0, atol=0.02
        )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = log_likelihoods(_TEST, _MODEL, SIGMAS)
    monkeypatch.setattr(distances, "BLOCK_BYTES", 4 * 400 * 7)  # seven images at a time: 100 is no multiple
    np.testing.assert_allclose(log_likelihoods(_TEST, _MODEL, SIGMAS), whole, rtol=0, atol=0.01)


def test_one_gaussian_by_hand() -> None:
    """M = 1: the density of a Gaussian, −‖x − μ‖²/2σ² − 784·log(σ√(2π)); here ‖x − μ‖² = 784·0.25."""
    x, model = np.full((1, 784), 0.5), np.zeros((1, 784))
    expected = -784 * 0.25 / (2 * 0.04) - 784 * math.log(0.2 * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(log_likelihoods(x, model, (0.2,)), [[expected]], rtol=1e-12)


def test_the_protocol_takes_sigma_from_validation_and_the_error_from_test() -> None:
    result = parzen(_MODEL, _VALIDATION, _TEST)
    means = [_straightforward(_VALIDATION, _MODEL, sigma).mean() for sigma in SIGMAS]
    assert result.sigma == SIGMAS[int(np.argmax(means))]
    np.testing.assert_allclose(result.validation, means, rtol=0, atol=0.01)
    ll = _straightforward(_TEST, _MODEL, result.sigma)
    np.testing.assert_allclose(result.mean, ll.mean(), rtol=0, atol=0.01)
    np.testing.assert_allclose(result.standard_error, np.sqrt(np.mean((ll - ll.mean()) ** 2)) / 10, rtol=1e-4)
    assert not result.at_edge


def test_a_sigma_at_the_edge_of_the_grid_is_told() -> None:
    assert parzen(_VALIDATION, _VALIDATION, _TEST).at_edge  # the model holds the validation images: the narrowest wins
