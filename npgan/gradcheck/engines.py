"""Engines against the textbook: the schedule of fused kernels in float64, and fused kernels in the rounding of float32.

A float32 holds 24 bits, so each operation may err by half an ulp (2⁻²⁴ of its result), and a sum of K terms by about √K of
those, in whatever order it is added up. Fused kernels add in another order than NumPy: they cannot agree with it to the bit,
but must be as close to the float64 result as the textbook in float32 is. A wrong formula is off by thousands of ulp, or by
millions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import Array
from npgan.config import TrainConfig
from npgan.engines import Choice, Start
from npgan.engines.base import FusedEngine, ReferenceEngine
from npgan.engines.reference import ReferenceKernels
from npgan.gan import IMAGE_PIXELS, StepMetrics
from npgan.gradcheck.check import ULP, FormulaCheck
from npgan.gradcheck.networks import randomized, small_pair
from npgan.gradcheck.steps import ALL_OPTIONS, PENALTIES, state_of

TOLERANCE = 256 * ULP  # √784, the longest sum, is 28; several such sums follow one another

_WIDTHS = (8, 16, IMAGE_PIXELS), (IMAGE_PIXELS, 16, 8)  # multiples of 8, as fused dropout wants them
_STEP, _IMAGES = 3, 7  # the second batch of the second epoch, and shorter than a batch


def engine_checks(rng: np.random.Generator, xp: ModuleType, fused: Choice | None) -> Iterator[FormulaCheck]:
    """Three iterations in float64 by the schedule, one in float32 by the textbook and by the ``fused`` engine, if there is one.

    Compared are gradients, parameters, Adam's moments and the metrics.
    """
    # Adam's settings are such that rounding stays small: with an ε near 0 a step is lr·g/|g|, whatever the size of g, and
    # 1 − 0.999 is 107 ulp off where 0.999 is a float32.
    config = TrainConfig(batch_size=4, latent_dim=8, seed=int(rng.integers(2**32)))
    config = replace(config, lr_g=1e-3, lr_d=1e-3, beta2=0.9, adam_epsilon=1e-3)
    images = xp.asarray(rng.integers(0, 256, (_IMAGES, IMAGE_PIXELS)).astype(np.uint8))
    for case, changes in (("", {}), (", all options", ALL_OPTIONS), (", penalties", PENALTIES)):
        has = xp is np or changes is not PENALTIES  # on a GPU there are no kernels for them yet
        yield from _checks(case, replace(config, **changes), images, rng, xp, fused if has else None)


def _checks(
    case: str, config: TrainConfig, images: Array, rng: np.random.Generator, xp: ModuleType, fused: Choice | None
) -> Iterator[FormulaCheck]:
    pair = small_pair(xp, config.loss != "bce", *_WIDTHS)
    nets = [
        randomized(net.astype(np.float32), rng) for net in pair
    ]  # float32 and float64 then start from the same numbers

    def run(start: Start, dtype: Any, iterations: int) -> dict[str, Array]:
        g, d = (net.astype(dtype) for net in nets)
        state = state_of(config, g, d, _STEP)
        engine = start(state, images, config)
        metrics = engine.run(iterations)
        deque(engine.tensors(), 0)  # a table may compute gradients only for who looks
        found = dict(zip(StepMetrics._fields, xp.asarray(metrics[-1:].T), strict=True))
        for name, net, adam in (("D", d, state.optimizer_d), ("G", g, state.optimizer_g)):
            layers = groupby(net.gradient_tensors.items(), key=lambda item: item[0].partition(".")[0])
            for index, tensors in layers:  # weight and bias together: a bias alone may be a sum that all but cancels
                found[f"{name} layer {index}"] = xp.concatenate([gradient.reshape(-1) for _, gradient in tensors])
            found |= {f"{name}'s parameters": net.parameters, f"{name}'s m": adam.m, f"{name}'s v": adam.v}
        return found

    def check(name: str, op: str, start: Start, dtype: Any, iterations: int, tolerance: float) -> FormulaCheck:
        def prepare() -> dict[str, tuple[Array, Array]]:
            found, exact = run(start, dtype, iterations), run(ReferenceEngine, np.float64, iterations)
            return {tensor: (found[tensor], exact[tensor]) for tensor in exact}

        return FormulaCheck("engines", op, prepare, f"{name}{case}", tolerance)

    def schedule(*state: Any) -> FusedEngine:
        return FusedEngine(ReferenceKernels(np.float64, xp), *state)

    yield check("schedule", "engines.schedule.FusedStep.launch", schedule, np.float64, 3, 1e-12)
    yield check("reference float32", "gan.train_step", ReferenceEngine, np.float32, 1, TOLERANCE)
    if fused is not None:
        op = "engines.cpu.kernels.CpuKernels" if xp is np else "engines.cuda.kernels.CudaKernels"
        yield check(f"{fused.name} float32", op, fused.start, np.float32, 1, TOLERANCE)
