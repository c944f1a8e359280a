"""All that can be known of the CUDA kernels without a GPU, on every architecture that this NVRTC compiles for.

    cd tests; python -m ptx.full [--seconds 600] [--architectures 75,90] [--parts gallery,whole] [--seed 0]

Machine code and what it spills; every kernel in five orders and with both models of the tensor cores; the gallery of planted
bugs; whole iterations at full width; and random shapes for the rest of the time.
Another NVRTC: an environment with cupy-cuda13x and nvidia-cuda-nvrtc.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from npgan import gan
from npgan.config import PRESETS, TrainConfig
from npgan.engines.cuda.device import CLUSTERS, DESIGN, TENSOR_CORES, TILES, Design
from ptx import checks
from ptx.checks import ORDERS, Bench
from ptx.emulator import Options, kernels, missing
from ptx.gallery import BUGS, Bug, planted
from ptx.machine_code import compile_cubin, problems
from ptx.whole import iterate

_SHAPES = [
    (5, 12, 24), (40, 100, 48), (70, 68, 72), (33, 8, 40), (1, 32, 8), (65, 7, 68), (31, 33, 4), (64, 1, 64), (129, 130, 132),
    (3, 260, 36), (96, 64, 128), (2, 31, 100),
]  # fmt: skip
_TUTORIAL = TrainConfig(dataset="digits", epochs=3, seed=11)
_LIMITS = {3: 2e-5, 1: 5e-2, 0: 2e-5}  # of whole iterations, by PASSES


def main() -> int:
    parser = argparse.ArgumentParser(description="Everything that can be known of the CUDA kernels without a GPU.")
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="random shapes fill the time up to this (default: 600)"
    )
    parser.add_argument("--architectures", help="of these alone, as in 75,90")
    parser.add_argument("--parts", default="machine-code,kernels,gallery,whole,random", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if reason := missing():
        print(reason)
        return 1
    start, failed = time.monotonic(), 0
    known = supported() if asked.architectures is None else [int(each) for each in asked.architectures.split(",")]
    wanted = set(asked.parts.split(","))
    makers = {
        "machine-code": machine_code(known), "kernels": every_kernel(known), "gallery": gallery(),
        "whole": whole_iterations(known),
    }  # fmt: skip
    if unknown := wanted - {*makers, "random"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    parts = [part for name, maker in makers.items() if name in wanted for part in maker]
    for name, part in parts:
        failed += not _passes(name, part)
    random, count = np.random.default_rng(asked.seed), 0
    while "random" in wanted and not failed and time.monotonic() - start < asked.seconds:
        architecture = int(random.choice(known))
        failed += not _passes("", partial(fuzz, architecture, random))
        count += 1
    print(
        f"{len(parts)} parts and {count} cases with random shapes in {time.monotonic() - start:.0f} s, {failed} failed"
    )
    return 1 if failed else 0


def supported() -> list[int]:
    from cupy_backends.cuda.libs import nvrtc

    return [each for each in nvrtc.getSupportedArchs() if each >= 70]


def ways(architecture: int) -> tuple[int, ...]:
    """The values of PASSES that an architecture can run."""
    return (3, 1, 0) if architecture >= TENSOR_CORES else (0,)


def designs(architecture: int) -> tuple[Design, ...]:
    """Those that kernels are compiled for."""
    return (DESIGN, replace(DESIGN, dependent=True)) if architecture >= CLUSTERS else (DESIGN,)


def machine_code(architectures: list[int]) -> Iterator[tuple[str, Callable[[], None]]]:
    for architecture in architectures:
        for passes in ways(architecture):
            yield f"machine code for {architecture}, PASSES {passes}", partial(_compiles, architecture, passes)


def _compiles(architecture: int, passes: int) -> None:
    for design in designs(architecture):
        compiled = compile_cubin(architecture, passes, design)
        assert not problems(compiled, architecture), problems(compiled, architecture)
        print(f"    at most {max(compiled.registers.values())} registers")


def every_kernel(architectures: list[int]) -> Iterator[tuple[str, Callable[[], None]]]:
    for architecture in architectures:
        for passes in ways(architecture):
            for design in designs(architecture):
                name = f"{architecture}, PASSES {passes}{', dependent' if design.dependent else ''}"
                yield name, partial(_all_kernels, architecture, passes, design)


def _all_kernels(architecture: int, passes: int, design: Design) -> None:
    bench = Bench(kernels(architecture, passes, design), passes, ORDERS)
    for n, i, o in _SHAPES:
        for tile in TILES:
            checks.forward(bench, n, i, o, tile)
            checks.backward(bench, n, -(-i // 4) * 4, o, tile)
            checks.update(bench, n, i, o, tile, penalized=n % 2 == 1)
            checks.penalty(bench, n, -(-i // 4) * 4, o, tile)
        if architecture >= CLUSTERS:
            checks.forward(bench, n, i, o, checks.CLUSTER_TILE)
            checks.backward(bench, n, -(-i // 4) * 4, 4 * o, checks.CLUSTER_TILE)
            checks.penalty(bench, n, -(-i // 4) * 4, 4 * o, checks.CLUSTER_TILE)
    for n, i in ((22, 72), (2, 4), (8, 256), (34, 100), (10, 32)):
        for kind in range(len(checks.LOSSES)):
            for dropout in (False, True):
                checks.head(bench, n, i, kind, dropout, 40.0 if n == 34 else 1.0, penalized=n == 22)
            checks.finish(bench, n, n, kind, (7, 9), 4, 18)
            checks.finish(bench, 128, 128, kind, (300, 513), 1, 2**32 - 2, 60.0)
    for shape in (
        (3, 5, 7, 20, 38, 2**40 + 3),
        (2, 3, 1, 9, 469_000, 2**64 - 1),
        (1, 1, 10, 1, 5, 7),
        (5, 5, 100, 20, 0, 0),
    ):
        checks.inputs(bench, *shape, epochs=10**6)


def gallery() -> Iterator[tuple[str, Callable[[], None]]]:
    for bug in BUGS:
        yield f"planted: {bug.name}", partial(_caught, bug)


def _caught(bug: Bug) -> None:
    try:
        bug.check(planted(bug))
    except AssertionError:
        return
    raise AssertionError("not caught")


def whole_iterations(architectures: list[int]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The tutorial's networks on a large GPU, and narrow ones in all configurations and on small GPUs."""
    architecture = 90 if 90 in architectures else architectures[-1]
    r3gan = TrainConfig(dataset="digits", epochs=3, seed=11, lr_schedule="cosine", **PRESETS["r3gan"])
    for passes in ways(architecture):
        for name, config in (("tutorial", _TUTORIAL), ("r3gan", r3gan)):
            part = partial(_whole, architecture, passes, config, 128 + 96, 2, 132)
            yield f"full width, {name}, {architecture}, PASSES {passes}", part
        small = replace(_TUTORIAL, batch_size=8, latent_dim=10)
        for changes in (
            {}, {"loss": "bce-logits", "label_smoothing": 0.1}, {"dropout_in_g_step": True, "latent_dim": 7},
            {"batch_size": 60},
        ):  # fmt: skip
            part = partial(_narrow, architecture, passes, replace(small, **changes))
            yield f"narrow, {changes}, {architecture}, PASSES {passes}", part


def _whole(
    architecture: int, passes: int, config: TrainConfig, images: int, iterations: int, multiprocessors: int
) -> None:
    worst = iterate(kernels(architecture, passes), config, images, iterations, multiprocessors)
    print("    " + ", ".join(f"{name} {error:.1e}" for name, error in worst.items()))
    assert max(worst.values()) < _LIMITS[passes], worst


def _narrow(architecture: int, passes: int, config: TrainConfig) -> None:
    from helpers import small_networks

    wide = {name: getattr(gan, name) for name in ("generator", "discriminator")}
    for name, function in small_networks((16, 24, 40)).items():
        setattr(gan, name, function)
    try:
        for multiprocessors, options in ((1, Options(1)), (4, Options(3)), (132, Options())):
            worst = iterate(kernels(architecture, passes), config, 44, 3, multiprocessors, 4, options)
            assert max(worst.values()) < 20 * _LIMITS[passes], worst
    finally:
        for name, function in wide.items():
            setattr(gan, name, function)


def fuzz(architecture: int, random: np.random.Generator) -> None:
    passes = int(random.choice(ways(architecture)))
    bench = Bench(
        kernels(architecture, passes), passes, (Options(int(random.integers(4))),), int(random.integers(2**31))
    )

    def size(most: int) -> int:
        return int(min(random.integers(1, most, 2)))

    n, i, o, tile = size(200), size(300), 4 * size(50), TILES[random.integers(3)]
    checks.forward(bench, n, i, o, tile)
    checks.backward(bench, n, 4 * size(60), 4 * size(60), tile)
    checks.update(bench, size(260), size(150), 4 * size(40), tile, penalized=bool(random.integers(2)))
    checks.penalty(bench, n, 4 * size(60), 4 * size(40), tile)
    kind, rows = int(random.integers(3)), size(20)
    checks.head(bench, 2 * size(30), size(300), kind, bool(random.integers(2)), penalized=bool(random.integers(2)))
    step, seed = int(random.integers(2**31)), int(random.integers(2**63))
    batch = rows + int(random.integers(3))
    checks.inputs(bench, rows, batch, size(130), 4 * batch, step, seed)
    checks.finish(bench, rows, rows if kind == 2 else batch, kind, (size(600), size(600)), size(50), step)


def _passes(name: str, part: Callable[[], None]) -> bool:
    start = time.monotonic()
    try:
        part()
    except AssertionError as problem:
        print(f"FAILED {name}: {str(problem)[:2000]}", flush=True)
        return False
    if name:
        print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
