"""Milliseconds per iteration of a run on several workers, by batch size.

    python scripts/bench_mpi.py --threads 1
    mpiexec -n 2 python scripts/bench_mpi.py --threads 1
    mpiexec -n 2 python scripts/bench_mpi.py --threads 1 --same-bytes

One rank without --same-bytes is an ordinary run, with and without mpiexec.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from npgan.engines import Compute, choose, follow  # noqa: E402 - after the path is set
from npgan.engines.cpu import blas  # noqa: E402
from npgan.engines.ranks import ranks_of_this_run  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of each rank (default: %(default)s)")
    parser.add_argument("--kernels", choices=("auto", "reference", "fused"), default="auto")
    parser.add_argument("--same-bytes", action="store_true")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.6, help="of a round, about (default: %(default)s)")
    options = parser.parse_args()
    setup = blas.prepare("auto", options.threads)
    import numpy as np

    from npgan.backend import select
    from npgan.config import TrainConfig
    from npgan.gan import new_state

    backend, ranks = select("numpy"), ranks_of_this_run()
    compute = Compute("numpy", kernels=options.kernels, blas=setup, ranks=ranks, same_bytes=options.same_bytes)
    if ranks.rank:
        return follow(compute)
    choice = choose(compute, backend)
    print(f"{choice.name}: {choice.reason}, {options.threads} threads a rank")
    images = np.random.default_rng(0).integers(0, 256, (60_000, 784), np.uint8)
    for batch in options.batch:
        config = TrainConfig(dataset="digits", batch_size=batch)
        engine = choice.start(new_state(config, backend), images, config)
        begin = time.perf_counter()
        engine.run(2)  # with what happens once
        engine.run(count := max(1, round(options.seconds / max((time.perf_counter() - begin) / 2, 1e-3))))
        times = []
        for _ in range(options.rounds):
            begin = time.perf_counter()
            engine.run(count)
            times.append((time.perf_counter() - begin) / count)
        print(f"batch {batch:5}: {statistics.median(times) * 1e3:8.2f} ms, fastest {min(times) * 1e3:8.2f}", flush=True)
    if ranks.size > 1:
        from npgan.engines.mpi import let_go

        let_go(ranks)
    return None


if __name__ == "__main__":
    main()
