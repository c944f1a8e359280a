"""Layers and networks: protocol, initialization, dropout masks, flat vectors, and the three methods of a backward pass."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from npgan.backend import Array
from npgan.gan import discriminator
from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU, Maxout, ReLU, Sigmoid, Softmax, Tanh
from npgan.nn.network import Sequential
from npgan.nn.philox import Stream, random_halfwords

_KEY = DropoutKey(seed=3, step=4, forward_pass=0)


def _small(dtype: Any = np.float64) -> Sequential:
    net = Sequential([Dense(6, 8), LeakyReLU(0.2), Dropout(0.3), Dense(8, 5), Tanh()], dtype)
    net.initialize(1)
    return net


def test_glorot_uniform_weights_and_zero_biases() -> None:
    net = discriminator()
    for name, tensor in net.tensors.items():
        if name.endswith("bias"):
            assert not tensor.any()
        else:
            limit = (6 / sum(tensor.shape)) ** 0.5
            assert np.abs(tensor).max() <= limit
            if tensor.size > 1000:
                assert np.abs(tensor).max() > 0.99 * limit
                np.testing.assert_allclose(tensor.std(), limit / 3**0.5, rtol=0.02)


def test_seeds_and_layers_draw_different_weights() -> None:
    nets = [_small(), _small()]
    nets[1].initialize(2)
    assert not np.array_equal(nets[0].parameters, nets[1].parameters)
    same_shape = Sequential([Dense(4, 4), Dense(4, 4)])
    same_shape.initialize(0)
    assert not np.array_equal(same_shape.tensors["0.weight"], same_shape.tensors["1.weight"])


def test_tensors_are_views_of_the_flat_vectors() -> None:
    net = _small()
    assert list(net.tensors) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    net.parameters[:] = np.arange(net.parameters.size)
    np.testing.assert_array_equal(net.tensors["0.weight"].reshape(-1), np.arange(48))
    np.testing.assert_array_equal(net.tensors["3.bias"], net.parameters[-5:])
    assert np.shares_memory(net.layers[0].weight, net.tensors["0.weight"])  # type: ignore[attr-defined]
    assert np.shares_memory(net.gradient_tensors["3.weight"], net.gradients)


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot follow a width of 5"):
        Sequential([Dense(4, 5), LeakyReLU(0.2), Dense(6, 2)])


class _Scale(Layer):
    """A reader's own layer: y = x·scale, with one number a column, and a cache that is a plain tuple."""

    scale: Array
    dscale: Array

    def __init__(self, width: int) -> None:
        self.width = width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"scale": (self.width,)}

    def initialize(self, seed: int, site: int) -> None:
        self.scale[...] = 1.0 + site

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, tuple[Array, str]]:
        return x * self.scale, (x, "anything")

    def backward(self, dy: Array, cache: tuple[Array, str]) -> Array:
        self.dscale[...] = np.sum(dy * cache[0], axis=0)
        return self.backward_input(dy, cache)

    def backward_input(self, dy: Array, cache: tuple[Array, str]) -> Array:
        return dy * self.scale


def test_every_layer_with_tensors_is_bound_and_initialized() -> None:
    net = Sequential([Dense(3, 4), _Scale(4), Dense(4, 2)], np.float64)
    net.initialize(0)
    np.testing.assert_array_equal(net.tensors["1.scale"], np.full(4, 2.0))
    y, caches = net.forward(np.ones((5, 3)))
    dy = np.ones_like(y)
    dx = net.backward(dy, caches)
    gradients = net.gradients.copy()
    h = 1e-6
    for index in range(4):  # the new layer's gradient, and with it the chain rule through it
        losses = []
        for sign in (1, -1):
            net.tensors["1.scale"][index] += sign * h
            losses.append(float(net(np.ones((5, 3))).sum()))
            net.tensors["1.scale"][index] -= sign * h
        np.testing.assert_allclose((losses[0] - losses[1]) / (2 * h), net.gradient_tensors["1.scale"][index], rtol=1e-8)
    net.gradients[:] = 7.0
    np.testing.assert_array_equal(net.backward_input(dy, caches), dx)
    assert (net.gradients == 7.0).all()
    net.backward(dy, caches)
    np.testing.assert_array_equal(net.gradients, gradients)


def test_a_layer_that_does_not_initialize_its_tensors_is_refused() -> None:
    class Still(_Scale):
        initialize = Layer.initialize

    with pytest.raises(NotImplementedError, match=r"Still\(2\) has tensors and no initialize"):
        Sequential([Still(2)])


def test_backward_input_of_a_layer_that_has_only_backward_leaves_its_gradients_alone() -> None:
    class Short(_Scale):
        backward_input = Layer.backward_input

        def backward(self, dy: Array, cache: tuple[Array, str]) -> Array:
            self.dscale[...] = np.sum(dy * cache[0], axis=0)
            return dy * self.scale

    net = Sequential([Short(3)], np.float64)
    y, caches = net.forward(np.ones((2, 3)))
    net.gradients[:] = 7.0
    dx = net.backward_input(np.ones_like(y), caches)
    assert (net.gradients == 7.0).all()
    np.testing.assert_array_equal(net.backward(np.ones_like(y), caches), dx)
    assert (net.gradients == 2.0).all()


def test_a_network_without_a_seed_is_not_drawn() -> None:
    net = Sequential([Dense(3, 3)], seed=None)
    assert not net.parameters.any()
    net.parameters += 1.0
    assert Sequential([net]).parameters.tolist() == [1.0] * 12


# --- networks in networks


def test_a_network_in_a_network_is_bound_drawn_and_numbered_with_it() -> None:
    inner = [Sequential([Dense(4, 4), Dropout(0.5)]) for _ in range(2)]
    np.testing.assert_array_equal(inner[0].parameters, inner[1].parameters)  # both of seed 0
    net = Sequential([*inner, Dense(4, 1)], np.float64, seed=3)
    assert list(net.tensors) == ["0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias", "2.weight", "2.bias"]
    assert not np.array_equal(net.tensors["0.0.weight"], net.tensors["1.0.weight"])
    assert [layer.site for layer in net.leaves() if isinstance(layer, Dropout)] == [0, 1]
    net.parameters[:] = np.arange(net.size)
    np.testing.assert_array_equal(np.concatenate([each.parameters for each in net.layers]), net.parameters)
    assert inner[1].layers[0].weight.dtype == np.float64  # type: ignore[attr-defined]


def test_a_trained_network_keeps_its_parameters_in_another_one() -> None:
    inner = Sequential([Dense(4, 3)])
    inner.parameters += 0.5
    trained = inner.parameters.copy()
    net = Sequential([inner, Dense(3, 2)], np.float64, seed=9)
    np.testing.assert_array_equal(inner.parameters, trained)
    assert np.shares_memory(inner.parameters, net.parameters)


def test_a_layer_has_one_place() -> None:
    dense, dropout, relu = Dense(3, 3), Dropout(0.5), ReLU()
    net = Sequential([dense, relu, dropout, relu], seed=1)
    before = net.parameters.copy()
    for again in ([dense], [dropout], [net.layers[0]], [Dense(3, 3), dropout]):
        with pytest.raises(ValueError, match="stands in a network already"):
            Sequential(again)
    with pytest.raises(ValueError, match="layer 1, Dense, stands in a network already"):
        Sequential([other := Dense(2, 2), other])
    inner = Sequential([Dense(2, 2)])
    Sequential([inner])
    with pytest.raises(ValueError, match="layer 0, Sequential, stands in a network already"):
        Sequential([inner])
    np.testing.assert_array_equal(net.parameters, before)
    assert np.shares_memory(dense.weight, net.parameters)


def test_more_dropout_layers_than_their_masks_can_be_told_apart_are_refused() -> None:
    Sequential([Dropout(0.5) for _ in range(16)])
    with pytest.raises(ValueError, match="at most 16 dropout layers, got 17"):
        Sequential([Sequential([Dropout(0.5) for _ in range(16)]), Dropout(0.5)])


def test_a_copy_in_another_dtype_has_parameters_of_its_own() -> None:
    net = _small(np.float32)
    twin = net.astype(np.float64)
    assert twin.layers[0].weight.dtype == np.float64  # type: ignore[attr-defined]
    np.testing.assert_array_equal(twin.parameters, net.parameters.astype(np.float64))
    twin.parameters += 1.0
    assert not np.array_equal(twin.parameters, net.parameters)
    np.testing.assert_array_equal(net(np.ones((2, 6), np.float32)), _small(np.float32)(np.ones((2, 6), np.float32)))


# --- what is refused, in one line that names who, got and wanted


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (np.ones((3, 5)), "got float64 of shape (3, 5), wanted floats of shape (N, 6)"),
        (np.ones((3, 6), int), "got int64 of shape (3, 6), wanted floats"),
        (np.ones((3, 6), bool), "got bool of shape (3, 6), wanted floats"),
        (np.ones((0, 6)), "got float64 of shape (0, 6), wanted floats of shape (N, any), at least one row"),
        (np.ones(6), "got float64 of shape (6,)"),
        ([[1.0] * 6], "got list, wanted floats"),
        (np.full((3, 6), np.nan), "got an input with NaN or infinity"),
        (np.full((3, 6), -np.inf), "got an input with NaN or infinity"),
    ],
)
def test_inputs_that_do_not_fit(x: Any, got: str) -> None:
    net = Sequential([Sequential([Dense(6, 2)]), Tanh()])
    with pytest.raises(ValueError, match=r"^Dense\(6, 2\): " + re.escape(got)):
        net(x)


@pytest.mark.parametrize("x", [np.ones((2, 3), int), np.ones((0, 3)), np.ones(3), [[1.0, 2.0, 3.0]], None])
def test_a_network_looks_at_its_input_whatever_its_first_layer(x: Any) -> None:
    net = Sequential([LeakyReLU(), Tanh()])
    for call in (net, net.forward):
        with pytest.raises(ValueError, match=r"^LeakyReLU\(0.2\): got .*, wanted floats of shape"):
            call(x)


def test_gradients_that_do_not_fit() -> None:
    net = _small()
    _, caches = net.forward(np.ones((3, 6)))
    with pytest.raises(
        ValueError, match=r"Dense\(8, 5\): got float64 of shape \(3, 3\), wanted floats of shape \(3, 5\)"
    ):
        net.layers[3].backward(np.ones((3, 3)), caches[3])
    with pytest.raises(
        ValueError, match=r"Dense\(8, 5\): got float64 of shape \(2, 5\), wanted floats of shape \(3, 5\)"
    ):
        net.layers[3].backward(np.ones((2, 5)), caches[3])


def test_dropout_refuses_integers() -> None:
    """Its 1/(1 − p) would round to 1."""
    with pytest.raises(ValueError, match=r"Dropout\(0.3\): got int64"):
        Dropout(0.3).forward(np.ones((2, 2), int), _KEY)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dense(0, 3), lambda: Dense(3, -1), lambda: Dense(2.5, 3), lambda: Dense(True, 3), lambda: Dense("2", 3),
        lambda: Dropout("0.3"), lambda: LeakyReLU(None), lambda: Dropout(True),
        lambda: LeakyReLU(float("nan")), lambda: LeakyReLU(1.0), lambda: LeakyReLU(-0.1),
        lambda: Dropout(1.0), lambda: Dropout(float("nan")), lambda: Dropout(-0.1),
        lambda: Maxout(1), lambda: Maxout(2.0), lambda: Sequential([Dense(2, 5), Maxout(2)]),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_meant(make: Any) -> None:
    with pytest.raises(ValueError, match=r"(Dense|LeakyReLU|Dropout|Maxout)\("):
        make()


def test_a_refused_network_leaves_its_layers_free() -> None:
    fresh, used = Dense(2, 2), Dense(2, 2)
    Sequential([used])
    with pytest.raises(ValueError, match="stands in a network already"):
        Sequential([fresh, used])
    Sequential([fresh])


@pytest.mark.parametrize("dtype", [int, bool, "U3"])
def test_parameters_are_floats(dtype: Any) -> None:
    """Glorot's weights would all be rounded to 0."""
    with pytest.raises(TypeError, match="parameters are floats"):
        Sequential([Dense(2, 2)], dtype)


def test_a_width_that_maxout_cannot_share_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Maxout\(2\) cannot follow a width of 5"):
        Sequential([Maxout(2)])(np.ones((3, 5)))


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(ValueError, match="wanted whole numbers from 0 on"):
        Sequential([Dense(2, 2)], seed=seed)


@pytest.mark.parametrize("layers", [[], [Dense(2, 2), np.tanh], [Dense], None, Dense(2, 2)])
def test_a_network_is_made_of_layers(layers: list[Any]) -> None:
    with pytest.raises(TypeError, match="Sequential takes a list of layers"):
        Sequential(layers)


# --- activations


def test_activations_by_hand() -> None:
    x = np.array([[-2.0, 1.0, 3.0, 0.5]])
    np.testing.assert_array_equal(ReLU().forward(x)[0], [[0.0, 1.0, 3.0, 0.5]])
    y, cache = Maxout(2).forward(x)
    np.testing.assert_array_equal(y, [[3.0, 1.0]])  # max(−2, 3) and max(1, 0.5)
    np.testing.assert_array_equal(Maxout(2).backward(np.array([[5.0, 7.0]]), cache), [[0.0, 7.0, 5.0, 0.0]])
    p, _ = Softmax().forward(np.log(np.array([[1.0, 2.0, 5.0]])))
    np.testing.assert_allclose(p, [[0.125, 0.25, 0.625]])
    assert Softmax().forward(np.array([[1000.0, 0.0]]))[0][0, 0] == 1.0
    assert [repr(layer) for layer in (ReLU(), Maxout(2), Softmax(), Sigmoid())] == [
        "ReLU()",
        "Maxout(2)",
        "Softmax()",
        "Sigmoid()",
    ]


def test_backward_assigns_and_backward_input_leaves_gradients_alone() -> None:
    net = _small()
    y, caches = net.forward(np.ones((3, 6)), _KEY)
    dx = net.backward(np.ones_like(y), caches)
    gradients = net.gradients.copy()
    net.gradients[:] = np.nan
    np.testing.assert_array_equal(net.backward(np.ones_like(y), caches), dx)
    np.testing.assert_array_equal(net.gradients, gradients)
    net.gradients[:] = 7.0
    np.testing.assert_array_equal(net.backward_input(np.ones_like(y), caches), dx)
    assert (net.gradients == 7.0).all()


def test_a_layer_can_have_several_forwards_under_way() -> None:
    net = _small()
    x = np.random.default_rng(0).standard_normal((9, 6))
    y, caches = net.forward(x)
    net.forward(-x)
    dx = net.backward(np.ones_like(y), caches)
    _, again = net.forward(x)
    np.testing.assert_array_equal(net.backward(np.ones_like(y), again), dx)
    np.testing.assert_array_equal(net(x), y)


# --- dropout


def _mask(rate: float, shape: tuple[int, ...], key: DropoutKey = _KEY, site: int = 0, dtype: Any = np.float32) -> Array:
    layer = Dropout(rate)
    layer.site = site
    return layer.mask(np.empty(shape, dtype), key)


def test_dropout_drops_at_its_rate_and_keeps_the_mean() -> None:
    mask = _mask(0.3, (1000, 200), dtype=np.float64)
    assert set(np.unique(mask)) == {0.0, 1 / 0.7}
    assert abs((mask == 0).mean() - 0.3) < 0.005
    layer = Dropout(0.3)
    y, cache = layer.forward(np.ones((1000, 200)), _KEY)
    assert abs(y.mean() - 1) < 0.01
    np.testing.assert_array_equal(layer.backward(np.full((1000, 200), 2.0), cache), 2 * mask)


@pytest.mark.parametrize(("rate", "threshold"), [(0.0, 0), (0.3, 19661), (0.5, 32768)])
def test_a_mask_is_16_random_bits_an_element(rate: float, threshold: int) -> None:
    """Which elements are dropped is part of every run, and the fused kernels drop the same ones."""
    bits = random_halfwords(_KEY.seed, Stream.DROPOUT, _KEY.step, 16 * 1 + 2, 200 * 1000)
    mask = _mask(rate, (200, 1000), _KEY._replace(forward_pass=1), site=2, dtype=np.float64)
    np.testing.assert_array_equal(mask.reshape(-1), np.where(bits >= threshold, 1.0 / (1.0 - rate), 0.0))
    assert threshold == 0 or (bits == threshold).any()


def test_dropout_without_a_key_is_the_identity() -> None:
    x = np.ones((2, 3))
    y, cache = Dropout(0.3).forward(x)
    assert y is x
    assert Dropout(0.3).backward(x, cache) is x


def test_masks_differ_by_step_pass_site_and_seed_and_repeat_by_key() -> None:
    draws = [
        (_KEY, 0),
        (_KEY, 1),
        (_KEY._replace(step=5), 0),
        (_KEY._replace(seed=5), 0),
        (_KEY._replace(forward_pass=1), 0),
    ]
    masks = [_mask(0.5, (8, 8), key, site).tobytes() for key, site in draws]
    assert len(set(masks)) == len(masks)
    assert _mask(0.5, (8, 8)).tobytes() == masks[0]


def test_a_network_counts_its_dropout_layers() -> None:
    """Two of the same rate in one network do not share their masks: a quarter passes both."""
    net = Sequential([Dense(1, 20_000), Dropout(0.5), Dropout(0.5)])
    net.layers[0].bias[...] = 1.0  # type: ignore[attr-defined]
    y, _ = net.forward(np.zeros((1, 1), np.float32), _KEY)
    assert [layer.site for layer in net.layers if isinstance(layer, Dropout)] == [0, 1]
    assert abs((y != 0).mean() - 0.25) < 0.02


def test_a_rate_of_zero_drops_nothing() -> None:
    np.testing.assert_array_equal(_mask(0.0, (50, 50)), np.ones((50, 50), np.float32))


@pytest.mark.parametrize("x", [None, "text", np.ones((2, 3), object)])
def test_what_is_no_array_of_floats_is_told_by_the_call_too(x: Any) -> None:
    with pytest.raises(ValueError, match=r"Dense\(3, 2\): got .*, wanted floats"):
        Sequential([Dense(3, 2)])(x)
