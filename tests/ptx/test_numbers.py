"""The functions of math.cuh and ptx.cuh, one number at a time: published words, edges, NaN and infinity, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import adam_at

from npgan.data.batches import scale_pixels
from npgan.engines.cuda.device import DESIGN, options, source
from npgan.nn import ops, philox
from npgan.nn.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits
from npgan.nn.philox import Stream
from ptx.emulator import Module, Options, empty, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Array = Any


def _kernel(name: str, parameters: str, body: str) -> str:
    """``body`` for each i below n."""
    return (
        f'extern "C" __global__ void {name}({parameters}) {{\n'
        f"    int i = blockIdx.x * 256 + threadIdx.x;\n    if (i < n) {{ {body}; }}\n}}\n"
    )


_OF_ONE = {
    "leaky_relu": "leaky_relu(x[i], 0.2f)",
    "leaky_relu_dydz": "leaky_relu_dydz(x[i], 0.2f)",
    "tanh": "tanhf(x[i])",
    "exp2": "exp2f(x[i])",
    "tanh_dydz": "tanh_dydz(x[i])",
    "sigmoid": "sigmoid(x[i])",
    "bce_loss": "bce_loss(x[i], t[i])",
    "bce_dz": "bce_dz(x[i], t[i], n)",
    "logits_loss": "bce_with_logits_loss(x[i], t[i])",
    "logits_dz": "bce_with_logits_dz(x[i], t[i], n)",
    "round_to_tf32": "round_to_tf32(x[i])",
}
_KERNELS = [
    _kernel(
        "many_philox", "const u32* c, const u64* seed, u32* words, int n",
        "Words w = philox(c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3], seed[i]); words[4 * i] = w.first; "
        "words[4 * i + 1] = w.second; words[4 * i + 2] = w.third; words[4 * i + 3] = w.fourth",
    ),
    _kernel(
        "many_box_muller", "const u32* words, float* out, int n",
        "box_muller(words[2 * i], words[2 * i + 1], out + 2 * i, out + 2 * i + 1)",
    ),
    _kernel(
        "many_adam",
        "const float* g, float* p, float* m, float* v, int n, u32 t, double lr, double beta1, double beta2, double epsilon",
        "adam(adam_step(t, lr, beta1, beta2, epsilon, 0.0), g[i], p + i, m + i, v + i)",
    ),
    _kernel("many_shares", "const u32* epoch, double* share, int n", "share[i] = share_of_rate(epoch[i], n - 1)"),
    _kernel("many_split", "const float* x, float* big, float* small, int n", "split(x[i], big[i], small[i])"),
    _kernel(
        "many_wide", "const short* x, const short* y, u32* product, u32* sum, int n",
        'asm("mul.wide.u16 %0, %1, %2;" : "=r"(product[i]) : "h"(x[i]), "h"(y[i])); '
        'asm("mad.wide.s16 %0, %1, %2, %3;" : "=r"(sum[i]) : "h"(x[i]), "h"(y[i]), "r"(i))',
    ),
    _kernel(
        "many_signed", "const short* x, const short* y, int* out, int n",
        'short least, most, high, size; asm("min.s16 %0, %1, %2;" : "=h"(least) : "h"(x[i]), "h"(y[i])); '
        'asm("max.s16 %0, %1, %2;" : "=h"(most) : "h"(x[i]), "h"(y[i])); asm("abs.s16 %0, %1;" : "=h"(size) : "h"(x[i])); '
        'asm("mul.hi.s16 %0, %1, %2;" : "=h"(high) : "h"(x[i]), "h"(y[i])); '
        "int found[] = {least, most, high, size, x[i] < y[i], (short)(x[i] >> 3)}; "
        "for (int k = 0; k < 6; ++k) out[6 * i + k] = found[k]",
    ),
    _kernel("many_pixels", "const unsigned char* x, float* y, int n", "y[i] = scale_pixel(x[i])"),
    *(
        _kernel(f"of_{name}", "const float* x, const float* t, float* y, int n", f"y[i] = {value}")
        for name, value in _OF_ONE.items()
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def module() -> Module:
    return Module(source(("math.cuh", "ptx.cuh")) + "".join(_KERNELS), 90, options(3, DESIGN))


def _run(module: Module, kernel: str, count: int, *arguments: Any, more: tuple[Any, ...] = ()) -> None:
    given = (*arguments, np.int32(count), *more)
    module.launch(kernel, (-(-count // 256), 1), *given, options=Options(approximately=2))


def _of(module: Module, name: str, x: Array, t: Array) -> Array:
    y = empty(len(x))
    _run(module, f"of_{name}", len(x), x, t, y)
    return y


def test_philox_gives_the_published_words(module: Module) -> None:
    ones = 0xFFFFFFFF
    counters = np.array([[0] * 4, [ones] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]], np.uint32)
    keys, found = np.array([0, 2**64 - 1, 0x299F31D0A4093822], np.uint64), np.zeros((3, 4), np.uint32)
    _run(module, "many_philox", 3, counters, keys, found)
    assert found.tolist() == [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]


def test_normal_numbers_are_those_of_philox(module: Module) -> None:
    edges = [0, 0, 2**32 - 1, 2**32 - 1, 0, 2**31, 1, 2**30, 5, 3 * 2**30, 2**32 - 1, 5, 2**32 - 200, 9]
    words = np.concatenate([philox.random_words(7, Stream.LATENT, 3, 1, 4000), np.array(edges, np.uint32)])
    found = empty(len(words))
    _run(module, "many_box_muller", len(words) // 2, words, found)
    np.testing.assert_allclose(found[:4000], philox.normal(7, Stream.LATENT, 3, 1, (4000,)), rtol=2e-6, atol=2e-6)
    assert np.isfinite(found).all()


_FINITE = [0.0, -0.0, 1e-30, 2e-38, 88, -88, 89, -89, 104, -104, 1e3, -1e3, 3e38, -3e38]
_Z = np.concatenate([np.linspace(-30, 30, 601), _FINITE]).astype(np.float32)
_T = np.resize([0.0, 1.0, 0.9], len(_Z)).astype(np.float32)
_P = ops.sigmoid_forward(_Z)
_BCE, _LOGITS = BinaryCrossEntropy(), BinaryCrossEntropyWithLogits()


def _column(function: Callable[..., Array], x: Array, t: Array) -> Array:
    return function(x[:, None].astype(np.float64), t[:, None].astype(np.float64))[:, 0]


def _each(forward: Callable[..., Array], x: Array, t: Array) -> Array:
    return np.array(
        [_LOGITS is None or forward(np.float64([[a]]), np.float64([[b]])) for a, b in zip(x, t, strict=True)]
    )


_EXPECTED = {
    "leaky_relu": (_Z, ops.leaky_relu_forward(_Z.astype(np.float64), 0.2)),
    "leaky_relu_dydz": (_Z, ops.leaky_relu_backward(np.ones_like(_Z), _Z, 0.2)),
    "tanh": (_Z, np.tanh(_Z.astype(np.float64))),
    "tanh_dydz": (np.tanh(_Z), ops.tanh_backward(np.ones_like(_Z), np.tanh(_Z))),
    "sigmoid": (_Z, ops.sigmoid_forward(_Z.astype(np.float64))),
    "bce_loss": (_P, _each(_BCE.forward, _P, _T)),
    "bce_dz": (_P, _column(_BCE.backward, _P, _T) * (1.0 - _P) * _P),
    "logits_loss": (_Z, _each(_LOGITS.forward, _Z, _T)),
    "logits_dz": (_Z, _column(_LOGITS.backward, _Z, _T)),
}


@pytest.mark.parametrize("name", _EXPECTED)
def test_a_number_is_treated_as_in_ops(module: Module, name: str) -> None:
    x, expected = _EXPECTED[name]
    near_0 = 2e-7 if name == "bce_loss" else 1e-9  # float32 has 1.19209e-7 as the distance of 1 + 1.19e-7 from 1
    np.testing.assert_allclose(_of(module, name, x, _T), expected, rtol=3e-6, atol=near_0)


def test_a_product_of_16_bits_has_32(module: Module) -> None:
    """Of the emulator: NVRTC takes it for addresses on 10.0 and newer."""
    x, y = np.random.default_rng(2).integers(-(2**15), 2**15, (2, 300)).astype(np.int16)
    product, total = empty(300, dtype=np.uint32), empty(300, dtype=np.uint32)
    _run(module, "many_wide", 300, x, y, product, total)
    np.testing.assert_array_equal(product, x.view(np.uint16).astype(np.uint32) * y.view(np.uint16))
    np.testing.assert_array_equal(total.view(np.int32), x.astype(np.int32) * y + np.arange(300, dtype=np.int32))


def test_negative_numbers_of_16_bits(module: Module) -> None:
    """Of the emulator: registers hold them without the bits of the sign above."""
    x, y = np.random.default_rng(3).integers(-(2**15) + 1, 2**15, (2, 300)).astype(np.int16)
    found = empty(300, 6, dtype=np.uint32).view(np.int32)
    _run(module, "many_signed", 300, x, y, found)
    high = x.astype(np.int32) * y >> 16
    exact = np.minimum(x, y), np.maximum(x, y), high, abs(x), x < y, x >> 3
    np.testing.assert_array_equal(found, np.stack(exact, axis=1))


def test_an_approximation_keeps_its_sign(module: Module) -> None:
    """Of the emulator: below the smallest number comes 0."""
    z = np.linspace(-150.0, -140.0, 3000, dtype=np.float32)
    assert (_of(module, "exp2", z, z) >= 0.0).all()


def test_pixels(module: Module) -> None:
    pixels, found = np.arange(256, dtype=np.uint8), empty(256)
    _run(module, "many_pixels", 256, pixels, found)
    np.testing.assert_allclose(found, scale_pixels(pixels, np.float64), atol=2e-7)


def test_a_cosine_of_the_learning_rate(module: Module) -> None:
    epochs, found = np.arange(101, dtype=np.uint32), np.zeros(101)
    _run(module, "many_shares", 101, epochs, found)
    np.testing.assert_allclose(found, 0.5 * (1.0 + np.cos(np.pi * epochs / 100)), rtol=1e-6, atol=1e-15)


def test_infinity_and_nan_go_through(module: Module) -> None:
    odd = np.array([np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(_of(module, "sigmoid", odd, odd), [1.0, 0.0, np.nan])
    np.testing.assert_array_equal(_of(module, "tanh", odd, odd), [1.0, -1.0, np.nan])


def test_adam_is_the_one_of_the_textbook(module: Module) -> None:
    count, random = 200, np.random.default_rng(0)
    found = [random.standard_normal(count).astype(np.float32) for _ in range(4)]
    found[3] = abs(found[3])
    expected = [array.astype(np.float64) for array in found]
    for t in (1, 2, 1000, 469_000, 2**32 - 300):
        settings = (2e-4, 0.9, 0.999, 1e-8)
        g, p, m, v = expected
        adam_at(m, v, t - 1, *settings).update(p, g)
        _run(module, "many_adam", count, *found, more=(np.uint32(t), *map(np.float64, settings)))
        for name, one, other in zip("gpmv", found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6, err_msg=f"{name}, step {t}")


def test_numbers_of_tf32(module: Module) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal(2000) * 10.0 ** random.integers(-30, 30, 2000)
    x = np.concatenate([x, [0, 1, -1, 1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-23]]).astype(np.float32)
    big, small, rounded = empty(len(x)), empty(len(x)), _of(module, "round_to_tf32", x, x)
    _run(module, "many_split", len(x), x, big, small)
    for each in (big, small, rounded):
        assert not (each.view(np.uint32) & 0x1FFF).any()  # ten bits of fraction
    np.testing.assert_array_equal(big, rounded)
    np.testing.assert_allclose(rounded, x, rtol=2.0**-11 * 1.0001)
    np.testing.assert_allclose(big.astype(np.float64) + small, x, rtol=2.0**-21 * 1.001)


def test_what_split_makes_of_nan_and_infinity(module: Module) -> None:
    """Its comment says so. Either way the sum of the three products is a NaN, so nothing that is not finite is lost."""
    words = [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFF000]
    x = np.array(words, np.uint32).view(np.float32)
    big, small = empty(len(x)), empty(len(x))
    _run(module, "many_split", len(x), x, big, small)
    assert np.isnan(small).all()
