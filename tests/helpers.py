"""What several test files call."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from npgan import gan
from npgan.config import TrainConfig
from npgan.engines import Choice
from npgan.engines.base import Engine, Tensor
from npgan.gan import TrainState
from npgan.nn.layers import Dense, Dropout, Layer, LeakyReLU, Sigmoid, Tanh
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam


@contextmanager
def roomy_folder() -> Iterator[Path]:
    """For runs, which have 35 MB a checkpoint. In memory where there is room: nothing depends on the kind of disk. pytest's own
    folders stay for three sessions, gigabytes."""
    memory = Path("/dev/shm")
    room = memory.is_dir() and shutil.disk_usage(memory).free > 2e9
    with tempfile.TemporaryDirectory(dir=memory if room else None) as folder:
        yield Path(folder)


class _Watched:
    """An engine that does one iteration after the other, and something after some of them."""

    def __init__(self, engine: Engine, state: TrainState, after: dict[int, Callable[[TrainState], None]]) -> None:
        self.engine, self.state, self.after = engine, state, after

    def run(self, iterations: int) -> np.ndarray:
        parts = []
        for _ in range(iterations):
            parts.append(self.engine.run(1))
            self.after.get(self.state.step, lambda state: None)(self.state)
        return np.concatenate(parts)

    def tensors(self) -> Iterator[Tensor]:
        return self.engine.tensors()


def adam_at(m: Any, v: Any, step: int, *settings: float) -> Adam:
    """Adam in the middle of a training. ``settings``: lr, β₁, β₂, ε."""
    adam = Adam(m, *settings)
    adam.m, adam.v, adam.step = m, v, step
    return adam


def after_steps(choose: Callable[..., Choice], after: dict[int, Callable[[TrainState], None]]) -> Callable[..., Choice]:
    """``engines.choose``, but the engine calls ``after[step]`` with its state when so many iterations are done."""

    def chosen(*arguments: Any) -> Choice:
        choice = choose(*arguments)

        def start(state: TrainState, images: Any, config: TrainConfig) -> Engine:
            return _Watched(choice.start(state, images, config), state, after)

        return replace(choice, start=start)

    return chosen


def small_networks(widths: tuple[int, int, int]) -> dict[str, Callable[..., Sequential]]:
    """Stand-ins for ``gan.generator`` and ``gan.discriminator`` by name: the same layers, narrower."""
    a, b, c = widths

    def generator(
        config: TrainConfig = gan.DEFAULTS, dtype: Any = np.float32, xp: ModuleType = np, drawn: bool = True
    ) -> Sequential:
        slope = config.leaky_slope
        layers: list[Layer] = [Dense(config.latent_dim, a), LeakyReLU(slope), Dense(a, b), LeakyReLU(slope)]
        return Sequential(
            [*layers, Dense(b, c), LeakyReLU(slope), Dense(c, 784), Tanh()], dtype, xp, config.seed if drawn else None
        )

    def discriminator(
        config: TrainConfig = gan.DEFAULTS, dtype: Any = np.float32, xp: ModuleType = np, drawn: bool = True
    ) -> Sequential:
        layers: list[Layer] = []
        for width, hidden in ((784, c), (c, b), (b, a)):
            layers += [Dense(width, hidden), LeakyReLU(config.leaky_slope), Dropout(config.dropout)]
        layers += [Dense(a, 1)] if config.loss != "bce" else [Dense(a, 1), Sigmoid()]
        return Sequential(layers, dtype, xp, config.seed if drawn else None, gan.DISCRIMINATOR_SITE)

    return {"generator": generator, "discriminator": discriminator}
