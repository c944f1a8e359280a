"""Layers: what an operation of ``ops`` needs to know besides its input. Five short classes with one protocol.

    y, cache = layer.forward(x, dropout, out)
    dx       = layer.backward(dy, cache, need_dx, need_params, out)

``cache`` is a named tuple of what backward needs. It is handed back to the caller and never kept on the layer, so one
layer can have several forwards under way: D sees two batches in a step, and each has its own cache. Every array in a
cache has the batch's rows first, so a part of a batch is backpropagated by slicing its caches.
A layer's parameters are views into its network's flat vectors (``networks.Sequential`` binds them).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from npgan.nn import ops
from npgan.nn import philox as random
from npgan.backend import array_module

Array = Any  # numpy.ndarray or cupy.ndarray


class DropoutKey(NamedTuple):
    """Names one draw of dropout masks: the same key always gives the same masks."""

    seed: int
    step: int
    forward_pass: int  # 0: D step; 1: G step, where the option keeps dropout on there


class InputCache(NamedTuple):
    """The input of the forward."""

    x: Array


class OutputCache(NamedTuple):
    """The result of the forward."""

    y: Array


class MaskCache(NamedTuple):
    """Dropout's mask, 0 or 1/(1 − p); None when dropout was off."""

    mask: Array | None


Cache = InputCache | OutputCache | MaskCache


class Layer(Protocol):
    """What ``networks.Sequential`` asks of a layer. Shapes: x (N, I), y and dy (N, O), dx (N, I)."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]: ...

    def output_width(self, input_width: int) -> int: ...

    def forward(self, x: Array, dropout: DropoutKey | None = None, out: Array | None = None) -> tuple[Array, Any]: ...

    def backward(
        self, dy: Array, cache: Any, need_dx: bool = True, need_params: bool = True, out: Array | None = None
    ) -> Array | None: ...


class Dense:
    """y = x·W + b with weight (I, O) and bias (O,)."""

    weight: Array
    bias: Array
    dweight: Array
    dbias: Array

    def __init__(self, in_features: int, out_features: int) -> None:
        self.in_features = in_features
        self.out_features = out_features

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.in_features, self.out_features), "bias": (self.out_features,)}

    def output_width(self, input_width: int) -> int:
        if input_width != self.in_features:
            raise ValueError(f"Dense({self.in_features}, {self.out_features}) cannot follow a width of {input_width}")
        return self.out_features

    def initialise(self, seed: int, site: int) -> None:
        """Weights uniform in ±√(6/(I + O)) (Glorot and Bengio 2010, equation 16), biases 0."""
        xp = array_module(self.weight)
        u = random.uniform(seed, random.Stream.INIT, 0, site, self.weight.shape, np.float64, xp)
        limit = (6.0 / (self.in_features + self.out_features)) ** 0.5
        self.weight[...] = (2.0 * u - 1.0) * limit
        self.bias[...] = 0.0

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, out: Array | None = None
    ) -> tuple[Array, InputCache]:
        return ops.dense_forward(x, self.weight, self.bias, out), InputCache(x)

    def backward(
        self, dy: Array, cache: InputCache, need_dx: bool = True, need_params: bool = True, out: Array | None = None
    ) -> Array | None:
        if need_params:
            ops.dense_backward_params(dy, cache.x, self.dweight, self.dbias)
        return ops.dense_backward_dx(dy, self.weight, out) if need_dx else None


class _Elementwise:
    """What the layers without parameters share: the width stays as it is."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def output_width(self, input_width: int) -> int:
        return input_width


class LeakyReLU(_Elementwise):
    """y = max(x, slope·x)."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, out: Array | None = None
    ) -> tuple[Array, InputCache]:
        return ops.leaky_relu_forward(x, self.slope, out), InputCache(x)

    def backward(
        self, dy: Array, cache: InputCache, need_dx: bool = True, need_params: bool = True, out: Array | None = None
    ) -> Array | None:
        return ops.leaky_relu_backward(dy, cache.x, self.slope, out) if need_dx else None


class Dropout(_Elementwise):
    """Sets each element to 0 with probability ``rate`` and scales the others by 1/(1 − rate); off without a key."""

    def __init__(self, rate: float, site: int) -> None:
        self.rate = rate
        self.site = site  # tells apart the dropout layers of one network; below 16

    def mask(self, shape: tuple[int, ...], key: DropoutKey, dtype: Any, xp: ModuleType = np) -> Array:
        """The mask for ``key``: 1/(1 − rate) where kept, else 0. An element is dropped when its 16 random bits are below
        rate·2¹⁶, so the rate is met to within 2⁻¹⁷."""
        site = 16 * key.forward_pass + self.site
        bits = random.random_halfwords(key.seed, random.Stream.DROPOUT, key.step, site, int(np.prod(shape)), xp)
        kept = (bits >= dropout_threshold(self.rate)).reshape(shape)
        return kept * xp.asarray(1.0 / (1.0 - self.rate), dtype=dtype)

    def forward(self, x: Array, dropout: DropoutKey | None = None, out: Array | None = None) -> tuple[Array, MaskCache]:
        if dropout is None:
            return x, MaskCache(None)
        mask = self.mask(x.shape, dropout, x.real.dtype, array_module(x))
        return ops.dropout_forward(x, mask, out), MaskCache(mask)

    def backward(
        self, dy: Array, cache: MaskCache, need_dx: bool = True, need_params: bool = True, out: Array | None = None
    ) -> Array | None:
        if not need_dx or cache.mask is None:
            return dy if need_dx else None
        return ops.dropout_backward(dy, cache.mask, out)


def dropout_threshold(rate: float) -> int:
    """The number of 16-bit values, out of 2¹⁶, that mean "dropped"."""
    return round(rate * 65536)


class Sigmoid(_Elementwise):
    """y = 1/(1 + e⁻ˣ)."""

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, out: Array | None = None
    ) -> tuple[Array, OutputCache]:
        y = ops.sigmoid_forward(x, out)
        return y, OutputCache(y)

    def backward(
        self, dy: Array, cache: OutputCache, need_dx: bool = True, need_params: bool = True, out: Array | None = None
    ) -> Array | None:
        return ops.sigmoid_backward(dy, cache.y, out) if need_dx else None


class Tanh(_Elementwise):
    """y = tanh x."""

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, out: Array | None = None
    ) -> tuple[Array, OutputCache]:
        y = ops.tanh_forward(x, out)
        return y, OutputCache(y)

    def backward(
        self, dy: Array, cache: OutputCache, need_dx: bool = True, need_params: bool = True, out: Array | None = None
    ) -> Array | None:
        return ops.tanh_backward(dy, cache.y, out) if need_dx else None


class ReLU(_Elementwise):
    """y = max(x, 0)."""

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, out: Array | None = None
    ) -> tuple[Array, InputCache]:
        return ops.relu_forward(x, out), InputCache(x)

    def backward(
        self, dy: Array, cache: InputCache, need_dx: bool = True, need_params: bool = True, out: Array | None = None
    ) -> Array | None:
        return ops.relu_backward(dy, cache.x, out) if need_dx else None


class Maxout:
    """The largest of every ``pieces`` inputs: (N, pieces·O) → (N, O). After a Dense layer, Goodfellow's maxout unit."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def output_width(self, input_width: int) -> int:
        if input_width % self.pieces:
            raise ValueError(f"Maxout({self.pieces}) cannot follow a width of {input_width}: it does not divide it")
        return input_width // self.pieces

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, out: Array | None = None
    ) -> tuple[Array, InputCache]:
        return ops.maxout_forward(x, self.pieces, out), InputCache(x)

    def backward(
        self, dy: Array, cache: InputCache, need_dx: bool = True, need_params: bool = True, out: Array | None = None
    ) -> Array | None:
        return ops.maxout_backward(dy, cache.x, self.pieces, out) if need_dx else None
