"""What a long job says: on standard output and error, which are never a reason to stop, and in the run's log."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from npgan.errors import one_line

_PIECE = 1000  # letters in one write: at most 4,000 bytes, which a pipe that is ready takes without waiting
_PATIENCE_MS = 2000  # for a reader that takes nothing; after that none, until it goes on


class RunLog:
    """Lines with their time. What is said before there is a run folder is written once there is one."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._waiting: list[str] = []

    def open(self, file: Path) -> None:
        self._file = file
        waiting, self._waiting = "".join(self._waiting), []
        self._write(waiting)

    def __call__(self, line: str) -> None:
        self._write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {one_line(line.rstrip())}\n")

    def _write(self, text: str) -> None:
        if self._file is None:
            self._waiting.append(text)
            return
        with suppress(OSError), open(self._file, "a", encoding="utf-8", errors="replace") as file:
            file.write(text)


class _Unfailing:
    """A stream that takes every text, written or not. ``report`` is told once why one could not be."""

    def __init__(self, stream: TextIO, name: str, report: Callable[[str], None]) -> None:
        self._stream, self._name, self._report = stream, name, report
        self._told = self._stalled = False
        self._poll: Any = None
        with suppress(OSError, ValueError, AttributeError):  # no real file, or no such call on this system
            number, poll = stream.fileno(), select.poll()
            poll.register(number, select.POLLOUT)
            self._poll = poll

    def write(self, text: str) -> int:
        try:
            for start in range(0, len(text), _PIECE):
                self._wait()
                self._stream.write(text[start : start + _PIECE])
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._tell(error)
        return len(text)

    def flush(self) -> None:
        """Nothing: what is written is flushed."""

    def _wait(self) -> None:
        """Raises TimeoutError when the other end takes nothing: a terminal that is halted, a program that does not read."""
        if self._poll is not None:
            self._stalled = not self._poll.poll(0 if self._stalled else _PATIENCE_MS)
            if self._stalled:
                raise TimeoutError("nobody reads it")

    def _tell(self, error: OSError | ValueError) -> None:
        if not self._told:
            self._told = True
            reason = getattr(error, "strerror", None) or error
            self._report(f"{self._name} cannot be written ({reason}): going on without it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unfailing_output(report: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Whatever is printed within, a reader that is gone, a full disk or a lost terminal ends nothing: ``report`` is told."""
    before = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, _Unfailing(sys.stdout, "standard output", report))
    sys.stderr = cast(TextIO, _Unfailing(sys.stderr, "standard error", report))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            let_go(stream)


def let_go(stream: TextIO) -> None:
    """Forgets what the stream could not write: at its end Python would try again and exit with another status."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), stream.fileno())
