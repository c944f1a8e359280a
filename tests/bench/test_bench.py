"""The benchmark: its work is the training step's work, it measures, and what is missing is said."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from npgan.bench import base, command, measure, worker
from npgan.cli import main
from npgan.config import PRESETS, TrainConfig
from npgan.errors import InputError


def test_an_iteration_is_4_09_gflop() -> None:
    matmuls = base.matmuls(128)
    assert round(sum(matmul.flops for matmul in matmuls) / 1e9, 2) == 4.09
    names = [matmul.name for matmul in matmuls]
    assert "D dx 0" not in names and "G dx 0" not in names  # first layers
    assert not any(name.startswith("D in the G step dW") for name in names)
    for matmul in matmuls:
        assert (matmul.a @ matmul.b).shape == matmul.out.shape


def test_it_measures_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    flags = ["--only", "npgan reference,matmul rows", "--batch-sizes", "4", "--rounds", "2", "--calls", "1"]
    assert main(["bench", *flags, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "npgan, reference" in printed and "batch 4" in printed and "peak:" in printed
    rows = json.loads(file.read_text())["batch_sizes"]["4"]
    assert len(rows["npgan reference"]["ms"]) == 2
    assert rows["npgan reference"]["peak_mb"] > 10
    assert 0 < rows["matmul rows"]["min_ms"] <= rows["matmul rows"]["median_ms"]


@pytest.mark.parametrize(
    "name", ["npgan fused", "npgan blas", "npgan reference", "npgan r3gan", "matmul columns", "matmul own"]
)
def test_npgans_own_candidates(name: str) -> None:
    pytest.importorskip("numba", reason="the fused kernels: pip install 'npgan[fast]'")
    try:
        candidate = worker.make(name, 4, 1)
    except base.Missing as problem:
        assert name == "matmul own" and "AVX-512" in str(problem)
        return
    candidate.run()
    preset = TrainConfig(**PRESETS["r3gan"]) if name == "npgan r3gan" else None
    assert candidate.flops == base.flops(4, preset) and candidate.iterations == 1
    assert ("numba" in candidate.detail) == (name in ("npgan fused", "npgan blas", "npgan r3gan"))
    assert name != "npgan blas" or "npgan's own" not in candidate.detail


@pytest.mark.parametrize("name", ["npgan fused", "npgan r3gan"])
def test_the_arithmetic_told_is_that_of_the_matmuls_done(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="the fused kernels: pip install 'npgan[fast]'")
    from npgan.engines.cpu import plain

    counted: list[int] = []
    multiply = np.matmul

    def watched(a: Any, b: Any, out: Any) -> None:
        counted.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        multiply(a, b, out=out)

    monkeypatch.setattr("npgan.engines.cpu.vectors.suitable", lambda: False)  # its matmuls can be seen
    monkeypatch.setattr(plain.np, "matmul", watched)
    candidate = worker.make(name, 4, 1)
    candidate.run()
    assert (
        0.0 <= candidate.flops - sum(counted) < 1e-4 * candidate.flops
    )  # the outer products of the last layer are none


@pytest.mark.parametrize("name", ["torch eager", "jax step", "jax scan"])
def test_baselines_run(name: str) -> None:
    pytest.importorskip(name.split()[0], reason="a baseline of the benchmark: pip install 'npgan[bench]'")
    candidate = worker.make(name, 4, 1)
    candidate.run()
    assert candidate.flops == base.flops(4) and candidate.iterations == (10 if name == "jax scan" else 1)


def test_a_missing_baseline_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "numba", None)
    for name, extra in (("jax step", "bench"), ("torch eager", "bench"), ("matmul columns", "fast")):
        with pytest.raises(base.InputError, match=extra):
            worker.make(name, 4, 1)
    command.show_cpu({"jax step": {"missing": "jax is not installed"}})
    assert "missing: JAX, jitted step: jax is not installed" in capsys.readouterr().out


def test_memory_is_counted_in_the_systems_own_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    here = worker._peak_mb()
    assert here is None or here > 10
    usage = SimpleNamespace(ru_maxrss=3 << 20)
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setitem(sys.modules, "resource", fake)
    for system, megabytes in (("linux", 3072), ("darwin", 3)):
        monkeypatch.setattr(sys, "platform", system)
        assert worker._peak_mb() == megabytes
    monkeypatch.setitem(sys.modules, "resource", None)
    assert worker._peak_mb() is None


def test_a_table_is_whole_and_plain_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    measure.show_table(("", "median ms"), [("a name " * 20, "1.25"), ("[b]", "-")])
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines] == [len(lines[0])] * 3 and "\x1b" not in "".join(lines)
    assert lines[1].startswith("a name " * 20) and lines[1].endswith(" 1.25") and lines[2].startswith("[b]")


@pytest.mark.parametrize(
    "flags", [["--rounds", "0"], ["--batch-sizes", "0"], ["--only", "tensorflow"], ["--threads", "0"]]
)
def test_mistakes(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *flags]) == 2
    assert flags[0] in capsys.readouterr().err


def test_the_profile_names_every_operation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="the profile is of the fused kernels: pip install 'npgan[fast]'")
    from npgan.bench import profile

    monkeypatch.setattr(profile, "ITERATIONS", 2)
    assert main(["bench", "--profile", "--batch-sizes", "8"]) == 0
    printed = capsys.readouterr().out
    assert [printed.count(name) for name in ("forward_", "backward_", "update (")] == [10, 8, 8]
    for name in ("forward_dropout (16, 784) (784, 1024)", "inputs (8, 784)", "iteration"):
        assert name in printed


def test_a_candidate_that_dies_or_hangs_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))

    def missing(script: str, patience: float, names: tuple[str, ...] = ("jax scan",)) -> list[str]:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        workers = (measure.Worker(name, 4, 1) for name in names)
        rows = measure.measure(workers, 1, 1, "npgan fused", "peak", patience)
        return [row.get("missing", "") for row in rows.values()]

    assert "status 3: no such flag" in missing("echo no such flag >&2; exit 3", 10)[0]
    began = time.monotonic()
    assert missing("exec sleep 60", 0.2, ("jax scan", "jax step", "torch graph")) == ["no answer in 0 s"] * 3
    assert time.monotonic() - began < 30
    # "first" is ready at once: what is left of its time is the other's, which takes longer than its own
    script = """[ "$3" = first ] || sleep 0.6
        echo '{"flops": 8}'; read turn; echo '{"ms": [2]}'; read end; echo '{"peak_mb": 1}'"""
    assert missing(script, 0.5, ("second",)) == ["no answer in 0 s"]
    assert missing(script, 0.5, ("first", "second")) == ["", ""]


def test_busy_processes_run_meanwhile_and_end() -> None:
    place = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    if not place.exists():
        pytest.skip("the system does not tell of child processes")
    before = set(place.read_text(encoding="ascii").split())
    with measure.busy_machine(2):
        assert len(set(place.read_text(encoding="ascii").split()) - before) == 2
    assert set(place.read_text(encoding="ascii").split()) <= before
    with pytest.raises(InputError, match="--busy must be at least 0"):
        command.Options(busy=-1)
