"""``--backend cupy`` on a stand-in for CuPy: the tests marked gpu, and whole training held against ``train_step``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import test_gpu
from cuda_streams import Event, Graph, Stream
from cupy_host import REAL
from cupy_host import cupy as stand_in
from helpers import small_networks
from ptx import emulator
from ptx.emulator import Problem

# The tests marked gpu, on the stand-in that the fixture of this file gives them; not those that take long on it.
from test_gpu import (  # noqa: F401
    test_a_checkpoint_goes_from_one_backend_to_the_other,
    test_a_diverged_run_is_told_its_first_tensor_that_is_not_finite,
    test_gradient_checks_on_the_device,
    test_gradients_have_the_accuracy_that_the_header_says,
    test_integers_masks_and_permutations_are_the_same_bits,
    test_the_same_bits_every_time_in_parts_or_in_one_piece,
    test_train_twice_and_resume_give_the_same_bytes,
    test_twenty_fused_steps_are_those_of_the_plain_maths,
    test_twenty_steps_of_the_plain_maths_are_numpys,
    test_update_is_gradients_and_then_adam,
    test_without_fused_kernels_the_plain_maths_trains,
)

from npgan import engines, gan
from npgan.backend import Backend, select, to_numpy
from npgan.bench import gpu as bench
from npgan.bench import gpu_profile
from npgan.cli import main
from npgan.config import PRESETS, TrainConfig
from npgan.data.batches import iterations_per_epoch, scale_pixels
from npgan.engines.base import FusedEngine, ReferenceEngine
from npgan.engines.cuda import device, graph
from npgan.engines.cuda.device import DESIGN, THREADS, Design, Gpu, options
from npgan.engines.cuda.kernels import CudaKernels
from npgan.gan import TrainState, new_state
from npgan.runs import train as run_module

pytestmark = [pytest.mark.slow, pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))]

Array = Any

compiled = test_gpu._compiled  # before the fixture replaces it
_CONFIG = TrainConfig(dataset="digits", epochs=2, batch_size=8, latent_dim=10, seed=2**40 + 3)
_IMAGES = np.random.default_rng(0).integers(0, 256, (44, 784), dtype=np.uint8)  # 5 whole batches and one of 4


def _compiled(cupy: Backend, passes: int) -> Gpu:
    if passes == 0:
        pytest.skip("these kernels are tested in tests/ptx, and would have to be compiled once more")
    return compiled(cupy, passes)


@pytest.fixture(scope="module")
def cupy() -> Iterator[Backend]:
    """The stand-in is CuPy, the tutorial's networks are narrow, and the data of the tests marked gpu are few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", stand_in)
        for name, function in small_networks((16, 24, 40)).items():
            patch.setattr(gan, name, function)
        patch.setattr(test_gpu, "_compiled", _compiled)
        patch.setattr(test_gpu, "_IMAGES", test_gpu._IMAGES[:30])  # three batches of 8, and one of 6
        patch.setattr(test_gpu, "_CONFIG", replace(test_gpu._CONFIG, batch_size=8, epochs=2))
        patch.setattr(test_gpu, "_FEW", (*test_gpu._FEW[:-1], "12", "--batch-size", "8"))
        yield select("cupy")


@pytest.fixture(scope="module")
def gpu(cupy: Backend) -> Gpu:
    return Gpu(cupy.xp, "fp32")


# --- whole training ----------------------------------------------------------------------------------------------------


def _iterations(config: TrainConfig) -> int:
    return config.epochs * iterations_per_epoch(len(_IMAGES), config.batch_size)


def _engine(backend: Backend, gpu: Gpu, config: TrainConfig, design: Design = DESIGN) -> FusedEngine:
    return FusedEngine(
        CudaKernels(gpu, backend.xp, design), new_state(config, backend), backend.to_device(_IMAGES), config
    )


def _train_fused(
    backend: Backend, gpu: Gpu, config: TrainConfig, iterations: int | None = None
) -> tuple[TrainState, Array]:
    engine = _engine(backend, gpu, config)
    return engine.state, engine.run(iterations or _iterations(config))


def _train_plainly(config: TrainConfig) -> tuple[TrainState, Array]:
    """``train_step`` on NumPy."""
    state = new_state(config, select("numpy"))
    return state, ReferenceEngine(state, _IMAGES, config).run(_iterations(config))


def _assert_same_run(one: tuple[TrainState, Array], other: tuple[TrainState, Array], tolerance: float) -> None:
    (state, metrics), (expected, expected_metrics) = one, other
    assert state.step == expected.step == state.optimizer_d.step == state.optimizer_g.step
    np.testing.assert_allclose(metrics, expected_metrics, rtol=50 * tolerance, atol=10 * tolerance)
    for found, right in zip(_vectors(state), _vectors(expected), strict=True):
        assert np.linalg.norm(to_numpy(found) - right) < tolerance * np.linalg.norm(right)


def _vectors(state: TrainState) -> list[Array]:
    both = (state.generator, state.optimizer_g), (state.discriminator, state.optimizer_d)
    return [array for net, adam in both for array in (net.parameters, net.gradients, adam.m, adam.v)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "bce-logits", "label_smoothing": 0.1},
        {"dropout_in_g_step": True, "leaky_slope": 0.1, "dropout": 0.5, "beta1": 0.5, "lr_d": 1e-4},
        {"batch_size": 44, "epochs": 3},
        {"batch_size": 60, "epochs": 3, "latent_dim": 7},
        {**PRESETS["r3gan"], "lr_schedule": "cosine"},
        {"r1": 1.0, "loss": "bce-logits", "ema": 0.9},
    ],
    ids=["tutorial", "logits", "options", "one batch", "less than a batch", "r3gan, cosine", "R1 with dropout"],
)
def test_training_is_that_of_train_step(cupy: Backend, gpu: Gpu, changes: dict[str, Any]) -> None:
    config = replace(_CONFIG, **changes)
    _assert_same_run(_train_fused(cupy, gpu, config), _train_plainly(config), 1e-4)


@pytest.mark.parametrize(
    "switches", [{"side_stream": False}, {"overlapped": False}, {"tile": (64, 64)}, {"clusters": True}], ids=str
)
def test_training_is_the_same_by_another_design(cupy: Backend, switches: dict[str, Any]) -> None:
    """Even to the bit, where GEMMs sum in the same order."""
    design, config = replace(DESIGN, **switches), replace(_CONFIG, epochs=1)
    ends = []
    for each in (DESIGN, design):
        engine = _engine(cupy, Gpu(cupy.xp, "fp32", each), config, each)
        ends.append([engine.run(6), *(to_numpy(vector) for vector in _vectors(engine.state))])
    for one, other in zip(*ends, strict=True):
        assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(other)
        assert {"tile", "clusters"} & switches.keys() or np.array_equal(one, other)


def test_which_kernels_may_begin_early(cupy: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the main chain behind another of it, with no fork or join in between."""
    early: list[str] = []
    design = replace(DESIGN, dependent=True)

    def launch(call: Any, name: Any, blocks: Any, threads: int, arguments: Any, stream: int) -> None:
        early.append(name)
        gpu._module.get_function(name)(blocks, (threads,), tuple(arguments))

    monkeypatch.setattr(device, "load", lambda: "cuLaunchKernelEx")
    monkeypatch.setattr(device, "launch_dependent", launch)
    monkeypatch.setattr(device, "options", lambda passes, design: options(passes, DESIGN))
    gpu = Gpu(cupy.xp, "fp32", design)
    engine, plain = _engine(cupy, gpu, _CONFIG, design), _engine(cupy, Gpu(cupy.xp, "fp32"), _CONFIG)
    engine.run(1)
    plain.run(1)
    # of G's four forwards three, D's three and its head, two backwards; after the join two forwards and the head, two
    # backwards and that to G, G's three
    assert len(early) == 3 + 4 + 2 + 3 + 2 + 1 + 3
    assert all(name.startswith(("forward", "backward", "head")) and name != "head_update" for name in early)
    for one, other in zip(_vectors(engine.state), _vectors(plain.state), strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


def _early_and_late(
    cupy: Backend, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, iterations: int | None = None
) -> list[list[Array]]:
    """Metrics and parameters of a run, where the side stream works as late as it may, and as early."""
    found = []
    for early in (False, True):
        monkeypatch.setattr(Stream, "early", early)
        state, metrics = _train_fused(cupy, gpu, _CONFIG, iterations)
        found.append([metrics, to_numpy(state.generator.parameters), to_numpy(state.discriminator.parameters)])
    return found


def test_the_side_stream_may_be_early_or_late(cupy: Backend, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    for one, other in zip(*_early_and_late(cupy, gpu, monkeypatch), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_epoch_begun_elsewhere_is_finished(cupy: Backend, gpu: Gpu) -> None:
    """As after a Ctrl-C: the checkpoint is in the middle of an epoch."""
    engine = _engine(cupy, gpu, _CONFIG)
    ReferenceEngine(engine.state, cupy.to_device(_IMAGES), _CONFIG).run(2)
    done = [engine.run(iterations) for iterations in (4, 6)]
    expected = _train_plainly(_CONFIG)
    _assert_same_run((engine.state, np.concatenate(done)), (expected[0], expected[1][2:]), 1e-4)


def test_launches_and_graphs(cupy: Backend, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Graph] = []
    monkeypatch.setattr(Graph, "made", graphs)
    engine = _engine(cupy, gpu, _CONFIG)
    engine.run(1)
    assert graphs == []  # the first time launch by launch
    engine.run(5)
    assert [len(each.calls) for each in graphs] == [30]  # captured once, replayed four times; then the shorter batch
    engine.run(6)
    engine.run(6)
    assert [len(each.calls) for each in graphs] == [30, 5 * 30, 30]


def test_the_next_epoch_is_started_before_metrics_are_waited_for(
    cupy: Backend, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _engine(cupy, gpu, _CONFIG)
    metrics = [expected.run(6) for _ in range(2)]
    started: list[int] = []  # iterations, when somebody waits
    engine, launched, synchronize = _engine(cupy, gpu, _CONFIG), [0], Event.synchronize
    repeat = CudaKernels.repeat

    def counted(self: CudaKernels, step: Any, count: int) -> int:
        launched[0] += count
        return repeat(self, step, count)

    def waited(self: Event) -> None:
        started.append(launched[0])
        synchronize(self)

    monkeypatch.setattr(CudaKernels, "repeat", counted)
    monkeypatch.setattr(Event, "synchronize", waited)
    for ahead, one in zip((6, 0), metrics, strict=True):
        np.testing.assert_array_equal(engine.run(6, ahead), one)
    assert started == [12, 12]
    for found, right in zip(_vectors(engine.state), _vectors(expected.state), strict=True):
        np.testing.assert_array_equal(to_numpy(found), to_numpy(right))


def test_what_was_asked_for_ahead_is_taken(cupy: Backend, gpu: Gpu) -> None:
    engine = _engine(cupy, gpu, _CONFIG)
    engine.run(2, 4)
    with pytest.raises(ValueError, match="4 iterations were asked for ahead, now 3"):
        engine.run(3)


@pytest.mark.parametrize(("images", "expected"), [(60_000, 39), (44 * 128, 22), (40 * 128, 40), (5, 1)])
def test_iterations_in_a_graph(images: int, expected: int) -> None:
    step: Any = SimpleNamespace(resident=SimpleNamespace(pixels=range(images)), config=TrainConfig())
    assert graph._iterations_in_a_graph(step) == expected


def test_a_run_waits_for_the_stream_that_made_its_arrays(cupy: Backend, gpu: Gpu) -> None:
    expected, engine = _train_fused(cupy, gpu, _CONFIG, 2)[0].generator, _engine(cupy, gpu, _CONFIG)
    found = engine.state.generator
    late = found.parameters.get()
    found.parameters[...] = 0.0
    Stream.null.launch(lambda: found.parameters._values.__setitem__(..., late))
    engine.run(2)
    np.testing.assert_array_equal(found.parameters.get(), expected.parameters.get())


def test_layers_that_the_kernels_cannot_do(cupy: Backend, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FusedEngine(
        CudaKernels(gpu, cupy.xp), new_state(_CONFIG, cupy, np.float64), cupy.to_device(_IMAGES), _CONFIG
    )
    with pytest.raises(ValueError, match="float32, got float64"):
        engine.run(1)
    monkeypatch.setattr(gan, "discriminator", small_networks((16, 20, 40))["discriminator"])
    with pytest.raises(ValueError, match="multiple of 8, got 20"):
        _train_fused(cupy, gpu, _CONFIG)


def test_a_run_goes_on_without_the_gpu(cupy: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--backend", "cupy", *test_gpu._FEW, "--epochs", "1", "--quiet", "--out", str(tmp_path)]) == 0
    assert main(["train", "--backend", "numpy", "--epochs", "2", "--quiet", "--resume", str(tmp_path)]) == 0
    assert "resumes with backend numpy after cupy" in capsys.readouterr().err


def test_cupys_own_compiling_is_said(
    cupy: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes up to a minute before anything else could be shown."""

    def slow(*given: Any) -> TrainState:
        time.sleep(0.05)
        return new_state(*given)

    monkeypatch.setattr(run_module, "new_state", slow)
    monkeypatch.setattr(engines, "_PATIENCE", 0.01)
    assert main(["train", "--backend", "cupy", *test_gpu._FEW, "--epochs", "1", "--out", str(tmp_path)]) == 0
    assert "CuPy compiles its kernels: once on this machine" in capsys.readouterr().err


# --- the benchmark -----------------------------------------------------------------------------------------------------


def test_the_benchmarks_candidates(cupy: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"MNIST": 30, "SIDE": 8, "_COPIED": 32, "_TIMES": 2, "_STEPS_OF_REFERENCE": 2}.items():
        assert hasattr(bench, name)
        monkeypatch.setattr(bench, name, size)
    for name, iterations in {"npgan fused": 3, "npgan reference": 2, bench.PEAK: 2, bench.COPY: 2}.items():
        candidate = bench.make(name, 8, "fp32")
        candidate.run()
        candidate.run()
        assert candidate.iterations == iterations
        assert candidate.launches is None or candidate.launches() == 30


def test_the_profile_times_every_launch_on_its_own(
    cupy: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_profile, "_REPEATED", 2)
    gpu_profile.show_gpu_profile(8, "fp32")
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 2 + 30 + 1  # a stand-in's clock: 0.1 ms for each graph
    assert printed[2][0] == "inputs" and printed[-2][::2] == ["finish", "50.00"]
    assert printed[-1] == f"30 launches, one after the other {30 * 50:.1f}".split()


# --- the stand-in notices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("join", [0, 1], ids=["G's step does not wait for D", "the end does not wait for G"])
def test_a_stream_that_nobody_waits_for(
    cupy: Backend,
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    join: int,
) -> None:
    joined: list[int] = []

    def forgetful(self: Gpu) -> None:
        joined.append(len(joined) % 2)
        if joined[-1] != join:
            self._wait(self.main, self.side)

    expected = _train_fused(cupy, gpu, _CONFIG, 1)
    monkeypatch.setattr(Gpu, "join", forgetful)
    found = _train_fused(cupy, gpu, _CONFIG, 1)
    one, other = (to_numpy(state.generator.parameters) for state, _ in (expected, found))
    assert not np.array_equal(one, other)
    monkeypatch.setattr(Gpu, "join", lambda self: None)
    with pytest.raises(AssertionError, match="not joined"):  # as CUDA would in a capture
        _train_fused(cupy, gpu, _CONFIG, 2)
    Stream.capture = None


@pytest.mark.parametrize("forgotten", [1, 0], ids=["the last GEMM, which reads the weight", "everything"])
def test_a_stream_that_does_not_wait_for(
    cupy: Backend, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, forgotten: int
) -> None:
    launch, before = Gpu.launch, [Event()]

    def marked(self: Gpu, *call: Any) -> None:
        if Stream.current is self.main:
            before[0] = Event()
            before[0].record(self.main)
        launch(self, *call)

    @contextmanager
    def side_stream(self: Gpu) -> Iterator[None]:
        if forgotten:
            self.side.wait_event(before[0])
        with self.side:
            yield

    monkeypatch.setattr(Gpu, "launch", marked)
    monkeypatch.setattr(Gpu, "side_stream", side_stream)
    try:
        late, early = _early_and_late(cupy, gpu, monkeypatch, 1)
    except Problem:  # something is read that nobody has written yet
        return
    assert not np.array_equal(late[1], early[1])


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + np.ones(3, dtype=np.float32),
        lambda x: np.add(x, np.ones(3, dtype=np.float32)),
        lambda x: np.asarray(x),
        lambda x: stand_in.add(x, x, where=x > 0),
    ],
    ids=["array of the host", "ufunc of the host", "implicit copy", "where"],
)
def test_what_cupy_does_not_take(cupy: Backend, mistake: Callable[[Array], Any]) -> None:
    with pytest.raises((TypeError, AssertionError)):
        mistake(stand_in.ones(3, dtype=np.float32))


def test_what_cupy_does_not_have(cupy: Backend) -> None:
    if REAL is None:
        pytest.skip("needs CuPy to know: pip install 'npgan[nvrtc]'")
    x = stand_in.ones(3, dtype=np.float32)
    for missing in (lambda: x.ctypes, lambda: stand_in.nditer(x)):
        with pytest.raises(AttributeError):
            missing()
    with pytest.raises(TypeError):
        stand_in.sum(x, where=x > 0)


def test_unwritten_memory_is_nan_and_a_number_is_a_view(cupy: Backend) -> None:
    x = stand_in.empty(3, dtype=np.float32)
    assert np.isnan(x.get()).all()
    first = x[0]
    x[...] = 2.0
    assert float(first) == 2.0 and float(x.sum()) == 6.0 and x.sum().shape == ()


def test_launches_that_cuda_would_refuse_or_get_wrong(cupy: Backend, gpu: Gpu) -> None:
    x, dz, *parameters = (stand_in.ones(shape, dtype=np.float32) for shape in ((4, 2), 4, 3, 3, 3, 3, 8, 1))
    gradient, *others, constants, squares = parameters
    null = np.uint64(0)
    arguments = [x, dz, null, gradient, *others, null, constants, squares, np.int32(4), np.int32(2)]
    kernel = gpu._module.get_function("head_update")
    for wrong in (arguments[:-1], [*arguments[:-1], 2], [*arguments[:-1], np.int64(2)], [dz.get(), *arguments[1:]]):
        with pytest.raises((AssertionError, TypeError)):
            kernel((1, 1), (THREADS,), tuple(wrong))
    kernel((1, 1), (THREADS,), tuple(arguments))
    np.testing.assert_array_equal(gradient.get(), [4.0, 4.0, 4.0])

    with gpu.main:
        gpu.main.begin_capture()
        for forbidden in (partial(stand_in.add, dz, 1), partial(stand_in.empty, 1), dz.get, gpu.main.synchronize):
            with pytest.raises(RuntimeError, match="while a stream captures"):
                forbidden()
        kernel((1, 1), (THREADS,), tuple(arguments))
        graph = gpu.main.end_capture()
        graph.launch(gpu.main)
        gpu.main.synchronize()
        del x, arguments, wrong
        graph.launch(gpu.main)
        with pytest.raises(AssertionError, match="memory is gone"):
            gpu.main.synchronize()


def test_scale_pixels_leaves_the_work_to_the_arrays_library(cupy: Backend) -> None:
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(scale_pixels(cupy.to_device(pixels)).get(), scale_pixels(pixels))
