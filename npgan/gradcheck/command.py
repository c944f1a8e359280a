"""``npgan gradcheck``: the checks, or the gallery of planted bugs, on the terminal or as JSON."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from npgan import backend
from npgan.backend import Backend
from npgan.engines import Compute, choose
from npgan.errors import InputError
from npgan.gradcheck.gallery import BUGS, Finding, difference, find_planted
from npgan.gradcheck.report import Report, diagnose, explain, print_report
from npgan.gradcheck.suite import run_levels

if TYPE_CHECKING:
    from npgan.console import Console


def gradcheck(backend_name: str, seed: int, as_json: bool, gallery: bool, verbose: bool) -> int:
    """Returns 0 when all gradients are right (``gallery``: all planted bugs are caught), else 1.

    Raises InputError for a backend that cannot be had or a seed out of range.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"--seed must be from 0 to 2**64 - 1, got {seed}")
    from npgan.console import Console

    chosen = backend.select(backend_name)
    console = Console()
    return _gallery(chosen, seed, as_json, console) if gallery else _checks(chosen, seed, as_json, verbose, console)


def _checks(chosen: Backend, seed: int, as_json: bool, verbose: bool, console: Console) -> int:
    started = time.perf_counter()
    results = []
    with console.status("checking …") if console.is_terminal and not as_json else nullcontext():
        engine = choose(Compute(kernels="auto"), chosen)
        fused = engine if engine.name == "fused" else None
        for level in run_levels(seed, chosen, fused=fused):
            results += level
    report = Report(results, seed, f"{chosen.name} on {chosen.device}", time.perf_counter() - started)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        print_report(report, console, verbose)
        console.print(f"fused kernels{' not compared' * (fused is None)}: {engine.reason}", style="dim")
    return 0 if report.passed else 1


def _gallery(chosen: Backend, seed: int, as_json: bool, console: Console) -> int:
    findings = []
    for finding in find_planted(seed, chosen):
        findings.append(finding)
        if not as_json:
            _print_finding(finding, len(findings), console)
    caught = sum(finding.caught for finding in findings)
    if as_json:
        values = {"seed": seed, "caught": caught, "planted": len(findings), "bugs": [_as_dict(f) for f in findings]}
        print(json.dumps(values, indent=2, allow_nan=False))
    else:
        style = "bold green" if caught == len(findings) else "bold red"
        console.print(f"{caught} of {len(findings)} planted bugs caught at the right function", style=style)
        console.print(f"seed {seed} · {chosen.name} on {chosen.device}", style="dim")
    return 0 if caught == len(findings) else 1


def _print_finding(finding: Finding, number: int, console: Console) -> None:
    from rich.text import Text

    bug = finding.bug
    verdict = Text("caught", style="bold green") if finding.caught else Text("NOT CAUGHT", style="bold red")
    console.print(Text.assemble((f"{number}/{len(BUGS)}  {bug.title}: ", "bold"), verdict))
    console.print(f"in npgan.{bug.function}", style="dim")
    for line in difference(bug):
        console.print(Text(line, style="red" if line[0] == "-" else "green"))
    for explanation in explain(diagnose(finding.report)):
        console.print(explanation)
    console.print()


def _as_dict(finding: Finding) -> dict[str, object]:
    failures = finding.report.culprits if finding.report.failures else []
    return {
        "title": finding.bug.title,
        "function": finding.bug.function,
        "difference": difference(finding.bug),
        "caught": finding.caught,
        "named": finding.named,
        "hints": sorted({result.hint.kind for result in failures}),
        "report": finding.report.to_dict(),
    }
