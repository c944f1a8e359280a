"""Launches that may run at once and touch the same bytes: the graph of an iteration's launches on its two streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from npgan.engines.cuda.device import source
from ptx.emulator import extent, signature

Range = tuple[int, int]  # addresses, from and to


class Launch(NamedTuple):
    kernel: str
    iteration: int
    before: frozenset[int]  # launches that have ended when this one begins
    reads: list[Range]
    writes: list[Range]


@dataclass
class Recorder:
    """A ``Launcher`` that starts nothing, but notes what every launch reads and writes and what it waits for."""

    multiprocessors: int = 132
    launches: list[Launch] = field(default_factory=list)
    iteration: int = 0

    def __post_init__(self) -> None:
        self._code = source()
        self._stream = "main"
        self._done: dict[str, frozenset[int]] = {"main": frozenset(), "side": frozenset()}

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        ranges: dict[bool, list[Range]] = {True: [], False: []}  # by whether they are written
        for parameter, value in zip(signature(self._code, kernel), arguments, strict=True):
            if isinstance(value, np.ndarray):
                assert parameter.pointer, (kernel, parameter)
                ranges[not parameter.const].append((value.ctypes.data, value.ctypes.data + extent(value)))
        before = self._done[self._stream]
        # what is written may be read as well
        self.launches.append(Launch(kernel, self.iteration, before, ranges[False] + ranges[True], ranges[True]))
        self._done[self._stream] = before | {len(self.launches) - 1}

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        self._done["side"] |= self._done["main"]
        self._stream = "side"
        try:
            yield
        finally:
            self._stream = "main"

    def join(self) -> None:
        self._done["main"] |= self._done["side"]

    def unjoined(self) -> set[int]:
        """Launches that nobody has waited for."""
        return set(range(len(self.launches))) - self._done["main"]

    def at_once(self) -> Iterator[tuple[Launch, Launch]]:
        """Every two that may run at the same time."""
        for number, launch in enumerate(self.launches):
            for other in range(number):
                if other not in launch.before:
                    yield self.launches[other], launch

    def races(self) -> list[str]:
        """Of these, those that touch the same bytes, where at least one writes."""
        return [
            f"{one.kernel} of iteration {one.iteration}, {other.kernel} of {other.iteration}"
            for one, other in self.at_once()
            if _overlap(one.writes, other.reads) or _overlap(one.reads, other.writes)
        ]


def _overlap(ranges: list[Range], others: list[Range]) -> bool:
    return any(start < other_end and other < end for start, end in ranges for other, other_end in others)
