"""``npgan gradcheck``: it covers all there is, passes, catches every planted bug at the right function, and says so well."""

from __future__ import annotations

import functools
import inspect
import io
import json
import sys
from typing import Any

import numpy as np
import pytest

from npgan import backend
from npgan.backend import Array
from npgan.console import Console
from npgan.engines import Choice
from npgan.engines.base import FusedEngine
from npgan.engines.reference import ReferenceKernels
from npgan.errors import InputError
from npgan.gradcheck import command
from npgan.gradcheck.check import run_check
from npgan.gradcheck.command import gradcheck
from npgan.gradcheck.engines import engine_checks
from npgan.gradcheck.gallery import BUGS, Bug, difference, find_planted, planted, replaced
from npgan.gradcheck.methods import CENTRAL, COMPLEX
from npgan.gradcheck.report import Report, print_report
from npgan.gradcheck.source import read_source
from npgan.gradcheck.suite import LEVELS, run_levels
from npgan.nn import layers, losses, network, ops
from npgan.nn.layers import Dense

NUMPY = backend.select("numpy")
SINGLE = {"op", "layer", "loss", "double backward", "penalty"}


@pytest.fixture(scope="module")
def small() -> Report:
    return Report([result for level in run_levels(0, NUMPY, real=False) for result in level], 0, "test")


def shown(report: Report, width: int) -> str:
    text = io.StringIO()
    print_report(report, Console(file=text, width=width, color_system=None))
    return text.getvalue()


def test_the_default_run_covers_everything_and_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert gradcheck("numpy", 5, as_json=True, gallery=False, verbose=False) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True and report["seed"] == 5 and report["culprits"] == []
    results = report["results"]
    for result in results:
        if result["method"] == COMPLEX:
            assert result["error"] <= (1e-12 if result["level"] in SINGLE else 1e-10), result
            assert result["tolerance"] == (1e-12 if result["level"] in SINGLE else 1e-10), result
        elif result["method"] == CENTRAL:
            assert result["tolerance"] == 1e-6

    names = {result["op"] for result in results}
    backwards = [name for name in vars(ops) if "_backward" in name and not name.startswith("_")]
    assert {f"nn.ops.{name}" for name in backwards} <= names
    for module in (layers, network):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and name != "Layer":
                own = [method for method in vars(kind) if method.startswith("backward")]
                assert {f"{module.__name__.removeprefix('npgan.')}.{name}.{method}" for method in own} <= names
    pairs = {
        f"nn.losses.{name}" for name, each in vars(losses).items() if inspect.isfunction(each) and name[0].isupper()
    }
    assert len(pairs) == 5 and pairs - {"nn.losses.SoftmaxCrossEntropy"} <= names  # its target is labels: level "op"
    assert {"nn.optim.Adam.update", "gan.train_step", "engines.schedule.FusedStep.launch"} <= names

    real = [r for r in results if r["op"] == "gan.train_step" and "real" in r["case"] and r["method"] == COMPLEX]
    counts = {"D": 1_460_225, "G": 1_486_352}
    for net, count in counts.items():
        rows = [r for r in real if r["case"].startswith(net)]
        everything = [r for r in rows if r["tensor"] == "all parameters"]
        assert [r["shape"] for r in everything] == [[count]] and everything[0]["directions"] >= 2
        tensors = [r for r in rows if r["tensor"] != "all parameters"]
        assert sum(int(np.prod(r["shape"])) for r in tensors) == count
        assert all(r["elements"] >= 1 and r["directions"] >= 1 for r in tensors)


@pytest.mark.parametrize("seed", [1, 2**64 - 1, 77])
def test_other_seeds_give_no_false_alarm(seed: int) -> None:
    report = Report([result for level in run_levels(seed, NUMPY, real=False) for result in level], seed)
    assert report.passed, str(report)


def test_every_level_has_both_methods_and_kinks_are_met(small: Report) -> None:
    found = [level for level in LEVELS if any(r.level == level for r in small.results)]
    assert found == list(LEVELS)
    for level in set(found) - {"Adam", "engines"}:
        assert {COMPLEX, CENTRAL} <= {r.method for r in small.results if r.level == level}
    assert any(r.shrunk for r in small.results) and any(r.at_kink for r in small.results)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.title)
def test_planted_bugs_are_caught(bug: Bug) -> None:
    (finding,) = find_planted(3, NUMPY, [bug])
    assert not any(result.problem for result in finding.report.results)  # by its numbers, not by an exception
    assert finding.named == [bug.culprit]
    assert bug.hint in {result.hint.kind for result in finding.report.culprits}
    assert finding.caught


def test_there_are_many_planted_bugs_and_each_is_a_small_edit() -> None:
    assert len(BUGS) == 43
    assert len({bug.title for bug in BUGS}) == len(BUGS)
    assert all(1 <= len(difference(bug)) <= 4 for bug in BUGS)


def test_a_planted_bug_is_gone_afterwards() -> None:
    before = ops.dropout_backward
    with planted(next(bug for bug in BUGS if bug.function == "nn.ops.dropout_backward")):
        assert ops.dropout_backward is not before
    assert ops.dropout_backward is before


def test_a_bug_that_no_longer_fits_the_source_is_refused() -> None:
    with (
        pytest.raises(InputError, match="does not have 'no such text' once"),
        planted(Bug("stale", "nn.ops.tanh_backward", (("no such text", ""),))),
    ):
        pass


def test_later_levels_are_told_from_the_culprit() -> None:
    """All levels run: the whole step fails as well, but what is explained is the operation."""
    with planted(next(bug for bug in BUGS if bug.hint == "scale")):
        report = Report([result for level in run_levels(0, NUMPY, real=False) for result in level], 0)
    assert {result.level for result in report.failures} == {"op", "layer", "network", "train_step", "engines"}
    assert {result.op for result in report.culprits} == {"nn.ops.dropout_backward"}
    text = shown(report, 100)
    assert "dx = dy·mask" in text and "ops (bug planted).py:" in text and "mask > 0" in text
    assert "1 − p = 0.7" in text and "later levels use it" in text


def test_an_exception_in_a_backward_is_a_failure_with_its_message() -> None:
    bug = Bug("shapes", "nn.ops.dense_backward_dx", (("dy @ weight.T", "dy @ weight"),))
    (finding,) = find_planted(0, NUMPY, [bug])
    assert finding.report.failures[0].problem.startswith("raised ValueError")
    assert "raised ValueError" in shown(finding.report, 80)
    assert not finding.caught


@pytest.mark.parametrize(
    ("function", "edits", "said"),
    [
        ("nn.ops.dense_backward_dx", ("dy @ weight.T", "dy @ weight"), "raised ValueError in line "),
        ("nn.ops.dense_backward_dx", ("return dy @ weight.T", "pass"), "the gradient of x is NoneType, not an array"),
        ("nn.ops.dense_backward_dx", ("weight.T", "weight.T + 0j"), "the gradient of x is complex128, not an array"),
        ("nn.ops.dense_backward_params", ("x.T @ dy, dy", "dy"), "returned 1 gradients, not 2: of weight and bias"),
        ("nn.ops.leaky_relu_backward", ("return ", "dy *= 2.0\n    return "), "changed dy in place"),
        ("nn.ops.leaky_relu_backward", ("return ", "x += 1e-9\n    return "), "changed x in place"),
    ],
)
def test_what_is_no_gradient_is_told(function: str, edits: tuple[str, str], said: str) -> None:
    (finding,) = find_planted(0, NUMPY, [Bug("no gradient", function, (edits,))])
    assert finding.named == [function] and said in finding.report.failures[0].problem


@pytest.mark.parametrize(
    ("old", "new", "tensor"),
    [
        ("state.step += 1", "pass", "steps done"),
        ("average += ", "_ = ", "G's average"),
        ("kept_of_average(config.ema, state.step)", "config.ema", "G's average"),
        ("kept_of_average(config.ema, state.step)", "kept_of_average(1.0, state.step)", "G's average"),
    ],
)
def test_what_a_step_does_besides_gradients_is_checked(old: str, new: str, tensor: str) -> None:
    (finding,) = find_planted(0, NUMPY, [Bug("besides", "gan.train_step", ((old, new),))])
    assert {(result.op, result.tensor) for result in finding.report.culprits} == {("gan.train_step", tensor)}


def test_what_stands_in_for_a_function_may_define_more() -> None:
    text = "def tanh_forward(x):\n    return 2.0 * x\n\ntanh_backward = lambda dy, y: dy * tanh_forward(y)\n"
    before = ops.tanh_forward, ops.tanh_backward
    with replaced("nn.ops.tanh_backward", text, "typed", text.splitlines(keepends=True)):
        assert ops.tanh_backward(3.0, 2.0) == 12.0 and ops.tanh_forward is before[0]
        source = read_source(ops.tanh_backward)
        assert source is not None and (source.file, source.line) == ("typed", 4)
    assert (ops.tanh_forward, ops.tanh_backward) == before
    with (
        pytest.raises(InputError, match="no function tanh_backward"),
        replaced("nn.ops.tanh_backward", "", "typed", []),
    ):
        pass


def test_the_first_operation_to_make_a_nan_is_named() -> None:
    bug = Bug("log of 0", "nn.ops.binary_cross_entropy_forward", (("np.log(p + epsilon)", "np.log(p - p)"),))
    (finding,) = find_planted(0, NUMPY, [bug])
    (failure,) = finding.report.failures
    assert failure.op == "nn.ops.binary_cross_entropy_backward"
    assert "nn.ops.binary_cross_entropy_forward made inf in result 0 from finite numbers" in failure.problem


class _OtherTanh(ReferenceKernels):
    def backward_tanh(self, dz: Array, layer: Dense, y: Array, dz_before: Array) -> None:
        super().backward_tanh(dz, layer, y * y, dz_before)


def _compared(kernels: type[ReferenceKernels]) -> Report:
    """With the reference's table in the place of compiled kernels: the comparison itself is what is tested."""
    pytest.importorskip("numba", reason="the report quotes the CPU table, which needs numba: pip install 'npgan[fast]'")
    fused = Choice("fused", "for the test", "", None, lambda *run: FusedEngine(kernels(np.float32), *run))
    checks = engine_checks(np.random.default_rng(0), np, fused)
    return Report([result for check in checks for result in run_check(check, np.random.default_rng(0))], 0)


def test_fused_kernels_are_held_to_the_rounding_of_float32() -> None:
    right = _compared(ReferenceKernels)
    errors = [result.error for result in right.results if "float32" in result.case]
    assert right.passed and 0.0 < max(errors) < 1e-5
    assert "fused float32" in shown(right, 80) and "ulp" in shown(right, 80)
    wrong = _compared(_OtherTanh).failures
    assert {result.op for result in wrong} == {"engines.cpu.kernels.CpuKernels"}
    assert {"G layer 0", "G layer 2", "G's parameters"} <= {result.tensor for result in wrong}


@pytest.mark.parametrize(
    "edits",
    [
        ("(self.fakes, None)", "(self.fakes, self.parameters_d)"),  # the G step trains D too
        ("self.fakes.x, self.g_dz[-1])", "self.g_y[-1][: len(self.fakes.x)], self.g_dz[-1])"),  # the D step's fakes
    ],
)
def test_a_wrong_schedule_is_found_in_float64(edits: tuple[str, str]) -> None:
    with planted(Bug("schedule", "engines.schedule.FusedStep.step_g", (edits,))):
        failures = _compared(ReferenceKernels).failures
    assert {"engines.schedule.FusedStep.launch"} == {r.op for r in failures if r.case.startswith("schedule")}
    assert not any(r.op == "gan.train_step" for r in failures)


def test_backward_input_has_a_check_of_its_own() -> None:
    writes = Bug(
        "writes",
        "nn.layers.Dense.backward_input",
        (("        return", "        self.dbias[...] = 0.0\n        return"),),
    )
    (finding,) = find_planted(0, NUMPY, [writes])
    assert {(r.op, r.tensor) for r in finding.report.culprits} >= {("nn.layers.Dense.backward_input", "gradients")}
    trains = Bug("trains", "nn.network.Sequential.backward_input", (("layer.backward_input(", "layer.backward("),))
    (finding,) = find_planted(0, NUMPY, [trains])
    assert finding.named == ["nn.network.Sequential.backward_input"]
    assert {r.tensor for r in finding.report.culprits} == {"gradients"}


@pytest.mark.parametrize("width", [80, 120, 140, 160])
def test_the_table_fits_the_terminal(small: Report, width: int) -> None:
    lines = shown(small, width).splitlines()
    assert max(len(line) for line in lines) <= width
    table = "\n".join(lines)
    assert "…" not in table and "FAIL" not in table
    assert f"All {len(small.results)} comparisons pass" in table and "seed 0" in table
    assert ("analytic" in table) == (width >= 140)


def test_status_of_a_failing_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "run_levels", functools.partial(run_levels, real=False))
    with planted(BUGS[0]):
        assert gradcheck("numpy", 0, as_json=False, gallery=False, verbose=False) == 1
    assert "transposed" in capsys.readouterr().out
    with planted(BUGS[0]):
        assert gradcheck("numpy", 0, as_json=True, gallery=False, verbose=False) == 1
    report = json.loads(capsys.readouterr().out)
    failure = next(result for result in report["results"] if not result["passed"])
    assert report["culprits"] == ["nn.ops.dense_backward_params"]
    assert failure["hint"]["kind"] == "transposed" and failure["source"]["formula"].startswith("dW = xᵀ·dy")
    assert failure["source"]["file"] == "npgan/nn/ops (bug planted).py"


def test_where_there_are_no_fused_kernels_it_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_levels", functools.partial(run_levels, real=False))
    monkeypatch.setitem(sys.modules, "numba", None)
    assert gradcheck("numpy", 0, as_json=False, gallery=False, verbose=False) == 0
    text = capsys.readouterr().out
    assert "fused kernels not compared: numba" in text and "fused float32" not in text


def test_the_gallery_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from npgan.cli import main

    monkeypatch.setattr(command, "find_planted", lambda seed, chosen: find_planted(seed, chosen, BUGS[:2]))
    assert main(["gradcheck", "--gallery", "--backend", "numpy"]) == 0
    text = capsys.readouterr().out
    assert "2 of 2 planted bugs caught" in text and BUGS[1].title in text
    assert main(["gradcheck", "--gallery", "--backend", "numpy", "--json"]) == 0
    gallery: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert gallery["caught"] == gallery["planted"] == 2
    assert gallery["bugs"][0]["hints"] == ["transposed"]


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--seed", "x"], ["--backend", "abacus"], ["--nonsense"]])
def test_misuse_is_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from npgan.cli import main

    try:
        status = main(["gradcheck", *arguments])
    except SystemExit as stop:  # argparse's own
        status = int(str(stop.code))
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "error:" in error
