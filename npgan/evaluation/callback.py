"""Evaluation while a run trains: every few epochs the figures of its samples, a line in evaluation.jsonl, and the curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgan.backend import Backend
from npgan.data.mnist import load_dataset
from npgan.evaluation.figures import Figures, Judge
from npgan.evaluation.picture import HISTORY_FILE, history_lines, save_curves
from npgan.evaluation.sources import from_generator
from npgan.files import replacing
from npgan.gan import TrainState
from npgan.runs.folder import RunFolder
from npgan.runs.lines import Series

SAMPLES = 10_000
PICTURE = "evaluation-curves.png"


class FiguresObserver:
    """Measures the generator of one run. Every evaluation draws from the same noise."""

    def __init__(
        self,
        run: RunFolder,
        dataset: str,
        data_dir: Path | None,
        backend: Backend,
        step: int,
        report: Callable[[str], None],
    ) -> None:
        """Loads the test images and trains the classifier where it is not cached; writes nothing to the run.

        ``step``: of the run now. The first evaluation drops those after it.
        """
        train, test = (load_dataset(dataset, data_dir, split, report) for split in ("train", "test"))
        self._judge = Judge(train, test, backend, report, report)
        self._run, self._backend, self._step = run, backend, step
        self._history: Series | None = None

    def observe(self, state: TrainState, epoch: int) -> str:
        """Measures and writes. Returns a line that says what came out. ``state`` is left as it is."""
        images = from_generator(state.sampler, SAMPLES, 0, self._backend)
        figures, _ = self._judge.figures(images, with_memory=False)
        if self._history is None:
            self._history = self._cut_history()
        line = _line(figures, state.step, epoch)
        with open(self._run.path / HISTORY_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._history.append(line)
        save_curves(self._run.path / PICTURE, self._run, self._history.remembered())
        parzen = figures.parzen
        edge = ", at the edge of the grid" if parzen.at_edge else ""
        return (
            f"evaluation after epoch {epoch}: Parzen {parzen.mean:.1f} ± {parzen.standard_error:.1f} nats "
            f"(σ {parzen.sigma:.3f}{edge}), Fréchet {figures.frechet:.2f}, "
            f"precision {figures.precision_recall.precision:.3f}, recall {figures.precision_recall.recall:.3f}, "
            f"density {figures.density_coverage.density:.3f}, coverage {figures.density_coverage.coverage:.3f}, "
            f"curves in {self._run.path / PICTURE}"
        )

    def _cut_history(self) -> Series:
        kept = Series()
        with replacing(self._run.path / HISTORY_FILE) as file:
            for line, scores in history_lines(self._run):
                if scores["step"] <= self._step:
                    file.write(line)
                    kept.append(scores)
        return kept


def _line(figures: Figures, step: int, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "step": step,
        "n": SAMPLES,
        "parzen": figures.parzen.mean,
        "parzen_standard_error": figures.parzen.standard_error,
        "sigma": figures.parzen.sigma,
        "frechet": figures.frechet,
        "precision": figures.precision_recall.precision,
        "recall": figures.precision_recall.recall,
        **figures.density_coverage._asdict(),
        "score": figures.classes.score,
        "kl_to_uniform": figures.classes.kl_to_uniform,
        "sure": figures.classes.sure,
        "histogram": list(figures.classes.histogram),
    }
