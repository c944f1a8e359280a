"""``npgan inspect``: a step of a run, or the first of a new one, on the terminal and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rich.rule import Rule
from rich.text import Text

from npgan.backend import select
from npgan.config import PRESETS, TrainConfig
from npgan.console import Console
from npgan.data.batches import iterations_per_epoch
from npgan.data.mnist import load_dataset
from npgan.engines import Compute, choose
from npgan.errors import InputError, one_line
from npgan.files import named_output
from npgan.gan import new_state
from npgan.inspector.history import (
    RunHistory,
    charts,
    checkpoint_at,
    history_of,
    images_of,
    next_step,
    snapshot,
    step_of,
)
from npgan.inspector.over_time import comparison_table, print_charts
from npgan.inspector.page import Comparison, page
from npgan.inspector.proof import prove
from npgan.inspector.terminal import print_screen, print_step, print_toy
from npgan.inspector.trace import StepTrace
from npgan.runs.folder import RunFolder
from npgan.runs.owned import is_of_a_run

_MORE = "--full shows all operations, --summary a line of each, --only D.3 one layer, --html FILE a page"


class NewRun(NamedTuple):
    """What is inspected where no run is named."""

    dataset: str = "auto"
    data_dir: Path | None = None
    seed: int = 0
    preset: str | None = None


class _Inspected(NamedTuple):
    title: str
    trace: StepTrace
    images: int  # in the training set
    history: RunHistory | None


def inspect(
    run_path: Path | None,
    *,
    step: int | None,
    compare: str | None,
    toy: bool,
    html: Path | None,
    full: bool,
    summary: bool,
    only: str | None,
    new: NewRun,
) -> int:
    """Returns 0 when every gradient is right, else 1.

    Prints a screen of the step; with ``full``, ``summary`` or ``only`` what these say. Without ``run_path`` it is a step of a
    ``new`` run, trained for ``step`` iterations first. ``compare``: another run, or another step of this one.
    Raises InputError for a run, a step or a layer that does not exist.
    """
    console = Console()
    if toy:
        _refuse_with_toy(
            run_path=run_path,
            step=step,
            compare=compare,
            html=html,
            only=only,
            summary=summary or None,
            full=full or None,
            preset=new.preset,
        )
        print_toy(console)
        return 0
    if full + summary + (only is not None) > 1 and not (summary and only is not None):
        raise InputError("--full shows all that --summary and --only do: leave them out")
    screen = not (full or summary or only is not None)
    if run_path is None and compare is not None and not compare.isdecimal():
        raise InputError(f"--compare {compare}: two runs are compared as in npgan inspect RUN --compare OTHER")
    if run_path is not None and new.preset is not None:
        raise InputError("--preset is of a new run: leave it or RUN out")
    if step is not None and step < 0:
        raise InputError(f"--step must be at least 0, got {step}")
    if html is not None and not html.parent.is_dir():
        raise InputError(f"--html {html}: the folder {html.parent} does not exist")
    if html is not None and is_of_a_run(html):
        raise InputError(f"--html {html}: is a file of a run: name another one")
    with console.status("taking a step apart …"):
        seen = (
            _new(new, step or 0, console)
            if run_path is None
            else _of_run(run_path, step, new.data_dir, with_history=html is not None or not screen)
        )
        layers = list(dict.fromkeys(op.key for op in seen.trace.ops))
        if only is not None and only not in layers:
            raise InputError(f"--only {only}: there is no such layer; there are {', '.join(layers)}")
        other = None if compare is None else _other(run_path, compare, new, console)
        verdicts = prove(seen.trace)
    console.print(Text(seen.title, "bold"))
    if screen:
        print_screen(seen.trace, verdicts, console)
    else:
        print_step(seen.trace, verdicts, console, summary, only)
    comparing = None
    if other is not None:
        shots = snapshot(seen.trace, seen.images), snapshot(other.trace, other.images)
        comparing = Comparison((seen.title, other.title), shots, other.history)
        console.print()
        console.print(Rule(Text("A and B", "bold"), align="left", style="bold"))
        console.print(f"A: {seen.title}\nB: {other.title}")
        console.print(comparison_table(*shots))
    if seen.history is not None and only is None and not screen:
        console.print()
        console.print(Rule(Text(f"{seen.history.name} over time", "bold"), align="left", style="bold"))
        print_charts(charts(seen.history), console)
    if html is not None:
        try:
            text = page(seen.title, seen.trace, verdicts, seen.history, comparing)
            with named_output(html) as file:
                file.write(text.encode(errors="replace"))
        except OSError as error:
            raise InputError(f"--html {html}: cannot be written: {error.strerror}") from None
        console.print(f"\npage  {html}")
    elif screen:
        console.print(Text(_MORE + ("; --full and --summary also the run over time" if run_path else ""), style="dim"))
    return 0 if all(verdict.passed for verdict in verdicts.values()) else 1


def _new(new: NewRun, step: int, console: Console) -> _Inspected:
    """The step after ``step`` iterations of a run that nobody keeps, trained as ``npgan train`` would."""
    settings: dict[str, Any] = {"seed": new.seed, **PRESETS.get(new.preset or "", {})}
    TrainConfig(**settings)  # a bad seed is told before anything is loaded
    data = load_dataset(new.dataset, new.data_dir, report=console.print, labels=False)
    config = TrainConfig(dataset=data.name, **settings)
    state = new_state(config, backend := select("numpy"))
    if step > (most := config.epochs * iterations_per_epoch(len(data.images), config.batch_size)):
        raise InputError(f"--step {step}: a run of {config.epochs} epochs has {most:,} iterations")
    if step:
        console.print(f"training {step:,} iterations first", style="dim")
        choose(Compute("numpy"), backend, console.print).start(state, data.images, config).run(step)
    trace = next_step(state, data.images, config)
    which = f"Step {step + 1:,}" if step else "First step"
    preset = f", {new.preset}" if new.preset else ""
    return _Inspected(f"{which} of a new run on {data.name}{preset}, seed {new.seed}", trace, len(data.images), None)


def _of_run(path: Path, step: int | None, data_dir: Path | None, with_history: bool = True) -> _Inspected:
    run = RunFolder.open_existing(path)
    checkpoint = checkpoint_at(run, step)
    images = images_of(checkpoint, data_dir)
    trace = step_of(checkpoint, images)
    history = history_of(run, images, checkpoint, trace) if with_history else None
    return _Inspected(one_line(f"{path}, the step after {checkpoint.step:,}"), trace, len(images), history)


def _other(path: Path | None, compare: str, new: NewRun, console: Console) -> _Inspected:
    """``compare`` is the number of a step of the run at ``path``, or of the new one; or another run."""
    data_dir = new.data_dir
    if path is None:
        return _new(new, int(compare), console)
    if compare.isdecimal() and not Path(compare).is_dir():
        return _of_run(path, int(compare), data_dir, with_history=False)
    return _of_run(Path(compare), None, data_dir)


def _refuse_with_toy(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            flag = "RUN" if name == "run_path" else f"--{name}"
            raise InputError(f"--toy has its own network and its own numbers: leave {flag} out")
