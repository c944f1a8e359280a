"""Compiled kernels on disk: whatever became of the files, a kernel is there and right, and one line says what was wrong."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

numba = pytest.importorskip("numba", reason="the fused kernels: pip install 'npgan[fast]'")

from numba.core import event  # noqa: E402

from npgan import engines  # noqa: E402
from npgan.backend import Backend  # noqa: E402
from npgan.engines import Compute, choose  # noqa: E402
from npgan.engines.cpu import cache, jit  # noqa: E402


def _twice(x: float) -> float:
    return 2 * x


class _Compiled(event.Listener):
    def __init__(self) -> None:
        self.count = 0

    def on_start(self, event: Any) -> None:
        self.count += 1

    def on_end(self, event: Any) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing said yet."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "problems", [])
    return tmp_path


@pytest.fixture
def start() -> Iterator[Callable[[], int]]:
    """Makes the kernel, as the start of a program does; returns how many functions were compiled for it."""
    with event.install_listener("numba:compile", _Compiled()) as listener:

        def make() -> int:
            before = listener.count
            kernel = jit.compiled("float64(float64)")(_twice)
            assert kernel(3.0) == 6.0
            return int(listener.count - before)

        yield make


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2 * len(content) // 3] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a flipped bit": _flip,
    "a pickle of something else": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "more": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(folder: Path, start: Callable[[], int], damage: str) -> None:
    assert start() == 1 and start() == 0
    (file,) = folder.rglob("*.nbc")
    good = file.stat().st_size
    DAMAGES[damage](file)
    assert start() == 1
    assert cache.problems == [f"compiled kernels in {file.parent} are damaged: compiled anew"]
    assert start() == 0 and abs(file.stat().st_size - good) < 100


def test_another_version_of_the_function_is_no_damage(
    folder: Path, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    (file,) = folder.rglob("*.nbc")
    content = file.read_bytes()[32:]
    content = bytes(32) + content[32:]  # as if the source had been another one
    file.write_bytes(cache.hashlib.sha256(content).digest() + content)
    assert start() == 1 and cache.problems == []
    monkeypatch.setattr(cache.llvmlite, "__version__", "0.0")
    assert start() == 1 and cache.problems == [] and len(list(folder.rglob("*.nbc"))) == 2


def test_a_full_disk_compiles_in_memory(
    folder: Path, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(cache, "replacing", full)
    assert start() == 1 and start() == 1
    (line,) = cache.problems
    assert line.startswith("compiled kernels cannot be kept in ") and "No space left on device" in line
    monkeypatch.setattr(cache, "must_save", True)
    with pytest.raises(OSError, match="No space"):
        start()


def test_no_folder_at_all_compiles_in_memory(
    folder: Path, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.KernelCache._impl_class, "_locator_classes", [])
    assert start() == 1 and start() == 1
    (line,) = cache.problems
    assert "no locator available" in line and line.endswith("compiled in memory, for this run alone")
    monkeypatch.setattr(cache, "must_save", True)
    with pytest.raises(RuntimeError, match="no locator"):
        start()


def test_the_header_says_what_was_wrong(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "problems", ["the cache was damaged"])
    assert "; the cache was damaged" in choose(Compute(), backend).reason


@pytest.mark.slow
def test_how_far_the_compiling_is(tmp_path: Path) -> None:
    code = (
        "from npgan.backend import select\n"
        "from npgan.engines import Compute, choose\n"
        "print(choose(Compute(), select('numpy'), progress=print).name)\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    *shares, name = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert name == "fused" and len(shares) > 15
    assert list(map(float, shares)) == [(number + 1) / len(shares) for number in range(len(shares))]


def test_what_cannot_be_compiled_at_all_is_left_to_the_textbook(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(progress: engines.Progress) -> None:
        raise AssertionError("LLVM is not what it was\nmore of it")

    monkeypatch.setattr(engines, "_compile_elsewhere", broken)
    choice = choose(Compute(), backend)
    assert choice.name == "reference"
    assert choice.reason == "numba cannot compile the fused kernels: LLVM is not what it was"
