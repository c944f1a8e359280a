"""Training that goes wrong: which tensor stopped being finite first, and the signs that a GAN has collapsed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from npgan.backend import Array, array_module, to_numpy
from npgan.config import TrainConfig
from npgan.engines.base import Tensor
from npgan.gan import StepMetrics, TrainState
from npgan.nn.ops import BCE_EPSILON

# In all iterations of living runs of the tutorial's recipe G's gradient stays above 0.9; where it dies, at the ceiling of its
# loss, it falls below this within ten iterations and stays there.
DEAD, DEAD_ITERATIONS = 1e-2, 100
CEILING = -math.log(BCE_EPSILON)

# A sign must last: on MNIST with the tutorial's settings D tells real from fake to 99.8 % in epoch 2 and recovers by itself.
LASTING_EPOCHS, LASTING_STEPS = 10, 4000
SURE = 0.98  # from here on D is as good as certain
MNIST_IMAGES = 60_000
LEADING_EPOCHS = 10  # of D, with the tutorial's settings on MNIST
ALIKE = 0.1  # the samples' spread over the real images': about 0.9 in a healthy run


class TrainingDiverged(RuntimeError):
    """A loss or a gradient is no longer a finite number."""


def first_non_finite(tensors: Iterable[Tensor]) -> tuple[str, str] | None:
    """Net and name of the first tensor that is not finite, None where all are."""
    return next(((net, name) for net, name, array in tensors if not _finite(array)), None)


def first_dead(tensors: Iterable[Tensor]) -> tuple[str, str] | None:
    """Net and name of the first gradient that has died on the G step's way from its loss to the noise, None where none has.

    ``tensors``: of ``ReferenceEngine``. A gradient in activations (N, I) counts by the root mean square over its rows of
    N·‖∂L/∂x_n‖: L is a mean, so that is the size of a row's own gradient, 1 in D's logit where D is sure and wrong.
    """
    for net, name, array in tensors:
        gradient = name.startswith("gradient of the input") and (net == "generator" or name.endswith(" (G step)"))
        of_g = net == "generator" and name.startswith("gradient of ")
        if gradient or of_g:
            size = float(np.linalg.norm(np.asarray(to_numpy(array), dtype=np.float64)))
            if size * (len(array) ** 0.5 if gradient else 1.0) < DEAD:
                return net, name
    return None


def diagnosis(
    state: TrainState, config: TrainConfig, first: tuple[str, str], recent: Sequence[tuple[int, list[float]]]
) -> dict[str, Any]:
    """What is known, for JSON: the tensor, the last iterations' metrics, every parameter and gradient in three numbers."""
    return {
        "step": state.step,
        "net": first[0],
        "tensor": first[1],
        "config": config.to_dict(),
        "recent": [
            {"step": step, **{name: _text(value) for name, value in zip(StepMetrics._fields, values, strict=True)}}
            for step, values in recent
        ],
        "tensors_after_the_update": {
            f"{net}.{name}{suffix}": _summary(array)
            for net, network in (("generator", state.generator), ("discriminator", state.discriminator))
            for suffix, tensors in (("", network.tensors), (".gradient", network.gradient_tensors))
            for name, array in tensors.items()
        },
    }


def what_is_normal(config: TrainConfig, images: int, epochs_done: int) -> str | None:
    """What the first epochs look like with the tutorial's settings on MNIST, for people who wait for the losses to fall.

    None with other settings or data, where it need not be so, and once these epochs are over.
    """
    tutorial = TrainConfig(
        epochs=config.epochs, output_period=config.output_period, seed=config.seed, eval_every=config.eval_every
    )
    if config != tutorial or images != MNIST_IMAGES or epochs_done >= LEADING_EPOCHS:
        return None
    # measured, seed 0: D(x) 0.96 1.00 0.98 0.94 0.90 0.92 0.91 … 0.89, G's loss 7.7 10.6 12.7 9.7 5.7 4.7 4.1 … 3.2
    return (
        f"D leads for the first {LEADING_EPOCHS} epochs: D(x) near 1, G's loss up to about 12 around epoch 3; "
        "then G catches up"
    )


class CollapseWatch:
    """Looks at each line of metrics.jsonl once, and remembers only for how many epochs each sign of a collapse has lasted."""

    def __init__(self, per_epoch: int, config: TrainConfig, parameters_g: int) -> None:
        """``per_epoch``: iterations. ``parameters_g``: how many G has."""
        self._long = max(LASTING_EPOCHS, -(-LASTING_STEPS // per_epoch))  # epochs
        # Below this norm the typical element of the gradient is smaller than Adam's ε, and its steps shrink to nothing.
        self._vanished = config.adam_epsilon * parameters_g**0.5
        self._lasted: dict[str, int] = {}
        self._config = config
        self._softer = _softer(config)
        self._dead_since: int | None = None  # the iteration

    def iterations(self, first: int, metrics: np.ndarray) -> dict[str, str]:
        """The sign that shows in the iterations themselves. ``first``: the number of ``metrics[0]`` (n, of StepMetrics)."""
        if self._config.loss != "bce":
            return {}
        for step, values in enumerate(map(StepMetrics._make, metrics.tolist()), first):
            dead = values.grad_norm_g < DEAD and values.loss_g > CEILING - 1.0
            self._dead_since = (self._dead_since or step) if dead else None
        if self._dead_since is None or first + len(metrics) - self._dead_since < DEAD_ITERATIONS:
            return {}
        again = f"npgan train --preset r3gan --seed {self._config.seed} --epochs {self._config.epochs}"
        return {
            "G is dead": f"G's gradient has died: from iteration {self._dead_since} on, or before, it is below {DEAD:g}. D "
            f"gives every fake a probability below ε = {BCE_EPSILON:.1e}, where the cross-entropy on probabilities is flat, at "
            f"−log ε = {CEILING:.1f}: nothing moves G any more, and D has nothing left to learn. Stop it with Ctrl-C; a run "
            f"that cannot die like this: {again}, with this run's other flags. Or try another --seed"
        }

    def epoch(self, line: dict[str, Any]) -> dict[str, str]:
        """A warning with what to try for each sign that has lasted long enough now."""
        signs = {
            "D wins": (
                line["d_real"] > SURE and line["d_fake"] < 1.0 - SURE,
                "D saturated: it is right about all images, real and fake, so G can hardly learn; "
                f"if the samples get no better try a lower --lr-d, {self._softer}",
            ),
            "D is fooled": (
                line["d_fake"] > SURE,
                "D takes every fake for real, so G learns nothing from it; try a higher --lr-d or a lower --lr-g",
            ),
            "D rejects all": (
                line["d_real"] < 1.0 - SURE,
                "D takes every real image for a fake: it is stuck; try a lower --lr-d",
            ),
            "G's gradient vanishes": (
                line["grad_norm_g"] < self._vanished,
                f"G's gradient has been below {self._vanished:.0e}: it no longer learns; "
                f"try a lower --lr-d, {self._softer}",
            ),
        }
        if self._dead_since is not None:  # which says it all
            signs = {sign: told for sign, told in signs.items() if sign not in ("D wins", "G's gradient vanishes")}
        self._lasted = {sign: self._lasted.get(sign, 0) + 1 for sign, (shown, _) in signs.items() if shown}
        lasting = [sign for sign, epochs in self._lasted.items() if epochs >= self._long]
        return {sign: f"for {self._long} epochs now {signs[sign][1]}" for sign in lasting}


def spread(images: Array) -> float:
    """How much images differ: the standard deviation of a pixel over the images, mean over the pixels. Shapes: (N, 784)."""
    return float(np.std(np.asarray(images, dtype=np.float64), axis=0).mean())


def _softer(config: TrainConfig) -> str:
    """What else makes it harder for D, of what goes with the loss."""
    others = {
        "bce": "--label-smoothing 0.1 or --loss bce-logits",
        "bce-logits": "--label-smoothing 0.1 or --r1 1",
        "relativistic": "or higher --r1 and --r2",
    }
    return others[config.loss]


def samples_alike(samples: Array, real_spread: float, step: int, config: TrainConfig) -> str | None:
    """A warning when the samples (N, 784) all look the same, measured by the real images' ``spread`` on the same scale."""
    if step < LASTING_STEPS or spread(samples) >= ALIKE * real_spread:
        return None
    return (
        "the samples are all alike: G has collapsed onto one image; "
        f"try a lower --lr-g, another --seed, an earlier checkpoint, {_softer(config)}"
    )


def _finite(array: Array) -> bool:
    return bool(array_module(array).isfinite(array).all())


def _summary(array: Array) -> dict[str, Any]:
    finite = array_module(array).isfinite(array)
    sizes = abs(array[finite])
    return {
        "not_finite": int(array.size - finite.sum()),
        "of": int(array.size),
        "largest": float(sizes.max()) if sizes.size else None,
        "mean_size": float(sizes.astype(np.float64).mean()) if sizes.size else None,
    }


def _text(value: float) -> float | str:
    """JSON knows no NaN and no infinity."""
    return value if np.isfinite(value) else str(value)
