"""The batches of an epoch and the scaling of pixels: what training calls in every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgan.data.batches import batch_bounds, iterations_per_epoch, scale_pixels
from npgan.nn.philox import permutation


@given(count=st.integers(1, 500), batch_size=st.integers(1, 200), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_an_epoch_shows_every_image_once(count: int, batch_size: int, seed: int) -> None:
    order = permutation(seed, 3, count)
    batches = [
        order[batch_bounds(iteration, count, batch_size)]
        for iteration in range(iterations_per_epoch(count, batch_size))
    ]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size
    assert np.array_equal(np.concatenate(batches), order) and sorted(order) == list(range(count))


def test_the_tutorials_epoch() -> None:
    assert iterations_per_epoch(60_000, 128) == 469
    assert batch_bounds(0, 60_000, 128) == slice(0, 128)
    assert batch_bounds(468, 60_000, 128) == slice(59_904, 60_000)  # 96 images
    for outside in (-1, 469):
        with pytest.raises(IndexError, match="60000 images"):
            batch_bounds(outside, 60_000, 128)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_pixels(dtype: Any) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(2, 128)
    pixels.flags.writeable = False
    scaled = scale_pixels(pixels, dtype=dtype)
    assert scaled.dtype == dtype and scaled.shape == pixels.shape
    assert scaled[0, 0] == -1 and scaled[1, 127] == 1 and np.all(np.diff(scaled.reshape(-1)) > 0)
    assert np.allclose(scaled, pixels / np.float64(127.5) - 1, rtol=0, atol=2 * np.finfo(dtype).eps)
    assert scale_pixels(pixels).dtype == np.float32


def test_floats_are_taken_as_they_are_but_only_finite_ones() -> None:
    points = np.array([[0.25, -3.0], [7.0, 0.0]])
    np.testing.assert_array_equal(scale_pixels(points), points.astype(np.float32))
    for bad in (np.nan, np.inf, -np.inf):
        points[1, 0] = bad
        with pytest.raises(ValueError, match="the data hold NaN or infinity"):
            scale_pixels(points)
