"""Kills workers of a sweep with SIGKILL, one after another, and its scheduler; all runs must end as if nobody had.

``python tests/sweep/sweep_kills.py --runs 12 --every 3`` is the soak; ``test_sweep.py`` does a little of it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil  # a dependency of distributed

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from npgan.data.digits import render  # noqa: E402 - after the path is set
from npgan.data.idx import write_idx  # noqa: E402
from npgan.sweep.examine import checkpoint_step  # noqa: E402

LOSSES = ("bce", "bce-logits")
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def small_data(folder: Path) -> Path:
    """16 images."""
    folder.mkdir(parents=True)
    write_idx(folder / "train-images-idx3-ubyte", render(16, 1)[0])
    return folder


def flags(data: Path, epochs: int) -> list[str]:
    """What the sweep's runs and those alone have in common."""
    common = [
        "--data-dir",
        data,
        "--epochs",
        epochs,
        "--batch-size",
        "4",
        "--kernels",
        "reference",
        "--checkpoint-every",
        "1",
    ]
    return [*map(str, common), "--threads", "1", "--keep", "1"]


def sweep(data: Path, out: Path, seeds: int, epochs: int, *more: str) -> subprocess.Popen[str]:
    """A process that runs ``seeds`` seeds of two losses."""
    words = ["sweep", "--seeds", f"0-{seeds - 1}", "--set", f"loss={','.join(LOSSES)}", "--out", str(out), *more]
    return npgan([*words, *flags(data, epochs)])


def npgan(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "npgan", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=_ENVIRONMENT, start_new_session=True,
    )  # fmt: skip


def last_checkpoints(out: Path) -> dict[str, str]:
    """SHA-256 of each run's last one, by the run's folder."""
    found = {}
    for run in sorted(out.glob("*/seed-*")):
        file = run / "checkpoints" / f"step-{checkpoint_step(run) or 0:09d}.safetensors"
        found[str(run.relative_to(out))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def alone(data: Path, folder: Path, seeds: int, epochs: int) -> dict[str, str]:
    """The same runs by ``npgan train``, two at a time."""
    for seed in range(seeds):
        started = []
        for loss in LOSSES:
            words = [
                "train",
                "--out",
                str(folder / f"loss={loss}" / f"seed-{seed}"),
                "--loss",
                loss,
                "--seed",
                str(seed),
            ]
            # NumPy's BLAS is set up as it is imported: not in this process
            started.append(npgan([*words, "--backend", "auto", "--quiet", *flags(data, epochs)]))
        for process in started:
            _, problems = process.communicate()
            assert process.returncode == 0, problems
    return last_checkpoints(folder)


def worker_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers of a sweep on this machine: they were started by multiprocessing."""
    found = []
    for child in psutil.Process(process.pid).children():
        try:
            if any("spawn_main" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:  # it has ended by now
            pass
    return found


def epochs_done(out: Path) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in out.glob("*/seed-*/metrics.jsonl"))


def wait_for(what: str, holds: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.05)


def _has_workers(process: subprocess.Popen[str]) -> bool:
    return process.poll() is not None or len(worker_processes(process)) == 2


def _goes_on(process: subprocess.Popen[str], out: Path, before: int) -> bool:
    return process.poll() is not None or epochs_done(out) > before


@contextmanager
def killed_in_the_end(*processes: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def dask(stack: ExitStack, *words: str, path: Path = ROOT) -> subprocess.Popen[str]:
    """A process of Dask's own command, ended with its children when the stack is closed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *words], env={**os.environ, "PYTHONPATH": str(path)}, cwd=path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    stack.enter_context(killed_in_the_end(process))
    stack.callback(process.terminate)
    return process


def wait_for_workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, timeout=30, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=30)


def by_hand(folder: Path, seeds: int, epochs: int) -> dict[str, int]:
    """A sweep on a scheduler and workers started by hand; the scheduler is killed, and all three begin again."""
    data, out, address = small_data(folder / "data"), folder / "sweep", f"tcp://127.0.0.1:{free_port()}"
    expected = alone(data, folder / "alone", seeds, epochs)
    with ExitStack() as stack:
        for again in (False, True):
            scheduler = dask(stack, "scheduler", "--host", address, "--no-dashboard", "--no-show")
            for _ in range(2):
                dask(stack, "worker", address, "--nthreads", "1", "--no-dashboard")
            wait_for_workers(address, 2)
            process = sweep(data, out, seeds, epochs, "--scheduler", address)
            with killed_in_the_end(process):
                if not again:
                    wait_for("nothing is trained", partial(_goes_on, process, out, 2))
                    scheduler.kill()
                _, problems = process.communicate(timeout=150)
            assert process.returncode == (0 if again else 1) and problems.count("\n") == (not again), problems
            assert again or "the scheduler is gone" in problems
    assert last_checkpoints(out) == expected
    return {"schedulers killed": 1}


def torment(folder: Path, seeds: int, epochs: int, kills: int, every: float, chance: random.Random) -> dict[str, int]:
    """A sweep under a killer, which ends its scheduler once, too. Returns counts."""
    data, out = small_data(folder / "data"), folder / "sweep"
    expected = alone(data, folder / "alone", seeds, epochs)
    counts = {"workers killed": 0, "schedulers killed": 0}
    scheduler_at, before = kills // 2, 0
    process = sweep(data, out, seeds, epochs, "--workers", "2")
    while True:
        with killed_in_the_end(process):
            while process.poll() is None and counts["workers killed"] < kills:
                wait_for("no worker comes", partial(_has_workers, process))
                wait_for("nothing is trained", partial(_goes_on, process, out, before))
                end = time.monotonic() + every * chance.uniform(0.5, 1.5)
                while process.poll() is None and time.monotonic() < end:
                    time.sleep(0.02)
                if process.poll() is None and (victims := worker_processes(process)):
                    chance.choice(victims).kill()
                    counts["workers killed"] += 1
                    before = epochs_done(out)
                if counts["workers killed"] >= scheduler_at and not counts["schedulers killed"]:
                    break  # its scheduler lives in the sweep's own process
            else:
                said, problems = process.communicate(timeout=300)
                assert process.returncode == 0, problems
                break
        counts["schedulers killed"] += 1
        process = sweep(data, out, seeds, epochs, "--workers", "2")
    assert last_checkpoints(out) == expected
    assert f"{2 * seeds}/{2 * seeds} runs" in said, said
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", type=float, default=3.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by-hand", action="store_true", help="instead: a scheduler and workers of Dask's own command")
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        chance = random.Random(options.seed)
        seeds = options.runs // 2
        if options.by_hand:
            counts = by_hand(Path(folder), seeds, options.epochs)
        else:
            counts = torment(Path(folder), seeds, options.epochs, options.kills, options.every, chance)
    print(f"{options.runs} runs: {counts}, every checkpoint as alone, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
