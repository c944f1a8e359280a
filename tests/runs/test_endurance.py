"""Nothing grows with the epochs but what is written of each; and a user without privileges needs none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from endurance import endure

from npgan.runs import folder as folder_module

Train = Callable[..., int]
NOBODY = 65534
PROC = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")


@pytest.mark.slow
@PROC
def test_memory_open_files_and_disk_are_flat(tmp_path: Path) -> None:
    assert endure(tmp_path, epochs=15).startswith("15 epochs: memory")


def test_milestones_stay_apart_as_the_run_grows(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_MOST_MILESTONES", 3)
    flags = ("--output-period", "1", "--keep", "1", "--train-images", "1", "--batch-size", "1")

    def steps() -> list[int]:
        return [int(path.stem[5:]) for path in sorted((tmp_path / "run/checkpoints").glob("step-*"))]

    assert train("--out", tmp_path / "run", "--epochs", "3", *flags) == 0
    assert steps() == [1, 2, 3]
    assert train("--resume", tmp_path / "run", "--epochs", "5") == 0
    assert steps() == [2, 4, 5]
    assert train("--resume", tmp_path / "run", "--epochs", "13") == 0
    assert steps() == [8, 13]
    assert len(list((tmp_path / "run/samples").glob("*.png"))) == 13


def test_open_files_of_this_process(train: Train, tmp_path: Path) -> None:
    train("--out", tmp_path / "first", "--epochs", "1")
    before = os.listdir("/dev/fd")
    for number in range(3):
        assert train("--out", tmp_path / f"run-{number}", "--epochs", "1") == 0
    assert len(os.listdir("/dev/fd")) == len(before)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user")
def test_a_user_without_privileges(
    data: Path, run: Path, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trains, resumes and overwrites in a folder of its own; of root's run nothing changes, in one line."""
    for folder in (tmp_path, run, data.parent):
        folder.chmod(0o755)
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)

    def train_as_nobody(*flags: str | Path) -> tuple[int, str]:
        # a fork: what it imports may lie where only root can read
        if (child := os.fork()) == 0:
            status = 99
            try:
                os.chdir(own)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                status = train(*flags)
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, capfd.readouterr().err

    assert train_as_nobody("--epochs", "1") == (0, "")
    assert train_as_nobody("--resume", "--epochs", "2") == (0, "")
    assert train_as_nobody("--out", "other", "--epochs", "1") == (0, "")
    assert train_as_nobody("--out", "other", "--overwrite", "--epochs", "1") == (0, "")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for flags in (("--resume", run, "--epochs", "9"), ("--out", run, "--overwrite", "--epochs", "1")):
        status, problems = train_as_nobody(*flags)
        assert status == 2 and problems.count("\n") == 1 and "cannot be written: Permission denied" in problems
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
