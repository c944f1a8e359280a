"""The process in which typed code runs: ``python -m npgan.puzzles.worker``, started by ``check``.

It reads a line {"secret", "function", "text", "seconds"} from standard input, runs the gradient checks with the text in the
place of the function, and writes {"secret", "verdict"}. It ends when its standard input does: whoever asked is gone. Its
limits are against accidents; code that means harm is not held by them.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import NoReturn, TextIO

import numpy as np

from npgan import backend
from npgan.errors import InputError, first_line
from npgan.gradcheck.check import Check, FormulaCheck, Result, run_check
from npgan.gradcheck.gallery import replaced
from npgan.gradcheck.methods import CENTRAL, COMPLEX
from npgan.gradcheck.report import Report, diagnose
from npgan.gradcheck.suite import LEVELS, run_levels
from npgan.puzzles.verdict import CODE, MEMORY, Verdict

_SEED = 0
_PRINTED = 2000  # letters that are kept
_OTHER = 1e-3  # a complex step that is off by more than this gave no derivative at all
_NO_COMPLEX = " Like all of nn, it should take complex numbers too: a gradient penalty is differentiated through it."


def main() -> NoReturn:
    # Its own, so that what the code writes is no answer.
    questions, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    request = json.loads(questions.readline())
    threading.Thread(target=_end_with, args=(questions,), daemon=True).start()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.stdout = sys.stderr = printed = _Printed()
    faulthandler.dump_traceback_later(request["seconds"], exit=True, file=answers)
    _limit(request["seconds"])
    verdict = check(request["function"], request["text"])._replace(printed=printed.getvalue())
    answers.write(json.dumps({"secret": request["secret"], "verdict": verdict.to_dict()}) + "\n")
    answers.flush()
    os._exit(0)  # nothing that the code has left running is waited for


def _end_with(questions: TextIO) -> None:
    questions.read()
    with suppress(OSError):
        os.rmdir(os.getcwd())  # if it is still empty: nobody else will
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class _Printed(io.StringIO):
    """Keeps the beginning."""

    def write(self, text: str) -> int:
        super().write(text[: max(_PRINTED - self.tell(), 0)])
        return len(text)


def _limit(seconds: int) -> None:
    """Memory, processor time, files and new processes, where the system has such limits: not on Windows."""
    try:
        import resource
    except ImportError:
        return
    limits = {"AS": MEMORY, "CPU": 2 * seconds, "FSIZE": 1 << 20, "CORE": 0, "NPROC": 0}
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        with suppress(ValueError, OSError):  # macOS refuses some
            hard = -1 if kind is None else resource.getrlimit(kind)[1]
            if kind is not None:
                most = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.setrlimit(kind, (most, most))


def check(function: str, text: str) -> Verdict:
    """The checks, level by level until one fails, with what ``text`` defines in the place of ``function``."""
    text = textwrap.dedent(text)
    before = dict(_names())
    lenient = _Lenient()
    results: list[Result] = []
    try:
        with replaced(function, text, CODE, text.splitlines(keepends=True)):
            levels = run_levels(_SEED, backend.select("numpy"), real=False, run=lenient.run)
            for level in islice(levels, LEVELS.index("engines")):  # those are of other code
                results += level
                if not all(result.passed for result in level):
                    break
            report = Report(results, _SEED)
            diagnoses = list(diagnose(report))
    except BaseException as error:
        return Verdict(False, _told(error), [])
    after = dict(_names())
    for name, (value, code) in before.items():
        value_after, code_after = after.get(name, (None, None))
        if value_after is not value or code_after is not code:
            return Verdict(False, f"{name} has been changed: the function alone is to be mended", [])
    if report.passed:
        more = _NO_COMPLEX if lenient.excused else ""
        return Verdict(True, f"Right: all {len(results)} comparisons pass.{more}", [])
    if any("MemoryError" in each.found for each in diagnoses):
        return Verdict(False, f"more memory than the {MEMORY >> 30} GiB that it may have", diagnoses)
    line = f"{len(report.failures)} of {len(level)} comparisons fail at the level “{level[0].level}”"
    return Verdict(False, line, diagnoses)


class _Lenient:
    """Runs checks. An answer is not wrong because it does not take complex numbers.

    The complex step goes through a backward where a penalty on its result is differentiated. What fails there by no
    small error, and passes by central differences in every element, is right: the function itself has been held to the complex
    step before.
    """

    def __init__(self) -> None:
        self.excused = False

    def run(self, check: Check | FormulaCheck, rng: np.random.Generator) -> list[Result]:
        results = run_check(check, rng)
        failed = [result for result in results if not result.passed]
        if failed and isinstance(check, Check) and COMPLEX in check.methods:
            by_complex = all(each.problem or (each.method == COMPLEX and each.error > _OTHER) for each in failed)
            again = run_check(replace(check, methods=(CENTRAL,)), rng) if by_complex else failed
            if all(result.passed and not result.at_kink for result in again):
                self.excused = True
                return again
        return results


def _names() -> Iterator[tuple[str, tuple[object, object]]]:
    """What the checks are made of, by name, each with its code: npgan's and NumPy's functions and classes, and Python's own."""
    for home, module in list(sys.modules.items()):
        if home in ("builtins", "numpy") or home.partition(".")[0] == "npgan":
            for name, value in list(vars(module).items()):
                yield f"{home}.{name}", (value, getattr(value, "__code__", None))
                if isinstance(value, type) and home != "builtins" and value.__module__ == home:
                    for each, member in list(vars(value).items()):
                        yield f"{home}.{name}.{each}", (member, getattr(member, "__code__", None))


def _told(error: BaseException) -> str:
    """The exception in a line, with the line of the text that it is about."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"line {error.lineno or 1}: {type(error).__name__}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == CODE]
    place = f"line {lines[-1]}: " if lines else ""
    if isinstance(error, Exception):
        return f"{place}{type(error).__name__}: {first_line(error)}"
    return f"{place}{type(error).__name__} would end the program: a function returns or raises an Exception"


if __name__ == "__main__":
    main()
