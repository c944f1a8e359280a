"""What was computed is saved, whatever happens to the terminal; and the display is never a reason to stop."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import after_steps
from kills import ROOT

from npgan.cli import main
from npgan.evaluation import command as evaluation_command
from npgan.runs import display as display_module
from npgan.runs import output as output_module
from npgan.runs import train as run_module
from npgan.runs.display import TrainingDisplay
from npgan.runs.folder import RunFolder
from npgan.runs.output import RunLog, let_go, unfailing_output

Train = Callable[..., int]
Start = Callable[..., subprocess.Popen[bytes]]
EPOCHS = 6


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Start]:
    """Trains in a process of its own, as a user does. What a test leaves running ends with it."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(*flags: str, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "npgan", "train", "--backend", "numpy", "--kernels", "reference"]
        command += ["--data-dir", str(data), "--batch-size", "8", "--out", str(tmp_path / "run"), *flags]
        begun.append(subprocess.Popen(command, cwd=ROOT, **options))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def log_of(run: Path) -> str:
    return (run / "npgan.log").read_text()


def epochs_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_for_epochs(process: subprocess.Popen[bytes], run: Path, epochs: int) -> None:
    while epochs_of(run) < epochs:
        assert process.poll() is None
        time.sleep(0.02)


# --- output that cannot be written


def test_a_closed_pipe(start: Start, tmp_path: Path) -> None:
    process = start("--epochs", str(EPOCHS), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert (process.wait(), process.stderr.read()) == (0, b"")
    assert epochs_of(tmp_path / "run") == EPOCHS
    assert "standard output cannot be written (Broken pipe): going on without it" in log_of(tmp_path / "run")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("both", [False, True], ids=["standard output", "standard error, too"])
def test_a_full_disk_under_the_output(start: Start, tmp_path: Path, both: bool) -> None:
    with open("/dev/full", "wb") as full:
        process = start("--epochs", str(EPOCHS), stdout=full, stderr=full if both else subprocess.PIPE)
    assert not process.communicate()[1]
    assert process.returncode == 0
    assert epochs_of(tmp_path / "run") == EPOCHS
    assert "standard output cannot be written (No space left on device)" in log_of(tmp_path / "run")


def test_no_output_at_all(start: Start, tmp_path: Path) -> None:
    def close() -> None:
        os.close(1)
        os.close(2)

    assert start("--epochs", "2", preexec_fn=close).wait() == 0
    assert epochs_of(tmp_path / "run") == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_mistake_has_its_exit_status_though_nobody_can_read_it(start: Start) -> None:
    with open("/dev/full", "wb") as full:
        assert start("--keep", "0", stdout=full, stderr=full).wait() == 2


@pytest.mark.parametrize("own", [False, True], ids=["another's", "its own"])
def test_a_terminal_that_is_gone(start: Start, tmp_path: Path, own: bool) -> None:
    """Its own sends SIGHUP, so it saves and stops; to another it only writes."""
    run, epochs = tmp_path / "run", 100_000 if own else 20
    master, terminal = pty.openpty()

    def take() -> None:
        os.setsid()
        if own:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    process = start("--epochs", str(epochs), stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=take)
    os.close(terminal)
    while epochs_of(run) < 2:
        os.read(master, 65536)
    os.close(master)
    status = process.wait(60)
    assert "cannot be written (Input/output error): going on without it" in log_of(run)
    if own:
        assert status == 128 + signal.SIGHUP
        stopped = RunFolder(run).latest_checkpoint().step
        assert stopped >= 4 and f"stopped: after step {stopped}" in log_of(run)
    else:
        assert status == 0 and epochs_of(run) == epochs


def test_nohup(start: Start, tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start("--epochs", "20", stdout=subprocess.DEVNULL, preexec_fn=ignore)
    wait_for_epochs(process, tmp_path / "run", 1)
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 0
    assert epochs_of(tmp_path / "run") == 20


def test_a_reader_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has no room for is left out; when it reads again it gets what comes then."""
    monkeypatch.setattr(output_module, "_PATIENCE_MS", 20)
    told: list[str] = []
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with unfailing_output(told.append):
            for _ in range(50):
                print("x" * 10_000)
            assert told == ["standard output cannot be written (nobody reads it): going on without it"]
            kept = _read_all(reading)
            print("here again")
        assert set(kept) <= set(b"x\n") and 4000 < len(kept) < 300_000
        assert _read_all(reading) == b"here again\n"
    os.close(reading)


def _read_all(number: int) -> bytes:
    pieces = []
    with pytest.raises(BlockingIOError):
        while True:
            pieces.append(os.read(number, 65536))
    return b"".join(pieces)


def test_a_stream_that_was_closed_or_is_none_of_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    closed, kept = io.StringIO(), io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", kept)
    with unfailing_output(told.append):
        print("lost")
        print("kept", file=sys.stderr)
    assert told == ["standard output cannot be written (I/O operation on closed file): going on without it"]
    assert kept.getvalue() == "kept\n" and sys.stdout is closed
    let_go(closed)


def test_drawing_that_fails_ends_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any, **more: Any) -> str:
        raise ZeroDivisionError("in a library")

    monkeypatch.setattr(display_module, "heat_map", fail)
    monkeypatch.setattr(display_module, "loss_curves", fail)
    monkeypatch.setattr(TrainingDisplay, "_pace", lambda display: "")
    words = ["train", "--backend", "numpy", "--kernels", "reference", "--data-dir", str(data), "--batch-size", "8"]
    assert main([*words, "--epochs", "2", "--out", str(tmp_path / "run")]) == 0
    assert epochs_of(tmp_path / "run") == 2
    assert log_of(tmp_path / "run").count("drawing failed (ZeroDivisionError: in a library)") == 1
    assert "epoch 2/2" in capsys.readouterr().out


def test_evaluating_goes_on_without_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result is a file."""
    reading, writing = os.pipe()
    os.close(reading)

    def evaluate(**values: Any) -> int:
        print("progress")
        return 0

    monkeypatch.setattr(evaluation_command, "evaluate", evaluate)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["evaluate", str(tmp_path)]) == 0


# --- signals


SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2"]


@pytest.mark.parametrize("name", [name for name in SIGNALS if hasattr(signal, name)])
def test_signals_that_ask_to_stop(train: Train, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    stopping = {3: lambda state: os.kill(os.getpid(), number)}
    monkeypatch.setattr(run_module, "choose", after_steps(run_module.choose, stopping))
    monkeypatch.setattr(run_module, "SECONDS_PER_CALL", 0.0)  # one iteration in a call
    run = tmp_path / "run"
    assert train("--out", run) == 128 + number
    assert RunFolder(run).latest_checkpoint().step == 3
    assert "stopped: after step 3" in log_of(run) and f"resume with: --resume {run}" in log_of(run)
    assert signal.getsignal(number) is before


def test_signals_that_are_ignored_or_handled_by_a_caller_stay_so(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[int] = []
    before = [signal.getsignal(each) for each in (signal.SIGHUP, signal.SIGUSR1)]

    def kill(state: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(run_module, "choose", after_steps(run_module.choose, {3: kill}))
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
        assert train("--out", tmp_path / "run") == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and received == [signal.SIGUSR1]
    finally:
        for each, handler in zip((signal.SIGHUP, signal.SIGUSR1), before, strict=True):
            signal.signal(each, handler)


def test_stopped_by_the_terminal_and_continued(start: Start, train: Train, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = start(
        "--epochs", "12", "--checkpoint-every", "1", process_group=0
    )  # of an orphaned group Ctrl-Z stops nobody
    for _ in range(3):
        wait_for_epochs(process, run, epochs_of(run) + 1)
        process.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        done = epochs_of(run)
        time.sleep(0.05)
        assert epochs_of(run) == done < 12
        process.send_signal(signal.SIGCONT)
    assert process.wait() == 0
    assert train("--out", whole, "--epochs", "12") == 0
    last = "checkpoints/step-000000024.safetensors"
    assert (run / last).read_bytes() == (whole / last).read_bytes()


def test_the_command_line_works_in_another_thread(train: Train, tmp_path: Path) -> None:
    status: list[int] = []
    worker = threading.Thread(target=lambda: status.append(train("--out", tmp_path / "run", "--epochs", "2")))
    worker.start()
    worker.join()
    assert status == [0] and epochs_of(tmp_path / "run") == 2


# --- what goes wrong between two iterations


class _Broken:
    """An observer whose second evaluation fails."""

    def __init__(self, *of: Any) -> None:
        self._calls = 0

    def observe(self, state: Any, epoch: int) -> str:
        self._calls += 1
        if self._calls == 2:
            raise MemoryError("100 GiB")
        return "measured"


def test_an_evaluation_that_fails_costs_no_epoch(data: Path, tmp_path: Path) -> None:
    request = run_module.Request(
        config={"epochs": 4, "batch_size": 8, "eval_every": 1},
        data=run_module.DataChoice("auto", data),
        folder=run_module.FolderChoice(tmp_path / "run"),
        compute=run_module.Compute("numpy", None, "reference"),
        quiet=True,
    )
    with pytest.raises(MemoryError):
        run_module.train(request, _Broken)
    assert RunFolder(tmp_path / "run").latest_checkpoint().step == 4  # two epochs
    assert "error: 100 GiB" in log_of(tmp_path / "run")


def test_a_picture_that_cannot_be_written_costs_no_epoch(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = RunFolder.save_samples

    def save_samples(run: RunFolder, images: Any, epoch: int) -> Path:
        if epoch == 2:
            raise OSError(errno.EACCES, "Permission denied", "epoch-00002.png")
        return real(run, images, epoch)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_samples", save_samples)
        assert train("--out", run, "--checkpoint-every", "100", "--output-period", "1") == 1
    line = capsys.readouterr().err
    assert "epoch-00002.png: Permission denied; stopped after step 4, the last checkpoint is" in line
    assert "step-000000004" in line and line.count("\n") == 1
    assert train("--resume", run) == 0
    assert epochs_of(run) == 4


def test_a_log_has_what_was_said_before_there_was_a_file_and_no_codes(tmp_path: Path) -> None:
    log = RunLog()
    log("early \x1b[2J\n")
    assert list(tmp_path.iterdir()) == []
    log.open(tmp_path / "npgan.log")
    log("late")
    first, second = log_of(tmp_path).splitlines()
    assert first.endswith("  early ?[2J") and second.endswith("  late")
    log.open(tmp_path / "nowhere" / "npgan.log")
    log("lost, which is no error")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("sample", "RUN", "--out", "x.png"), ("inspect", "RUN", "--html", "x.html")])
def test_a_file_is_written_though_nothing_can_be_shown(run: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "npgan", *(word.replace("RUN", str(run)) for word in words)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full)
    assert done.returncode == 0
    assert (tmp_path / words[-1]).stat().st_size > 5000
