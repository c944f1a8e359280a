"""What several test files call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from npgan.config import TrainConfig
from npgan.engines import Choice
from npgan.engines.base import Engine, Tensor
from npgan.gan import TrainState


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


def after_steps(choose: Callable[..., Choice], after: dict[int, Callable[[TrainState], None]]) -> Callable[..., Choice]:
    """``engines.choose``, but the engine calls ``after[step]`` with its state when so many iterations are done."""

    def chosen(*arguments: Any) -> Choice:
        choice = choose(*arguments)

        def start(state: TrainState, images: Any, config: TrainConfig) -> Engine:
            return _Watched(choice.start(state, images, config), state, after)

        return replace(choice, start=start)

    return chosen
