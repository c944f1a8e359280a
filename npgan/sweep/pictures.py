"""The pictures of a sweep, by Matplotlib: survival, losses as small multiples, samples side by side, evaluation."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import matplotlib
import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from npgan.errors import InputError
from npgan.runs.folder import RunFolder
from npgan.runs.pictures import read_grid
from npgan.sweep.results import RunReport, Setting

_WIDTH = 11.0  # inches
_MOST_SEEDS = 10  # whose samples are shown, of each setting
_TILE = 4  # samples a side
_ALIVE, _DEAD_COLOR, _G, _D = "#1478be", "#d66014", "#d66014", "#1478be"  # told apart by the color-blind, too
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "npgan",
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Draw = Callable[[Any, Sequence[Setting]], None]  # on a figure or a part of one


class Drawing:
    """A picture with its height in inches, to be drawn by itself or as a part of the whole."""

    def __init__(self, title: str, height: float, draw: Draw, settings: Sequence[Setting]) -> None:
        self.title, self.height, self._draw, self._settings = title, height, draw, settings

    def on(self, figure: Figure | SubFigure) -> None:
        self._draw(figure, self._settings)


def figures(settings: Sequence[Setting]) -> list[Drawing]:
    """Those that there is something to draw for."""
    rows = math.ceil(len(settings) / 3)
    drawn = [
        Drawing("Survival", 0.9 + 0.34 * len(settings), _survival, settings),
        Drawing("Mean loss of each epoch, a line a run", 0.5 + 2.1 * rows, _losses, settings),
        Drawing("Samples", 0.5 + 1.15 * len(settings), _samples, settings),
    ]
    if any(setting.spread("frechet") for setting in settings):
        drawn.append(Drawing("Evaluation", 1.0 + 0.4 * len(settings), _evaluation, settings))
    return drawn


def save_png(drawn: Sequence[Drawing], file: BinaryIO) -> None:
    """All pictures below one another."""
    with matplotlib.rc_context(_STYLE):
        whole = Figure(figsize=(_WIDTH, sum(each.height for each in drawn) + 0.3 * len(drawn)), layout="constrained")
        parts = whole.subfigures(len(drawn), 1, squeeze=False, height_ratios=[each.height for each in drawn])
        for part, each in zip(parts[:, 0], drawn, strict=True):
            part.suptitle(each.title, x=0.01, ha="left", weight="bold")
            each.on(part)
        whole.savefig(file, format="png", dpi=110, metadata={"Software": None})


def save_page_pictures(drawn: Sequence[Drawing]) -> Mapping[str, str]:
    """Each as SVG, by its title."""
    found = {}
    for each in drawn:
        with matplotlib.rc_context(_STYLE), io.StringIO() as text:
            figure = Figure(figsize=(_WIDTH, each.height), layout="constrained")
            each.on(figure)
            figure.savefig(text, format="svg", metadata={"Date": None})
            found[each.title] = text.getvalue()[text.getvalue().index("<svg") :]
    return found


def _survival(figure: Any, settings: Sequence[Setting]) -> None:
    axes = figure.subplots()
    places = np.arange(len(settings))
    shares = np.array([setting.alive / len(setting.runs) if setting.runs else math.nan for setting in settings])
    ends = np.array([setting.interval for setting in settings])
    axes.barh(places, shares, color=_ALIVE, alpha=0.35, height=0.6)
    axes.errorbar(shares, places, xerr=np.abs(ends.T - shares), fmt="o", color=_ALIVE, capsize=3)
    axes.set_yticks(places, [f"{setting.name}  {setting.alive}/{len(setting.runs)}" for setting in settings])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("runs whose G still has a gradient, with 95 % Wilson intervals")


def _losses(figure: Any, settings: Sequence[Setting]) -> None:
    columns = min(3, len(settings))
    grid = figure.subplots(math.ceil(len(settings) / columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes, setting in zip(grid.flat, settings, strict=False):
        for each in setting.runs:
            epochs = [line["epoch"] for line in each.metrics]
            for net, color in (("d", _D), ("g", _G)):
                style = "-" if each.outcome.alive else ":"
                marker = "o" if len(epochs) == 1 else ""
                axes.plot(
                    epochs, [line[f"loss_{net}"] for line in each.metrics], style + marker, color=color, lw=1, ms=3
                )
        axes.set_title(setting.name, fontsize=9)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if _decades(settings) < 1 else "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(
            0.5, max((line["epoch"] for s in settings for each in s.runs for line in each.metrics), default=1) + 0.5
        )
    for axes in list(grid.flat)[len(settings) :]:
        axes.set_visible(False)
    first = grid[0, 0]
    for label, style, color in (("loss of G", "-", _G), ("loss of D", "-", _D), ("G is dead", ":", "gray")):
        first.plot([], [], style, color=color, label=label)
    first.legend(fontsize=7, frameon=False)
    figure.supxlabel("epoch", fontsize=9)


def _decades(settings: Sequence[Setting]) -> float:
    """That the losses span."""
    losses = [line[name] for s in settings for each in s.runs for line in each.metrics for name in ("loss_d", "loss_g")]
    seen = [loss for loss in losses if loss > 0]
    return math.log10(max(seen) / min(seen)) if seen else 0.0


def _samples(figure: Any, settings: Sequence[Setting]) -> None:
    """A row a setting, a column a seed. Dead runs have a frame."""
    columns = min(_MOST_SEEDS, max((len(setting.runs) for setting in settings), default=0)) or 1
    grid = figure.subplots(len(settings), columns, squeeze=False)
    for row, setting in zip(grid, settings, strict=True):
        for axes, each in zip(row, setting.runs, strict=False):
            tile = _tile(each)
            if tile is not None:
                axes.imshow(tile, cmap="gray", vmin=0, vmax=255)
            axes.set_title(
                f"seed {each.run.seed}", fontsize=7, pad=2, color="black" if each.outcome.alive else _DEAD_COLOR
            )
            axes.spines[:].set_visible(not each.outcome.alive)
            axes.spines[:].set(color=_DEAD_COLOR, linewidth=2.5)
        for axes in row:
            axes.set(xticks=[], yticks=[])
        for axes in row[len(setting.runs) :]:
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(setting.name, rotation=0, ha="right", va="center")


def _tile(each: RunReport) -> np.ndarray | None:
    """The first samples of the last epoch that has some. Shapes: (28·4, 28·4) uint8."""
    run = RunFolder(each.run.folder)
    pictures = sorted(run.samples.glob("epoch-*.png"))
    if not pictures:
        return None
    try:
        images = read_grid(pictures[-1])[: _TILE * _TILE]
    except InputError:  # somebody has put another picture there
        return None
    return images.reshape(_TILE, _TILE, 28, 28).swapaxes(1, 2).reshape(_TILE * 28, _TILE * 28)


def _evaluation(figure: Any, settings: Sequence[Setting]) -> None:
    """A point a run, and mean and standard deviation of each setting."""
    pair = figure.subplots(1, 2, sharey=True)
    titles = (("frechet", "Fréchet distance (lower is better)"), ("parzen", "Parzen log-likelihood, nats"))
    for axes, (key, title) in zip(pair, titles, strict=True):
        for place, setting in enumerate(settings):
            for each in setting.runs:
                if each.evaluation:
                    axes.plot(
                        each.evaluation[key],
                        place,
                        "o",
                        ms=4,
                        mfc="none",
                        color=_ALIVE if each.outcome.alive else _DEAD_COLOR,
                    )
            if spread := setting.spread(key):
                axes.errorbar(
                    spread.mean, place + 0.25, xerr=spread.deviation or 0.0, fmt="|", color="black", capsize=3
                )
        axes.set_xlabel(title)
    distances = [each.evaluation["frechet"] for s in settings for each in s.runs if each.evaluation]
    if min(distances) > 0 and max(distances) > 10 * min(distances):
        pair[0].set_xscale("log")
        pair[0].xaxis.set_major_formatter("{x:g}")
    pair[0].set_yticks(range(len(settings)), [setting.name for setting in settings])
    pair[0].set_ylim(len(settings) - 0.4, -0.6)
