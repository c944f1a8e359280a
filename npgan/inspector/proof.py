"""The proof beside every number: the gradient checker's verdict on each operation, and on this very step's gradients."""

from __future__ import annotations

from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from npgan import backend
from npgan.gan import LATENT_G, noise
from npgan.gradcheck import COMPLEX, Result
from npgan.gradcheck.methods import Bound, along_direction, random_direction
from npgan.gradcheck.steps import StepLosses
from npgan.gradcheck.suite import LEVELS, run_levels
from npgan.inspector.trace import StepTrace

METHOD = (
    "How this is known: each operation's backward is compared with the complex step in float64, element by element; this "
    "step's own gradients, in training's float32, with the complex step of the whole loss along a direction that "
    "moves every element."
)
FLOAT32_TOLERANCE = 1e-3  # of a directional derivative of float32 gradients; a wrong formula is off by 10⁻¹ or more
LEAST = 1e-4  # the share of its network's gradient from which on a tensor's own is held to that


class Verdict(NamedTuple):
    """``error``: the worst relative error found. ``text``: one line on what was compared with what."""

    passed: bool
    error: float
    text: str


def prove(trace: StepTrace) -> dict[str, Verdict]:
    """Verdicts by the name of an operation ("nn.ops.dense_backward_dx") and of a gradient ("D.0.weight", "samples")."""
    return operation_verdicts() | step_verdicts(trace)


def operation_verdicts() -> dict[str, Verdict]:
    """The gradient checks of every function in ``ops`` and of Adam: all elements of small float64 arrays."""
    levels = islice(run_levels(0, backend.select("numpy"), real=False), LEVELS.index("Adam") + 1)
    results: dict[str, list[Result]] = {}
    for result in chain.from_iterable(levels):
        if result.op.startswith(("nn.ops.", "nn.optim.")):
            results.setdefault(result.op, []).append(result)
    return {op: _summary(of_op) for op, of_op in results.items()}


def _summary(results: list[Result]) -> Verdict:
    exact = [result for result in results if result.method == COMPLEX] or results
    worst = max(result.error for result in exact)
    compared = sum(result.elements + result.directions for result in results)
    return Verdict(all(r.passed for r in results), worst, f"{compared:,} comparisons")


def step_verdicts(trace: StepTrace) -> dict[str, Verdict]:
    """This step's gradients, as training computed them, against derivatives of the whole loss in complex128.

    Every gradient tensor is compared along one random direction that moves all of its elements.
    """
    config, before = trace.config, trace.before
    losses = StepLosses(config, before.step, trace.images.astype(np.float64))
    d, g = (net.astype(np.complex128) for net in (before.discriminator, before.generator))
    updated_d = trace.after.discriminator.astype(np.float64)
    latent = noise(before, config, LATENT_G, len(trace.samples)).astype(np.float64)
    samples = trace.samples.astype(np.complex128)
    rng = np.random.default_rng(0)
    verdicts = _directions("D", trace.gradients, Bound(d.tensors, lambda: losses.of_d(d)), rng)
    through_d = Bound(g.tensors, lambda: losses.of_g(g, latent, updated_d))
    verdicts |= _directions("G", trace.gradients, through_d, rng)
    pixels = Bound({"samples": samples}, lambda: losses.of_fakes(samples, updated_d))
    return verdicts | _directions("", {"samples": trace.dsamples}, pixels, rng)


def _directions(
    net: str, gradients: dict[str, np.ndarray], bound: Bound, rng: np.random.Generator
) -> dict[str, Verdict]:
    verdicts = {}
    # below that a tensor's gradient is rounding: with pairs D's last bias falls out of every difference of logits
    least = LEAST * sum(float(np.sum(gradients[f"{net}.{name}" if net else name] ** 2)) for name in bound.work) ** 0.5
    for name, tensor in bound.work.items():
        full_name = f"{net}.{name}" if net else name
        gradient = gradients[full_name].astype(np.float64)
        direction = random_direction({name: tensor.shape}, rng)
        terms = gradient * direction[name]
        expected, got = along_direction(COMPLEX, bound, direction).value, float(terms.sum())
        scale = max(abs(got), abs(expected), float(np.sqrt(np.sum(terms * terms))), least)
        error = abs(got - expected) / scale if scale else 0.0
        text = f"{tensor.size:,} element{'s' * (tensor.size != 1)} at once"
        verdicts[full_name] = Verdict(error <= FLOAT32_TOLERANCE, error, text)
    return verdicts
