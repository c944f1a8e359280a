"""npgan: the vanilla GAN of the Flux.jl MNIST tutorial in NumPy and CuPy, every backward pass written by hand.

Read ``npgan.gan``, then ``npgan.nn``. The names below are the public API; each is imported
when it is first used, so ``npgan train --help`` does not wait for NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Adam": "nn.optim",
    "Backend": "backend",
    "BinaryCrossEntropy": "nn.losses",
    "BinaryCrossEntropyWithLogits": "nn.losses",
    "Dense": "nn.layers",
    "Dropout": "nn.layers",
    "DropoutKey": "nn.layers",
    "InputError": "errors",
    "Layer": "nn.layers",
    "LeakyReLU": "nn.layers",
    "Loss": "nn.losses",
    "Maxout": "nn.layers",
    "MeanSquaredError": "nn.losses",
    "ReLU": "nn.layers",
    "ReferenceEngine": "engines.base",
    "Sequential": "nn.network",
    "Sigmoid": "nn.layers",
    "Softmax": "nn.layers",
    "SoftmaxCrossEntropy": "nn.losses",
    "Tanh": "nn.layers",
    "TrainConfig": "config",
    "TrainState": "gan",
    "check_gradients": "gradcheck",
    "discriminator": "gan",
    "generator": "gan",
    "load": "saved",
    "load_dataset": "data.mnist",
    "new_state": "gan",
    "save_grid": "runs.pictures",
    "select": "backend",
    "train_step": "gan",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'npgan' has no attribute {name!r}")
    return getattr(import_module(f"npgan.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
