"""Everything that is checked, level by level: what a level uses was checked by the levels before it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from npgan.backend import Backend
from npgan.engines import Choice
from npgan.gradcheck.adam import adam_checks
from npgan.gradcheck.check import Check, FormulaCheck, Result, run_check
from npgan.gradcheck.engines import engine_checks
from npgan.gradcheck.maths import double_backward_checks, layer_checks, loss_checks, op_checks, penalty_checks
from npgan.gradcheck.networks import network_checks
from npgan.gradcheck.steps import train_step_checks

Run = Callable[[Check | FormulaCheck, np.random.Generator], list[Result]]
LEVELS = ("op", "layer", "loss", "network", "double backward", "penalty", "Adam", "train_step", "engines")


def run_levels(
    seed: int, backend: Backend, real: bool = True, fused: Choice | None = None, run: Run = run_check
) -> Iterator[list[Result]]:
    """The results of one level after the other. ``real`` adds the tutorial's own networks to the small ones.

    The last level compares the ``fused`` engine too, where there is one. ``run`` runs each check.
    """
    xp = backend.xp
    for level in LEVELS:
        # A generator for each level, so that a check added to one leaves the numbers of the others as they were.
        rng = np.random.default_rng([seed, zlib.crc32(level.encode())])
        checks: dict[str, Iterable[Check | FormulaCheck]] = {
            "op": op_checks(rng, xp),
            "layer": layer_checks(rng, xp),
            "loss": loss_checks(rng, xp),
            "network": network_checks(rng, xp, real),
            "double backward": double_backward_checks(rng, xp),
            "penalty": penalty_checks(rng, xp),
            "Adam": adam_checks(rng, xp),
            "train_step": train_step_checks(rng, xp, real),
            "engines": engine_checks(rng, xp, fused),
        }
        yield [result for check in checks[level] for result in run(check, rng)]
