"""What a sweep shows: a line a run, as lines or as a table that changes."""

from __future__ import annotations

import io
import json
from pathlib import Path

from npgan.console import Console
from npgan.runs.folder import LOCK_FILE
from npgan.sweep.display import Display, Progress
from npgan.sweep.examine import Outcome
from npgan.sweep.plan import make_plan, runs_of


def _progress(out: Path) -> list[Progress]:
    runs = runs_of(make_plan(None, {"epochs": 4}, ["loss=bce,bce-logits"], "0-9"), "digits", out)
    return [Progress(run) for run in runs]


def _train(progress: Progress, epoch: int) -> None:
    progress.run.folder.mkdir(parents=True, exist_ok=True)
    (progress.run.folder / LOCK_FILE).write_text("process 7 on kiwi\n")
    names = ("loss_d", "loss_g", "d_real", "d_fake", "grad_norm_d", "grad_norm_g", "seconds", "images_per_second")
    line = {"epoch": epoch, "step": epoch, **dict.fromkeys(names, 0.5)}
    with open(progress.run.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def test_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    progress, shown = _progress(tmp_path), io.StringIO()
    with Display(progress, Console(file=shown, width=200), quiet=False) as display:
        display.show()
        assert shown.getvalue() == ""  # nothing has begun
        _train(progress[0], 1)
        display.show()
        display.show()  # nothing is new
        progress[0].outcome = Outcome("finished", gradient=1e-9, dead="discriminator: it")
        progress[1].outcome = Outcome("failed", "no space\nleft")
        display.show()
    first, dead, failed = shown.getvalue().splitlines()
    assert first.startswith("0/20 runs  0 s  ETA ") and first.endswith(
        "loss=bce, seed 0  epoch 1/4  loss D 0.500 G 0.500  trains"
    )
    assert dead.startswith("2/20 runs") and dead.endswith("G is dead: discriminator: it")
    assert failed.endswith("loss=bce-logits, seed 0  epoch 0/4  failed: no space left")


def test_a_table_on_a_terminal_shows_what_fits_and_what_trains_first(tmp_path: Path) -> None:
    progress, shown = _progress(tmp_path), io.StringIO()
    _train(progress[15], 2)
    console = Console(file=shown, width=100, height=10, force_terminal=True, color_system=None)
    with Display(progress, console, quiet=False) as display:
        display.show()
    text = shown.getvalue()
    assert "and 13 more" in text and "0/20 runs" in text
    assert text.index("loss=bce-logits, seed 7") < text.index("loss=bce, seed 0")
