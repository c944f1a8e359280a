"""The proof beside every number: the gradient checker's verdict on each operation, and on this very step's gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npgan import backend
from npgan.gan import PASS_D, PASS_G, draw_latent, loss_of
from npgan.gradcheck import COMPLEX, Result
from npgan.gradcheck.methods import Bound, along_direction, random_direction
from npgan.gradcheck.suite import run_levels
from npgan.inspector.trace import StepTrace, copied_network
from npgan.nn.layers import DropoutKey, LeakyReLU, Maxout, ReLU
from npgan.nn.network import Sequential

METHOD = (
    "How this is known: each operation's backward is compared with the complex step in float64, element by element; this "
    "step's own gradients, in training's float32, with the complex step of the whole loss along a direction that "
    "moves every element."
)
FLOAT32_TOLERANCE = 1e-3  # of a directional derivative of float32 gradients; a wrong formula is off by 10⁻¹ or more


class Verdict(NamedTuple):
    """``error``: the worst relative error found. ``text``: one line on what was compared with what."""

    passed: bool
    error: float
    text: str


def prove(trace: StepTrace) -> dict[str, Verdict]:
    """Verdicts by the name of an operation ("ops.dense_backward_dx") and of a gradient ("D.0.weight", "samples")."""
    return operation_verdicts() | step_verdicts(trace)


def operation_verdicts() -> dict[str, Verdict]:
    """The gradient checks of every function in ``ops``: all elements of small float64 arrays."""
    results = next(run_levels(0, backend.select("numpy"), real=False))
    return {op: _summary([result for result in results if result.op == op]) for op in {result.op for result in results}}


def _summary(results: list[Result]) -> Verdict:
    exact = [result for result in results if result.method == COMPLEX] or results
    worst = max(result.error for result in exact)
    compared = sum(result.elements + result.directions for result in results)
    return Verdict(all(r.passed for r in results), worst, f"{compared} comparisons")


def step_verdicts(trace: StepTrace) -> dict[str, Verdict]:
    """This step's gradients, as training computed them, against derivatives of the whole loss in complex128.

    Every gradient tensor is compared along one random direction that moves all of its elements.
    """
    config = trace.config
    loss = loss_of(config)
    b = len(trace.images) // 2
    target = np.zeros((2 * b, 1))
    target[:b] = 1.0 - config.label_smoothing
    d = copied_network(trace.before.discriminator, np.complex128)
    key = DropoutKey(config.seed, trace.before.step, PASS_D)
    images = trace.images.astype(np.float64)

    def loss_d() -> tuple[np.ndarray, list[np.ndarray]]:
        output, kinks = _forward(d, images, key)
        return loss.forward(output, target), kinks

    g = copied_network(trace.middle.generator, np.complex128)
    frozen = copied_network(trace.middle.discriminator, np.float64)
    key_g = DropoutKey(config.seed, trace.before.step, PASS_G) if config.dropout_in_g_step else None
    latent = np.empty((b + config.batch_size, g.input_width), g.parameters.real.dtype)
    draw_latent(config, trace.before.step, latent, b)
    samples = trace.samples.astype(np.complex128)
    ones = np.ones((len(samples), 1))

    def loss_of_images(images: np.ndarray, kinks: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        output, d_kinks = _forward(frozen, images, key_g)
        return loss.forward(output, ones), [*kinks, *d_kinks]

    rng = np.random.default_rng(0)
    verdicts = _directions("D", trace.gradients, Bound(d.tensors, loss_d), rng)
    through_d = Bound(g.tensors, lambda: loss_of_images(*_forward(g, latent[b:], None)))
    verdicts |= _directions("G", trace.gradients, through_d, rng)
    pixels = Bound({"samples": samples}, lambda: loss_of_images(samples, []))
    return verdicts | _directions("", {"samples": trace.dsamples}, pixels, rng)


def _directions(net: str, gradients: dict[str, np.ndarray], bound: Bound, rng: np.random.Generator) -> dict[str, Verdict]:
    verdicts = {}
    for name, tensor in bound.work.items():
        full_name = f"{net}.{name}" if net else name
        gradient = gradients[full_name].astype(np.float64)
        direction = random_direction({name: tensor.shape}, rng)
        terms = gradient * direction[name]
        expected, got = along_direction(COMPLEX, bound, direction).value, float(terms.sum())
        scale = max(abs(got), abs(expected), float(np.sqrt(np.sum(terms * terms))))
        error = abs(got - expected) / scale if scale else 0.0
        text = f"{tensor.size:,} element{'s' * (tensor.size != 1)} at once"
        verdicts[full_name] = Verdict(error <= FLOAT32_TOLERANCE, error, text)
    return verdicts


def _forward(network: Sequential, x: np.ndarray, dropout: DropoutKey | None) -> tuple[np.ndarray, list[np.ndarray]]:
    """The output, and what the branches go by."""
    y, caches = network.forward(x, dropout)
    branching: tuple[type, ...] = (LeakyReLU, ReLU, Maxout)
    kinks = [cache.x for layer, cache in zip(network.layers, caches, strict=True) if isinstance(layer, branching)]
    return y, kinks
