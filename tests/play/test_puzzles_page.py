"""The puzzles' tab, driven in Chromium: what it shows is the checker's, and what is solved there is solved in the terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import ROOT, Served, children, serve

from npgan.puzzles import worker
from npgan.puzzles.puzzle import find, puzzles

Open = Callable[..., Any]
DX, TANH = find("dense_backward_dx"), find("tanh_backward")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the user's data are, on any system."""
    folder = str(tmp_path_factory.mktemp("home"))
    return {"HOME": folder, "XDG_DATA_HOME": f"{folder}/data", "LOCALAPPDATA": folder}


@pytest.fixture(scope="module")
def served(home: dict[str, str]) -> Iterator[Served]:
    server = serve("--no-browser", **home)
    yield server
    assert server.stop()[0] == 130


@pytest.fixture(autouse=True)
def unsolved(home: dict[str, str]) -> None:
    for folder in Path(home["HOME"]).rglob("puzzles"):
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()


def npgan(home: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "npgan", "puzzle", *words]
    env = {**os.environ, **home, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=home["HOME"]).stdout


def _tab(open_page: Open, served: Served, number: int = 1, **settings: Any) -> Any:
    page = open_page(f"{served.address}#puzzles", **settings)
    page.wait_for_selector("#puzzles-heading:has-text('npgan.')")
    if number != 1:
        _choose(page, number)
    return page


def _choose(page: Any, number: int) -> None:
    page.click(f"[data-number='{number}']")
    page.wait_for_selector(f"#puzzles-heading:text-matches('^{number}[.]')")


def _check(page: Any, text: str) -> str:
    page.fill("#puzzles-editor", text)
    page.focus("#puzzles-editor")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#puzzles-check:enabled")
    said: str = page.inner_text("#puzzles-verdict")
    return said


def test_a_puzzle_from_the_diagnosis_to_the_mark(open_page: Open, served: Served, home: dict[str, str]) -> None:
    page = _tab(open_page, served, DX.number)
    assert page.inner_text("#puzzles-heading") == f"2. {DX.function}"
    assert page.inner_text("#panel-puzzles .formula") == DX.formula
    assert page.inner_text("#panel-puzzles pre.code").strip() == DX.above.strip()
    assert page.input_value("#puzzles-editor") == DX.broken
    lines = DX.broken.count("\n") + 1
    assert page.inner_text("#panel-puzzles .lines").split() == [str(n + 1) for n in range(lines)]
    assert page.locator("#panel-puzzles .list li").count() == len(puzzles()) == 43

    page.focus("#puzzles-editor")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#panel-puzzles .finding")
    verdict = worker.check(DX.bug.function, DX.broken)
    (diagnosis,) = verdict.diagnoses
    assert diagnosis.source is not None
    assert page.inner_text("#puzzles-verdict") == f"Not yet: {verdict.line}"
    said = page.inner_text("#panel-puzzles .finding")
    for text in (diagnosis.op, diagnosis.found, diagnosis.worst, diagnosis.hint, diagnosis.source.formula):
        assert text in said
    assert f"{diagnosis.source.file}:{diagnosis.source.line}" in said and diagnosis.source.code[0][1] in said
    assert page.inner_text("#puzzles-count") == "0 of 43 solved"

    assert _check(page, DX.solution).startswith("Right: all ")
    page.wait_for_selector("[data-number='2'] .good :text('✓')")
    assert page.inner_text("#puzzles-count") == "1 of 43 solved" and DX.title in page.inner_text("#puzzles-findings")
    assert "1 of 43 solved" in npgan(home)
    page.reload()
    page.wait_for_selector("[data-number='2'] .good :text('✓')")
    page.click("#puzzles-next")
    page.wait_for_selector("#puzzles-heading:text-matches('^3[.]')")
    assert page.evaluate("document.activeElement.id") == "puzzles-heading"


def test_what_the_terminal_solves_is_solved_here(open_page: Open, served: Served, home: dict[str, str]) -> None:
    page = _tab(open_page, served)
    answer = Path(home["HOME"]) / "answer.py"
    answer.write_text(TANH.solution, encoding="utf-8")
    assert TANH.title in npgan(home, "tanh_backward", "--check", "answer.py")
    page.click("#tab-lab")
    page.click("#tab-puzzles")
    page.wait_for_selector(f"[data-number='{TANH.number}'] .good :text('✓')")


def test_hints_come_one_by_one_and_the_solution_after_a_question(open_page: Open, served: Served) -> None:
    page = _tab(open_page, served, DX.number)
    for number, hint in enumerate(DX.hints, 1):
        page.click("#puzzles-hint")
        page.wait_for_selector(f".hints li:nth-child({number})")
        assert page.inner_text(f".hints li:nth-child({number})") == hint
    assert page.is_disabled("#puzzles-hint")
    page.click("#puzzles-solution")
    assert page.evaluate("document.activeElement.id") == "puzzles-not" and page.is_hidden("#puzzles-answer")
    page.click("#puzzles-not")
    assert page.is_hidden("#puzzles-confirmation") and page.is_hidden("#puzzles-answer")
    page.click("#puzzles-solution")
    page.click("#puzzles-show")
    page.wait_for_selector("#puzzles-answer pre")
    assert page.inner_text("#puzzles-answer pre").strip() == DX.solution.strip()
    assert page.inner_text("#puzzles-count") == "0 of 43 solved"
    _choose(page, 3)
    assert page.is_hidden("#puzzles-answer") and not page.locator(".hints li").count()


def test_the_keys_of_the_editor(open_page: Open, served: Served) -> None:
    page = _tab(open_page, served)
    page.fill("#puzzles-editor", "")
    page.focus("#puzzles-editor")

    def press(*keys: str) -> str:
        for key in keys:
            page.keyboard.press(key)
        text: str = page.input_value("#puzzles-editor")
        return text

    page.keyboard.type("def f(x):")
    assert press("Enter") == "def f(x):\n    "
    page.keyboard.type("y = x")
    assert press("Enter", "Tab") == "def f(x):\n    y = x\n        "
    assert press("Shift+Tab", "Shift+Tab", "Shift+Tab") == "def f(x):\n    y = x\n"
    assert press("Control+a", "Tab") == "    def f(x):\n        y = x\n"
    assert press("Shift+Tab") == "def f(x):\n    y = x\n"
    assert press("Control+z") == "    def f(x):\n        y = x\n"
    assert page.evaluate("document.activeElement.id") == "puzzles-editor"
    press("Escape", "Tab")
    assert page.evaluate("document.activeElement.id") == "puzzles-check"
    page.keyboard.press("Shift+Tab")
    before = page.input_value("#puzzles-editor")
    assert press("Escape", "Shift+Tab") == before
    assert page.evaluate("document.activeElement.id") != "puzzles-editor"


def test_what_is_typed_stays_while_the_tab_is_open(open_page: Open, served: Served) -> None:
    page = _tab(open_page, served, DX.number)
    page.fill("#puzzles-editor", "mine")
    _choose(page, 3)
    _choose(page, DX.number)
    assert page.input_value("#puzzles-editor") == "mine"
    page.reload()
    page.wait_for_selector("#puzzles-heading:has-text('npgan.')")
    assert page.input_value("#puzzles-editor") == "mine"
    page.click("#puzzles-afresh")
    assert page.input_value("#puzzles-editor") == DX.broken


def test_text_is_never_html(open_page: Open, served: Served) -> None:
    page = _tab(open_page, served, DX.number)
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    assert _check(page, f"print({evil!r})\nraise ValueError({evil!r})\n") == f"Not yet: line 2: ValueError: {evil}"
    assert evil in page.inner_text("#puzzles-findings pre")
    code = f"def dense_backward_dx(dy, weight):\n    {evil!r}\n    if True: return 0 * dy @ weight.T  # {evil}\n"
    _check(page, code)
    assert evil in page.inner_text("#panel-puzzles .finding pre")
    assert not page.locator("#panel-puzzles img, #panel-puzzles script").count()


def test_errors_of_what_is_typed_are_one_line(open_page: Open, served: Served) -> None:
    page = _tab(open_page, served, DX.number)
    assert _check(page, "def dense_backward_dx(:") == "Not yet: line 1: SyntaxError: invalid syntax"
    assert _check(page, "") == "Not yet: there is no function dense_backward_dx in it"
    assert "exit status 3" in _check(page, "import os\nos._exit(3)")


def test_a_closed_page_leaves_no_check_running_and_two_pages_check_at_once(open_page: Open, served: Served) -> None:
    before = children(served.process.pid)
    page, other = _tab(open_page, served, DX.number), _tab(open_page, served, DX.number)
    page.fill("#puzzles-editor", "while True:\n    pass\n")
    page.click("#puzzles-check")
    assert page.inner_text("#puzzles-check") == "Checking …" and page.is_disabled("#puzzles-check")
    assert _check(other, DX.solution).startswith("Right")
    assert children(served.process.pid) - before
    page.close()
    other.close()
    assert any(children(served.process.pid) <= before or time.sleep(0.05) for _ in range(60))


def test_progress_that_cannot_be_kept_is_told(open_page: Open, served: Served, home: dict[str, str]) -> None:
    page = _tab(open_page, served, DX.number)
    assert _check(page, DX.solution).startswith("Right")
    page.wait_for_selector("[data-number='2'] .good :text('✓')")
    (folder,) = Path(home["HOME"]).rglob("puzzles")
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    page.click("#puzzles-check")
    page.wait_for_selector("#puzzles-error:visible")
    assert f"{folder}: the answer is right but cannot be kept" in page.inner_text("#puzzles-error")
    assert page.is_enabled("#puzzles-check")


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (400, "dark")])
def test_it_fits_and_is_labeled(open_page: Open, served: Served, width: int, theme: str) -> None:
    number = find("train_step-14").number
    page = _tab(open_page, served, number, viewport={"width": width, "height": 800}, color_scheme=theme)
    page.click("#puzzles-check")
    page.wait_for_selector("#panel-puzzles .finding")
    page.click("#puzzles-solution")
    page.click("#puzzles-show")
    page.wait_for_selector("#puzzles-answer pre")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getElementById('puzzles-editor').getBoundingClientRect().width") > 0.5 * min(
        width, 500
    )
    unnamed = (
        "[...document.querySelectorAll('#panel-puzzles button')].filter((each) => !each.textContent.trim()).length"
    )
    assert page.evaluate(unnamed) == 0
    assert page.get_by_label("To be mended").is_editable()
    current = page.locator("#panel-puzzles [aria-current]")
    assert current.count() == 1 and current.get_attribute("data-number") == str(number)


def test_messages_that_our_page_does_not_send_change_nothing(open_page: Open, served: Served) -> None:
    page = _tab(open_page, served, DX.number)
    messages = [{}, {"do": "open"}, {"do": "open", "number": [1]}, {"do": "check", "number": 2, "text": 3}]
    messages += [
        {"do": "hint", "number": 2, "which": -1},
        {"do": "hint", "number": 2, "which": "0"},
        {"do": "no", "number": 2},
    ]
    answers = page.evaluate(
        """(messages) => new Promise((done) => {
          const socket = new WebSocket(`ws://${location.host}${location.pathname}ws`);
          const answers = [];
          socket.onopen = () => [...messages, '{"do": "list"}'].forEach((each) => {
            socket.send(JSON.stringify({part: "puzzles", ...JSON.parse(each)}));
          });
          socket.onmessage = ({data}) => {
            answers.push(JSON.parse(data));
            if (answers.at(-1).list) { socket.close(); done(answers); }
          };
        })""",
        [json.dumps(each) for each in messages],
    )
    assert [set(each) - {"part"} for each in answers] == [{"parts"}, {"error"}, {"error"}, {"error"}, {"list"}]
