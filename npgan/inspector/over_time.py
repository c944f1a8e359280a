"""A run's curves, and two steps side by side, on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from npgan.console import Console
from npgan.inspector.figures import number, round_ticks
from npgan.inspector.history import Chart, Snapshot, comparison
from npgan.runs.pictures import plotext_problem

_HEIGHT = 14
_HUES = {  # plotext's names of colors and rich's
    "orange+": "bright_yellow", "cyan+": "bright_cyan", "green+": "bright_green", "magenta+": "bright_magenta",
    "blue+": "bright_blue", "red+": "bright_red", "white": "white",
}  # fmt: skip
_LETTERS = "abcdefgh"
_ASCII_FRAME = str.maketrans("┌┐└┘├┤┬┴┼─│", "+++++++++-|")


def print_charts(drawn: Sequence[Chart], console: Console) -> None:
    """All charts; where plotext cannot be had, a line that says so."""
    if problem := plotext_problem():
        console.print(f"no curves in the terminal: {problem}; --html FILE draws them")
        return
    for chart in drawn:
        console.print()
        console.print(draw(chart, min(console.width, 110), console.color_system is not None))


def draw(chart: Chart, width: int, color: bool) -> Text:
    """A chart under its legend; with ``color`` braille dots, else ASCII letters."""
    import plotext

    plotext.terminal.limit(False, False)  # or the plot would shrink to the terminal that plotext believes in
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, _HEIGHT)
    figure.theme("simple")
    text = Text(chart.title, style="bold").append("\n")
    across: list[float] = []
    heights: list[float] = []
    for (label, (xs, ys)), hue, letter in zip(chart.curves.items(), cycle(_HUES), cycle(_LETTERS), strict=False):
        points = [
            (x, math.log10(y) if chart.logarithmic else y) for x, y in zip(xs, ys, strict=True) if _usable(y, chart)
        ]
        if not points:
            continue
        pixel = plotext.pixel(hue)
        marker = plotext.marker("braille" if color else letter, pixel=pixel)
        x, y = [float(x) for x, _ in points], [float(y) for _, y in points]
        across, heights = across + x, heights + y
        signal = figure.signal(x, y, marker=marker)
        figure.draw(signal.lines() if len(points) > 1 else signal)
        text.append(f"{'━━' if color else letter} {label}  ", style=f"not bold {_HUES[hue]}")
    if not heights:
        return text.append("nothing to draw", style="not bold dim")
    low, high = min(heights), max(heights)
    ends = (10**low, 10**high) if chart.logarithmic else (low, high)
    ticks = round_ticks(*ends, chart.logarithmic) if high > low else [ends[0]]
    figure.ruler("y").ticks([math.log10(t) if chart.logarithmic else t for t in ticks], [number(t) for t in ticks])
    whole = sorted({round(float(tick)) for tick in np.linspace(min(across), max(across), 7)})
    figure.ruler("x").ticks(whole, [str(tick) for tick in whole])
    figure.label("epoch", "x")
    body = str(figure.build().string(colorless=not color)).rstrip("\n")
    if not color:
        return text.append(f"\n{body.translate(_ASCII_FRAME)}", style="not bold")
    return text.append("\n").append_text(Text.from_ansi(body))


def _usable(y: float, chart: Chart) -> bool:
    return math.isfinite(y) and (y > 0 or not chart.logarithmic)


def comparison_table(a: Snapshot, b: Snapshot) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("A", "B", "B/A"):
        table.add_column(heading, justify="right")
    for heading, rows in comparison(a, b):
        table.add_row(Text(heading, style="bold cyan"))
        for name, first, second in rows:
            table.add_row(f"  {name}", number(first), number(second), number(second / first) if first else "–")
        table.add_section()
    return table
