"""The inspector's command and its page, opened in headless Chromium where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from npgan.backend import select
from npgan.cli import main
from npgan.config import PRESETS, TrainConfig
from npgan.console import Console
from npgan.data.digits import render
from npgan.data.mnist import Dataset
from npgan.engines import Compute, choose
from npgan.engines.base import ReferenceEngine
from npgan.gan import StepMetrics, new_state
from npgan.inspector import StepTrace, Verdict, figures, inspect_step, prove
from npgan.inspector.history import charts, comparison, history_of, next_batch, next_step, snapshot
from npgan.inspector.page import Comparison, page
from npgan.inspector.terminal import IN_WORDS, print_screen
from npgan.runs.checkpoint import save
from npgan.runs.folder import RunFolder

ROWS, IMAGES = 8, 24
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return render(IMAGES, 0)[0].reshape(IMAGES, 784)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> RunFolder:
    """Two epochs of three iterations, a checkpoint after each epoch."""
    config = TrainConfig(dataset="digits", epochs=2, batch_size=ROWS)
    folder = RunFolder.create(tmp_path_factory.mktemp("inspect") / "run", overwrite=False)
    folder.write_config(config)
    state = new_state(config, select("numpy"))
    runtime = {"backend": "numpy", "precision": "fp32", "kernels": "reference", "data_dir": None, "data_sha256": ""}
    engine = ReferenceEngine(state, images, config)
    for epoch in (1, 2):
        measured = dict(zip(StepMetrics._fields, map(float, engine.run(IMAGES // ROWS)[-1]), strict=True))
        folder.append_metrics(
            {"epoch": epoch, "step": state.step, **measured, "seconds": 1.0, "images_per_second": 24.0}
        )
        path = folder.checkpoints / f"step-{state.step:09d}.safetensors"
        save(path, state, config, runtime, np.zeros(len(StepMetrics._fields)))
    return folder


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    few = Dataset(images, None, "digits", "a few digits")
    for module in ("history", "command"):
        monkeypatch.setattr(f"npgan.inspector.{module}.load_dataset", lambda *args, **more: few)


@pytest.fixture(scope="module")
def seen(images: np.ndarray) -> tuple[StepTrace, dict[str, Verdict]]:
    config = TrainConfig(dataset="digits", batch_size=ROWS)
    trace = inspect_step(new_state(config, select("numpy")), next_batch(images, config, 0), config)
    return trace, prove(trace)


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("columns", ["80", "160"])
def test_a_run_on_the_terminal(
    run: RunFolder, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert main(["inspect", str(run.path), "--full"]) == 0
    text = capsys.readouterr().out
    assert all(cell_len(line) <= int(columns) for line in text.splitlines())
    for expected in (
        "dW = xᵀ·dy and db = Σ_n dy_n",
        "npgan/nn/ops.py:",
        "✓ Every backward is right",
        "keeps x for backward",
        "over time",
    ):
        assert expected in text
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("of_run", [True, False])
@pytest.mark.parametrize("columns", ["80", "120"])
def test_unasked_it_prints_one_screen(
    run: RunFolder, of_run: bool, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["inspect", *([str(run.path)] if of_run else ["--dataset", "digits"])]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 45
    assert "…" not in text  # nothing is cut off
    assert all(cell_len(line) <= int(columns) for line in text.splitlines())
    for expected in ("70–81", "✓ Every backward is right", "--full", "--summary", "--only", "--html"):
        assert expected in text
    assert ("over time" in text) == of_run


def test_a_wrong_gradient_shows_on_the_screen(
    seen: tuple[StepTrace, dict[str, Verdict]], capsys: pytest.CaptureFixture[str]
) -> None:
    trace, verdicts = seen
    wrong = {**verdicts, "D.3.weight": Verdict(False, 0.5, "")}
    print_screen(trace, wrong, Console(width=80))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "✗" in line and "backward" in line]
    assert "D backward" in line


def test_every_part_of_a_step_has_its_words(images: np.ndarray) -> None:
    penalty = {("D step", "D penalty")}
    for options in ({}, {"loss": "bce-logits"}, PRESETS["r3gan"]):
        config = TrainConfig(dataset="digits", batch_size=ROWS, **options)
        trace = inspect_step(new_state(config, select("numpy")), next_batch(images, config, 0), config)
        assert {(op.step, op.part) for op in trace.ops} == set(IN_WORDS) - (set() if config.penalized else penalty)


@pytest.mark.usefixtures("few_images")
def test_without_plotext_there_are_no_curves_and_that_is_said(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotext", None)
    assert main(["inspect", str(run.path), "--summary"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("no curves in the terminal: plotext is not installed (pip install plotext); --html FILE") == 1


@pytest.mark.usefixtures("few_images")
def test_steps_and_runs_are_compared(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html = tmp_path / "page.html"
    other = shutil.copytree(run.path, tmp_path / "other")
    assert main(["inspect", str(run.path), "--step", "3", "--compare", "6", "--summary"]) == 0
    assert "A and B" in capsys.readouterr().out
    assert main(["inspect", str(run.path), "--compare", str(other), "--summary", "--html", str(html)]) == 0
    assert "B accuracy of D" in html.read_text(encoding="utf-8")


@pytest.mark.usefixtures("few_images")
def test_one_layer_of_a_new_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--dataset", "digits", "--only", "D.3"]) == 0
    text = capsys.readouterr().out
    assert "D.3 Dense 1024→512" in text
    assert "D.6" not in text


@pytest.mark.usefixtures("few_images")
def test_a_new_run_is_shown_by_its_first_step(images: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(dataset="digits", seed=4)
    first = inspect_step(new_state(config, select("numpy")), next_batch(images, config, 0), config)
    assert main(["inspect", "--dataset", "digits", "--seed", "4", "--only", "D.9"]) == 0
    norm = np.linalg.norm(first.gradients["D.9.weight"].astype(np.float64))
    assert figures.number(norm) in capsys.readouterr().out


@pytest.mark.usefixtures("few_images")
def test_any_step_of_a_new_run(images: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the step that training, by the engine that it would choose, comes to."""
    config = TrainConfig(dataset="digits", seed=4, **PRESETS["r3gan"])
    state = new_state(config, backend := select("numpy"))
    choose(Compute(), backend).start(state, images, config).run(3)
    fourth = inspect_step(state, next_batch(images, config, 3), config)
    new = ["inspect", "--dataset", "digits", "--seed", "4", "--preset", "r3gan"]
    assert main([*new, "--step", "3", "--only", "G.6"]) == 0
    text = capsys.readouterr().out
    assert "Step 4 of a new run on digits, r3gan, seed 4" in text
    assert figures.number(np.linalg.norm(fourth.gradients["G.6.weight"].astype(np.float64))) in text
    assert main([*new, "--step", "3", "--compare", "1", "--summary"]) == 0
    text = capsys.readouterr().out
    assert "A: Step 4 of a new run" in text and "B: Step 2 of a new run" in text
    assert main([*new, "--step", "-1"]) == 2
    assert "--step must be at least 0, got -1" in capsys.readouterr().err
    assert main([*new, "--compare", "runs/other"]) == 2
    assert "npgan inspect RUN --compare OTHER" in capsys.readouterr().err
    assert main([*new, "--step", "1001"]) == 2
    assert "--step 1001: a run of 1000 epochs has 1,000 iterations" in capsys.readouterr().err


def test_a_cosines_step_has_its_epochs_rate(images: np.ndarray) -> None:
    config = TrainConfig(dataset="digits", batch_size=ROWS, epochs=4, lr_schedule="cosine")
    states = [new_state(config, select("numpy")) for _ in range(2)]
    for state in states:
        ReferenceEngine(state, images, config).run(9)  # three of four epochs
        state.optimizer_g.lr, state.optimizer_d.lr = config.lr_g, config.lr_d  # as a checkpoint is restored
    seen = next_step(states[0], images, config)
    ReferenceEngine(states[1], images, config).run(1)
    assert seen.after.generator.parameters.tobytes() == states[1].generator.parameters.tobytes()


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--step", "4"], "checkpoints after steps 3, 6"),
        (["--only", "D.99"], "no such layer"),
        (["--compare", "4"], "checkpoints after steps 3, 6"),
        (["--html", "nowhere/page.html"], "does not exist"),
        (["--toy"], "leave RUN out"),
        (["--preset", "r3gan"], "--preset is of a new run"),
        (["--full", "--summary"], "--full shows all"),
        (["--full", "--only", "D.3"], "--full shows all"),
    ],
)
def test_mistakes_are_one_line(
    run: RunFolder, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(run.path), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_toy_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--toy"]) == 0
    assert "✓ right: dW1, db1, dW2 and db2" in capsys.readouterr().out


def test_history_has_the_metrics_and_a_step_at_each_checkpoint(run: RunFolder, images: np.ndarray) -> None:
    from npgan.inspector.history import checkpoint_at, step_of

    latest = checkpoint_at(run, None)
    trace = step_of(latest, images)
    history = history_of(run, images, latest, trace)
    assert [shot.step for shot in history.snapshots] == [4, 7]
    assert [shot.epoch for shot in history.snapshots] == [1.0, 2.0]
    drawn = {chart.title: chart for chart in charts(history)}
    assert len(drawn) == 10
    assert list(drawn["Gradient norm of D's layers, at each checkpoint"].curves) == [
        "D.0.weight", "D.3.weight", "D.6.weight", "D.9.weight",
    ]  # fmt: skip
    for names, chart in zip(
        (("loss_d", "loss_g"), ("d_real", "d_fake"), ("grad_norm_d", "grad_norm_g")), drawn.values(), strict=False
    ):
        assert list(chart.curves.items()) == [
            (name, ([1.0, 2.0], [line[name] for line in history.metrics])) for name in names
        ]
    shot = snapshot(trace, IMAGES)
    assert all(a == b for _, rows in comparison(shot, shot) for _, a, b in rows)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action")]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_small_and_alone(seen: tuple[StepTrace, dict[str, Verdict]], images: np.ndarray) -> None:
    trace, verdicts = seen
    shot = snapshot(trace, IMAGES)
    html = page("a <step>", trace, verdicts, None, Comparison(("A", "B"), (shot, shot), None))
    reader = _Reader()
    reader.feed(html)
    assert reader.open == []
    assert all(address.startswith(("#", "data:")) for address in reader.addresses)
    assert "url(" not in html and "@import" not in html
    assert len(html.encode()) <= 3_000_000
    assert html.count('<details class="op"') == len(trace.ops)
    assert "a &lt;step&gt;" in html
    for op in trace.ops:
        assert f"{op.source.file}:{op.source.line}" in html


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [500, 1200], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_in_chromium(
    seen: tuple[StepTrace, dict[str, Verdict]], width: int, dark: bool, tmp_path: Path
) -> None:
    file, picture = tmp_path / "page.html", tmp_path / "page.png"
    html = page("First step", *seen)
    # Every operation opened by the page's own script; nothing may stick out to the right.
    probe = (
        '<script>document.getElementById("open").click();document.title = JSON.stringify({'
        'open: document.querySelectorAll("details.op[open]").length, wide: document.documentElement.scrollWidth - innerWidth});'
        "</script></body>"
    )
    file.write_text(html.replace("</body>", probe), encoding="utf-8")
    scheme = "--blink-settings=preferredColorScheme=" + ("0" if dark else "1")
    flags = [*FLAGS, scheme, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1200"]
    dumped = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", dumped.stdout)
    assert title, dumped.stderr
    assert title[1] == f'{{"open":{len(seen[0].ops)},"wide":0}}'
    assert "CONSOLE" not in dumped.stderr  # where Chromium reports a script's errors
    subprocess.run(
        [CHROMIUM, *flags, f"--screenshot={picture}", file.as_uri()], capture_output=True, check=True, timeout=120
    )
    shot = np.asarray(Image.open(picture).convert("L"), dtype=np.float64)
    assert shot.shape[1] == width
    assert (np.median(shot) < 60) if dark else (np.median(shot) > 200)
    assert shot.std() > 5  # something is drawn
