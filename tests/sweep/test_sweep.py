"""Sweeps on real workers, and a killer among them: every run ends as it does alone."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import roomy_folder
from sweep_kills import (
    alone,
    dask,
    epochs_done,
    free_port,
    killed_in_the_end,
    last_checkpoints,
    small_data,
    sweep,
    torment,
    wait_for,
    wait_for_workers,
)  # fmt: skip

from npgan.cli import main
from npgan.sweep import cluster


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with roomy_folder() as folder:
        yield folder


def test_under_a_killer_and_then_again_and_then_stopped(tmp_path: Path) -> None:
    counts = torment(tmp_path, seeds=1, epochs=8, kills=1, every=0.1, chance=random.Random(1))
    assert counts["workers killed"] == 1 and counts["schedulers killed"] == 1
    out, files = tmp_path / "sweep", _states(tmp_path / "sweep")
    # the same command again, and with one more seed, which is stopped by a Ctrl-C: what is done is left alone
    process = sweep(tmp_path / "data", out, 2, 8, "--workers", "1")
    with killed_in_the_end(process):
        wait_for("no run begins", lambda: (out / "loss=bce" / "seed-1" / "metrics.jsonl").exists())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said, problems = process.communicate(timeout=60)
    assert process.returncode == 130 and problems.count("\n") == 1 and "the same command goes on from here" in problems
    assert {name: state for name, state in _states(out).items() if "seed-0" in name} == files
    report = json.loads((out / "sweep.json").read_text())
    assert [run["state"] for run in report["runs"]] == ["finished"] * 2
    assert {run["folder"]: run["checkpoint_sha256"] for run in report["runs"]} == {
        name: sha for name, sha in last_checkpoints(out).items() if "seed-0" in name
    }


def _states(out: Path) -> dict[str, tuple[int, int]]:
    """Size and date of every file of the runs, but for locks, which are taken to look."""
    files = [path for path in out.glob("*/seed-*/**/*") if path.is_file()]
    return {str(file.relative_to(out)): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def test_workers_started_by_hand_and_a_scheduler_that_dies(tmp_path: Path) -> None:
    data, out, address = small_data(tmp_path / "data"), tmp_path / "out", f"tcp://127.0.0.1:{free_port()}"
    stranger = tmp_path / "stranger" / "npgan"
    stranger.mkdir(parents=True)
    (stranger / "__init__.py").write_text("__version__ = '0'\n")
    with ExitStack() as stack:
        scheduler = dask(stack, "scheduler", "--host", address, "--no-dashboard", "--no-show")
        wrong = dask(stack, "worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny", path=stranger.parent)
        wait_for_workers(address, 1)
        refused = sweep(data, out, 1, 8, "--scheduler", address)
        with killed_in_the_end(refused):
            said, problems = refused.communicate(timeout=60)
        assert refused.returncode == 2 and problems.count("\n") == 1 and "has no npgan that sweeps" in problems
        assert not out.exists()
        wrong.kill()
        for _ in range(2):
            dask(stack, "worker", address, "--nthreads", "1", "--no-dashboard")
        wait_for_workers(address, 2)
        process = sweep(data, out, 1, 8, "--scheduler", address)
        with killed_in_the_end(process):
            said, problems = process.communicate(timeout=100)
        assert process.returncode == 0 and problems == "", problems
        assert last_checkpoints(out) == alone(data, tmp_path / "alone", 1, 8)
        process = sweep(data, out, 2, 1000, "--scheduler", address)
        with killed_in_the_end(process):
            wait_for("no run is begun", lambda: epochs_done(out) > 2 * 8)
            scheduler.kill()
            said, problems = process.communicate(timeout=60)
        assert process.returncode == 1 and problems.count("\n") == 1, problems
        assert "the scheduler is gone" in problems and "the same command goes on from here" in problems


def test_a_scheduler_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "_SECONDS_TO_REACH", 0.5)
    data, address = small_data(tmp_path / "data"), f"tcp://127.0.0.1:{free_port()}"
    words = ["sweep", "--seeds", "0", "--scheduler", address, "--data-dir", str(data), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"--scheduler {address}: cannot be reached" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = small_data(tmp_path / "data"), tmp_path / "out"
    alone(data, out, 1, 1)
    words = [
        "sweep",
        "--seeds",
        "0",
        "--set",
        "loss=bce",
        "--out",
        str(out),
        "--data-dir",
        str(data),
        "--batch-size",
        "5",
    ]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "holds another run" in error and "--batch-size is 4, not 5" in error and error.count("\n") == 1
