"""The one way to print: no control characters from outside, no markup, any encoding."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from npgan.console import Console, say
from npgan.errors import first_line, one_line

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[bold]x[/] :smile: \ud800é"
TAME = "?]0;owned?[2J?31m?[bold]x[/] :smile: ?é"

_ROOT = Path(__file__).parents[1]


def _printed(encoding: str, what: object, **how: object) -> str:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding), width=120, _environ={}, **how)
    console.print(what)
    console.file.flush()
    return raw.getvalue().decode(encoding)


def _table() -> Table:
    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    return table


@pytest.mark.parametrize(
    "what", [EVIL, Text(EVIL), Rule(EVIL), Panel(EVIL, title=EVIL), _table()], ids=lambda what: type(what).__name__
)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_from_outside_is_only_text(encoding: str, what: object) -> None:
    printed = _printed(encoding, what)
    assert (TAME if encoding != "ascii" else TAME.replace("é", "?")) in printed
    assert printed.replace("\n", "").isprintable()


def test_styles_are_still_escape_codes() -> None:
    printed = _printed("utf-8", Text(EVIL, style="red"), force_terminal=True, color_system="standard")
    assert printed == f"\x1b[31m{TAME}\x1b[0m\n"


@pytest.mark.parametrize("to_stderr", [False, True])
def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str], to_stderr: bool) -> None:
    say("a\nb\r\x1b[1m  " + "long " * 100, to_stderr)
    assert capsys.readouterr()[to_stderr] == "a b ?[1m  " + "long " * 100 + "\n"


def test_what_an_error_says_in_one_line() -> None:
    assert first_line(OSError(28, "No space left on device", "x")) == "No space left on device"
    assert first_line(ValueError("\n first\x1b\n second")) == "first?"
    assert first_line(KeyError()) == "KeyError"
    assert one_line("plain") == "plain"


def test_nothing_else_prints() -> None:
    """print() is there for JSON in ASCII, and for errors before rich is loaded."""
    found = {
        f"{path.stem}: {line.strip()}"
        for path in (_ROOT / "npgan").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?<![\w.])print\(|rich\.console import .*\bConsole\b|rich\.console\.", line)
    }
    ours = {line for line in found if re.match(r"console: |\w+: print\(json\.dumps\(|cli: .*one_line\(", line)}
    assert found - ours == set() and len(ours) == 5
