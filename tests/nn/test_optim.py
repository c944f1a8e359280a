"""Adam against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from npgan.nn.layers import Dense
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam


def test_adam_against_values_worked_out_by_hand() -> None:
    """lr 0.1, β 0.9/0.99, ε 0.5, gradient 2 then −1, from parameter 1.

    t=1: m=0.2, v=0.04, m̂=0.2/0.1=2, v̂=0.04/0.01=4, p = 1 − 0.1·2/(2 + 0.5) = 0.92.
    t=2: m=0.9·0.2−0.1=0.08, v=0.99·0.04+0.01=0.0496, m̂=0.08/0.19, v̂=0.0496/0.0199,
         p = 0.92 − 0.1·0.42105263/(1.57875340 + 0.5) = 0.899744946.
    """
    p = np.array([1.0])
    adam = Adam(p, 0.1, 0.9, 0.99, 0.5)
    adam.update(p, np.array([2.0]))
    np.testing.assert_allclose([p[0], adam.m[0], adam.v[0]], [0.92, 0.2, 0.04], rtol=1e-12)
    adam.update(p, np.array([-1.0]))
    np.testing.assert_allclose([p[0], adam.m[0], adam.v[0]], [0.899744946, 0.08, 0.0496], rtol=1e-9)


def test_adam_leaves_the_gradient_alone_and_keeps_float32() -> None:
    grad = np.random.default_rng(0).standard_normal(10).astype(np.float32)
    before = grad.copy()
    p = np.zeros(10, np.float32)
    adam = Adam(p, 2e-4)
    adam.update(p, grad)
    np.testing.assert_array_equal(grad, before)
    np.testing.assert_allclose(p, -2e-4 * np.sign(grad), rtol=1e-3)  # the first step is lr in every coordinate
    assert p.dtype == adam.m.dtype == adam.v.dtype == np.float32
    assert adam.step == 1


def test_a_network_and_the_papers_defaults() -> None:
    net = Sequential([Dense(3, 2)])
    adam = Adam(net)
    assert (adam.lr, adam.beta1, adam.beta2, adam.epsilon) == (1e-3, 0.9, 0.999, 1e-8)
    assert adam.m.shape == adam.v.shape == net.parameters.shape and not adam.m.any() and adam.m is not adam.v


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"lr": float("nan")}, {"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": 0.0}]
)
def test_rates_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Adam: wanted lr > 0"):
        Adam(np.zeros(3), **wrong)


@pytest.mark.parametrize("wrong", [{"lr": float("inf")}, {"epsilon": float("inf")}])
def test_rates_are_finite(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Adam: wanted lr > 0"):
        Adam(np.zeros(3), **wrong)


@pytest.mark.parametrize("net", [None, Dense(3, 2), Sequential, np.ones(3, int), [1.0, 2.0]])
def test_what_has_no_parameters_is_refused(net: Any) -> None:
    with pytest.raises(ValueError, match="Adam: wanted a network or a vector of floats"):
        Adam(net)


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 1)])
def test_gradients_of_another_shape_change_nothing(shape: tuple[int, ...]) -> None:
    parameters = np.ones(3)
    adam = Adam(parameters)
    with pytest.raises(ValueError, match="wanted parameters and gradients of shape"):
        adam.update(parameters, np.ones(shape))
    assert adam.step == 0 and not adam.m.any() and (parameters == 1.0).all()
