"""metrics.jsonl and evaluation.jsonl at any size: bounded memory, and a cost per epoch that does not grow."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from npgan.evaluation.picture import HISTORY_FILE, read_history
from npgan.runs import folder as folder_module
from npgan.runs.folder import RunFolder
from npgan.runs.lines import GrowingFile, Series, read_objects

Train = Callable[..., int]
MIB = 2**20


def line(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch, "step": 2 * epoch, "loss_d": 0.5123456789, "loss_g": 1.2034567891, "d_real": 0.71456789,
        "d_fake": 0.30656789, "grad_norm_d": 1.0123456789, "grad_norm_g": 2.0123456789, "seconds": 9.0123,
        "images_per_second": 6700.1,
    }  # fmt: skip


def scores(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": 2 * epoch, "parzen": 100.5, "frechet": 9.25, "histogram": [0.1] * 10}


@contextmanager
def memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The metrics of 12,000 epochs."""
    file = tmp_path_factory.mktemp("long") / "metrics.jsonl"
    file.write_text("".join(json.dumps(line(epoch)) + "\n" for epoch in range(1, 12_001)))
    return file


def test_a_long_history_is_read_line_by_line_and_remembered_in_part(long: Path) -> None:
    with memory(5 * MIB):
        kept = RunFolder(long.parent).read_metrics()
    epochs = [metrics["epoch"] for metrics in kept]
    assert 2000 < len(epochs) <= 4001
    assert epochs[0] == 1 and epochs[-1] == 12_000
    assert len({b - a for a, b in zip(epochs[:-1], epochs[1:-1], strict=False)}) == 1  # evenly spaced


def test_resuming_looks_once_at_each_line_and_holds_few(tmp_path: Path, long: Path) -> None:
    run, seen, told = RunFolder(tmp_path), [], []
    run.metrics_file.write_bytes(long.read_bytes())
    with memory(6 * MIB):
        run.cut_metrics(2 * 11_000, 11_000, told.append, lambda metrics: seen.append(metrics["epoch"]))
    assert seen == list(range(1, 11_001)) and told == []
    assert run.metrics_file.read_bytes() == b"".join(long.read_bytes().splitlines(keepends=True)[:11_000])


@pytest.mark.parametrize("content", [b"\0", b"x", b"[", b'{"a":'], ids=repr)
def test_a_line_without_an_end(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "metrics.jsonl"
    with open(file, "wb") as opened:
        opened.write(b'{"a": 1}\n' + content * 1000)
        opened.truncate(30 * MIB)
        opened.seek(0, 2)
        opened.write(b'\n{"b": 2}\n{"torn": 3')
    with memory(MIB):
        assert [values for _, values in read_objects(file)] == [{"a": 1}, {"b": 2}]


def test_while_training_the_file_is_never_read_again(run: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    real, read = folder_module.read_objects, []

    def read_objects(path: Path) -> Any:
        read.append(path)
        return real(path)

    monkeypatch.setattr(folder_module, "read_objects", read_objects)
    assert train("--resume", run, "--epochs", "7") == 0
    assert read == [run / "metrics.jsonl"]


def test_a_series_has_its_first_and_its_newest_at_any_length() -> None:
    series, lengths = Series(), set()
    assert series.remembered() == []
    for number in range(40_000):
        series.append({"n": number})
        if number % 977 == 0 or number < 3:
            kept = series.remembered()
            assert (kept[0]["n"], kept[-1]["n"], len(series)) == (0, number, number + 1)
            lengths.add(len(kept))
    assert max(lengths) <= 4001


def test_evaluations_too(tmp_path: Path) -> None:
    good = [scores(epoch) for epoch in range(1, 6001)]
    text = "".join(json.dumps(each) + "\n" for each in good)
    (tmp_path / HISTORY_FILE).write_text('garbage\n{"epoch": 1}\n[]\n' + text + '{"epoch": 9000, "st')
    with memory(5 * MIB):
        kept = read_history(RunFolder(tmp_path))
    assert (kept[0], kept[-1]) == (good[0], good[-1]) and len(kept) <= 4001


def test_a_growing_file_gives_each_line_once_and_only_whole(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    growing = GrowingFile(file)
    forgotten: list[int] = []

    def new() -> list[int]:
        return [values["epoch"] for values in growing.read(lambda: forgotten.append(1))]

    def add(text: str) -> None:
        with open(file, "a") as opened:
            opened.write(text)

    assert new() == []
    whole = json.dumps(line(1)) + "\n"
    for text, epochs in (
        (whole, [1]), ("", []), (whole.replace("1", "2", 1)[:40], []), (whole.replace("1", "2", 1)[40:], [2]),
        ("damaged\n", []), ("x" * 100_000 + "\n", []), (json.dumps(line(3)) + "\n" + json.dumps(line(4)) + "\n", [3, 4]),
    ):  # fmt: skip
        add(text)
        assert new() == epochs
    assert forgotten == []


@pytest.mark.parametrize("rewritten", [[7], [1, 7], [1, 2, 7, 8], [], None])
def test_a_growing_file_that_becomes_another_is_read_anew(tmp_path: Path, rewritten: list[int] | None) -> None:
    """Shorter, as long, longer, empty or gone."""
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line(epoch)) + "\n" for epoch in (1, 2, 3)))
    growing, forgotten = GrowingFile(file), []
    assert len(list(growing.read(lambda: forgotten.append(1)))) == 3
    if rewritten is None:
        file.unlink()
    else:
        file.write_text("".join(json.dumps(line(epoch)) + "\n" for epoch in rewritten))
    assert [values["epoch"] for values in growing.read(lambda: forgotten.append(1))] == (rewritten or [])
    assert forgotten == [1]
    assert list(growing.read(lambda: forgotten.append(1))) == [] and forgotten == [1]


def test_a_growing_file_that_is_replaced_by_one_that_begins_the_same(tmp_path: Path) -> None:
    """As a resumed run does, before it has gone on: nothing was read that is no longer so."""
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line(epoch)) + "\n" for epoch in (1, 2)))
    growing = GrowingFile(file)
    assert len(list(growing.read(pytest.fail))) == 2
    other = tmp_path / "other"
    other.write_text("".join(json.dumps(line(epoch)) + "\n" for epoch in (1, 2, 3)))
    other.replace(file)
    assert [values["epoch"] for values in growing.read(lambda: pytest.fail("it is the same"))] == [3]
