"""A step on the terminal: every operation in full, or a line each, and the G step's gradient as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from npgan.inspector.figures import number, quantity, shape_text
from npgan.inspector.proof import METHOD, Verdict
from npgan.inspector.toy import TOY_INTRODUCTION, check_toy, matrix_lines, toy_sections, verdict_text
from npgan.inspector.trace import D_STEP, Op, StepTrace

WIDE = 120  # columns from which an operation's words stand beside its numbers
_SIDE = 28
_RAMP = " .:-=+*#%@"

INTRODUCTION = {
    "D step": "D learns to tell real from fake: the loss is taken over real rows (target 1) and fakes (target 0), and its "
    "gradient ends in D's own weights.",
    "G step": "G learns to make the updated D say “real”: the gradient goes back through D, whose weights it leaves alone, "
    "into the pixels and from there into G's weights.",
}


def print_step(
    trace: StepTrace, verdicts: dict[str, Verdict], console: Console, summary: bool = False, only: str | None = None
) -> None:
    """All of a step. ``summary``: a line for each operation. ``only``: a layer such as "D.3", and nothing else."""
    numbered = [(place, op) for place, op in enumerate(trace.ops, 1) if only in (None, op.key)]
    if only is None:
        console.print(headline(trace))
    for step, in_step in groupby(numbered, key=lambda pair: pair[1].step):
        console.print()
        console.print(Rule(f"[bold]{step}[/]", style="bold", align="left"))
        if only is None:
            console.print(Text(INTRODUCTION[step], style="dim"))
        if summary:
            console.print(_summary(list(in_step), verdicts, console.width))
            continue
        for part, in_part in groupby(in_step, key=lambda pair: pair[1].part):
            console.print()
            console.print(Text(f"{step} · {part}", style="bold cyan"))
            for place, op in in_part:
                console.print()
                console.print(_block(place, op, verdicts, console.width))
    if only is None:
        console.print()
        console.print(Rule("[bold]Updates[/]", style="bold", align="left"))
        console.print(updates_table(trace, verdicts))
        console.print()
        console.print(Rule("[bold]∂L/∂pixels: what D wants changed[/]", style="bold", align="left"))
        print_pixels(trace, verdicts, console)
        console.print()
        console.print(verdict_line(verdicts))
        console.print(Text(METHOD, style="dim"))


def headline(trace: StepTrace) -> Text:
    d_real, d_fake = split_probabilities(trace)
    work, moved = sum(op.flops for op in trace.ops), sum(op.bytes for op in trace.ops)
    text = Text(f"Iteration {trace.number:,}", style="bold")
    text.append(
        f": {len(trace.ops)} operations, {quantity(work)}FLOP, at least {quantity(moved)}B moved\n"
        f"D step  loss {trace.loss_d:.4f}   D(real) {d_real:.3f}   D(fake) {d_fake:.3f}   D right about {trace.accuracy:.1%}\n"
        f"G step  loss {trace.loss_g:.4f}   D(fake) {float(np.mean(trace.p_g)):.3f}, after D's update",
        style="not bold",
    )
    return text


def split_probabilities(trace: StepTrace) -> tuple[float, float]:
    """D's mean probability over the real and the fake rows of the D step."""
    b = len(trace.p_d) // 2
    return float(np.mean(trace.p_d[:b])), float(np.mean(trace.p_d[b:]))


def print_toy(console: Console) -> None:
    """The pencil-and-paper step: matrices in full, and a line for every element."""
    console.print(Text("A step with pencil and paper", style="bold"))
    console.print(Text(TOY_INTRODUCTION, style="dim"))
    for section in toy_sections():
        console.print()
        console.print(Text(section.title, style="bold cyan"))
        console.print(Text(f"{section.source.file}:{section.source.line}", style="dim"))
        console.print(Text(section.source.formula, style="italic"))
        for name, matrix in section.matrices.items():
            console.print(Text("\n".join(matrix_lines(name, matrix)), style="bold"))
        console.print(Text("\n".join(section.lines)))
        if section.note:
            console.print(Text(section.note, style="yellow"))
    console.print()
    console.print(Text(verdict_text(check_toy()), style="bold green"))


def _block(place: int, op: Op, verdicts: dict[str, Verdict], width: int) -> RenderableType:
    """One operation: words, and a table of its tensors' statistics, beside or below them."""
    words = Text()
    words.append(f"{place:>2}  ", style="dim").append(op.where, style="bold")
    words.append(f"   {op.name}", style="cyan").append(f"   {op.source.file}:{op.source.line}\n", style="dim")
    words.append(f"{op.source.formula}\n", style="italic")
    words.append(f"{work_text(op)}\n")
    if op.why:
        words.append(f"why: {op.why}\n", style="dim")
    if op.cached:
        words.append(f"keeps {op.cached} for backward: {op.cached_why}\n", style="yellow")
    for name, share in op.shares.items():
        words.append(f"{share_text(name, share)}\n", style="magenta")
    for verdict in verdicts_of(op, verdicts):
        words.append_text(verdict).append("\n")
    words.rstrip()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("", style="bold", min_width=8)
    table.add_column("shape", min_width=11)
    for heading in ("mean", "std", "min", "max", "norm"):
        table.add_column(heading, justify="right", min_width=9)
    for name, array in op.tensors.items():
        numbers = [number(value) for value in op.stats[name]] if name in op.stats else []
        table.add_row(name, shape_text(array), *numbers)
    head, *lines = words.split("\n")
    rest = Text("\n").join(lines)
    if width < WIDE:
        return Group(head, Padding(rest, (0, 0, 0, 4)), Padding(table, (0, 0, 0, 4)))
    grid = Table.grid(padding=(0, 3, 0, 0), expand=True)
    grid.add_column(width=4)
    grid.add_column(ratio=1)
    grid.add_column(width=80)
    grid.add_row("", rest, table)
    return Group(head, grid)


def work_text(op: Op) -> str:
    if not op.flops:
        return "hands its input on: no arithmetic"
    return f"{quantity(op.flops)}FLOP on {quantity(op.bytes)}B: {op.flops / op.bytes:.2g} FLOP per byte"


def share_text(name: str, share: float) -> str:
    meaning = {
        "negative slope": "of the units are on the negative slope",
        "saturated": "of the units are saturated",
        "kept": "of the elements are kept by the mask",
    }
    return f"{share:.1%} {meaning[name]}"


def verdicts_of(op: Op, verdicts: dict[str, Verdict]) -> Iterator[Text]:
    """What the gradient checker says of the operation, and of the tensors that it wrote in this step."""
    if op.name in verdicts and op.name.startswith("ops."):
        yield _verdict(op.name.removeprefix("ops."), verdicts[op.name])
    if op.name == "ops.dense_backward_params":
        for name in ("weight", "bias"):
            yield _verdict(f"this d{name}", verdicts[f"{op.key}.{name}"])


def _verdict(name: str, verdict: Verdict) -> Text:
    text = Text()
    text.append("✓ right: " if verdict.passed else "✗ WRONG: ", style="green" if verdict.passed else "bold red")
    return text.append(f"{name}, error {verdict.error:.1e}, {verdict.text}", style="dim")


def _summary(numbered: Sequence[tuple[int, Op]], verdicts: dict[str, Verdict], width: int) -> Table:
    wide = width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim")
    table.add_column("where", no_wrap=True, style="bold")
    table.add_column("operation", no_wrap=True, style="cyan", max_width=30 if wide else 22)
    if wide:
        table.add_column("source", no_wrap=True, style="dim")
        table.add_column("result", no_wrap=True)
    table.add_column("FLOP", justify="right", no_wrap=True)
    table.add_column("norm", justify="right", no_wrap=True)
    if wide:
        table.add_column("share", no_wrap=True)
    table.add_column("", no_wrap=True)
    for place, op in numbered:
        name, result = list(op.tensors.items())[-1]
        if op.name == "ops.dense_backward_params":
            name, result = "dweight", op.tensors["dweight"]
        row: list[str | Text] = [str(place), op.where, op.name.partition(".")[2]]
        row += [f"{op.source.file}:{op.source.line}", f"{name} {shape_text(result)}"] if wide else []
        row += [quantity(op.flops) if op.flops else "–", number(op.stats[name].norm)]
        row += [", ".join(f"{share:.0%} {name}" for name, share in op.shares.items())] if wide else []
        passed = [text.plain.startswith("✓") for text in verdicts_of(op, verdicts)]
        mark = Text("✓", "green") if all(passed) else Text("✗", "bold red")
        table.add_row(*row, mark if passed else "")
    return table


def updates_table(trace: StepTrace, verdicts: dict[str, Verdict]) -> Table:
    """What the optimiser did to each tensor."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("tensor", style="bold")
    for heading in ("‖gradient‖", "‖weight‖", "‖update‖", "update/weight"):
        table.add_column(heading, justify="right")
    table.add_column("gradient", justify="left")
    for update in trace.updates:
        ratio = "–" if update.ratio != update.ratio else number(update.ratio)
        verdict = verdicts[f"{update.net}.{update.name}"]
        mark = Text("✓", "green") if verdict.passed else Text("✗ WRONG", "bold red")
        name = f"{update.net}.{update.name}"
        mark.append(f" {verdict.error:.0e}", style="dim")
        table.add_row(name, number(update.gradient), number(update.weight), number(update.change), ratio, mark)
    return table


def print_pixels(trace: StepTrace, verdicts: dict[str, Verdict], console: Console) -> None:
    color = console.color_system is not None
    mark = "yellow: brighter, blue: darker" if color else "+ and #: brighter, - and =: darker, by strength"
    text = "Left, a sample of the G step; right, the change of its pixels that would lower L most, −∂L/∂pixels"
    console.print(Text(f"{text} ({mark}).", style="dim"))
    count = max(1, min(4, (console.width + 4) // (2 * _SIDE + 6)))
    console.print(pixel_picture(trace.samples[:count], trace.dsamples[:count], color))
    norms = [(op.key, op.stats[next(reversed(op.stats))].norm) for op in gradient_path(trace)]
    width = max(10, console.width - 30)
    largest = max(norm for _, norm in norms)
    console.print(Text("The gradient's norm on its way back, layer by layer:", style="dim"))
    for (name, norm), op in zip(norms, gradient_path(trace), strict=True):
        bar = "█" * max(1, round(width * norm / largest)) if norm else ""
        style = "bright_blue" if op.part.startswith("D") else "green"
        console.print(Text(f"{name:<5}").append(f"{bar} ", style=style).append(number(norm)))
    console.print(Text().append("D, frozen", style="bright_blue").append(" · ").append("G", style="green"))
    console.print(_verdict("∂L/∂pixels", verdicts["samples"]))


def gradient_path(trace: StepTrace) -> list[Op]:
    """The operations of the G step that hand a gradient on, from the loss to G's first layer."""
    return [op for op in trace.ops if op.step != D_STEP and "dx" in op.tensors and op.name.startswith("ops.")]


def pixel_picture(samples: np.ndarray, dsamples: np.ndarray, color: bool) -> Text:
    """Pairs of a sample and −∂L/∂pixels side by side. Shapes: both (N, 784)."""
    text = Text()
    for row in range(0, _SIDE, 2):
        for place, (image, gradient) in enumerate(zip(samples, dsamples, strict=True)):
            wanted = -gradient.reshape(_SIDE, _SIDE) / max(float(np.abs(gradient).max()), 1e-30)
            image = image.reshape(_SIDE, _SIDE)
            text.append("    " if place else "")
            for column in range(_SIDE):
                _cell(
                    text,
                    [_grey(image[row + i, column]) for i in (0, 1)],
                    _RAMP,
                    float(image[row : row + 2, column].mean()),
                    color,
                )
            text.append("  ")
            for column in range(_SIDE):
                mean = float(wanted[row : row + 2, column].mean())
                _cell(text, [diverging(float(wanted[row + i, column])) for i in (0, 1)], "=- +#", mean, color)
        text.append("\n")
    text.rstrip()
    return text


def _cell(text: Text, colors: list[str], ramp: str, mean: float, color: bool) -> None:
    """A half block shows two pixels; without colour a character for their mean in [−1, 1]."""
    if color:
        text.append("▀", style=f"{colors[0]} on {colors[1]}")
    else:
        text.append(ramp[min(int((mean + 1.0) / 2.0 * len(ramp)), len(ramp) - 1)])


def _grey(value: float) -> str:
    level = round((float(value) + 1.0) * 127.5)
    return f"#{level:02x}{level:02x}{level:02x}"


def diverging(value: float) -> str:
    """A colour for −1 … 1: blue, near black, yellow."""
    strength = abs(value) ** 0.5  # most of the pixels' gradients are small beside the largest
    low, high = (16, 16, 20), ((255, 200, 40) if value > 0 else (70, 140, 255))
    return "#" + "".join(f"{round(a + (b - a) * strength):02x}" for a, b in zip(low, high, strict=True))


def verdict_line(verdicts: dict[str, Verdict]) -> Text:
    wrong = [name for name, verdict in verdicts.items() if not verdict.passed]
    if wrong:
        return Text(f"✗ WRONG gradients: {', '.join(sorted(wrong))}", style="bold red")
    ops = max(verdict.error for name, verdict in verdicts.items() if name.startswith("ops."))
    here = max(verdict.error for name, verdict in verdicts.items() if not name.startswith("ops."))
    text = Text().append("✓ Every backward is right", style="bold green")
    return text.append(f": operations to {ops:.0e} in float64, this step's float32 gradients to {here:.0e}.")
