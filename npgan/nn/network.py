"""A network is a list of layers over one flat parameter vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npgan import expect
from npgan.backend import Array
from npgan.modules import Chain
from npgan.nn.layers import DropoutKey, Layer


class Sequential(Chain, Layer):
    """Layers in a row. ``parameters`` and ``gradients`` are flat vectors (P,); the layers' tensors are views into them.

    So Adam, or the norm of all gradients, is one call on one vector. ``tensors`` names the views as ``"0.weight"``: the
    layer's index, a dot, the tensor; ``gradient_tensors`` has the same names. ``backward`` assigns gradients and never
    adds to them, so nothing needs to be set to zero between steps. A network is a layer, and may stand in another one.
    """

    layers: list[Layer]

    def __call__(self, x: Array) -> Array:
        """The output alone, without dropout. Shapes: x (N, I) → y (N, O). Raises ValueError for NaN and infinity."""
        expect.rows_of_finite_floats(next(self.leaves()), x)
        return self.forward(x)[0]

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, list[Any]]:
        """Shapes: x (N, I) → y (N, O), and one cache per layer for ``backward``. Dropout is off without a key."""
        expect.rows_of_floats(next(self.leaves()), x)
        caches = []
        for layer in self.layers:
            x, cache = layer.forward(x, key)
            caches.append(cache)
        return x, caches

    def backward(self, dy: Array, caches: Sequence[Any]) -> Array:
        """The chain rule, last layer first. Shapes: dy (N, O) → dx (N, I), and ``gradients`` (P,)."""
        for layer, cache in zip(reversed(self.layers), reversed(caches), strict=True):
            dy = layer.backward(dy, cache)
        return dy

    def backward_input(self, dy: Array, caches: Sequence[Any]) -> Array:
        """As ``backward``, but ``gradients`` stay as they are: G learns through a D that is left alone."""
        for layer, cache in zip(reversed(self.layers), reversed(caches), strict=True):
            dy = layer.backward_input(dy, cache)
        return dy

    def gradient_penalty(self, rate: Array, caches: Sequence[Any]) -> Array:
        """P = ½·Σ_n rate_n·‖∂y_n/∂x_n‖² (), with its gradient added to ``gradients``. Shapes: rate (N, 1).

        R1 of Mescheder et al. 2018. The backward from dy = 1 gives ∂y_n/∂x_n, and u = ∂P/∂(∂y/∂x) goes through its derivative,
        from the first layer to the last: a forward pass without biases. Raises NotImplementedError for other layers.
        """
        expect.rows_of_floats("gradient_penalty's rate", rate, width=1)
        dys = [np.ones_like(rate)]
        for layer, cache in zip(reversed(self.layers), reversed(caches), strict=True):
            dys.append(layer.backward_input(dys[-1], cache))
        dx = dys.pop()
        u = rate * dx
        for layer, dy, cache in zip(self.layers, reversed(dys), caches, strict=True):
            u = layer.double_backward(u, dy, cache)
        return 0.5 * np.sum(rate * dx * dx)
