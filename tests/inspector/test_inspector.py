"""The inspector: it records training's own step, changes nothing, and quotes the code as it is."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from npgan.backend import Backend, select
from npgan.config import PRESETS, TrainConfig
from npgan.gan import LATENT_G, TrainState, new_state, noise, train_step
from npgan.inspector import Op, StepTrace, Verdict, inspect_step, prove, toy_sections
from npgan.inspector.figures import moved_bytes, quantity, read_op, round_ticks, shares, statistics
from npgan.inspector.history import snapshot
from npgan.inspector.page import math_html
from npgan.inspector.toy import check_toy
from npgan.inspector.trace import D_STEP, G_STEP, copied
from npgan.nn import ops
from npgan.nn.layers import DropoutKey

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
    return select("numpy")


def _bytes(state: TrainState) -> list[bytes]:
    arrays = [array for net in (state.generator, state.discriminator) for array in (net.parameters, net.gradients)]
    arrays += [array for adam in (state.optimizer_g, state.optimizer_d) for array in (adam.m, adam.v)]
    arrays += [state.average.parameters] if state.average else []
    counts = state.step, state.optimizer_g.step, state.optimizer_d.step
    return [array.tobytes() for array in arrays] + [repr(counts).encode()]


@pytest.mark.parametrize(
    "options",
    [{}, {"loss": "bce-logits", "dropout_in_g_step": True, "label_smoothing": 0.1}, PRESETS["r3gan"]],
    ids=["tutorial", "options", "r3gan"],
)
def test_the_inspected_step_is_the_one_that_training_does(options: dict, pixels: np.ndarray) -> None:
    config = TrainConfig(dataset="digits", batch_size=ROWS, **options)
    state, untouched = new_state(config, _numpy()), new_state(config, _numpy())
    for _ in range(2):
        seen = inspect_step(state, pixels, config)
        assert _bytes(state) == _bytes(untouched)  # inspecting changes nothing
        assert _bytes(seen.before) == _bytes(untouched)
        metrics = train_step(state, pixels, config)
        train_step(untouched, pixels, config)
        assert _bytes(seen.after) == _bytes(state) == _bytes(untouched)
        assert (seen.loss_d, seen.loss_g) == (float(metrics.loss_d), float(metrics.loss_g))
        assert (seen.p_d[:ROWS].mean(), seen.p_d[ROWS:].mean()) == (metrics.d_real, metrics.d_fake)
    assert ops.dense_forward.__name__ == "dense_forward"  # nothing is watched any more


def test_the_record_has_the_gradients_of_sequential(trace: StepTrace) -> None:
    d = copied(trace.before).discriminator
    output, caches = d.forward(trace.images, DropoutKey(0, 0, 0))
    target = np.repeat(np.float32([1, 0]), ROWS).reshape(-1, 1)
    d.backward(ops.binary_cross_entropy_backward(output, target), caches)
    for name, gradient in d.gradient_tensors.items():
        assert gradient.tobytes() == trace.gradients[f"D.{name}"].tobytes()
    d = copied(trace.after).discriminator
    output, caches = d.forward(trace.samples)
    dsamples = d.backward_input(ops.binary_cross_entropy_backward(output, np.ones_like(output)), caches)
    assert dsamples.tobytes() == trace.dsamples.tobytes()


def test_every_operation_stands_where_training_calls_it(trace: StepTrace) -> None:
    def functions(step: str, part: str, key: str) -> list[str]:
        return [op.function for op in trace.ops if (op.step, op.part, op.key) == (step, part, key)]

    parts = list(dict.fromkeys((op.step, op.part) for op in trace.ops))
    assert parts == [
        *((D_STEP, part) for part in ("G forward", "D forward", "loss", "D backward", "update")),
        *((G_STEP, part) for part in ("G forward", "D forward", "loss", "D backward", "G backward", "update")),
    ]
    both = ["dense_backward_params", "dense_backward_dx"]
    for step, in_d in ((D_STEP, both), (G_STEP, ["dense_backward_dx"])):
        assert functions(step, "G forward", "G.7") == ["tanh_forward"]
        assert functions(step, "D forward", "D.10") == ["sigmoid_forward"]
        assert functions(step, "loss", "loss") == ["binary_cross_entropy_forward", "binary_cross_entropy_backward"]
        assert functions(step, "D backward", "D.10") == ["sigmoid_backward"]
        assert functions(step, "D backward", "D.0") == functions(step, "D backward", "D.9") == in_d
        assert functions(step, "D forward", "D.1") == ["leaky_relu_forward"]
        assert functions(step, "D backward", "D.1") == ["leaky_relu_backward"]
    assert functions(D_STEP, "D forward", "D.2") == ["dropout_forward"]
    assert functions(D_STEP, "D backward", "D.2") == ["dropout_backward"]
    assert functions(G_STEP, "D forward", "D.2") == ["Dropout.forward"]  # off
    assert functions(G_STEP, "D backward", "D.2") == ["Dropout.backward"]
    assert functions(G_STEP, "G backward", "G.7") == ["tanh_backward"]
    assert functions(G_STEP, "G backward", "G.0") == both
    assert functions(D_STEP, "update", "D") == functions(G_STEP, "update", "G") == ["Adam.update"]
    assert trace.ops[0].where == "G.0 Dense 100→256"


def test_each_operation_reads_what_the_one_before_wrote(trace: StepTrace) -> None:
    """From G's noise to D's output, and from the loss back to the noise, except where the fakes join real images."""
    chain = [op for op in trace.ops if op.step == G_STEP and op.part.endswith("ward")]
    chain = [op for op in chain if op.function != "dense_backward_params"]
    for before, after in zip(chain, chain[1:], strict=False):
        if before.part.endswith("forward") == after.part.endswith("forward"):
            read, written = ("x", "y") if after.part.endswith("forward") else ("dy", "dx")
            assert np.shares_memory(after.tensors[read], before.tensors[written])


def test_what_a_forward_keeps_is_what_its_backward_reads(trace: StepTrace) -> None:
    def kept(step: str, net: str) -> dict[str, str]:
        return {op.function: op.cached for op in trace.ops if (op.step, op.part) == (step, net)}

    assert set(kept(D_STEP, "G forward").values()) == {""}  # no gradient goes into G
    assert kept(D_STEP, "D forward") == {
        "dense_forward": "x", "leaky_relu_forward": "x", "dropout_forward": "mask", "sigmoid_forward": "y",
    }  # fmt: skip
    assert kept(D_STEP, "loss") == {"binary_cross_entropy_forward": "p", "binary_cross_entropy_backward": ""}
    assert kept(G_STEP, "G forward") == {"dense_forward": "x", "leaky_relu_forward": "x", "tanh_forward": "y"}
    assert kept(G_STEP, "D forward")["dense_forward"] == ""  # D's weights are not to be trained here
    assert all(op.cached_why for op in trace.ops if op.cached)


def test_parameters_are_shown_as_they_were_read(trace: StepTrace) -> None:
    def weight(step: str, part: str) -> np.ndarray:
        return next(op for op in trace.ops if (op.step, op.part) == (step, part)).tensors["weight"]

    before, after = trace.before.discriminator.tensors["0.weight"], trace.after.discriminator.tensors["0.weight"]
    assert weight(D_STEP, "D forward").tobytes() == before.tobytes() != after.tobytes()
    assert weight(G_STEP, "D forward").tobytes() == after.tobytes()
    assert weight(G_STEP, "G forward").tobytes() == trace.before.generator.tensors["0.weight"].tobytes()
    for op, new, old in (
        (_only(trace, "D", "Adam.update"), trace.after.discriminator, trace.before.discriminator),
        (_only(trace, "G", "Adam.update"), trace.after.generator, trace.before.generator),
    ):
        assert op.tensors["parameters"].tobytes() == old.parameters.tobytes()
        assert op.tensors["change"].tobytes() == (new.parameters - old.parameters).tobytes()


def _only(trace: StepTrace, key: str, function: str) -> Op:
    (op,) = [op for op in trace.ops if (op.key, op.function) == (key, function)]
    return op


def test_logits_leave_the_sigmoid_to_the_loss(pixels: np.ndarray) -> None:
    config = TrainConfig(dataset="digits", batch_size=ROWS, loss="bce-logits")
    seen = inspect_step(new_state(config, _numpy()), pixels, config)
    outside = [(op.step, op.where, op.function) for op in seen.ops if op.part == "loss"]
    name = "binary_cross_entropy_with_logits"
    assert outside == [
        (D_STEP, "probability", "sigmoid_forward"), (D_STEP, "loss", f"{name}_forward"), (D_STEP, "loss", f"{name}_backward"),
        (G_STEP, "loss", f"{name}_forward"), (G_STEP, "loss", f"{name}_backward"),
    ]  # fmt: skip
    assert all(verdict.passed for verdict in prove(seen).values())


def test_a_penalty_has_a_part_of_its_own(pixels: np.ndarray) -> None:
    """Down D as a backward that leaves the weights alone, and up again as its derivative; proved like all others."""
    config = TrainConfig(dataset="digits", batch_size=ROWS, **{**PRESETS["r3gan"], "dropout": 0.3})
    seen = inspect_step(new_state(config, _numpy()), pixels, config)
    part = [op for op in seen.ops if op.part == "D penalty"]
    assert {op.step for op in part} == {D_STEP}
    down, up = part[:10], part[10:]
    assert [op.key for op in down] == [op.key for op in reversed(up)]
    assert {op.function for op in down} == {"dense_backward_dx", "leaky_relu_backward", "dropout_backward"}
    assert [op.function for op in up[:3]] == ["dense_double_backward", "leaky_relu_backward", "dropout_backward"]
    assert down[0].tensors["dy"].tobytes() == np.ones_like(seen.p_d).tobytes()
    assert up[0].flops == 2 * (2 * 2 * ROWS * 784 * 1024)  # two matmuls
    verdicts = prove(seen)
    assert {op.name for op in part if op.name.startswith("nn.ops")} <= set(verdicts)
    assert all(verdict.passed for verdict in verdicts.values())
    assert seen.samples.shape == seen.dsamples.shape == (ROWS, 784) and seen.p_g.shape == (ROWS, 1)
    latent = noise(seen.before, config, LATENT_G, ROWS)
    np.testing.assert_array_equal(seen.samples, seen.before.generator(latent))  # not the real images of the pairs
    seen.gradients["D.3.weight"][...] *= 2.0
    assert [name for name, verdict in prove(seen).items() if not verdict.passed] == ["D.3.weight"]


def test_every_formula_and_line_is_the_one_in_the_code(trace: StepTrace) -> None:
    root = Path(ops.__file__).parents[2]
    definitions: dict[tuple[str, int], tuple[str, str]] = {}
    for file in ("npgan/nn/ops.py", "npgan/nn/layers.py", "npgan/nn/optim.py"):
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
        if source.file != "npgan/nn/layers.py":
            assert source.formula and source.formula in docstring
        lines = (root / source.file).read_text(encoding="utf-8").splitlines()
        assert all(text.strip() in lines[number - 1] or text == "…" for number, text in source.code)


def test_a_changed_docstring_is_shown_at_once(pixels: np.ndarray) -> None:
    with mock.patch.object(ops.tanh_forward, "__doc__", "y = something else. Shapes: x (N, O) → y (N, O)."):
        assert read_op("nn.ops.tanh_forward").formula == "y = something else"


def test_all_gradients_of_a_step_are_proved(trace: StepTrace, verdicts: dict[str, Verdict]) -> None:
    assert all(verdict.passed for verdict in verdicts.values())
    assert {name for name in verdicts if name[1] == "."} == set(trace.gradients)
    assert {op.name for op in trace.ops if op.flops and not op.name.endswith("_forward")} <= set(verdicts)


def test_updates_are_measured_on_the_weights_before_and_after(trace: StepTrace) -> None:
    assert len(trace.updates) == 16
    for update in trace.updates:
        nets = [
            getattr(state, {"D": "discriminator", "G": "generator"}[update.net])
            for state in (trace.before, trace.after)
        ]
        old, new = (net.tensors[update.name].astype(np.float64) for net in nets)
        gradient = trace.gradients[f"{update.net}.{update.name}"]
        assert update.gradient == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        assert update.weight == pytest.approx(np.linalg.norm(old), rel=1e-5)
        assert update.change == pytest.approx(np.linalg.norm(new - old), rel=1e-3)
        if update.name.endswith("bias"):  # 0 at the start
            assert math.isnan(update.ratio)
        else:
            assert update.ratio == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-3)


def test_accuracy_is_the_share_of_rows_that_d_calls_by_their_name(trace: StepTrace) -> None:
    p_d = np.array([0.9, 0.6, 0.5, 0.1, 0.5, 0.4, 0.2, 0.51])[
        :, None
    ]  # four real rows, of which two, and of the fakes three
    seen = replace(trace, p_d=p_d, p_g=np.array([[0.3], [0.5]]))
    assert seen.accuracy == 5 / 8
    shot = snapshot(seen, images=24)
    assert shot.figures["accuracy of D"] == 5 / 8
    assert shot.figures["D(real)"] == pytest.approx((0.9 + 0.6 + 0.5 + 0.1) / 4)
    assert shot.figures["D(fake)"] == pytest.approx((0.5 + 0.4 + 0.2 + 0.51) / 4)
    assert shot.figures["D(fake), G step"] == pytest.approx(0.4)
    assert shot.step == 1 and shot.epoch == 0.0
    assert set(shot.share) == {f"{op.key} {name}" for op in seen.ops for name in op.shares} - {
        f"{op.key} kept" for op in seen.ops
    }
    assert any("saturated" in name for name in shot.share) and any("negative slope" in name for name in shot.share)
    assert set(shot.ratio) == {
        f"{net}.{index}.weight" for net, stride in (("D", 3), ("G", 2)) for index in range(0, 4 * stride, stride)
    }


@pytest.mark.parametrize(
    ("function", "tensors", "share"),
    [
        ("tanh_forward", {"y": [0.98, -0.995, 0.9901, 0.0]}, {"saturated": 0.5}),
        ("sigmoid_forward", {"y": [0.011, 0.009, 0.9905, 0.985]}, {"saturated": 0.5}),
        ("leaky_relu_forward", {"x": [0.0, -1.0, 1.0, 2.0]}, {"negative slope": 0.5}),
    ],
)
def test_what_counts_as_saturated(function: str, tensors: dict[str, list[float]], share: dict[str, float]) -> None:
    assert shares(function, {name: np.array(values) for name, values in tensors.items()}) == share


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
    unused = 2 * 256 * 1024 * 784 + 2 * 128 * 256 * 100  # dx of D's first layer in the D step, and of G's
    assert products - unused == pytest.approx(4.09e9, rel=2e-3)  # nothing but what the design asks for
    assert all(op.bytes == moved_bytes(op.tensors) for op in seen.ops if op.flops)


def test_shares_and_statistics(trace: StepTrace) -> None:
    kept = [op.shares["kept"] for op in trace.ops if op.function == "dropout_forward"]
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
    assert math_html("db = Σ_n dy_n, G's") == "<i>db</i> = Σ<sub>n</sub> <i>dy</i><sub>n</sub>, <i>G</i>'s"
    assert math_html("dx = slope·dy") == "<i>dx</i> = slope·<i>dy</i>"


def test_axis_labels_are_round() -> None:
    assert round_ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert round_ticks(2.5, 2.5) == [2.5, 2.5]
    assert round_ticks(0.02, 40.0, logarithmic=True) == pytest.approx([0.1, 1.0, 10.0])
    assert round_ticks(0.0012, 0.0062, logarithmic=True) == pytest.approx([0.002, 0.005])


def test_quantities_have_one_prefix() -> None:
    counts = (9_999, 12_345, 4_560_000_000)
    assert [quantity(count, "FLOP") for count in counts] == ["9,999 FLOP", "12.3 kFLOP", "4.56 GFLOP"]
    assert [quantity(count) for count in (7, 65_500)] == ["7", "65.5 k"]
