"""What a sweep shows while it goes on: a line a run with epoch, losses and state, and the time left for the whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from npgan.console import Console
from npgan.errors import one_line
from npgan.runs.folder import RunFolder, is_epoch
from npgan.runs.lines import GrowingFile
from npgan.sweep.examine import Outcome
from npgan.sweep.plan import Run

_ORDER = {
    "trains": 0,
    "is looked at": 0,
    "failed": 1,
    "diverged": 1,
    "G is dead": 1,
    "waits": 2,
    "stopped": 2,
    "finished": 3,
}


class Progress:
    """What is known of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder = RunFolder(run.folder)
        self.outcome: Outcome | None = None
        self.last: dict[str, Any] = {}  # its newest line of metrics.jsonl
        self._metrics = GrowingFile(self.folder.metrics_file)

    def look(self) -> bool:
        """Reads what is new. Returns whether something is."""
        before = self.epoch
        for line in self._metrics.read(self.last.clear):
            if is_epoch(line):
                self.last = line
        return self.epoch != before

    @property
    def epoch(self) -> int:
        return int(self.last.get("epoch", 0))

    @property
    def left(self) -> int:
        """Epochs."""
        over = self.outcome is not None and self.outcome.state != "stopped"
        return 0 if over else max(0, self.run.config.epochs - self.epoch)

    @property
    def state(self) -> str:
        if self.outcome is not None:
            dead = self.outcome.state == "finished" and not self.outcome.alive
            return "G is dead" if dead else self.outcome.state
        if self.folder.holder():
            return "trains"
        return "waits" if self.left else "is looked at"

    def words(self) -> list[str]:
        """Name, epochs, losses, state."""
        losses = f"loss D {self.last['loss_d']:.3f} G {self.last['loss_g']:.3f}" if self.last else ""
        told = (
            f": {self.outcome.message or self.outcome.dead}"
            if self.outcome and self.state not in ("finished", "stopped")
            else ""
        )
        return [self.run.name, f"epoch {self.epoch}/{self.run.config.epochs}", losses, one_line(self.state + told)]


class Display:
    """On a terminal a table that changes, else a line whenever a run has got further."""

    def __init__(self, progress: Sequence[Progress], console: Console, quiet: bool) -> None:
        self._all, self._console, self._quiet = progress, console, quiet
        self._start = time.perf_counter()
        for each in progress:
            each.look()
        self._at_start = sum(each.epoch for each in progress)
        self._told: dict[str, list[str]] = {}
        live = console.is_terminal and not quiet
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self) -> None:
        for each in self._all:
            each.look()
        if self._live:
            self._live.update(Group(self._table(), Text(self.summary())), refresh=True)
        elif not self._quiet:
            for each in self._all:
                words = each.words()
                if words != self._told.get(each.run.name, words if each.state == "waits" else []):
                    self._console.print(f"{self.summary()}  {'  '.join(filter(None, words))}", soft_wrap=True)
                self._told[each.run.name] = words

    def summary(self) -> str:
        """Such as "3/12 runs  41 s  ETA 120 s"."""
        ended = sum(each.outcome is not None and each.outcome.state != "stopped" for each in self._all)
        seconds = time.perf_counter() - self._start
        done, left = sum(each.epoch for each in self._all) - self._at_start, sum(each.left for each in self._all)
        eta = f"ETA {seconds / done * left:.0f} s" if done > 0 else "ETA -" if left else "ETA 0 s"
        return f"{ended}/{len(self._all)} runs  {seconds:.0f} s  {eta}"

    def _table(self) -> Table:
        table, rows = Table.grid(padding=(0, 2)), sorted(self._all, key=lambda each: _ORDER.get(each.state, 2))
        room = max(3, self._console.height - 3)
        for each in rows[:room]:
            table.add_row(*(Text(word, no_wrap=True) for word in each.words()))
        if len(rows) > room:
            table.add_row(Text(f"and {len(rows) - room} more", style="dim"))
        return table
