"""Kills a training run with SIGKILL over and over, also inside the write of a checkpoint, and goes on each time.

``python tests/runs/kills.py --kills 200`` is the soak; ``test_kills.py`` does a few of them. With ``--overwrite`` it kills runs
that are about to take the place of another one: of the two, one must be whole.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from npgan.data.digits import render  # noqa: E402 - after the path is set
from npgan.data.idx import write_idx  # noqa: E402
from npgan.runs.checkpoint import load  # noqa: E402
from npgan.runs.folder import RunFolder  # noqa: E402
from npgan.runs.owned import PREVIOUS, STARTING_FILE, own_entries  # noqa: E402

EPOCHS, PER_EPOCH = 6, 4  # iterations
LITTER = re.compile(r"\..*\.tmp|\.writable.*")


def small_data(folder: Path) -> Path:
    """16 images."""
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte", render(16, 1)[0])
    return folder


def start(data: Path, run: Path, kernels: str, *flags: str) -> subprocess.Popen[str]:
    """A process that begins the run or goes on with it; with ``flags`` it begins it in any case."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--quiet", "--threads", "1"]
    if not flags and any((run / "checkpoints").glob("step-*.safetensors")):
        command += ["--resume", str(run)]
    else:
        command += ["--out", str(run), "--backend", "numpy", "--kernels", kernels]
        command += ["--data-dir", str(data), "--batch-size", str(16 // PER_EPOCH), "--epochs", str(EPOCHS)]
        command += ["--checkpoint-every", "1", "--output-period", "2", "--seed", "3", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_inside_write(process: subprocess.Popen[str], run: Path, skip: int) -> None:
    """Kills when a checkpoint's temporary file appears, the ``skip``-th one excluded, or lets the process end."""
    seen: set[str] = set()
    while process.poll() is None:
        writing = {path.name for path in (run / "checkpoints").glob(f".step-*.{process.pid}.tmp")}
        seen |= writing
        if writing and len(seen) > skip:
            break
    process.kill()


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()


def stop_after(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()


def whole_steps(run: Path) -> list[int]:
    """The steps of the checkpoints in the folder; every one of them must be whole, and so must what ``latest`` names."""
    folder = RunFolder(run)
    steps = [load(path).step for path in folder._checkpoint_files()]
    if folder.latest_file.exists():
        assert load(folder.checkpoints / folder.latest_file.read_text().strip()).step in steps
    return steps


def outcome(run: Path) -> dict[str, object]:
    """What must be the same in every run: the final checkpoint, the samples, and the metrics without their times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timing = ("seconds", "images_per_second")
    return {
        "checkpoint": (run / "checkpoints" / f"step-{PER_EPOCH * EPOCHS:09d}.safetensors").read_bytes(),
        "latest": (run / "checkpoints" / "latest").read_text(),
        "samples": {path.name: path.read_bytes() for path in sorted((run / "samples").glob("epoch-*.png"))},
        "metrics": [{key: value for key, value in line.items() if key not in timing} for line in lines],
        "litter": [path for path in run.rglob("*") if LITTER.fullmatch(path.name)],
    }


def torment(folder: Path, kills: int, kernels: str, seed: int, longest: float = 3.0) -> dict[str, int]:
    """Kills runs ``kills`` times in all; each one that gets to its end must be as the undisturbed one. Returns counts."""
    chance = random.Random(seed)
    data = small_data(folder / "data")
    undisturbed = start(data, folder / "whole", kernels)
    _, problems = undisturbed.communicate()
    assert undisturbed.returncode == 0, problems
    expected = outcome(folder / "whole")
    counts = {
        "kills": 0,
        "inside a write": 0,
        "before the first checkpoint": 0,
        "stopped in mid-epoch": 0,
        "runs finished": 0,
    }
    run, saved = folder / "run-0", -1
    while True:
        process = start(data, run, kernels)
        how = chance.random()
        if counts["kills"] >= kills:
            pass
        elif how < 0.2:  # a polite stop, often in the middle of an epoch, to be killed on after it
            stop_after(process, chance.uniform(0.3 * longest, longest))
        elif how < 0.5:
            kill_inside_write(process, run, skip=chance.randrange(4))
        else:
            kill_after(process, chance.uniform(0.0, longest))
        _, problems = process.communicate()
        status = process.returncode
        assert status in (0, -9, 143, -15), problems  # a restart that does not go on fails here
        if status == 0:
            result = outcome(run)
            for name, value in expected.items():
                assert result[name] == value, f"{run}: {name} differs from the undisturbed run's"
            counts["runs finished"] += 1
            if counts["kills"] >= kills:
                return counts
            run, saved = folder / f"run-{counts['runs finished']}", -1
            continue
        counts["kills"] += status == -9
        counts["stopped in mid-epoch"] += status == 143 and max(whole_steps(run)) % PER_EPOCH != 0
        counts["inside a write"] += any(run.glob("checkpoints/.step-*.tmp"))
        steps = whole_steps(run)
        counts["before the first checkpoint"] += not steps
        assert max(steps, default=-1) >= saved, f"{run}: step {saved} was saved and is lost"
        saved = max(steps, default=-1)


def torment_overwriting(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Starts a run in place of a finished one ``kills`` times, and kills each start about when the old run gives way."""
    chance = random.Random(seed)
    data, run = small_data(folder / "data"), folder / "run"
    process = start(data, run, "reference")
    _, problems = process.communicate()
    assert process.returncode == 0, problems
    shutil.copytree(run, folder / "old")
    old, old_last = _contents(folder / "old"), RunFolder(run)._checkpoint_files()[-1].name
    counts = {"kills": 0, "the old run was left": 0, "in the midst": 0, "the new run was left": 0}
    while counts["kills"] < kills:
        process = start(data, run, "reference", "--overwrite", "--seed", "7", "--epochs", "1000000")
        checkpoints = run / "checkpoints"
        # at any time, from when the first checkpoint is being written, or from when it is and the old files move
        sign, longest = chance.choice([("*", 1.0), (f"*{STARTING_FILE}*", 0.2), (STARTING_FILE, 0.004)])
        while (checkpoints / old_last).exists() and not any(checkpoints.glob(sign)):
            assert process.poll() is None
        kill_after(process, chance.uniform(0.0, longest))
        _, problems = process.communicate()
        assert process.returncode == -9, problems
        counts["kills"] += 1
        counts["in the midst"] += (run / PREVIOUS).exists()
        RunFolder(run).settle()
        assert not (run / PREVIOUS).exists() and whole_steps(run)
        if load(RunFolder(run)._checkpoint_files()[-1]).config.seed == 7:
            counts["the new run was left"] += 1
            shutil.rmtree(run)
            shutil.copytree(folder / "old", run)
        else:
            counts["the old run was left"] += 1
            assert _contents(run) == old
    return counts


def _contents(run: Path) -> dict[str, bytes]:
    """Of all files that are a run's."""
    return {str(path.relative_to(run)): path.read_bytes() for path in own_entries(run)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kernels", choices=("reference", "fused"), default="reference")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the runs go, about 0.5 GB (default: a temporary folder)")
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.overwrite:
            what, counts = "overwriting", torment_overwriting(Path(folder), options.kills, options.seed)
        else:
            what = f"{options.kernels} kernels"
            counts = torment(Path(folder), options.kills, options.kernels, options.seed)
    print(f"{what}: {counts}, nothing lost, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
