"""A network is a list of layers over one flat parameter vector. The generator and the discriminator are two of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from npgan.engines import REFERENCE, Kernels
from npgan.engines.schedule import Stage, fuse
from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU, Maxout, ReLU, Sigmoid, Tanh

Array = Any  # numpy.ndarray or cupy.ndarray

IMAGE_PIXELS = 784  # 28 × 28
_HIDDEN = (256, 512, 1024)  # the generator's widths; the discriminator has them in reverse


class Buffers(NamedTuple):
    """Room for one forward and backward of a network, allocated once: an array, or a fused stage's own, for each stage."""

    y: list[Any]
    dx: list[Any]


class Sequential:
    """Layers in a row. ``parameters`` and ``gradients`` are flat vectors (P,); the layers' tensors are views into them.

    So Adam, a checkpoint or a gradient check of the whole network is one call on one vector. ``tensors`` names the views
    as ``"0.weight"``: the layer's index, a dot, the tensor; ``gradient_tensors`` has the same names.
    ``backward`` assigns gradients and never adds to them, so nothing needs to be set to zero between steps.

    ``stages`` is what forward and backward walk: the layers, or, with fused kernels, runs of them done in one pass.
    Fused kernels are for float32; a network of another dtype takes the reference's, and ``kernels`` says which it has.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_width: int,
        dtype: Any = np.float32,
        xp: ModuleType = np,
        kernels: Kernels = REFERENCE,
    ) -> None:
        self.layers = list(layers)
        self.kernels = kernels if np.dtype(dtype) == np.float32 else REFERENCE
        self.stages: Sequence[Layer | Stage] = fuse(layers, kernels.chains) if self.kernels.in_stages else self.layers
        self.xp = xp
        self.input_width = input_width
        self.widths: list[int] = []  # output width of each layer
        shapes: dict[str, tuple[int, ...]] = {}
        for index, layer in enumerate(self.layers):
            self.widths.append(layer.output_width(self.widths[-1] if index else input_width))
            shapes |= {f"{index}.{name}": shape for name, shape in layer.parameter_shapes().items()}
        count = sum(int(np.prod(shape)) for shape in shapes.values())
        self.parameters = self.empty(count, 1, dtype).reshape(-1)
        self.gradients = self.empty(count, 1, dtype).reshape(-1)
        self.parameters[...] = 0.0
        self.gradients[...] = 0.0
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

    def empty(self, rows: int, width: int, dtype: Any = None) -> Array:
        """A new array (rows, width) in the memory order that the kernels like."""
        if self.kernels.in_stages:
            return self.kernels.chains.empty(rows, width)
        return self.xp.empty((rows, width), dtype=dtype or self.parameters.dtype)

    def allocate(self, rows: int, backward_rows: int | None = None, output: Array | None = None) -> Buffers:
        """Buffers for batches of ``rows`` (backward: ``backward_rows``). ``output``: the last layer's y, if given."""
        backward_rows = rows if backward_rows is None else backward_rows
        buffers = Buffers([], [])
        width = self.input_width
        for stage in self.stages:
            input_width, width = width, stage.output_width(width)
            y = output if output is not None and stage is self.stages[-1] else self.empty(rows, width)
            dx = self.empty(backward_rows, input_width)
            buffers.y.append(stage.forward_room(y) if isinstance(stage, Stage) else y)
            buffers.dx.append(stage.backward_room(dx) if isinstance(stage, Stage) else dx)
        return buffers

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, buffers: Buffers | None = None
    ) -> tuple[Array, list[Any]]:
        """Shapes: x (N, I) → y (N, O), and one cache per stage for ``backward``. Dropout is off without a key."""
        caches = []
        for index, stage in enumerate(self.stages):
            x, cache = stage.forward(x, dropout, buffers.y[index] if buffers else None)
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
        for index in reversed(range(len(self.stages))):
            out = buffers.dx[index] if buffers else None
            dx = self.stages[index].backward(dx, caches[index], need_dx or index > 0, need_params, out)
        return dx


def take_rows(caches: Sequence[Any], rows: slice) -> list[Any]:
    """The caches of a part of the batch: every array in them has the batch's rows first."""
    return [type(cache)(*(None if array is None else array[rows] for array in cache)) for cache in caches]


def generator(
    latent_dim: int, slope: float, dtype: Any = np.float32, xp: ModuleType = np, kernels: Kernels = REFERENCE
) -> Sequential:
    """latent → 256 → 512 → 1024, each leaky ReLU; → 784, tanh: pixels in (−1, 1)."""
    layers: list[Layer] = []
    width = latent_dim
    for hidden in _HIDDEN:
        layers += [Dense(width, hidden), LeakyReLU(slope)]
        width = hidden
    layers += [Dense(width, IMAGE_PIXELS), Tanh()]
    return Sequential(layers, latent_dim, dtype, xp, kernels)


def discriminator(
    dropout: float,
    slope: float,
    logits: bool = False,
    dtype: Any = np.float32,
    xp: ModuleType = np,
    kernels: Kernels = REFERENCE,
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
    return Sequential(layers, IMAGE_PIXELS, dtype, xp, kernels)


def paper_generator(
    latent_dim: int, dtype: Any = np.float32, xp: ModuleType = np, kernels: Kernels = REFERENCE
) -> Sequential:
    """Of Goodfellow et al. 2014: latent → 1200 → 1200, each ReLU; → 784, tanh, which is a sigmoid stretched to (−1, 1)."""
    layers: list[Layer] = []
    width = latent_dim
    for hidden in (1200, 1200):
        layers += [Dense(width, hidden), ReLU()]
        width = hidden
    return Sequential([*layers, Dense(width, IMAGE_PIXELS), Tanh()], latent_dim, dtype, xp, kernels)


def paper_discriminator(
    input_dropout: float,
    dropout: float,
    logits: bool = False,
    dtype: Any = np.float32,
    xp: ModuleType = np,
    kernels: Kernels = REFERENCE,
) -> Sequential:
    """Of Goodfellow et al. 2014: 784 → 240 → 240, each the maxout of five pieces; → 1, sigmoid. Dropout before every Dense."""
    pieces, units = 5, 240
    layers: list[Layer] = [Dropout(input_dropout, 0), Dense(IMAGE_PIXELS, pieces * units), Maxout(pieces)]
    layers += [Dropout(dropout, 1), Dense(units, pieces * units), Maxout(pieces)]
    layers += [Dropout(dropout, 2), Dense(units, 1)]
    if not logits:
        layers.append(Sigmoid())
    return Sequential(layers, IMAGE_PIXELS, dtype, xp, kernels)


def _named_views(flat: Array, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    views, start = {}, 0
    for name, shape in shapes.items():
        stop = start + int(np.prod(shape))
        views[name] = flat[start:stop].reshape(shape)
        start = stop
    return views
