"""An iteration on a GPU with each switch of its design turned, one at a time: what each is worth.

    python -m npgan.bench.gpu_variants [--precision fp32] [--batch-size 128] [--json FILE]

Lines come as they are known, so a run that is stopped has told of those before.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from npgan.backend import Backend, select
from npgan.bench.base import MNIST, pixels
from npgan.config import PRESETS, TrainConfig
from npgan.console import say
from npgan.engines.base import FusedEngine
from npgan.engines.cuda.device import CLUSTERS, DESIGN, TENSOR_CORES, TILES, Design, Gpu
from npgan.engines.cuda.kernels import CudaKernels
from npgan.errors import InputError
from npgan.gan import new_state

_ROUNDS = 5
_EPOCHS = 10  # of the host's share


def main() -> int:
    parser = argparse.ArgumentParser(description="An iteration on a GPU with each switch of its design turned.")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "tf32"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--once", action="store_true", help="two iterations and no more, for CUDA's sanitizer and profiler"
    )
    asked = parser.parse_args()
    try:
        backend = select("cupy", asked.precision)
    except InputError as problem:
        say(f"gpu_variants: error: {problem}", to_stderr=True)
        return 2
    if asked.once:
        backend.xp.cuda.set_allocator(None)  # CuPy's pool would hide what leaves an array
        _engine(backend, asked.precision, DESIGN, None, TrainConfig(dataset="digits"), images=2 * 128).run(2)
        return 0
    say(
        f"{backend.device}, {asked.precision}, batch {asked.batch_size}: microseconds of an iteration, best of {_ROUNDS}"
    )
    found: dict[str, float | str] = {}
    for name, value in measured(backend, asked.precision, asked.batch_size):
        found[name] = value
        say(f"  {name:45} {value if isinstance(value, str) else format(value, '.1f')}")
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def measured(backend: Backend, precision: str, batch: int) -> Iterator[tuple[str, float | str]]:
    """Name and time of each variant, or why there is none."""
    config = TrainConfig(dataset="digits", batch_size=batch)
    capability = int(backend.xp.cuda.Device().compute_capability)
    for name, design, passes, changed in variants(precision, capability, config):
        try:
            engine = _engine(backend, precision, design, passes, changed)
            yield name, _iteration(engine)
        except Exception as problem:  # of CUDA: the other variants are still of use
            yield name, f"failed: {problem}"
    engine = _engine(backend, precision, DESIGN, None, config)
    yield "host's share of an epoch, waiting", _host_share(engine, 0)
    yield "host's share of an epoch, going on ahead", _host_share(engine, engine.per_epoch)


def variants(
    precision: str, capability: int, config: TrainConfig
) -> Iterator[tuple[str, Design, int | None, TrainConfig]]:
    """Name, design, PASSES (None: what the precision says) and config."""
    yield "as it is", DESIGN, None, config
    yield "without side_stream", replace(DESIGN, side_stream=False), None, config
    yield "without priority", replace(DESIGN, priority=False), None, config
    yield "without overlapped", replace(DESIGN, overlapped=False), None, config
    yield "without prefetched", replace(DESIGN, prefetched=False), None, config
    if capability >= CLUSTERS:
        yield "with clusters", replace(DESIGN, clusters=True), None, config
        yield "with dependent", replace(DESIGN, dependent=True), None, config
        yield "with clusters and dependent", replace(DESIGN, clusters=True, dependent=True), None, config
    for rows, columns in TILES:
        yield f"tiles of {rows}x{columns} alone", replace(DESIGN, tile=(rows, columns)), None, config
    if precision == "fp32":
        for passes in (0, 1, 3) if capability >= TENSOR_CORES else (0,):
            yield f"PASSES {passes}", DESIGN, passes, config
    yield "preset r3gan", DESIGN, None, replace(config, **PRESETS["r3gan"])


def _engine(
    backend: Backend, precision: str, design: Design, passes: int | None, config: TrainConfig, images: int = MNIST
) -> FusedEngine:
    gpu = Gpu(backend.xp, precision, design)
    if passes is not None:
        gpu.compile(passes)
    count = max(images // config.batch_size, 1)  # whole batches only
    data = backend.to_device(pixels(count * config.batch_size))
    return FusedEngine(CudaKernels(gpu, backend.xp, design), new_state(config, backend), data, config)


def _iteration(engine: FusedEngine) -> float:
    """Microseconds."""
    engine.run(engine.per_epoch)  # compiles, loads and captures
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        engine.run(engine.per_epoch)
        times.append(time.perf_counter() - start)
    return 1e6 * min(times) / engine.per_epoch


def _host_share(engine: FusedEngine, ahead: int) -> float:
    """Microseconds by which epochs take longer one call after the other than all in one call."""
    engine.run(engine.per_epoch)
    start = time.perf_counter()
    engine.run(_EPOCHS * engine.per_epoch)
    together = time.perf_counter() - start
    start = time.perf_counter()
    for left in reversed(range(_EPOCHS)):
        engine.run(engine.per_epoch, ahead if left else 0)
    return 1e6 * (time.perf_counter() - start - together) / _EPOCHS


if __name__ == "__main__":
    sys.exit(main())
