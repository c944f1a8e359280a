"""npgan: the vanilla GAN of the Flux.jl MNIST tutorial in NumPy and CuPy, every backward pass written by hand.

Read ``npgan.gan``, then ``npgan.nn.network``, then ``npgan.nn.ops``. The names below are the public API; each is imported
when it is first used, so ``npgan train --help`` does not wait for NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Adam": "optim",
    "Backend": "backend",
    "BinaryCrossEntropy": "losses",
    "BinaryCrossEntropyWithLogits": "losses",
    "Dense": "layers",
    "Dropout": "layers",
    "InputError": "errors",
    "LeakyReLU": "layers",
    "Sequential": "networks",
    "Sigmoid": "layers",
    "Tanh": "layers",
    "TrainConfig": "config",
    "TrainState": "training",
    "discriminator": "networks",
    "generator": "networks",
    "load_dataset": "data",
    "new_state": "training",
    "train_step": "training",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'npgan' has no attribute {name!r}")
    return getattr(import_module(f"npgan.{_HOMES[name]}"), name)
