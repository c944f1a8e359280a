"""What a person sees while training: header, progress, previews, curves, messages.

On a terminal a rich progress bar stays at the bottom and everything else scrolls by above it. Anywhere else (a pipe, a
log file) the same facts come as plain lines without escape codes. Nothing here knows about networks, and no thread
runs while it trains: the bar is drawn inside ``step`` and ``epoch``, at most five times a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from npgan.errors import one_line
from npgan.runs.colormaps import COLORMAP
from npgan.runs.pictures import heat_map, loss_curves, plotext_problem

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress, TaskID

    from npgan.console import Console

_UPDATE_SECONDS = 0.2  # between two redraws; one takes 0.9 ms, so the bar costs less than half a percent of the time
_RATE_UPDATES = 50  # iterations/s is the mean over so many updates: the last ten seconds, or 50 slow iterations
_EAGER_EPOCHS = 10  # plain mode: every one of the first epochs gets its line, ...
_LINE_SECONDS = 1.0  # ... later ones at most one line in this time, ...
_SILENT_SECONDS = 30.0  # ... and an epoch slower than this gets lines while it runs
_PREVIEW_SAMPLES = 4
_CURVE_HEIGHT = 20  # lines


_P = ParamSpec("_P")


def _drawing(
    method: Callable[Concatenate[TrainingDisplay, _P], None],
) -> Callable[Concatenate[TrainingDisplay, _P], None]:
    """A method that draws by rich or plotext: what goes wrong there ends nothing, and is told once, to the log."""

    @wraps(method)
    def drawn(display: TrainingDisplay, /, *arguments: _P.args, **more: _P.kwargs) -> None:
        try:
            method(display, *arguments, **more)
        except Exception as error:
            if display._log is None:
                raise
            if not display._failed:
                display._failed = True
                display._log(f"drawing failed ({type(error).__name__}: {error}): training goes on")

    return drawn


class TrainingDisplay:
    """The face of one training run, a context manager: leaving it in any way restores the terminal.

    Order of calls: ``header`` and ``preparing`` before it is entered; ``step`` after every iteration, ``epoch`` and
    ``preview`` after epochs; ``curves`` and ``done`` at the end. ``note`` and ``warn`` at any time.
    """

    def __init__(
        self,
        total_epochs: int,
        iterations_per_epoch: int,
        start_step: int,
        *,
        console: Console | None = None,
        quiet: bool = False,
        colormap: str = COLORMAP,
        log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``start_step``: iterations done before this run. ``console``: rich's; standard output if None.

        ``quiet``: print warnings only. ``colormap``: of previews. ``clock``: seconds, for tests. ``log``: gets messages too,
        and what goes wrong in drawing, which then ends nothing; without it that is raised.
        """
        from npgan.console import Console

        self._console = Console() if console is None else console
        self._quiet = quiet
        self.colormap = colormap
        self._log = log
        self._failed = False  # to draw, at some time
        self._live = self._console.is_terminal and self._console.is_interactive and not quiet
        self._clock = clock
        self._total_epochs = total_epochs
        self._total_steps = total_epochs * iterations_per_epoch
        self._iterations_per_epoch = iterations_per_epoch
        self._start_step = start_step

        self._step = start_step
        self._loss_d: float | None = None
        self._loss_g: float | None = None
        self._updates: deque[tuple[float, int]] = deque(maxlen=_RATE_UPDATES)
        self._start_clock()
        self._name_width = 0  # of the header's names
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._epoch_lines = 0
        self._held_back: str | None = None  # the newest epoch's line, while it waits for its turn
        self._warned_of_plotext = False

    def __enter__(self) -> TrainingDisplay:
        self._start_clock()
        if self._live:
            self._start_progress()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    # ---- before the first iteration

    def header(self, rows: Iterable[tuple[str, str]]) -> None:
        """Facts of the run, one (name, value) a line. Later ones stand in the columns of those before."""
        rows = list(rows)
        self._name_width = max([self._name_width, *(len(name) for name, _ in rows)])
        self._print_rows(rows, self._name_width)

    @contextmanager
    def preparing(
        self, report: Callable[[str], None]
    ) -> Iterator[tuple[Callable[[str], None], Callable[[float], None]]]:
        """While something is made ready, its caller may say what takes so long, and how much is done, from 0 to 1.

        It gets the two functions for that, for any thread. On a terminal the line has a bar and the seconds, and is gone
        at the end. Elsewhere ``report`` prints it.
        """
        if not self._live:
            yield report, lambda done: None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        text = TextColumn("{task.description}", markup=False)
        progress = Progress(BarColumn(20), text, TimeElapsedColumn(), console=self._console, transient=True)
        lock, over = threading.Lock(), False
        task = progress.add_task("", total=None)  # without a total the bar only shows that something is done

        def say(line: str) -> None:
            with lock:
                if not over:  # a timer may come too late
                    progress.update(task, description=one_line(line))
                    progress.start()

        try:
            yield say, lambda done: progress.update(task, total=1.0, completed=done)
        finally:
            with lock:
                over = True
                progress.stop()

    # ---- progress

    def step(self, step: int, loss_d: float | None = None, loss_g: float | None = None) -> None:
        """``step`` iterations are done. Cheap enough for each: a look at the clock, and five times a second a redraw.

        The losses are the latest batch's, anything that ``float()`` takes, or None to go on showing those before.
        """
        self._step = step
        if loss_d is not None:
            self._loss_d = loss_d
        if loss_g is not None:
            self._loss_g = loss_g
        now = self._clock()
        if now >= self._next_update:
            self._update(now)
            if not self._live and now - self._last_line_time >= _SILENT_SECONDS:
                self._print_progress_line(f"{self._where()}  {self._losses('  loss ')}  {self._pace()}", now)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch has ended; ``metrics`` is its line of ``metrics.jsonl``."""
        if self._quiet:
            return
        self._step, self._loss_d, self._loss_g = metrics["step"], metrics["loss_d"], metrics["loss_g"]
        now = self._clock()
        if now >= self._next_update or len(self._updates) == 1:
            self._update(now)
        if self._live:
            return
        epoch = metrics["epoch"]
        line = (
            f"epoch {epoch}/{self._total_epochs}  step {self._step}  {self._losses('  loss ')}"
            f"  D(x) {metrics['d_real']:.2f}  D(G(z)) {metrics['d_fake']:.2f}  {self._pace()}"
        )
        self._epoch_lines += 1
        if (
            self._epoch_lines <= _EAGER_EPOCHS
            or now - self._last_line_time >= _LINE_SECONDS
            or epoch >= self._total_epochs
        ):
            self._print_progress_line(line, now)
        else:
            self._held_back = line

    # ---- what stands between the progress

    def preview(self, images: np.ndarray, epoch: int, path: str | Path) -> None:
        """The first four of ``images`` (N, 28, 28) or (N, 784) in [-1, 1]. ``path``: the file that shows them all."""
        if self._quiet:
            return
        self._print_line(f"samples after epoch {epoch}: {path}")
        width = max(self._console.width, 28)  # on a narrower terminal the picture is cropped
        shown = images[:_PREVIEW_SAMPLES]
        self._print_picture(lambda color: heat_map(shown, width=width, color=color, colormap=self.colormap))

    def curves(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Both losses over the epochs of ``history``, a list of metrics. Ends the progress bar."""
        self._stop()
        if self._quiet or not history:
            return
        epochs, loss_d, loss_g = ([entry[key] for entry in history] for key in ("epoch", "loss_d", "loss_g"))
        width = self._console.width
        self._print_picture(
            lambda color: loss_curves(epochs, loss_d, loss_g, width=width, height=_CURVE_HEIGHT, color=color)
        )

    def done(self, rows: Iterable[tuple[str, str]] = ()) -> None:
        """What was trained, in which time, then ``rows`` as in the header; in the log, too. Ends the progress bar."""
        self._stop()
        seconds = self._clock() - self._start_time
        steps = self._step - self._start_step
        rate = f" ({_rate(steps / seconds)})" if steps and seconds > 0 else ""
        trained = f"{steps} iterations in {_duration(seconds)}{rate}, now at step {self._step} of {self._total_steps}"
        rows = [("trained", trained), *rows]
        for name, value in rows:
            self._tell_log(f"{name}: {value}")
        self._print_rows(rows, max(len(name) for name, _ in rows))

    def note(self, line: str) -> None:
        """One line of information, in the log too."""
        self._tell_log(line)
        if not self._quiet:
            self._print_line(line)

    def warn(self, line: str) -> None:
        """One line that is printed even when quiet, in the log too."""
        self._tell_log(f"warning: {line}")
        self._print_line(f"warning: {line}", style="yellow")

    # ---- inside

    def _tell_log(self, line: str) -> None:
        if self._log is not None:
            self._log(line)

    def _start_clock(self) -> None:
        self._start_time = self._last_line_time = self._clock()
        self._next_update = math.inf if self._quiet else self._start_time + _UPDATE_SECONDS
        self._updates.clear()
        self._updates.append((self._start_time, self._start_step))

    @_drawing
    def _print_rows(self, rows: Sequence[tuple[str, str]], name_width: int) -> None:
        if self._quiet:
            return
        if not self._live:
            for name, value in rows:
                self._print_line(f"{name + ':':<{name_width + 1}} {value}")
            return
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, min_width=name_width)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(Text(one_line(name), style="cyan"), Text(one_line(value)))
        self._console.print(table)

    @_drawing
    def _start_progress(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        def text(field: str, style: str = "") -> TextColumn:
            column = Column(no_wrap=True, overflow="crop")
            return TextColumn(f"{{task.fields[{field}]}}", style=style, markup=False, table_column=column)

        self._progress = Progress(
            text("where", "bold"),
            BarColumn(bar_width=None),  # what the other columns leave
            text("losses"),
            text("rate", "cyan"),
            text("times", "green"),
            console=self._console,
            auto_refresh=False,
            expand=True,
            get_time=self._clock,
        )
        self._task = self._progress.add_task("", total=self._total_steps, completed=self._step, **self._fields())
        self._progress.start()

    def _fields(self) -> dict[str, Any]:
        elapsed = " elapsed" if self._console.width >= 100 else ""  # in 80 columns there is no room for the word
        times = f"{_duration(self._clock() - self._start_time)}{elapsed}, ETA {self._eta()}"
        return {"where": self._epoch_text(), "losses": self._losses(), "rate": _rate(self._speed()), "times": times}

    def _update(self, now: float) -> None:
        self._next_update = now + _UPDATE_SECONDS
        self._updates.append((now, self._step))
        self._redraw()

    @_drawing
    def _redraw(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._step, **self._fields())
            self._progress.refresh()

    def _stop(self) -> None:
        """Leave the bar as it stands, give the terminal back, print the last epoch's line if it was held back."""
        self._print_held_back()
        self._redraw()
        self._end_progress()

    @_drawing
    def _end_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    def _epoch_text(self) -> str:
        running = min(self._step // self._iterations_per_epoch + 1, self._total_epochs)
        return f"epoch {running}/{self._total_epochs}"

    def _where(self) -> str:
        return f"{self._epoch_text()}  step {self._step}"

    def _losses(self, between: str = " ") -> str:
        return f"loss D {_loss(self._loss_d)}{between}G {_loss(self._loss_g)}"

    def _pace(self) -> str:
        return f"{_rate(self._speed())}  ETA {self._eta()}"

    def _speed(self) -> float | None:
        """Iterations per second over the latest updates, None before there are any."""
        (first_time, first_step), (last_time, last_step) = self._updates[0], self._updates[-1]
        return (last_step - first_step) / (last_time - first_time) if last_time > first_time else None

    def _eta(self) -> str:
        speed = self._speed()
        return _duration((self._total_steps - self._step) / speed) if speed else "-:--"

    def _print_held_back(self) -> None:
        if self._held_back is not None:
            self._print_progress_line(self._held_back, self._clock())

    def _print_progress_line(self, line: str, now: float) -> None:
        self._held_back = None
        self._last_line_time = now
        self._print_line(line)

    @_drawing
    def _print_line(self, line: str, style: str = "") -> None:
        from rich.text import Text

        self._print_held_back()  # what came before it stands before it
        self._console.print(Text(one_line(line), style=style), soft_wrap=True)

    @_drawing
    def _print_picture(self, draw: Callable[[bool], str]) -> None:
        from rich.text import Text

        console = self._console
        color = (
            console.color_system in {"256", "truecolor"}  # 16 colors have four grays: the ramp shows more
            and not console.no_color
            and console.encoding.startswith("utf")
        )
        try:
            picture = draw(color)
        except ImportError:
            problem = plotext_problem()
            if not problem:
                raise
            if not self._warned_of_plotext:
                self._warned_of_plotext = True
                self.warn(f"no curves in the terminal: {problem}")
            return
        console.print(Text.from_ansi(picture), no_wrap=True, overflow="crop")


def _duration(seconds: float) -> str:
    """4:12, 1:04:12, or 5d 04h from 100 hours on: never wider than eight characters."""
    minutes, second = divmod(int(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _rate(per_second: float | None) -> str:
    if per_second is None:
        return "- it/s"
    digits = 2 if per_second < 10 else 1 if per_second < 100 else 0
    return f"{per_second:.{digits}f} it/s"


def _loss(value: float | None) -> str:
    if value is None:
        return "-"
    loss = float(value)
    return f"{loss:.3f}" if abs(loss) < 100 else f"{loss:.2g}"
