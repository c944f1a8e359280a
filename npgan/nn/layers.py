"""Layers: what an operation of ``ops`` needs to know besides its input.

    y, cache = layer.forward(x, key)
    dx       = layer.backward(dy, cache)         # and the gradients of the layer's own tensors
    dx       = layer.backward_input(dy, cache)   # the layer's own tensors are not to be trained

``cache`` is whatever the backward needs. It is handed to the caller and never kept on the layer, so one layer can have
several forwards under way: D sees two batches in a step. A layer's tensors and their gradients, such as ``weight`` and
``dweight``, are views into its network's two flat vectors (``modules.Module`` binds them).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from npgan import expect
from npgan.backend import Array, Shape, array_module
from npgan.modules import SITES, Module
from npgan.nn import ops, philox


class DropoutKey(NamedTuple):
    """Names one draw of dropout masks: the same key always gives the same masks."""

    seed: int
    step: int
    forward_pass: int  # tells apart the forward passes of one step, from 0 on


class Layer(Module):
    """What a network asks of a layer. Shapes: x (N, I), y and dy (N, O), dx (N, I).

    A layer with tensors of its own names them in ``shapes``, fills them in ``initialize``, and assigns their gradients
    in ``backward``; one whose y is not as wide as x says so in ``output_width``. ``forward`` and ``backward`` each has.
    """

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Any]:
        raise NotImplementedError

    def backward(self, dy: Array, cache: Any) -> Array:
        raise NotImplementedError

    def backward_input(self, dy: Array, cache: Any) -> Array:
        """As ``backward``, for a layer that is not to be trained: the gradients of its tensors stay as they are."""
        kept = self.gradients.copy() if self.shapes() else None
        dx = self.backward(dy, cache)
        if kept is not None:
            self.gradients[...] = kept
        return dx

    def double_backward(self, u: Array, dy: Array, cache: Any) -> Array:
        """The derivative of ``backward_input``: for u = ∂P/∂dx (N, I) the ∂P/∂dy (N, O), ∂P/∂tensor added to the gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no double backward: Dense, LeakyReLU, ReLU, Dropout have")


class Dense(Layer):
    """y = x·W + b with weight (I, O) and bias (O,)."""

    weight: Array
    bias: Array
    dweight: Array
    dbias: Array

    def __init__(self, in_features: int, out_features: int) -> None:
        """Raises ValueError for widths below 1."""
        expect.whole_numbers("Dense", 1, in_features, out_features)
        self.in_features, self.out_features = in_features, out_features

    def shapes(self) -> dict[str, Shape]:
        return {"weight": (self.in_features, self.out_features), "bias": (self.out_features,)}

    def initialize(self, seed: int, site: int) -> None:
        """Weights uniform in ±√(6/(I + O)) (Glorot and Bengio 2010, equation 16), biases 0."""
        xp = array_module(self.weight)
        u = philox.uniform(seed, philox.Stream.INIT, 0, site, self.weight.shape, np.float64, xp)
        self.weight[...] = (2.0 * u - 1.0) * math.sqrt(6.0 / (self.in_features + self.out_features))
        self.bias[...] = 0.0

    def output_width(self, width: int | None) -> int:
        if width not in (None, self.in_features):
            raise ValueError(f"{self!r} cannot follow a width of {width}")
        return self.out_features

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Array]:
        expect.rows_of_floats(self, x, width=self.in_features)
        return ops.dense_forward(x, self.weight, self.bias), x

    def backward(self, dy: Array, cache: Array) -> Array:
        expect.rows_of_floats(self, dy, len(cache), self.out_features)
        self.dweight[...], self.dbias[...] = ops.dense_backward_params(dy, cache)
        return self.backward_input(dy, cache)

    def backward_input(self, dy: Array, cache: Array) -> Array:
        return ops.dense_backward_dx(dy, self.weight)

    def double_backward(self, u: Array, dy: Array, cache: Array) -> Array:
        expect.rows_of_floats(self, dy, len(cache), self.out_features)
        ddy, dweight = ops.dense_double_backward(u, dy, self.weight)
        self.dweight += dweight
        return ddy


class LeakyReLU(Layer):
    """y = max(x, slope·x)."""

    def __init__(self, slope: float = 0.2) -> None:
        """Raises ValueError unless 0 ≤ slope < 1."""
        expect.share("LeakyReLU", "slope", slope)
        self.slope = slope

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Array]:
        return ops.leaky_relu_forward(x, self.slope), x

    def backward(self, dy: Array, cache: Array) -> Array:
        return ops.leaky_relu_backward(dy, cache, self.slope)

    def double_backward(self, u: Array, dy: Array, cache: Array) -> Array:
        return ops.leaky_relu_backward(u, cache, self.slope)  # dx is linear in dy, with the same slopes


class Dropout(Layer):
    """Sets each element to 0 with probability ``rate`` and scales the others by 1/(1 − rate); off without a key."""

    site: int = 0

    def __init__(self, rate: float = 0.5) -> None:
        """Raises ValueError unless 0 ≤ rate < 1."""
        expect.share("Dropout", "rate", rate)
        self.rate = rate
        self.scale = 1.0 / (1.0 - rate)
        self.threshold = round(rate * 65536)  # so many of the 2¹⁶ values of 16 random bits mean "dropped"

    def draw_site(self, forward_pass: int) -> int:
        """Tells apart the masks of one step: those of its passes, and of a network's dropout layers."""
        return SITES * forward_pass + self.site

    def mask(self, x: Array, key: DropoutKey) -> Array:
        """1/(1 − rate) where an element is kept, else 0. Shapes: as x (N, O). The rate is met to within 2⁻¹⁷."""
        site, xp = self.draw_site(key.forward_pass), array_module(x)
        bits = philox.random_halfwords(key.seed, philox.Stream.DROPOUT, key.step, site, x.size, xp)
        return (bits.reshape(x.shape) >= self.threshold) * x.real.dtype.type(self.scale)

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Array | None]:
        if key is None:
            return x, None
        expect.rows_of_floats(self, x)
        mask = self.mask(x, key)
        return ops.dropout_forward(x, mask), mask

    def backward(self, dy: Array, cache: Array | None) -> Array:
        return dy if cache is None else ops.dropout_backward(dy, cache)

    def double_backward(self, u: Array, dy: Array, cache: Array | None) -> Array:
        return self.backward(u, cache)  # likewise, with the same mask


class Sigmoid(Layer):
    """y = 1/(1 + e⁻ˣ)."""

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Array]:
        y = ops.sigmoid_forward(x)
        return y, y

    def backward(self, dy: Array, cache: Array) -> Array:
        return ops.sigmoid_backward(dy, cache)


class Tanh(Layer):
    """y = tanh x."""

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Array]:
        y = ops.tanh_forward(x)
        return y, y

    def backward(self, dy: Array, cache: Array) -> Array:
        return ops.tanh_backward(dy, cache)


class ReLU(LeakyReLU):
    """y = max(x, 0)."""

    def __init__(self) -> None:
        super().__init__(0.0)


class Maxout(Layer):
    """The largest of every ``pieces`` inputs: (N, pieces·O) → (N, O). After a Dense, Goodfellow et al.'s maxout unit (2013)."""

    def __init__(self, pieces: int) -> None:
        """Raises ValueError for fewer than 2 pieces."""
        expect.whole_numbers("Maxout", 2, pieces)
        self.pieces = pieces

    def output_width(self, width: int | None) -> int | None:
        if width is not None and width % self.pieces:
            raise ValueError(f"{self!r} cannot follow a width of {width}, which {self.pieces} does not divide")
        return width and width // self.pieces

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Array]:
        self.output_width(x.shape[1])
        return ops.maxout_forward(x, self.pieces), x

    def backward(self, dy: Array, cache: Array) -> Array:
        return ops.maxout_backward(dy, cache, self.pieces)


class Softmax(Layer):
    """y_nk = e^x_nk / Σ_j e^x_nj: probabilities of classes."""

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, Array]:
        y = ops.softmax_forward(x)
        return y, y

    def backward(self, dy: Array, cache: Array) -> Array:
        return ops.softmax_backward(dy, cache)
