"""Every command on a machine without fcntl, /proc and POSIX's signals, with and without numba and plotext."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from npgan.data.digits import render
from npgan.data.idx import write_idx

ROOT = Path(__file__).parents[1]


class Machine:
    """Runs npgan as a user does; every process of it lacks the same things."""

    def __init__(self, folder: Path, hidden: tuple[str, ...]) -> None:
        self.folder = folder
        (folder / "site").mkdir()
        code = f"import other_machine\nother_machine.hide({hidden!r})\n"
        (folder / "site" / "sitecustomize.py").write_text(code)
        paths = (folder / "site", ROOT / "tests", ROOT)
        homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "LOCALAPPDATA"), str(folder / "home"))
        path = os.pathsep.join(map(str, paths))
        self.env = {**os.environ, **homes, "PYTHONPATH": path, "NPGAN_DATA": str(folder / "cache")}

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def npgan(self, *words: str, status: int = 0) -> str:
        process = self.start("-m", "npgan", *words)
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == status, printed
        assert "Traceback" not in printed and "UserWarning" not in printed
        return printed


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    return _machine(tmp_path, ("numba", "plotext"))


def _machine(folder: Path, hidden: tuple[str, ...]) -> Machine:
    data = folder / "data"
    data.mkdir()
    for prefix, (images, labels) in (("train", render(180, 1)), ("t10k", render(140, 2))):
        write_idx(data / f"{prefix}-images-idx3-ubyte", images)
        write_idx(data / f"{prefix}-labels-idx1-ubyte", labels)
    return Machine(folder, hidden)


TRAIN = ["train", "--backend", "numpy", "--data-dir", "data", "--batch-size", "30", "--out", "run", "--epochs"]


def _import_and_train(machine: Machine) -> str:
    process = machine.start("-c", "import other_machine; other_machine.import_all()")
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    printed = machine.npgan(*TRAIN, "2", "--output-period", "1")
    assert printed.count("this system has no file locks") == 1
    return printed


def test_with_numba(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the fused kernels: pip install 'npgan[fast]'")
    printed = _import_and_train(_machine(tmp_path, ()))
    assert "fused, fp32" in printed
    assert printed.count("no curves in the terminal: plotext ") <= 1  # it may want termios


@pytest.mark.slow
def test_every_command(bare: Machine) -> None:
    printed = _import_and_train(bare)
    assert "reference, fp32 (numba is not installed" in printed
    assert printed.count("no curves in the terminal: plotext is not installed") == 1
    printed = bare.npgan("train", "--resume", "run", "--epochs", "3", "--quiet")
    assert [line.partition(": ")[0] for line in printed.splitlines()] in (["run"], ["run", "warning"])

    assert "samples.png: 64 samples of run after step 18" in bare.npgan("sample", "run", "--backend", "numpy")
    assert "✓ Every backward is right" in bare.npgan("inspect", "run")
    assert "no curves in the terminal: plotext " in bare.npgan("inspect", "run", "--summary", "--html", "page.html")
    assert "comparisons pass" in bare.npgan("gradcheck", "--backend", "numpy")
    bare.npgan("evaluate", "run", "--backend", "numpy", "--n", "130")
    assert (bare.folder / "run" / "evaluation.json").exists()
    bare.npgan("puzzle", "2")
    assert "28 of 28 wrong" in bare.npgan("puzzle", "2", "--check", status=1)
    file = bare.folder / "puzzle-2.py"
    file.write_text(file.read_text("utf-8").replace("weight.reshape(weight.shape[::-1])", "weight.T"), "utf-8")
    assert "Right: all" in bare.npgan("puzzle", "2", "--check")
    assert "1 of 43 solved" in bare.npgan("puzzle")
    flags = ["--only", "npgan reference", "--batch-sizes", "4", "--rounds", "1", "--calls", "1"]
    (line,) = [line for line in bare.npgan("bench", *flags).splitlines() if line.startswith("npgan, reference")]
    assert line.split()[-1] == "-"  # nobody counts its memory


def test_one_process_at_a_time_and_a_kill_is_no_end(bare: Machine) -> None:
    first = bare.start("-m", "npgan", *TRAIN, "100000")
    assert first.stdout is not None
    try:
        while not first.stdout.readline().startswith("epoch"):
            assert first.poll() is None
        refused = bare.npgan("train", "--resume", "run", "--epochs", "100001", status=2)
        assert f"in use by process {first.pid}" in refused and "remove run" in refused
    finally:
        first.kill()
        first.communicate()
    printed = bare.npgan(
        "train", "--resume", "run", "--train-images", "180", status=2
    )  # a mistake, yet it has the lock
    assert f"process {first.pid}" in printed and "taking over" in printed


def test_ctrl_c_saves(bare: Machine) -> None:
    process = bare.start("-m", "npgan", *TRAIN, "100000")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch"):
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert "resume with: --resume run" in " ".join(process.communicate(timeout=60)[0].split())
    assert process.returncode == 130
