"""The schedule of fused kernels on the reference table is the textbook's step, in float64, with every option."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import narrow

from npgan.backend import Backend
from npgan.config import TrainConfig
from npgan.data.digits import render
from npgan.engines.base import FusedEngine, ReferenceEngine
from npgan.engines.reference import ReferenceKernels
from npgan.engines.schedule import unsupported
from npgan.gan import TrainState, new_state
from npgan.nn.layers import Dense, Dropout, Layer, LeakyReLU, Sigmoid, Tanh
from npgan.nn.network import Sequential

_IMAGES = render(150, 3)[0].reshape(150, 784)  # batches of 32, the last of 22: five iterations an epoch
_STEPS = 20

_OPTIONS: list[dict[str, Any]] = [
    {"loss": loss, "dropout_in_g_step": dropout, "label_smoothing": smoothing}
    for loss, dropout, smoothing in (  # of any two every pair
        ("bce", False, 0.0),
        ("bce", True, 0.1),
        ("bce-logits", False, 0.1),
        ("bce-logits", True, 0.0),
    )  # fmt: skip
]
_OPTIONS += [{"beta1": 0.5, "beta2": 0.99, "adam_epsilon": 1e-4, "lr_g": 1e-3, "lr_d": 5e-4}]
_OPTIONS += [{"leaky_slope": 0.0, "dropout": 0.5, "latent_dim": 7}, {"dropout": 0.0, "seed": 2**63 + 5}]
_OPTIONS += [
    {"loss": "bce-logits", "r1": 3.0, "ema": 0.99},
    {"loss": "relativistic"},
    {"loss": "relativistic", "r1": 0.5, "r2": 2.0, "dropout_in_g_step": True},
    {"loss": "relativistic", "r1": 0.5, "r2": 0.5, "dropout": 0.0, "beta1": 0.5, "ema": 0.9},
]


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("option", _OPTIONS, ids=str)
def test_twenty_steps_are_the_textbooks(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    # whole for the tutorial's options, and where D's last bias falls out of every difference: Adam makes steps of the rounding
    # of its gradient 0, which count for more among fewer parameters
    if option is not _OPTIONS[0] and option.get("loss") != "relativistic":
        narrow(monkeypatch)
    config = replace(TrainConfig(dataset="digits", epochs=4, batch_size=32, seed=11), **option)
    ours, theirs = (new_state(config, backend, np.float64) for _ in range(2))
    metrics = FusedEngine(ReferenceKernels(np.float64), ours, _IMAGES, config).run(_STEPS)
    expected = ReferenceEngine(theirs, _IMAGES, config).run(_STEPS)
    np.testing.assert_allclose(metrics, expected, rtol=1e-12)
    for net, optimizer in (("generator", "optimizer_g"), ("discriminator", "optimizer_d")):
        assert _relative(getattr(ours, net).parameters, getattr(theirs, net).parameters) < 1e-12
        assert _relative(getattr(ours, net).gradients, getattr(theirs, net).gradients) < 1e-12
        mine, its = getattr(ours, optimizer), getattr(theirs, optimizer)
        assert _relative(mine.m, its.m) < 1e-12 and _relative(mine.v, its.v) < 1e-12
        assert mine.step == its.step == ours.step == theirs.step == _STEPS
    assert (ours.average is None) == (theirs.average is None) == (config.ema == 0.0)
    if ours.average and theirs.average:
        mean, parameters = ours.average.parameters, ours.generator.parameters
        assert _relative(mean, theirs.average.parameters) < 1e-12 < _relative(mean, parameters)


@pytest.mark.parametrize(
    "option", [each for each in _OPTIONS[::3] if each.get("loss") != "relativistic" or "r1" in each], ids=str
)
def test_gradients_can_be_had_after_the_iteration(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    narrow(monkeypatch)
    config = replace(TrainConfig(dataset="digits", batch_size=32), **option)
    state = new_state(config, backend, np.float64)
    nets = state.generator, state.discriminator
    engine = FusedEngine(ReferenceKernels(np.float64), state, _IMAGES, config)
    engine.run(2)
    kept = [net.gradients.copy() for net in nets]
    for net in nets:
        net.gradients[...] = np.nan
    assert engine._last is not None
    engine._last.gradients()
    for net, gradients in zip(nets, kept, strict=True):
        np.testing.assert_array_equal(net.gradients, gradients)


def test_every_tensor_of_an_iteration_is_told_in_order(backend: Backend) -> None:
    """By name the same arrays as the textbook's, where both have them, and each is finite."""
    config = TrainConfig(dataset="digits", batch_size=32, dropout_in_g_step=True)
    told = []
    for make in (lambda *run: FusedEngine(ReferenceKernels(np.float64), *run), ReferenceEngine):
        engine = make(new_state(config, backend, np.float64), _IMAGES, config)
        engine.run(3)
        told.append([(net, name, np.array(array)) for net, name, array in engine.tensors()])
    assert all(np.isfinite(array).all() for tensors in told for _, _, array in tensors)
    fused, textbook = ({(net, name): array for net, name, array in tensors} for tensors in told)
    gradients = [key for key in fused if key[1].startswith("gradient of ")]
    assert len(gradients) == 16
    for key in gradients:
        np.testing.assert_allclose(fused[key], textbook[key], rtol=1e-9, atol=1e-12)
    # where in the order a tensor comes decides what a diverged run is told
    order = [name for net, name, _ in told[0] if net == "discriminator"]
    assert order.index("output of layer 9 (Dense)") < order.index("gradient before the activation of layer 9 (Dense)")
    assert order.index("gradient of 0.weight") < order.index("output of layer 0 (Dense) (G step)")


def _d() -> list[Layer]:
    return [Dense(784, 8), LeakyReLU(0.2), Dropout(0.3), Dense(8, 1), Sigmoid()]


@pytest.mark.parametrize(
    ("g", "d", "told"),
    [
        ([Dense(4, 784), Tanh()], _d(), None),
        ([Dense(4, 784), Tanh()], [Dense(784, 1), Sigmoid()], "tutorial's layers"),
        ([Dense(4, 784), Tanh()], [Dense(784, 8), LeakyReLU(0.2), Dropout(0.3), Dense(8, 1)], "tutorial's layers"),  # bce
        ([Dense(4, 8), LeakyReLU(0.1), Dense(8, 784), Tanh()], _d(), "one slope"),
        ([Dense(4, 8), LeakyReLU(0.3), Dense(8, 784), Tanh()], _d(), "one slope"),
        ([Dense(4, 8), LeakyReLU(0.2), Dense(8, 784), Tanh()], _d(), None),
        ([Dense(4, 8), Tanh(), Dense(8, 784), Tanh()], [Dense(784, 1), Sigmoid()], "tutorial's layers"),
        ([Dense(4, 784), Tanh()], [Dense(784, 8), LeakyReLU(0.2), Dense(8, 1), Sigmoid()], "tutorial's layers"),
    ],
)  # fmt: skip
def test_networks_that_it_is_not_written_for_are_refused(
    backend: Backend, config: TrainConfig, g: list[Any], d: list[Any], told: str | None
) -> None:
    state = new_state(config, backend)
    state = TrainState(Sequential(g), Sequential(d), state.optimizer_g, state.optimizer_d, 0)
    reason = unsupported(state, config)
    assert (reason is None) if told is None else (reason is not None and told in reason)
    if told is not None:
        with pytest.raises(ValueError, match=told):
            FusedEngine(ReferenceKernels(), state, _IMAGES, config)
