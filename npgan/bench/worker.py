"""The process of one candidate: ``python -m npgan.bench.worker NAME BATCH THREADS``, driven over its standard streams.

It answers a JSON line for every line it reads: first, unasked, whether it is ready; for a number of calls, the
milliseconds per iteration of each; for "end", its peak memory, and it exits. Between questions it sleeps.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import warnings
from typing import Any

from npgan.bench.base import Candidate, Missing
from npgan.errors import InputError

WARM_UP = 3


def make(name: str, batch: int, threads: int) -> Candidate:
    """The candidate ``name``; on a GPU "gpu" and a precision stand in front. Raises InputError where it cannot run."""
    on_gpu = name.startswith("gpu ")
    if on_gpu:
        _, precision, name = name.split(" ", 2)
    library = name.split()[0]
    if library in ("torch", "jax"):
        if importlib.util.find_spec(library) is None:
            raise Missing(f"{library} is not installed" + ("" if on_gpu else ": pip install 'npgan[bench]'"))
        from npgan.bench import baselines, gpu_baselines

        return gpu_baselines.make(name, batch, precision) if on_gpu else baselines.make(name, batch, threads)
    if on_gpu:
        from npgan.bench import gpu

        return gpu.make(name, batch, precision)
    from npgan.bench import cpu

    return cpu.make(name, batch, threads)


def main(name: str, batch: int, threads: int) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not be taken for an answer

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    warnings.simplefilter("ignore")
    try:
        candidate = make(name, batch, threads)
        for _ in range(WARM_UP):
            candidate.run()
    except InputError as problem:
        answer({"missing": str(problem)})
        return
    except Exception as problem:  # of any library: a compiler that is not there, a version that does not fit
        first = str(problem).strip().splitlines()
        answer({"missing": f"{type(problem).__name__}: {first[0] if first else ''}"[:100]})
        return
    answer({"ready": candidate.detail, "flops": candidate.flops})
    for line in sys.stdin:
        if line.strip() == "end":
            answer({"peak_mb": _peak_mb()} | _launches(candidate))
            return
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            candidate.run()
            times.append(1e3 * (time.perf_counter() - start) / candidate.iterations)
        answer({"ms": times})


def _peak_mb() -> float | None:
    """The most memory that this process has had; None where the system does not count it, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # macOS counts bytes, others KiB


def _launches(candidate: Candidate) -> dict[str, Any]:
    """The kernels of an iteration, counted last: a profiler slows down what comes after."""
    if candidate.launches is None:
        return {}
    try:
        return {"launches": candidate.launches()}
    except Exception as problem:  # of a library's profiler: the times are worth keeping
        return {"launches": None, "launches_problem": f"{type(problem).__name__}: {problem}"[:200]}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
