"""``npgan gradcheck``: it covers all there is, passes, catches every planted bug at the right function, and says so well."""

from __future__ import annotations

import functools
import inspect
import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from npgan import backend
from npgan.nn import layers
from npgan.nn import losses
from npgan.nn import ops
from npgan.cli import main
from npgan.errors import InputError
from npgan.gradcheck import command
from npgan.gradcheck.check import run_check
from npgan.gradcheck.fused import fused_checks
from npgan.gradcheck.gallery import BUGS, Bug, difference, find_planted, planted
from npgan.gradcheck.methods import CENTRAL, COMPLEX
from npgan.gradcheck.report import Report, print_report
from npgan.gradcheck.suite import LEVELS, run_levels
from npgan.engines import Kernels, reference

NUMPY = backend.select("numpy")
SINGLE = {"op", "layer", "loss"}


@pytest.fixture(scope="module")
def small() -> Report:
    return Report([result for level in run_levels(0, NUMPY, real=False) for result in level], 0, "test")


def shown(report: Report, width: int) -> str:
    text = io.StringIO()
    print_report(report, Console(file=text, width=width, color_system=None))
    return text.getvalue()


def test_the_default_run_covers_everything_and_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "--backend", "numpy", "--json", "--seed", "5"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True and report["seed"] == 5 and report["culprits"] == []
    results = report["results"]
    for result in results:
        if result["method"] == COMPLEX:
            assert result["error"] <= (1e-12 if result["level"] in SINGLE else 1e-10), result

    names = {result["op"] for result in results}
    backwards = [name for name in vars(ops) if "_backward" in name and not name.startswith("_")]
    assert {f"ops.{name}" for name in backwards} <= names
    for module in (layers, losses):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and hasattr(kind, "backward") and name not in ("Layer", "Loss"):
                assert f"{module.__name__.removeprefix('npgan.')}.{name}.backward" in names

    real = [r for r in results if r["op"] == "training.train_step" and "real" in r["case"] and r["method"] == COMPLEX]
    counts = {"D": 1_460_225, "G": 1_486_352}
    for net, count in counts.items():
        rows = [r for r in real if r["case"].startswith(net)]
        everything = [r for r in rows if r["tensor"] == "all parameters"]
        assert [r["shape"] for r in everything] == [[count]] and everything[0]["directions"] >= 2
        tensors = [r for r in rows if r["tensor"] != "all parameters"]
        assert sum(int(np.prod(r["shape"])) for r in tensors) == count
        assert all(r["elements"] >= 1 and r["directions"] >= 1 for r in tensors)


@pytest.mark.parametrize("seed", [1, 2**64 - 1, 77, 78, 79, 80])
def test_other_seeds_give_no_false_alarm(seed: int) -> None:
    report = Report([result for level in run_levels(seed, NUMPY, real=False) for result in level], seed)
    assert report.passed, str(report)


def test_every_level_has_both_methods_and_kinks_are_met(small: Report) -> None:
    found = [level for level in LEVELS if any(r.level == level for r in small.results)]
    assert found == [level for level in LEVELS if level != "kernels"]
    for level in set(found) - {"Adam"}:
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
    assert len(BUGS) >= 15
    assert len({bug.title for bug in BUGS}) == len(BUGS)
    assert all(1 <= len(difference(bug)) <= 4 for bug in BUGS)


def test_a_planted_bug_is_gone_afterwards() -> None:
    before = ops.dropout_backward
    with planted(next(bug for bug in BUGS if bug.function == "ops.dropout_backward")):
        assert ops.dropout_backward is not before
    assert ops.dropout_backward is before


def test_a_bug_that_no_longer_fits_the_source_is_refused() -> None:
    with (
        pytest.raises(InputError, match="does not have 'no such text' once"),
        planted(Bug("stale", "ops.tanh_backward", (("no such text", ""),))),
    ):
        pass


def test_later_levels_are_told_from_the_culprit() -> None:
    """All levels run: the whole step fails as well, but what is explained is the operation."""
    with planted(next(bug for bug in BUGS if bug.hint == "scale")):
        report = Report([result for level in run_levels(0, NUMPY, real=False) for result in level], 0)
    assert {result.level for result in report.failures} == {"op", "layer", "network", "step", "train_step"}
    assert {result.op for result in report.culprits} == {"ops.dropout_backward"}
    text = shown(report, 100)
    assert "dx = dy·mask" in text and "ops (bug planted).py:" in text and "mask > 0" in text
    assert "1 − p = 0.7" in text and "later levels use it" in text


def test_an_exception_in_a_backward_is_a_failure_with_its_message() -> None:
    bug = Bug("shapes", "ops.dense_backward_dx", (("np.matmul(dy, weight.T", "np.matmul(dy, weight"),))
    (finding,) = find_planted(0, NUMPY, [bug])
    assert finding.report.failures[0].problem.startswith("raised ValueError")
    assert "raised ValueError" in shown(finding.report, 80)
    assert not finding.caught


def test_the_first_operation_to_make_a_nan_is_named() -> None:
    bug = Bug("log of 0", "ops.binary_cross_entropy_forward", (("np.log(p + epsilon)", "np.log(p - p)"),))
    (finding,) = find_planted(0, NUMPY, [bug])
    (failure,) = finding.report.failures
    assert failure.op == "ops.binary_cross_entropy_backward"
    assert "ops.binary_cross_entropy_forward made inf in result 0 from finite numbers" in failure.problem


def test_fused_kernels_are_held_to_the_rounding_of_float32() -> None:
    """With the reference's functions in the place of compiled ones: the comparison itself is what is tested."""

    class Chains:  # another object than ``reference``, or networks would walk their layers
        def __getattr__(self, name: str) -> Any:
            return getattr(reference, name)

    kernels = Kernels("fused", "for the test", Chains())

    def compared() -> Report:
        checks = fused_checks(np.random.default_rng(0), kernels)
        return Report([result for check in checks for result in run_check(check, np.random.default_rng(0))], 0)

    right = compared()
    assert right.passed and 0.0 < max(result.error for result in right.results) < 1e-5
    assert "fused float32" in shown(right, 80) and "ulp" in shown(right, 80)
    bug = Bug(
        "y for y²",
        "kernels.reference.dense_tanh_backward",
        (("ops.tanh_backward(dy, y,", "ops.tanh_backward(dy, y * y,"),),
    )
    with planted(bug):
        assert {result.op for result in compared().failures} == {"kernels.stages.Stage.backward"}


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
        assert main(["gradcheck", "--backend", "numpy"]) == 1
    assert "transposed" in capsys.readouterr().out
    with planted(BUGS[0]):
        assert main(["gradcheck", "--backend", "numpy", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    failure = next(result for result in report["results"] if not result["passed"])
    assert report["culprits"] == ["ops.dense_backward_params"]
    assert failure["hint"]["kind"] == "transposed" and failure["source"]["formula"].startswith("dW = xᵀ·dy")


def test_the_gallery_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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
    try:
        status = main(["gradcheck", *arguments])
    except SystemExit as stop:  # argparse's own
        status = int(str(stop.code))
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "error:" in error
