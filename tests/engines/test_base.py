"""What holds for every engine: a run is a function of its config, in whatever pieces it is done."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from npgan.backend import Backend, select
from npgan.config import PRESETS, TrainConfig
from npgan.data.batches import batch_bounds
from npgan.data.digits import render
from npgan.engines import Compute, choose
from npgan.engines.base import Engine, set_learning_rates
from npgan.gan import TrainState, new_state, train_step
from npgan.nn import philox

_IMAGES = render(200, 1)[0].reshape(200, 784)
_CONFIG = TrainConfig(dataset="digits", epochs=2, batch_size=64)  # 64, 64, 64 and 8 images

_R3GAN = TrainConfig(dataset="digits", epochs=2, batch_size=64, lr_schedule="cosine", **PRESETS["r3gan"])

Make = Callable[[TrainState], Engine]


@pytest.fixture(params=[_CONFIG, _R3GAN], ids=["tutorial", "r3gan, cosine"])
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return request.param


@pytest.fixture(params=["reference", "fused"])
def make(request: pytest.FixtureRequest, config: TrainConfig) -> Make:
    if request.param == "fused":
        pytest.importorskip("numba", reason="the fused kernels need numba: pip install 'npgan[fast]'")
    choice = choose(Compute(kernels=request.param), select("numpy"))
    return lambda state: choice.start(state, _IMAGES, config)


def _bytes(state: TrainState) -> list[bytes]:
    vectors: list[Any] = []
    for net, optimizer in ((state.generator, state.optimizer_g), (state.discriminator, state.optimizer_d)):
        vectors += [net.parameters, net.gradients, optimizer.m, optimizer.v]
    vectors += [state.average.parameters] if state.average else []
    return [vector.tobytes() for vector in vectors]


def test_pieces_make_no_difference(make: Make, config: TrainConfig, backend: Backend) -> None:
    """Seven iterations in one call, in single ones, and by two engines one after the other: the same bytes and metrics."""
    results = []
    for pieces in ([[7]], [[1] * 7], [[2, 1], [3, 1]]):
        state, metrics = new_state(config, backend), []
        for one_engine in pieces:
            engine = make(state)
            metrics += [engine.run(count) for count in one_engine]
        assert state.step == state.optimizer_g.step == state.optimizer_d.step == 7
        results.append((*_bytes(state), np.concatenate(metrics).tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("asked", "runtime", "taken"),
    [
        ({}, {"backend": "numpy", "kernels": "reference", "precision": "fp32"}, ("numpy", "reference", "fp32")),
        ({}, {"backend": "numpy", "kernels": "fused", "precision": "fp32"}, ("numpy", "auto", "fp32")),
        ({}, {"backend": "cupy", "kernels": "fused", "precision": "tf32"}, ("auto", "auto", "tf32")),
        ({"backend": "numpy"}, {"backend": "cupy", "kernels": "fused", "precision": "tf32"}, ("numpy", "auto", None)),
        ({"kernels": "fused"}, {"backend": "numpy", "kernels": "reference"}, ("numpy", "fused", None)),
        ({"precision": "fp32"}, {"backend": "cupy", "kernels": "fused", "precision": "tf32"}, ("auto", "auto", "fp32")),
        ({}, {}, ("auto", "auto", None)),
    ],
)
def test_what_a_resumed_run_takes_over_from_its_checkpoint(
    asked: dict[str, str], runtime: dict[str, str], taken: tuple[str, str, str | None]
) -> None:
    before = Compute(**asked).as_before(runtime)
    assert (before.backend, before.kernels, before.precision) == taken


def test_no_iterations_are_no_rows(make: Make, config: TrainConfig, backend: Backend) -> None:
    state = new_state(config, backend)
    assert make(state).run(0).shape == (0, 6) and state.step == 0


def test_the_last_short_batch_is_kept(make: Make, config: TrainConfig, backend: Backend) -> None:
    state = new_state(config, backend)
    metrics = make(state).run(2 * 4)
    assert metrics.shape == (8, 6) and np.isfinite(metrics).all()


def test_a_state_that_was_set_back_is_trained_again(make: Make, config: TrainConfig, backend: Backend) -> None:
    """As a diverged run is: the same engine, from an earlier step, in the middle of an epoch that it has left."""
    state = new_state(config, backend)
    engine = make(state)
    engine.run(2)
    kept = [vector.copy() for vector in _vectors(state)]
    engine.run(5)
    first = _bytes(state)
    for vector, value in zip(_vectors(state), kept, strict=True):
        vector[...] = value
    state.step = state.optimizer_g.step = state.optimizer_d.step = 2
    engine.run(5)
    assert _bytes(state) == first


def _vectors(state: TrainState) -> list[Any]:
    nets, optimizers = (state.generator, state.discriminator), (state.optimizer_g, state.optimizer_d)
    averages = [state.average.parameters] if state.average else []
    return averages + [net.parameters for net in nets] + [moment for each in optimizers for moment in (each.m, each.v)]


def test_the_reference_engine_is_train_step(backend: Backend) -> None:
    """Bit for bit, on the images that the seed and the iteration name."""
    engine_state, state = (new_state(_CONFIG, backend) for _ in range(2))
    metrics = choose(Compute(kernels="reference"), backend).start(engine_state, _IMAGES, _CONFIG).run(6)
    for step in range(6):
        epoch, iteration = divmod(step, 4)
        order = philox.permutation(_CONFIG.seed, epoch, len(_IMAGES))
        expected = train_step(state, _IMAGES[order[batch_bounds(iteration, len(_IMAGES), 64)]], _CONFIG)
        assert metrics[step].tolist() == [float(value) for value in expected]
    assert _bytes(engine_state) == _bytes(state)


def test_the_first_tensor_that_is_not_finite(make: Make, config: TrainConfig, backend: Backend) -> None:
    for net, tensor, told in (
        ("generator", "4.weight", "output of layer 4 (Dense)"),
        ("discriminator", "6.bias", "output of layer 6 (Dense)"),
    ):
        state = new_state(config, backend)
        engine = make(state)
        engine.run(1)
        assert all(np.isfinite(array).all() for _, _, array in engine.tensors())
        getattr(state, net).tensors[tensor].flat[0] = np.nan
        engine.run(1)
        first = next((net, name) for net, name, array in engine.tensors() if not np.isfinite(array).all())
        assert first == (net, told)


def test_an_engine_on_a_cpu_stops_where_it_diverges(make: Make, config: TrainConfig, backend: Backend) -> None:
    """So its tensors are those of the iteration that went wrong, and nothing need be done again."""
    state = new_state(config, backend)
    engine = make(state)
    engine.run(1)
    state.generator.tensors["2.weight"].flat[0] = np.nan
    metrics = engine.run(6)
    assert len(metrics) == 1 and state.step == 2 and not np.isfinite(metrics).all()
    first = next((net, name) for net, name, array in engine.tensors() if not np.isfinite(array).all())
    assert first == ("generator", "output of layer 2 (Dense)")


@pytest.mark.parametrize(("asked", "given"), [("tf32", "tf32"), (None, "fp32")])
def test_the_gpu_is_told_the_library_and_the_precision(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, given: str
) -> None:
    from npgan.engines.cuda import device

    told: list[Any] = []

    def gpu(xp: ModuleType, precision: str) -> SimpleNamespace:
        told.append((xp, precision))
        return SimpleNamespace(gemm="a GEMM of its own")

    monkeypatch.setattr(device, "Gpu", gpu)
    choice = choose(Compute("cupy", precision=asked), Backend("cupy", np, "a GPU", "asked for"))
    assert told == [(np, given)]
    assert choice.name == "fused" and "a GEMM of its own" in choice.reason


def test_on_a_cosine_the_rates_fall_from_the_configs_towards_0(backend: Backend) -> None:
    config = TrainConfig(epochs=4, lr_g=2.0, lr_d=1.0, lr_schedule="cosine")
    state, rates = new_state(config, backend), []
    for epoch in range(4):
        set_learning_rates(state, config, epoch)
        assert state.optimizer_g.lr == 2.0 * state.optimizer_d.lr
        rates.append(state.optimizer_d.lr)
    assert rates == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    set_learning_rates(state, TrainConfig(), 3)
    assert state.optimizer_d.lr == 2e-4
