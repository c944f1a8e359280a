"""A long run must not grow: 300 epochs with a preview each on 128 images, and a run whose history has 50,000 lines.

``python tests/runs/endurance.py`` is the soak; ``test_endurance.py`` does a short one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from npgan.backend import select  # noqa: E402 - after the path is set
from npgan.config import TrainConfig  # noqa: E402
from npgan.data.digits import render  # noqa: E402
from npgan.data.idx import write_idx  # noqa: E402
from npgan.data.mnist import fingerprint, load_dataset  # noqa: E402
from npgan.gan import new_state  # noqa: E402
from npgan.runs.folder import RunFolder  # noqa: E402

MIB = 2**20
CHECKPOINT = 36 * MIB  # at most
MOST_CHECKPOINTS = 20 + 3 + 2  # milestones, the last, one being written and one about to go


class Look(NamedTuple):
    """What the process has at one moment."""

    epochs: int
    memory: int  # bytes
    files: int  # open
    disk: int  # bytes of the run without its pictures and its metrics, which are one a preview and a line an epoch


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte", render(count, 1)[0])
    return folder


def train(*flags: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--backend", "numpy", "--threads", "1"]
    return subprocess.Popen([*command, *map(str, flags)], stdout=subprocess.DEVNULL)


def watch(process: subprocess.Popen[bytes], run: Path) -> list[Look]:
    """So often that some looks fall between two writes, until it ends."""
    looks = []
    while process.poll() is None:
        with suppress(OSError):  # not begun, or just ended
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
            epochs = (run / "metrics.jsonl").read_bytes().count(b"\n")
            looks.append(Look(epochs, pages * os.sysconf("SC_PAGESIZE"), files, _disk(run)))
        time.sleep(0.02)
    return looks


def _disk(run: Path) -> int:
    sizes = 0
    for path in run.rglob("*"):
        if "samples" not in path.parts and path.name != "metrics.jsonl":
            with suppress(FileNotFoundError):  # a checkpoint that gave way
                sizes += path.lstat().st_size
    return sizes


def endure(folder: Path, epochs: int) -> str:
    """Trains with a preview after every epoch; memory, open files and disk must be flat over the last two thirds."""
    run = folder / "run"
    process = train(
        "--out", run, "--data-dir", images(folder / "data", 128), "--epochs", str(epochs), "--output-period", "1"
    )
    looks = watch(process, run)
    assert process.returncode == 0
    assert len(list((run / "samples").glob("*.png"))) == epochs
    middle = [look for look in looks if epochs / 3 <= look.epochs < epochs * 2 / 3]
    late = [look for look in looks if epochs * 2 / 3 <= look.epochs < epochs]  # what the end draws comes after
    memory, after = (float(np.median([look.memory for look in part])) for part in (middle, late))
    files, files_after = (min(look.files for look in part) for part in (middle, late))  # more while one is written
    disk = max(look.disk for look in looks)
    assert after - memory < 8 * MIB, f"memory grew from {memory / MIB:.0f} to {after / MIB:.0f} MiB"
    assert files_after <= files, f"open files grew from {files} to {files_after}"
    assert disk < MOST_CHECKPOINTS * CHECKPOINT, f"{disk / MIB:.0f} MiB on disk"
    return (
        f"{epochs} epochs: memory {memory / MIB:.0f}, then {after / MIB:.0f} MiB; "
        f"{files}, then {files_after} open files; at most {disk / MIB:.0f} MiB of checkpoints"
    )


def long_run(folder: Path, epochs: int) -> Path:
    """A run that has done so many epochs of one iteration, without having done them."""
    data = images(folder / f"data-{epochs}", 1)
    config = TrainConfig(dataset="mnist", epochs=epochs, batch_size=1)
    state = new_state(config, select("numpy"))
    state.step = epochs
    runtime = {
        "backend": "numpy", "precision": "fp32", "kernels": "reference", "gemm": None, "data_dir": str(data.resolve()),
        "data_sha256": fingerprint(load_dataset("mnist", data)), "checkpoint_every": None, "keep": None,
    }  # fmt: skip
    run = RunFolder.create(folder / f"run-{epochs}", overwrite=False)
    run.begin(state, config, runtime, np.zeros(6), print)
    run.write_config(config)
    names = ("loss_d", "loss_g", "d_real", "d_fake", "grad_norm_d", "grad_norm_g", "seconds", "images_per_second")
    with open(run.metrics_file, "w") as file:
        for epoch in range(1, epochs + 1):
            file.write(json.dumps({"epoch": epoch, "step": epoch, **dict.fromkeys(names, 0.123456789)}) + "\n")
    return run.path


def resume_long_runs(folder: Path, epochs: int) -> str:
    """Two hundred more epochs of a run with a long history must not take seconds more than of one with a short history."""
    took = []
    for done in (10, epochs):
        run = long_run(folder, done)
        begin = time.perf_counter()
        assert train("--resume", run, "--epochs", str(done + 200)).wait() == 0
        took.append(time.perf_counter() - begin)
        assert (run / "metrics.jsonl").read_bytes().count(b"\n") == done + 200
    assert took[1] - took[0] < 3.0, took
    return f"200 epochs after {epochs}: {took[1]:.1f} s, after 10: {took[0]:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--history", type=int, default=50_000, help="lines")
    parser.add_argument("--folder", type=Path, help="where the runs go, about 1 GB (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(endure(Path(folder), options.epochs), flush=True)
        print(resume_long_runs(Path(folder), options.history))


if __name__ == "__main__":
    main()
