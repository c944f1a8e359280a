"""Losses: pairs of operations of ``ops`` that a network's last ``dy`` comes from. Raise ValueError for targets that do not fit.

L  = loss.forward(output, target)    # ()
dy = loss.backward(output, target)   # ∂L/∂output, with the output's shape
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from npgan import expect
from npgan.backend import Array
from npgan.nn import ops


@dataclass(frozen=True)
class Loss:
    """One of your own is ``Loss("hinge", hinge_forward, hinge_backward)``."""

    name: str
    value: Callable[[Array, Array], Array]
    gradient: Callable[[Array, Array], Array]
    probability: Callable[[Array], Array] = lambda output: output  # what an output says of "real", or of each class
    check: Callable[[str, Array, Array], None] = expect.same_shape

    def forward(self, output: Array, target: Array) -> Array:
        self.check(self.name, output, target)
        return self.value(output, target)

    def backward(self, output: Array, target: Array) -> Array:
        self.check(self.name, output, target)
        return self.gradient(output, target)


def BinaryCrossEntropy() -> Loss:
    """On probabilities p (N, 1), the output of a sigmoid."""
    value, gradient = ops.binary_cross_entropy_forward, ops.binary_cross_entropy_backward
    return Loss("binary cross-entropy", value, gradient, check=expect.probabilities)


def BinaryCrossEntropyWithLogits() -> Loss:
    """On logits z (N, 1): stable, and its gradient does not fade where the sigmoid saturates."""
    value, gradient = ops.binary_cross_entropy_with_logits_forward, ops.binary_cross_entropy_with_logits_backward
    return Loss("binary cross-entropy with logits", value, gradient, ops.sigmoid_forward, expect.probabilities)


def Relativistic() -> Loss:
    """On the logits z (2b, 1) of b pairs, rows n and b + n: what counts is which of a pair has the higher logit."""
    value, gradient = ops.relativistic_forward, ops.relativistic_backward
    return Loss("relativistic loss", value, gradient, ops.relativistic_probability, expect.pairs)


def SoftmaxCrossEntropy() -> Loss:
    """On logits z (N, K) for K classes; the target is labels (N,)."""
    value, gradient = ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward
    return Loss("softmax cross-entropy", value, gradient, ops.softmax_forward, expect.labels)


def MeanSquaredError() -> Loss:
    """On outputs y (N, O) of any kind."""
    return Loss("mean squared error", ops.mean_squared_error_forward, ops.mean_squared_error_backward)
