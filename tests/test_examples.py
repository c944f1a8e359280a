"""docs/examples: every script works as it stands, at a small size; so does the notebook; the docs show them all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from npgan.data.digits import render
from npgan.data.idx import write_idx

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits in MNIST's files."""
    folder = tmp_path_factory.mktemp("data")
    for split, name in enumerate(("train", "t10k")):
        images, labels = render(500, seed=1, split=split)
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels)
    return folder


def _run(name: str, folder: Path, *flags: str) -> str:
    """What the script prints. It must end well and without a warning."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    command = [sys.executable, "-W", "error", str(FOLDER / name), *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=100)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def _last_share(text: str) -> float:
    return float(re.findall(r"([\d.]+)%", text)[-1]) / 100.0


def test_two_moons(tmp_path: Path) -> None:
    assert _last_share(_run("two_moons.py", tmp_path, "--steps", "150")) > 0.97


def test_mnist_classifier(data: Path, tmp_path: Path) -> None:
    assert _last_share(_run("mnist_classifier.py", tmp_path, "--data-dir", str(data), "--epochs", "4")) > 0.5


def test_eight_gaussians(tmp_path: Path) -> None:
    out = _run("eight_gaussians.py", tmp_path, "--steps", "60", "--out", "plane.png")
    assert re.search(r"modes found: \d of 8; samples within 3 standard deviations of one: \d+%", out)
    with Image.open(tmp_path / "plane.png") as picture:
        colors = picture.getcolors(1 << 20)
        assert picture.format == "PNG" and colors is not None and len(colors) > 10  # D's surface
        assert {(0, 0, 0), (255, 255, 255)} <= {color for _, color in colors}  # the samples, the centers


def test_layer_norm(tmp_path: Path) -> None:
    out = _run("layer_norm.py", tmp_path)
    assert "All 8 comparisons pass" in out
    assert float(out.split()[-1]) < 0.01


def test_the_paper(data: Path, tmp_path: Path) -> None:
    out = _run("paper_2014.py", tmp_path, "--data-dir", str(data), "--epochs", "2")
    assert [line.split(":")[0] for line in out.splitlines()] == ["epoch 1", "epoch 2"]
    with Image.open(tmp_path / "paper-2014" / "epoch-02.png") as picture:
        assert picture.size == (484, 484)


def test_every_script_is_tested_is_short_and_uses_what_is_public() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8")
        assert f'_run("{script.name}"' in tests
        assert len(text.splitlines()) <= 60, script
        assert not re.search(r"(from|import) npgan\.", text), script


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_from_top_to_bottom_and_holds_no_outputs(
    notebook: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in written["cells"] if cell["cell_type"] == "code"]
    assert (written["nbformat"], written["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in written["cells"]}) == len(written["cells"])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells, 1):
        exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)
    assert capsys.readouterr().out.endswith("passed: False\n")
    mended = "".join(cells[-1]["source"]).replace("s + s * (1.0 - s))  # <-", "s + x * s * (1.0 - s))")
    exec(mended, names)
    assert capsys.readouterr().out.endswith("passed: True\n")


def test_the_docs_show_every_example() -> None:
    page = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert re.findall(r'^--8<-- "(.*)"$', page, re.MULTILINE) and NOTEBOOKS
    assert set(re.findall(r'^--8<-- "(.*)"$', page, re.MULTILINE)) == {script.name for script in SCRIPTS}
    for file in (*SCRIPTS, *NOTEBOOKS):
        assert f"]({file.name})" in page
