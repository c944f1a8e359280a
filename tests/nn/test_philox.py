"""Philox against the published known answers, and what every draw built on it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgan.nn import philox
from npgan.nn.philox import Stream


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers_of_random123(counter: str, key: str, words: str) -> None:
    c0, c1, c2, c3 = (int(word, 16) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    expected = [int(word, 16) for word in words.split()]
    assert list(philox.philox4x32_10((c0, c1, c2, c3), (k0, k1))) == expected
    arrays = tuple(np.array([word], dtype=np.uint64) for word in (c0, c1, c2, c3))
    assert [int(word[0]) for word in philox.philox4x32_10(arrays, (k0, k1))] == expected


def test_words_follow_the_documented_counter_layout() -> None:
    seed, step, site = 0x0123456789ABCDEF, 77, 5
    words = philox.random_words(seed, Stream.DROPOUT, step, site, 10)
    for index, word in enumerate(words):
        block = philox.philox4x32_10((index // 4, step, site, int(Stream.DROPOUT)), (0x89ABCDEF, 0x01234567))
        assert int(word) == block[index % 4]
    halves = philox.random_halfwords(seed, Stream.DROPOUT, step, site, 20)
    assert [int(half) for half in halves] == [int(w) >> shift & 0xFFFF for w in words for shift in (0, 16)]


@given(count=st.integers(1, 5000), more=st.integers(0, 5000), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_an_element_does_not_depend_on_how_many_are_drawn(count: int, more: int, seed: int) -> None:
    few = philox.random_words(seed, Stream.EVAL, 1, 2, count)
    many = philox.random_words(seed, Stream.EVAL, 1, 2, count + more)
    np.testing.assert_array_equal(few, many[:count])


def test_normal_takes_an_odd_count() -> None:
    odd, even = (philox.normal(1, Stream.EVAL, 0, 0, (count,)) for count in (15, 16))
    np.testing.assert_array_equal(odd, even[:15])


def test_seed_stream_step_and_site_each_change_the_draw() -> None:
    draws = [
        philox.random_words(*arguments, 8).tobytes()
        for arguments in [
            (1, Stream.INIT, 2, 3),
            (2, Stream.INIT, 2, 3),
            (1 << 32 | 1, Stream.INIT, 2, 3),
            (1, Stream.SHUFFLE, 2, 3),
            (1, Stream.INIT, 3, 3),
            (1, Stream.INIT, 2, 4),
        ]
    ]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((-1, 0, 0, 1), "seed"), ((1 << 64, 0, 0, 1), "seed"), ((0, 1 << 32, 0, 1), "step"), ((0, 0, -1, 1), "site")],
)
def test_what_does_not_fit_the_counter_is_refused(arguments: tuple[int, int, int, int], name: str) -> None:
    seed, step, site, count = arguments
    with pytest.raises(ValueError, match=name):
        philox.random_words(seed, Stream.INIT, step, site, count)


def test_uniform_is_inside_its_interval_and_the_same_in_both_precisions() -> None:
    u32 = philox.uniform(1, Stream.INIT, 0, 0, (300, 100), np.float32)
    u64 = philox.uniform(1, Stream.INIT, 0, 0, (300, 100), np.float64)
    np.testing.assert_array_equal(u32.astype(np.float64), u64)
    assert 0.0 < u32.min() < 1e-3
    assert 1 - 1e-3 < u32.max() < 1.0
    assert abs(u64.mean() - 0.5) < 0.01
    assert np.float32((2**23 - 0.5) * 2.0**-23) < 1.0  # the largest value there is


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_uniform_and_normal(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """From words of nothing but zeros or ones: never 0 or 1, whose logarithm or Glorot weight would be off the end."""
    monkeypatch.setattr(philox, "random_words", lambda *where: np.array([0, 0, 2**32 - 1, 2**32 - 1], np.uint32))
    u = philox.uniform(0, Stream.INIT, 0, 0, (4,), dtype)
    np.testing.assert_array_equal(u, np.array([0.5, 0.5, 2**23 - 0.5, 2**23 - 0.5]) * 2.0**-23)
    z = philox.normal(0, Stream.INIT, 0, 0, (4,), dtype)
    np.testing.assert_allclose(z[:2], [(2 * 33 * np.log(2.0)) ** 0.5, 0.0], atol=1e-7)  # u₁ = 2⁻³³, u₂ beside 0
    np.testing.assert_allclose(z[2:], 0.0, atol=1e-3)


def test_the_numbers_of_the_streams_are_part_of_every_run() -> None:
    assert dict(Stream.__members__) == {"INIT": 0, "SHUFFLE": 1, "LATENT": 2, "DROPOUT": 3, "EVAL": 4, "DIGITS": 5}


def test_normal_numbers_are_normal() -> None:
    z = philox.normal(5, Stream.LATENT, 9, 1, (1000, 100), np.float64).reshape(-1)
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**3).mean()) < 0.03
    assert abs((z**4).mean() - 3) < 0.1
    assert abs((z[:-1] * z[1:]).mean()) < 0.01
    for quantile, expected in [(0.025, -1.95996), (0.5, 0.0), (0.84134, 1.0)]:
        assert abs(np.quantile(z, quantile) - expected) < 0.03
    np.testing.assert_allclose(philox.normal(5, Stream.LATENT, 9, 1, (1000, 100)).reshape(-1), z, rtol=2e-5, atol=2e-6)


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**32 - 1), count=st.integers(1, 2000))
@settings(max_examples=30, deadline=None)
def test_permutation_is_one(seed: int, epoch: int, count: int) -> None:
    order = philox.permutation(seed, epoch, count)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_permutations_differ_from_epoch_to_epoch_and_seed_to_seed() -> None:
    orders = [philox.permutation(seed, epoch, 1000).tobytes() for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert len(set(orders)) == 3
