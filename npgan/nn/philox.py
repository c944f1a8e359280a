"""Counter-based randomness: every draw is a pure function of (seed, stream, step, site, element).

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
It is a keyed bijection on 128-bit counters, so there is no state to save, copy or forget:

    key     = (low 32 bits of the seed, high 32 bits of the seed)
    counter = (block, step, site, stream)

``stream`` says what a draw is for, ``step`` when it is made, and ``site`` tells apart the draws of one stream in one step.
One block yields four 32-bit words. Element ``i`` of a draw takes word ``i % 4`` of block ``i // 4``; a 16-bit draw takes
halfword ``i % 8`` of block ``i // 8``, the low half of each word first. A seed and a step are therefore all that a
resumed run needs, and a dropout mask can be made again at any time from its key.
"""

from __future__ import annotations

import math
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import Array, Shape

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85  # added to the key before each further round
_ROUNDS = 10
_LOW_32 = 0xFFFFFFFF
Words = tuple[Array, Array, Array, Array]  # 32 bits each


class Stream(IntEnum):
    """What a draw is for. Streams never share a counter, so they are independent."""

    INIT = 0  # initial weights; site = index of the layer, plus 1000 for the discriminator
    SHUFFLE = 1  # order of the training images; step = epoch
    LATENT = 2  # noise for the generator; step = iteration
    DROPOUT = 3  # dropout masks; step = iteration, site = layer and pass
    EVAL = 4  # fixed noise for previews and samples
    DIGITS = 5  # the embedded stroke-drawn data set


def philox4x32_10(counter: Words, key: tuple[int, int]) -> Words:
    """Ten Philox rounds. Counter words: integers or uint64 arrays holding values below 2**32, any common shape.

    Returns four uint64 arrays (or integers) with values below 2**32. Source: Salmon et al. 2011, section 3.3.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1  # 64 bits: the high word is for one place, the low for another
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _LOW_32, (p0 >> 32) ^ c3 ^ k1, p0 & _LOW_32
        k0, k1 = (k0 + _WEYL_0) & _LOW_32, (k1 + _WEYL_1) & _LOW_32
    return c0, c1, c2, c3


def random_words(seed: int, stream: Stream, step: int, site: int, count: int, xp: ModuleType = np) -> Array:
    """``count`` uniform uint32 words, shape (count,). Raises ValueError for a number beyond its 32 bits (the seed's 64)."""
    for name, value, bits in (("seed", seed, 64), ("step", step, 32), ("site", site, 32), ("count", count, 32)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} must be in 0 … {(1 << bits) - 1}, got {value}")
    c0 = xp.arange(-(-count // 4), dtype=xp.uint64)
    c1, c2, c3 = (xp.full(c0.shape, value, dtype=xp.uint64) for value in (step, site, int(stream)))
    words = philox4x32_10((c0, c1, c2, c3), (seed & _LOW_32, seed >> 32))
    return xp.stack(words, axis=1).astype(xp.uint32).reshape(-1)[:count]


def random_halfwords(seed: int, stream: Stream, step: int, site: int, count: int, xp: ModuleType = np) -> Array:
    """``count`` uniformly distributed uint16 values, shape (count,): two of each word of ``random_words``."""
    return random_words(seed, stream, step, site, -(-count // 2), xp).view(xp.uint16)[:count]


def uniform(
    seed: int, stream: Stream, step: int, site: int, shape: Shape, dtype: Any = np.float32, xp: ModuleType = np
) -> Array:
    """Uniform numbers strictly between 0 and 1, shape ``shape``: (⌊word / 2⁹⌋ + ½)·2⁻²³.

    23 bits and the half make 24, a float32's precision, so float32 and float64 give exactly the same numbers.
    """
    words = random_words(seed, stream, step, site, math.prod(shape), xp) >> 9
    return ((words.astype(dtype) + 0.5) * 2.0**-23).reshape(shape)


def normal(
    seed: int, stream: Stream, step: int, site: int, shape: Shape, dtype: Any = np.float32, xp: ModuleType = np
) -> Array:
    """Standard normal numbers by Box and Muller's transform (1958), in ``dtype`` arithmetic.

    Words 2j and 2j+1 become u = (word + ½)·2⁻³² each, and elements 2j and 2j+1 are √(−2·ln u₁)·(cos 2πu₂, sin 2πu₂).
    Backends agree to rounding, float32 and float64 likewise.
    """
    count = math.prod(shape)
    u = random_words(seed, stream, step, site, count + count % 2, xp).astype(dtype)
    u *= 2.0**-32
    u += 2.0**-33
    radius = xp.sqrt(-2.0 * xp.log(u[0::2]))
    angle = (2.0 * math.pi) * u[1::2]
    u[0::2], u[1::2] = radius * xp.cos(angle), radius * xp.sin(angle)
    return u[:count].reshape(shape)


def permutation(seed: int, epoch: int, count: int, xp: ModuleType = np) -> Array:
    """The order of ``count`` training images in ``epoch``: a uint32 permutation of 0 … count − 1, shape (count,).

    Sorts the pairs (random word, index). No two pairs are equal, so every sort on every backend gives the same order.
    """
    words = random_words(seed, Stream.SHUFFLE, epoch, 0, count, xp).astype(xp.uint64)
    pairs = xp.sort((words << 32) | xp.arange(count, dtype=xp.uint64))
    return (pairs & _LOW_32).astype(xp.uint32)
