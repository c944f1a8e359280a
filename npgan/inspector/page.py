"""A step as one self-contained page: nothing is fetched, every picture is inside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

from npgan.inspector.figures import change_colors, gray_pixels, number, quantity, shape_text, wanted_change
from npgan.inspector.history import Chart, RunHistory, Snapshot, charts, comparison
from npgan.inspector.proof import METHOD, Verdict
from npgan.inspector.style import SCRIPT, STYLE
from npgan.inspector.svg import Curve, bars, curves, picture
from npgan.inspector.terminal import (
    INTRODUCTION,
    gradient_path,
    share_text,
    split_probabilities,
    told,
    verdict_line,
    verdicts_of,
    work_text,
)
from npgan.inspector.toy import TOY_INTRODUCTION, check_toy, matrix_lines, toy_sections, verdict_text
from npgan.inspector.trace import Op, StepTrace

_PAIRS = 8
_SYMBOL = re.compile(r"(?P<base>[A-Za-zα-ωΣ]+)_(?P<sub>[A-Za-z0-9]+(?:,[A-Za-z0-9]+)*)|(?P<name>(?<!')[A-Za-zα-ω]+)")


class Comparison(NamedTuple):
    """Two steps, and the other run's history where there is one."""

    names: tuple[str, str]
    shots: tuple[Snapshot, Snapshot]
    history: RunHistory | None


def page(
    title: str,
    trace: StepTrace,
    verdicts: dict[str, Verdict],
    history: RunHistory | None = None,
    comparing: Comparison | None = None,
) -> str:
    """The whole page as HTML text."""
    sections = [("pixels", "What D wants changed", _pixels(trace, verdicts))]
    numbered = list(enumerate(trace.ops, 1))
    for step, in_step in groupby(numbered, key=lambda pair: pair[1].step):
        sections.append((step[0].lower() + "-step", step, _step(step, list(in_step), verdicts)))
    sections.append(("updates", "Updates", _updates(trace, verdicts)))
    if comparing:
        sections.append(("compare", "A and B", _comparison(comparing)))
    if history:
        sections.append(("time", "Over time", _over_time(history, comparing.history if comparing else None)))
    sections.append(("toy", "A step with pencil and paper", _toy()))
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{escape(name)}</h2>{html}</section>' for key, name, html in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>npgan inspect: {escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{_facts(trace)}<p>{_mark(verdict_line(verdicts).plain)}</p>"
        f'<p class="soft">{escape(METHOD)}</p><nav>{links}</nav><button id="open">Open all operations</button>'
        f"{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _facts(trace: StepTrace) -> str:
    d_real, d_fake = split_probabilities(trace)
    facts = {
        "iteration": f"{trace.number:,}",
        "loss of D": f"{trace.loss_d:.4f}",
        "loss of G": f"{trace.loss_g:.4f}",
        "D(real)": f"{d_real:.3f}",
        "D(fake)": f"{d_fake:.3f}",
        "accuracy of D": f"{trace.accuracy:.1%}",
        "arithmetic": f"{quantity(sum(op.flops for op in trace.ops), 'FLOP')}",
        "memory moved": f"{quantity(sum(op.bytes for op in trace.ops), 'B')}",
    }
    return '<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items()) + "</dl>"


def _step(step: str, numbered: Sequence[tuple[int, Op]], verdicts: dict[str, Verdict]) -> str:
    parts = [f"<p>{escape(INTRODUCTION[step])}</p>"]
    for part, in_part in groupby(numbered, key=lambda pair: pair[1].part):
        parts.append(f"<h3>{escape(part)}</h3>")
        parts += [_operation(place, op, verdicts) for place, op in in_part]
    return "".join(parts)


def _operation(place: int, op: Op, verdicts: dict[str, Verdict]) -> str:
    lines = [text.plain for text in verdicts_of(op, verdicts)]
    mark = _mark(lines[0][0] if all(line[0] == "✓" for line in lines) else "✗") if lines else ""
    source = f"{op.source.file}:{op.source.line}"
    formula = math_html(op.source.formula)
    head = (
        f'<span class="n">{place}</span><b>{escape(op.where)}</b><span class="math">{formula}</span>'
        f'<code>{escape(op.name)}</code><span class="mark">{mark}</span>'
    )
    words = [f'<p class="formula math">{formula}</p>', f'<p class="soft">{math_html(op.why)}</p>' if op.why else ""]
    words += [f"<p>{_mark(line)}</p>" for line in lines]
    words.append(f"<p>{escape(work_text(op))}</p>")
    if op.cached:
        words.append(f"<p>Keeps <b>{op.cached}</b> for backward: {escape(op.cached_why)}.</p>")
    words += [f"<p>{escape(share_text(name, share))}</p>" for name, share in op.shares.items()]
    rows = []
    for name, array in op.tensors.items():
        values = [number(value) for value in op.stats[name]] if name in op.stats else [""] * 5
        rows.append([name, shape_text(array), *values])
    code = "\n".join(f'<span class="n">{line:>4}</span>  {escape(text)}' for line, text in op.source.code)
    words.append(_table(["", "shape", "mean", "std", "min", "max", "norm"], rows))
    words.append(f"<p><code>{escape(source)}</code></p><pre>{code}</pre>")
    inside = f'<div class="inside">{"".join(words)}</div>'
    return f'<details class="op" data-op="{escape(op.name)}"><summary>{head}</summary>{inside}</details>'


def _pixels(trace: StepTrace, verdicts: dict[str, Verdict]) -> str:
    words = (
        "<p>Left, samples of the G step. Right, −∂L/∂pixels: the change of the pixels that would lower G's loss most, as it "
        'comes back through D, whose weights stay as they are. <b style="color:var(--c4)">Yellow</b>: D wants it brighter; '
        '<b style="color:var(--c1)">blue</b>: darker; black: it does not care.</p>'
    )
    pairs = []
    for image, gradient, p in list(zip(trace.samples, trace.dsamples, trace.p_g[:, 0], strict=True))[:_PAIRS]:
        right = picture(change_colors(wanted_change(gradient)), "what D wants changed")
        two = picture(gray_pixels(image), "a sample") + right
        pairs.append(
            f'<figure><div class="two">{two}</div><span class="soft">D says {number(float(p))}</span></figure>'
        )
    path = [(op.key, "of-d" if op.part.startswith("D") else "of-g", op.stats["dx"].norm) for op in gradient_path(trace)]
    drawn = bars("Norm of the gradient on its way back: blue through the frozen D, green through G", path)
    line = told("∂L/∂pixels", verdicts["samples"]).plain
    return f'{words}<div class="pairs">{"".join(pairs)}</div><p>{_mark(line)}</p>{drawn}'


def _updates(trace: StepTrace, verdicts: dict[str, Verdict]) -> str:
    rows = []
    for update in trace.updates:
        name = f"{update.net}.{update.name}"
        sign = "✓" if verdicts[name].passed else "✗"
        rows.append([name, *map(number, update[2:]), f"{sign} {verdicts[name].error:.0e}"])
    return "<p>What the optimizer did to each tensor.</p>" + _table(
        ["", "‖gradient‖", "‖weight‖", "‖update‖", "update/weight", "gradient"], rows
    )


def _comparison(comparing: Comparison) -> str:
    body = []
    for heading, rows in comparison(*comparing.shots):
        body.append(f'<tr><th colspan="4">{escape(heading)}</th></tr>')
        for name, first, second in rows:
            cells = (name, number(first), number(second), number(second / first) if first else "–")
            body.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    a, b = (escape(name) for name in comparing.names)
    head = "<tr><th></th><th>A</th><th>B</th><th>B/A</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"
    return f'<p>A: {a}<br>B: {b}</p><div class="scroll">{table}</div>'


def _over_time(history: RunHistory, other: RunHistory | None) -> str:
    drawn = []
    others = {chart.title: chart for chart in charts(other)} if other else {}
    for chart in charts(history):
        second = others.get(chart.title)
        lines = _curves(chart, "A " if other else "") + (_curves(second, "B ", dashed=True) if second else [])
        drawn.append(curves(chart.title, lines, chart.logarithmic))
    return f'<div class="charts">{"".join(drawn)}</div>'


def _curves(chart: Chart, prefix: str, dashed: bool = False) -> list[Curve]:
    return [Curve(prefix + label, x, y, dashed, index) for index, (label, (x, y)) in enumerate(chart.curves.items())]


def _toy() -> str:
    parts = [f"<p>{escape(TOY_INTRODUCTION)}</p>"]
    for section in toy_sections():
        source = section.source
        matrices = "\n".join(line for name, matrix in section.matrices.items() for line in matrix_lines(name, matrix))
        parts.append(f'<details class="toy"><summary><b>{escape(section.title)}</b>')
        parts.append(f'<span class="math">{math_html(source.formula)}</span></summary><div class="inside">')
        parts.append(f"<pre>{escape(matrices)}</pre><pre>{escape(chr(10).join(section.lines))}</pre>")
        parts.append(
            f"<p>{escape(section.note)}</p><p><code>{escape(source.file)}:{source.line}</code></p></div></details>"
        )
    return "".join(parts) + f"<p>{_mark(verdict_text(check_toy()))}</p>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _mark(text: str) -> str:
    """The text with its ✓ or ✗ in color."""
    style = "good" if text.startswith("✓") else "bad"
    return f'<span class="{style}">{text[0]}</span>{escape(text[1:])}'


def math_html(text: str) -> str:
    """A formula or a sentence with formulas from a docstring: x_ni with a subscript, single letters in italics."""

    def typeset(match: re.Match[str]) -> str:
        if match["sub"]:
            return f"{_letter(match['base'])}<sub>{match['sub']}</sub>"
        return _letter(match["name"])

    parts = re.split("([<>&])", text)  # escaped by themselves: a name inside an entity is no variable
    return "".join(escape(part) if part in "<>&" else _SYMBOL.sub(typeset, part) for part in parts)


def _letter(name: str) -> str:
    """Names of one letter are variables, and so are their gradients; "a" and "I" do not occur as words in formulas."""
    variable = (len(name) == 1 and name != "Σ") or (len(name) == 2 and name[0] == "d" and name != "do")
    return f"<i>{name}</i>" if variable else name
