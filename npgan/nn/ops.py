"""All the maths of npgan: every ``X_forward`` directly above its ``X_backward``.

Letters: N rows of a batch, I inputs and O outputs of a layer, P parameters of a network.
``dname`` is ∂L/∂name and has the shape of ``name``; ``dy`` is what the next operation's backward handed down.
Every weight is (I, O), so a layer reads ``x @ weight + bias``.

- A forward returns its result; what its backward needs is handed back explicitly, nothing is hidden.
- A backward assigns its gradients and never adds to what was there.
- ``out=`` names a buffer for the result. With every ``out=`` given, no operation allocates a float array.
- Everything is generic over float32 (training), float64 and complex128 (gradient checks: a complex step x + ih must pass
  through unharmed, so branches look at real parts and transposes never conjugate).
- The code says ``np`` and runs on CuPy too: NumPy hands each call to the array's own library (NEP 13 and NEP 18).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray

BCE_EPSILON = 1.1920929e-07  # float32's machine epsilon, the tutorial's guard against log 0


# --- dense -----------------------------------------------------------------------------------------------------------


def dense_forward(x: Array, weight: Array, bias: Array, out: Array | None = None) -> Array:
    """y = x·W + b. Shapes: x (N, I), weight (I, O), bias (O,) → y (N, O)."""
    y = np.matmul(x, weight, out=out)
    y += bias
    return y


def dense_backward_dx(dy: Array, weight: Array, out: Array | None = None) -> Array:
    """dx = dy·Wᵀ. Shapes: dy (N, O), weight (I, O) → dx (N, I).

    y_no = Σ_i x_ni·W_io + b_o, so ∂L/∂x_ni = Σ_o dy_no·W_io.
    """
    return np.matmul(dy, weight.T, out=out)


def dense_backward_params(
    dy: Array, x: Array, dweight: Array | None = None, dbias: Array | None = None
) -> tuple[Array, Array]:
    """dW = xᵀ·dy and db = Σ_n dy_n. Shapes: dy (N, O), x (N, I) → dweight (I, O), dbias (O,).

    W_io meets every row: ∂L/∂W_io = Σ_n x_ni·dy_no. b_o is added to every row: ∂L/∂b_o = Σ_n dy_no.
    """
    dweight = np.matmul(x.T, dy, out=dweight)
    dbias = np.sum(dy, axis=0, out=dbias)
    return dweight, dbias


# --- leaky ReLU ------------------------------------------------------------------------------------------------------


def leaky_relu_forward(x: Array, slope: float, out: Array | None = None) -> Array:
    """y = x where x > 0, else slope·x, for 0 ≤ slope < 1. Shapes: x (N, O) → y (N, O). Maas et al. 2013.

    The larger of x and slope·x is the one wanted on either side of 0; complex numbers compare by real part first.
    (On 256 × 1024 float32 numbers: 0.04 ms, where ``np.where`` takes 1 ms.)
    """
    y = np.multiply(x, slope, out=out)
    return np.maximum(x, y, out=y)


def leaky_relu_backward(dy: Array, x: Array, slope: float, out: Array | None = None) -> Array:
    """dx = dy where x > 0, else slope·dy. Shapes: dy, x (N, O) → dx (N, O).

    The slope of a piecewise linear function is that of the piece x lies on. At the kink x = 0 there is no derivative;
    the left one is taken, as in Flux and PyTorch.
    """
    dx = np.multiply(dy, slope, out=out)
    np.copyto(dx, dy, where=x > 0)
    return dx


# --- ReLU ------------------------------------------------------------------------------------------------------------


def relu_forward(x: Array, out: Array | None = None) -> Array:
    """y = x where x > 0, else 0. Shapes: x (N, O) → y (N, O). Nair and Hinton 2010."""
    return np.maximum(x, 0.0, out=out)


def relu_backward(dy: Array, x: Array, out: Array | None = None) -> Array:
    """dx = dy where x > 0, else 0. Shapes: dy, x (N, O) → dx (N, O).

    Right of 0 the slope is 1, left of it 0; at the kink x = 0 the left one is taken, as in leaky ReLU.
    """
    return np.multiply(dy, x > 0, out=out)


# --- maxout ----------------------------------------------------------------------------------------------------------


def maxout_forward(x: Array, pieces: int, out: Array | None = None) -> Array:
    """y_no = max_q x_n,q·O+o: the largest of ``pieces`` linear functions. Shapes: x (N, pieces·O) → y (N, O).

    Goodfellow et al. 2013. One piece's O numbers lie side by side, so the maximum runs over whole rows at a time.
    """
    return np.max(x.reshape(x.shape[0], pieces, -1), axis=1, out=out)


def maxout_backward(dy: Array, x: Array, pieces: int, out: Array | None = None) -> Array:
    """dx = dy at the piece that was largest, else 0. Shapes: dy (N, O), x (N, pieces·O) → dx (N, pieces·O).

    Only the winner reaches y, with slope 1. Where two pieces tie there is no derivative, and the first one is taken.
    """
    winner = np.argmax(x.reshape(x.shape[0], pieces, -1), axis=1)
    dx = np.empty_like(x) if out is None else out
    for piece, part in enumerate(np.split(dx, pieces, axis=1)):
        np.multiply(dy, winner == piece, out=part)
    return dx


# --- dropout ---------------------------------------------------------------------------------------------------------


def dropout_forward(x: Array, mask: Array, out: Array | None = None) -> Array:
    """y = x·mask, element by element. Shapes: x, mask (N, O) → y (N, O). Srivastava et al. 2014, inverted scaling.

    ``mask`` holds 0 with probability p and 1/(1 − p) otherwise (``layers.Dropout`` draws it), so E[y] = x and nothing
    needs rescaling when dropout is off.
    """
    return np.multiply(x, mask, out=out)


def dropout_backward(dy: Array, mask: Array, out: Array | None = None) -> Array:
    """dx = dy·mask, with the forward's own mask. Shapes: dy, mask (N, O) → dx (N, O).

    y_no = mask_no·x_no and the mask does not depend on x, so ∂y_no/∂x_no = mask_no.
    """
    return np.multiply(dy, mask, out=out)


# --- sigmoid ---------------------------------------------------------------------------------------------------------


def sigmoid_forward(x: Array, out: Array | None = None) -> Array:
    """y = 1/(1 + e⁻ˣ). Shapes: x (N, O) → y (N, O).

    With e = e^−|x|, which cannot overflow: y = 1/(1 + e) for x > 0, else e/(1 + e). |·| goes by the real part.
    """
    positive = x.real > 0
    e = np.exp(np.where(positive, -x, x))
    y = np.where(positive, 1.0, e) / (1.0 + e)
    return _deliver(y, out)


def sigmoid_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """dx = dy·y·(1 − y), from the forward's result. Shapes: dy, y (N, O) → dx (N, O).

    y = (1 + e⁻ˣ)⁻¹, so dy/dx = e⁻ˣ·(1 + e⁻ˣ)⁻² = y·(1 − y).
    """
    dx = np.subtract(1.0, y, out=out)
    dx *= y
    dx *= dy
    return dx


# --- tanh ------------------------------------------------------------------------------------------------------------


def tanh_forward(x: Array, out: Array | None = None) -> Array:
    """y = tanh x. Shapes: x (N, O) → y (N, O)."""
    return np.tanh(x, out=out)


def tanh_backward(dy: Array, y: Array, out: Array | None = None) -> Array:
    """dx = dy·(1 − y²), from the forward's result. Shapes: dy, y (N, O) → dx (N, O).

    tanh = sinh/cosh, so by the quotient rule its derivative is (cosh² − sinh²)/cosh² = 1 − tanh².
    """
    dx = np.multiply(y, y, out=out)
    np.subtract(1.0, dx, out=dx)
    dx *= dy
    return dx


# --- binary cross-entropy on probabilities ---------------------------------------------------------------------------


def binary_cross_entropy_forward(p: Array, target: Array, epsilon: float = BCE_EPSILON) -> Array:
    """L = mean_n of −t·log(p + ε) − (1 − t)·log(1 − p + ε). Shapes: p, target (N, 1) → L ().

    ε keeps the loss finite where a sigmoid has rounded to 0 or 1: at most −log ε ≈ 15.9. As Flux 0.12 defines it.
    """
    return -np.mean(target * np.log(p + epsilon) + (1.0 - target) * np.log(1.0 - p + epsilon))


def binary_cross_entropy_backward(
    p: Array, target: Array, epsilon: float = BCE_EPSILON, out: Array | None = None
) -> Array:
    """dp = ((1 − t)/(1 − p + ε) − t/(p + ε)) / N. Shapes: p, target (N, 1) → dp (N, 1).

    Each logarithm differentiates to one over its argument; the mean over N rows gives the 1/N.
    """
    dp = ((1.0 - target) / (1.0 - p + epsilon) - target / (p + epsilon)) / p.shape[0]
    return _deliver(dp, out)


# --- binary cross-entropy on logits ----------------------------------------------------------------------------------


def binary_cross_entropy_with_logits_forward(z: Array, target: Array) -> Array:
    """L = mean_n of max(z, 0) − t·z + log(1 + e^−|z|). Shapes: z, target (N, 1) → L ().

    This is the loss above for p = σ(z) and ε = 0, rearranged so that nothing overflows and nothing needs an ε:
    −t·log σ(z) − (1 − t)·log σ(−z) = log(1 + e⁻ᶻ) + (1 − t)·z. |·| and max go by the real part.
    """
    positive = z.real > 0
    softplus_of_minus_abs = np.log1p(np.exp(np.where(positive, -z, z)))
    return np.mean(np.where(positive, z, 0.0) - target * z + softplus_of_minus_abs)


def binary_cross_entropy_with_logits_backward(z: Array, target: Array, out: Array | None = None) -> Array:
    """dz = (σ(z) − t) / N. Shapes: z, target (N, 1) → dz (N, 1).

    d/dz log(1 + e⁻ᶻ) = −σ(−z) = σ(z) − 1, plus (1 − t). Where the loss on probabilities meets its ε the two differ: with
    t = 1 and z → −∞ this gradient goes to −1/N, while dp·p·(1 − p) above goes to 0 as p falls below ε and learning stops.
    """
    dz = sigmoid_forward(z, out=out)
    dz -= target
    dz /= z.shape[0]
    return dz


# --- softmax cross-entropy on logits, for classes --------------------------------------------------------------------


def softmax(z: Array) -> Array:
    """p_nk = e^z_nk / Σ_j e^z_nj. Shapes: z (N, K) → p (N, K). The row's largest z is taken off first: e^0 is the largest."""
    e = np.exp(z - z.real.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_cross_entropy_forward(z: Array, label: Array) -> Array:
    """L = mean_n of log Σ_k e^z_nk − z_n,label_n. Shapes: z (N, K), label (N,) integers below K → L ().

    This is −log softmax(z) at the label, with the logarithm taken before anything can round to 0.
    """
    shifted = z - z.real.max(axis=1, keepdims=True)
    at_label = np.take_along_axis(shifted, label[:, None], axis=1)[:, 0]
    return np.mean(np.log(np.exp(shifted).sum(axis=1)) - at_label)


def softmax_cross_entropy_backward(z: Array, label: Array, out: Array | None = None) -> Array:
    """dz = (softmax(z) − [k = label_n]) / N. Shapes: z (N, K), label (N,) → dz (N, K).

    d/dz_k log Σ_j e^z_j = e^z_k / Σ_j e^z_j = softmax(z)_k; the label's own z is subtracted once.
    """
    classes = np.arange(z.shape[1], dtype=label.dtype, like=label)
    return _deliver((softmax(z) - (classes == label[:, None])) / z.shape[0], out)


# --- Adam ------------------------------------------------------------------------------------------------------------


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
    scratch: tuple[Array, Array] | None = None,
) -> None:
    """One Adam step in place on flat vectors. Shapes: param, grad, m, v and both scratch vectors (P,).

    m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  m̂ = m/(1 − β₁ᵗ),  v̂ = v/(1 − β₂ᵗ),  param ← param − lr·m̂/(√v̂ + ε)

    ``step`` is t, counted from 1. Both moments start at 0 and so lean towards it; dividing by 1 − βᵗ takes that away.
    Source: Kingma and Ba 2015, algorithm 1, with ε outside the root.
    """
    a, b = scratch if scratch is not None else (np.empty_like(param), np.empty_like(param))
    m *= beta1
    np.multiply(grad, 1.0 - beta1, out=a)
    m += a
    v *= beta2
    np.multiply(grad, grad, out=a)
    a *= 1.0 - beta2
    v += a
    np.multiply(v, 1.0 / (1.0 - beta2**step), out=b)  # v̂
    np.sqrt(b, out=b)
    b += epsilon
    np.multiply(m, lr / (1.0 - beta1**step), out=a)  # lr·m̂
    a /= b
    param -= a


# --- SGD with momentum -----------------------------------------------------------------------------------------------


def momentum_update(
    param: Array, grad: Array, m: Array, lr: float, momentum: float, scratch: Array | None = None
) -> None:
    """One step of gradient descent with momentum in place. Shapes: param, grad, m and scratch (P,).

    m ← momentum·m − lr·g,  param ← param + m

    ``m`` is the last step, of which a share is taken again: it starts at 0 and grows to lr/(1 − momentum) times a steady
    gradient. Source: Polyak 1964, in the form of Sutskever et al. 2013, equations 1 and 2.
    """
    a = np.multiply(grad, lr, out=scratch)
    m *= momentum
    m -= a
    param += m


def _deliver(value: Array, out: Array | None) -> Array:
    """Copies ``value`` into ``out`` where one was given: for the (N, 1) operations, too small for speed to matter."""
    if out is None:
        return value
    out[...] = value
    return out
