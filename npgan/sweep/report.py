"""What came of a sweep: sweep.json with every number, sweep.md with the tables, sweep.html and sweep.png with the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from npgan import __version__
from npgan.config import TrainConfig
from npgan.console import Console
from npgan.files import replacing
from npgan.inspector.style import STYLE
from npgan.runs.folder import write_text
from npgan.runs.health import DEAD
from npgan.sweep.examine import Outcome
from npgan.sweep.pictures import figures, save_page_pictures, save_png
from npgan.sweep.plan import Plan, Run
from npgan.sweep.results import CONFIDENCE, Setting, settings_of


def write_report(out: Path, plan: Plan, outcomes: Mapping[Run, Outcome], console: Console) -> list[Path]:
    """Writes the four files, prints the tables, and returns the files' paths. Raises OSError."""
    settings = settings_of(plan, outcomes)
    paths = [out / f"sweep.{suffix}" for suffix in ("json", "md", "html", "png")]
    others = [{"setting": run.setting, "seed": run.seed, **o.to_dict()} for run, o in outcomes.items() if not o.ended]
    values = {
        "npgan": __version__,
        "confidence": CONFIDENCE,
        "dead_below": DEAD,
        "settings": [setting.to_dict() for setting in settings],
        "runs": [each.to_dict(out) for setting in settings for each in setting.runs],
        "not_ended": others,
    }
    write_text(paths[0], json.dumps(values, indent=2) + "\n")
    survival, dead = survival_rows(settings), dead_rows(settings)
    text = _markdown(survival) + ("\n" + _markdown(dead) if len(dead) > 1 else "")
    write_text(paths[1], text)
    drawn = figures(settings)
    with replacing(paths[2]) as file:
        file.write(_page(out, settings, others, save_page_pictures(drawn)).encode())
    with replacing(paths[3]) as file:
        save_png(drawn, file)
    for title, rows in (("", survival), ("dead runs", dead)):
        if len(rows) > 1:
            console.print(_rich(title, rows))
    return paths


def survival_rows(settings: Sequence[Setting]) -> list[list[str]]:
    """A heading, and a row a setting."""
    evaluated = any(setting.spread("frechet") for setting in settings)
    heading = [
        "setting",
        "alive",
        "survival",
        f"{CONFIDENCE:.0%} interval",
        *(["Fréchet", "Parzen, nats"] if evaluated else []),
    ]
    rows = [heading]
    for setting in settings:
        low, high = setting.interval
        survival = f"{setting.alive / len(setting.runs):.0%}" if setting.runs else "–"
        row = [setting.name, f"{setting.alive} of {len(setting.runs)}", survival, f"{low:.0%} to {high:.0%}"]
        row += [str(setting.spread(figure) or "–") for figure in ("frechet", "parzen")] if evaluated else []
        rows.append(row)
    return rows


def dead_rows(settings: Sequence[Setting]) -> list[list[str]]:
    """A heading, and a row a run whose G has no gradient any more."""
    rows = [["setting", "seed", "died in epoch", "the first dead tensor on the way back", "norm of G's gradient"]]
    for setting in settings:
        for each in setting.runs:
            if not each.outcome.alive:
                norm, first = each.outcome.gradient, each.outcome.dead or "–"
                first += f", not finite {each.outcome.message}" if each.outcome.state == "diverged" else ""
                shown = "–" if norm is None else f"{norm:.1e}"
                rows.append([setting.name, str(each.run.seed), str(each.died_in_epoch), first, shown])
    return rows


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "| --- |" + " ---: |" * (len(rows[0]) - 1), *body]) + "\n"


def _rich(title: str, rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*rows[0], title=title or None, title_justify="left", box=box.SIMPLE)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _page(out: Path, settings: Sequence[Setting], others: Sequence[dict[str, Any]], pictures: Mapping[str, str]) -> str:
    """Self-contained: nothing is fetched. ``pictures``: SVG by heading."""
    runs = sum(len(setting.runs) for setting in settings)
    parts = [f"<p>{runs} runs of {len(settings)} settings have ended"]
    parts += [
        f"; {len(others)} have not: "
        + escape(", ".join(f"{o['setting']} seed {o['seed']} ({o['state']})" for o in others))
    ]
    parts = parts[: 2 if others else 1] + [
        f". A run is alive when G still has a gradient after it: a norm of at least {DEAD:g} in the next step. "
        f"Intervals are Wilson's, {CONFIDENCE:.0%}.</p>",
        _html(survival_rows(settings)),
    ]
    dead = dead_rows(settings)
    parts += ["<h2>Dead runs</h2>", _html(dead)] if len(dead) > 1 else []
    for heading, picture in pictures.items():
        parts.append(f'<h2>{escape(heading)}</h2><figure class="drawn">{picture}</figure>')
    parts += ["<h2>Settings</h2>", _html([["setting", "differs from the tutorial in"], *map(_differing, settings)])]
    title = f"npgan sweep: {escape(str(out))}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{STYLE}.drawn {{ background: #fff; }} .drawn svg text {{ fill: #000; }}</style></head>"
        f"<body><main><h1>{title}</h1>{''.join(parts)}</main></body></html>\n"
    )


def _differing(setting: Setting) -> list[str]:
    defaults = TrainConfig()
    given = {name: value for name, value in setting.fields.items() if value != getattr(defaults, name)}
    return [setting.name, ", ".join(f"{name} {value}" for name, value in given.items()) or "nothing"]


def _html(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
