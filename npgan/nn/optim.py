"""Adam: its settings, and its state over one flat parameter vector."""

from __future__ import annotations

import numpy as np

from npgan.backend import Array
from npgan.nn.layers import Layer


class Adam:
    """Adaptive moment estimation (Kingma and Ba 2015, algorithm 1), with ε outside the root.

    Shapes: m and v (P,), both starting at 0. ``step`` counts the updates done: it is t of the paper.
    """

    def __init__(
        self, net: Layer | Array, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        """For a network, or for any vector of parameters (P,). The defaults are the paper's.

        Raises ValueError for rates that cannot be meant.
        """
        if not (0.0 < lr < np.inf and 0.0 <= beta1 < 1.0 and 0.0 <= beta2 < 1.0 and 0.0 < epsilon < np.inf):
            raise ValueError(f"Adam: wanted lr > 0, 0 ≤ β₁, β₂ < 1 and ε > 0, got {lr}, {beta1}, {beta2}, {epsilon}")
        parameters = getattr(net, "parameters", net)
        if getattr(getattr(parameters, "dtype", None), "kind", "") not in ("f", "c"):
            raise ValueError(f"Adam: wanted a network or a vector of floats, got {net!r}")
        self.lr, self.beta1, self.beta2, self.epsilon = lr, beta1, beta2, epsilon
        self.m, self.v, self.step = np.zeros_like(parameters), np.zeros_like(parameters), 0

    def update(self, parameters: Array, gradients: Array) -> None:
        """One step in place. Shapes: parameters and gradients g (P,).

        m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  parameters ← parameters − lr·m̂/(√v̂ + ε)
        """
        if parameters.shape != self.m.shape or gradients.shape != self.m.shape:
            got = f"{parameters.shape} and {gradients.shape}"
            raise ValueError(f"Adam: wanted parameters and gradients of shape {self.m.shape}, got {got}")
        self.step += 1
        self.m *= self.beta1
        self.m += (1.0 - self.beta1) * gradients
        self.v *= self.beta2
        self.v += (1.0 - self.beta2) * gradients**2
        parameters -= self.lr * self.m_hat() / (np.sqrt(self.v_hat()) + self.epsilon)

    def m_hat(self) -> Array:
        """m̂ = m/(1 − β₁ᵗ). m starts at 0 and so leans towards it; this takes the bias away."""
        return self.m / (1.0 - self.beta1**self.step)

    def v_hat(self) -> Array:
        """v̂ = v/(1 − β₂ᵗ), likewise."""
        return self.v / (1.0 - self.beta2**self.step)
