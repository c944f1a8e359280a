"""A network is a list of layers over one flat parameter vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import Array
from npgan.nn.layers import Dropout, DropoutKey, Layer


class Sequential:
    """Layers in a row. ``parameters`` and ``gradients`` are flat vectors (P,); the layers' tensors are views into them.

    So Adam, or the norm of all gradients, is one call on one vector. ``tensors`` names the views as ``"0.weight"``: the
    layer's index, a dot, the tensor; ``gradient_tensors`` has the same names. ``backward`` assigns gradients and never
    adds to them, so nothing needs to be set to zero between steps.
    """

    def __init__(self, layers: Sequence[Layer], dtype: Any = np.float32, xp: ModuleType = np) -> None:
        """All parameters start at 0, see ``initialize``. Raises ValueError when a layer does not fit the one before."""
        self.layers = list(layers)
        for site, dropout in enumerate(layer for layer in layers if isinstance(layer, Dropout)):
            dropout.site = site
        width: int | None = None
        for layer in layers:
            width = layer.output_width(width)
        count = sum(math.prod(shape) for layer in layers for shape in layer.shapes().values())
        self.parameters = xp.zeros(count, dtype)
        self.gradients = xp.zeros(count, dtype)
        self.tensors: dict[str, Array] = {}
        self.gradient_tensors: dict[str, Array] = {}
        start = 0
        for index, layer in enumerate(layers):
            for name, shape in layer.shapes().items():
                stop = start + math.prod(shape)
                self.tensors[f"{index}.{name}"] = self.parameters[start:stop].reshape(shape)
                self.gradient_tensors[f"{index}.{name}"] = self.gradients[start:stop].reshape(shape)
                setattr(layer, name, self.tensors[f"{index}.{name}"])
                setattr(layer, f"d{name}", self.gradient_tensors[f"{index}.{name}"])
                start = stop

    def initialize(self, seed: int, site: int = 0) -> None:
        """Draws every layer's tensors; ``site`` + the layer's index tells the draws apart."""
        for index, layer in enumerate(self.layers):
            layer.initialize(seed, site + index)

    def __call__(self, x: Array) -> Array:
        """The output alone, without dropout. Shapes: x (N, I) → y (N, O)."""
        return self.forward(x)[0]

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, list[Any]]:
        """Shapes: x (N, I) → y (N, O), and one cache per layer for ``backward``. Dropout is off without a key."""
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
