"""Everything that only a GPU can show, within eight minutes: the tests marked gpu, training runs, the benchmark.

    python scripts/check_gpu.py --out DIR

Needs CuPy, NumPy, pytest, hypothesis, rich, Pillow and safetensors, and no network; PyTorch and JAX are compared with where
they are installed. Logs, run folders and figures are left in DIR. Exit status: 0 all right, 1 a part failed, 2 no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from npgan.backend import select  # noqa: E402 - after the path is set
from npgan.engines.cuda.device import TENSOR_CORES  # noqa: E402
from npgan.errors import InputError  # noqa: E402

TOTAL = 470.0  # seconds
PRECISIONS = ("fp32", "tf32")
READY = "time to get ready"  # in a part's command: what a candidate has of three quarters of the time, in seconds


class Part(NamedTuple):
    name: str
    command: list[str]
    limit: float  # seconds
    keeps: float = 0.0  # seconds of the total that are left to the parts behind it
    candidates: int = 1  # of a benchmark: so many get ready, one after the other


class Result(NamedTuple):
    name: str
    passed: bool
    seconds: float
    figures: str


def main() -> int:
    parser = argparse.ArgumentParser(description="Run everything that needs a GPU, within eight minutes.")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), metavar="DIR", help="(default: gpu-check)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="MNIST's files (default: the embedded digits)")
    options = parser.parse_args()
    try:
        backend = select("cupy")
    except InputError as problem:
        print(f"check_gpu: error: {problem}", file=sys.stderr)
        return 2
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONUNBUFFERED"] = "1"  # a part that is stopped has said how far it came
    os.environ.setdefault("NPGAN_DATA", str(out / "data"))  # a machine without platformdirs has no other folder for it
    print(backend.device, flush=True)
    older = int(backend.xp.cuda.Device().compute_capability) < TENSOR_CORES
    precisions = PRECISIONS[:1] if older else PRECISIONS
    data = ["--data-dir", str(options.data_dir.resolve())] if options.data_dir else ["--dataset", "digits"]
    start = time.monotonic()
    results = [run(part, out, start) for part in parts(out, data, precisions)]
    show(results, backend.device)
    summary = {"device": backend.device, "seconds": time.monotonic() - start, "parts": [r._asdict() for r in results]}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return 0 if all(result.passed for result in results) else 1


def parts(out: Path, data: list[str], precisions: tuple[str, ...]) -> list[Part]:
    """In the order of importance: what comes late may find too little time left."""
    python = sys.executable
    # Warnings of other CUDA libraries' versions are not what is tested here.
    tests = ["-m", "pytest", "-m", "gpu", "-W", "default", "-rs", "-v", "--durations=15", "-p", "no:cacheprovider"]
    fastest = "npgan fused,torch graph,torch compiled graph,jax scan,jax step"  # of all, what has a chance in the time
    compared = {"fp32": f"{fastest},jax scan three passes", "tf32": fastest}
    return [
        Part("tests", [python, *tests, str(ROOT / "tests" / "engines" / "cuda" / "test_gpu.py")], 230, 240),
        *(Part(f"train {precision}", [
            python, str(ROOT / "scripts" / "train.py"), "--backend", "cupy", "--precision", precision, *data, "--epochs",
            "100", "--out", str(out / f"train-{precision}"), "--overwrite",
        ], 60, 180) for precision in precisions),
        *(Part(f"bench {precision}", [
            python, "-m", "npgan", "bench", "--backend", "cupy", "--precisions", precision, "--rounds", "5", "--calls", "1",
            "--patience", READY, "--only", compared[precision], "--json", str(out / f"bench-{precision}.json"),
        ], 240, 0 if precision == precisions[-1] else 120, 2 + len(compared[precision].split(",")))
        for precision in precisions),
    ]  # fmt: skip


def run(part: Part, out: Path, start: float) -> Result:
    """Runs it, its output in a log. What takes too long is stopped, with everything it has started."""
    left = min(part.limit, TOTAL - part.keeps - (time.monotonic() - start))
    log = out / f"{part.name.replace(' ', '-')}.log"
    print(f"{part.name}: at most {left:.0f} s, {log}", flush=True)
    began = time.monotonic()
    command = [f"{0.75 * left / part.candidates:g}" if word == READY else word for word in part.command]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=max(left, 1.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Result(part.name, False, time.monotonic() - began, "stopped: too slow")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    seconds = time.monotonic() - began
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = said[-1] if said else ""
    if status != 0:
        return Result(part.name, False, seconds, f"exit status {status}: {last}")
    try:
        figures = figures_of(part.name, out) or last.strip("= ")
    except (OSError, ValueError, KeyError) as problem:
        return Result(part.name, False, seconds, f"its results cannot be read: {problem!r}")
    return Result(part.name, True, seconds, figures)


def figures_of(name: str, out: Path) -> str | None:
    kind, _, precision = name.partition(" ")
    if kind == "train":
        lines = (out / f"train-{precision}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        epochs = [json.loads(line) for line in lines]
        seconds, last = sum(epoch["seconds"] for epoch in epochs), epochs[-1]
        return (
            f"{len(epochs)} epochs in {seconds:.2f} s, {1e6 * seconds / last['step']:.0f} µs per iteration; last: loss D "
            f"{last['loss_d']:.3f}, loss G {last['loss_g']:.3f}, D(x) {last['d_real']:.2f}, D(G(z)) {last['d_fake']:.2f}"
        )
    if kind == "bench":
        report = json.loads((out / f"bench-{precision}.json").read_text(encoding="utf-8"))
        (table,) = report["precisions"][precision].values()
        if "median_us" not in table["candidates"]["npgan fused"]:
            raise ValueError(f"npgan is missing: {table['candidates']['npgan fused']['missing']}")
        times = {name: row["median_us"] for name, row in table["candidates"].items() if "median_us" in row}
        best = {first: min((t, n) for n, t in times.items() if n.startswith(first)) for first in firsts(times)}
        return "; ".join(f"{name} {time:.0f} µs" for time, name in best.values())
    return None


def firsts(names: dict[str, float]) -> list[str]:
    return [first for first in ("npgan", "torch", "jax") if any(name.startswith(first) for name in names)]


def show(results: list[Result], device: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "", "s", "figures", title=device)
    for result in results:
        table.add_row(result.name, "passed" if result.passed else "FAILED", f"{result.seconds:.0f}", result.figures)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
