"""The optimisers: their settings, and their state over one flat parameter vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from npgan.nn import ops
from npgan.config import TrainConfig
from npgan.engines import REFERENCE, Kernels

Array = Any  # numpy.ndarray or cupy.ndarray


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
    kernels: Kernels = REFERENCE

    @classmethod
    def for_parameters(
        cls,
        parameters: Array,
        lr: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        kernels: Kernels = REFERENCE,
    ) -> Adam:
        m, v = np.zeros_like(parameters), np.zeros_like(parameters)
        return cls(lr, beta1, beta2, epsilon, m, v, kernels=kernels)

    def update(self, parameters: Array, gradients: Array) -> Array:
        """One step in place. Returns the gradients' Euclidean norm (). Shapes: parameters and gradients (P,)."""
        self.step += 1
        settings = (self.lr, self.beta1, self.beta2, self.epsilon)
        return self.kernels.chains.adam_update(parameters, gradients, self.m, self.v, self.step, *settings)

    def tensors(self) -> dict[str, Array]:
        """The state besides ``step``, by name, for a checkpoint."""
        return {"adam.m": self.m, "adam.v": self.v}


@dataclass
class Momentum:
    """The state of SGD with momentum for one network. Shapes: m, the last step, and scratch (P,)."""

    lr: float
    decay: float  # lr is divided by it after every update
    momentum: float
    momentum_final: float
    momentum_steps: int  # updates on the way from the one to the other
    m: Array
    scratch: Array
    step: int = 0

    def update(self, parameters: Array, gradients: Array) -> Array:
        """One step in place. Returns the gradients' Euclidean norm (). Shapes: parameters and gradients (P,)."""
        part = min(1.0, self.step / self.momentum_steps)
        momentum = self.momentum + part * (self.momentum_final - self.momentum)
        ops.momentum_update(parameters, gradients, self.m, self.lr / self.decay**self.step, momentum, self.scratch)
        self.step += 1
        return np.sqrt(np.dot(gradients, gradients))

    def tensors(self) -> dict[str, Array]:
        """The state besides ``step``, by name, for a checkpoint."""
        return {"sgd.m": self.m}


Optimiser = Adam | Momentum


def optimiser_for(config: TrainConfig, parameters: Array, lr: float, kernels: Kernels = REFERENCE) -> Optimiser:
    """The optimiser of ``config`` before its first update. Shapes: parameters (P,)."""
    if config.optimiser == "adam":
        return Adam.for_parameters(parameters, lr, config.beta1, config.beta2, config.adam_epsilon, kernels)
    m, scratch = np.zeros_like(parameters), np.empty_like(parameters)
    return Momentum(lr, config.lr_decay, config.momentum, config.momentum_final, config.momentum_steps, m, scratch)
