"""The embedded digits: reproducible, balanced, a plausible stand-in for MNIST, told apart by a simple classifier.

No checksum of the images is pinned: what they should look like may be tuned freely.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from npgan.data import digits

Array = Any


@pytest.fixture(scope="module")
def drawn() -> tuple[Array, Array]:
    return digits.render(2500, 11)


def test_shapes_and_types(drawn: tuple[Array, Array]) -> None:
    images, labels = drawn
    assert images.shape == (2500, 28, 28)
    assert labels.shape == (2500,)
    assert images.dtype == labels.dtype == np.uint8
    assert images.flags.c_contiguous


def test_same_seed_draws_the_same_bytes(drawn: tuple[Array, Array]) -> None:
    images, labels = digits.render(2500, 11)
    np.testing.assert_array_equal(images, drawn[0])
    np.testing.assert_array_equal(labels, drawn[1])


@pytest.mark.parametrize("count", [0, 1, 7, 513])
def test_an_image_does_not_depend_on_the_count(count: int, drawn: tuple[Array, Array]) -> None:
    images, labels = digits.render(count, 11)
    np.testing.assert_array_equal(images, drawn[0][:count])
    np.testing.assert_array_equal(labels, drawn[1][:count])


def test_an_image_does_not_depend_on_its_neighbors(drawn: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_BLOCK", 7)
    np.testing.assert_array_equal(digits.render(300, 11)[0], drawn[0][:300])


def test_the_windows_cut_off_no_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of one image the windows have no slack."""
    monkeypatch.setattr(digits, "_BLOCK", 1)
    windowed, _ = digits.render(150, 11)
    monkeypatch.setattr(digits, "_BLOCK", 150)
    monkeypatch.setattr(
        digits, "_window", lambda path, reach: (np.zeros(len(path), dtype=int), np.full(len(path), digits.SIDE))
    )
    np.testing.assert_array_equal(windowed, digits.render(150, 11)[0])


@pytest.mark.parametrize(("seed", "split"), [(12, 0), (11, 1), (11 + (1 << 32), 0)])
def test_other_seeds_and_splits_draw_other_images(seed: int, split: int, drawn: tuple[Array, Array]) -> None:
    images, labels = digits.render(100, seed, split=split)
    assert (images != drawn[0][:100]).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(labels, drawn[1][:100])


@pytest.mark.parametrize(("count", "seed", "split"), [(-1, 0, 0), (3, -1, 0), (3, 1 << 64, 0), (3, 0, -1)])
def test_numbers_out_of_range_are_refused(count: int, seed: int, split: int) -> None:
    with pytest.raises(ValueError, match="must be in"):
        digits.render(count, seed, split=split)


def test_classes_are_balanced(drawn: tuple[Array, Array]) -> None:
    np.testing.assert_array_equal(np.bincount(drawn[1]), np.full(10, 250))


def test_no_two_images_are_alike(drawn: tuple[Array, Array]) -> None:
    assert len(np.unique(drawn[0].reshape(2500, -1), axis=0)) == 2500


def test_ink_is_like_mnist(drawn: tuple[Array, Array]) -> None:
    """MNIST: mean 0.131, 8 % of the pixels above 0.95 and 10 % gray, half of all images between 0.10 and 0.16."""
    images = drawn[0] / 255.0
    per_image = images.mean(axis=(1, 2))
    assert 0.11 < images.mean() < 0.15
    assert 0.06 < (images > 0.95).mean() < 0.10
    assert 0.08 < ((images > 0.05) & (images < 0.95)).mean() < 0.14
    assert per_image.min() > 0.02 and per_image.max() < 0.35
    assert per_image.std() > 0.03  # thin pens and thick ones


def test_every_digit_fills_its_box_and_stays_in_the_frame(drawn: tuple[Array, Array]) -> None:
    inked = drawn[0] > 50
    height = _extent(inked.any(axis=2))
    width = _extent(inked.any(axis=1))
    longer = np.maximum(height, width)
    assert longer.min() >= 16 and longer.max() <= 23
    border = np.concatenate([drawn[0][:, (0, -1)].reshape(2500, -1), drawn[0][:, :, (0, -1)].reshape(2500, -1)], axis=1)
    assert border.max() < 128 and (border > 0).mean() < 1e-3


def test_digits_are_centered(drawn: tuple[Array, Array]) -> None:
    images = drawn[0].astype(np.float64)
    centers = np.arange(28) + 0.5
    total = images.sum(axis=(1, 2))
    for mass in (images.sum(axis=1) @ centers / total, images.sum(axis=2) @ centers / total):
        assert abs(mass.mean() - 14.0) < 0.3
        assert 0.2 < mass.std() < 1.5
        assert np.abs(mass - 14.0).max() < 5.0


def test_digits_are_upright_and_not_mirrored(drawn: tuple[Array, Array]) -> None:
    images, labels = drawn
    inked = images > 50
    ones = inked[labels == 1]
    assert np.median(_extent(ones.any(axis=2))) > 1.5 * np.median(_extent(ones.any(axis=1)))
    # Columns with ink in a band of the upper half and in one of the lower: sixes have their bowl below, nines above.
    upper, lower = (band.any(axis=1).sum(axis=1) for band in (inked[:, 8:11], inked[:, 18:21]))
    assert lower[labels == 6].mean() > 1.4 * upper[labels == 6].mean()
    assert upper[labels == 9].mean() > 1.4 * lower[labels == 9].mean()
    assert upper[labels == 7].mean() > 2.0 * lower[labels == 7].mean()
    foot = images[labels == 7, 18:].mean(axis=(0, 1))
    assert foot[:14].sum() > 2.0 * foot[14:].sum()  # the stem of a seven leans to the left


def test_forms_share_out_their_digit() -> None:
    """The shares of each digit's forms tile [0, 1), and a form's points lie in the unit box."""
    ranges = list(digits._form_ranges())
    for label in range(10):
        own = [(first, last) for form, first, last in ranges if form.label == label]
        assert len(own) >= 2
        assert own[0][0] == 0.0 and own[-1][1] == 1.0
        assert all(before[1] == after[0] for before, after in zip(own, own[1:], strict=False))
    for form in digits.FORMS:
        assert all(0 <= coordinate <= 100 for point in digits._points(form) for coordinate in point)


def test_classes_are_told_apart_by_their_means(drawn: tuple[Array, Array]) -> None:
    x, labels = drawn[0].reshape(2500, -1) / 255.0, drawn[1]
    means = np.stack([x[:2000][labels[:2000] == label].mean(axis=0) for label in range(10)])
    guesses = ((x[2000:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (guesses == labels[2000:]).mean() > 0.8


def test_images_of_a_class_vary(drawn: tuple[Array, Array]) -> None:
    """Total variance over the pixels within a class; MNIST has 22 for the ones and 38 to 51 for the others."""
    for label in range(10):
        x = drawn[0][drawn[1] == label].reshape(250, -1) / 255.0
        assert x.var(axis=0).sum() > (15 if label == 1 else 28)


def _extent(occupied: Array) -> Array:
    """Number of rows (or columns) from the first occupied one to the last, (N,), from bool (N, 28)."""
    assert occupied.any(axis=1).all()
    return 28 - occupied.argmax(axis=1) - occupied[:, ::-1].argmax(axis=1)


def test_a_closed_stroke_is_smooth_where_it_closes_and_an_open_one_goes_straight_to_its_ends() -> None:
    hand = {"wobble": np.zeros(1, np.float32), "roundness": np.full(1, 0.5, np.float32)}
    corners = ((0, 0), (100, 0), (100, 100), (0, 100))
    directions = []
    for stroke in ((*corners, (0, 0)), corners):
        x, y = digits._trace(digits.Form(0, 1, (stroke,)), hand, np.zeros((8, 1), np.float32))
        first, last = (np.array([x[b, 0] - x[a, 0], y[b, 0] - y[a, 0]]) for a, b in ((0, 1), (-2, -1)))
        directions += [first / np.linalg.norm(first), last / np.linalg.norm(last)]
    diagonal = np.array([1.0, -1.0]) / 2**0.5  # along the chord of the joint's neighbors
    np.testing.assert_allclose(directions[:2], [diagonal, diagonal], atol=0.1)
    np.testing.assert_allclose(directions[2:], [[1.0, 0.0], [-1.0, 0.0]], atol=0.1)
