"""Launches that may run at once and touch the same bytes: the graph of an iteration's launches on its two streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from npgan.engines.cuda.device import in_chain, source
from ptx.emulator import extent, signature

Range = tuple[int, int]  # addresses, from and to


class Launch(NamedTuple):
    kernel: str
    iteration: int
    before: frozenset[int]  # launches that have ended when this one begins or, if it begins early, has waited
    at_start: frozenset[int]  # those that have ended when it begins, as early as it may
    weight: Range | None  # what it may read before it waits
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
        self._after_chain: Launch | None = None  # the main stream's last launch, if another may begin while it runs
        self._done: dict[str, frozenset[int]] = {"main": frozenset(), "side": frozenset()}

    def launch(self, kernel: str, blocks: tuple[int, int], *arguments: Any) -> None:
        ranges: dict[bool, list[Range]] = {True: [], False: []}  # by whether they are written
        weight = None
        for parameter, value in zip(signature(self._code, kernel), arguments, strict=True):
            if isinstance(value, np.ndarray):
                assert parameter.pointer, (kernel, parameter)
                own = value.ctypes.data, value.ctypes.data + extent(value)
                ranges[not parameter.const].append(own)
                weight = own if parameter.name == "weight" else weight
        before, chain = self._done[self._stream], in_chain(kernel) and self._stream == "main"
        at_start = self._after_chain.at_start if chain and self._after_chain else before
        # what is written may be read as well
        reads = ranges[False] + ranges[True]
        self.launches.append(Launch(kernel, self.iteration, before, at_start, weight, reads, ranges[True]))
        if self._stream == "main":
            self._after_chain = self.launches[-1] if chain else None
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
        self._after_chain = None

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

    def early_races(self) -> list[str]:
        """Launches whose weights may still be written when they begin early and fetch them."""
        return [
            f"{launch.kernel} of iteration {launch.iteration}, {other.kernel} of {other.iteration}"
            for number, launch in enumerate(self.launches)
            for other in (self.launches[each] for each in range(number) if each not in launch.at_start)
            if launch.weight and _overlap([launch.weight], other.writes)
        ]


def _overlap(ranges: list[Range], others: list[Range]) -> bool:
    return any(start < other_end and other < end for start, end in ranges for other, other_end in others)
