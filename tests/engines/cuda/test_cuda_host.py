"""The CUDA kernels without a GPU: compiled by g++, run by a stand-in for it, held against ``ops``, ``Adam`` and ``philox``."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_host
import numpy as np
import pytest
from cuda_host import HostLauncher, build
from helpers import adam_at

from npgan.data.batches import scale_pixels
from npgan.engines.cuda.device import TILES, passes, tile_of
from npgan.nn import ops, philox
from npgan.nn.layers import Dropout, DropoutKey
from npgan.nn.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits
from npgan.nn.philox import Stream

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="needs g++")

Array = Any

SEED = 2**40 + 3
SLOPE = np.float32(0.2)
F, N, U, S, D = np.float32, np.int32, np.uint32, np.uint64, np.float64  # the kernels' argument types
NULL = S(0)
_RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(scope="module", params=[3, 1, 0], ids=["three passes", "tf32", "no tensor cores"])
def launcher(request: pytest.FixtureRequest, folder: Path) -> HostLauncher:
    made = HostLauncher(build(folder, request.param))
    made.passes = request.param  # type: ignore[attr-defined]
    return made


@pytest.fixture(scope="module")
def three(folder: Path) -> ctypes.CDLL:
    return build(folder, 3)


def _normal(*shape: int) -> Array:
    return _RNG.standard_normal(shape).astype(np.float32)


def _empty(*shape: int) -> Array:
    return np.full(shape, np.nan, np.float32)


# --- the maths of one number -------------------------------------------------------------------------------------------

_DEVICE = """
extern "C" {
void many_philox(const u32* c, u64 seed, u32* words, int n) {
    for (int i = 0; i < n; ++i) { Words w = philox(c[4*i], c[4*i+1], c[4*i+2], c[4*i+3], seed); memcpy(words + 4*i, &w, 16); } }
void many_box_muller(const u32* words, float* out, int n) {
    for (int i = 0; i < n; ++i) box_muller(words[2*i], words[2*i+1], out + 2*i, out + 2*i + 1); }
void many(const char* what, const float* x, const float* t, float* y, int n) {
    for (int i = 0; i < n; ++i)
        y[i] = !strcmp(what, "leaky_relu") ? leaky_relu(x[i], 0.2f)
             : !strcmp(what, "leaky_relu_dydz") ? leaky_relu_dydz(x[i], 0.2f)
             : !strcmp(what, "tanh_dydz") ? tanh_dydz(x[i]) : !strcmp(what, "sigmoid") ? sigmoid(x[i])
             : !strcmp(what, "bce_loss") ? bce_loss(x[i], t[i]) : !strcmp(what, "bce_dz") ? bce_dz(x[i], t[i], n)
             : !strcmp(what, "logits_loss") ? bce_with_logits_loss(x[i], t[i])
             : !strcmp(what, "logits_dz") ? bce_with_logits_dz(x[i], t[i], n) : NAN; }
void many_adam(float* p, const float* g, float* m, float* v, int n, u32 t, double lr, double b1, double b2, double epsilon) {
    AdamStep s = adam_step(t, lr, b1, b2, epsilon); for (int i = 0; i < n; ++i) adam(s, g[i], p + i, m + i, v + i); }
}
"""


@pytest.fixture(scope="module")
def device(folder: Path) -> ctypes.CDLL:
    return build(folder, 3, more=_DEVICE)


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_philox_gives_the_published_words(device: ctypes.CDLL) -> None:
    ones = 0xFFFFFFFF
    for counter, key, words in (
        ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ones] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ):
        given, found = np.array(counter, np.uint32), np.zeros(4, np.uint32)
        device.many_philox(_pointer(given), ctypes.c_uint64(key), _pointer(found), 1)
        assert found.tolist() == words


def test_normal_numbers_are_those_of_philox(device: ctypes.CDLL) -> None:
    words = np.concatenate(
        [philox.random_words(7, Stream.LATENT, 3, 1, 4000), np.array([0, 0, 2**32 - 1, 5], np.uint32)]
    )
    found = _empty(4004)
    device.many_box_muller(_pointer(words), _pointer(found), 2002)
    np.testing.assert_allclose(found[:4000], philox.normal(7, Stream.LATENT, 3, 1, (4000,)), rtol=2e-6, atol=2e-6)
    assert np.isfinite(found).all()


_Z = np.concatenate([np.linspace(-30, 30, 61), [0.0, -0.0, 1e-30, 100.0, -100.0]]).astype(np.float32)
_T = np.resize([0.0, 1.0, 0.9], len(_Z)).astype(np.float32)
_P = ops.sigmoid_forward(_Z)


def _column(function: Callable[..., Array], x: Array, t: Array) -> Array:
    return function(x[:, None], t[:, None])[:, 0]


def _each(forward: Callable[..., Array], x: Array, t: Array) -> Array:
    return np.array([forward(x[i : i + 1, None], t[i : i + 1, None]) for i in range(len(x))])


_BCE, _LOGITS = BinaryCrossEntropy(), BinaryCrossEntropyWithLogits()
_EXPECTED = {
    "leaky_relu": (_Z, ops.leaky_relu_forward(_Z, 0.2)),
    "leaky_relu_dydz": (_Z, ops.leaky_relu_backward(np.ones_like(_Z), _Z, 0.2)),
    "tanh_dydz": (np.tanh(_Z), ops.tanh_backward(np.ones_like(_Z), np.tanh(_Z))),
    "sigmoid": (_Z, _P),
    "bce_loss": (_P, _each(_BCE.forward, _P, _T)),
    "bce_dz": (_P, ops.sigmoid_backward(_column(_BCE.backward, _P, _T), _P)),
    "logits_loss": (_Z, _each(_LOGITS.forward, _Z, _T)),
    "logits_dz": (_Z, _column(_LOGITS.backward, _Z, _T)),
}


@pytest.mark.parametrize("name", _EXPECTED)
def test_a_number_is_treated_as_in_ops(device: ctypes.CDLL, name: str) -> None:
    x, expected = _EXPECTED[name]
    found = _empty(len(x))
    device.many(name.encode(), _pointer(x), _pointer(_T), _pointer(found), len(x))
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-9)


def test_adam_is_the_one_of_the_textbook(device: ctypes.CDLL) -> None:
    count = 200
    expected, found = ([array.copy() for array in arrays] for arrays in [[_normal(count) for _ in range(4)]] * 2)
    expected[3], found[3] = abs(expected[3]), abs(found[3])
    for t in (1, 2, 1000, 469_000):
        settings = (2e-4, 0.9, 0.999, 1e-8)
        p, g, m, v = expected
        adam_at(m, v, t - 1, *settings).update(p, g)
        p, g, m, v = (_pointer(array) for array in found)
        device.many_adam(p, g, m, v, count, t, *(ctypes.c_double(value) for value in settings))
        for name, one, other in zip("pgmv", found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-9, err_msg=f"{name}, step {t}")


# --- the kernels -------------------------------------------------------------------------------------------------------

SHAPES = [(5, 12, 24), (40, 100, 48), (70, 68, 72), (33, 8, 40), (1, 32, 8)]  # rows, inputs, outputs
_BY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)
_BY_TILE = pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile[0]}x{tile[1]}")


def _launch_tiled(
    launcher: HostLauncher, kernel: str, tile: tuple[int, int], result: tuple[int, int], *arguments: Any
) -> None:
    rows, columns = result
    blocks = (-(-columns // tile[1]), -(-rows // tile[0]))
    launcher.launch(f"{kernel}_{tile[0]}x{tile[1]}", blocks, *arguments)


def _assert_gemm(found: Array, exact: Array, a: Array, b: Array, launcher: Any) -> None:
    """``exact`` in float64. A float32 sum of k products is off by a few 2⁻²⁴ of Σ|a·b|; TF32 rounds each factor to 2⁻¹¹."""
    size = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)) + 1.0
    assert not np.isnan(found).any()
    worst = (np.abs(found - exact) / size).max()
    assert worst < {3: 1e-6, 1: 1.1e-3, 0: 1e-6}[launcher.passes]
    if launcher.passes == 1 and a.shape[1] > 20:
        assert worst > 1e-6  # it really is TF32


@_BY_SHAPE
@_BY_TILE
def test_forward_kernels(launcher: HostLauncher, shape: tuple[int, int, int], tile: tuple[int, int]) -> None:
    n, i, o = shape
    x, weight, bias = _normal(n, i), _normal(i, o), _normal(o)
    sizes = (N(n), N(i), N(o))
    z = x.astype(np.float64) @ weight + bias
    y = _empty(n, o)
    _launch_tiled(launcher, "forward_leaky_relu", tile, (n, o), x, weight, bias, y, *sizes, SLOPE)
    _assert_gemm(y, ops.leaky_relu_forward(z, 0.2), x, weight, launcher)
    y = _empty(n, o)
    _launch_tiled(launcher, "forward_tanh", tile, (n, o), x, weight, bias, y, *sizes)
    _assert_gemm(y, np.tanh(z), x, weight, launcher)

    dropout = Dropout(0.3)
    dropout.site = 2
    y, dydz = _empty(n, o), _empty(n, o)
    more = (U(dropout.threshold), F(dropout.scale), np.array([5], np.uint32), U(dropout.draw_site(1)), S(SEED))
    _launch_tiled(launcher, "forward_dropout", tile, (n, o), x, weight, bias, y, dydz, *sizes, SLOPE, *more)
    mask = dropout.mask(y, DropoutKey(SEED, 5, 1))
    np.testing.assert_array_equal(dydz == 0, mask == 0)
    _assert_gemm(y, ops.leaky_relu_forward(z, 0.2) * mask, x, weight, launcher)
    sure = np.abs(z) > 0.1  # on which side of 0 the others are is up to rounding
    np.testing.assert_allclose(dydz[sure], ops.leaky_relu_backward(mask, z, 0.2)[sure], rtol=1e-6)


@_BY_SHAPE
@_BY_TILE
def test_backward_kernels(launcher: HostLauncher, shape: tuple[int, int, int], tile: tuple[int, int]) -> None:
    n, o, i = shape
    dz, weight, before = _normal(n, o), _normal(i, o), _normal(n, i)
    dx = dz.astype(np.float64) @ weight.T
    sizes = (N(n), N(i), N(o))
    for kernel, expected, extra in (
        ("backward_dydz", dx * before, ()),
        ("backward_leaky_relu", ops.leaky_relu_backward(dx, before, 0.2), (SLOPE,)),
        ("backward_tanh", ops.tanh_backward(dx, before), ()),
    ):
        found = _empty(n, i)
        _launch_tiled(launcher, kernel, tile, (n, i), dz, weight, before, found, *sizes, *extra)
        scale = 1.0 + np.abs(before).max() ** 2
        _assert_gemm(found / scale, expected / scale, dz, weight.T, launcher)


_ADAM = (2e-4, 0.9, 0.999, 1e-8)


def _adam_step(step: int, settings: tuple[float, float, float, float] = _ADAM) -> Array:
    """``AdamStep`` of math.cuh, for the update after ``step`` others."""
    lr, beta1, beta2, epsilon = settings
    rate, unbias = lr / (1.0 - beta1 ** (step + 1)), 1.0 / (1.0 - beta2 ** (step + 1))
    return np.array([beta1, beta2, 1.0 - beta1, 1.0 - beta2, epsilon, rate, unbias], np.float32)


def _parameters(count: int) -> list[Array]:
    """Gradient, parameter, m and v before the fifth step."""
    return [_empty(count), _normal(count), _normal(count), np.abs(_normal(count))]


def _assert_other_half(
    launcher: HostLauncher, halves: list[Array], found: list[Array], before: list[Array], squares: Array
) -> None:
    """``halves``: after a kernel that had a null pointer for m. ``adam_update`` then ends with the bits of ``found``."""
    for one, other in zip(halves, [found[0], *before[1:]], strict=True):
        np.testing.assert_array_equal(one, other)
    squares[...] = np.nan
    launcher.launch("adam_update", (squares.size, 1), *halves, _adam_step(4), squares, N(halves[0].size))
    for one, other in zip(halves, found, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(squares.sum(), (found[0].astype(np.float64) ** 2).sum(), rtol=1e-5)


def _assert_updated(found: list[Array], before: list[Array], squares: Array) -> None:
    gradient, expected = found[0], [array.copy() for array in before[1:]]
    adam_at(*expected[1:], 4, *_ADAM).update(expected[0], gradient)
    for name, one, other in zip(("parameter", "m", "v"), found[1:], expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-8, err_msg=name)
    np.testing.assert_allclose(squares.sum(), (gradient.astype(np.float64) ** 2).sum(), rtol=1e-5)


@_BY_SHAPE
@_BY_TILE
def test_parameters(launcher: HostLauncher, shape: tuple[int, int, int], tile: tuple[int, int]) -> None:
    n, i, o = shape
    x, dz, before = _normal(n, i), _normal(n, o), _parameters(i * o + o)
    found, squares = [array.copy() for array in before], _empty(-(-i // tile[0]) * -(-o // tile[1]))
    arrays = (x, dz, *found, _adam_step(4), squares)
    _launch_tiled(launcher, "update", tile, (i, o), *arrays, N(n), N(i), N(o))
    dweight, dbias = found[0][: i * o].reshape(i, o), found[0][i * o :]
    _assert_gemm(dweight, x.T.astype(np.float64) @ dz, x.T, dz, launcher)
    np.testing.assert_allclose(dbias, dz.sum(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-5)
    _assert_updated(found, before, squares)
    halves = [array.copy() for array in before]
    arrays = (x, dz, *halves[:2], NULL, halves[3], _adam_step(4), squares)
    _launch_tiled(launcher, "update", tile, (i, o), *arrays, N(n), N(i), N(o))
    _assert_other_half(launcher, halves, found, before, squares)


def test_three_passes_are_as_exact_as_float32(three: ctypes.CDLL) -> None:
    n, i, o = 32, 784, 32
    x, weight, bias = _normal(n, i), _normal(i, o), np.zeros(o, np.float32)
    exact = x.astype(np.float64) @ weight
    y = _empty(n, o)
    launcher = HostLauncher(three)
    _launch_tiled(launcher, "forward_leaky_relu", TILES[2], (n, o), x, weight, bias, y, N(n), N(i), N(o), F(1.0))
    sequential = np.zeros((n, o), np.float32)
    for k in range(i):
        sequential += x[:, k : k + 1] * weight[k]
    error, plain = (np.linalg.norm(result - exact) for result in (y, sequential))
    assert error < 1.5 * plain


@pytest.mark.parametrize("order", [1, 2, 7])
def test_whichever_thread_goes_first_the_bits_are_the_same(three: ctypes.CDLL, order: int) -> None:
    n, i, o = 40, 100, 72
    x, weight, bias, dz = _normal(n, i), _normal(i, o), _normal(o), _normal(n, o)
    for tile in TILES:
        results = []
        for each in (0, order):
            launcher = HostLauncher(three, order=each)
            y, parameters = _empty(n, o), [np.full(i * o + o, 0.1, np.float32) for _ in range(4)]
            squares = _empty(-(-i // tile[0]) * -(-o // tile[1]))
            sizes = (N(n), N(i), N(o))
            _launch_tiled(launcher, "forward_tanh", tile, (n, o), x, weight, bias, y, *sizes)
            arrays = (x, dz, *parameters, _adam_step(4), squares)
            _launch_tiled(launcher, "update", tile, (i, o), *arrays, *sizes)
            results.append((y, *parameters, squares))
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "change",
    [
        ("__syncthreads();  // the slab has come", "// the slab has come"),
        ("wait_copies<TILE::STAGES - 2>();", "wait_copies<TILE::STAGES - 1>();"),
        ("free = now;\n        now =", "free = now + PAIR < RING ? now + PAIR : 0;\n        now ="),
        ("part < TILE::WARPS_K;", "part < TILE::WARPS_K - 1;"),
        ("__syncthreads();  // nobody reads", "// nobody reads"),
    ],
    ids=[
        "no barrier",
        "reads before the copies are done",
        "fills the next slab",
        "a part of the sum",
        "sums too early",
    ],
)
def test_the_stand_in_notices_planted_bugs(folder: Path, change: tuple[str, str]) -> None:
    library = build(folder, 3, change)
    n, i, o = 40, 200, 72
    x, weight, bias, y = _normal(n, i), _normal(i, o), np.zeros(o, np.float32), _empty(n, o)
    wrong = False
    for tile, order in itertools.product(TILES, (1, 2)):
        launcher = HostLauncher(library, order=order)
        _launch_tiled(launcher, "forward_leaky_relu", tile, (n, o), x, weight, bias, y, N(n), N(i), N(o), F(1.0))
        wrong |= not np.allclose(y, x @ weight, atol=1e-3)
    assert wrong


@pytest.mark.parametrize("logits", [0, 1])
@pytest.mark.parametrize("dropout", [False, True])
def test_head(three: ctypes.CDLL, logits: int, dropout: bool) -> None:
    n, i = 21, 72
    x, weight, bias = _normal(n, i), _normal(i, 1) / 8, _normal(1)
    target = np.resize([1.0, 0.0, 0.9], (n, 1)).astype(np.float32)
    dydz = np.abs(_normal(n, i))
    output, dz, dz_before = _empty(n), _empty(n), _empty(n, i)
    launcher = HostLauncher(three)
    launcher.launch(
        "head", (-(-n * 32 // 256), 1), x, weight, bias, target, dydz if dropout else NULL, output, dz, dz_before,
        N(n), N(i), SLOPE, N(logits),
    )  # fmt: skip
    z = ops.dense_forward(x, weight, bias)
    if logits:
        expected, expected_dz = z, ops.binary_cross_entropy_with_logits_backward(z, target)
    else:
        expected = ops.sigmoid_forward(z)
        expected_dz = ops.sigmoid_backward(ops.binary_cross_entropy_backward(expected, target), expected)
    expected_before = ops.dense_backward_dx(expected_dz, weight)
    expected_before = expected_before * dydz if dropout else ops.leaky_relu_backward(expected_before, x, 0.2)
    np.testing.assert_allclose(output, expected[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dz, expected_dz[:, 0], rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(dz_before, expected_before, rtol=1e-4, atol=1e-8)

    before = _parameters(i + 1)
    found, blocks = [array.copy() for array in before], -(-(i + 1) // 32)
    squares = _empty(blocks)
    launcher.launch("head_update", (blocks, 1), x, dz, *found, _adam_step(4), squares, N(n), N(i))
    dweight, dbias = ops.dense_backward_params(dz[:, None], x)
    np.testing.assert_allclose(found[0], np.append(dweight, dbias), rtol=1e-4, atol=1e-6)
    _assert_updated(found, before, squares)
    halves = [array.copy() for array in before]
    arrays = (x, dz, *halves[:2], NULL, halves[3], _adam_step(4), squares)
    launcher.launch("head_update", (blocks, 1), *arrays, N(n), N(i))
    _assert_other_half(launcher, halves, found, before, squares)


def test_inputs(three: ctypes.CDLL) -> None:
    rows, batch, per_epoch, z = 3, 5, 4, 7
    pixels = _RNG.integers(0, 256, (20, 784), dtype=np.uint8)
    order = _RNG.permutation(20).astype(np.uint32)
    images, noise_d, noise_g = _empty(rows, 784), _empty(rows, 8), _empty(batch, 8)
    step = np.array([per_epoch * 9 + 2], np.uint32)
    threads = rows * 196 + -(-rows * z // 4) + -(-batch * z // 4) + 2
    adam, other = _empty(2, 7), (1e-3, 0.5, 0.99, 1e-7)
    HostLauncher(three).launch(
        "inputs", (-(-threads // 256), 1), pixels, order, step, images, noise_d, noise_g, adam, N(rows), N(batch),
        N(per_epoch), N(z), S(SEED), *(D(each) for each in (*_ADAM, *other)),
    )  # fmt: skip
    for constants, settings in zip(adam, (_ADAM, other), strict=True):
        np.testing.assert_allclose(constants, _adam_step(int(step[0]), settings), rtol=1e-6)
    np.testing.assert_array_equal(images, scale_pixels(pixels[order[2 * batch : 2 * batch + rows]]))
    for site, noise in enumerate((noise_d, noise_g)):
        expected = philox.normal(SEED, Stream.LATENT, int(step[0]), site, (len(noise), z))
        np.testing.assert_allclose(noise[:, :z], expected, rtol=2e-6, atol=2e-6)
        assert np.isnan(noise[:, z:]).all()  # what pads the rows is left as it is


# --- choices -----------------------------------------------------------------------------------------------------------


def test_the_tile_leaves_no_multiprocessor_idle_without_need() -> None:
    assert tile_of(784, 1024, 132) == (64, 64)
    assert tile_of(256, 1024, 132) == (32, 64)
    assert tile_of(256, 512, 132) == (32, 32)
    assert tile_of(128, 256, 132) == (32, 32)
    assert tile_of(8, 8, 4) == (32, 32)


def test_older_gpus_do_without_tensor_cores() -> None:
    assert (passes("fp32", 90), passes("tf32", 90), passes("fp32", 75), passes("fp32", 80)) == (3, 1, 0, 3)
    with pytest.raises(ValueError, match="7.0"):
        passes("fp32", 61)
