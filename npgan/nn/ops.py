"""All the maths of npgan: every ``X_forward`` directly above its ``X_backward``.

Letters: N rows of a batch, I inputs and O outputs of a layer, P parameters of a network, K classes. For losses p is a
probability, z a logit (what a sigmoid or softmax is taken of), t the target.
``dname`` is ∂L/∂name and has the shape of ``name``; ``dy`` is what the next operation's backward handed down.
Every weight is (I, O), so a layer reads ``x @ weight + bias``.

- A forward returns its result; what its backward needs is handed back explicitly, nothing is hidden.
- A backward returns its gradients and never adds to what was there.
- Everything is generic over float32 (training), float64 and complex128 (gradient checks: a complex step x + ih must pass
  through unharmed, so branches look at real parts and transposes never conjugate).
- The code says ``np`` and runs on CuPy too: NumPy hands each call to the array's own library (NEP 13 and NEP 18).
"""

from __future__ import annotations

import numpy as np

from npgan.backend import Array

BCE_EPSILON = 1.1920929e-07  # float32's machine epsilon, the tutorial's guard against log 0


def dense_forward(x: Array, weight: Array, bias: Array) -> Array:
    """y = x·W + b. Shapes: x (N, I), weight (I, O), bias (O,) → y (N, O)."""
    return x @ weight + bias


def dense_backward_dx(dy: Array, weight: Array) -> Array:
    """dx = dy·Wᵀ. Shapes: dy (N, O), weight (I, O) → dx (N, I).

    y_no = Σ_i x_ni·W_io + b_o, so ∂L/∂x_ni = Σ_o dy_no·W_io.
    """
    return dy @ weight.T


def dense_backward_params(dy: Array, x: Array) -> tuple[Array, Array]:
    """dW = xᵀ·dy and db = Σ_n dy_n. Shapes: dy (N, O), x (N, I) → dweight (I, O), dbias (O,).

    W_io meets every row: ∂L/∂W_io = Σ_n x_ni·dy_no. b_o is added to every row: ∂L/∂b_o = Σ_n dy_no.
    """
    return x.T @ dy, dy.sum(axis=0)


def dense_double_backward(u: Array, dy: Array, weight: Array) -> tuple[Array, Array]:
    """The derivative of ``dense_backward_dx``: u·W and uᵀ·dy. Shapes: u (N, I), dy (N, O) → ddy (N, O), dweight (I, O).

    P depends on dx and u = ∂P/∂dx. With dx_ni = Σ_o dy_no·W_io: ∂P/∂dy_no = Σ_i u_ni·W_io, a forward without the bias,
    and ∂P/∂W_io = Σ_n u_ni·dy_no. The bias is not in dx, so it has no part in P.
    """
    return u @ weight, u.T @ dy


def leaky_relu_forward(x: Array, slope: float) -> Array:
    """y = x where x > 0, else slope·x, for 0 ≤ slope < 1. Shapes: x (N, O) → y (N, O). Maas et al. 2013.

    The larger of x and slope·x is the one wanted on either side of 0; complex numbers compare by real part first.
    """
    return np.maximum(x, slope * x)


def leaky_relu_backward(dy: Array, x: Array, slope: float) -> Array:
    """dx = dy where x > 0, else slope·dy. Shapes: dy, x (N, O) → dx (N, O).

    The slope of a piecewise linear function is that of the piece x lies on. At the kink x = 0 there is no derivative;
    the left one is taken, as in Flux and PyTorch.
    """
    return np.where(x.real > 0, dy, slope * dy)


def maxout_forward(x: Array, pieces: int) -> Array:
    """y_no = max_q x_n,q·O+o: the largest of ``pieces`` linear functions. Shapes: x (N, pieces·O) → y (N, O).

    Goodfellow et al. 2013. One piece's O numbers lie side by side, so the maximum runs over whole rows at a time.
    """
    return np.max(x.reshape(x.shape[0], pieces, -1), axis=1)


def maxout_backward(dy: Array, x: Array, pieces: int) -> Array:
    """dx = dy at the piece that was largest, else 0. Shapes: dy (N, O), x (N, pieces·O) → dx (N, pieces·O).

    Only the winner reaches y, with slope 1. Where two pieces tie there is no derivative, and the first one is taken.
    """
    winner = np.argmax(x.reshape(x.shape[0], pieces, -1), axis=1)
    return np.concatenate([dy * (winner == piece) for piece in range(pieces)], axis=1)


def dropout_forward(x: Array, mask: Array) -> Array:
    """y = x·mask, element by element. Shapes: x, mask (N, O) → y (N, O). Srivastava et al. 2014, inverted scaling.

    ``mask`` holds 0 with probability p and 1/(1 − p) otherwise (``layers.Dropout`` draws it), so E[y] = x and nothing
    needs rescaling when dropout is off.
    """
    return x * mask


def dropout_backward(dy: Array, mask: Array) -> Array:
    """dx = dy·mask, with the forward's own mask. Shapes: dy, mask (N, O) → dx (N, O).

    y_no = mask_no·x_no and the mask does not depend on x, so ∂y_no/∂x_no = mask_no.
    """
    return dy * mask


def sigmoid_forward(x: Array) -> Array:
    """y = 1/(1 + e⁻ˣ). Shapes: x (N, O) → y (N, O).

    With e = e^−|x|, which cannot overflow: y = 1/(1 + e) for x > 0, else e/(1 + e). |·| goes by the real part.
    """
    positive = x.real > 0
    e = np.exp(np.where(positive, -x, x))
    return np.where(positive, 1.0, e) / (1.0 + e)


def sigmoid_backward(dy: Array, y: Array) -> Array:
    """dx = dy·y·(1 − y), from the forward's result. Shapes: dy, y (N, O) → dx (N, O).

    y = (1 + e⁻ˣ)⁻¹, so dy/dx = e⁻ˣ·(1 + e⁻ˣ)⁻² = y·(1 − y).
    """
    return dy * y * (1.0 - y)


def tanh_forward(x: Array) -> Array:
    """y = tanh x. Shapes: x (N, O) → y (N, O)."""
    return np.tanh(x)


def tanh_backward(dy: Array, y: Array) -> Array:
    """dx = dy·(1 − y²), from the forward's result. Shapes: dy, y (N, O) → dx (N, O).

    tanh = sinh/cosh, so by the quotient rule its derivative is (cosh² − sinh²)/cosh² = 1 − tanh².
    """
    return dy * (1.0 - y * y)


def binary_cross_entropy_forward(p: Array, target: Array, epsilon: float = BCE_EPSILON) -> Array:
    """L = mean_n of −t·log(p + ε) − (1 − t)·log(1 − p + ε). Shapes: p, target (N, 1) → L ().

    ε keeps the loss finite where a sigmoid has rounded to 0 or 1: at most −log ε ≈ 15.9. As Flux 0.12 defines it.
    """
    return -np.mean(target * np.log(p + epsilon) + (1.0 - target) * np.log(1.0 - p + epsilon))


def binary_cross_entropy_backward(p: Array, target: Array, epsilon: float = BCE_EPSILON) -> Array:
    """dp = ((1 − t)/(1 − p + ε) − t/(p + ε)) / N. Shapes: p, target (N, 1) → dp (N, 1).

    Each logarithm differentiates to one over its argument; the mean over N rows gives the 1/N.
    """
    return ((1.0 - target) / (1.0 - p + epsilon) - target / (p + epsilon)) / p.shape[0]


def binary_cross_entropy_with_logits_forward(z: Array, target: Array) -> Array:
    """L = mean_n of max(z, 0) − t·z + log(1 + e^−|z|). Shapes: z, target (N, 1) → L ().

    This is the loss above for p = σ(z) and ε = 0, rearranged so that nothing overflows and nothing needs an ε:
    −t·log σ(z) − (1 − t)·log σ(−z) = log(1 + e⁻ᶻ) + (1 − t)·z. |·| and max go by the real part.
    """
    positive = z.real > 0
    softplus_of_minus_abs = np.log1p(np.exp(np.where(positive, -z, z)))
    return np.mean(np.where(positive, z, 0.0) - target * z + softplus_of_minus_abs)


def binary_cross_entropy_with_logits_backward(z: Array, target: Array) -> Array:
    """dz = (σ(z) − t) / N. Shapes: z, target (N, 1) → dz (N, 1).

    d/dz log(1 + e⁻ᶻ) = −σ(−z) = σ(z) − 1, plus (1 − t). Where the loss on probabilities meets its ε the two differ: with
    t = 1 and z → −∞ this gradient goes to −1/N, while dp·p·(1 − p) above goes to 0 as p falls below ε and learning stops.
    """
    return (sigmoid_forward(z) - target) / z.shape[0]


def relativistic_forward(z: Array, target: Array) -> Array:
    """The loss above, of the logits z_n − z_b+n of b pairs. Shapes: z, target (2b, 1) → L (). Jolicoeur-Martineau 2019.

    Rows n and b + n are a pair, one real and one fake (RpGAN, Huang et al. 2024). Their difference is the logit that the
    first is the more real one, so what all logits have in common is nothing to the loss.
    """
    first, second = np.split(z, 2)
    return binary_cross_entropy_with_logits_forward(first - second, target[: len(first)])


def relativistic_backward(z: Array, target: Array) -> Array:
    """dz = (dd, −dd) with dd_n = (σ(z_n − z_b+n) − t_n)/b. Shapes: z, target (2b, 1) → dz (2b, 1).

    The difference has slope 1 in the first logit of its pair and −1 in the second.
    """
    first, second = np.split(z, 2)
    dd = binary_cross_entropy_with_logits_backward(first - second, target[: len(first)])
    return np.concatenate([dd, -dd])


def relativistic_probability(z: Array) -> Array:
    """Of each row, that it is the more real one of its pair: σ(z_n − the other's z). Shapes: z (2b, 1) → (2b, 1)."""
    return sigmoid_forward(z - np.roll(z, len(z) // 2, axis=0))


def mean_squared_error_forward(y: Array, target: Array) -> Array:
    """L = mean over all elements of (y − t)². Shapes: y, target (N, O) → L ()."""
    return np.mean((y - target) ** 2)


def mean_squared_error_backward(y: Array, target: Array) -> Array:
    """dy = 2·(y − t) / (N·O). Shapes: y, target (N, O) → dy (N, O).

    The square's derivative is 2·(y − t); the mean over N·O elements gives the rest.
    """
    return 2.0 * (y - target) / y.size


def softmax_forward(x: Array) -> Array:
    """y_nk = e^x_nk / Σ_j e^x_nj. Shapes: x (N, K) → y (N, K). The row's largest x is taken off first: e^0 is the largest."""
    e = np.exp(x - x.real.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_backward(dy: Array, y: Array) -> Array:
    """dx_nk = y_nk·(dy_nk − Σ_j dy_nj·y_nj), from the forward's result. Shapes: dy, y (N, K) → dx (N, K).

    ∂y_j/∂x_k = y_j·([j = k] − y_k): every output depends on every input of its row, not on its own alone.
    """
    return y * (dy - np.sum(dy * y, axis=1, keepdims=True))


def softmax_cross_entropy_forward(z: Array, label: Array) -> Array:
    """L = mean_n of log Σ_k e^z_nk − z_n,label_n. Shapes: z (N, K), label (N,) integers below K → L ().

    This is −log softmax(z) at the label, with the logarithm taken before anything can round to 0.
    """
    shifted = z - z.real.max(axis=1, keepdims=True)
    at_label = np.take_along_axis(shifted, label[:, None], axis=1)[:, 0]
    return np.mean(np.log(np.exp(shifted).sum(axis=1)) - at_label)


def softmax_cross_entropy_backward(z: Array, label: Array) -> Array:
    """dz = (softmax(z) − [k = label_n]) / N. Shapes: z (N, K), label (N,) → dz (N, K).

    d/dz_k log Σ_j e^z_j = e^z_k / Σ_j e^z_j = softmax(z)_k; the label's own z is subtracted once.
    """
    classes = np.arange(z.shape[1], dtype=label.dtype, like=label)
    return (softmax_forward(z) - (classes == label[:, None])) / z.shape[0]
