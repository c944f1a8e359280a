"""Sweeps on real workers, and a killer among them: every run ends as it does alone."""

from __future__ import annotations

import json
import os
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
    wait_for,
    wait_for_workers,
    worker_processes,
)  # fmt: skip

from npgan.cli import main
from npgan.runs.folder import RunFolder
from npgan.sweep import cluster
from npgan.sweep.examine import is_finished

EPOCHS = 4


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with roomy_folder() as folder:
        yield folder


@pytest.mark.slow
def test_killed_workers_a_killed_sweep_and_a_ctrl_c(tmp_path: Path) -> None:
    data, out = small_data(tmp_path / "data"), tmp_path / "out"
    expected = alone(data, tmp_path / "alone", 1, EPOCHS)
    # a worker dies in the midst of the first run, and the whole sweep, its scheduler with it, in the midst of the second
    process = sweep(data, out, 1, EPOCHS, "--workers", "1")
    with killed_in_the_end(process):
        wait_for("nothing is trained", lambda: epochs_done(out) > 0)
        (worker,) = worker_processes(process)
        worker.kill()
        # which of the two goes on first, the scheduler chooses
        wait_for("no run is finished and the other one begun", lambda: _finished(out) and epochs_done(out) > EPOCHS)
        done = _finished(out)[0]
        files = _states(done)
    # the same command with one seed more: it is stopped when it has come so far
    process = sweep(data, out, 2, EPOCHS, "--workers", "1")
    with killed_in_the_end(process):
        wait_for("the new seed does not begin", lambda: epochs_done(out) > 2 * EPOCHS)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, problems = process.communicate(timeout=60)
    assert process.returncode == 130 and problems.count("\n") == 1 and "the same command goes on from here" in problems
    assert _states(done) == files
    assert {run: sha for run, sha in last_checkpoints(out).items() if run.endswith("seed-0")} == expected
    report = json.loads((out / "sweep.json").read_text())
    assert {run["folder"]: run["checkpoint_sha256"] for run in report["runs"]} == expected
    assert [run["state"] for run in report["runs"]] == ["finished"] * 2


def _finished(out: Path) -> list[Path]:
    return [run for run in out.glob("*/seed-0") if is_finished(run, EPOCHS)]


def _states(run: Path) -> dict[str, tuple[int, int]]:
    """Size and date of every file."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_workers_started_by_hand_and_a_scheduler_that_dies(tmp_path: Path) -> None:
    data, out, address = small_data(tmp_path / "data"), tmp_path / "out", f"tcp://127.0.0.1:{free_port()}"
    stranger = tmp_path / "stranger" / "npgan"
    stranger.mkdir(parents=True)
    (stranger / "__init__.py").write_text("__version__ = '0'\n")
    with ExitStack() as stack:
        scheduler = dask(stack, "scheduler", "--host", address, "--no-dashboard", "--no-show")
        wrong = dask(stack, "worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny", path=stranger.parent)
        wait_for_workers(address, 1)
        refused = sweep(data, out, 1, 1000, "--scheduler", address)
        with killed_in_the_end(refused):
            said, problems = refused.communicate(timeout=60)
        assert (
            refused.returncode == 2
            and problems.count("\n") == 1
            and "npgan 0" in problems.replace("has no npgan that sweeps", "npgan 0")
        )
        assert not out.exists()
        wrong.kill()
        for _ in range(2):
            dask(stack, "worker", address, "--nthreads", "1", "--no-dashboard")
        wait_for_workers(address, 2)
        process = sweep(data, out, 1, 1000, "--scheduler", address)
        with killed_in_the_end(process):
            wait_for("not both runs begin", lambda: len(list(out.glob("*/seed-0/metrics.jsonl"))) == 2)
            scheduler.kill()
            _, problems = process.communicate(timeout=60)
        assert process.returncode == 1 and problems.count("\n") == 1, problems
        assert "the scheduler is gone" in problems and "the same command goes on from here" in problems
        # its workers end their trainings, which save
        wait_for("the trainings go on", lambda: not any(RunFolder(run).holder() for run in out.glob("*/seed-0")))


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
