"""Everything that is checked, level by level: what a level uses was checked by the levels before it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np

from npgan.backend import Backend
from npgan.engines import REFERENCE, Kernels
from npgan.gradcheck.check import Check, FormulaCheck, Result, run_check
from npgan.gradcheck.fused import fused_checks
from npgan.gradcheck.maths import adam_op_checks, layer_checks, loss_checks, op_checks, optimiser_checks
from npgan.gradcheck.nets import network_checks, step_checks, train_step_checks

LEVELS = ("op", "layer", "loss", "network", "Adam", "step", "train_step", "kernels")


def run_levels(seed: int, backend: Backend, real: bool = True, kernels: Kernels = REFERENCE) -> Iterator[list[Result]]:
    """The results of one level after the other. ``real`` adds the tutorial's own networks to the small ones.

    Fused ``kernels`` are compared with the plain maths in the last level, which is empty for the reference kernels.
    """
    xp = backend.xp
    levels: dict[str, Callable[[np.random.Generator], Iterable[Check | FormulaCheck]]] = {
        "op": lambda rng: chain(op_checks(rng, xp), adam_op_checks(rng, xp)),
        "layer": lambda rng: layer_checks(rng, xp),
        "loss": lambda rng: loss_checks(rng, xp),
        "network": lambda rng: network_checks(rng, xp, real),
        "Adam": lambda rng: optimiser_checks(rng, xp),
        "step": lambda rng: step_checks(rng, xp),
        "train_step": lambda rng: train_step_checks(rng, xp, real),
        "kernels": lambda rng: fused_checks(rng, kernels) if kernels is not REFERENCE else (),
    }
    for level in LEVELS:
        # A generator for each level, so that a check added to one leaves the numbers of the others as they were.
        rng = np.random.default_rng([seed, zlib.crc32(level.encode())])
        yield [result for check in levels[level](rng) for result in run_check(check, rng)]
