"""A network is a list of layers over one flat parameter vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from npgan import expect
from npgan.backend import Array, Shape
from npgan.nn.layers import SITES, DropoutKey, Layer


class Sequential(Layer):
    """Layers in a row. ``parameters`` and ``gradients`` are flat vectors (P,); the layers' tensors are views into them.

    So Adam, or the norm of all gradients, is one call on one vector. ``tensors`` names the views as ``"0.weight"``: the
    layer's index, a dot, the tensor; ``gradient_tensors`` has the same names. ``backward`` assigns gradients and never
    adds to them, so nothing needs to be set to zero between steps. A network is a layer, and may stand in another one.
    """

    def __init__(
        self, layers: Sequence[Layer], dtype: Any = np.float32, xp: ModuleType = np, seed: int = 0, site: int = 0
    ) -> None:
        """Takes its width from its first Dense, and draws its parameters from the seed (``initialize``).

        An inner network that was trained or loaded before keeps its parameters. Raises ValueError when a layer does not
        fit the one before or stands in a network already, TypeError for what is no layer.
        """
        self.layers = list(layers)
        if not self.layers or not all(isinstance(layer, Layer) for layer in self.layers):
            raise TypeError(f"Sequential takes a list of layers, got {self.layers!r}")
        if np.dtype(dtype).kind not in "fc":
            raise TypeError(f"parameters are floats, got the dtype {dtype!r}")
        self.output_width(None)
        for index, layer in enumerate(self.layers):
            if (layer.placed or layer in self.layers[:index]) and (layer.shapes() or layer.site is not None):
                name = type(layer).__name__
                raise ValueError(f"layer {index}, {name}, stands in a network already: make one for each place")
        drawing = [layer for layer in self.leaves() if layer.site is not None]
        if len(drawing) > SITES:
            raise ValueError(f"a network has at most {SITES} dropout layers, got {len(drawing)}")
        for number, layer in enumerate(drawing):
            layer.site = number
        inner = [layer for layer in self.layers if isinstance(layer, Sequential)]
        trained = [(layer, layer.parameters) for layer in inner if layer.trained()]
        self.bind(xp.zeros(self.size, dtype), xp.zeros(self.size, dtype))
        self.initialize(seed, site)
        for layer, parameters in trained:
            layer.parameters[...] = xp.asarray(parameters)
        for layer in self.layers:
            layer.placed = True

    def leaves(self) -> Iterator[Layer]:
        """The layers, those of inner networks one by one."""
        for layer in self.layers:
            yield from layer.leaves()

    def shapes(self) -> dict[str, Shape]:
        named = ((index, layer.shapes()) for index, layer in enumerate(self.layers))
        return {f"{index}.{name}": shape for index, shapes in named for name, shape in shapes.items()}

    def bind(self, parameters: Array, gradients: Array) -> None:
        self.parameters, self.gradients, self.tensors, self.gradient_tensors, stop = parameters, gradients, {}, {}, 0
        for index, layer in enumerate(self.layers):
            start, stop = stop, stop + layer.size
            layer.bind(parameters[start:stop], gradients[start:stop])
            self.tensors |= {f"{index}.{name}": tensor for name, tensor in layer.tensors.items()}
            self.gradient_tensors |= {f"{index}.{name}": tensor for name, tensor in layer.gradient_tensors.items()}

    def initialize(self, seed: int, site: int = 0) -> None:
        """Draws every layer's tensors; ``site`` + the layer's place tells the draws apart."""
        self.drawn = seed, site
        for place, layer in enumerate(self.leaves()):
            layer.initialize(seed, site + place)

    def trained(self) -> bool:
        """Whether the parameters are others than those that were drawn."""
        twin = self.astype(self.parameters.dtype)
        twin.initialize(*self.drawn)
        return bool((twin.parameters != self.parameters).any())

    def output_width(self, width: int | None) -> int | None:
        for layer in self.layers:
            width = layer.output_width(width)
        return width

    def __call__(self, x: Array) -> Array:
        """The output alone, without dropout. Shapes: x (N, I) → y (N, O). Raises ValueError for NaN and infinity."""
        expect.finite(next(self.leaves()), x)
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

    __repr__ = Layer.summary

    def written(self) -> list[Any]:
        return [type(self).__name__, *(layer.written() for layer in self.layers)]
