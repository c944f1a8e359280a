"""Files of one JSON object a line, which grow as long as a run does: read line by line, remembered at bounded length."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

_LONGEST_LINE = 1 << 16  # bytes; ours have 300
_MOST_REMEMBERED = 4000  # more than a chart has columns


def read_objects(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line of the file that is a JSON object: as it stands, and read. What a kill or a power cut damaged is not.

    Holds one line at a time, and of a line that is too long to be ours no more than a part. No file: no lines.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        return
    with open(path, "rb") as file:
        yield from _objects(file)


def _objects(file: BinaryIO) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Of what is left of the file."""
    whole = True  # whether what is read next begins a line
    while line := file.readline(_LONGEST_LINE):
        begins, whole = whole, line.endswith(b"\n")
        if begins and whole and isinstance(values := _parse(line), dict):
            yield line, values


class GrowingFile:
    """The objects of a file that another process writes: each ``read`` gives those that have come since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0  # of the last object read, in bytes
        self._last = b""  # its line: where it is no longer there, the file is another one

    def read(self, forget: Callable[[], object]) -> Iterator[dict[str, Any]]:
        """``forget`` is called first where what was read is no longer in the file. No file: no objects. Raises OSError."""
        if not self._path.is_file():
            self._start_over(forget)
            return
        with open(self._path, "rb") as file:
            file.seek(self._end - len(self._last))
            if file.read(len(self._last)) != self._last:
                self._start_over(forget)
                file.seek(0)
            for line, values in _objects(file):
                self._end, self._last = file.tell(), line
                yield values

    def _start_over(self, forget: Callable[[], object]) -> None:
        if self._end:
            self._end, self._last = 0, b""
            forget()


def _parse(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def are_numbers(values: dict[str, Any], names: set[str]) -> bool:
    """Whether all of ``names`` are there and are finite numbers; ``epoch`` and ``step`` whole ones."""
    found: list[Any] = [values.get(name) for name in names]
    right = all(type(number) in (int, float) and -1e300 < number < 1e300 for number in found)  # NaN is not
    return right and type(values["epoch"]) is type(values["step"]) is int


class Series:
    """A long series, remembered at a few thousand places that are evenly spaced; its first and its newest are among them."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Any]] = []  # every ``_apart``-th
        self._apart = 1
        self._count = 0
        self._newest: dict[str, Any] | None = None

    def append(self, values: dict[str, Any]) -> None:
        self._newest = values
        if self._count % self._apart == 0:
            self._kept.append(values)
        self._count += 1
        if len(self._kept) > _MOST_REMEMBERED:
            del self._kept[1::2]
            self._apart *= 2

    def __len__(self) -> int:
        """How many there were."""
        return self._count

    def remembered(self) -> list[dict[str, Any]]:
        """In order."""
        if self._newest is None or self._kept[-1] is self._newest:
            return list(self._kept)
        return [*self._kept, self._newest]
