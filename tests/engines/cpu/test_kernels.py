"""The fused kernels: equal to the reference's chains, repeatable, quiet about memory, and never needed."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npgan import engines as kernels
from npgan.backend import Backend
from npgan.config import TrainConfig
from npgan.data.digits import render
from npgan.errors import InputError
from npgan.engines import REFERENCE, Kernels, reference
from npgan.engines.schedule import Stage
from npgan.nn.layers import Dropout, DropoutKey
from npgan.nn.network import Sequential, discriminator, generator
from npgan.nn.philox import Stream
from npgan.gan import TrainState, iterate, new_state

pytest.importorskip("numba", reason="the fused kernels need numba: pip install 'npgan[fast]'")

_ROOT = Path(__file__).resolve().parents[3]
_IMAGES = render(200, 1)[0].reshape(200, 784)
_RNG = np.random.default_rng(0)
_KEY = DropoutKey(5, 7, 1)
# A sum of k products is exact to k·2⁻²⁴ of the sum of their sizes, in whatever order: k is at most 784 here, and numbers
# of both signs meet, so an element may be off by more than its own size suggests: hence the absolute part.
_CLOSE = {"rtol": 1e-5, "atol": 1e-4}


@pytest.fixture(scope="module")
def fused() -> Kernels:
    return kernels.select("fused", threads=2)


def _normal(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _public(module: object) -> dict[str, inspect.Signature]:
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name: inspect.signature(function) for name, function in functions if not name.startswith("_")}


def test_the_kernels_have_the_references_names_parameters_and_defaults(fused: Kernels) -> None:
    theirs = _public(fused.chains)
    for name, signature in _public(reference).items():
        assert theirs[name] == signature, name


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [1, 13, 128])
def test_each_chain_is_its_composition_of_ops(fused: Kernels, rows: int, order: str) -> None:
    x, weight, bias, dy = _normal(rows, 60), _normal(60, 48), _normal(48), _normal(rows, 48)
    x, dy = (np.array(array, order=order) for array in (x, dy))  # type: ignore[call-overload]
    for name, extra in (("leaky_relu", (0.2,)), ("tanh", ()), ("sigmoid", ())):
        results = []
        for chains in (reference, fused.chains):
            dbias = np.full(48, np.nan, np.float32)
            y = getattr(chains, f"dense_{name}_forward")(x, weight, bias, *extra)
            dz = getattr(chains, f"dense_{name}_backward")(dy, y, *extra, dbias)
            without = getattr(chains, f"dense_{name}_backward")(dy, y, *extra)
            np.testing.assert_array_equal(without, dz)
            results.append((y, dz, dbias))
        for expected, found in zip(*results, strict=True):
            np.testing.assert_allclose(found, expected, **_CLOSE)


@pytest.mark.parametrize("width", [1, 24])
def test_the_gradient_of_a_dense_layers_input(fused: Kernels, width: int) -> None:
    dy, weight = _normal(19, width), _normal(40, width)
    expected, found = (chains.dense_backward_dx(dy, weight) for chains in (reference, fused.chains))
    np.testing.assert_allclose(found, expected, **_CLOSE)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_dropout_drops_exactly_the_same_elements(fused: Kernels, rate: float, slope: float) -> None:
    x, weight, bias, dy = _normal(21, 30), _normal(30, 64), _normal(64), _normal(21, 64)
    results = []
    for chains in (reference, fused.chains):
        y, slopes = chains.dense_leaky_relu_dropout_forward(x, weight, bias, slope, rate, 2, _KEY)
        dbias = np.empty(64, np.float32)
        results.append((y, slopes, chains.dense_leaky_relu_dropout_backward(dy, slopes, dbias), dbias))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, **_CLOSE)
    _, slopes = fused.chains.dense_leaky_relu_dropout_forward(x, weight, bias, 0.2, rate, 2, _KEY)
    np.testing.assert_array_equal(slopes == 0.0, Dropout(rate, 2).mask(slopes.shape, _KEY, np.float32) == 0.0)


def test_a_kink_is_on_the_left_piece_for_both(fused: Kernels) -> None:
    """Every z is 0, as in a network whose parameters are 0: the slopes are the reference's, and no zero looks dropped."""
    zeros = np.zeros((8, 16), np.float32), np.zeros((16, 8), np.float32), np.zeros(8, np.float32)
    _, expected = reference.dense_leaky_relu_dropout_forward(*zeros, 0.2, 0.3, 0, _KEY)
    _, found = fused.chains.dense_leaky_relu_dropout_forward(*zeros, 0.2, 0.3, 0, _KEY)
    np.testing.assert_array_equal(found, expected)


def test_out_of_the_wrong_order_and_odd_widths_are_refused(fused: Kernels) -> None:
    with pytest.raises(ValueError, match="column by column"):
        fused.chains.dense_tanh_forward(_normal(4, 3), _normal(3, 5), _normal(5), np.empty((4, 5), np.float32))
    with pytest.raises(ValueError, match="multiple of 8"):
        fused.chains.dense_leaky_relu_dropout_forward(_normal(4, 3), _normal(3, 5), _normal(5), 0.2, 0.3, 0, _KEY)


def test_the_losses(fused: Kernels) -> None:
    p = _RNG.uniform(0.0, 1.0, (50, 1)).astype(np.float32)
    p[:2] = [[0.0], [1.0]]
    target = (np.arange(50) % 2).astype(np.float32).reshape(50, 1)
    for name in ("binary_cross_entropy_forward", "binary_cross_entropy_backward"):
        expected, found = (getattr(chains, name)(p, target) for chains in (reference, fused.chains))
        np.testing.assert_allclose(found, expected, rtol=3e-6)


@pytest.mark.parametrize("count", [1, 1000, 40_000])
def test_adam_and_the_gradients_norm(fused: Kernels, count: int) -> None:
    """To 8 ulp of the larger of a number and 1, the size of what is added to it: a fused multiply-add rounds once where
    the reference rounds twice."""
    start = [_normal(count) for _ in range(3)] + [_normal(count) ** 2]
    results = []
    for chains in (reference, fused.chains):
        param, grad, m, v = (array.copy() for array in start)
        norm = chains.adam_update(param, grad, m, v, 3, 2e-4, 0.9, 0.999, 1e-8)
        results.append((param, m, v, np.float32(norm)))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=8 * 2.0**-23, atol=8 * 2.0**-23)


@pytest.mark.parametrize("shape", [(128, 100), (3, 7), (1, 1)])
def test_noise_is_as_near_to_float64_as_the_references(fused: Kernels, shape: tuple[int, int]) -> None:
    arguments = (2**40 + 3, Stream.LATENT, 9, 1, shape)
    exact = reference.normal(*arguments, dtype=np.float64)
    error, reference_error = (np.abs(chains.normal(*arguments) - exact) for chains in (fused.chains, reference))
    assert error.max() <= 1.5 * reference_error.max() + 1e-6


def test_pixels_are_the_same_to_the_bit(fused: Kernels) -> None:
    np.testing.assert_array_equal(fused.chains.scale_pixels(_IMAGES), reference.scale_pixels(_IMAGES))


def test_runs_of_layers_become_stages(fused: Kernels) -> None:
    g, d = generator(100, 0.2, kernels=fused), discriminator(0.3, 0.2, kernels=fused)
    assert [type(stage) for stage in (*g.stages, *d.stages)] == [Stage] * 8
    assert len(discriminator(0.3, 0.2, logits=True, kernels=fused).stages) == 4
    assert g.tensors.keys() == generator(100, 0.2).tensors.keys()
    double = generator(100, 0.2, np.float64, kernels=fused)
    assert double.kernels is REFERENCE and double.stages is double.layers


def _run(config: TrainConfig, backend: Backend, chosen: Kernels, steps: int, dtype: type = np.float32) -> TrainState:
    state = new_state(config, backend, dtype, chosen)
    for _ in iterate(state, _IMAGES, config):
        if state.step == steps:
            break
    return state


def _distance(a: Sequential, b: Sequential) -> float:
    return float(np.linalg.norm(a.parameters - b.parameters) / np.linalg.norm(b.parameters))


@pytest.mark.parametrize("option", [{}, {"loss": "bce-logits", "dropout_in_g_step": True, "label_smoothing": 0.1}])
def test_fifty_steps_stay_with_the_reference(backend: Backend, fused: Kernels, option: dict[str, object]) -> None:
    """Training magnifies rounding: Adam's first steps go by a gradient's sign, however small it is. At the usual learning
    rate the reference itself ends 5e-4 away after 50 steps when OpenBLAS adds up in another order (its Haswell or SkylakeX
    core), so 1e-5 is asked at a hundredth of that rate, where steps cannot magnify it, over the same 50 steps."""
    config = replace(TrainConfig(dataset="digits", epochs=100, batch_size=32, lr_g=2e-6, lr_d=2e-6), **option)  # type: ignore[arg-type]
    found, expected = (_run(config, backend, chosen, 50) for chosen in (fused, REFERENCE))
    assert _distance(found.generator, expected.generator) < 1e-5
    assert _distance(found.discriminator, expected.discriminator) < 1e-5


def test_at_the_usual_rate_fused_is_as_near_to_float64_as_the_reference(backend: Backend, fused: Kernels) -> None:
    config = TrainConfig(dataset="digits", epochs=100, batch_size=32)
    exact = _run(config, backend, REFERENCE, 10, np.float64)
    found, expected = (_run(config, backend, chosen, 10) for chosen in (fused, REFERENCE))
    for net in ("generator", "discriminator"):
        distance = _distance(getattr(found, net), getattr(exact, net))
        assert distance < 3.0 * _distance(getattr(expected, net), getattr(exact, net))


def test_results_are_repeatable_and_do_not_depend_on_the_kernels_threads(backend: Backend) -> None:
    config = TrainConfig(dataset="digits", epochs=2, batch_size=64)
    bytes_of = []
    for threads in (1, 2, 3, 2):
        state = _run(config, backend, kernels.select("fused", threads), 6)
        bytes_of.append(state.generator.parameters.tobytes() + state.discriminator.parameters.tobytes())
    assert len(set(bytes_of)) == 1


def test_the_steady_state_allocates_no_activations(backend: Backend, fused: Kernels) -> None:
    """The smallest activation, 128 rows of 256, would be 131 KB. 66 KB are the buffers that NumPy's tanh has for itself;
    the rest are Python's own objects, views of arrays and arrays with one number per row."""
    config = TrainConfig(dataset="digits", epochs=1000, batch_size=64)
    steps = iterate(new_state(config, backend, kernels=fused), _IMAGES[:192], config)
    for _ in range(8):
        next(steps)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            next(steps)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096
    assert peak - before < 90_000


def test_choices() -> None:
    assert kernels.select("reference").name == "reference"
    assert kernels.select("auto").name == "fused"
    with pytest.raises(InputError, match="--kernels"):
        kernels.select("fast")


def test_without_numba_the_reference_runs_and_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from npgan import kernels\n"
        "from npgan.errors import InputError\n"
        "print(kernels.select('auto'))\n"
        "try: kernels.select('fused')\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    chosen, error = done.stdout.splitlines()
    assert "name='reference'" in chosen and "npgan[fast]" in chosen
    assert error.startswith("--kernels fused") and "npgan[fast]" in error
