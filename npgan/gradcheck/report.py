"""What the checks found: as a table, as an explanation of the first failure, as JSON."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from npgan.gradcheck.check import ALL_PARAMETERS, FORMULA, ULP, Result
from npgan.gradcheck.methods import COMPLEX
from npgan.gradcheck.source import Source

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from npgan.console import Console

_WIDE = 140  # columns from which the whole table fits
_LABEL = 30  # columns for the name of a backward
_COLUMNS: list[tuple[str, Literal["left", "right"], bool]] = [  # heading, alignment, shown on narrow consoles too
    ("backward", "left", True),
    ("tensor", "left", True),
    ("shape", "right", False),
    ("method", "left", True),
    ("compared", "left", False),
    ("error", "right", True),
    ("worst at", "right", True),
    ("analytic", "right", False),
    ("numeric", "right", False),
    ("", "left", True),
]
_SHORT = {"complex step": "complex", "central difference": "central"}


@dataclass(frozen=True)
class Report:
    """The results of a run. Printed, it is a table and, after a failure, what to look at first."""

    results: Sequence[Result]
    seed: int
    device: str = ""
    seconds: float = 0.0
    notes: Sequence[str] = ()  # why a wrong backward may have passed

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if not result.passed]

    @property
    def culprits(self) -> list[Result]:
        """The failures of the lowest level that has any: what later levels use is put right first."""
        failures = self.failures
        return [result for result in failures if result.level == failures[0].level]

    def worst(self, method: str, levels: Iterable[str] | None = None) -> float:
        """The largest error under ``method``, in ``levels`` or in all; 0 without any."""
        allowed = None if levels is None else set(levels)
        errors = [r.error for r in self.results if r.method == method and (allowed is None or r.level in allowed)]
        return max(errors, default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers that are not finite become null."""
        return {
            "passed": self.passed,
            "seed": self.seed,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "culprits": sorted({result.op for result in self.culprits}) if self.failures else [],
            "results": [_as_dict(result) for result in self.results],
        }

    def __str__(self) -> str:
        from npgan.console import Console

        text = io.StringIO()
        print_report(self, Console(file=text, width=100, color_system=None, force_jupyter=False), verbose=True)
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def print_report(report: Report, console: Console, verbose: bool = False) -> None:
    """The table, what is to be known about kinks, the verdict, and an explanation of the failures of the lowest level.

    Tensors that pass share a line per check and method unless ``verbose``. Narrow consoles leave columns out.
    """
    console.print(results_table(report.results, console.width, verbose))
    for explanation in explain(diagnose(report)):
        console.print(explanation)
    console.print(_verdict(report))


def results_table(results: Sequence[Result], width: int, verbose: bool) -> Table:
    """A line per check and method, under a heading per level."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, justify, always in _COLUMNS:
        if wide or always:
            first = heading == _COLUMNS[0][0]
            fixed = heading not in ("tensor", "compared")  # what gives way where the console is too narrow
            table.add_column(heading, justify=justify, no_wrap=fixed, min_width=_LABEL if first else None)
    for _, in_level in groupby(results, key=lambda result: result.level):
        level = list(in_level)
        for (op, case), group in groupby(level, key=lambda result: (result.op, result.case)):
            label = [Text(line) for line in _broken_name(op, _LABEL)]
            label += [Text(f"  {case}", style="dim")] if case else []
            rows = _rows(list(group), verbose)
            for position, row in enumerate(rows):
                # The lines of the label go beside the rows; what is left over goes into the last row.
                lines = label[position:] if position == len(rows) - 1 else label[position : position + 1]
                worst = max(row, key=lambda result: result.error if result.passed else math.inf)
                shared = len(row) > 1
                cells: list[str | Text] = [
                    Text("\n").join(lines),
                    _tensors(row),
                    "" if shared else _shape(worst.shape),
                    _SHORT.get(worst.method, worst.method),
                    _compared(row),
                    "" if worst.problem else f"{worst.error:.1e}",
                    _index(worst, wide and shared),
                    "" if worst.problem else f"{worst.analytic:.6g}",
                    "" if worst.problem else f"{worst.numeric:.6g}",
                    Text("ok", style="green") if worst.passed else Text("FAIL", style="bold red"),
                ]
                table.add_row(*(cell for cell, (_, _, always) in zip(cells, _COLUMNS, strict=True) if wide or always))
        table.add_section()
    return table


class Diagnosis(NamedTuple):
    """What is to be said of a function at fault; what there is nothing to say of is empty."""

    op: str
    found: str  # how much of which tensor is wrong, or the exception
    worst: str  # both numbers at the worst place
    hint: str
    where: str
    source: Source | None


def diagnose(report: Report) -> Iterator[Diagnosis]:
    """Of each function at fault."""
    culprits = report.culprits if report.failures else []
    for op in dict.fromkeys(result.op for result in culprits):
        worst = most_telling([result for result in culprits if result.op == op])
        case = f" ({worst.case})" if worst.case else ""
        if worst.problem:
            found, numbers = f"{worst.problem}{case}", ""
        else:
            total = worst.elements + worst.directions
            tensor = f"{worst.tensor}, {_shape(worst.shape)}{case}"
            found = f"{tensor}: {worst.wrong} of {total} wrong by the {worst.method}"
            place = f" at {_index(worst)}" if worst.index else ""
            pair = ("got", "expected") if worst.method == FORMULA else ("analytic", "numeric")
            numbers = f"{pair[0]} {worst.analytic:.9g}, {pair[1]} {worst.numeric:.9g}{place}"
        yield Diagnosis(op, found, numbers, worst.hint.text, worst.where, worst.source)


def explain(diagnoses: Iterable[Diagnosis]) -> Iterator[RenderableType]:
    """For each function at fault: both numbers at the worst place, what the pattern suggests, the formula, the code."""
    from rich.panel import Panel
    from rich.text import Text

    for each in diagnoses:
        text = Text()
        text.append(f"{each.found}\n", style="bold")
        if each.worst:
            text.append(f"worst    {each.worst}\n")
        if each.hint:
            text.append("hint     ").append(f"{each.hint}\n", style="bold yellow")
        if each.where:
            text.append("where    ").append(f"{each.where}\n", style="yellow")
        if each.source:
            _quote(text, each.source)
        text.rstrip()
        yield Panel(text, title=Text(each.op, "bold red"), title_align="left", border_style="red")


def most_telling(failures: Sequence[Result]) -> Result:
    """Of the failures of one function the one to show: one with a pattern; of a network's, the tensor nearest to the loss."""
    telling = [result for result in failures if result.hint.kind not in ("", "other", "factor", "partial-factor")]
    first = (telling or failures)[0]
    alike = [r for r in telling or failures if (r.case, r.method) == (first.case, first.method)]
    one_tensor = [r for r in alike if r.tensor != ALL_PARAMETERS] or alike
    return one_tensor[-1 if first.where else 0]


def _quote(text: Text, source: Source) -> None:
    if source.formula:
        text.append(f"formula  {source.formula}\n")
    text.append(f"source   {source.file}:{source.line}\n")
    for number, line in source.code:
        text.append(f"{number:>7}  ", style="dim").append(f"{line}\n", style="cyan")


def _verdict(report: Report) -> Text:
    from rich.text import Text

    results, failures = report.results, report.failures
    text = Text()
    for note in report.notes:
        text.append(f"Note: {note}.\n", "yellow")
    kinks = [result for result in results if result.shrunk or result.at_kink]
    if kinks:
        shrunk, apart = sum(r.shrunk for r in kinks), sum(r.at_kink for r in kinks)
        text.append(f"Kinks: {shrunk} central differences took a smaller step, {apart} elements set apart.\n", "dim")
    float32: dict[str, float] = {}
    for result in results:
        if result.level == "engines" and "float32" in result.case:
            engine = result.case.partition(",")[0]
            float32[engine] = max(float32.get(engine, 0.0), result.error / ULP)
    if float32:
        errors = ", ".join(f"{case} {ulp:.0f} ulp" for case, ulp in float32.items())
        text.append(
            f"Engines against float64, worst: {errors}; rounding in another order, not another formula.\n", "dim"
        )
    if failures:
        later = len(failures) - len(report.culprits)
        text.append(f"{len(failures)} of {len(results)} comparisons fail", style="bold red")
        if later:
            text.append(f": put right what is explained above first, {later} in later levels use it")
        text.append(".\n")
    else:
        text.append(f"All {len(results)} comparisons pass", style="bold green")
        text.append(f"; worst complex-step error {report.worst(COMPLEX):.1e}.\n")
    text.append(f"seed {report.seed}" + (f" · {report.device}" if report.device else ""), style="dim")
    if report.seconds >= 0.05:
        text.append(f" · {report.seconds:.1f} s", style="dim")
    return text


def _rows(group: list[Result], verbose: bool) -> list[list[Result]]:
    """Which results share a line: those of one method that pass."""
    if verbose or len(group) == 1:
        return [[result] for result in group]
    rows = []
    for _, same in groupby(group, key=lambda result: (result.method, result.passed)):
        together = list(same)
        rows += [together] if together[0].passed else [[result] for result in together]
    return rows


def _tensors(row: list[Result]) -> str:
    names = [result.tensor for result in row]
    return ", ".join(names) if len(names) <= 2 else f"{len(names)} tensors"


def _compared(row: list[Result]) -> str:
    elements, directions = sum(r.elements for r in row), sum(r.directions for r in row)
    parts = [f"{elements:,} element{'s' * (elements != 1)}"] * bool(elements)
    parts += [f"{directions} direction{'s' * (directions != 1)}"] * bool(directions)
    parts += [f"{sum(r.shrunk for r in row)} with a smaller step"] * any(r.shrunk for r in row)
    parts += [f"{sum(r.at_kink for r in row)} set apart"] * any(r.at_kink for r in row)
    return ", ".join(parts)


def _index(result: Result, with_tensor: bool = False) -> str:
    if result.index:
        place = "[" + ", ".join(f"{i}" for i in result.index) + "]"
    else:
        place = "" if not result.shape else "direction"
    return f"{result.tensor} {place}" if with_tensor else place


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{size}" for size in shape) if shape else "scalar"


def _broken_name(name: str, width: int) -> list[str]:
    """The name in lines of at most ``width`` where it has an underscore or a dot to break after."""
    if len(name) <= width:
        return [name]
    cut = max(name.rfind("_", 0, width), name.rfind(".", 0, width)) + 1
    return [name] if cut == 0 else [name[:cut], *_broken_name(name[cut:], width)]


def _as_dict(result: Result) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    values: dict[str, Any] = {name: getattr(result, name) for name in ("level", "op", "case", "tensor", "method")}
    values |= {name: list(getattr(result, name)) for name in ("shape", "index")}
    values |= {name: number(getattr(result, name)) for name in ("error", "tolerance", "analytic", "numeric")}
    values |= {
        name: getattr(result, name) for name in ("elements", "directions", "wrong", "shrunk", "at_kink", "passed")
    }
    if not result.passed:
        values |= {"problem": result.problem, "hint": result.hint._asdict(), "where": result.where}
        values["source"] = result.source._asdict() if result.source else None
    return values
