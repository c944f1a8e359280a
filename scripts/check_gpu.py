"""Everything that only a GPU can show, in two calls of under eight minutes each, the most valuable first.

    python scripts/check_gpu.py --out DIR           # training, each launch's time, the benchmark at both precisions
    python scripts/check_gpu.py --out DIR --second  # the tests marked gpu, every switch of the design, CUDA's own tools

Needs CuPy, NumPy, pytest, hypothesis, rich, Pillow and safetensors, and no network; PyTorch and JAX are compared with where
they are installed. DIR gets eight files, each written as its part goes on: logs, the benchmark's figures, and summary.json.
Exit status: 0 all right, 1 a part failed, 2 no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from npgan.backend import Backend, select  # noqa: E402 - after the path is set
from npgan.engines.cuda.device import TENSOR_CORES, Gpu, kernel_names  # noqa: E402
from npgan.errors import InputError  # noqa: E402

TOTAL = 470.0  # seconds
PRECISIONS = ("fp32", "tf32")
FACTS = "facts.txt"
READY = "time to get ready"  # in a part's command: what a candidate has of three quarters of the time, in seconds


class Part(NamedTuple):
    name: str
    command: list[str]
    log: str  # a file in DIR, to which several parts may add
    limit: float  # seconds
    keeps: float = 0.0  # seconds of the total that are left to the parts behind it
    candidates: int = 1  # of a benchmark: so many get ready, one after the other
    needs: str = ""  # a program; without it there is no such part


class Result(NamedTuple):
    name: str
    passed: bool
    seconds: float
    figures: str


def main() -> int:
    parser = argparse.ArgumentParser(description="Run everything that needs a GPU, in two calls of eight minutes.")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), metavar="DIR", help="(default: gpu-check)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="MNIST's files (default: the embedded digits)")
    parser.add_argument("--second", action="store_true", help="the second call's parts")
    options = parser.parse_args()
    try:
        backend = select("cupy")
    except InputError as problem:
        print(f"check_gpu: error: {problem}", file=sys.stderr)
        return 2
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONUNBUFFERED"] = "1"  # a part that is stopped has said how far it came
    print(backend.device, flush=True)
    capability = int(backend.xp.cuda.Device().compute_capability)
    precisions = PRECISIONS[:1] if capability < TENSOR_CORES else PRECISIONS
    data = ["--data-dir", str(options.data_dir.resolve())] if options.data_dir else ["--dataset", "digits"]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:  # for run folders, of which the logs tell enough
        runs = Path(folder)
        os.environ.setdefault(
            "NPGAN_DATA", str(runs / "data")
        )  # a machine without platformdirs has no other folder for it
        if not options.second:
            write_facts(backend, precisions, out / FACTS)
        chosen = second_parts(precisions) if options.second else first_parts(out, runs, data, precisions)
        results: list[Result] = []
        for part in chosen:
            if part.needs and shutil.which(part.needs) is None:
                print(f"{part.name}: no {part.needs} here", flush=True)
                continue
            results.append(run(part, out, runs, start))
            write_summary(
                out, "second" if options.second else "first", backend.device, results, time.monotonic() - start
            )
    show(results, backend.device)
    return 0 if all(result.passed for result in results) else 1


def first_parts(out: Path, runs: Path, data: list[str], precisions: tuple[str, ...]) -> list[Part]:
    """In the order of importance: what comes late may find too little time left."""
    python = sys.executable
    fastest = "npgan fused,torch graph,torch compiled graph,jax scan,jax step"  # of all, what has a chance in the time
    compared = {"fp32": f"{fastest},jax scan three passes", "tf32": fastest}
    bench = [python, "-m", "npgan", "bench", "--backend", "cupy", "--precisions"]
    return [
        *(Part(f"train {precision}", [
            python, str(ROOT / "scripts" / "train.py"), "--backend", "cupy", "--precision", precision, *data, "--epochs",
            "100", "--out", str(runs / f"train-{precision}"), "--overwrite",
        ], "train.txt", 60, 300) for precision in precisions),
        *(Part(f"profile {precision}", [*bench, precision, "--profile"], "measured.txt", 40, 260) for precision in precisions),
        *(Part(f"bench {precision}", [
            *bench, precision, "--rounds", "5", "--calls", "1", "--patience", READY, "--only", compared[precision], "--json",
            str(out / f"bench-{precision}.json"),
        ], "measured.txt", 240, 0 if precision == precisions[-1] else 120, 2 + len(compared[precision].split(",")))
        for precision in precisions),
    ]  # fmt: skip


def second_parts(precisions: tuple[str, ...]) -> list[Part]:
    python = sys.executable
    # Warnings of other CUDA libraries' versions are not what is tested here.
    tests = ["-m", "pytest", "-m", "gpu", "-W", "default", "-rs", "-v", "--durations=15", "-p", "no:cacheprovider"]
    few = [python, "-m", "npgan.bench.gpu_variants", "--once"]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "1", "--tool"]
    return [
        *(Part(f"variants {precision}", [python, "-m", "npgan.bench.gpu_variants", "--precision", precision],
               "variants.txt", 60, 250) for precision in precisions),
        Part("tests", [python, *tests, str(ROOT / "tests" / "engines" / "cuda" / "test_gpu.py")], "tests.txt", 200, 60),
        *(Part(tool, [*sanitizer, tool, *few], "tests.txt", 45, 15, needs=sanitizer[0])
          for tool in ("memcheck", "racecheck", "synccheck", "initcheck")),
        Part("ncu", ["ncu", "--launch-count", "60", *few], "tests.txt", 60, needs="ncu"),
    ]  # fmt: skip


def write_facts(backend: Backend, precisions: tuple[str, ...], file: Path) -> None:
    """The GPU, CuPy and CUDA, and what every kernel takes of a multiprocessor."""
    with file.open("w", encoding="utf-8") as to:
        print(backend.device, file=to)
        for precision in precisions:
            gpu = Gpu(backend.xp, precision)
            print(f"\n{precision}: {gpu.gemm}\nkernel: registers, shared bytes, local bytes", file=to)
            for name in kernel_names(gpu.capability):
                print(f"{name}: {', '.join(str(value) for value in gpu.facts(name).values())}", file=to)
        to.flush()
        with contextlib.redirect_stdout(to), contextlib.suppress(Exception):  # where it knows of none
            backend.xp.show_config()
        to.flush()
        if shutil.which("nvidia-smi"):
            subprocess.run(["nvidia-smi", "-q"], stdout=to, stderr=subprocess.STDOUT, timeout=30, check=False)


def write_summary(out: Path, call: str, device: str, results: list[Result], seconds: float) -> None:
    file = out / "summary.json"
    summary = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    summary[call] = {"device": device, "seconds": seconds, "parts": [result._asdict() for result in results]}
    file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def run(part: Part, out: Path, runs: Path, start: float) -> Result:
    """Runs it, its output at the end of its log. What takes too long is stopped, with everything it has started."""
    left = min(part.limit, TOTAL - part.keeps - (time.monotonic() - start))
    log = out / part.log
    print(f"{part.name}: at most {left:.0f} s, {log}", flush=True)
    began = time.monotonic()
    command = [f"{0.75 * left / part.candidates:g}" if word == READY else word for word in part.command]
    with log.open("a", encoding="utf-8") as file:
        print(f"\n== {part.name}: {' '.join(command)}", file=file, flush=True)
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
        figures = figures_of(part.name, out, runs) or last.strip("= ")
    except (OSError, ValueError, KeyError) as problem:
        return Result(part.name, False, seconds, f"its results cannot be read: {problem!r}")
    return Result(part.name, True, seconds, figures)


def figures_of(name: str, out: Path, runs: Path) -> str | None:
    kind, _, precision = name.partition(" ")
    if kind == "train":
        lines = (runs / f"train-{precision}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
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
