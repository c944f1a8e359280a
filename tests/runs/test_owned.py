"""Only files that npgan wrote, in a folder that npgan made, are replaced; an old run stays until the new one begins."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from npgan.cli import main
from npgan.errors import InputError
from npgan.runs import folder as folder_module
from npgan.runs import train as run_module
from npgan.runs.checkpoint import load
from npgan.runs.folder import RunFolder, newest_run

Train = Callable[..., int]


def tree(folder: Path) -> dict[str, tuple[bool, int, bytes]]:
    """Every entry with its kind, content and date; but for the lock, and for the folders' dates."""
    return {
        str(path.relative_to(folder)): (path.is_symlink(), path.lstat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink()) and path.name != ".lock"
    }


def one_line(captured: pytest.CaptureFixture[str]) -> str:
    problems = captured.readouterr().err
    assert problems.count("\n") == 1, problems
    return problems


# --- somebody else's files


@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=["asked for nothing", "overwrite"])
@pytest.mark.parametrize(
    "names",
    [
        ("evaluation.json", "samples/epoch-00001.png"),
        ("config.json", "metrics.jsonl"),
        ("checkpoints/step-000000001.safetensors",),
        ("checkpoints/latest", "config.json"),
        ("checkpoints/.tmpAbC123",),
        ("checkpoints/best.pt", "notes.txt"),
        (".previous-run/config.json",),
        (".lock",),
        ("samples/deep/er",),
        ("npgan.log",),
    ],
)
def test_a_folder_that_npgan_did_not_make_is_left_alone(
    train: Train, tmp_path: Path, names: tuple[str, ...], flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "project"
    for name in names:
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_text("{}" if name.endswith(".json") else "mine\n")
    before = tree(theirs)
    assert train("--out", theirs, *flags) == 2
    assert "no run of npgan's" in (line := one_line(capsys)) and "is in the way" in line
    assert tree(theirs) == before
    assert {path.name for path in theirs.iterdir()} == {name.split("/")[0] for name in names}


def test_beside_files_that_are_in_nobodys_way_a_run_may_be_made(train: Train, tmp_path: Path) -> None:
    """Such as where the output goes: npgan train --out run > run/output.txt."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/output.txt").write_text("mine\n")
    for flags in ((), ("--overwrite",)):
        assert train("--out", tmp_path / "run", "--epochs", "1", *flags) == 0
        assert (tmp_path / "run/output.txt").read_text() == "mine\n"


def test_another_projects_config_beside_checkpoints_of_npgan(
    run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / ".npgan-run").unlink()
    (run / "config.json").write_text('{"compilerOptions": {}}')
    before = tree(run)
    assert train("--out", run, "--overwrite") == 2
    assert "no run of npgan's" in one_line(capsys)
    assert tree(run) == before


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--out", "", "--overwrite"),
        (
            "train",
            "--out=",
        ),
        ("train", "--resume", ""),
        ("train", "--data-dir", ""),
        ("sample", ""),
        ("sample", "run", "--out", ""),
        ("evaluate", ""),
        ("inspect", "--html", ""),
        ("bench", "--json", " "),
    ],
)
def test_an_empty_name_is_no_folder(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    assert "the name is empty" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_what_a_start_that_came_to_nothing_left_is_no_obstacle(train: Train, tmp_path: Path) -> None:
    """As by older versions too, which had no marker."""
    for name in ("samples", "checkpoints"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run/.lock").write_text("process 12 on here\n")
    (tmp_path / "run/checkpoints/.step-000000000.safetensors.12.tmp").touch()
    (tmp_path / "run/..npgan-run.12.tmp").touch()
    assert train("--out", tmp_path / "run", "--epochs", "1") == 0
    assert (tmp_path / "run/.npgan-run").exists()
    assert not list(tmp_path.rglob("*.tmp"))


# --- a run's own folder


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "metrics.jsonl", "npgan.log", ".lock", ".lock-marker", "evaluation.json", "samples/epoch-00001.png",
        "samples/training.gif", "checkpoints/latest",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_npgan_cannot_have_written_is_not_replaced(
    run: Path, train: Train, tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").write_text("mine\n")
    (run / name).unlink(missing_ok=True)
    if kind == "link":
        (run / name).symlink_to(tmp_path / "precious")
    else:
        (run / name).mkdir()
    before = tree(run)
    for flags in (("--resume", run), ("--out", run, "--overwrite")):
        assert train(*flags) == 2
        assert name in (line := one_line(capsys)) and "not a regular file" in line
    assert tree(run) == before
    assert (tmp_path / "precious").read_text() == "mine\n"


def test_a_link_in_the_place_of_a_checkpoint_is_not_overwritten(
    run: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints/step-000000009.safetensors").symlink_to(tmp_path / "nowhere")
    before = {path.name for path in (run / "checkpoints").iterdir()}
    assert train("--out", run, "--overwrite") == 2
    assert "not a regular file" in one_line(capsys)
    assert {path.name for path in (run / "checkpoints").iterdir()} == before


def test_a_folder_that_was_set_aside_as_a_checkpoint_is_no_obstacle(run: Path, train: Train) -> None:
    (run / "checkpoints/step-000000009.safetensors.damaged").mkdir()
    assert train("--resume", run) == 0


def test_overwriting_takes_the_whole_old_run_away_and_nothing_else(run: Path, train: Train) -> None:
    own = ["evaluation.jsonl", "evaluation-curves.png", "checkpoints/diagnosis-step-000000003.json"]
    own += ["checkpoints/step-000000009.safetensors.damaged", "samples/epoch-00009.png"]
    mine = [
        "notes.txt",
        "evaluation-notes.json",
        "metrics.jsonl.bak",
        "samples/epoch-1.png",
        "checkpoints/best.safetensors",
    ]
    mine += [".tmpAbC123", "samples/.tmpAbC123"]
    for name in (*own, *mine):
        (run / name).write_text("old")
    assert train("--out", run, "--overwrite", "--epochs", "1") == 0
    assert all((run / name).read_text() == "old" for name in mine)
    assert not any((run / name).exists() for name in own)
    assert not (run / ".previous-run").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert (run / "npgan.log").read_text().count("trains from step 0") == 1


def test_a_folder_without_a_marker_is_known_by_its_contents(run: Path, train: Train) -> None:
    """As older versions made it."""
    (run / ".npgan-run").unlink()
    assert train("--resume", run, "--epochs", "5") == 0
    assert (run / ".npgan-run").exists()
    (run / ".npgan-run").unlink()
    assert train("--out", run, "--epochs", "1") == 2
    assert train("--out", run, "--overwrite", "--epochs", "1") == 0
    assert (run / ".npgan-run").exists() and not (run / "checkpoints/step-000000010.safetensors").exists()


def test_pictures_that_nobody_named_replace_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.png").write_text("mine")
    for _ in range(2):
        assert main(["sample", str(whole), "--n", "1", "--backend", "numpy"]) == 0
    assert (tmp_path / "samples.png").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"samples.png", "samples-2.png", "samples-3.png"}


# --- the old run stays until the new one has begun


def _fails(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **more: Any) -> Any:
        raise error

    return fail


def _at_call(number: int, real: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Fails once, after so many calls that did not."""
    calls = itertools.count()

    def call(*arguments: Any, **more: Any) -> Any:
        if next(calls) == number:
            raise error
        return real(*arguments, **more)

    return call


FULL = OSError(errno.ENOSPC, "No space left on device", "a file")
FIXED = OSError(errno.EPERM, "Operation not permitted", "a file")
FAILURES: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "memory for the networks": (run_module, "new_state", _fails(MemoryError("100 GiB"))),
    "kernels": (run_module, "choose", _fails(InputError("--kernels fused: numba is not installed"))),
    "memory, when the folder is ready": (run_module, "fingerprint", _fails(MemoryError("100 GiB"))),
    "the first checkpoint": (folder_module, "save", _fails(FULL)),
    "moving the first file": (folder_module, "move", _at_call(0, folder_module.move, FIXED)),
    "moving another": (folder_module, "move", _at_call(5, folder_module.move, FIXED)),
    "naming the checkpoint": (folder_module, "publish", _fails(FULL)),
    "a second Ctrl-C": (folder_module, "publish", _fails(KeyboardInterrupt())),
}


@pytest.mark.parametrize("where", FAILURES)
def test_a_start_that_fails_leaves_the_old_run_whole(
    run: Path, train: Train, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, name, broken = FAILURES[where]
    before = tree(run)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, broken)
        assert train("--out", run, "--overwrite", "--seed", "5") in (1, 2, 130)
    assert one_line(capsys)
    assert tree(run) == before
    assert train("--resume", run, "--epochs", "5") == 0


def test_an_evaluation_that_cannot_be_made_leaves_the_old_run_whole(
    run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluation.jsonl").write_text('{"epoch": 1, "step": 2, "parzen": 1, "frechet": 2}\n')
    before = tree(run)
    assert train("--out", run, "--overwrite", "--eval-every", "1") == 2  # there are no test images
    assert "t10k-images-idx3-ubyte" in one_line(capsys)
    assert tree(run) == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program runs after it."""


@pytest.mark.parametrize("moved", [0, 1, 6, 11, "all", "and named"])
def test_a_kill_in_the_midst_leaves_one_run_whole(
    run: Path, train: Train, moved: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many of the old run's twelve files, after all, after the new checkpoint has its name."""
    before = {name: content for name, (_, _, content) in tree(run).items() if name != "npgan.log"}
    real = RunFolder.settle

    def settle(folder: RunFolder) -> None:
        if folder._starting_file.exists() or folder._previous.exists():
            raise Killed
        real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "settle", settle)
        if isinstance(moved, int):
            patch.setattr(folder_module, "move", _at_call(moved, folder_module.move, Killed()))
        elif moved == "all":
            patch.setattr(folder_module, "publish", _fails(Killed()))
        with pytest.raises(Killed):
            train("--out", run, "--overwrite", "--seed", "5")
    assert train("--resume", run) == 0
    assert not (run / ".previous-run").exists() and not (run / "checkpoints/.starting.safetensors").exists()
    if moved == "and named":
        assert load(run / "checkpoints/step-000000008.safetensors").config.seed == 5
        assert (run / "npgan.log").read_text().count("trains from") == 1
    else:
        assert {name: content for name, (_, _, content) in tree(run).items() if name != "npgan.log"} == before
        assert (run / "npgan.log").read_text().count("trains from") == 2


def test_a_killed_overwriting_is_still_a_run_that_is_not_overwritten_unasked(
    run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / ".previous-run").mkdir()
    (run / "checkpoints").rename(run / ".previous-run/checkpoints")
    (run / "checkpoints").mkdir()
    (run / "checkpoints/.starting.safetensors").write_bytes(b"whatever")
    for name in ("config.json", "metrics.jsonl"):
        (run / name).rename(run / ".previous-run" / name)
    assert train("--out", run) == 2
    assert "holds a run already" in one_line(capsys)
    assert (run / "checkpoints/step-000000008.safetensors").exists() and (run / "config.json").exists()


# --- names of run folders, and the newest


def test_three_starts_in_one_second_get_three_folders(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *of: "20251124-120000")
    for _ in range(3):
        assert train("--epochs", "1") == 0
    names = ["mnist-20251124-120000", "mnist-20251124-120000-2", "mnist-20251124-120000-3"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    assert all(len((tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()) == 1 for name in names)


def test_a_start_that_fails_leaves_no_folder(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "choose", _fails(InputError("no")))
    assert train() == 2
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_file_in_the_place_of_the_runs_is_told(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("mine")
    assert train() == 2
    assert "runs: cannot be made" in one_line(capsys)


@pytest.fixture
def runs(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs, of which b trained last, though the others' dates are later, and one is a copy."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        assert train("--out", f"runs/{name}", "--epochs", "1") == 0
    shutil.copytree("runs/a", "runs/copy", copy_function=shutil.copy)
    for path in (*Path("runs/a").rglob("*"), *Path("runs/copy").rglob("*")):
        os.utime(path)
    return tmp_path / "runs"


def test_bare_resume_goes_by_when_a_run_last_trained(runs: Path, train: Train) -> None:
    assert newest_run(runs).name == "b"
    assert train("--resume", "--epochs", "2") == 0
    assert len((runs / "b/metrics.jsonl").read_text().splitlines()) == 2
    assert train("--resume", runs / "copy", "--epochs", "2") == 0
    assert newest_run(runs).name == "copy"


def test_of_a_run_and_its_copy_the_original_is_newest(runs: Path) -> None:
    shutil.copytree(runs / "b", runs / "c", copy_function=shutil.copy)
    assert newest_run(runs).name == "b"


def test_the_clock_may_be_set_back(runs: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two runs and, second by second, while one trains."""
    seconds = iter(range(10**9, 0, -1))
    monkeypatch.setattr(time, "time_ns", lambda: next(seconds) * 10**9)
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    assert train("--out", runs / "after", "--epochs", "3") == 0
    assert newest_run(runs).name == "after"
    lines = [json.loads(line) for line in (runs / "after/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3] and all(line["seconds"] > 0 for line in lines)


@pytest.mark.parametrize("text", ["", "[]", '{"trained_ns": "x"}', '{"trained_ns": 1e999}', "\0", "[" * 100_000])
def test_a_marker_is_a_marker_whatever_it_says(runs: Path, train: Train, text: str) -> None:
    (runs / "b/.npgan-run").write_text(text)
    assert RunFolder(runs / "b").last_trained() is None
    assert train("--resume", runs / "b", "--epochs", "2") == 0
    assert newest_run(runs).name == "b"


# --- what somebody names to be written


@pytest.mark.parametrize("left", ["evaluation.json", "samples/epoch-00001.png", "npgan.log"])
def test_what_is_left_of_a_run_is_replaced_only_when_asked(
    run: Path, train: Train, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in [*run.glob("*.*"), *run.glob("*/*")]:
        if entry.is_file() and entry.name != ".npgan-run":
            entry.unlink()
    (run / left).write_text("mine\n")
    assert train("--out", run) == 2
    assert "add --overwrite" in one_line(capsys)
    assert (run / left).read_text() == "mine\n"
    assert train("--out", run, "--overwrite", "--epochs", "1") == 0


@pytest.mark.parametrize("place", [".previous-run", "checkpoints", "samples/more"])
def test_no_run_is_made_among_the_files_of_another(
    run: Path, train: Train, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next start in ``run`` would have taken that in .previous-run for its own old files."""
    before = tree(run)
    assert train("--out", run / place, "--overwrite") == 2
    assert "lies among the files of a run" in one_line(capsys)
    assert tree(run) == before


def test_a_folder_in_the_place_of_an_old_runs_file(run: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    (run / ".previous-run/config.json").mkdir(parents=True)
    for flags in (("--resume", run, "--epochs", "5"), ("--out", run, "--overwrite")):
        assert train(*flags) == 2
        assert ".previous-run/config.json: is not a regular file" in one_line(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "RUN", "--out", "RUN/samples/epoch-00001.png"),
        ("sample", "RUN", "--out", "link.png"),
        ("inspect", "RUN", "--html", "RUN/config.json"),
        ("inspect", "RUN", "--html", "RUN/checkpoints/latest"),
        ("inspect", "RUN", "--html", "RUN/.npgan-run"),
        ("bench", "--json", "RUN/metrics.jsonl"),
    ],
)
def test_a_runs_own_files_are_no_place_for_anything_else(
    run: Path,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.png").symlink_to(run / "samples/epoch-00004.png")
    before = tree(run)
    assert main([word.replace("RUN", str(run)) for word in words]) == 2
    assert "is a file of a run: name another one" in one_line(capsys)
    assert tree(run) == before


@pytest.mark.parametrize("name", ["s.npy", "s.png"])
def test_samples_replace_what_they_are_named_whole_or_not_at_all(
    run: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, link = tmp_path / name, tmp_path / f"link-{name}"
    target.write_text("mine\n")
    link.symlink_to(target)
    words = ["sample", str(run), "--n", "8", "--out", str(link)]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails(errno.ENOSPC))
        assert main(words) == 2
    assert "cannot be written: No space left on device" in one_line(capsys)
    assert target.read_text() == "mine\n"
    assert main(words) == 0
    assert link.is_symlink() and target.stat().st_size > 5000
    assert not list(tmp_path.glob(".*.tmp"))


def fails(number: int) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_in_the_place_of_a_picture_is_not_waited_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "s.npy")
    assert main(["sample", str(run), "--out", str(tmp_path / "s.npy")]) == 2
    assert "is not a regular file" in one_line(capsys)
    os.mkfifo(run / "samples/epoch-00009.png")
    assert main(["sample", str(run), "--animate"]) == 2
    assert "is not a picture of samples" in one_line(capsys)
