"""A network is a list of layers over one flat parameter vector. The generator and the discriminator are two of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from npgan.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU, Sigmoid, Tanh

Array = Any  # numpy.ndarray or cupy.ndarray

IMAGE_PIXELS = 784  # 28 × 28
_HIDDEN = (256, 512, 1024)  # the generator's widths; the discriminator has them in reverse


class Buffers(NamedTuple):
    """Room for one forward and backward of a network, allocated once: an array, or None, for each layer."""

    y: list[Array | None]
    dx: list[Array | None]


class Sequential:
    """Layers in a row. ``parameters`` and ``gradients`` are flat vectors (P,); the layers' tensors are views into them.

    So Adam, a checkpoint or a gradient check of the whole network is one call on one vector. ``tensors`` names the views
    as ``"0.weight"``: the layer's index, a dot, the tensor; ``gradient_tensors`` has the same names.
    ``backward`` assigns gradients and never adds to them, so nothing needs to be set to zero between steps.
    """

    def __init__(self, layers: Sequence[Layer], input_width: int, dtype: Any = np.float32, xp: ModuleType = np) -> None:
        self.layers = list(layers)
        self.xp = xp
        self.input_width = input_width
        self.widths: list[int] = []  # output width of each layer
        shapes: dict[str, tuple[int, ...]] = {}
        for index, layer in enumerate(self.layers):
            self.widths.append(layer.output_width(self.widths[-1] if index else input_width))
            shapes |= {f"{index}.{name}": shape for name, shape in layer.parameter_shapes().items()}
        count = sum(int(np.prod(shape)) for shape in shapes.values())
        self.parameters = xp.zeros(count, dtype=dtype)
        self.gradients = xp.zeros(count, dtype=dtype)
        self.tensors = _named_views(self.parameters, shapes)
        self.gradient_tensors = _named_views(self.gradients, shapes)
        for name in shapes:
            position, attribute = name.split(".")
            setattr(self.layers[int(position)], attribute, self.tensors[name])
            setattr(self.layers[int(position)], f"d{attribute}", self.gradient_tensors[name])

    def initialise(self, seed: int, site: int) -> None:
        """Draws every Dense layer's weights; ``site`` + the layer's index tells the draws apart."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Dense):
                layer.initialise(seed, site + index)

    def allocate(self, rows: int, backward_rows: int | None = None, output: Array | None = None) -> Buffers:
        """Buffers for batches of ``rows`` (backward: ``backward_rows``). ``output``: the last layer's y, if given."""
        backward_rows = rows if backward_rows is None else backward_rows
        dtype = self.parameters.dtype
        y = [self.xp.empty((rows, width), dtype=dtype) for width in self.widths[:-1]]
        y.append(self.xp.empty((rows, self.widths[-1]), dtype=dtype) if output is None else output)
        dx = [self.xp.empty((backward_rows, width), dtype=dtype) for width in (self.input_width, *self.widths[:-1])]
        return Buffers(y, dx)

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, buffers: Buffers | None = None
    ) -> tuple[Array, list[Any]]:
        """Shapes: x (N, I) → y (N, O), and one cache per layer for ``backward``. Dropout is off without a key."""
        caches = []
        for index, layer in enumerate(self.layers):
            x, cache = layer.forward(x, dropout, buffers.y[index] if buffers else None)
            caches.append(cache)
        return x, caches

    def backward(
        self,
        dy: Array,
        caches: Sequence[Any],
        need_dx: bool = True,
        need_params: bool = True,
        buffers: Buffers | None = None,
    ) -> Array | None:
        """The chain rule, last layer first. Shapes: dy (N, O) → dx (N, I), and ``gradients`` (P,) when ``need_params``.

        What nobody asked for is not computed: without ``need_dx`` the first layer's dx, and without ``need_params`` every
        dW and db, are left out (for D in the G step and for the first layer that is a third of all the arithmetic).
        """
        dx: Array | None = dy
        for index in reversed(range(len(self.layers))):
            out = buffers.dx[index] if buffers else None
            dx = self.layers[index].backward(dx, caches[index], need_dx or index > 0, need_params, out)
        return dx


def take_rows(caches: Sequence[Any], rows: slice) -> list[Any]:
    """The caches of a part of the batch: every array in them has the batch's rows first."""
    return [type(cache)(*(None if array is None else array[rows] for array in cache)) for cache in caches]


def generator(latent_dim: int, slope: float, dtype: Any = np.float32, xp: ModuleType = np) -> Sequential:
    """latent → 256 → 512 → 1024, each leaky ReLU; → 784, tanh: pixels in (−1, 1)."""
    layers: list[Layer] = []
    width = latent_dim
    for hidden in _HIDDEN:
        layers += [Dense(width, hidden), LeakyReLU(slope)]
        width = hidden
    layers += [Dense(width, IMAGE_PIXELS), Tanh()]
    return Sequential(layers, latent_dim, dtype, xp)


def discriminator(
    dropout: float, slope: float, logits: bool = False, dtype: Any = np.float32, xp: ModuleType = np
) -> Sequential:
    """784 → 1024 → 512 → 256, each leaky ReLU and dropout; → 1, sigmoid: the probability of a real image.

    With ``logits`` the sigmoid is left off, for ``losses.BinaryCrossEntropyWithLogits``.
    """
    layers: list[Layer] = []
    width = IMAGE_PIXELS
    for site, hidden in enumerate(reversed(_HIDDEN)):
        layers += [Dense(width, hidden), LeakyReLU(slope), Dropout(dropout, site)]
        width = hidden
    layers.append(Dense(width, 1))
    if not logits:
        layers.append(Sigmoid())
    return Sequential(layers, IMAGE_PIXELS, dtype, xp)


def _named_views(flat: Array, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    views, start = {}, 0
    for name, shape in shapes.items():
        stop = start + int(np.prod(shape))
        views[name] = flat[start:stop].reshape(shape)
        start = stop
    return views
