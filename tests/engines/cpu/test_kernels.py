"""The CPU table: equal to the reference table, repeatable, quiet about memory, and never needed."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import adam_at, narrow

pytest.importorskip("numba", reason="the fused kernels need numba: pip install 'npgan[fast]'")

from npgan.backend import Backend, select
from npgan.config import PRESETS, TrainConfig
from npgan.data.batches import scale_pixels
from npgan.data.digits import render
from npgan.engines import Choice, Compute, choose, cpu_gemm
from npgan.engines.base import FusedEngine, ReferenceEngine
from npgan.engines.cpu import philox as cpu_philox
from npgan.engines.cpu.blas import Blas
from npgan.engines.cpu.kernels import CpuKernels
from npgan.engines.cpu.pool import Pool
from npgan.engines.reference import ReferenceKernels
from npgan.engines.schedule import Draw, FusedStep, Kernels, Parameters, Pass, Penalty, Resident
from npgan.errors import InputError
from npgan.gan import TrainState, new_state
from npgan.nn import philox
from npgan.nn.layers import Dense, Dropout
from npgan.nn.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, Loss, Relativistic
from npgan.nn.network import Sequential

_ROOT = Path(__file__).resolve().parents[3]
_IMAGES = render(200, 1)[0].reshape(200, 784)
_RNG = np.random.default_rng(0)
_STEP = np.array([7], np.uint32)
# A sum of k products is exact to k·2⁻²⁴ of the sum of their sizes, in whatever order: k is at most 784 here, and numbers
# of both signs meet, so an element may be off by more than its own size suggests: hence the absolute part.
_CLOSE = {"rtol": 1e-5, "atol": 1e-4}


def _tables() -> tuple[ReferenceKernels, CpuKernels]:
    return ReferenceKernels(np.float32), CpuKernels(cpu_gemm(Blas(2)))


def _fused(threads: int = 2, **blas: Any) -> Choice:
    return choose(Compute("numpy", kernels="fused", blas=Blas(threads, **blas)), select("numpy"))


def _normal(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _dense(inputs: int, outputs: int) -> Dense:
    layer = Dense(inputs, outputs)
    net = Sequential([layer])
    net.parameters[...] = _normal(net.parameters.size)
    return layer


def _placed(kernels: Kernels, values: np.ndarray) -> np.ndarray:
    """The values in an array as the table wants it."""
    array = kernels.empty(*values.shape)
    array[...] = values
    return array


def _room(kernels: Kernels, rows: int, width: int) -> np.ndarray:
    return _placed(kernels, np.full((rows, width), np.nan, np.float32))


@pytest.mark.parametrize("rows", [1, 13, 128])
def test_each_kernel_is_its_composition_of_ops(rows: int) -> None:
    layer, x, dz = _dense(60, 48), _normal(rows, 60), _normal(rows, 48)
    slope, y, dydz = 0.2, np.tanh(_normal(rows, 60)), _normal(rows, 60)
    results: list[list[np.ndarray]] = []
    for k in _tables():
        a, b, c, d = (_placed(k, values) for values in (x, dz, y, dydz))
        forward = [_room(k, rows, 48) for _ in range(2)]
        k.forward_leaky_relu(a, layer, slope, forward[0])
        k.forward_tanh(a, layer, forward[1])
        backward = [_room(k, rows, 60) for _ in range(3)]
        k.backward_leaky_relu(b, layer, c, slope, backward[0])
        k.backward_dydz(b, layer, d, backward[1])
        k.backward_tanh(b, layer, c, backward[2])
        results.append([*forward, *backward])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, **_CLOSE)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_dropout_drops_exactly_the_same_elements(rate: float, slope: float) -> None:
    layer, x, dropout = _dense(30, 64), _normal(21, 30), Dropout(rate)
    draw, results = Draw(dropout, 18, 5, _STEP), []
    for k in _tables():
        y, dydz = _room(k, 21, 64), _room(k, 21, 64)
        k.forward_dropout(_placed(k, x), layer, slope, draw, y, dydz)
        results.append((y, dydz))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, **_CLOSE)
    np.testing.assert_array_equal(results[0][0] == 0.0, results[1][0] == 0.0)


def test_a_kink_is_on_the_left_piece_for_both() -> None:
    """Every z is 0, as in a network whose parameters are 0: dydz is the reference's, and no zero looks dropped."""
    layer, results = _dense(16, 8), []
    layer.weight[...], layer.bias[...] = 0.0, 0.0
    for k in _tables():
        y, dydz = _room(k, 8, 8), _room(k, 8, 8)
        k.forward_dropout(
            _placed(k, np.zeros((8, 16), np.float32)), layer, 0.2, Draw(Dropout(0.3), 0, 5, _STEP), y, dydz
        )
        results.append(dydz)
    np.testing.assert_array_equal(*results)


def test_odd_widths_are_refused() -> None:
    k = CpuKernels(cpu_gemm(Blas(1)))
    draw = Draw(Dropout(0.3), 0, 5, _STEP)
    with pytest.raises(ValueError, match="multiple of 8"):
        k.forward_dropout(_room(k, 4, 3), _dense(3, 5), 0.2, draw, _room(k, 4, 5), _room(k, 4, 5))


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), BinaryCrossEntropyWithLogits(), Relativistic()])
@pytest.mark.parametrize("dropout", [False, True])
def test_the_head(loss: Loss, dropout: bool) -> None:
    """The output, its loss's gradient, and dz of the layer before: far out on both sides too."""
    layer, x, dydz = _dense(32, 1), _normal(50, 32), _normal(50, 32)
    x[:2] *= 30.0
    results = []
    for k in _tables():
        column = np.full((50, 1), np.nan, np.float32)
        target = np.repeat([1.0, 0.0], 25).astype(np.float32).reshape(50, 1)
        draws = [Draw(Dropout(0.3), 0, 5, _STEP)] if dropout else []
        kept = [_placed(k, dydz)] if dropout else []
        dz = column.copy()
        p = Pass(x, target, draws, [_placed(k, x)], kept, [_room(k, 50, 32)], column, dz, dz)
        k.head(p, layer, 0.2, loss)
        results.append((p.output, p.output_dz, p.dz[0]))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(19, 40, 1), (128, 60, 48), (64, 256, 300)])
def test_gradients_and_adam(rows: int, inputs: int, outputs: int) -> None:
    """``update`` is its two halves to the bit. Adam is right to 16 ulp of the larger of a number and 1, the size of what
    is added to it, beside float64."""
    layer = _dense(inputs, outputs)
    x, dz, size = _normal(rows, inputs), _normal(rows, outputs), (inputs + 1) * outputs
    start = [_normal(size), _normal(size), _normal(size) ** 2]
    results = []
    for k in _tables():
        for whole in (True, False):
            param, m, v = (vector.copy() for vector in start)
            squares = np.full(k.partial_sums(layer), np.nan, np.float32)
            optimizer = adam_at(m, v, 7, 2e-4)
            p = Parameters(layer, layer.gradients, param, m, v, optimizer, np.empty(8, np.float32), squares, None, 0.0)
            a, b = _placed(k, x), _placed(k, dz) if outputs > 1 else dz
            if whole:
                k.update(a, b, p, _STEP)
            else:
                k.gradients(a, b, p)
                k.adam(p, _STEP)
            norm = np.float32(np.sqrt(squares.sum(dtype=np.float64)))
            results.append((layer.gradients.copy(), param, m, v, norm))
    for expected, halves in zip(*results[2:], strict=True):
        np.testing.assert_array_equal(expected, halves)
    np.testing.assert_allclose(results[2][0], results[0][0], **_CLOSE)
    for expected, found in zip(results[0][1:4], results[2][1:4], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(results[2][4], np.linalg.norm(results[2][0]), rtol=1e-5)

    gradient, (param, m, v) = results[2][0], (vector.copy() for vector in start)
    exact = [vector.astype(np.float64) for vector in (param, m, v)]
    adam_at(*exact[1:], 7, 2e-4).update(exact[0], gradient.astype(np.float64))
    for expected, found in zip(exact, results[2][1:4], strict=True):
        np.testing.assert_allclose(found, expected, rtol=16 * 2.0**-23, atol=16 * 2.0**-23)


@pytest.mark.parametrize("shape", [(128, 100), (700, 9), (3, 7), (1, 1)])
def test_noise_is_as_near_to_float64_as_the_references(shape: tuple[int, int]) -> None:
    where = (2**40 + 3, philox.Stream.LATENT, 9, 1)
    exact, found = philox.normal(*where, shape, np.float64), np.full(shape, np.nan, np.float32)
    cpu_philox.normal(Pool(2), *where[:2], np.array([9], np.uint32), 1, found)
    error, reference_error = np.abs(found - exact), np.abs(philox.normal(*where, shape) - exact)
    assert error.max() <= 1.5 * reference_error.max() + 1e-6


def test_the_ends_of_the_normal_numbers() -> None:
    """From words of nothing but zeros, whose logarithm would be none, and of nothing but ones."""
    np.testing.assert_allclose(cpu_philox._box_muller(0, 0), [(2 * 33 * np.log(2.0)) ** 0.5, 0.0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(cpu_philox._box_muller(2**32 - 1, 2**32 - 1), 0.0, atol=1e-3)


def test_tanh_is_exact_to_a_few_roundings_and_lets_nan_through() -> None:
    x = np.concatenate([np.linspace(-12.0, 12.0, 20001), np.geomspace(1e-30, 1.0, 2000)]).astype(np.float32)
    found = np.array([cpu_philox.tanh(number) for number in x])
    np.testing.assert_allclose(found, np.tanh(x.astype(np.float64)), rtol=0, atol=3 * 2.0**-24)
    assert [cpu_philox.tanh(np.float32(end)) for end in (np.inf, -np.inf)] == [1.0, -1.0]
    assert np.isnan(cpu_philox.tanh(np.float32(np.nan)))


def test_the_inputs_of_an_iteration(backend: Backend) -> None:
    """The pixels are the same to the bit, also of images that may not be written to; the noise agrees to rounding."""
    config = TrainConfig(dataset="digits", batch_size=32, latent_dim=7, seed=3)
    images = _IMAGES.copy()
    images.flags.writeable = False
    order = philox.permutation(3, 0, 200)
    results = []
    for k in _tables():
        resident = Resident(images, order, np.array([2], np.uint32), np.zeros((7, 6), np.float32))
        step = FusedStep(k, new_state(config, backend), config, resident, 32)
        k.inputs(step, step.images[:32], step.latent[:32], step.latent[32:])
        results.append((step.images[:32], step.latent))
    np.testing.assert_array_equal(results[1][0], results[0][0])
    np.testing.assert_array_equal(results[1][0], scale_pixels(images[order[64:96]]))
    np.testing.assert_allclose(results[1][1], results[0][1], atol=2e-6)


@pytest.mark.parametrize("rows", [1, 24, 64])
def test_the_penaltys_kernels(rows: int) -> None:
    layer, dz, u, slopes, c = _dense(40, 48), _normal(rows, 48), _normal(rows, 40), _normal(rows, 48), _normal(rows, 1)
    average = _normal(layer.size)
    results = []
    for k in _tables():
        penalty = Penalty(np.abs(c), np.full((rows, 1), np.nan, np.float32), [_room(k, rows, 40)])
        k.input_gradient(_placed(k, dz), layer, penalty)
        outs = [_room(k, rows, 48), _room(k, rows, 48)]
        k.tangent_leaky_relu(_placed(k, u), layer, _placed(k, slopes), 0.2, outs[0])
        k.tangent_dydz(_placed(k, u), layer, _placed(k, slopes), outs[1])
        combined, copied = _placed(k, u), _room(k, rows, 40)
        k.combine(c, penalty.u[0], combined)
        k.copy(_placed(k, u), copied)
        param, m, v, moved = (np.ones(layer.size, np.float32) for _ in range(4))
        moved[...] = average
        squares = np.zeros(k.partial_sums(layer), np.float32)
        optimizer = adam_at(m, v, 7, 2e-4)
        p = Parameters(layer, layer.gradients, param, m, v, optimizer, np.empty(8, np.float32), squares, moved, 0.9)
        k.update(_placed(k, u), _placed(k, dz), p, _STEP, c)
        results.append([penalty.u[0], penalty.value, *outs, combined, copied, layer.gradients.copy(), moved])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, **_CLOSE)
    # (1 + 7)/(10 + 7) of the average stays
    np.testing.assert_allclose(results[1][-1], average + (9 / 17) * (1.0 - average), atol=5e-4)


def _run(
    config: TrainConfig, backend: Backend, choice: Choice | None, steps: int, dtype: type = np.float32
) -> TrainState:
    state = new_state(config, backend, dtype)
    start = choice.start if choice else ReferenceEngine
    start(state, _IMAGES, config).run(steps)
    return state


def _distance(a: Sequential, b: Sequential) -> float:
    return float(np.linalg.norm(a.parameters - b.parameters) / np.linalg.norm(b.parameters))


@pytest.mark.parametrize(
    "option",
    [
        {},
        {"loss": "bce-logits", "dropout_in_g_step": True, "label_smoothing": 0.1},
        {"loss": "relativistic", "r1": 0.5, "r2": 0.5, "ema": 0.99, "dropout": 0.0},
        {"loss": "bce-logits", "r1": 0.5, "lr_schedule": "cosine"},
    ],
)
def test_fifty_steps_stay_with_the_reference(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    """Training magnifies rounding: Adam's first steps go by a gradient's sign, however small it is. At the usual learning
    rate the reference itself ends 5e-4 away after 50 steps when OpenBLAS adds up in another order (its Haswell or SkylakeX
    core), so 1e-5 is asked at a hundredth of that rate, where steps cannot magnify it, over the same 50 steps."""
    if option and "r2" not in option:
        narrow(monkeypatch)
    config = replace(TrainConfig(dataset="digits", epochs=100, batch_size=32, lr_g=2e-6, lr_d=2e-6), **option)
    found, expected = (_run(config, backend, choice, 50) for choice in (_fused(), None))
    assert _distance(found.generator, expected.generator) < 1e-5
    assert _distance(found.discriminator, expected.discriminator) < 1e-5


@pytest.mark.parametrize("rows", [128, 72])
@pytest.mark.parametrize("option", [{}, {"loss": "bce-logits", "dropout_in_g_step": True, "label_smoothing": 0.1}])
def test_the_first_metrics_are_the_references(backend: Backend, option: dict[str, Any], rows: int) -> None:
    """Each in its own column, also of a batch that is shorter than G's."""
    config = replace(TrainConfig(dataset="digits", batch_size=128), **option)
    images, results = _IMAGES[:rows], []
    for start in (_fused().start, ReferenceEngine):
        results.append(start(new_state(config, backend), images, config).run(1))
    assert len(np.unique(results[0].round(4))) == 6
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


def test_adams_epsilon_reaches_the_kernel() -> None:
    """One as large as √v̂ halves the step."""
    layer, k = _dense(40, 24), _tables()[1]
    size = 41 * 24
    for epsilon, step in ((1e-8, 1.0), (1.0, 0.5), (3.0, 0.25)):
        param, m, v = (np.zeros(size, np.float32) for _ in range(3))
        squares, gradient = np.empty(k.partial_sums(layer), np.float32), np.ones(size, np.float32)
        optimizer = adam_at(m, v, 0, 2e-4, 0.9, 0.999, epsilon)
        p = Parameters(layer, gradient, param, m, v, optimizer, np.empty(8, np.float32), squares, None, 0.0)
        k.adam(p, np.array([0], np.uint32))
        np.testing.assert_allclose(param, -2e-4 * step, rtol=1e-4)


def test_the_heads_epsilon_is_the_tutorials() -> None:
    """Where p has rounded to 0 or is far below ε: dL/dz = p·(1 − p)·(… − t/(p + ε))/N."""
    layer = _dense(8, 1)
    layer.weight[...], layer.bias[...] = 0.0, np.float32(-16.0)
    dz = []
    for k in _tables():
        column, target = np.empty((4, 1), np.float32), np.ones((4, 1), np.float32)
        x = _placed(k, np.zeros((4, 8), np.float32))
        p = Pass(x, target, [], [x], [], [_room(k, 4, 8)], column, (start := column.copy()), start)
        k.head(p, layer, 0.2, BinaryCrossEntropy())
        dz.append(p.output_dz.copy())
    probability = 1.0 / (1.0 + np.exp(16.0))
    for found in dz:
        np.testing.assert_allclose(found, -probability / (probability + 1.1920929e-07) / 4, rtol=1e-4)


@pytest.mark.parametrize(("steps", "allowed"), [(1, 0.0), (10, 5e-4)])
def test_at_the_usual_rate_fused_is_as_near_to_float64_as_the_reference(
    backend: Backend, steps: int, allowed: float
) -> None:
    """From the second step on, rounding can move a gradient across 0, and Adam then moves its parameter by 2·lr the other
    way: which of the two is hit first depends on the order of BLAS's sums (seen: 4e-7 or 2e-4 for the reference itself)."""
    config = TrainConfig(dataset="digits", epochs=100, batch_size=32)
    exact = _run(config, backend, None, steps, np.float64)
    found, expected = (_run(config, backend, choice, steps) for choice in (_fused(), None))
    for net in ("generator", "discriminator"):
        distance = _distance(getattr(found, net), getattr(exact, net))
        assert distance < 3.0 * _distance(getattr(expected, net), getattr(exact, net)) + allowed


def test_results_are_repeatable_and_do_not_depend_on_the_kernels_threads(backend: Backend) -> None:
    config = TrainConfig(dataset="digits", epochs=2, batch_size=64)
    bytes_of = []
    for threads in (1, 2, 3, 2):
        state = _run(config, backend, _fused(threads), 6)
        bytes_of.append(state.generator.parameters.tobytes() + state.discriminator.parameters.tobytes())
    assert len(set(bytes_of)) == 1


@pytest.mark.parametrize("option", [{"lr_schedule": "cosine"}, PRESETS["r3gan"]])
def test_recorded_iterations_are_those_launched_one_by_one(backend: Backend, option: dict[str, Any]) -> None:
    """Over epochs of two sizes of batches, and while another run uses the same buffers for larger ones."""
    config = replace(TrainConfig(dataset="digits", epochs=4, batch_size=64), **option)
    large = replace(config, batch_size=160)
    results = []
    for record in (True, False):
        kernels = CpuKernels(cpu_gemm(Blas(2)), record)
        state, other = new_state(config, backend), new_state(large, backend)
        engine, disturbing = FusedEngine(kernels, state, _IMAGES, config), FusedEngine(kernels, other, _IMAGES, large)
        metrics = []
        for _ in range(3):
            metrics.append(engine.run(5))
            disturbing.run(1)
        assert len(list(engine.tensors())) > 20  # now gradients are there
        nets = state.generator, state.discriminator
        results.append([*metrics, *(net.parameters for net in nets), *(net.gradients for net in nets)])
    for recorded, launched in zip(*results, strict=True):
        np.testing.assert_array_equal(recorded, launched)


def test_where_training_diverges_gradients_are_those_of_that_iteration(backend: Backend) -> None:
    """Also where they were not kept."""
    config, found = TrainConfig(dataset="digits", batch_size=32, loss="bce-logits"), []
    for record in (True, False):
        state = new_state(config, backend)
        state.discriminator.parameters *= np.float32(1e11)  # its logits overflow
        engine = FusedEngine(CpuKernels(cpu_gemm(Blas(2)), record), state, _IMAGES, config)
        assert len(engine.run(6)) == 1
        found.append([(net, name, array.copy()) for net, name, array in engine.tensors()])
    assert any("gradient of" in name for _, name, _ in found[0])
    for (_, _, recorded), (_, name, launched) in zip(*found, strict=True):
        np.testing.assert_array_equal(recorded, launched, err_msg=name)


def test_the_steady_state_allocates_no_activations(backend: Backend) -> None:
    """The smallest activation, 128 rows of 256, would be 131 KB. What there is are
    Python's own objects and a permutation."""
    config = TrainConfig(dataset="digits", epochs=1000, batch_size=64)
    engine = FusedEngine(_tables()[1], new_state(config, backend), _IMAGES[:192], config)
    engine.run(8)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            engine.run(1)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096
    assert peak - before < 90_000


def test_choices(backend: Backend) -> None:
    assert choose(Compute(kernels="reference"), backend).name == "reference"
    assert choose(Compute(), backend).name == "fused"
    with pytest.raises(InputError, match="--kernels"):
        choose(Compute(kernels="fast"), backend)


def test_without_numba_the_reference_runs_and_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from npgan.backend import select\n"
        "from npgan.engines import Compute, choose\n"
        "from npgan.errors import InputError\n"
        "print(choose(Compute(), select('numpy')))\n"
        "try: choose(Compute(kernels='fused'), select('numpy'))\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    chosen, error = done.stdout.splitlines()
    assert "name='reference'" in chosen and "npgan[fast]" in chosen
    assert error.startswith("--kernels fused") and "npgan[fast]" in error
