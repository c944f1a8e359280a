"""The process of one contestant: ``python -m npgan.bench.worker NAME BATCH THREADS``, driven over its standard streams.

It answers a JSON line for every line it reads: first, unasked, whether it is ready; for a number of calls, the
milliseconds per iteration of each; for "end", its peak memory, and it exits. Between questions it sleeps.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npgan.bench.cpu import Contestant

WARM_UP = 3


def main(name: str, batch: int, threads: int) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not be taken for an answer

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    warnings.simplefilter("ignore")
    from npgan.bench import contestants

    try:
        contestant = contestants.make(name, batch, threads)
        for _ in range(WARM_UP):
            contestant.run()
    except contestants.Missing as problem:
        answer({"missing": str(problem)})
        return
    except Exception as problem:  # of any library: a compiler that is not there, a version that does not fit
        first = str(problem).strip().splitlines()
        answer({"missing": f"{type(problem).__name__}: {first[0] if first else ''}"[:100]})
        return
    answer({"ready": contestant.detail, "flops": contestant.flops})
    for line in sys.stdin:
        if line.strip() == "end":
            answer({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024} | _launches(contestant))
            return
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            contestant.run()
            times.append(1e3 * (time.perf_counter() - start) / contestant.iterations)
        answer({"ms": times})


def _launches(contestant: Contestant) -> dict[str, Any]:
    """The kernels of an iteration, counted last: a profiler slows down what comes after."""
    if contestant.launches is None:
        return {}
    try:
        return {"launches": contestant.launches()}
    except Exception as problem:  # of a library's profiler: the times are worth keeping
        return {"launches": None, "launches_problem": f"{type(problem).__name__}: {problem}"[:200]}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
