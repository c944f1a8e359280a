"""Losses: the numbers by hand, and targets that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from npgan.nn.losses import (
    BinaryCrossEntropy,
    BinaryCrossEntropyWithLogits,
    Loss,
    MeanSquaredError,
    Relativistic,
    SoftmaxCrossEntropy,
)


def test_mean_squared_error_by_hand() -> None:
    loss, y, target = MeanSquaredError(), np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 4.0]])
    assert loss.forward(y, target) == (0 + 4 + 9 + 0) / 4
    np.testing.assert_array_equal(loss.backward(y, target), [[0.0, 1.0], [1.5, 0.0]])


def test_softmax_cross_entropy_by_hand() -> None:
    loss, z = SoftmaxCrossEntropy(), np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))
    label = np.array([1, 0])
    np.testing.assert_allclose(loss.forward(z, label), -(np.log(0.75) + np.log(0.5)) / 2)
    np.testing.assert_allclose(loss.backward(z, label), [[0.125, -0.125], [-0.25, 0.25]])
    np.testing.assert_allclose(loss.probability(z), [[0.25, 0.75], [0.5, 0.5]])


def test_a_loss_of_ones_own() -> None:
    loss = Loss("absolute error", lambda y, t: np.abs(y - t).mean(), lambda y, t: np.sign(y - t) / y.size)
    assert loss.forward(np.array([[2.0]]), np.array([[5.0]])) == 3.0
    with pytest.raises(ValueError, match="absolute error: got a target"):
        loss.backward(np.ones((2, 1)), np.ones(2))


@pytest.mark.parametrize("make", [BinaryCrossEntropy, BinaryCrossEntropyWithLogits, MeanSquaredError])
@pytest.mark.parametrize(("output", "target"), [((3, 1), (3,)), ((3, 1), (2, 1)), ((3, 1), (3, 2)), ((0, 1), (0, 1))])
def test_targets_of_another_shape_are_refused(make: Any, output: tuple[int, ...], target: tuple[int, ...]) -> None:
    """(3, 1) and (3,) would be broadcast to (3, 3), and the loss be that of other pairs."""
    for method in (make().forward, make().backward):
        with pytest.raises(ValueError, match=r"got a target of shape .* for an output of shape"):
            method(np.full(output, 0.5), np.ones(target))


@pytest.mark.parametrize("make", [BinaryCrossEntropy, BinaryCrossEntropyWithLogits])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, 2.0, -1.0])
def test_targets_that_are_no_probabilities_are_refused(make: Any, wrong: float) -> None:
    for method in (make().forward, make().backward):
        with pytest.raises(ValueError, match=r"got a target (with NaN or infinity|outside of 0 to 1)"):
            method(np.full((2, 1), 0.5), np.array([[1.0], [wrong]]))


def test_what_is_no_array_is_refused() -> None:
    for output, target in ((None, np.ones((2, 1))), (np.ones((2, 1)), [[1.0], [0.0]]), ([[0.5]], np.ones((1, 1)))):
        for make in (BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy):
            with pytest.raises(ValueError, match="got "):
                make().forward(output, target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mean squared error: got a target with NaN"):
        MeanSquaredError().backward(np.ones((1, 1)), np.full((1, 1), np.nan))


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (np.array([0, -1, 1]), "got a label -1, wanted numbers from 0 to 1"),
        (np.array([0, 2, 1]), "got a label 2, wanted numbers from 0 to 1"),
        (np.array([0, 1]), r"of shape \(2,\), wanted integers of shape \(3,\)"),
        (np.array([0.0, 1.0, np.nan]), "got labels float64"),
        (np.array([[0], [1], [1]]), r"of shape \(3, 1\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(label: np.ndarray, told: str) -> None:
    for method in (SoftmaxCrossEntropy().forward, SoftmaxCrossEntropy().backward):
        with pytest.raises(ValueError, match=told):
            method(np.ones((3, 2)), label)


def test_a_pairs_loss_and_probabilities_see_differences_alone() -> None:
    """What all logits have in common says nothing of which image is real."""
    loss, z, target = Relativistic(), np.array([[2.0], [-1.0], [0.5], [1.0]]), np.array([[1.0], [1.0], [0.0], [0.0]])
    expected = np.mean(np.log1p(np.exp(-np.array([2.0 - 0.5, -1.0 - 1.0]))))
    for shift in (0.0, 8.0, -8.0):
        assert loss.forward(z + shift, target) == pytest.approx(expected, rel=1e-12)
        p = loss.probability(z + shift)[:, 0]
        np.testing.assert_allclose(p, 1.0 / (1.0 + np.exp([-1.5, 2.0, 1.5, -2.0])), rtol=1e-12)
    assert loss.backward(z, target).sum() == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize("shape", [(3, 1), (4, 2), (4,), (2, 3)])
def test_what_is_no_pairs_is_refused(shape: tuple[int, ...]) -> None:
    for function in (Relativistic().forward, Relativistic().backward):
        with pytest.raises(ValueError, match=r"relativistic loss: wanted the logits \(2b, 1\) of b pairs, got"):
            function(np.zeros(shape), np.zeros(shape))
