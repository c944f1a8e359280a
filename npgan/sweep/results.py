"""The runs of a sweep as they ended, by setting: who is alive, and the spread of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from npgan.evaluation.picture import read_history
from npgan.runs.folder import RunFolder
from npgan.runs.health import DEAD
from npgan.sweep.examine import Outcome
from npgan.sweep.plan import Plan, Run

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Of a figure over the runs that have it."""

    mean: float
    deviation: float | None  # None for one run
    of: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.deviation is None else f"{self.mean:.1f} ± {self.deviation:.1f}"


@dataclass(frozen=True)
class RunReport:
    """One run, as it ended."""

    run: Run
    outcome: Outcome
    metrics: list[dict[str, Any]]  # of its epochs
    evaluation: dict[str, Any] | None  # the last one made while it trained

    @property
    def died_in_epoch(self) -> int | None:
        """The first epoch after which G had no gradient any more, to the end; None for a run that lives or was not examined."""
        if self.outcome.alive or not self.outcome.ended:
            return None
        lived = [line["epoch"] for line in self.metrics if line["grad_norm_g"] >= DEAD]
        return int(max(lived, default=1))

    def to_dict(self, out: Path) -> dict[str, Any]:
        last = self.metrics[-1] if self.metrics else {}
        return {
            "setting": self.run.setting,
            "seed": self.run.seed,
            "folder": self.run.folder.relative_to(out.resolve()).as_posix(),
            **self.outcome.to_dict(),
            "alive": self.outcome.alive,
            "died_in_epoch": self.died_in_epoch,
            "epochs": last.get("epoch", 0),
            "loss_d": last.get("loss_d"),
            "loss_g": last.get("loss_g"),
            "evaluation": self.evaluation,
        }


@dataclass(frozen=True)
class Setting:
    """All runs of a setting that have ended."""

    name: str
    fields: dict[str, Any]
    runs: list[RunReport]

    @property
    def alive(self) -> int:
        return sum(each.outcome.alive for each in self.runs)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of the survival, which also holds for few runs and near 0 and 1. (0, 1) without runs."""
        from scipy.stats import binomtest

        if not self.runs:
            return 0.0, 1.0
        found = binomtest(self.alive, len(self.runs)).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    def spread(self, figure: str) -> Spread | None:
        """Of a figure of the evaluation, over all runs that were evaluated, the dead among them."""
        values = [each.evaluation[figure] for each in self.runs if each.evaluation]
        if not values:
            return None
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def to_dict(self) -> dict[str, Any]:
        spreads = {
            figure: spread._asdict() if (spread := self.spread(figure)) else None for figure in ("frechet", "parzen")
        }
        return {
            "name": self.name,
            "fields": self.fields,
            "runs": len(self.runs),
            "alive": self.alive,
            "survival": self.alive / len(self.runs) if self.runs else None,
            "wilson": self.interval,
            **spreads,
        }


def settings_of(plan: Plan, outcomes: Mapping[Run, Outcome]) -> list[Setting]:
    """By setting what has ended, in the plan's order."""
    ended = {run: _report(run, outcome) for run, outcome in outcomes.items() if outcome.ended}
    return [
        Setting(name, own, [each for run, each in ended.items() if run.setting == name])
        for name, own in plan.settings.items()
    ]


def _report(run: Run, outcome: Outcome) -> RunReport:
    folder = RunFolder(run.folder)
    evaluations = read_history(folder)
    return RunReport(run, outcome, folder.read_metrics(), evaluations[-1] if evaluations else None)
