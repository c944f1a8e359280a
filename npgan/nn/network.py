"""A network is a list of layers over one flat parameter vector."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import Array, Shape, to_numpy
from npgan.files import write_tensors
from npgan.nn.layers import Dropout, DropoutKey, Layer, views


class Sequential(Layer):
    """Layers in a row. ``parameters`` and ``gradients`` are flat vectors (P,); the layers' tensors are views into them.

    So Adam, or the norm of all gradients, is one call on one vector. ``tensors`` names the views as ``"0.weight"``: the
    layer's index, a dot, the tensor; ``gradient_tensors`` has the same names. ``backward`` assigns gradients and never
    adds to them, so nothing needs to be set to zero between steps. A network is a layer, too, and may be one of another
    network.
    """

    def __init__(
        self, layers: Sequence[Layer], dtype: Any = np.float32, xp: ModuleType = np, seed: int = 0, site: int = 0
    ) -> None:
        """Takes its width from its first Dense, and draws its parameters by ``initialize(seed, site)``.

        Raises ValueError when a layer does not fit the one before.
        """
        self.layers = list(layers)
        self.output_width(None)
        for number, dropout in enumerate(layer for layer in self.leaves() if isinstance(layer, Dropout)):
            dropout.site = number
        self.bind(xp.zeros(self.size, dtype), xp.zeros(self.size, dtype))
        self.initialize(seed, site)

    def leaves(self) -> Iterator[Layer]:
        """The layers, those of inner networks one by one."""
        for layer in self.layers:
            yield from layer.leaves() if isinstance(layer, Sequential) else [layer]

    def shapes(self) -> dict[str, Shape]:
        named = ((index, layer.shapes()) for index, layer in enumerate(self.layers))
        return {f"{index}.{name}": shape for index, shapes in named for name, shape in shapes.items()}

    def bind(self, parameters: Array, gradients: Array) -> None:
        self.parameters, self.gradients = parameters, gradients
        self.tensors, self.gradient_tensors = views(parameters, self.shapes()), views(gradients, self.shapes())
        start = 0
        for layer in self.layers:
            part = slice(start, start + layer.size)
            layer.bind(parameters[part], gradients[part])
            start = part.stop

    def initialize(self, seed: int, site: int = 0) -> None:
        """Draws every layer's tensors; ``site`` + the layer's place tells the draws apart."""
        for place, layer in enumerate(self.leaves()):
            layer.initialize(seed, site + place)

    def output_width(self, width: int | None) -> int | None:
        for layer in self.layers:
            width = layer.output_width(width)
        return width

    def __call__(self, x: Array) -> Array:
        """The output alone, without dropout. Shapes: x (N, I) → y (N, O). Raises ValueError for numbers that are not finite."""
        if not bool(abs(x).sum() < np.inf):
            raise ValueError(f"{self.layers[0]!r}: got an input with NaN or infinity, wanted finite numbers")
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

    def summary(self) -> str:
        """A table of the layers, the widths that they hand on, and how many parameters each has."""
        rows, width = [("", "layer", "output", "parameters")], None
        for place, layer in enumerate(self.leaves()):
            width = layer.output_width(width)
            rows.append((str(place), repr(layer), str(width or ""), f"{layer.size:,}"))
        rows.append(("", "", "", f"{self.size:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            f"{a:>{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows
        )

    __repr__ = summary

    def written(self) -> list[Any]:
        return [type(self).__name__, *(layer.written() for layer in self.layers)]

    def save(self, path: str | Path) -> None:
        """Writes layers and parameters to a safetensors file, which ``npgan.load`` reads. Raises OSError."""
        tensors = {name: to_numpy(tensor) for name, tensor in self.tensors.items()}
        write_tensors(Path(path), tensors, {"layers": json.dumps(self.written())})
