"""``npgan puzzle``: the list, a puzzle in a file, its check, hints and solution, on the terminal."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from npgan.console import Console
from npgan.errors import InputError, first_line
from npgan.gradcheck.report import explain
from npgan.puzzles.check import check as run_checks
from npgan.puzzles.progress import keep_solved, solved
from npgan.puzzles.puzzle import Puzzle, find, puzzles
from npgan.puzzles.verdict import LARGEST

if TYPE_CHECKING:
    from rich.text import Text


def puzzle(word: str | None, check: Path | Literal[True] | None, edit: bool, hint: int | None, solution: bool) -> int:
    """``check``: a file, or True for the one that is written. Returns 0; of a check 1 where the function is still wrong.

    Raises InputError for a puzzle, a hint or a file that does not exist, and where progress cannot be read or kept.
    """
    console = Console()
    if word is None:
        if check or edit or hint is not None or solution:
            raise InputError("which puzzle? Its number goes in front, as in npgan puzzle 2 --check")
        _list(console)
        return 0
    chosen = find(word)
    file = Path(f"puzzle-{chosen.number}.py")
    if edit:
        _open_editor(chosen, file)
    if check or edit:
        return _check(chosen, check if isinstance(check, Path) else file, console)
    if hint is not None:
        if not 1 <= hint <= len(chosen.hints):
            raise InputError(f"--hint must be from 1 to {len(chosen.hints)}, got {hint}")
        console.print("\n".join(chosen.hints[:hint]), soft_wrap=True)
    elif solution:
        console.print(_code(chosen.solution), soft_wrap=True)
    else:
        _show(chosen, console)
        console.print(
            f"{_write(chosen, file)}: mend it there, then npgan puzzle {chosen.number} --check "
            "(--edit does both, --hint tells more)",
            style="bold",
        )
    return 0


def _list(console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    done = solved()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "", "what is broken", "the bug"):
        table.add_column(heading, justify="left" if heading else "right")
    for each in puzzles():
        is_solved = each in done
        mark = Text("solved", style="green") if is_solved else Text("")
        table.add_row(str(each.number), mark, Text(each.name), Text(each.title if is_solved else "?"))
    console.print(table)
    console.print(f"{len(done)} of {len(puzzles())} solved. npgan puzzle 1 opens the first.")


def _show(chosen: Puzzle, console: Console) -> None:
    from rich.text import Text

    console.print(Text(f"{chosen.number}  {chosen.function}", style="bold"))
    console.print(Text(chosen.formula + "\n"))
    console.print(Text("Above it, to be read:", style="dim"))
    console.print(_code(chosen.above), soft_wrap=True)
    console.print(Text("To be mended:", style="dim"))
    console.print(_code(chosen.broken), soft_wrap=True)


def _code(text: str) -> Text:
    from rich.text import Text

    return Text(textwrap.indent(text, "  "), style="cyan")


def _write(chosen: Puzzle, file: Path) -> str:
    """A new file; says whether it is one."""
    head = (
        f"npgan puzzle {chosen.number}: {chosen.function}\n\n"
        f"Mend the function at the end, then: npgan puzzle {chosen.number} --check\n"
        "All names of its module are there, such as np. The functions in these comments are to be read.\n\n"
        f"{chosen.formula}\n\n{chosen.above}"
    )
    comments = textwrap.indent(head, "# ", lambda line: True).replace("# \n", "#\n")
    try:
        with open(file, "x", encoding="utf-8") as new:
            new.write(f"{comments}\n{chosen.broken}")
    except FileExistsError:
        return f"{file} is there already and left as it is"
    return f"{file} is written"


def _open_editor(chosen: Puzzle, file: Path) -> None:
    """Returns when the editor has ended."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise InputError("--edit opens $EDITOR, which is not set")
    _write(chosen, file)
    try:
        status = subprocess.run([*shlex.split(editor, posix=os.name != "nt"), str(file)]).returncode
    except (OSError, ValueError) as error:
        raise InputError(f"--edit: $EDITOR, {editor}, does not start: {first_line(error)}") from None
    if status:
        raise RuntimeError(f"{editor} ended with status {status}: nothing was checked")


def _check(chosen: Puzzle, file: Path, console: Console) -> int:
    from rich.text import Text

    text = _read(chosen, file)
    with console.status("checking …") if console.is_terminal else nullcontext():
        verdict = asyncio.run(run_checks(chosen, text))
    if verdict.printed:
        console.print(Text("it printed:", style="dim"))
        console.print(Text(textwrap.indent(verdict.printed.rstrip("\n"), "  ")))
    for explanation in explain(verdict.diagnoses):
        console.print(explanation)
    console.print(Text(f"puzzle {chosen.number}: {verdict.line}", style="bold green" if verdict.solved else "bold red"))
    if not verdict.solved:
        return 1
    console.print(Text(f"It was: {chosen.title}. The textbook's own: npgan puzzle {chosen.number} --solution"))
    keep_solved(chosen, text)
    return 0


def _read(chosen: Puzzle, file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InputError(f"{file}: is larger than {LARGEST:,} bytes: is it the right file?")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"{file}: no such file; npgan puzzle {chosen.number} writes puzzle-{chosen.number}.py"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {first_line(error)}") from None
