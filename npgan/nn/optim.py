"""Adam: its settings, and its state over one flat parameter vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from npgan.backend import Array


@dataclass
class Adam:
    """Adaptive moment estimation (Kingma and Ba 2015, algorithm 1), with ε outside the root.

    Shapes: m and v (P,), both starting at 0. ``step`` counts the updates done: it is t of the paper.
    """

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    m: Array
    v: Array
    step: int = 0

    @classmethod
    def for_parameters(cls, parameters: Array, lr: float, beta1: float, beta2: float, epsilon: float) -> Adam:
        """Adam before its first update. Shapes: parameters (P,)."""
        return cls(lr, beta1, beta2, epsilon, np.zeros_like(parameters), np.zeros_like(parameters))

    def update(self, parameters: Array, gradients: Array) -> None:
        """One step in place. Shapes: parameters and gradients g (P,).

        m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  parameters ← parameters − lr·m̂/(√v̂ + ε)
        """
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
