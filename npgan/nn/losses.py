"""The two losses. ``forward`` gives the mean over the batch, ``backward`` its gradient in the discriminator's output."""

from __future__ import annotations

from typing import Any, Protocol

from npgan.nn import ops
from npgan.engines import REFERENCE, Kernels

Array = Any  # numpy.ndarray or cupy.ndarray


class Loss(Protocol):
    """Shapes: output and target (N, 1) → loss (), gradient (N, 1), probabilities (N, 1)."""

    def forward(self, output: Array, target: Array) -> Array: ...

    def backward(self, output: Array, target: Array, out: Array | None = None) -> Array: ...

    def probability(self, output: Array) -> Array: ...


class BinaryCrossEntropy:
    """For a discriminator that ends in a sigmoid: its output is the probability that an image is real."""

    def __init__(self, kernels: Kernels = REFERENCE) -> None:
        self.chains = kernels.chains

    def forward(self, output: Array, target: Array) -> Array:
        return self.chains.binary_cross_entropy_forward(output, target)

    def backward(self, output: Array, target: Array, out: Array | None = None) -> Array:
        return self.chains.binary_cross_entropy_backward(output, target, out=out)

    def probability(self, output: Array) -> Array:
        return output


class BinaryCrossEntropyWithLogits:
    """For a discriminator without its sigmoid: stable, and its gradient does not fade where the sigmoid saturates."""

    def forward(self, output: Array, target: Array) -> Array:
        return ops.binary_cross_entropy_with_logits_forward(output, target)

    def backward(self, output: Array, target: Array, out: Array | None = None) -> Array:
        return ops.binary_cross_entropy_with_logits_backward(output, target, out)

    def probability(self, output: Array) -> Array:
        return ops.sigmoid_forward(output)
