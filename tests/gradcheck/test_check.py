"""The gradient checker as a library: right gradients pass, wrong ones are explained, wrong use is a clear error."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import numpy as np
import pytest

from npgan.gradcheck import CENTRAL, COMPLEX, check_gradients
from npgan.gradcheck.adam import adam_factors
from npgan.gradcheck.check import FormulaCheck, run_check
from npgan.gradcheck.hints import JUNK, find_hint, locate, rows_factors
from npgan.gradcheck.methods import random_direction
from npgan.gradcheck.source import read_source
from npgan.gradcheck.trace import first_non_finite
from npgan.nn import ops
from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU
from npgan.nn.network import Sequential

Array = Any


def softplus(x: Array) -> Array:
    return np.log1p(np.exp(x))


def softplus_backward(dy: Array, x: Array) -> Array:
    """dx = dy·σ(x). Shapes: dy, x (N, O) → dx (N, O)."""
    return dy / (1.0 + np.exp(-x))


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def relu_backward(dy: Array, x: Array) -> Array:
    return dy * (x > 0)


def random(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_right_gradient_passes_to_the_last_digits() -> None:
    report = check_gradients(softplus, softplus_backward, [random(4, 5)])
    assert report.passed
    assert report.worst(COMPLEX) < 1e-14
    assert report.worst(CENTRAL) < 1e-8
    assert [(r.tensor, r.method, r.elements, r.directions) for r in report.results] == [
        ("input 0", COMPLEX, 20, 2),
        ("input 0", CENTRAL, 20, 2),
    ]
    assert report.to_dict()["passed"] is True


@pytest.mark.parametrize(("off", "failing"), [(0.0, set()), (1e-10, {COMPLEX}), (1e-4, {COMPLEX, CENTRAL})])
def test_how_much_a_gradient_may_be_off(off: float, failing: set[str]) -> None:
    """The tolerances are 1e-12 and 1e-6, whatever their names in the code."""
    report = check_gradients(softplus, lambda dy, x: softplus_backward(dy, x) * (1.0 + off), [random(4, 5)])
    assert {result.method for result in report.failures} == failing
    assert {result.method: result.tolerance for result in report.results} == {COMPLEX: 1e-12, CENTRAL: 1e-6}
    assert all(20 <= result.wrong <= 22 for result in report.failures)  # 20 elements, and directions that do not cancel


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_number_that_is_not_finite_is_never_right(bad: float, side: int) -> None:
    values = [np.ones(4), np.ones(4)]
    values[side][2] = bad
    check = FormulaCheck("user", "nn.ops.tanh_forward", lambda: {"a": (values[0], values[1])})
    (result,) = run_check(check, np.random.default_rng(0))
    assert not result.passed and result.error > 1.0 and result.wrong >= 1


def test_a_formula_is_held_to_the_last_digits_too() -> None:
    for off, passed in ((0.0, True), (0.9e-12, True), (1.1e-12, False), (1e-9, False)):
        check = FormulaCheck("user", "nn.ops.tanh_forward", lambda off=off: {"a": (np.full(4, 1.0 + off), np.ones(4))})
        (result,) = run_check(check, np.random.default_rng(0))
        assert result.passed is passed and result.tolerance == 1e-12 and result.wrong == (0 if passed else 4)


def test_several_named_inputs_and_a_scalar_result() -> None:
    def f(x: Array, w: Array) -> Array:
        return np.sum(np.tanh(x @ w))

    def df(dy: Array, x: Array, w: Array) -> tuple[Array, Array]:
        dz = dy * (1.0 - np.tanh(x @ w) ** 2)
        return dz @ w.T, x.T @ dz

    report = check_gradients(f, df, {"x": random(3, 4), "w": random(4, 2, seed=2)})
    assert report.passed, report
    assert {r.tensor for r in report.results} == {"x", "w", "all parameters"}


def test_float32_inputs_are_checked_in_float64() -> None:
    assert check_gradients(softplus, softplus_backward, [random(4, 5).astype(np.float32)]).worst(COMPLEX) < 1e-14


def test_a_failure_prints_numbers_formula_code_and_hint() -> None:
    def wrong_backward(dy: Array, x: Array) -> Array:
        """dx = dy·σ(x)."""
        return -dy / (1.0 + np.exp(-x))

    report = check_gradients(softplus, wrong_backward, [random(4, 5)])
    assert not report.passed
    assert {result.hint.kind for result in report.failures} == {"sign"}
    text = str(report)
    for expected in (
        "FAIL",
        "dx = dy·σ(x).",
        "return -dy / (1.0 + np.exp(-x))",
        "test_check.py:",
        "sign",
        "seed 0",
    ):
        assert expected in text


def test_a_report_is_text_in_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """There rich displays what it is given, whatever file it has."""
    report = check_gradients(softplus, softplus_backward, [_normal(2, 3)])
    text = str(report)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert "comparisons pass" in str(report) == text


def test_the_formula_is_found_behind_other_words() -> None:
    def backward(dy: Array, x: Array) -> Array:
        """One step back. Shapes: dy, x (N, O) → dx (N, O).

        dx = dy·σ(x), element
        by element. Shapes: as above.

        y = log(1 + eˣ) has the slope σ(x).
        """
        return softplus_backward(dy, x)

    source = read_source(backward)
    assert source is not None and source.formula == "dx = dy·σ(x), element by element."
    assert [line for _, line in source.code] == ["return softplus_backward(dy, x)"]


def test_a_function_of_a_docstring_alone_is_quoted_too() -> None:
    def nothing(dy: Array, x: Array) -> None:
        """dx = nothing."""

    source = read_source(nothing)
    assert source is not None and [line for _, line in source.code] == ['"""dx = nothing."""']


def test_the_same_seed_gives_the_same_report() -> None:
    def numbers(seed: int) -> list[float]:
        report = check_gradients(softplus, softplus_backward, [random(3, 3)], seed=seed)
        return [result.analytic for result in report.results]

    assert numbers(3) == numbers(3) != numbers(4)


def test_kinks_are_kept_off_and_counted() -> None:
    x = random(4, 5)
    x[0, 0], x[1, 1], x[2, 2], x[3, 3] = 0.0, 3e-6, -3e-6, 1e-9
    report = check_gradients(relu, relu_backward, [x], kinks=lambda x: x, directions=0)
    assert report.passed, report
    exact, central = report.results
    assert (exact.at_kink, exact.elements) == (1, 19)
    assert (central.at_kink, central.shrunk, central.elements) == (2, 2, 18)
    assert not check_gradients(relu, relu_backward, [x], directions=0).passed


def test_nothing_but_kinks_is_not_a_pass() -> None:
    report = check_gradients(relu, relu_backward, [np.zeros((2, 2))], kinks=lambda x: x, directions=0)
    assert not report.passed
    assert "nothing is left to compare" in report.failures[0].problem


def test_a_sample_of_elements_and_directions() -> None:
    def df(dy: Array, x: Array) -> Array:
        dx = softplus_backward(dy, x)
        dx[100, 100] += 1e-3  # one element in 40,000: no sample would meet it
        return dx

    x = random(200, 200)
    assert check_gradients(softplus, softplus_backward, [x], elements=5).passed
    report = check_gradients(softplus, df, [x], elements=5)
    assert not report.passed
    assert report.failures[0].index == ()  # a direction found it


def test_directions_have_no_tiny_coordinate() -> None:
    u = random_direction({"a": (1000,), "b": (10, 100)}, np.random.default_rng(0))
    together = np.abs(np.concatenate([part.reshape(-1) for part in u.values()])) * 2000**0.5
    assert together.min() >= 0.5 and together.max() <= 1.5


def test_non_finite_values_are_named() -> None:
    def f(x: Array) -> Array:
        return np.log(x)

    report = check_gradients(f, lambda dy, x: dy / x, {"x": np.array([1.0, 0.0])}, methods=[CENTRAL])
    assert "loss of" in report.failures[0].problem

    report = check_gradients(np.exp, lambda dy, x: dy / (x - 1.0), {"x": np.array([0.0, 1.0])}, methods=[CENTRAL])
    assert report.failures[0].problem == "the gradient of x has 1 non-finite values, the first at [1]"


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (np.nan, "nn.ops.sigmoid_forward was given nan in x[0, 1]"),
        (np.inf, "nn.ops.sigmoid_forward was given inf in x[0, 1]"),
        (800.0, ""),
    ],
)
def test_the_first_operation_that_was_given_no_number_is_told(x: float, told: str) -> None:
    assert first_non_finite(lambda: ops.sigmoid_forward(np.array([[0.0, x]]))) == told
    assert first_non_finite(lambda: ops.tanh_forward(np.zeros(2))) == ""


def test_what_a_missing_bias_correction_does_to_adam() -> None:
    both, first, second = (factor.value for factor in adam_factors(5, 0.9, 0.999))
    assert first == pytest.approx(0.40951) and second == pytest.approx(1.0 / 0.004990009995001**0.5)
    assert both == pytest.approx(first * second)


def test_a_function_that_is_not_analytic_is_told_from_a_wrong_gradient() -> None:
    def f(x: Array) -> Array:
        return x * np.abs(x)

    report = check_gradients(f, lambda dy, x: dy * 2.0 * np.abs(x), [random(3, 3)], kinks=lambda x: x)
    assert {result.hint.kind for result in report.failures} == {"not-analytic"}
    assert check_gradients(f, lambda dy, x: dy * 2.0 * np.abs(x), [random(3, 3)], methods=[CENTRAL]).passed


X = random(3, 4)


@pytest.mark.parametrize(
    ("f", "df", "inputs", "error", "message"),
    [
        (softplus, lambda dy, x: None, [X], TypeError, "no gradient"),
        (softplus, lambda dy, x: 1.0, [X], TypeError, "float, not an array"),
        (softplus, lambda dy, x: dy + 0j, [X], TypeError, "complex128"),
        (softplus, lambda dy, x: (dy, dy), [X], ValueError, "2 gradients for 1 inputs"),
        (softplus, lambda dy, x: dy.T, [X], ValueError, r"shape \(4, 3\), but input 0 has shape \(3, 4\)"),
        (softplus, softplus_backward, [np.arange(3)], TypeError, "int64"),
        (softplus, softplus_backward, [X + 0j], TypeError, "complex128"),
        (softplus, softplus_backward, [1.0], TypeError, "not an array"),
        (softplus, softplus_backward, [np.zeros((0, 2))], ValueError, "no elements"),
        (softplus, softplus_backward, [], ValueError, "empty"),
        (softplus, softplus_backward, X, TypeError, "list or a dict"),
        (softplus, None, [X], TypeError, "two functions"),
        (lambda x: None, softplus_backward, [X], TypeError, "f returned a NoneType"),
        (lambda x: x > 0, softplus_backward, [X], TypeError, "f returned bool"),
        (lambda x: np.exp(x, out=x), softplus_backward, [X], ValueError, "changed input 0 in place"),
        (np.abs, softplus_backward, [X], TypeError, "methods=.CENTRAL"),
        (lambda x: x * np.cbrt(x), softplus_backward, [X], TypeError, "does not take complex"),
        (lambda x: np.exp(x).astype(float), softplus_backward, [X], TypeError, "does not take complex"),
    ],
)
def test_wrong_use_is_a_clear_error(f: Any, df: Any, inputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_gradients(f, df, inputs)


@pytest.mark.parametrize("elements", [1, 2, 3])
def test_a_few_elements(elements: int) -> None:
    report = check_gradients(softplus, softplus_backward, [random(4, 5)], elements=elements)
    assert {result.elements for result in report.results if result.method == COMPLEX} == {max(elements, 2)}
    with pytest.raises(ValueError, match="elements must be at least 1"):
        check_gradients(softplus, softplus_backward, [random(4, 5)], elements=0)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="methods must be among"):
        check_gradients(softplus, softplus_backward, [X], methods=["magic"])


RIGHT = random(12)


@pytest.mark.parametrize(
    ("analytic", "kind"),
    [
        (np.zeros(12), "zero"),
        (-RIGHT, "sign"),
        (6.0 * RIGHT, "mean-sum"),
        (RIGHT / 6.0, "mean-sum"),
        (1.7 * RIGHT, "factor"),
        (RIGHT.reshape(4, 3).T.reshape(-1), "transposed"),
        (RIGHT + JUNK, "accumulates"),
        (np.where(np.arange(12) % 2, 0.2, 5.0) * RIGHT, "branches"),
        (np.where(np.arange(12) < 5, 3.0, 1.0) * RIGHT, "partial-factor"),
        (np.where(np.arange(12) < 5, 0.0, 1.0) * RIGHT, "zero"),
        (RIGHT * (1.0 + 1e-8), "small"),
        (RIGHT**2, "other"),
    ],
)
def test_hints_go_by_the_pattern(analytic: Array, kind: str) -> None:
    assert find_hint(analytic, RIGHT, (4, 3), rows_factors(6), exact=True).kind == kind


def test_hint_of_a_forgotten_mask() -> None:
    mask = np.arange(12) % 3 > 0
    assert find_hint(RIGHT, RIGHT * mask * 1.5, None, [], exact=True).kind == "mask"
    assert find_hint(RIGHT, 0.0 * RIGHT, None, [], exact=True).kind == "should-be-zero"


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ([], ""),
        (["0.weight", "0.bias"], "right back to layer 2, wrong from layer 0"),
        (["0.weight", "0.bias", "2.weight"], "layer 2: the bias is right"),
        (["2.bias"], "layer 2: the weight is right"),
        (["0.weight", "4.weight", "4.bias"], "wrong from the last layer (4)"),
    ],
)
def test_the_layer_to_look_at(wrong: list[str], expected: str) -> None:
    names = [f"{layer}.{tensor}" for layer in (0, 2, 4) for tensor in ("weight", "bias")]
    where = locate({"x": True} | {name: name in wrong for name in names})
    assert where.startswith(expected) and bool(where) == bool(expected)


# --- layers and networks


class _Square(Layer):
    """y = gain·x²."""

    gain: Array
    dgain: Array

    def __init__(self, width: int) -> None:
        self.width = width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gain": (self.width,)}

    def initialize(self, seed: int, site: int) -> None:
        self.gain[...] = 1.5

    def forward(self, x: Array, key: DropoutKey | None = None) -> tuple[Array, tuple[Array]]:
        return self.gain * x**2, (x,)

    def backward(self, dy: Array, cache: tuple[Array]) -> Array:
        self.dgain[...] = (dy * cache[0] ** 2).sum(axis=0)
        return 2.0 * dy * self.gain * cache[0]


def _normal(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape)


def test_a_network_with_dropout_and_a_nested_one_is_checked_and_left_as_it_is() -> None:
    net = Sequential([Dense(3, 8), LeakyReLU(), Dropout(0.3), Sequential([_Square(8), Dense(8, 2)])], seed=4)
    net.gradients[:] = 3.0
    before = net.parameters.copy()
    report = check_gradients(net, _normal(5, 3).astype(np.float32))
    assert report.passed, report
    assert {"x", "0.weight", "3.0.gain", "3.1.bias", "gradients"} <= {result.tensor for result in report.results}
    np.testing.assert_array_equal(net.parameters, before)
    assert (net.gradients == 3.0).all() and net.parameters.dtype == np.float32


def test_a_layer_is_checked_without_a_network() -> None:
    layer = _Square(3)
    report = check_gradients(layer, _normal(4, 3))
    assert report.passed
    assert {result.method: result.tolerance for result in report.results} == {COMPLEX: 1e-10, CENTRAL: 1e-6}
    assert not hasattr(layer, "gain")
    assert check_gradients(Dense(3, 2), _normal(4, 3)).passed


@pytest.mark.parametrize(
    ("old", "new", "tensor"),
    [
        ("(dy * cache[0] ** 2).sum(axis=0)", "dy.sum(axis=0)", "gain"),
        ("2.0 * dy * self.gain * cache[0]", "dy * self.gain * cache[0]", "x"),
        ("self.dgain[...] = ", "_ = ", "gain"),
        ("self.dgain[...] = ", "self.dgain[...] += ", "gain"),
    ],
)
def test_a_wrong_layer_is_found_and_quoted(old: str, new: str, tensor: str) -> None:
    names = dict(globals())
    text = textwrap.dedent(inspect.getsource(_Square)).replace(old, new)
    exec(compile(text, __file__, "exec"), names)
    report = check_gradients(names["_Square"](3), _normal(4, 3))
    assert {result.tensor for result in report.failures} - {"all parameters"} == {tensor}
    assert "_Square.backward" in str(report)


def test_a_backward_input_that_touches_the_gradients_is_found() -> None:
    class Greedy(_Square):
        def backward(self, dy: Array, cache: tuple[Array]) -> Array:
            return super().backward(dy, cache)

        def backward_input(self, dy: Array, cache: tuple[Array]) -> Array:
            return self.backward(dy, cache)

    report = check_gradients(Greedy(3), _normal(4, 3))
    assert {result.tensor for result in report.failures} == {"gradients"}


def test_a_large_network_is_sampled() -> None:
    report = check_gradients(Sequential([Dense(40, 60), Dense(60, 1)]), _normal(3, 40))
    assert report.passed
    assert max(result.elements for result in report.results if result.tensor == "0.weight") == 50
    exact = check_gradients(Sequential([Dense(4, 6)]), _normal(3, 4), elements=5)
    assert max(result.elements for result in exact.results if result.method == COMPLEX) == 5


@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn_is_not_what_the_reader_has_drawn(seed: int) -> None:
    """With dy = x, dx of x/‖x‖ is 0 but for rounding."""
    x = np.random.default_rng(seed).normal(size=(4, 6))

    def normalize(x: Array) -> Array:
        return x / np.sqrt((x**2).sum())

    def backward(dy: Array, x: Array) -> Array:
        norm = np.sqrt((x**2).sum())
        return dy / norm - x * (dy * x).sum() / norm**3

    report = check_gradients(normalize, backward, [x], seed=seed)
    assert report.passed, report
    assert min(result.largest for result in report.results) > 1e-3


def test_inputs_that_are_refused() -> None:
    net = Sequential([Dense(3, 2)])
    for x, error, told in (
        (np.ones((2, 3), int), TypeError, "x is int64"),
        (np.full((2, 3), np.nan), ValueError, "x holds NaN or infinity"),
        (np.ones((0, 3)), ValueError, "x has no elements"),
        (_normal(2, 4), ValueError, r"Dense\(3, 2\): got float64 of shape \(2, 4\), wanted floats of shape \(N, 3\)"),
    ):
        with pytest.raises(error, match=told):
            check_gradients(net, x)
    with pytest.raises(TypeError, match=r"check_gradients\(layer, x\)"):
        check_gradients(net, _normal(2, 3), [_normal(2, 3)])
    with pytest.raises(ValueError, match="x holds NaN"):
        check_gradients(np.tanh, lambda dy, x: dy, {"x": np.array([1.0, np.inf])})


def test_an_input_at_which_a_wrong_backward_need_not_show_is_noted() -> None:
    def wrong(dy: Array, x: Array) -> Array:
        return dy  # of tanh: right at 0 only

    report = check_gradients(np.tanh, wrong, {"x": np.zeros(5)})
    assert report.passed and "x is 0 everywhere" in str(report) and report.to_dict()["notes"]
    dead = check_gradients(lambda x: np.maximum(x, 0.0), lambda dy, x: 0.0 * dy, {"x": -np.abs(_normal(6)) - 1.0})
    assert dead.passed and "all derivatives that were compared in x are 0" in str(dead)
    assert not check_gradients(np.tanh, lambda dy, x: dy / np.cosh(x) ** 2, {"x": _normal(6)}).notes
    assert not check_gradients(Dropout(0.9), _normal(6, 6)).notes


@pytest.mark.parametrize(
    "wrong",
    [{"elements": 2.5}, {"directions": -1}, {"directions": "a"}, {"tolerance": 0.0}, {"tolerance": float("inf")},
     {"tolerance": float("nan")}],
)  # fmt: skip
def test_settings_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must be"):
        check_gradients(lambda x: x * x, lambda dy, x: dy * 2 * x, [np.ones(3)], **wrong)


def test_an_empty_output_proves_nothing() -> None:
    with pytest.raises(ValueError, match="f returned no elements"):
        check_gradients(lambda x: x[:0], lambda dy, x: np.zeros_like(x), [np.ones(3)])
