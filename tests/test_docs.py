"""The docs: tables made from the code are up to date, snippets run, answers pass, quotes are the code, the site is whole."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import npgan
from npgan.gradcheck.source import read_source, resolve

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
STEPS = sorted((DOCS / "course").glob("[0-9]*.md"))

_SNIPPET = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# Fenced as "py", where a snippet to run is "python". A function's whole body or, after a comma, the part of it that begins
# with such a comment.
_QUOTE = re.compile(
    r"<!-- code: ([\w.]+)(?:, ([^\n]+))? -->\nFrom `(\S+)`, `(\S+)`: ([^\n]*)\n\n```py\n(.*?)\n```", re.DOTALL
)


def _named(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def test_there_are_nine_steps() -> None:
    assert [page.name[0] for page in STEPS] == list("123456789")


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


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize(
    ("page", "words"), [("own-network", "accuracy"), ("own-layer", "accuracy"), ("gradient-checks", "")]
)
def test_snippets_work_as_printed(
    page: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after another, as a reader copies them. What the page of networks shows as their output is their output."""
    monkeypatch.chdir(tmp_path)
    text, names, printed = (DOCS / f"{page}.md").read_text(encoding="utf-8"), dict[str, Any](), ""
    snippets = list(_SNIPPET.finditer(text))
    for number, snippet in enumerate(snippets, 1):
        exec(compile(snippet[2], f"{page}.md, snippet {number}", "exec"), names)
        out = capsys.readouterr().out
        printed += out
        shown = re.match(r"\n\n```text\n(.*?)\n```", text[snippet.end() :], re.DOTALL)
        assert not shown or page == "gradient-checks" or shown[1] in out, out
    assert snippets and words in printed


def test_the_readme_is_short_and_its_commands_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from npgan.cli import main

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    commands = re.findall(r"\.venv/bin/npgan ([^`\n&]+)", text)
    assert {command.split()[0] for command in commands} == {
        "train",
        "gradcheck",
        "inspect",
        "play",
        "evaluate",
        "bench",
        "--help",
    }
    for command in commands:
        with pytest.raises(SystemExit) as stop:  # --help ends the program once what stands before it has been read
            main([*command.split(), "--help"])
        assert stop.value.code == 0, command
    for script in re.findall(r"\.venv/bin/python ([^`\s]+\.py)", text):
        assert (ROOT / script).is_file(), script
    monkeypatch.chdir(tmp_path)
    (snippet,) = _SNIPPET.finditer(text)
    exec(compile(snippet[2], "README.md", "exec"), {})


def test_the_table_of_flags_is_that_of_the_config() -> None:
    from npgan.cli import flag_table

    table = (DOCS / "training.md").read_text(encoding="utf-8").partition("<!-- flags -->\n")[2].partition("\n\n")[0]
    assert table + "\n" == flag_table(), (
        "paste what python -c 'from npgan.cli import flag_table; print(flag_table())' prints"
    )


def _home(name: str) -> str:
    thing = getattr(npgan, name)
    return f"{thing.__module__}.{thing.__qualname__}"


def test_the_reference_names_all_that_is_public() -> None:
    names = (
        (DOCS / "reference" / "index.md")
        .read_text(encoding="utf-8")
        .partition("<!-- names -->\n")[2]
        .partition("\n\n")[0]
    )
    line = ", ".join(f"[`{name}`][{_home(name)}]" for name in npgan.__all__) + "."
    assert names == line, "paste this line into docs/reference/index.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built of a copy: of other folders Zensical builds none."""
    pytest.importorskip(
        "zensical", reason="pip install -e '.[docs]'"
    )  # CI builds the site in a step of its own as well
    copy = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / ".mkdocs.yml", copy)
    for folder in (DOCS, ROOT / "npgan"):
        shutil.copytree(folder, copy / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        **os.environ,
        "NPGAN_REPO_URL": "https://example.org/someone/npgan",
        "NPGAN_EDIT_URI": "edit/main/docs/",
    }
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(copy / ".mkdocs.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "build" / "site"


def test_every_page_is_in_the_nav_and_in_the_site(site: Path) -> None:
    config = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert re.search(rf"[ \[]{page.relative_to(DOCS).as_posix()}$", config, re.MULTILINE), (
            f"{page} is not in the nav"
        )
        assert (site / _named(page).removesuffix("index") / "index.html").is_file()


def test_the_site_has_maths_colors_links_and_the_reference(site: Path) -> None:
    page = (site / "course" / "8-g-step" / "index.html").read_text(encoding="utf-8")
    assert page.count('<math display="block"') == 1
    assert "$" not in re.sub(r"<(script|svg|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert '<span class="n">backward_input</span>' in page
    examples = (site / "examples" / "index.html").read_text(encoding="utf-8")
    assert "--8&lt;--" not in examples and "--8<--" not in examples
    assert '<span class="nf">two_moons</span>' in examples
    assert 'rel="prev"' in page
    assert 'href="https://example.org/someone/npgan/edit/main/docs/course/8-g-step.md"' in page
    reference = "".join(file.read_text(encoding="utf-8") for file in (site / "reference").glob("**/*.html"))
    for home in (*map(_home, npgan.__all__), "npgan.gradcheck.library.check_gradients"):
        assert f'id="{home}"' in reference, f"{home} is on no page of docs/reference"


def test_the_site_fetches_nothing(site: Path) -> None:
    for file in site.glob("**/*.html"):
        text = file.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]*)"', text)
        fetched += [link for link in re.findall(r"<link\b[^>]*>", text) if 'rel="canonical"' not in link]
        assert fetched
        assert not [address for address in fetched if "//" in address], file
        assert 'data-md-component="source"' not in text  # asks the repository's host for its stars


def test_the_published_classifier_is_the_one_the_page_names() -> None:
    page = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    (file,) = (ROOT / "npgan" / "evaluation").glob("classifier-*.safetensors")
    assert str(file.relative_to(ROOT)) in page and hashlib.sha256(file.read_bytes()).hexdigest() in page
    with safe_open(file, framework="np") as opened:
        assert f"**{float(opened.metadata()['accuracy']):.2%}**".replace("%", " %") in page
