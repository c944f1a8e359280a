"""``npgan puzzle``: every bug can be mended, no wrong answer passes, nothing typed can hang it, solved ones stay solved."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from npgan.cli import main
from npgan.gradcheck.gallery import BUGS
from npgan.gradcheck.suite import LEVELS
from npgan.puzzles import progress, worker
from npgan.puzzles.check import check
from npgan.puzzles.progress import keep_solved, solved
from npgan.puzzles.puzzle import Puzzle, find, puzzles
from npgan.puzzles.verdict import CODE, SECONDS, Verdict

DX = find("dense_backward_dx")
HEAD = "def dense_backward_dx(dy, weight):\n"
RIGHT = f"{HEAD}    return dy @ weight.T\n"
FUNCTIONS = {puzzle.bug.function: puzzle for puzzle in puzzles()}
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Progress of the test's own, and a folder of its own."""
    folder = tmp_path / "data" / "puzzles"
    monkeypatch.setattr(progress, "answers_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def checked(text: str, puzzle: Puzzle = DX) -> Verdict:
    """In a process of its own."""
    return asyncio.run(check(puzzle, text))


def here(text: str, puzzle: Puzzle = DX) -> Verdict:
    """By the same function in this process."""
    return worker.check(puzzle.bug.function, text)


# --- The puzzles


def test_there_is_one_for_each_bug() -> None:
    assert [puzzle.bug for puzzle in puzzles()] == list(BUGS)
    assert len({puzzle.name for puzzle in puzzles()}) == len(BUGS)


@pytest.mark.parametrize("puzzle", FUNCTIONS.values(), ids=lambda puzzle: puzzle.name)
def test_as_given_it_fails_where_the_bug_is(puzzle: Puzzle) -> None:
    """One bug of each function; ``tests/gradcheck`` has them all."""
    verdict = here(puzzle.broken, puzzle)
    assert not verdict.solved and "comparisons fail at the level" in verdict.line
    (diagnosis,) = verdict.diagnoses
    assert diagnosis.op == puzzle.bug.culprit and " wrong by the " in diagnosis.found and diagnosis.hint
    if puzzle.bug.culprit == puzzle.bug.function:
        assert diagnosis.source is not None and diagnosis.source.file == CODE
        lines = puzzle.broken.splitlines()
        assert all(lines[number - 1].endswith(line) for number, line in diagnosis.source.code if line != "…")


@pytest.mark.parametrize("puzzle", puzzles(), ids=lambda puzzle: puzzle.name)
def test_its_hints_lead_to_the_bug(puzzle: Puzzle) -> None:
    assert puzzle.title in puzzle.hints[0] and puzzle.title not in puzzle.broken
    changed = set(puzzle.broken.splitlines()) - set(puzzle.solution.splitlines())
    assert all(line.strip() in puzzle.hints[1] for line in changed)


@pytest.mark.parametrize("puzzle", FUNCTIONS.values(), ids=lambda puzzle: puzzle.bug.function)
def test_the_textbooks_own_function_passes(monkeypatch: pytest.MonkeyPatch, puzzle: Puzzle) -> None:
    if puzzle.bug.function != "gan.train_step":  # that level takes most of the time, and holds other code
        monkeypatch.setattr(worker, "LEVELS", [level for level in LEVELS if level != "train_step"])
    verdict = here(puzzle.solution, puzzle)
    assert verdict.solved and not verdict.diagnoses and verdict.line.endswith("comparisons pass."), verdict


@pytest.mark.parametrize("puzzle", FUNCTIONS.values(), ids=lambda puzzle: puzzle.bug.function)
def test_what_stands_above_is_other_code(puzzle: Puzzle) -> None:
    assert puzzle.formula and puzzle.above.startswith("# npgan.") and "def " in puzzle.above
    assert puzzle.broken.startswith("def ") and puzzle.broken.splitlines()[0] not in puzzle.above.splitlines()


# --- Answers


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dense_backward_dx", "import numpy\n\ndef product(a, b):\n    return numpy.einsum('no,io->ni', a, b)\n\n"
         "dense_backward_dx = lambda dy, weight: product(dy, weight)\n"),
        ("dense_backward_params-1", "def dense_backward_params(dy, x):\n    dw = sum(np.outer(a, b) for a, b in zip(x, dy))\n"
         "    return dw, np.ones(len(dy)) @ dy\n"),
        ("leaky_relu_backward", "def leaky_relu_backward(dy, x, slope):\n    return dy * np.where(x >= 0, 1.0, slope)\n"),
        ("sigmoid_backward", "def sigmoid_backward(dy, y):\n    return dy * (y - y**2)\n"),
        ("tanh_backward", "def tanh_backward(dy, y):\n    return dy * (1 - y) * (1 + y)\n"),
        ("binary_cross_entropy_backward-2", "def binary_cross_entropy_backward(p, target, epsilon=BCE_EPSILON):\n"
         "    q = 1 - target\n    return (q / (1 - p + epsilon) - target / (p + epsilon)) * (1 / len(p))\n"),
        ("Dense.backward-1", "    def backward(self, dy, cache):\n        self.dweight[:] = cache.T @ dy\n"
         "        self.dbias[:] = dy.sum(axis=0)\n        return dy @ self.weight.T\n"),
        ("Sigmoid.forward", "def forward(self, x, key=None):\n    y = 1 / (1 + np.exp(-x))\n    return y, y\n"),
        ("Dropout.double_backward", "def double_backward(self, u, dy, cache):\n    return u if cache is None else u * cache\n"),
        ("Adam.update-2", "def update(self, parameters, gradients):\n    self.step += 1\n    b1, b2 = self.beta1, self.beta2\n"
         "    self.m += (1 - b1) * (gradients - self.m)\n    self.v += (1 - b2) * (gradients**2 - self.v)\n"
         "    m, v = self.m / (1 - b1**self.step), self.v / (1 - b2**self.step)\n"
         "    parameters -= self.lr * m / (v**0.5 + self.epsilon)\n"),
    ],
)  # fmt: skip
def test_a_right_answer_in_other_words_passes(name: str, text: str) -> None:
    verdict = here(text, find(name))
    assert verdict.solved and verdict.line.endswith("pass."), verdict


@pytest.mark.parametrize(
    "body",
    [
        "    dx = np.zeros((len(dy), len(weight)))\n    for n in range(len(dx)):\n        dx[n] = weight @ dy[n]\n"
        "    return dx\n",
        "    dx = np.zeros((len(dy), len(weight)))\n    for n in range(len(dy)):\n        for i in range(len(weight)):\n"
        "            dx[n, i] = sum(dy[n, o] * weight[i, o] for o in range(dy.shape[1]))\n    return dx\n",
        "    return dy @ weight.conj().T\n",
    ],
)
def test_an_answer_that_takes_no_complex_numbers_is_right_and_told_so(body: str) -> None:
    verdict = here(HEAD + body)
    assert verdict.solved and "should take complex numbers too" in verdict.line
    assert not here(
        HEAD + body.replace("return dx", "return dx * (1 + 1e-7)").replace("dy @", "dy * 1.0000001 @")
    ).solved


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("dense_backward_dx", "dy @ weight.T", "(dy.astype(np.float32) @ weight.T.astype(np.float32)).astype(float)"),
        ("dense_backward_params-1", "dy.sum(axis=0)", "dy.sum(axis=0) * (len(dy) == 7 or 2)"),
        ("leaky_relu_backward", "slope * dy", "dy"),
        ("leaky_relu_backward", "x.real > 0", "x.real > 1e-7"),
        ("dropout_backward-1", "dy * mask", "dy * (mask > 0)"),
        ("sigmoid_backward", "(1.0 - y)", "np.where(y > 0.99, 0.0, 1.0 - y)"),
        ("relativistic_backward", "-dd", "-2.0 * dd"),
        ("Adam.update-1", "self.step += 1", "pass"),
        ("Dense.backward-1", "return", "self.dbias[0] += 1e-9\n    return"),
        ("train_step-1", "state.step += 1", "pass"),
        ("train_step-1", "average += ", "_ = "),
        ("train_step-1", "config.r2 / b)", "config.r2 / b + (config.r2 > 0) * 1e-9)"),
        ("train_step-1", "target[:b] = 1.0 - config.label_smoothing", "target[:b] = 1.0"),
        ("train_step-1", "target_g[: -len(fake)] = 0.0", "pass"),
    ],
)  # fmt: skip
def test_an_answer_that_is_wrong_somewhere_fails(name: str, old: str, new: str) -> None:
    puzzle = find(name)
    assert puzzle.solution.count(old) >= 1
    verdict = here(puzzle.solution.replace(old, new), puzzle)
    assert not verdict.solved and verdict.diagnoses, verdict


def test_one_puzzles_answer_is_not_anothers() -> None:
    assert not here(find("tanh_backward").solution, find("sigmoid_backward")).solved


# --- What is typed may be anything


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no function dense_backward_dx in it"),
        ("dense_backward_dx = 3", "there is no function dense_backward_dx in it"),
        (f"{HEAD}    return dy @@ weight\n", "line 2: SyntaxError: invalid syntax"),
        (f"{HEAD}  x = 1\n    return x\n", "line 3: IndentationError"),
        ("\0", "SyntaxError"),
        ("x = 1 / 0\n" + RIGHT, "line 1: ZeroDivisionError: division by zero"),
        (f"{HEAD}    raise SystemExit\n", "line 2: SystemExit would end the program"),
        (f"{HEAD}    raise KeyboardInterrupt\n", "line 2: KeyboardInterrupt would end the program"),
        (f"{HEAD}    return dyy\n", "raised NameError in line 2: name 'dyy' is not defined"),
        (f"{HEAD}    return dy\n", "the gradient of x has shape (7, 3), x has (7, 4)"),
        (f"{HEAD}    pass\n", "the gradient of x is NoneType, not an array"),
        (f"{HEAD}    yield dy\n", "the gradient of x is generator, not an array"),
        (f"{HEAD}    return dy @ weight.T + 0j\n", "the gradient of x is complex128"),
        (f"{HEAD}    return dy @ weight.T, dy\n", "returned 2 gradients, not 1: of x"),
        (f"{HEAD}    dy *= 2\n    return dy @ weight.T / 2\n", "changed dy in place"),
        (f"{HEAD}    return dense_backward_dx(dy, weight)\n", "raised RecursionError in line 2"),
        ("def dense_backward_dx(dy):\n    return dy\n", "takes 1 positional argument but 2 were given"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_told_in_one_line(text: str, said: str) -> None:
    verdict = here(text)
    found = [verdict.line, *(each.found for each in verdict.diagnoses)]
    assert not verdict.solved and any(said in line for line in found), verdict
    assert all(line.isprintable() and line for line in found)


@pytest.mark.parametrize(
    "text",
    [
        "from npgan.gradcheck import check\ncheck.run_check = lambda *given: []\n",
        "from npgan.gradcheck import check\ncheck._relative_error = lambda a, n, typical: 0 * a\n",
        "from npgan.gradcheck.report import Report\nReport.passed = property(lambda self: True)\n",
        "from npgan.nn import ops\nops.dense_forward.__code__ = (lambda x, weight, bias: 2 * (x @ weight)).__code__\n",
        "np.abs = lambda x: 0 * x\n",
        "import builtins\nbuiltins.all = lambda each: True\n",
    ],
)
def test_code_that_changes_the_checker_is_not_solved(text: str) -> None:
    verdict = checked(f"{text}{HEAD}    return 2 * dy @ weight.T\n")
    assert not verdict.solved and "has been changed: the function alone is to be mended" in verdict.line, verdict


def test_what_it_writes_is_shown_and_forges_nothing() -> None:
    forged = json.dumps({"secret": "", "verdict": Verdict(True, "Right", []).to_dict()})
    code = f"import os, sys\nfor each in range(20):\n    try:\n        os.write(each, {forged!r}.encode() + b'\\n')\n"
    code += (
        f"    except OSError:\n        pass\nprint({forged!r})\nsys.stderr.write('é' * 10**6)\n{HEAD}    return dy\n"
    )
    verdict = checked(code)
    assert not verdict.solved and verdict.diagnoses
    assert verdict.printed.startswith(forged) and "é" in verdict.printed and len(verdict.printed) == 2000


def test_the_process_starts_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPGAN_TEST_SECRET", "42")
    code = "import os, sys\nprint(os.listdir(), os.environ.get('NPGAN_TEST_SECRET'), sys.stdin.read())\n"
    verdict = checked(code + RIGHT)
    assert verdict.solved and verdict.printed == "[] None \n"


@posix
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}    np.zeros(10**12)\n", "more memory than the 1 GiB that it may have"),
        (f"{HEAD}    np.ones(10**9)\n", "more memory than the 1 GiB that it may have"),
        ("import os\nos._exit(0)\n", "the process ended before the checks did, with exit status 0"),
        ("import os\nos.abort()\n", "the process was ended by SIGABRT"),
        ("open('x', 'w').write('x' * 10**8)\n", "OSError: File too large"),
    ],
)  # fmt: skip
def test_limits(text: str, said: str) -> None:
    verdict = checked(text)
    assert not verdict.solved and said in verdict.line, verdict


@pytest.mark.parametrize("code", ["    while True:\n        pass\n", "    time.sleep(999)\n    return dy\n"])
def test_what_does_not_end_is_ended(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SECONDS == 10
    monkeypatch.setattr("npgan.puzzles.check.SECONDS", 1)
    verdict = checked(f"import time\n{HEAD}{code}")
    assert not verdict.solved
    assert verdict.line in ("no end after 1 seconds: it was in line 3", "no end after 1 seconds: it was in line 4")


def test_a_process_that_takes_its_own_limit_away_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npgan.puzzles.check.SECONDS", 1)
    monkeypatch.setattr("npgan.puzzles.check._START", 1)
    verdict = checked("import faulthandler, time\nfaulthandler.cancel_dump_traceback_later()\ntime.sleep(999)\n")
    assert not verdict.solved and verdict.line == "no end after 1 seconds"


def _lock_held(file: Path) -> bool:
    import fcntl

    with open(file, "a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


_LOCK = """
import fcntl, time
file = open({!r}, "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(999)
"""


@posix
def test_what_it_has_started_is_ended(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("who is not root may start no process at all: RLIMIT_NPROC")
    file = tmp_path / "lock"
    code = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', " + repr(_LOCK.format(str(file)))
    code += "], stdout=subprocess.PIPE)\nprint(child.stdout.readline())\n"
    verdict = checked(code + RIGHT)
    assert verdict.solved and "held" in verdict.printed
    assert any(
        not _lock_held(file) or time.sleep(0.02) for _ in range(500)
    )  # it has been killed, and dies in its own time


@posix
def test_who_is_killed_leaves_no_check_running(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    code = "import asyncio\nfrom npgan.puzzles.check import check\nfrom npgan.puzzles.puzzle import find\n"
    code += f"asyncio.run(check(find('2'), {_LOCK.format(str(file))!r}))\n"
    asking = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert any(_lock_held(file) or time.sleep(0.02) for _ in range(3000))
    asking.kill()
    asking.wait()
    assert any(not _lock_held(file) or time.sleep(0.02) for _ in range(200))


@posix
def test_a_check_that_is_cancelled_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "lock"

    async def cancelled() -> None:
        task = asyncio.create_task(check(DX, _LOCK.format(str(file))))
        while not _lock_held(file):
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(cancelled(), 60))
    assert not _lock_held(file)


# --- What is solved stays solved


def test_solved_ones_are_kept_with_their_answers(kept: Path) -> None:
    assert solved() == set()
    for each in puzzles():
        keep_solved(each, each.name)
    assert solved() == set(puzzles())
    assert {file.read_text(encoding="utf-8") for file in kept.iterdir()} == {each.name for each in puzzles()}
    (kept / "sigmoid-s-derivative-without-the-factor-y.py").unlink()
    (kept / "of another version.py").touch()
    assert set(puzzles()) - solved() == {find("sigmoid_backward")}


def test_they_are_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("platformdirs.user_data_path", lambda name, appauthor: Path("users") / name)
    assert progress.answers_folder() == Path("users/npgan/puzzles")


def test_where_they_cannot_be_kept_or_read_it_is_told(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.parent.mkdir()
    kept.write_text("a file in the place of the folder")
    (tmp_path / "answer.py").write_text(RIGHT)
    assert main(["puzzle", "2", "--check", "answer.py"]) == 2
    out, error = capsys.readouterr()
    assert "Right: all" in out and error.count("\n") == 1 and f"{kept}: the answer is right but cannot be kept" in error
    assert main(["puzzle"]) == 2
    assert f"{kept}: which puzzles are solved cannot be read" in capsys.readouterr().err


# --- The terminal


def test_from_the_list_to_a_solved_puzzle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["puzzle"]) == 0
    before = capsys.readouterr().out
    assert "0 of 43 solved" in before and all(puzzle.name in before for puzzle in puzzles())
    assert not any(puzzle.title in before for puzzle in puzzles())

    assert main(["puzzle", "2"]) == 0
    shown, file = capsys.readouterr().out, tmp_path / "puzzle-2.py"
    assert "def dense_forward" in shown and "dx = dy·Wᵀ" in shown and "puzzle-2.py is written" in shown
    text = file.read_text(encoding="utf-8")
    assert text.endswith(DX.broken) and all(
        line.startswith("#") for line in text.removesuffix(DX.broken).split("\n")[:-2]
    )

    assert main(["puzzle", "2", "--check"]) == 1
    wrong = capsys.readouterr().out
    line = text[: text.index("return dy")].count("\n") + 1
    assert "28 of 28 wrong by the complex step" in wrong and f"{line}  return dy @ weight.reshape" in wrong

    file.write_text(text.replace("weight.reshape(weight.shape[::-1])", "weight.T"), encoding="utf-8")
    assert main(["puzzle", "dense_backward_dx"]) == 0
    assert "there already and left as it is" in capsys.readouterr().out
    assert main(["puzzle", "2", "--check", str(file)]) == 0
    assert f"It was: {DX.title}" in capsys.readouterr().out
    assert main(["puzzle"]) == 0
    after = capsys.readouterr().out
    assert "1 of 43 solved" in after and DX.title in " ".join(after.split())

    file.write_text(DX.broken, encoding="utf-8")
    assert main(["puzzle", "2", "--check"]) == 1  # wrong again, and still solved
    assert solved() == {DX}


def test_hints_and_the_solution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["puzzle", "2", "--hint"]) == 0
    assert capsys.readouterr().out == f"{DX.hints[0]}\n"
    assert main(["puzzle", "2", "--hint", "2"]) == 0
    assert capsys.readouterr().out == "\n".join(DX.hints) + "\n"
    assert main(["puzzle", "2", "--solution"]) == 0
    assert "return dy @ weight.T" in capsys.readouterr().out
    assert solved() == set()


def test_in_an_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    assert main(["puzzle", "2", "--edit"]) == 2
    assert "$EDITOR, which is not set" in capsys.readouterr().err
    editor = tmp_path / "my editor.py"
    editor.write_text("import pathlib, sys\nfile = pathlib.Path(sys.argv[1])\ntext = file.read_text('utf-8')\n"
                      "file.write_text(text.replace('weight.reshape(weight.shape[::-1])', 'weight.T'), 'utf-8')\n")  # fmt: skip
    monkeypatch.setenv("EDITOR", f'"{sys.executable}" "{editor}"')
    assert main(["puzzle", "2", "--edit"]) == 0
    assert solved() == {DX}
    capsys.readouterr()
    monkeypatch.setenv("VISUAL", f'"{sys.executable}" -c "raise SystemExit(3)"')
    assert main(["puzzle", "2", "--edit"]) == 1
    assert "ended with status 3: nothing was checked" in capsys.readouterr().err
    monkeypatch.setenv("VISUAL", str(tmp_path / "none"))
    assert main(["puzzle", "2", "--edit"]) == 2
    assert "does not start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["99"], "there is no puzzle '99': they are 1 to 43"),
        (["0"], "there is no puzzle '0'"),
        (["dense_backward_dy"], "did you mean dense_backward_"),
        (["train_step"], "did you mean train_step-1 to train_step-14?"),
        (["--check"], "which puzzle?"),
        (["--hint"], "which puzzle?"),
        (["2", "--hint", "3"], "--hint must be from 1 to 2, got 3"),
        (["2", "--hint", "0"], "--hint must be from 1 to 2, got 0"),
        (["2", "--check", "--solution"], "not allowed with"),
        (["2", "--check"], "puzzle-2.py: no such file; npgan puzzle 2 writes puzzle-2.py"),
        (["2", "--check", "."], ".: cannot be read"),
        (["2", "--check", "large"], "large: is larger than 100,000 bytes"),
        (["2", "--check", "binary"], "binary: cannot be read"),
        (["2", "--peek"], "there is no flag --peek"),
    ],
)
def test_misuse_is_one_line_and_status_2(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "large").write_bytes(bytes(100_001))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    try:
        status = main(["puzzle", *words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and said in error, error


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "answer.py").write_text(RIGHT, encoding="utf-8-sig")
    assert main(["puzzle", "2", "--check", "answer.py"]) == 0


def test_what_it_printed_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "answer.py").write_text("print('[red]\x1b[2J')\n" + RIGHT)
    assert main(["puzzle", "2", "--check", "answer.py"]) == 0
    out = capsys.readouterr().out
    assert "it printed:\n  [red]" in out and "\x1b" not in out
