"""Layers and networks: protocol, initialisation, dropout masks, flat vectors, and the gradient of D∘G as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from npgan.nn.layers import Dense, Dropout, DropoutKey, LeakyReLU, Sigmoid, Tanh
from npgan.nn.network import Sequential, discriminator, generator, take_rows

_KEY = DropoutKey(seed=3, step=4, forward_pass=0)


def _small(dtype: Any = np.float64) -> Sequential:
    net = Sequential([Dense(6, 8), LeakyReLU(0.2), Dropout(0.3, 0), Dense(8, 5), Tanh()], 6, dtype)
    net.initialise(1, 0)
    return net


def test_the_parameter_counts_are_the_tutorials() -> None:
    assert generator(100, 0.2).parameters.size == 1_486_352
    assert discriminator(0.3, 0.2).parameters.size == 1_460_225
    assert generator(100, 0.2).widths[::2] == [256, 512, 1024, 784]
    assert discriminator(0.3, 0.2).widths == [1024] * 3 + [512] * 3 + [256] * 3 + [1, 1]


def test_the_last_layers_are_as_the_loss_wants_them() -> None:
    assert isinstance(discriminator(0.3, 0.2).layers[-1], Sigmoid)
    assert isinstance(discriminator(0.3, 0.2, logits=True).layers[-1], Dense)
    assert isinstance(generator(100, 0.2).layers[-1], Tanh)


def test_glorot_uniform_weights_and_zero_biases() -> None:
    net = discriminator(0.3, 0.2)
    net.initialise(0, 0)
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
    nets[1].initialise(2, 0)
    assert not np.array_equal(nets[0].parameters, nets[1].parameters)
    same_shape = Sequential([Dense(4, 4), Dense(4, 4)], 4)
    same_shape.initialise(0, 0)
    assert not np.array_equal(same_shape.tensors["0.weight"], same_shape.tensors["1.weight"])


def test_tensors_are_views_of_the_flat_vectors() -> None:
    net = _small()
    assert list(net.tensors) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    net.parameters[:] = np.arange(net.parameters.size)
    np.testing.assert_array_equal(net.tensors["0.weight"].reshape(-1), np.arange(48))
    np.testing.assert_array_equal(net.tensors["3.bias"], net.parameters[-5:])
    assert net.layers[0].weight is net.tensors["0.weight"]  # type: ignore[attr-defined]
    assert np.shares_memory(net.gradient_tensors["3.weight"], net.gradients)


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot follow"):
        Sequential([Dense(4, 5), Dense(6, 2)], 4)


def test_buffers_change_nothing() -> None:
    net = _small(np.float32)
    x = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    y, caches = net.forward(x, _KEY)
    dx = net.backward(np.ones_like(y), caches)
    gradients = net.gradients.copy()
    buffers = net.allocate(7)
    for array in (*buffers.y, *buffers.dx):
        array[:] = np.nan
    net.gradients[:] = np.nan
    y_buffered, caches = net.forward(x, _KEY, buffers)
    dx_buffered = net.backward(np.ones_like(y), caches, buffers=buffers)
    assert y_buffered is buffers.y[-1]
    np.testing.assert_array_equal(y_buffered, y)
    np.testing.assert_array_equal(dx_buffered, dx)
    np.testing.assert_array_equal(net.gradients, gradients)


def test_backward_computes_only_what_is_asked() -> None:
    net = _small()
    y, caches = net.forward(np.ones((3, 6)))
    full_dx = net.backward(np.ones_like(y), caches)
    full_gradients = net.gradients.copy()
    net.gradients[:] = 7.0
    np.testing.assert_array_equal(net.backward(np.ones_like(y), caches, need_params=False), full_dx)
    assert (net.gradients == 7.0).all()
    assert net.backward(np.ones_like(y), caches, need_dx=False) is None
    np.testing.assert_array_equal(net.gradients, full_gradients)


def test_a_part_of_a_batch_is_backpropagated_by_its_caches() -> None:
    net = _small()
    x = np.random.default_rng(0).standard_normal((9, 6))
    _, caches = net.forward(x)
    net.backward(np.ones((5, 5)), take_rows(caches, slice(4, None)))
    from_part = net.gradients.copy()
    _, caches = net.forward(x[4:])
    net.backward(np.ones((5, 5)), caches)
    np.testing.assert_allclose(from_part, net.gradients, rtol=1e-12)


# --- dropout


def test_dropout_drops_at_its_rate_and_keeps_the_mean() -> None:
    layer = Dropout(0.3, 1)
    mask = layer.mask((1000, 200), _KEY, np.float64)
    assert set(np.unique(mask)) == {0.0, 1 / 0.7}
    assert abs((mask == 0).mean() - 0.3) < 0.005
    y, cache = layer.forward(np.ones((1000, 200)), _KEY)
    assert abs(y.mean() - 1) < 0.01
    np.testing.assert_array_equal(layer.backward(np.full((1000, 200), 2.0), cache), 2 * mask)


def test_dropout_without_a_key_is_the_identity() -> None:
    x = np.ones((2, 3))
    y, cache = Dropout(0.3, 0).forward(x)
    assert y is x
    assert Dropout(0.3, 0).backward(x, cache) is x


def test_masks_differ_by_step_pass_site_and_seed_and_repeat_by_key() -> None:
    masks = [
        Dropout(0.5, site).mask((8, 8), key, np.float32).tobytes()
        for site, key in [
            (0, _KEY),
            (1, _KEY),
            (0, _KEY._replace(step=5)),
            (0, _KEY._replace(seed=5)),
            (0, _KEY._replace(forward_pass=1)),
        ]
    ]
    assert len(set(masks)) == len(masks)
    assert Dropout(0.5, 0).mask((8, 8), _KEY, np.float32).tobytes() == masks[0]


def test_a_rate_of_zero_drops_nothing() -> None:
    np.testing.assert_array_equal(Dropout(0.0, 0).mask((50, 50), _KEY, np.float32), np.ones((50, 50), np.float32))
