"""Noise for samples: which it is, and how it walks from one vector to another."""

from __future__ import annotations

import numpy as np

from npgan.nn import philox
from npgan.runs.sample import _interpolation, noise_vectors


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
