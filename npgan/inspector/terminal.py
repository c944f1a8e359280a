"""A step on the terminal: every operation in full, or a line each, and the G step's gradient as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from rich import box
from rich.bar import Bar
from rich.color import Color
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.style import Style
from rich.table import Table
from rich.text import Text

from npgan.console import Console
from npgan.inspector.figures import change_colors, gray_pixels, number, quantity, shape_text, wanted_change
from npgan.inspector.proof import METHOD, Verdict
from npgan.inspector.toy import TOY_INTRODUCTION, check_toy, matrix_lines, toy_sections, verdict_text
from npgan.inspector.trace import G_STEP, Op, StepTrace

WIDE = 120  # columns from which an operation's words stand beside its numbers
_SIDE = 28

INTRODUCTION = {
    "D step": "D learns to tell real from fake: the loss is taken over real rows (target 1) and fakes (target 0), and its "
    "gradient ends in D's own weights.",
    "G step": "G learns to make the updated D say “real”: the gradient goes back through D, whose weights it leaves alone, "
    "into the pixels and from there into G's weights.",
}

IN_WORDS = {  # what a part of the step is for, for the table of a screen
    ("D step", "G forward"): "G makes fakes out of noise",
    ("D step", "D forward"): "D judges real images and fakes",
    ("D step", "loss"): "how wrong D is, and its slope",
    ("D step", "D backward"): "the gradient, into D's weights",
    ("D step", "D penalty"): "how steep D is, and the derivative of that backward pass",
    ("D step", "update"): "Adam moves D's weights",
    ("G step", "G forward"): "G makes new fakes",
    ("G step", "D forward"): "the updated D judges them",
    ("G step", "loss"): "how far from “real”, and its slope",
    ("G step", "D backward"): "through the frozen D to the pixels",
    ("G step", "G backward"): "from there into G's weights",
    ("G step", "update"): "Adam moves G's weights",
}


def print_screen(trace: StepTrace, verdicts: dict[str, Verdict], console: Console) -> None:
    """A step on one screen: a line for each of its parts, and what D wants changed in a sample."""
    console.print(headline(trace))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", "part", "what it does"):
        table.add_column(heading, no_wrap=True)
    for heading in ("no.", "FLOP", "proof"):
        table.add_column(heading, justify="right", no_wrap=True)
    first, last_step = 1, ""
    for (step, part), group in groupby(trace.ops, key=lambda op: (op.step, op.part)):
        ops = list(group)
        passed = [text.plain.startswith("✓") for op in ops for text in verdicts_of(op, verdicts)]
        mark = Text("✓", "green") if all(passed) else Text("✗", "bold red")
        flops = sum(op.flops for op in ops)
        table.add_row(
            Text(step if step != last_step else "", "bold"), Text(part, "cyan"), IN_WORDS[step, part],
            f"{first}–{first + len(ops) - 1}" if len(ops) > 1 else str(first), quantity(flops) if flops else "–",
            mark if passed else "",
        )  # fmt: skip
        first, last_step = first + len(ops), step
    console.print(table)
    print_pair(trace, console)
    console.print()
    console.print(verdict_line(verdicts))


def print_step(
    trace: StepTrace, verdicts: dict[str, Verdict], console: Console, summary: bool = False, only: str | None = None
) -> None:
    """All of a step. ``summary``: a line for each operation. ``only``: a layer such as "D.3", and nothing else."""
    numbered = [(place, op) for place, op in enumerate(trace.ops, 1) if only in (None, op.key)]
    if only is None:
        console.print(headline(trace))
    for step, in_step in groupby(numbered, key=lambda pair: pair[1].step):
        console.print()
        console.print(Rule(Text(step, "bold"), style="bold", align="left"))
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
        console.print(Rule(Text("Updates", "bold"), style="bold", align="left"))
        console.print(updates_table(trace, verdicts))
        console.print()
        console.print(Rule(Text("∂L/∂pixels: what D wants changed", "bold"), style="bold", align="left"))
        print_pixels(trace, verdicts, console)
        console.print()
        console.print(verdict_line(verdicts))
        console.print(Text(METHOD, style="dim"))


def headline(trace: StepTrace) -> Text:
    d_real, d_fake = split_probabilities(trace)
    work, moved = sum(op.flops for op in trace.ops), sum(op.bytes for op in trace.ops)
    text = Text(f"Iteration {trace.number:,}", style="bold")
    text.append(
        f": {len(trace.ops)} operations, {quantity(work, 'FLOP')}, at least {quantity(moved, 'B')} moved\n"
        f"D step  loss {trace.loss_d:.4f}   D(real) {d_real:.3f}   D(fake) {d_fake:.3f}   accuracy of D {trace.accuracy:.1%}\n"
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
    return f"{quantity(op.flops, 'FLOP')} on {quantity(op.bytes, 'B')}: {op.flops / op.bytes:.2g} FLOP per byte"


def share_text(name: str, share: float) -> str:
    meaning = {
        "negative slope": "of the units are on the negative slope",
        "saturated": "of the units are saturated",
        "kept": "of the elements are kept by the mask",
    }
    return f"{share:.1%} {meaning[name]}"


def verdicts_of(op: Op, verdicts: dict[str, Verdict]) -> Iterator[Text]:
    """What the gradient checker says of the operation, and of the tensors that it wrote in this step."""
    if op.name in verdicts:
        yield told(op.function, verdicts[op.name])
    if op.function == "dense_backward_params":
        for name in ("weight", "bias"):
            yield told(f"this d{name}", verdicts[f"{op.key}.{name}"])


def told(name: str, verdict: Verdict) -> Text:
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
        if op.function == "dense_backward_params":
            name, result = "dweight", op.tensors["dweight"]
        row: list[str | Text] = [str(place), op.where, op.function]
        row += [f"{op.source.file}:{op.source.line}", f"{name} {shape_text(result)}"] if wide else []
        row += [quantity(op.flops) if op.flops else "–", number(op.stats[name].norm)]
        row += [", ".join(f"{share:.0%} {name}" for name, share in op.shares.items())] if wide else []
        passed = [text.plain.startswith("✓") for text in verdicts_of(op, verdicts)]
        mark = Text("✓", "green") if all(passed) else Text("✗", "bold red")
        table.add_row(*row, mark if passed else "")
    return table


def updates_table(trace: StepTrace, verdicts: dict[str, Verdict]) -> Table:
    """What the optimizer did to each tensor."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("tensor", style="bold")
    for heading in ("‖gradient‖", "‖weight‖", "‖update‖", "update/weight"):
        table.add_column(heading, justify="right")
    table.add_column("gradient", justify="left")
    for update in trace.updates:
        name = f"{update.net}.{update.name}"
        verdict = verdicts[name]
        mark = Text("✓", "green") if verdict.passed else Text("✗ WRONG", "bold red")
        mark.append(f" {verdict.error:.0e}", style="dim")
        table.add_row(name, *map(number, update[2:]), mark)
    return table


def print_pair(trace: StepTrace, console: Console) -> None:
    """Samples, and beside each what D wants changed in it: as many as fit."""
    color = console.color_system is not None
    mark = "yellow: brighter, blue: darker" if color else "+ and #: brighter, - and =: darker, by strength"
    text = "Left, a sample of the G step; right, the change of its pixels that would lower L most, −∂L/∂pixels"
    console.print(Text(f"{text} ({mark}).", style="dim"))
    count = max(1, min(4, (console.width + 4) // (2 * _SIDE + 6)))
    pairs = Table.grid(padding=(0, 4, 0, 0))
    pairs.add_row(*map(_pair, trace.samples[:count], trace.dsamples[:count], [color] * count))
    console.print(pairs)


def print_pixels(trace: StepTrace, verdicts: dict[str, Verdict], console: Console) -> None:
    print_pair(trace, console)
    console.print(Text("The gradient's norm on its way back, layer by layer:", style="dim"))
    path = [(op, op.stats["dx"].norm) for op in gradient_path(trace)]
    bars = Table.grid(padding=(0, 1, 0, 0))
    for op, norm in path:
        hue = "bright_blue" if op.part.startswith("D") else "green"
        bars.add_row(op.key, number(norm), Bar(max(norm for _, norm in path), 0, norm, color=hue))
    console.print(bars)
    console.print(Text().append("D, frozen", style="bright_blue").append(" · ").append("G", style="green"))
    console.print(told("∂L/∂pixels", verdicts["samples"]))


def gradient_path(trace: StepTrace) -> list[Op]:
    """The operations of the G step that hand a gradient on, from the loss to the noise."""
    return [op for op in trace.ops if op.step == G_STEP and "dx" in op.tensors and op.flops]


def _pair(image: np.ndarray, gradient: np.ndarray, color: bool) -> Table:
    """A sample and the change that D wants, side by side. Shapes: both (784,)."""
    wanted, gray = wanted_change(gradient), gray_pixels(image)
    pair = Table.grid(padding=(0, 2, 0, 0))
    if color:
        pair.add_row(_half_blocks(np.stack([gray] * 3, axis=-1)), _half_blocks(change_colors(wanted)))
    else:
        pair.add_row(_characters(image.reshape(gray.shape), " .:-=+*#%@"), _characters(wanted, "=- +#"))
    return pair


def _half_blocks(pixels: np.ndarray) -> Text:
    """Two pixels a character. Shapes: (28, 28, 3) uint8."""
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        styles = (
            Style(color=Color.from_rgb(*a), bgcolor=Color.from_rgb(*b)) for a, b in zip(upper, lower, strict=True)
        )
        lines.append(Text.assemble(*(("▀", style) for style in styles)))
    return Text("\n").join(lines)


def _characters(values: np.ndarray, ramp: str) -> Text:
    """A character for the mean of two pixels in [−1, 1]. Shapes: (28, 28)."""
    means = np.nan_to_num((values[::2] + values[1::2]) / 2.0)  # NaN as 0
    places = np.clip((means + 1.0) / 2.0 * len(ramp), 0, len(ramp) - 1).astype(int)
    return Text("\n".join("".join(ramp[place] for place in row) for row in places))


def verdict_line(verdicts: dict[str, Verdict]) -> Text:
    wrong = [name for name, verdict in verdicts.items() if not verdict.passed]
    if wrong:
        return Text(f"✗ WRONG gradients: {', '.join(sorted(wrong))}", style="bold red")
    ops = max(verdict.error for name, verdict in verdicts.items() if name.startswith("nn."))
    here = max(verdict.error for name, verdict in verdicts.items() if not name.startswith("nn."))
    text = Text().append("✓ Every backward is right", style="bold green")
    return text.append(f": operations to {ops:.0e} in float64, this step's float32 gradients to {here:.0e}.")
