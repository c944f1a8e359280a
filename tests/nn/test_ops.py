"""Every backward of ops.py against central differences in float64, one row an operation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from npgan.nn import ops

Array = Any
_RNG = np.random.default_rng(7)
_H = 1e-6


def _numbers(*shape: int) -> Array:
    """Normal numbers kept 0.05 away from 0, where leaky ReLU has its kink."""
    x = _RNG.standard_normal(shape)
    return x + 0.05 * np.sign(x)


_X, _W, _B = _numbers(5, 4), _numbers(4, 3), _numbers(3)
_P = _RNG.uniform(0.05, 0.95, (6, 1))
_Z = 3.0 * _numbers(6, 1)
_TARGET = np.array([[1.0], [0.9], [1.0], [0.0], [0.0], [0.3]])
_PAIRS = np.array([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0]])
_DY = _numbers(5, 3)
_MASK = (_RNG.random((5, 4)) > 0.3) / 0.7
_PIECES = _numbers(5, 12)  # three pieces of four
_LOGITS, _LABELS = 3.0 * _numbers(5, 4), np.array([0, 3, 1, 1, 2])


class Row(NamedTuple):
    """``forward`` and ``backward`` as functions of the one input that is varied."""

    backward_name: str
    x: Array
    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]  # (dy, x) → dx


_ROWS = {
    "dense, x": Row(
        "dense_backward_dx", _X, lambda x: ops.dense_forward(x, _W, _B), lambda dy, x: ops.dense_backward_dx(dy, _W)
    ),
    "dense, weight": Row(
        "dense_backward_params",
        _W,
        lambda w: ops.dense_forward(_X, w, _B),
        lambda dy, w: ops.dense_backward_params(dy, _X)[0],
    ),
    "dense, bias": Row(
        "dense_backward_params",
        _B,
        lambda b: ops.dense_forward(_X.astype(b.dtype), _W, b),
        lambda dy, b: ops.dense_backward_params(dy, _X)[1],
    ),
    "leaky ReLU": Row(
        "leaky_relu_backward",
        _X,
        lambda x: ops.leaky_relu_forward(x, 0.2),
        lambda dy, x: ops.leaky_relu_backward(dy, x, 0.2),
    ),
    "dropout": Row(
        "dropout_backward",
        _X,
        lambda x: ops.dropout_forward(x, _MASK),
        lambda dy, x: ops.dropout_backward(dy, _MASK),
    ),
    "sigmoid": Row(
        "sigmoid_backward", _X, ops.sigmoid_forward, lambda dy, x: ops.sigmoid_backward(dy, ops.sigmoid_forward(x))
    ),
    "tanh": Row("tanh_backward", _X, ops.tanh_forward, lambda dy, x: ops.tanh_backward(dy, ops.tanh_forward(x))),
    "maxout": Row(
        "maxout_backward", _PIECES, lambda x: ops.maxout_forward(x, 3), lambda dy, x: ops.maxout_backward(dy, x, 3)
    ),
    "softmax": Row(
        "softmax_backward", _LOGITS, ops.softmax_forward, lambda dy, x: ops.softmax_backward(dy, ops.softmax_forward(x))
    ),
    "mean squared error": Row(
        "mean_squared_error_backward",
        _X,
        lambda x: ops.mean_squared_error_forward(x, _MASK),
        lambda dy, x: dy * ops.mean_squared_error_backward(x, _MASK),
    ),
    "dense, dy of the double backward": Row(
        "dense_double_backward",
        _DY,
        lambda dy: ops.dense_backward_dx(dy, _W),
        lambda u, dy: ops.dense_double_backward(u, dy, _W)[0],
    ),
    "dense, weight of the double backward": Row(
        "dense_double_backward",
        _W,
        lambda w: ops.dense_backward_dx(_DY, w),
        lambda u, w: ops.dense_double_backward(u, _DY, w)[1],
    ),
    "softmax cross-entropy": Row(
        "softmax_cross_entropy_backward",
        _LOGITS,
        lambda z: ops.softmax_cross_entropy_forward(z, _LABELS),
        lambda dy, z: dy * ops.softmax_cross_entropy_backward(z, _LABELS),
    ),
    "cross-entropy": Row(
        "binary_cross_entropy_backward",
        _P,
        lambda p: ops.binary_cross_entropy_forward(p, _TARGET),
        lambda dy, p: dy * ops.binary_cross_entropy_backward(p, _TARGET),
    ),
    "cross-entropy on logits": Row(
        "binary_cross_entropy_with_logits_backward",
        _Z,
        lambda z: ops.binary_cross_entropy_with_logits_forward(z, _TARGET),
        lambda dy, z: dy * ops.binary_cross_entropy_with_logits_backward(z, _TARGET),
    ),
    "relativistic": Row(
        "relativistic_backward",
        _Z,
        lambda z: ops.relativistic_forward(z, _PAIRS),
        lambda dy, z: dy * ops.relativistic_backward(z, _PAIRS),
    ),
}


@pytest.mark.parametrize("row", _ROWS.values(), ids=_ROWS.keys())
def test_backward_agrees_with_central_differences(row: Row) -> None:
    dy = _numbers(*np.shape(row.forward(row.x)))
    numeric = np.empty_like(row.x)
    for index in np.ndindex(row.x.shape):
        up, down = row.x.copy(), row.x.copy()
        up[index] += _H
        down[index] -= _H
        numeric[index] = np.sum(dy * (row.forward(up) - row.forward(down))) / (2 * _H)
    np.testing.assert_allclose(row.backward(dy, row.x), numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("row", _ROWS.values(), ids=_ROWS.keys())
def test_forward_carries_a_complex_step(row: Row) -> None:
    """Im f(x + ih)/h with h = 1e-20 is the derivative to the last digits, if no operation harms complex numbers."""
    dy = _numbers(*np.shape(row.forward(row.x)))
    exact = np.empty_like(row.x)
    for index in np.ndindex(row.x.shape):
        x = row.x.astype(complex)
        x[index] += 1e-20j
        exact[index] = np.sum(dy * row.forward(x).imag) / 1e-20
    np.testing.assert_allclose(row.backward(dy, row.x), exact, rtol=1e-12, atol=1e-14)


def test_every_backward_has_a_row() -> None:
    backwards = {name for name, _ in inspect.getmembers(ops, inspect.isfunction) if "_backward" in name}
    assert backwards == {row.backward_name for row in _ROWS.values()}


def test_every_backward_stands_under_its_forward() -> None:
    functions = [
        name for name, _ in inspect.getmembers(ops, inspect.isfunction) if "_forward" in name or "_backward" in name
    ]
    functions.sort(key=lambda name: inspect.getsourcelines(getattr(ops, name))[1])
    for previous, name in zip(functions, functions[1:], strict=False):
        if "_backward" in name:
            operation = name.partition("_backward")[0].removesuffix("_double")
            assert previous.partition("_forward")[0].partition("_backward")[0] == operation


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_keep_the_dtype_and_inputs_are_left_alone(dtype: Any) -> None:
    x, w, b = (a.astype(dtype) for a in (_X, _W, _B))
    p, target, mask = _P.astype(dtype), _TARGET.astype(dtype), _MASK.astype(dtype)
    y = ops.dense_forward(x, w, b)
    inputs = [x, w, b, p, target, mask, y]
    before = [array.copy() for array in inputs]
    results = [
        y,
        ops.dense_backward_dx(y, w),
        *ops.dense_backward_params(y, x),
        ops.leaky_relu_forward(x, 0.2),
        ops.leaky_relu_backward(x, x, 0.2),
        ops.dropout_forward(x, mask),
        ops.dropout_backward(x, mask),
        ops.softmax_forward(x),
        ops.softmax_backward(x, x),
        ops.maxout_forward(x, 2),
        ops.maxout_backward(x[:, :2], x, 2),
        ops.mean_squared_error_forward(x, x),
        ops.mean_squared_error_backward(x, x),
        ops.softmax_cross_entropy_forward(x, _LABELS),
        ops.softmax_cross_entropy_backward(x, _LABELS),
        ops.sigmoid_forward(x),
        ops.sigmoid_backward(x, x),
        ops.tanh_forward(x),
        ops.tanh_backward(x, x),
        ops.binary_cross_entropy_forward(p, target),
        ops.binary_cross_entropy_backward(p, target),
        ops.binary_cross_entropy_with_logits_forward(p, target),
        ops.binary_cross_entropy_with_logits_backward(p, target),
    ]
    assert {result.dtype for result in results} == {np.dtype(dtype)}
    for array, kept in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_leaky_relu_at_the_kink_takes_the_left_derivative() -> None:
    x = np.array([[0.0, -0.0, 1e-300, -1e-300]])
    np.testing.assert_array_equal(ops.leaky_relu_backward(np.ones_like(x), x, 0.2), [[0.2, 0.2, 1.0, 0.2]])


def test_sigmoid_and_losses_stay_finite_far_out() -> None:
    z = np.array([[-1000.0], [-50.0], [0.0], [50.0], [1000.0]], dtype=np.float32)
    target = np.ones_like(z)
    p = ops.sigmoid_forward(z)
    np.testing.assert_allclose(p[[0, 2, 4]], [[0.0], [0.5], [1.0]])
    assert ops.binary_cross_entropy_forward(p, target) < 15.95 * 2 / 5 + 0.3  # two rows at −log ε, one at log 2
    np.testing.assert_allclose(
        ops.binary_cross_entropy_with_logits_forward(z, target), (1000 + 50 + np.log(2)) / 5, rtol=1e-6
    )
    assert np.isfinite(ops.binary_cross_entropy_backward(p, target)).all()


def test_the_two_losses_agree_where_epsilon_does_not_matter() -> None:
    p = ops.sigmoid_forward(_Z)
    on_p = ops.binary_cross_entropy_forward(p, _TARGET, epsilon=0.0)
    np.testing.assert_allclose(on_p, ops.binary_cross_entropy_with_logits_forward(_Z, _TARGET), rtol=1e-12)
    dz = ops.sigmoid_backward(ops.binary_cross_entropy_backward(p, _TARGET, epsilon=0.0), p)
    np.testing.assert_allclose(dz, ops.binary_cross_entropy_with_logits_backward(_Z, _TARGET), rtol=1e-9)


def test_the_gradients_of_the_two_losses_differ_where_the_sigmoid_saturates() -> None:
    z, target = np.array([[-30.0]]), np.array([[1.0]])
    p = ops.sigmoid_forward(z)
    on_p = ops.sigmoid_backward(ops.binary_cross_entropy_backward(p, target), p)
    on_logits = ops.binary_cross_entropy_with_logits_backward(z, target)
    np.testing.assert_allclose(on_logits, [[-1.0]], rtol=1e-9)
    assert -1e-5 < on_p[0, 0] < 0.0


def test_softmax_cross_entropy_stays_finite_far_out() -> None:
    z, label = np.array([[0.0, 1000.0, -1000.0]] * 2, dtype=np.float32), np.array([1, 2])
    np.testing.assert_allclose(ops.softmax_forward(z), [[0.0, 1.0, 0.0]] * 2)
    np.testing.assert_allclose(ops.softmax_cross_entropy_forward(z, label), 2000 / 2)
    np.testing.assert_allclose(ops.softmax_cross_entropy_backward(z, label), [[0, 0, 0], [0, 0.5, -0.5]])
