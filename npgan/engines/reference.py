"""What every fused kernel computes, as a composition of ``ops``. ``cpu`` has the same functions with the same parameters.

Letters as in ``ops``: N rows, I inputs, O outputs, P parameters. A ``…_forward`` is a Dense layer and what follows it. Its
``…_backward`` goes from ∂L/∂y back to dz, the gradient of the Dense layer's result z = x·W + b, and sums db on the way;
dW and dx are then matrix products (``stages``). db is left out where no ``dbias`` is given.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from npgan.data import mnist as data
from npgan.nn import ops
from npgan.nn import philox as random
from npgan.nn.layers import Dropout, DropoutKey

Array = Any  # numpy.ndarray or cupy.ndarray

_ADAM_BLOCK = 1 << 15  # five vectors of 2¹⁵ float32 are 640 KB and stay in the L2 cache: half the time of whole vectors


def empty(rows: int, width: int) -> Array:
    """A new float32 array (rows, width) in the memory order that suits these functions."""
    return np.empty((rows, width), dtype=np.float32)


def matmul(a: Array, b: Array, out: Array) -> Array:
    """a·b. Shapes: a (M, K), b (K, N) → out (M, N)."""
    return np.matmul(a, b, out=out)


def dense_leaky_relu_forward(x: Array, weight: Array, bias: Array, slope: float, out: Array | None = None) -> Array:
    """Shapes: x (N, I), weight (I, O), bias (O,) → y (N, O)."""
    return ops.leaky_relu_forward(ops.dense_forward(x, weight, bias), slope, out)


def dense_leaky_relu_backward(
    dy: Array, y: Array, slope: float, dbias: Array | None = None, out: Array | None = None
) -> Array:
    """Shapes: dy, y (N, O) → dz (N, O), dbias (O,). From y, because y > 0 exactly where z > 0."""
    return _with_bias_gradient(ops.leaky_relu_backward(dy, y, slope, out), dbias)


def dense_leaky_relu_dropout_forward(
    x: Array,
    weight: Array,
    bias: Array,
    slope: float,
    rate: float,
    site: int,
    key: DropoutKey,
    out: Array | None = None,
    slopes: Array | None = None,
) -> tuple[Array, Array]:
    """Shapes: x (N, I), weight (I, O), bias (O,) → y (N, O), slopes (N, O).

    ``slopes`` is ∂y/∂z: 0 where dropped, else 1/(1 − rate) where z > 0 and slope/(1 − rate) where not.
    ``rate`` and ``site`` are those of ``layers.Dropout``, whose mask for ``key`` this uses.
    """
    z = ops.dense_forward(x, weight, bias)
    mask = Dropout(rate, site).mask(z.shape, key, z.dtype)
    y = ops.dropout_forward(ops.leaky_relu_forward(z, slope), mask, out)
    return y, ops.leaky_relu_backward(mask, z, slope, slopes)


def dense_leaky_relu_dropout_backward(
    dy: Array, slopes: Array, dbias: Array | None = None, out: Array | None = None
) -> Array:
    """Shapes: dy, slopes (N, O) → dz (N, O), dbias (O,)."""
    return _with_bias_gradient(np.multiply(dy, slopes, out=out), dbias)


def dense_tanh_forward(x: Array, weight: Array, bias: Array, out: Array | None = None) -> Array:
    """Shapes: x (N, I), weight (I, O), bias (O,) → y (N, O)."""
    return ops.tanh_forward(ops.dense_forward(x, weight, bias), out)


def dense_tanh_backward(dy: Array, y: Array, dbias: Array | None = None, out: Array | None = None) -> Array:
    """Shapes: dy, y (N, O) → dz (N, O), dbias (O,)."""
    return _with_bias_gradient(ops.tanh_backward(dy, y, out), dbias)


def dense_sigmoid_forward(x: Array, weight: Array, bias: Array, out: Array | None = None) -> Array:
    """Shapes: x (N, I), weight (I, 1), bias (1,) → y (N, 1)."""
    return ops.sigmoid_forward(ops.dense_forward(x, weight, bias), out)


def dense_sigmoid_backward(dy: Array, y: Array, dbias: Array | None = None, out: Array | None = None) -> Array:
    """Shapes: dy, y (N, 1) → dz (N, 1), dbias (1,)."""
    return _with_bias_gradient(ops.sigmoid_backward(dy, y, out), dbias)


def dense_backward_dx(dy: Array, weight: Array, out: Array | None = None) -> Array:
    """Shapes: dy (N, O), weight (I, O) → dx (N, I)."""
    return ops.dense_backward_dx(dy, weight, out)


def binary_cross_entropy_forward(p: Array, target: Array, epsilon: float = ops.BCE_EPSILON) -> Array:
    """Shapes: p, target (N, 1) → L ()."""
    return ops.binary_cross_entropy_forward(p, target, epsilon)


def binary_cross_entropy_backward(
    p: Array, target: Array, epsilon: float = ops.BCE_EPSILON, out: Array | None = None
) -> Array:
    """Shapes: p, target (N, 1) → dp (N, 1)."""
    return ops.binary_cross_entropy_backward(p, target, epsilon, out)


def adam_update(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> Array:
    """``ops.adam_update`` in place, and the gradient's Euclidean norm (). Shapes: param, grad, m, v (P,)."""
    block = _ADAM_BLOCK if isinstance(param, np.ndarray) else param.size
    a, b = np.empty_like(param[:block]), np.empty_like(param[:block])
    for start in range(0, param.size, block):
        part = slice(start, min(start + block, param.size))
        size = part.stop - start
        ops.adam_update(
            param[part], grad[part], m[part], v[part], step, lr, beta1, beta2, epsilon, (a[:size], b[:size])
        )
    return np.sqrt(np.dot(grad, grad))


def normal(
    seed: int,
    stream: random.Stream,
    step: int,
    site: int,
    shape: tuple[int, ...],
    dtype: Any = np.float32,
    xp: ModuleType = np,
    out: Array | None = None,
) -> Array:
    """``random.normal``."""
    return random.normal(seed, stream, step, site, shape, dtype, xp, out)


def gather_rows(images: Array, rows: Array, out: Array | None = None) -> Array:
    """``images[rows]``. Shapes: images (M, 784) uint8, rows (N,) unsigned → (N, 784) uint8."""
    if out is None:
        return images[rows]
    out[...] = images[rows]
    return out


def scale_pixels(pixels: Array, out: Array | None = None, dtype: Any = np.float32) -> Array:
    """``data.scale_pixels``. Shapes: pixels (N, 784) uint8 → (N, 784)."""
    return data.scale_pixels(pixels, out, dtype)


def _with_bias_gradient(dz: Array, dbias: Array | None) -> Array:
    if dbias is not None:
        np.sum(dz, axis=0, out=dbias)
    return dz
