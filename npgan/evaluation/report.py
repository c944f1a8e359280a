"""What an evaluation shows and writes: progress, the table, evaluation.json."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from npgan.console import Console
from npgan.evaluation.figures import Figures
from npgan.evaluation.metrics import NEIGHBORS, NEIGHBORS_OF_DENSITY, SURE
from npgan.evaluation.parzen import PUBLISHED, SIGMAS
from npgan.runs.folder import write_text

if TYPE_CHECKING:
    from rich.table import Table


Column = tuple[Callable[[Figures], float], int]  # what is shown of a draw, and with how many decimals


class Row(NamedTuple):
    """One kind of images, measured once for each seed."""

    name: str
    draws: list[Figures]


class Facts(NamedTuple):
    """What the figures rest on."""

    run: str
    checkpoint: str
    step: int
    epoch: float
    train_images: int  # that the run was trained on
    fair: bool  # whether those leave out the images that choose σ
    dataset: str
    n: int  # images in each set
    test_images: int
    validation: tuple[int, int]  # which training images choose σ
    seeds: list[int]
    classifier: str  # which one
    accuracy: float  # of it on the test images
    seconds: float
    device: str


class Steps:
    """Progress of a job: a bar with ETA on a terminal, else a line for each step.

    ``total``: what its ``count`` steps cost together, in a unit of the caller's, of which only ratios count.
    """

    def __init__(self, console: Console, count: int, total: float, quiet: bool) -> None:
        self._console, self._count, self._total, self._quiet = console, count, total, quiet
        self._done, self._spent = 0, 0.0
        self._start = self._last = time.perf_counter()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Steps:
        if self._console.is_terminal and not self._quiet:
            # rich's own ETA forgets what is half a minute old: a step may take longer
            self._progress = Progress(
                BarColumn(20), TextColumn("{task.fields[place]}", markup=False), TimeElapsedColumn(), _Eta(self._eta),
                TextColumn("{task.description}", markup=False), console=self._console,
            )  # fmt: skip
            self._task = self._progress.add_task("", total=self._total, place=f"0/{self._count}")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def step(self, text: str, cost: float) -> None:
        """A step is done; ``text`` says which."""
        self._done, self._spent, self._last = self._done + 1, self._spent + cost, time.perf_counter()
        place = f"{self._done}/{self._count}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._spent, description=text, place=place)
        elif not self._quiet:
            line = f"{place}  {self._last - self._start:.0f} s, {self._eta()}  {text}"
            self._console.print(line, soft_wrap=True)

    def _eta(self) -> str:
        """As the steps so far went, less what has passed since the last of them."""
        if not self._spent:
            return "ETA -"
        left = (self._last - self._start) / self._spent * (self._total - self._spent)
        return f"ETA {max(0.0, left - (time.perf_counter() - self._last)):.0f} s"


class _Eta(ProgressColumn):
    """Asked anew whenever the bar is drawn."""

    def __init__(self, eta: Callable[[], str]) -> None:
        super().__init__()
        self._eta = eta

    def render(self, task: Task) -> Text:
        return Text(self._eta())


def tables(rows: Sequence[Row], facts: Facts) -> list[Table]:
    """Rich tables, each at most 80 columns wide: figures of pixels beside what was published, of features, of classes."""
    return [_pixel_table(rows, facts), _feature_table(rows, facts), _class_table(rows)]


def _pixel_table(rows: Sequence[Row], facts: Facts) -> Table:
    table = _new_table(
        f"{facts.n:,} images a row against {facts.test_images:,} test images",
        ("Parzen, nats", "σ", "nearest"),
        "Parzen: mean log-likelihood of the test images, "
        + ("± its deviation over seeds. " if len(facts.seeds) > 1 else "± its standard error over them. ")
        + "nearest: median distance to the nearest training image; of train images to the nearest other one.",
    )
    for row in rows:
        parzen = [draw.parzen for draw in row.draws]
        one = f"{parzen[0].mean:.1f} ± {parzen[0].standard_error:.1f}"
        table.add_row(
            row.name,
            one if len(facts.seeds) == 1 else _spread([p.mean for p in parzen], 1),
            "/".join(f"{sigma:.3f}" for sigma in sorted({p.sigma for p in parzen})),
            _spread([draw.memory.median for draw in row.draws if draw.memory], 2),
            end_section=row is rows[-1],
        )
    for name, (mean, error) in PUBLISHED.items():
        table.add_row(f"published: {name}", f"{mean:.1f} ± {error:.1f}", style="dim")
    return table


def _feature_table(rows: Sequence[Row], facts: Facts) -> Table:
    table = _new_table(
        f"by {facts.classifier}, right on {facts.accuracy:.2%} of the test images",
        ("Fréchet", "precision", "recall", "density", "coverage"),
        "These compare only with figures from the same classifier. Fréchet: squared distance to the test images' features. "
        f"precision, recall: Kynkäänniemi et al., {NEIGHBORS} neighbors. density, coverage: Naeem et al., "
        f"{NEIGHBORS_OF_DENSITY} neighbors.",
    )
    columns: list[Column] = [
        (lambda d: d.frechet, 1),
        (lambda d: d.precision_recall.precision, 3),
        (lambda d: d.precision_recall.recall, 3),
        (lambda d: d.density_coverage.density, 3),
        (lambda d: d.density_coverage.coverage, 3),
    ]
    return _filled(table, rows, columns)


def _class_table(rows: Sequence[Row]) -> Table:
    table = _new_table(
        "the same classifier's classes",
        ("score", "KL", "sure"),
        "score: as the Inception score, 1 to 10. KL: of the classes to uniform, nats. "
        f"sure: share of images with a class of probability {SURE:g} or more.",
    )
    columns: list[Column] = [
        (lambda d: d.classes.score, 2),
        (lambda d: d.classes.kl_to_uniform, 3),
        (lambda d: d.classes.sure, 3),
    ]
    return _filled(table, rows, columns)


def _filled(table: Table, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    for row in rows:
        cells = [_spread([value(draw) for draw in row.draws], digits) for value, digits in columns]
        table.add_row(row.name, *(cell.replace(" ±", "\n±") for cell in cells))
    return table


def _new_table(title: str, columns: Sequence[str], caption: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE)
    table.add_column("images", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _spread(values: list[float], digits: int) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def warnings(rows: Sequence[Row], facts: Facts) -> list[str]:
    """What a reader of the figures must know, a line each."""
    lines = []
    low, high = facts.validation
    if not facts.fair:
        lines.append(
            f"the run was trained on {facts.train_images:,} images, train[{low}:{high}], which choose σ, among them: "
            f"a fair row to compare with published ones trains with --train-images {low}"
        )
    if facts.n != 10_000:
        lines.append(f"the published protocol takes 10,000 images, not {facts.n:,}")
    for row in rows:
        if edge := sorted({draw.parzen.sigma for draw in row.draws if draw.parzen.at_edge}):
            lines.append(
                f"{row.name}: σ = {edge[0]:g} is at the edge of the grid {SIGMAS[0]:g} … {SIGMAS[-1]:g}: "
                "a better one may lie outside"
            )
    return lines


def write_json(path: Path, rows: Sequence[Row], facts: Facts) -> None:
    """Everything that was measured, every draw with every digit."""
    values = {
        **facts._asdict(),
        "rows": [
            {
                "name": row.name,
                "parzen_mean_over_seeds": statistics.fmean(draw.parzen.mean for draw in row.draws),
                "parzen_spread_over_seeds": _deviation([draw.parzen.mean for draw in row.draws]),
                "draws": [plain(draw) for draw in row.draws],
            }
            for row in rows
        ],
        "published_parzen": {
            name: {"mean": mean, "standard_error": error} for name, (mean, error) in PUBLISHED.items()
        },
        "sigmas": SIGMAS,
        "warnings": warnings(rows, facts),
        "note": "Figures that rest on the classifier compare only with figures from the same classifier.",
    }
    write_text(path, json.dumps(values, indent=2) + "\n")


def plain(value: Any) -> Any:
    """Named tuples as dictionaries, all the way down; a number that is not finite as null."""
    if hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
