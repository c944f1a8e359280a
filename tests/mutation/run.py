"""The mutation run: every mutant is tested in a copy of the tree, and one that no test notices has survived.

``python tests/mutation/run.py`` tests all, about half an hour on two cores. It may be interrupted: results are kept in
build/mutation and taken up again while nothing in npgan/ and tests/ changes. ``--killed-stay-killed``, for work on the tests:
what was killed before they changed is not tested again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from equivalent import EQUIVALENT
from generated import sample
from mutants import Mutant
from planted import planted

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "mutation" / "results.jsonl"
SUITES = {  # what is tested for a mutant of a part of npgan, after the tests that stand where it stands
    "nn": ("tests/nn", "tests/test_modules.py", "tests/test_gan.py", "tests/gradcheck"),
    "gan": ("tests/test_gan.py", "tests/test_config.py", "tests/gradcheck"),
    "data": ("tests/data",),
    "engines": ("tests/engines/test_base.py", "tests/engines/test_schedule.py", "tests/engines/cpu"),
    "runs": ("tests/test_files.py", "tests/runs", "tests/test_cli.py", "tests/data"),
    "evaluation": ("tests/evaluation",),
    "inspector": ("tests/inspector",),
    "gradcheck": ("tests/gradcheck", "tests/inspector"),
    "puzzles": ("tests/puzzles",),
}  # fmt: skip
LEFT_OUT = "not chromium and not killed_runs and not second_signal"  # slow, or not sure on a busy machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the sample of generated mutants (default: 0)")
    parser.add_argument(
        "--sample", type=int, default=14, metavar="N", help="generated mutants of each part (default: 14)"
    )
    parser.add_argument("--workers", type=int, default=2, help="copies of the tree at work at once (default: 2)")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants with this in their name")
    parser.add_argument("--list", action="store_true", help="print the mutants and test none")
    parser.add_argument("--killed-stay-killed", action="store_true", help="see above")
    options = parser.parse_args()
    mutants, stale = planted(ROOT)
    for part in SUITES:
        mutants += sample(ROOT / "npgan", part, options.sample, options.seed)
    mutants = [
        mutant for mutant in {mutant.digest: mutant for mutant in mutants}.values() if options.only in mutant.name
    ]
    if options.list:
        print(*(f"{mutant.kind:10} {mutant.name}" for mutant in mutants), sep="\n")
        return 0
    done = _earlier(options.killed_stay_killed)
    left = [mutant for mutant in mutants if mutant.digest not in done]
    if left:
        print(f"{len(left)} of {len(mutants)} mutants are left to test", flush=True)
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(options.workers) as pool:
            run = _Run(Path(folder), done)
            try:
                list(pool.map(run.measure, sorted({mutant.part for mutant in left})))
                list(pool.map(run.test, left))
            except BaseException:  # Ctrl-C, or tests that fail without a mutant
                run.stop()
                raise
    return _report(mutants, done, stale)


class _Run:
    """``done`` is added to, here and in the file of results."""

    def __init__(self, folder: Path, done: dict[str, dict[str, Any]]) -> None:
        self.folder, self.done, self.tested = folder, done, 0
        self.lock, self.stopped = threading.Lock(), False
        self.running: set[subprocess.Popen[str]] = set()
        self.base, self.tree = folder / "base", _tree()
        for name in _tracked():
            (self.base / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.base / name)
        self.pytest(self.base, ["--collect-only"], 600)  # compiles Python and the kernels, once for all copies

    def measure(self, part: str) -> None:
        """Without a mutant the tests must pass, and how long they take says when a mutant hangs."""
        if part not in self.done:
            begin = time.perf_counter()
            tree = self.folder / part
            shutil.copytree(self.base, tree)
            status, _, output = self.pytest(tree, SUITES[part], 1800)
            if status:
                raise SystemExit(f"without a mutant the tests of {part} fail:\n{output}")
            self.record(
                part, seconds=round(time.perf_counter() - begin), outcome="passed", name=f"{part} without a mutant"
            )

    def test(self, mutant: Mutant) -> None:
        tree = self.folder / mutant.digest[:8]
        shutil.copytree(self.base, tree)
        try:
            file = tree / mutant.file
            file.write_text(mutant.source, encoding="utf-8")
            for cached in file.parent.glob(f"__pycache__/{file.stem}.*"):
                cached.unlink()
            if "engines/cpu" in mutant.file:  # numba does not look whether what a kernel calls has changed
                shutil.rmtree(file.parent / "__pycache__")
            folder = Path("tests", *Path(mutant.file).parts[1:-1])
            mirror = folder / f"test_{file.stem}.py"
            tests = sorted(SUITES[mutant.part], key=lambda test: test != str(folder))
            begin, limit = time.perf_counter(), 3 * self.done[mutant.part]["seconds"] + 60
            status, killer, _ = self.pytest(tree, [str(mirror)] * (tree / mirror).exists() + tests, limit)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
        outcome, seconds = "killed" if status else "survived", round(time.perf_counter() - begin)
        self.record(mutant.digest, seconds=seconds, outcome=outcome, name=mutant.name, by=killer)

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.running:
                os.killpg(process.pid, signal.SIGKILL)

    def record(self, key: str, **line: Any) -> None:
        with self.lock:
            if self.stopped:
                return
            self.done[key] = line
            RESULTS.parent.mkdir(parents=True, exist_ok=True)
            with RESULTS.open("a", encoding="utf-8") as results:
                results.write(json.dumps({"key": key, "tree": self.tree, **line}, ensure_ascii=False) + "\n")
            self.tested += "by" in line
            print(f"{self.tested:4} {line['outcome']:9} {line['seconds']:4} s  {line['name']}", flush=True)

    def pytest(self, tree: Path, tests: Any, limit: float) -> tuple[int, str, str]:
        """Status, the test that failed or "time", and all that was said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NPGAN_", "PYTEST_"))}
        environment |= {"PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(tree / ".cache")}
        command = [sys.executable, "-m", "pytest", "-x", "-k", LEFT_OUT, "--tb=line", f"--basetemp={tree / 't'}"]
        command += ["-p", "no:cacheprovider", "--hypothesis-seed=0", *dict.fromkeys(tests)]
        process = subprocess.Popen(
            command, cwd=tree, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.running.add(process)
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # pytest then clears its folders away
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            return 1, "time", ""
        finally:
            self.running.discard(process)
        if process.returncode == -signal.SIGKILL and not self.stopped:
            raise SystemExit("the tests were killed from outside, perhaps for want of memory: fewer --workers?")
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return process.returncode, failed[1] if failed else "", output


def _tracked() -> list[str]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return sorted({name for name in names.split("\0") if name and (ROOT / name).is_file()})


def _tree() -> str:
    """Of what results depend on."""
    sha = hashlib.sha256()
    for name in _tracked():
        if name.startswith(("npgan/", "tests/")) and not name.startswith("tests/mutation/"):
            sha.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
    return sha.hexdigest()


def _earlier(killed_stay: bool) -> dict[str, dict[str, Any]]:
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    results = [json.loads(line) for line in lines if line.endswith("}")]  # a kill may tear the last line
    tree = _tree()
    return {
        line["key"]: line for line in results if line["tree"] == tree or (killed_stay and line["outcome"] == "killed")
    }


def _report(mutants: list[Mutant], done: dict[str, dict[str, Any]], stale: list[str]) -> int:
    counts: dict[str, Counter[str]] = {part: Counter() for part in SUITES}
    survivors = []
    for mutant in mutants:
        outcome = done[mutant.digest]["outcome"]
        if outcome == "survived" and (mutant.file, mutant.old, mutant.new) in EQUIVALENT:
            outcome = "equivalent"
        counts[mutant.part].update([outcome, "planted" if mutant.kind == "planted" else "generated"])
        survivors += [mutant.name] if outcome == "survived" else []
    columns = "planted", "generated", "killed", "equivalent", "survived"
    print(f"\n| part | {' | '.join(columns)} | score |\n| --- " + "| ---: " * 6 + "|")
    for part, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        score = count["killed"] / max(count["killed"] + count["survived"], 1)
        print(f"| {part} | {' | '.join(str(count[column]) for column in columns)} | {score:.1%} |")
    for text in survivors:
        print(f"survived: {text}")
    for text in stale:
        print(f"stale, its old text is not there once: {text}")
    return int(bool(survivors or stale))


if __name__ == "__main__":
    sys.exit(main())
