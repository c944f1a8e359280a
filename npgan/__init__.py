"""npgan: the vanilla GAN of the Flux.jl MNIST tutorial in NumPy and CuPy, every backward pass written by hand.

Read ``npgan.gan``, then ``npgan.nn``. The names below are the public API.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Type checkers and editors read this. At run time each name is imported, from where it is said here, when it is first used:
# ``npgan train --help`` does not wait for NumPy.
if TYPE_CHECKING:
    from npgan.backend import Backend as Backend
    from npgan.backend import select as select
    from npgan.config import TrainConfig as TrainConfig
    from npgan.data.mnist import load_dataset as load_dataset
    from npgan.engines.base import ReferenceEngine as ReferenceEngine
    from npgan.errors import InputError as InputError
    from npgan.gan import TrainState as TrainState
    from npgan.gan import discriminator as discriminator
    from npgan.gan import generator as generator
    from npgan.gan import new_state as new_state
    from npgan.gan import train_step as train_step
    from npgan.gradcheck import check_gradients as check_gradients
    from npgan.nn.layers import Dense as Dense
    from npgan.nn.layers import Dropout as Dropout
    from npgan.nn.layers import DropoutKey as DropoutKey
    from npgan.nn.layers import Layer as Layer
    from npgan.nn.layers import LeakyReLU as LeakyReLU
    from npgan.nn.layers import Maxout as Maxout
    from npgan.nn.layers import ReLU as ReLU
    from npgan.nn.layers import Sigmoid as Sigmoid
    from npgan.nn.layers import Softmax as Softmax
    from npgan.nn.layers import Tanh as Tanh
    from npgan.nn.losses import BinaryCrossEntropy as BinaryCrossEntropy
    from npgan.nn.losses import BinaryCrossEntropyWithLogits as BinaryCrossEntropyWithLogits
    from npgan.nn.losses import Loss as Loss
    from npgan.nn.losses import MeanSquaredError as MeanSquaredError
    from npgan.nn.losses import Relativistic as Relativistic
    from npgan.nn.losses import SoftmaxCrossEntropy as SoftmaxCrossEntropy
    from npgan.nn.network import Sequential as Sequential
    from npgan.nn.optim import Adam as Adam
    from npgan.runs.pictures import save_grid as save_grid
    from npgan.saved import load as load

_LINES = ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
_HOMES = {
    name.name: line.module
    for line in _LINES
    if isinstance(line, ast.ImportFrom) and line.module is not None and line.module.startswith("npgan.")
    for name in line.names
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'npgan' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
