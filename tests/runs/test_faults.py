"""A full disk, a folder that is in use or read-only, files that a person spoilt: one clear line, and nothing saved is lost."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import after_steps
from kills import LITTER, ROOT

from npgan.errors import InputError
from npgan.runs import train as run_module
from npgan.runs.checkpoint import Checkpoint, load
from npgan.runs.folder import Keeping, RunFolder

Train = Callable[..., int]
LAST = "checkpoints/step-000000008.safetensors"
SCRIPT = [sys.executable, str(ROOT / "scripts" / "train.py")]


def same_metrics(run: Path, whole: Path) -> bool:
    """Epoch by epoch the same, without a gap or a double line; times may differ."""
    lines = [[json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (run, whole)]
    for line in (*lines[0], *lines[1]):
        del line["seconds"], line["images_per_second"]
    return lines[0] == lines[1]


def one_line(captured: pytest.CaptureFixture[str]) -> str:
    problems = captured.readouterr().err
    assert problems.count("\n") == 1, problems
    return problems


def back_to_step_4(run: Path) -> None:
    """As if the process had been killed after the second epoch's checkpoint."""
    for step in (6, 8):
        (run / f"checkpoints/step-{step:09d}.safetensors").unlink()
    shutil.copy(run / "checkpoints/step-000000004.safetensors", run / "kept")


# --- the disk


@pytest.mark.parametrize(
    ("most_bytes", "file"), [(700, "metrics.jsonl"), (30_000, "epoch-00003.png"), (20_000_000, "step-000000006")]
)
def test_a_full_disk(run: Path, whole: Path, train: Train, most_bytes: int, file: str) -> None:
    """A limit on the size of a file stands for the full disk: each kind of file in turn is the one that does not fit."""
    back_to_step_4(run)
    every = 100 if file == "epoch-00003.png" else 1  # then there is no checkpoint before it
    result = subprocess.run(
        [*SCRIPT, "--resume", run, "--backend", "numpy", "--quiet", "--checkpoint-every", str(every)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
        capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert file in result.stderr
    assert "File too large" in result.stderr
    assert "step-000000004.safetensors" in result.stderr
    assert [line for line in result.stderr.splitlines() if "gemm" not in line][1:] == []
    assert (run / "checkpoints/step-000000004.safetensors").read_bytes() == (run / "kept").read_bytes()
    assert not [path for path in run.rglob("*") if LITTER.fullmatch(path.name)]
    assert train("--resume", run, "--checkpoint-every", "1") == 0
    assert (run / LAST).read_bytes() == (whole / LAST).read_bytes()
    assert same_metrics(run, whole)


def test_a_disk_that_is_really_full_and_one_that_is_read_only(data: Path, tmp_path: Path) -> None:
    """A disk of 60 MB takes one checkpoint and not two; then there is room; then nothing may be written at all."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    disk = tmp_path / "disk"
    disk.mkdir()
    train = f"{SCRIPT[0]} {SCRIPT[1]} --backend numpy --kernels reference --quiet"
    script = f"""
        mount -t tmpfs -o size=60m tmpfs {disk} || exit 99
        {train} --out {disk}/run --data-dir {data} --batch-size 8 --epochs 2; echo full $?
        find {disk} -type f | sort
        mount -o remount,size=200m {disk}
        {train} --resume {disk}/run; echo room $?
        mount -o remount,ro {disk}
        {train} --resume {disk}/run --epochs 3; echo read-only $?
        {train} --out {disk}/other --data-dir {data} --batch-size 8; echo read-only $?
    """
    result = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    if result.returncode == 99:
        pytest.skip("tmpfs cannot be mounted here")
    files = ["/.lock", "/.npgan-run", "/checkpoints/latest", "/checkpoints/step-000000000.safetensors"]
    files += ["/config.json", "/metrics.jsonl", "/npgan.log", "/samples/epoch-00001.png", "/samples/epoch-00002.png"]
    listing = [f"{disk}/run{file}" for file in files]
    assert result.stdout.splitlines() == ["full 1", *listing, "room 0", "read-only 2", "read-only 2"], result.stderr
    full, read_only, other = result.stderr.splitlines()
    assert "No space left on device" in full and "step-000000000.safetensors" in full and "--resume" in full
    assert "Read-only file system" in read_only and "Read-only file system" in other


# --- checkpoints that a person or a disk spoilt


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    run: Path, whole: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((run / LAST).read_bytes())
    content[20_000_000] ^= 1
    (run / LAST).write_bytes(content)
    assert train("--resume", run) == 0
    line = one_line(capsys)
    assert LAST in line and "checksum" in line and "the one before" in line
    assert (run / LAST).read_bytes() == (whole / LAST).read_bytes()
    assert (run / (LAST + ".damaged")).read_bytes() == content
    assert same_metrics(run, whole)


@pytest.mark.parametrize("pointer", [None, "", "step-000000002.safetensors\n", "../../../etc/passwd", "\0\xff"])
def test_the_pointer_is_only_a_pointer(run: Path, whole: Path, train: Train, pointer: str | None) -> None:
    (run / "checkpoints/latest").unlink()
    if pointer is not None:
        (run / "checkpoints/latest").write_text(pointer)
    litter = [run / ".config.json.123.tmp", run / "checkpoints/.tmpAbC123"]  # the second: of safetensors
    for path in litter:
        path.touch()
    assert train("--resume", run) == 0
    assert (run / "checkpoints/latest").read_text() == "step-000000008.safetensors\n"
    assert not any(path.exists() for path in litter)


def test_no_whole_checkpoint_is_told(run: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (run / "checkpoints").glob("step-*"):
        path.write_bytes(path.read_bytes()[:1000])
    assert train("--resume", run) == 2
    assert "no checkpoint that is whole" in capsys.readouterr().err.splitlines()[-1]
    assert len(list((run / "checkpoints").glob("step-*"))) == 3  # nothing was taken away


def test_links_that_lead_elsewhere_are_refused(
    run: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    assert train("--resume", run) == 2
    assert "is a link" in one_line(capsys)


def test_the_last_ones_and_the_milestones_stay(train: Train, tmp_path: Path) -> None:
    assert train("--out", tmp_path / "run", "--epochs", "5", "--output-period", "2", "--keep", "1") == 0
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step-*"))
    assert names == [f"step-{step:09d}.safetensors" for step in (4, 8, 10)]
    assert train("--resume", tmp_path / "run", "--epochs", "6") == 0  # --keep 1 is remembered
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step-*"))
    assert names == [f"step-{step:09d}.safetensors" for step in (4, 8, 12)]


def test_early_previews_leave_no_checkpoints(train: Train, data: Path, tmp_path: Path) -> None:
    """Two hundred epochs have two milestones, whatever was shown before."""
    flags = ("--epochs", "200", "--checkpoint-every", "1000", "--keep", "1", "--train-images", "1", "--batch-size", "1")
    assert train("--out", tmp_path / "run", *flags) == 0
    pictures = sorted(path.stem for path in (tmp_path / "run/samples").glob("*.png"))
    assert pictures == [f"epoch-{epoch:05d}" for epoch in (1, 2, 5, 10, 20, 50, 100, 200)]
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step-*"))
    assert names == [f"step-{step:09d}.safetensors" for step in (100, 200)]


def test_a_run_from_before_there_were_early_previews_resumes_as_it_was(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoints and its config.json say output_period 100, which was the default then."""
    run = tmp_path / "run"
    assert train("--out", run, "--epochs", "2", "--output-period", "100") == 0
    assert [path.name for path in (run / "samples").glob("*.png")] == ["epoch-00002.png"]
    assert train("--resume", run, "--epochs", "8") == 0
    assert sorted(path.name for path in (run / "samples").glob("*.png")) == ["epoch-00002.png", "epoch-00008.png"]
    assert train("--resume", run, "--output-period", "100") == 0
    assert train("--resume", run, "--output-period", "5") == 2
    assert "--output-period is 100, not 5" in one_line(capsys)


def test_the_default_period_is_auto_in_the_file_and_in_words(
    run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((run / "config.json").read_text())["output_period"] is None
    assert train("--resume", run, "--output-period", "100") == 2
    assert "--output-period is auto, not 100" in one_line(capsys)


# --- the animation


def test_a_resumed_run_ends_with_the_whole_animation(train: Train, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train("--out", whole, "--epochs", "4") == 0
    assert train("--out", parts, "--epochs", "2") == 0
    assert train("--resume", parts, "--epochs", "4") == 0
    assert (whole / "samples/training.gif").read_bytes() == (parts / "samples/training.gif").read_bytes()


def test_a_finished_run_gets_its_animation_when_resumed(run: Path, train: Train) -> None:
    gif = run / "samples/training.gif"
    before = gif.read_bytes()
    gif.unlink()  # as by a kill after the last checkpoint
    assert train("--resume", run) == 0
    assert gif.read_bytes() == before


def test_a_spoiled_picture_costs_the_animation_and_no_more(
    run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "samples/training.gif").unlink()
    (run / "samples/epoch-00002.png").write_bytes(b"spoiled")
    capsys.readouterr()
    assert train("--resume", run, "--epochs", "5") == 0
    assert "no animation: " in capsys.readouterr().out
    assert not (run / "samples/training.gif").exists() and (run / "samples/epoch-00005.png").exists()


def test_overwriting_takes_the_old_animation_away(run: Path, train: Train) -> None:
    (run / "samples/.training.gif.123.tmp").write_bytes(b"GIF")
    (run / "samples/training.gif").write_bytes(b"of the old run")
    (run / "samples/mine.gif").write_bytes(b"mine")
    assert train("--out", run, "--overwrite", "--epochs", "1") == 0
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["epoch-00001.png", "mine.gif", "training.gif"]
    assert (run / "samples/training.gif").read_bytes() != b"of the old run"


def test_what_is_kept_does_not_depend_on_config_json(train: Train, tmp_path: Path) -> None:
    """A person may remove it, and a kill may come before it is written."""
    run = tmp_path / "run"
    assert train("--out", run, "--epochs", "5", "--keep", "7") == 0
    (run / "config.json").unlink()
    assert train("--resume", run, "--epochs", "7") == 0
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert names == [f"step-{step:09d}.safetensors" for step in (2, 4, 6, 8, 10, 12, 14)]


def test_what_an_older_version_kept_is_kept(run: Path, train: Train) -> None:
    (run / "checkpoints/kept.json").write_text('{"every": 1, "last": 7}')
    real = run_module.load

    def older(checkpoint: Checkpoint) -> Checkpoint:
        for name in ("keep", "checkpoint_every"):
            checkpoint.runtime.pop(name)
        return checkpoint

    assert RunFolder(run).keeping(older(real(run / LAST))) == Keeping(1, 7)
    (run / "checkpoints/kept.json").write_text('{"every": 0}')
    with pytest.raises(InputError, match="kept.json"):
        RunFolder(run).keeping(older(real(run / LAST)))


# --- config.json and metrics.jsonl


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr_g": 0.1, "batch_size": 9}, "batch_size is 9 there, 8 in the checkpoint; lr_g is 0.1 there, 0.0002"),
        ({"epochs": 1}, "epochs is 1 there, 4 in"),
        ({"epochs": "many"}, "--epochs must be"),
        ({"epochs": 10**400}, "--epochs must be"),
        ({"seed": 1e308}, "--seed must be"),
        ({"layers": 3}, "unknown configuration field: layers"),
        ({"dropout": None}, "--dropout must be"),
        ({"lr_d": float("nan")}, "--lr-d must be"),
        ({"\x1b[2J": 1}, "unknown configuration field: ?[2J"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("\udcff", "cannot be read"),
        (" " * (2 << 20), "is longer than"),
    ],
    ids=range(14),
)
def test_config_files(
    run: Path, train: Train, change: dict[str, object] | str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "config.json"
    text = change if isinstance(change, str) else json.dumps({**json.loads(file.read_text()), **change})
    file.write_text(text, errors="surrogateescape")
    assert train("--resume", run) == 2
    line = one_line(capsys)
    assert words in line and "config.json" in line
    assert file.read_text(errors="surrogateescape") == text  # it is the user's


def test_a_config_file_may_ask_for_more_epochs_or_be_missing(run: Path, train: Train) -> None:
    file = run / "config.json"
    file.write_text(file.read_text().replace('"epochs": 4', '"epochs": 5'))
    assert train("--resume", run) == 0
    assert load(run / "checkpoints/step-000000010.safetensors").config.epochs == 5
    file.unlink()
    assert train("--resume", run) == 0
    assert json.loads(file.read_text())["epochs"] == 5


def test_a_pipe_in_the_place_of_a_file_does_not_hang(
    run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.json").unlink()
    os.mkfifo(run / "config.json")
    assert train("--resume", run) == 2
    assert "not a regular file" in one_line(capsys)


def test_metrics_with_a_torn_last_line(run: Path, whole: Path, train: Train) -> None:
    back_to_step_4(run)
    file = run / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]) + '{"epoch": 3, "st')
    assert train("--resume", run) == 0
    assert same_metrics(run, whole)


@pytest.mark.parametrize(
    "torn",
    ["\0\0\0\0", '{"epoch": 3}\n', "[" * 100_000 + "\n", "5\n", "9" * 5000 + "\n", '{"epoch": 9e999}\n', "\udcff\n"],
)
def test_no_line_of_metrics_hurts(whole: Path, tmp_path: Path, torn: str) -> None:
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text("".join((*lines[:2], torn, *lines[2:])), errors="surrogateescape")
    assert [line["epoch"] for line in folder.read_metrics()][:2] == [1, 2]
    assert {line["epoch"] for line in folder.read_metrics()} <= {1, 2, 3, 4}


def test_lost_metrics_are_told(run: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + "garbage\n" + lines[2] + lines[2] + lines[3])
    assert train("--resume", run) == 0
    assert "3 whole lines for 4 finished epochs" in one_line(capsys)


# --- two processes, signals, other kernels


def test_a_run_that_is_in_use_is_refused(run: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with open(run / ".lock", "r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for flags in (("--resume", run), ("--out", run, "--overwrite")):
            assert train(*flags) == 2
            assert "in use by another process" in one_line(capsys)
        other.write("process 123 on elsewhere\n")
        other.flush()
        assert train("--resume", run) == 2
        assert "in use by process 123 on elsewhere" in one_line(capsys)
        other.truncate(0)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_lock_is_as_private_as_the_user_wants(train: Train, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert train("--out", tmp_path / "run", "--epochs", "1") == 0
    finally:
        os.umask(before)
    assert (tmp_path / "run/.lock").stat().st_mode & 0o777 == 0o600


def test_a_pipe_in_the_place_of_the_lock(run: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    assert train("--resume", run) == 2
    assert "not a regular file" in one_line(capsys)


def test_a_lock_that_a_kill_left_is_recognized(run: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    (run / ".lock").write_text("process 123 on elsewhere\n")
    assert train("--resume", run) == 0
    assert "process 123 on elsewhere ended without saying so: taking over" in one_line(capsys)
    assert (run / ".lock").read_text() == ""


def test_a_second_signal_leaves_at_once_and_nothing_is_lost(
    run: Path, whole: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from npgan import files

    back_to_step_4(run)
    real_publish = files.publish

    def interrupted(temporary: Path, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        real_publish(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", interrupted)
        assert train("--resume", run) == 130
    assert sorted(path.name for path in (run / "checkpoints").glob("*step*"))[-1] == "step-000000004.safetensors"
    assert train("--resume", run) == 0
    assert (run / LAST).read_bytes() == (whole / LAST).read_bytes()


def test_other_kernels_are_allowed_and_told(run: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba")
    assert train("--resume", run, "--kernels", "fused") == 0
    assert "resumes with kernels fused after reference" in capsys.readouterr().err


# --- nothing outside


def test_nothing_is_written_elsewhere(data: Path, tmp_path: Path) -> None:
    """With home, temporary folder, caches and working folder in a sandbox, only the run folder changes."""
    for name in ("home", "tmp", "cache", "here"):
        (tmp_path / name).mkdir()
    environment = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "NPGAN_DATA": "cache"}
    environment = {name: str(tmp_path / folder) for name, folder in environment.items()}
    files = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    flags = ["--data-dir", data, "--batch-size", "8", "--epochs", "1", "--kernels", "reference", "--backend", "numpy"]
    subprocess.run(
        [*SCRIPT, *flags], check=True, capture_output=True, cwd=tmp_path / "here",
        env={**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    appeared = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    assert appeared == {("here", "runs")}
    assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("kernels", ["reference", "fused"])
def test_stopped_in_the_middle_of_an_epoch(
    train: Train, tmp_path: Path, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "fused":
        pytest.importorskip("numba")
    whole, parts, flags = tmp_path / "whole", tmp_path / "parts", ("--kernels", kernels, "--epochs", "3")
    assert train("--out", whole, *flags) == 0
    with monkeypatch.context() as patch:
        stopping = {3: lambda state: os.kill(os.getpid(), signal.SIGTERM)}
        patch.setattr(run_module, "choose", after_steps(run_module.choose, stopping))
        patch.setattr(run_module, "SECONDS_PER_CALL", 0.0)  # one iteration in a call
        assert train("--out", parts, *flags) == 143
    assert (parts / "checkpoints/latest").read_text() == "step-000000003.safetensors\n"
    assert train("--resume", parts, "--kernels", "auto") == 0  # which takes the kernels of before
    last = "checkpoints/step-000000006.safetensors"
    assert (parts / last).read_bytes() == (whole / last).read_bytes()
    assert same_metrics(parts, whole)
