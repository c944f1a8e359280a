"""The docs: the table of flags is that of the config; the course's snippets run, its answers pass, its quotes are the code."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from npgan.gradcheck.source import read_source, resolve

DOCS = Path(__file__).parent.parent / "docs"
STEPS = sorted((DOCS / "course").glob("[0-9]*.md"))

_SNIPPET = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# A function's whole body or, after a comma, the part of it that begins with such a comment.
_QUOTE = re.compile(
    r"<!-- code: ([\w.]+)(?:, ([^\n]+))? -->\nFrom `(\S+)`, `(\S+)`: ([^\n]*)\n\n```text\n(.*?)\n```", re.DOTALL
)


def _named(page: Path) -> str:
    return page.stem


def test_there_are_eight_steps() -> None:
    assert [page.name[0] for page in STEPS] == list("12345678")


@pytest.mark.parametrize("page", STEPS, ids=_named)
def test_snippets_run_and_the_answer_is_marked(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = [textwrap.dedent(match[2]) for match in _SNIPPET.finditer(page.read_text(encoding="utf-8"))]
    assert len(snippets) >= 3
    assert "check_gradients(" in snippets[-1]
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets, 1):
        exec(compile(snippet, f"{page.name}, snippet {number}", "exec"), names)


@pytest.mark.parametrize("page", STEPS, ids=_named)
def test_a_wrong_answer_is_not_let_through(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = [textwrap.dedent(match[2]) for match in _SNIPPET.finditer(page.read_text(encoding="utf-8"))]
    names: dict[str, Any] = {}
    for snippet in snippets[:-1]:
        exec(snippet, names)
    check = names["check_gradients"]
    names["check_gradients"] = lambda f, df, inputs: check(f, lambda dy, *values: df(2.0 * dy, *values), inputs)
    with pytest.raises(AssertionError):
        exec(snippets[-1], names)


@pytest.mark.parametrize("page", STEPS, ids=_named)
def test_quoted_code_and_formulas_are_those_of_the_source(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    quotes = list(_QUOTE.finditer(text))
    assert quotes
    assert len(quotes) == text.count("<!-- code:")
    for quote in quotes:
        dotted, part, file, name, formula, body = quote.groups()
        function = resolve(dotted)
        source = read_source(function)
        assert source is not None
        assert (file, name) == (source.file, function.__qualname__)
        if part:
            parts = textwrap.dedent(inspect.getsource(function)).split("\n\n")
            code = textwrap.dedent(next(text for text in parts if text.lstrip().startswith(f"# {part}")))
        else:
            code = "\n".join(line for _, line in source.code)
        assert formula == (f"the {part}" if part else source.formula.removesuffix("."))
        assert body == code, f"{page.name} quotes an older {dotted}"


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))], ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_table_of_flags_is_that_of_the_config() -> None:
    from npgan.cli import flag_table

    table = (DOCS / "training.md").read_text(encoding="utf-8").partition("<!-- flags -->\n")[2].partition("\n\n")[0]
    assert table + "\n" == flag_table(), (
        "paste what python -c 'from npgan.cli import flag_table; print(flag_table())' prints"
    )


def test_the_site_builds(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install 'npgan[docs]'")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "-q",
        "-f",
        str(DOCS.parent / ".mkdocs.yml"),
        "-d",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "site" / "course" / "8-g-step" / "index.html").read_text(encoding="utf-8")
    assert "backward_input" in html
