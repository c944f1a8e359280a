"""The inspector: it repeats a training step bit by bit, changes nothing, and quotes the code as it is."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from npgan.nn import ops
from npgan.backend import Backend
from npgan.config import TrainConfig
from npgan.inspector import StepTrace, Verdict, inspect_step, prove, toy_sections
from npgan.inspector.figures import moved_bytes, round_ticks, statistics
from npgan.inspector.page import math_html
from npgan.inspector.trace import copied
from npgan.inspector.toy import check_toy
from npgan.nn.layers import Dense, Dropout, DropoutKey, LeakyReLU, Maxout, ReLU, Sigmoid, Tanh
from npgan.gan import TrainState, new_state, new_workspace, train_step

ROWS = 8


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, 784)).astype(np.uint8)


@pytest.fixture(scope="module")
def trace(pixels: np.ndarray) -> StepTrace:
    config = TrainConfig(dataset="digits", batch_size=ROWS)
    return inspect_step(new_state(config, _numpy()), pixels, config)


@pytest.fixture(scope="module")
def verdicts(trace: StepTrace) -> dict[str, Verdict]:
    return prove(trace)


def _numpy() -> Backend:
    from npgan.backend import select

    return select("numpy")


def _bytes(state: TrainState) -> list[bytes]:
    nets, optimisers = (state.generator, state.discriminator), (state.adam_g, state.adam_d)
    arrays = [array for net in nets for array in (net.parameters, net.gradients)]
    arrays += [array for optimiser in optimisers for array in optimiser.tensors().values()]
    return [array.tobytes() for array in arrays] + [b"%d" % state.step]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "bce-logits", "dropout_in_g_step": True, "label_smoothing": 0.1},
        {"networks": "paper-2014", "optimiser": "sgd", "dropout": 0.5, "input_dropout": 0.2},
    ],
    ids=["tutorial", "options", "paper-2014"],
)
def test_the_inspected_step_is_the_one_that_training_does(options: dict, pixels: np.ndarray) -> None:
    config = TrainConfig(dataset="digits", batch_size=ROWS, **options)
    state, untouched = new_state(config, _numpy()), new_state(config, _numpy())
    for _ in range(2):
        seen = inspect_step(state, pixels, config)
        assert _bytes(state) == _bytes(untouched)  # inspecting changes nothing
        metrics = train_step(state, pixels, config, new_workspace(state, config, ROWS))
        train_step(untouched, pixels, config, new_workspace(untouched, config, ROWS))
        assert _bytes(seen.after) == _bytes(state) == _bytes(untouched)
        assert (seen.loss_d, seen.loss_g) == (float(metrics.loss_d), float(metrics.loss_g))


def test_a_walk_gives_the_gradients_of_sequential(trace: StepTrace) -> None:
    d = copied(trace.before).discriminator
    output, caches = d.forward(trace.images, DropoutKey(0, 0, 0))
    target = np.repeat(np.float32([1, 0]), ROWS).reshape(-1, 1)
    d.backward(ops.binary_cross_entropy_backward(output, target), caches, need_dx=False)
    for name, gradient in d.gradient_tensors.items():
        assert gradient.tobytes() == trace.gradients[f"D.{name}"].tobytes()


@pytest.mark.parametrize(
    "layer", [LeakyReLU(0.2), ReLU(), Maxout(2), Dropout(0.5, 0), Sigmoid(), Tanh(), Dense(4, 2)], ids=repr
)
def test_a_layer_calls_the_operations_that_are_shown_for_it(layer: object, trace: StepTrace) -> None:
    from npgan.inspector.trace import _OP_OF

    called: list[str] = []

    def watch(name: str) -> object:
        function = getattr(ops, name)
        return lambda *args, **more: (called.append(name), function(*args, **more))[1]

    names = [name for name in vars(ops) if name.endswith(("_forward", "_backward", "_dx", "_params"))]
    if isinstance(layer, Dense):
        layer.weight, layer.bias = np.ones((4, 2)), np.zeros(2)
        layer.dweight, layer.dbias = np.ones((4, 2)), np.zeros(2)
    with mock.patch.multiple(ops, **{name: watch(name) for name in names}):
        y, cache = layer.forward(np.ones((3, 4)), DropoutKey(0, 0, 0))  # type: ignore[attr-defined]
        layer.backward(y, cache)  # type: ignore[attr-defined]
    base = _OP_OF[type(layer)]
    backward = ["dense_backward_params", "dense_backward_dx"] if isinstance(layer, Dense) else [f"{base}_backward"]
    assert called == [f"{base}_forward", *backward]


def test_every_formula_and_line_is_the_one_in_the_code(trace: StepTrace) -> None:
    root = Path(ops.__file__).parent.parent
    definitions: dict[tuple[str, int], tuple[str, str]] = {}
    for file in ("npgan/ops.py", "npgan/layers.py"):
        for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"))):
            for function in [node] if isinstance(node, ast.FunctionDef) else []:
                definitions[file, function.lineno] = (
                    function.name,
                    " ".join((ast.get_docstring(function) or "").split()),
                )
    sources = [(op.name, op.source) for op in trace.ops] + [("", section.source) for section in toy_sections()]
    for name, source in sources:
        defined, docstring = definitions[source.file, source.line]
        if name:
            assert name.endswith(defined)
        if source.file == "npgan/ops.py":
            assert source.formula and source.formula in docstring
        lines = (root / source.file).read_text(encoding="utf-8").splitlines()
        assert all(text.strip() in lines[number - 1] or text == "…" for number, text in source.code)


def test_a_changed_docstring_is_shown_at_once(pixels: np.ndarray) -> None:
    from npgan.inspector.figures import read_op

    with mock.patch.object(ops.tanh_forward, "__doc__", "y = something else. Shapes: x (N, O) → y (N, O)."):
        assert read_op("ops.tanh_forward").formula == "y = something else"


def test_all_gradients_of_a_step_are_proved(trace: StepTrace, verdicts: dict[str, Verdict]) -> None:
    assert all(verdict.passed for verdict in verdicts.values())
    assert {name for name in verdicts if name[1] == "."} == set(trace.gradients)
    assert {op.name for op in trace.ops if op.name.startswith("ops.") and "backward" in op.name} <= set(verdicts)


def test_a_wrong_gradient_is_called_wrong(trace: StepTrace) -> None:
    trace.gradients["D.3.weight"][...] *= 2.0
    try:
        assert [name for name, verdict in prove(trace).items() if not verdict.passed] == ["D.3.weight"]
    finally:
        trace.gradients["D.3.weight"][...] /= 2.0


def test_arithmetic_of_the_whole_step() -> None:
    config = TrainConfig(dataset="digits")
    seen = inspect_step(new_state(config, _numpy()), np.zeros((128, 784), np.uint8), config)
    products = sum(op.flops for op in seen.ops if "dense" in op.name)
    assert products == pytest.approx(4.09e9, rel=2e-3)  # nothing but what the design asks for
    assert all(op.bytes == moved_bytes(op.tensors) for op in seen.ops if op.flops)


def test_shares_and_statistics(trace: StepTrace) -> None:
    kept = [op.shares["kept"] for op in trace.ops if op.name == "ops.dropout_forward"]
    assert kept == pytest.approx([0.7] * 3, abs=0.05)
    assert all(0.3 < op.shares["negative slope"] < 0.7 for op in trace.ops if "leaky_relu_forward" in op.name)
    x = np.array([[1.0, -3.0]])
    assert statistics(x) == pytest.approx((-1.0, 2.0, -3.0, 1.0, math.sqrt(10.0)))


def test_every_line_of_the_toy_step_is_true() -> None:
    """Works out the left side of every printed line, as a reader would, from the printed digits alone."""
    lines = [line for section in toy_sections() for line in section.lines]
    assert len(lines) > 150
    for line in lines:
        name, *expressions = line.split(" = ")
        assert len(expressions) == 2, line
        text = re.sub("√(.)", r"sqrt\1", expressions[0])
        for symbol, python in (("−", "-"), ("·", "*"), ("²", "**2")):
            text = text.replace(symbol, python)
        value = eval(text, {"exp": math.exp, "log": math.log, "sqrt": math.sqrt, "__builtins__": {}})
        assert value == pytest.approx(float(expressions[1].replace("−", "-")), rel=2e-3, abs=2e-5), line


def test_the_toy_step_is_proved() -> None:
    assert check_toy().passed


def test_formulas_are_typeset() -> None:
    assert math_html("∂L/∂W_io < x") == "∂<i>L</i>/∂<i>W</i><sub>io</sub> &lt; <i>x</i>"
    assert math_html("dx = slope·dy") == "<i>dx</i> = slope·<i>dy</i>"


def test_axis_labels_are_round() -> None:
    assert round_ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert round_ticks(0.02, 40.0, logarithmic=True) == pytest.approx([0.1, 1.0, 10.0])
    assert round_ticks(0.0012, 0.0062, logarithmic=True) == pytest.approx([0.002, 0.005])
