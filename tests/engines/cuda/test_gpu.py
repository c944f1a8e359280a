"""What only a GPU can show. Everywhere else these tests skip; ``scripts/check_gpu.py`` runs them with the benchmark."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npgan.backend import Backend, select, to_numpy
from npgan.cli import main
from npgan.config import TrainConfig
from npgan.data.batches import iterations_per_epoch
from npgan.data.digits import render
from npgan.engines import Compute, choose
from npgan.engines.base import Engine, FusedEngine, ReferenceEngine
from npgan.engines.cuda.device import TENSOR_CORES, Gpu
from npgan.engines.cuda.kernels import CudaKernels
from npgan.engines.reference import ReferenceKernels
from npgan.engines.schedule import Parameters
from npgan.errors import InputError
from npgan.gan import TrainState, new_state
from npgan.gradcheck.suite import run_levels
from npgan.nn import philox
from npgan.nn.layers import Dropout, DropoutKey
from npgan.nn.network import Sequential
from npgan.nn.philox import Stream
from npgan.runs.checkpoint import load, restore, save

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # whatever CuPy or CUDA warn of

Array = Any

_IMAGES = render(3 * 128 + 96, 1)[0].reshape(-1, 784)  # three whole batches and one of 96, as in MNIST's last
_CONFIG = TrainConfig(dataset="digits", epochs=5, seed=2**40 + 3)  # 20 iterations
_FEW = ("--dataset", "digits", "--train-images", "1000")  # for a run of the program


@pytest.fixture(scope="module")
def cupy() -> Backend:
    try:
        return select("cupy")
    except InputError as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="module")
def gpu(cupy: Backend) -> Gpu:
    return Gpu(cupy.xp, "fp32")


def _relative(found: Array, expected: Array) -> float:
    found, expected = to_numpy(found).astype(np.float64), to_numpy(expected).astype(np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _nets(state: TrainState) -> tuple[Sequential, Sequential]:
    return state.generator, state.discriminator


def _trained(engine: Engine, state: TrainState, config: TrainConfig) -> tuple[TrainState, Array]:
    """To the config's last epoch."""
    return state, engine.run(config.epochs * iterations_per_epoch(len(_IMAGES), config.batch_size) - state.step)


def _plain(backend: Backend, config: TrainConfig, dtype: Any = np.float32) -> tuple[TrainState, Array]:
    state = new_state(config, backend, dtype)
    return _trained(ReferenceEngine(state, backend.to_device(_IMAGES), config), state, config)


def _engine(backend: Backend, gpu: Gpu, state: TrainState, config: TrainConfig) -> FusedEngine:
    return FusedEngine(CudaKernels(gpu, backend.xp), state, backend.to_device(_IMAGES), config)


def _fused(backend: Backend, gpu: Gpu, config: TrainConfig) -> tuple[TrainState, Array]:
    state = new_state(config, backend)
    return _trained(_engine(backend, gpu, state, config), state, config)


# --- the plain maths on CuPy


def test_integers_masks_and_permutations_are_the_same_bits(cupy: Backend) -> None:
    xp = cupy.xp
    for stream, site, step in itertools.product((Stream.INIT, Stream.DROPOUT), (0, 1003), (0, 2**31)):
        words = [philox.random_words(2**63 + 5, stream, step, site, 10_001, each) for each in (np, xp)]
        np.testing.assert_array_equal(words[0], to_numpy(words[1]))
    for epoch in (0, 999):
        orders = [philox.permutation(7, epoch, 60_000, each) for each in (np, xp)]
        np.testing.assert_array_equal(orders[0], to_numpy(orders[1]))
    masks = [Dropout(0.3).mask(each.zeros((256, 512), np.float32), DropoutKey(3, 9, 1)) for each in (np, xp)]
    np.testing.assert_array_equal(masks[0], to_numpy(masks[1]))
    normals = [philox.normal(7, Stream.LATENT, 3, 1, (128, 100), np.float32, each) for each in (np, xp)]
    np.testing.assert_allclose(to_numpy(normals[1]), normals[0], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-3), (np.float64, 1e-9)])
def test_twenty_steps_of_the_plain_maths_are_numpys(cupy: Backend, dtype: Any, tolerance: float) -> None:
    (expected, expected_metrics), (found, metrics) = (_plain(each, _CONFIG, dtype) for each in (select("numpy"), cupy))
    np.testing.assert_allclose(metrics, expected_metrics, rtol=50 * tolerance, atol=10 * tolerance)
    for net, wanted in zip(_nets(found), _nets(expected), strict=True):
        assert _relative(net.parameters, wanted.parameters) < tolerance


def test_gradient_checks_on_the_device(cupy: Backend) -> None:
    results = [result for level in run_levels(0, cupy) for result in level]
    assert len(results) > 100
    assert [result for result in results if not result.passed] == []


# --- fused kernels


def _compiled(cupy: Backend, passes: int) -> Gpu:
    """GEMMs in so many passes of TF32, or in none; skips where this GPU has no tensor cores for them."""
    gpu = Gpu(cupy.xp, "fp32")
    if passes and gpu.capability < TENSOR_CORES:
        pytest.skip("needs a GPU of compute capability 8.0 or more")
    gpu.compile(passes)
    return gpu


@pytest.mark.parametrize("passes", [3, 1, 0])
@pytest.mark.parametrize("changes", [{}, {"loss": "bce-logits", "dropout_in_g_step": True, "batch_size": 100}])
def test_twenty_fused_steps_are_those_of_the_plain_maths(cupy: Backend, passes: int, changes: dict[str, Any]) -> None:
    config = replace(_CONFIG, **changes)
    gpu = _compiled(cupy, passes)
    # An element whose z rounds to the other side of 0 has another slope, and shows in everything after it.
    tolerance = 5e-2 if passes == 1 else 5e-3
    (expected, expected_metrics), (found, metrics) = _plain(cupy, config), _fused(cupy, gpu, config)
    np.testing.assert_allclose(metrics[:4], expected_metrics[:4], rtol=0.1 if passes == 1 else 5e-3, atol=1e-4)
    for net, wanted in zip(_nets(found), _nets(expected), strict=True):
        assert _relative(net.parameters, wanted.parameters) < tolerance


@pytest.mark.parametrize("passes", [3, 1, 0])
def test_gradients_have_the_accuracy_that_the_header_says(cupy: Backend, passes: int) -> None:
    """One iteration beside float64: TF32's ten bits would not pass for float32, nor float32 for TF32."""
    config = replace(_CONFIG, epochs=1, batch_size=len(_IMAGES))
    found = _engine(cupy, _compiled(cupy, passes), new_state(config, cupy), config)
    exact_state, table = new_state(config, cupy, np.float64), ReferenceKernels(np.float64, cupy.xp)
    exact = FusedEngine(table, exact_state, cupy.to_device(_IMAGES), config)
    for engine in (found, exact):
        engine.run(1)
    error = _worst_before_a_flip(found, exact)
    assert 1e-4 < error < 2e-2 if passes == 1 else error < 2e-5


def _worst_before_a_flip(found: FusedEngine, exact: FusedEngine) -> float:
    """The largest relative error of what an iteration computes, up to the first z that rounds to the other side of 0.

    Such an element has another slope, which shows in everything after it: in about one iteration of fifty at float32.
    """
    worst = 0.0
    for (*where, one), (*expected, other) in zip(found.tensors(), exact.tensors(), strict=True):
        assert where == expected
        worst = max(worst, _relative(one, other))
        hidden = "output" in where[1] and one.shape[1] not in (1, 784)  # not what ends in tanh, or in the loss
        if hidden and ((to_numpy(one) > 0) != (to_numpy(other) > 0)).any():
            break
    return worst


def test_the_same_bits_every_time_in_parts_or_in_one_piece(cupy: Backend, gpu: Gpu) -> None:
    (one, metrics), (other, other_metrics) = (_fused(cupy, gpu, _CONFIG) for _ in range(2))
    parts, in_parts = new_state(_CONFIG, cupy), []
    half = len(metrics) // 2
    for runs in ([1, 2, half - 3], [len(metrics) - half]):  # over the end of an epoch, and in another engine
        engine = _engine(cupy, gpu, parts, _CONFIG)
        in_parts += [engine.run(iterations) for iterations in runs]
    np.testing.assert_array_equal(metrics, np.concatenate(in_parts))
    np.testing.assert_array_equal(metrics, other_metrics)
    for net, second, third in zip(_nets(one), _nets(other), _nets(parts), strict=True):
        np.testing.assert_array_equal(to_numpy(net.parameters), to_numpy(second.parameters))
        np.testing.assert_array_equal(to_numpy(net.parameters), to_numpy(third.parameters))


def test_the_fused_loss_is_finite_and_falls(cupy: Backend, gpu: Gpu) -> None:
    metrics = _fused(cupy, gpu, replace(_CONFIG, epochs=40))[1]
    assert np.isfinite(metrics).all()
    assert metrics[8:40, 0].mean() < 0.8 * metrics[:2, 0].mean()  # D learns to tell; later G has its turns


def test_update_is_gradients_and_then_adam(cupy: Backend, gpu: Gpu) -> None:
    """Not to the bit, as a compiler may fuse other multiplications and additions in another kernel."""

    class InHalves(CudaKernels):
        def update(self, x: Array, dz: Array, p: Parameters, step: Array, c: Array | None = None) -> None:
            self.gradients(x, dz, p, c)
            self.adam(p, step)

    ends = []
    for table in (CudaKernels, InHalves):
        state = new_state(_CONFIG, cupy)
        metrics = FusedEngine(table(gpu, cupy.xp), state, cupy.to_device(_IMAGES), _CONFIG).run(4)
        ends.append([metrics, *(array for net in _nets(state) for array in (net.parameters, net.gradients))])
    for one, other in zip(*ends, strict=True):
        assert _relative(one, other) < 1e-4


@pytest.mark.parametrize(("net", "tensor"), [("discriminator", "3.weight"), ("generator", "2.weight")])
def test_a_diverged_run_is_told_its_first_tensor_that_is_not_finite(
    cupy: Backend, gpu: Gpu, net: str, tensor: str
) -> None:
    state = new_state(_CONFIG, cupy)
    engine = _engine(cupy, gpu, state, _CONFIG)
    assert np.isfinite(engine.run(2)).all()
    assert all(np.isfinite(to_numpy(array)).all() for _, _, array in engine.tensors())
    getattr(state, net).tensors[tensor][0, 0] = np.nan
    assert np.isnan(engine.run(1)).any()
    first = next(found for *found, array in engine.tensors() if not np.isfinite(to_numpy(array)).all())
    assert first == [net, f"output of layer {tensor[0]} (Dense)"]


# --- the program


def test_a_checkpoint_goes_from_one_backend_to_the_other(cupy: Backend, gpu: Gpu, tmp_path: Path) -> None:
    first, _ = _fused(cupy, gpu, replace(_CONFIG, epochs=2))
    save(tmp_path / "a.safetensors", first, _CONFIG, {}, np.zeros(6))
    checkpoint = load(tmp_path / "a.safetensors")
    ends = []
    for backend in (select("numpy"), cupy):
        state = restore(checkpoint, backend)
        assert state.step == 8
        ReferenceEngine(state, backend.to_device(_IMAGES), _CONFIG).run(4)
        ends.append(state)
    for net, wanted in zip(_nets(ends[1]), _nets(ends[0]), strict=True):
        assert _relative(net.parameters, wanted.parameters) < 1e-3


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_train_twice_and_resume_give_the_same_bytes(cupy: Backend, tmp_path: Path, precision: str) -> None:
    def train(*flags: object) -> None:
        assert main(["train", "--backend", "cupy", *(str(flag) for flag in flags), "--quiet"]) == 0

    if precision == "tf32":
        _compiled(cupy, 1)
    flags = (*_FEW, "--precision", precision)
    for name in "ab":
        train(*flags, "--epochs", 3, "--out", tmp_path / name)
    train(*flags, "--epochs", 1, "--out", tmp_path / "c")
    train("--resume", tmp_path / "c", "--epochs", 3)
    files = [sorted((tmp_path / name / "checkpoints").glob("step-*"))[-1].read_bytes() for name in "abc"]
    assert files[0] == files[1]
    one, other = (load(sorted((tmp_path / name / "checkpoints").glob("step-*"))[-1]).tensors for name in "ac")
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert (tmp_path / "a/samples/epoch-00003.png").stat().st_size > 1000


def test_without_fused_kernels_the_plain_maths_trains(
    cupy: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Gpu, passes: int) -> None:
        raise InputError("not with this CUDA")

    monkeypatch.setattr(Gpu, "compile", refuse)
    assert main(["train", "--backend", "cupy", *_FEW, "--epochs", "1", "--quiet", "--out", str(tmp_path / "run")]) == 0
    chosen = choose(Compute("cupy"), cupy)
    assert (chosen.name, chosen.reason) == ("reference", "not with this CUDA")
    with pytest.raises(InputError, match="--kernels fused: not with this CUDA"):
        choose(Compute("cupy", kernels="fused"), cupy)


def test_too_little_memory_is_one_line(cupy: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = cupy.xp.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + 20 * 2**20)
    try:
        flags = ["--dataset", "digits", "--epochs", "1", "--out", str(tmp_path / "run")]
        assert main(["train", "--backend", "cupy", *flags]) == 1
    finally:
        pool.set_limit(size=0)
    assert "memory" in capsys.readouterr().err.strip().splitlines()[-1].lower()
