"""Adam: its settings, and its state over one flat parameter vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from npgan import ops

Array = Any  # numpy.ndarray or cupy.ndarray

_BLOCK = 1 << 15  # five vectors of 2¹⁵ float32 are 640 KB and stay in the L2 cache: half the time of whole vectors


@dataclass
class Adam:
    """Adam's state for one network. Shapes: m and v (P,), both starting at 0; ``step`` counts the updates done."""

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    m: Array
    v: Array
    step: int = 0

    @classmethod
    def for_parameters(cls, parameters: Array, lr: float, beta1: float, beta2: float, epsilon: float) -> Adam:
        return cls(lr, beta1, beta2, epsilon, np.zeros_like(parameters), np.zeros_like(parameters))

    def update(self, parameters: Array, gradients: Array) -> None:
        """One step in place. Shapes: parameters and gradients (P,)."""
        self.step += 1
        block = _BLOCK if isinstance(parameters, np.ndarray) else parameters.size
        scratch = (np.empty_like(parameters[:block]), np.empty_like(parameters[:block]))
        for start in range(0, parameters.size, block):
            part = slice(start, min(start + block, parameters.size))
            ops.adam_update(
                parameters[part],
                gradients[part],
                self.m[part],
                self.v[part],
                self.step,
                self.lr,
                self.beta1,
                self.beta2,
                self.epsilon,
                (scratch[0][: part.stop - part.start], scratch[1][: part.stop - part.start]),
            )
