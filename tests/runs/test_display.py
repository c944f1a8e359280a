"""Progress, previews and messages of a training run, on terminals and in log files."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npgan.console import Console
from npgan.runs.display import TrainingDisplay

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def random_images(count: int) -> Any:
    return np.random.default_rng(7).uniform(-1, 1, (count, 784))


def visible_lines(text: str) -> list[str]:
    return re.split(r"[\r\n]+", ESCAPE.sub("", text))


class Clock:
    """A clock that tests move by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=80, _environ={})


def terminal_console(width: int = 80, **options: Any) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, color_system="truecolor", _environ={}, **options
    )


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def metrics(epoch: int, iterations_per_epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch, "step": epoch * iterations_per_epoch, "loss_d": 0.5123, "loss_g": 1.2034, "d_real": 0.714,
        "d_fake": 0.306, "grad_norm_d": 1.0, "grad_norm_g": 2.0, "seconds": 9.0, "images_per_second": 6700.0,
    }  # fmt: skip


def test_plain_epoch_line_has_every_field() -> None:
    console, clock = plain_console(), Clock()
    with TrainingDisplay(30, 469, 0, console=console, clock=clock) as display:
        clock.now += 10.0
        display.epoch(metrics(12, 469))
    assert printed(console) == (
        "epoch 12/30  step 5628  loss D 0.512  loss G 1.203  D(x) 0.71  D(G(z)) 0.31  563 it/s  ETA 0:15\n"
    )


def test_plain_lines_of_fast_epochs_are_throttled_but_first_and_last_are_there() -> None:
    console, clock = plain_console(), Clock()
    with TrainingDisplay(1000, 10, 0, console=console, clock=clock) as display:
        for epoch in range(1, 1001):
            clock.now += 0.01
            display.epoch(metrics(epoch, 10))
        lines = printed(console).splitlines()  # the last epoch is told at once, not on leaving
    assert printed(console).splitlines() == lines
    epochs = [int(line.split("/")[0].removeprefix("epoch ")) for line in lines]
    assert epochs[:10] == list(range(1, 11)) and epochs[10] in {110, 111}
    assert 18 <= len(epochs) <= 21
    assert epochs[-1] == 1000 and len(set(epochs)) == len(epochs)


def test_a_line_that_waits_stands_before_what_came_after_it() -> None:
    console, clock = plain_console(), Clock()
    with TrainingDisplay(1000, 10, 0, console=console, clock=clock) as display:
        for epoch in range(1, 51):
            clock.now += 0.01
            display.epoch(metrics(epoch, 10))
        display.preview(random_images(4), 50, "a.png")
        display.epoch(metrics(51, 10))
        display.warn("D saturated")
    lines = [line for line in printed(console).splitlines() if "epoch" in line or "warning" in line]
    assert lines[10].startswith("epoch 50/1000 ") and lines[11] == "samples after epoch 50: a.png"
    assert lines[12].startswith("epoch 51/1000 ") and lines[13] == "warning: D saturated"


def test_the_header_comes_in_parts_with_one_column_of_names() -> None:
    for console in (plain_console(), terminal_console()):
        display = TrainingDisplay(2, 10, 0, console=console)
        display.header([("checkpoints", "ALL")])
        display.header([("gemm", "BLAS")])
        first, second, *_ = visible_lines(printed(console))
        assert first.index("ALL") == second.index("BLAS")


def test_on_a_terminal_what_is_prepared_has_a_bar_that_goes_away() -> None:
    console, reported = terminal_console(), []
    with TrainingDisplay(2, 10, 0, console=console).preparing(reported.append) as (say, progress):
        progress(0.5)
        assert not printed(console)
        say("compiling [1]")
        assert re.search(r"━{10}\S* ?━* compiling \[1\] +0:00:00", visible_lines(printed(console))[0])
    shown = printed(console)
    say("too late")
    assert printed(console) == shown and shown.endswith("\x1b[2K") and shown.rindex("\x1b[?25h") > 0
    assert not reported


def test_elsewhere_it_has_one_line_and_where_nothing_is_said_there_is_none() -> None:
    console, reported = plain_console(), []
    with TrainingDisplay(2, 10, 0, console=console).preparing(reported.append) as (say, progress):
        progress(0.5)
        say("compiling")
    assert (reported, printed(console)) == (["compiling"], "")
    console = terminal_console()
    with TrainingDisplay(2, 10, 0, console=console).preparing(reported.append):
        pass
    assert (reported, printed(console)) == (["compiling"], "")


def test_the_time_of_a_run_begins_with_its_iterations() -> None:
    console, clock = plain_console(), Clock()
    display = TrainingDisplay(1, 10, 0, console=console, clock=clock)
    clock.now += 20.0  # of compiling
    with display:
        clock.now += 5.0
        display.step(10)
        display.done()
    assert printed(console) == "trained: 10 iterations in 0:05 (2.00 it/s), now at step 10 of 10\n"


def test_an_interrupted_plain_run_prints_the_last_epoch() -> None:
    console, clock = plain_console(), Clock()
    with pytest.raises(KeyboardInterrupt), TrainingDisplay(1000, 10, 0, console=console, clock=clock) as display:
        for epoch in range(1, 15):
            clock.now += 0.01
            display.epoch(metrics(epoch, 10))
        raise KeyboardInterrupt
    assert printed(console).splitlines()[-1].startswith("epoch 14/1000  step 140 ")


def test_a_slow_plain_epoch_is_not_silent() -> None:
    console, clock = plain_console(), Clock()
    with TrainingDisplay(2, 469, 0, console=console, clock=clock) as display:
        for step in range(1, 101):
            clock.now += 1.0
            display.step(step, 0.7, 0.8)
    lines = printed(console).splitlines()
    assert lines[0] == "epoch 1/2  step 30  loss D 0.700  loss G 0.800  1.00 it/s  ETA 15:08"
    assert len(lines) == 3


def test_quiet_prints_warnings_and_nothing_else() -> None:
    for console in (plain_console(), terminal_console()):
        clock = Clock()
        with TrainingDisplay(2, 10, 0, console=console, quiet=True, clock=clock) as display:
            display.header([("backend", "NumPy")])
            for step in range(1, 21):
                clock.now += 40.0
                display.step(step, 0.5, 0.6)
            display.epoch(metrics(2, 10))
            display.preview(random_images(4), 2, "samples.png")
            display.note("saved")
            display.curves([metrics(1, 10), metrics(2, 10)])
            display.done([("run", "runs/a")])
            assert printed(console) == ""
            display.warn("disk almost full")
        assert ESCAPE.sub("", printed(console)) == "warning: disk almost full\n"


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("seconds", [0.0003, 0.02, 4.0])
def test_the_bar_never_outgrows_the_terminal(width: int, seconds: float) -> None:
    console, clock = terminal_console(width), Clock()
    with TrainingDisplay(1000, 469, 0, console=console, clock=clock) as display:
        display.header([("data", "MNIST"), ("run", "runs/" + 30 * "long/")])
        for step in range(1, 469 * 100, 97):
            clock.now += seconds * 97
            display.step(step, 12.345, 67.891)
        display.preview(random_images(4), 100, "runs/a.png")
    lines = visible_lines(printed(console))
    assert max(len(line) for line in lines) <= width
    if width >= 80:
        bars = [line for line in lines if "it/s" in line]
        assert all(re.search(r"epoch \d+/1000 .+ loss D .+ G .+ it/s .+ ETA .+", line) for line in bars)


def test_a_day_long_run_still_fits_eighty_columns() -> None:
    console, clock = terminal_console(), Clock()
    with TrainingDisplay(1000, 469, 469 * 500, console=console, clock=clock) as display:
        for step in range(469 * 500, 469 * 998, 469):
            clock.now += 93.8
            display.step(step, 0.5, 1.25)
    last = visible_lines(printed(console))[-2]
    assert re.fullmatch(r"epoch 998/1000 .{4,} loss D 0.500 G 1.250 5.00 it/s 12:58:32, ETA 4:41", last)


def test_redraws_are_throttled() -> None:
    console, clock = terminal_console(), Clock()
    with TrainingDisplay(10, 10_000, 0, console=console, clock=clock) as display:
        before = printed(console).count("it/s")
        for step in range(1, 10_001):
            clock.now += 0.0001
            display.step(step, 0.5, 0.6)
        assert printed(console).count("it/s") - before <= 10


def test_an_interrupt_gives_the_cursor_and_the_streams_back() -> None:
    console = terminal_console()
    stdout, stderr = sys.stdout, sys.stderr
    with pytest.raises(KeyboardInterrupt), TrainingDisplay(10, 10, 0, console=console) as display:
        assert printed(console).rindex("\x1b[?25l") >= 0  # cursor hidden
        display.step(1, 0.5, 0.6)
        raise KeyboardInterrupt
    output = printed(console)
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert (sys.stdout, sys.stderr) == (stdout, stderr)


def test_messages_and_previews_scroll_above_the_bar() -> None:
    console = terminal_console()
    with TrainingDisplay(10, 10, 0, console=console) as display:
        display.note("checkpoint saved [42]")
        display.preview(random_images(9), 5, "runs/a/samples/epoch-00005.png")
    lines = visible_lines(printed(console))
    caption = lines.index("samples after epoch 5: runs/a/samples/epoch-00005.png")
    assert lines.index("checkpoint saved [42]") < caption
    blocks = [index for index, line in enumerate(lines) if "▀" in line]
    assert blocks[0] > caption and len(blocks) == 28  # two rows of two samples
    assert lines[blocks[-1] + 1].startswith("epoch 1/10 ")


def test_a_log_file_gets_readable_samples_curves_and_summary() -> None:
    console, clock = plain_console(), Clock()
    with TrainingDisplay(2, 10, 0, console=console, clock=clock) as display:
        display.header([("data", "MNIST"), ("precision", "fp32 [exact]")])
        display.preview(random_images(4), 1, "runs/a.png")
        display.curves([metrics(1, 10), metrics(2, 10)])
        clock.now += 4.0
        display.step(20)
        display.done([("run", "runs/a")])
    output = printed(console)
    assert output.isascii() and "\x1b" not in output
    assert output.startswith("data:      MNIST\nprecision: fp32 [exact]\nsamples after epoch 1: runs/a.png\n")
    assert "mean loss per epoch:  d discriminator  g generator" in output
    assert output.endswith("trained: 20 iterations in 0:04 (5.00 it/s), now at step 20 of 20\nrun:     runs/a\n")


def test_previews_have_the_colors_of_their_colormap() -> None:
    for colormap, code in (("inferno", "38;2;252;255;164"), ("gray", "38;2;255;255;255")):
        console = terminal_console()
        TrainingDisplay(2, 10, 0, console=console, colormap=colormap).preview(np.ones((4, 784)), 1, "a.png")
        assert code in printed(console)


def test_no_color_draws_the_ramp() -> None:
    console = terminal_console(no_color=True)
    TrainingDisplay(2, 10, 0, console=console).preview(np.ones((4, 784)), 1, "a.png")
    assert "@" * 28 in printed(console) and "▀" not in printed(console)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    console = Console(
        file=io.TextIOWrapper(raw, encoding="ascii"),
        force_terminal=True,
        color_system="truecolor",
        width=80,
        _environ={},
    )
    with TrainingDisplay(2, 10, 0, console=console) as display:
        display.header([("run", "runs/café")])
        display.step(3, 0.5, 0.6)
        display.preview(random_images(4), 1, "runs/café/a.png")
        display.curves([metrics(1, 10)])
    console.file.flush()
    assert b"runs/caf?/a.png" in raw.getvalue()


def test_without_plotext_training_goes_on_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotext", None)
    console = plain_console()
    with TrainingDisplay(2, 10, 0, console=console) as display:
        display.preview(random_images(4), 1, "a.png")
        display.preview(random_images(4), 2, "b.png")
        display.curves([metrics(1, 10)])
        display.curves([metrics(1, 10)])
    assert printed(console).count("warning: no curves in the terminal: plotext is not installed") == 1
    assert "samples after epoch 2: b.png\n" in printed(console)
    assert "@" in printed(console)  # only the curves need it


def test_importing_the_display_loads_no_heavy_library() -> None:
    code = "import sys, npgan.runs.display; print([m for m in ('rich', 'plotext', 'PIL') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
