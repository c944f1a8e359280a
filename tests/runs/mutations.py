"""Feeds mutated IDX files and checkpoints to the readers: each is loaded with the right content or refused in one line.

``python tests/runs/mutations.py --count 10000`` is the soak (so many of each); ``test_mutations.py`` does a few.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from npgan.backend import select  # noqa: E402 - after the path is set
from npgan.config import TrainConfig  # noqa: E402
from npgan.data.idx import Kind, read_idx  # noqa: E402
from npgan.errors import InputError  # noqa: E402
from npgan.gan import TrainState  # noqa: E402
from npgan.nn.layers import Dense  # noqa: E402
from npgan.nn.network import Sequential  # noqa: E402
from npgan.nn.optim import Adam  # noqa: E402
from npgan.runs.checkpoint import _digest, load, restore, save  # noqa: E402

ROOM = 400_000  # bytes beside twice the file: a piece of 256 KiB, and the reader's own small objects
SECONDS = 10  # a case that takes longer hangs


def small_checkpoint(path: Path) -> bytes:
    """A checkpoint as the program writes it, of networks so small that it has 3 KB."""
    nets = [Sequential([Dense(3, 4), Dense(4, 2)]) for _ in range(2)]
    for number, net in enumerate(nets):
        net.parameters[...] = np.linspace(-1, number, net.parameters.size)
    adams = [Adam(net, 2e-4) for net in nets]
    runtime = {"backend": "numpy", "precision": "fp32", "kernels": "reference", "data_dir": None, "data_sha256": "0"}
    save(path, TrainState(*nets, *adams, step=7), TrainConfig(dataset="digits"), runtime, np.arange(6.0))
    return path.read_bytes()


def idx_file(kind: Kind, count: int = 3) -> bytes:
    if kind == "labels":
        return struct.pack(">2I", 0x801, count) + bytes(n % 10 for n in range(count))
    return struct.pack(">4I", 0x803, count, 28, 28) + bytes(n * 7 % 256 for n in range(count * 784))


def mutate(content: bytes, chance: random.Random) -> bytes:
    """One to three of: cut, flipped bits, bytes put in, taken out, moved or blanked, a number changed, another header."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        place = min(int(len(data) * chance.random() ** 3), max(len(data) - 1, 0))  # mostly near the front
        length = chance.randint(1, 40)
        match chance.randrange(8):
            case 0:
                del data[chance.randint(0, len(data)) :]
            case 1:
                for _ in range(chance.randint(1, 8)):
                    if data:
                        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 2:
                data[place:place] = chance.randbytes(length)
            case 3:
                del data[place : place + length]
            case 4:
                data[place : place + length] = bytes(min(length, len(data) - place))
            case 5:
                data += data[place : place + length]
            case 6:
                data[:8] = struct.pack(
                    "<Q", chance.choice((0, 1, 2**16, 2**27, 2**63, len(data), max(len(data) - 8, 0)))
                )
            case 7:
                numbers = list(re.finditer(rb"\d+", bytes(data[:4000])))
                if numbers:
                    start, end = chance.choice(numbers).span()
                    data[start:end] = chance.choice(
                        (b"0", b"-1", b"1e9", b"99999999999999999999", b"7", b"null", b"[]")
                    )
    return bytes(data)


def forge(content: bytes, chance: random.Random) -> bytes:
    """The checkpoint with other metadata under a right checksum, as a person with bad intentions would write it."""
    from safetensors.numpy import load as parse
    from safetensors.numpy import save as serialize

    length = int.from_bytes(content[:8], "little")
    body = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["npgan"].partition(" ")[2])
    strange = [
        None, True, -1, 0, 1.5, 10**30, 1e308, "", "../../x", "\x1b[2J", [], {}, "9" * 50, 2**31 - 1, [[[[]]]], float("nan")
    ]  # fmt: skip
    for _ in range(chance.randint(1, 2)):
        target = chance.choice([body, body["config"], body["runtime"]])
        if isinstance(target, dict) and target:
            name = chance.choice([*target, "unknown"])
            if chance.random() < 0.2:
                target.pop(name, None)
            else:
                target[name] = chance.choice(strange)
        if not (isinstance(body.get("config"), dict) and isinstance(body.get("runtime"), dict)):
            break
    tensors = parse(content)
    if chance.random() < 0.2:
        tensors[chance.choice(["../../evil", "generator.0.weight", "training.epoch_totals"])] = np.zeros(
            (2, 2), np.float16
        )
    text = json.dumps(body)
    return serialize(tensors, {"npgan": f"{_digest(text, tensors)} {text}"})


def idx_case(path: Path, chance: random.Random) -> tuple[str, Callable[[], str]]:
    kind: Kind = chance.choice(("images", "labels"))
    zipped = chance.random() < 0.4
    original = idx_file(kind)
    content = mutate(gzip.compress(original, mtime=0) if zipped else original, chance)
    if (
        zipped and chance.random() < 0.1
    ):  # what is zipped is wrong, or more than the header says: 20 MB of zeros in 20 KB
        content = gzip.compress(original + bytes(20_000_000) if chance.random() < 0.02 else mutate(original, chance), 1)
    path.write_bytes(content)

    def read() -> str:
        loaded = read_idx(path, kind)
        expected = content
        if content[:2] == b"\x1f\x8b":
            expected = gzip.decompress(content)
        header = 16 if kind == "images" else 8
        assert loaded.tobytes() == expected[header:], "other content than the file's"
        assert len(loaded) == int.from_bytes(expected[4:8], "big"), "another count than the header's"
        return "loaded"

    return "idx", read


def checkpoint_case(path: Path, original: bytes, chance: random.Random) -> tuple[str, Callable[[], str]]:
    forged = chance.random() < 0.3
    content = forge(original, chance) if forged else mutate(original, chance)
    path.write_bytes(content)

    def read() -> str:
        checkpoint = load(path)
        if not forged:  # what was refused by no check is what was written
            right = path.with_name("right.safetensors")
            expected = load(right)
            assert (checkpoint.step, checkpoint.config, checkpoint.runtime) == (
                expected.step, expected.config, expected.runtime
            )  # fmt: skip
            assert set(checkpoint.tensors) == set(expected.tensors)
            for name, tensor in expected.tensors.items():
                assert checkpoint.tensors[name].tobytes() == tensor.tobytes(), name
            return "loaded"
        try:
            restore(checkpoint, select("numpy"))  # small networks never fit; the point is that nothing big is allocated
        except InputError as error:
            check_line(error, path)
        return "forged metadata that make sense"

    return "forged checkpoint" if forged else "checkpoint", read


def check_line(error: InputError, path: Path) -> None:
    assert str(path) in str(error), f"the file is not named: {error}"
    assert "\n" not in str(error), f"more than a line: {error!r}"


def feed(folder: Path, count: int, seed: int) -> Counter[str]:
    """``count`` mutated IDX files and as many checkpoints. Returns how many of each came out how."""
    results: Counter[str] = Counter()
    original = small_checkpoint(folder / "right.safetensors")
    load(folder / "right.safetensors"), select("numpy")  # what they import is not counted
    before = {path.name for path in folder.iterdir()} | {"case.safetensors", "case"}

    def hang(number: int, frame: object) -> None:
        raise AssertionError(f"took longer than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, hang)
    tracemalloc.start()
    try:
        for number in range(2 * count):
            chance = random.Random(f"{seed} {number}")
            path = folder / ("case" if number % 2 else "case.safetensors")
            what, read = idx_case(path, chance) if number % 2 else checkpoint_case(path, original, chance)
            size = path.stat().st_size
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0]
            signal.alarm(SECONDS)
            try:
                outcome = read()
            except InputError as error:
                check_line(error, path)
                outcome = "refused"
            except BaseException as error:
                kept = Path(tempfile.gettempdir()) / f"npgan-mutation-{seed}-{number}"
                kept.write_bytes(path.read_bytes())
                raise AssertionError(f"case {number} ({what}, kept as {kept}): {error!r}") from error
            finally:
                signal.alarm(0)
            peak = tracemalloc.get_traced_memory()[1] - held
            assert outcome == "loaded" or peak <= 2 * size + ROOM, f"case {number} ({what}): {peak} bytes for {size}"
            results[f"{what}: {outcome}"] += 1
    finally:
        tracemalloc.stop()
        signal.signal(signal.SIGALRM, previous)
    assert {path.name for path in folder.iterdir()} <= before, "a file appeared"
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="of IDX files, and of checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin, rss = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        results = feed(Path(folder), options.count, options.seed)
    for name, number in sorted(results.items()):
        print(f"{number:6d} {name}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss) / 1024
    print(
        f"{sum(results.values())} files in {time.perf_counter() - begin:.0f} s; memory grew by {grown:.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
