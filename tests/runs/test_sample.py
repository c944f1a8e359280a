"""Noise for samples: which it is, and how it walks from one vector to another."""

from __future__ import annotations

import numpy as np

from npgan.nn import philox
from npgan.runs.sample import _interpolation, great_circle, noise_vectors


def test_the_noise_of_a_seed() -> None:
    noise = noise_vectors(3, 5, 7)
    np.testing.assert_array_equal(noise, philox.normal(3, philox.Stream.EVAL, 0, 0, (5, 7)))
    np.testing.assert_array_equal(noise_vectors(3, 2, 7), noise[:2])


def test_a_walk_is_an_arc_in_seven_equal_parts() -> None:
    """sin((1 − t)θ)/sin θ of the start and sin(tθ)/sin θ of the end, θ the angle between the two."""
    walk = _interpolation(3, 12, 50)
    assert walk.shape == (12, 50) and walk.dtype == np.float32
    starts, ends = (philox.normal(3, philox.Stream.EVAL, 0, site, (2, 50)) for site in (0, 1))
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        steps = walk[8 * row : 8 * row + 8]
        parts, residual, _, _ = np.linalg.lstsq(np.stack([start, end], axis=1).astype(np.float64), steps.T)
        assert residual.max() < 1e-9  # all in the plane of the two
        angle = np.arccos(start @ end / (np.linalg.norm(start) * np.linalg.norm(end)))
        t = np.arange(len(steps)) / 7
        expected = np.sin([(1 - t) * angle, t * angle]) / np.sin(angle)
        np.testing.assert_allclose(parts, expected, atol=1e-5)


def test_vectors_in_one_line_have_no_circle_of_their_own() -> None:
    a = np.array([[3.0, 4.0]], np.float32)
    t = np.array([[0.0], [0.25], [1.0]])
    np.testing.assert_allclose(great_circle(a, a, t), np.repeat(a, 3, axis=0), rtol=1e-6)
    np.testing.assert_allclose(great_circle(a, 2 * a, t), a * (1 + t), rtol=1e-6)
    np.testing.assert_allclose(great_circle(a, -a, t), a * (1 - 2 * t), rtol=1e-6)
    np.testing.assert_array_equal(great_circle(a, 0 * a, t)[0], a[0])


def test_a_walk_in_one_dimension_is_finite() -> None:
    assert np.isfinite(_interpolation(0, 64, 1)).all()
