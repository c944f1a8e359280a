"""Checkpoints whose checksum is right and whose content no run has written, and what is no file: the one before is taken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialize

from npgan.backend import select
from npgan.cli import main
from npgan.runs.checkpoint import DamagedCheckpoint, _digest, load, restore
from npgan.runs.folder import RunFolder

Train = Callable[..., int]
Tensors = dict[str, np.ndarray]
LAST = "checkpoints/step-000000008.safetensors"
ESC = "\x1b]0;owned\x07[bold]"


def forge(path: Path, change: Callable[[dict[str, Any], Tensors], object]) -> None:
    """Changes the metadata and the tensors of a checkpoint, under a right checksum."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    body, tensors = json.loads(header["__metadata__"]["npgan"].partition(" ")[2]), parse(content)
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(body, tensors)
    text = json.dumps(body)
    path.write_bytes(serialize(tensors, {"npgan": f"{_digest(text, tensors)} {text}"}))


def _number(name: str, value: float) -> Callable[[dict[str, Any], Tensors], object]:
    return lambda body, tensors: tensors[name].reshape(-1).__setitem__(5, value)


def _array(name: str, new: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any], Tensors], object]:
    return lambda body, tensors: tensors.__setitem__(name, new(tensors[name]))


def _entry(part: str, **entries: object) -> Callable[[dict[str, Any], Tensors], object]:
    return lambda body, tensors: body[part].update(entries)


FORGED = {
    "tensor generator.4.weight is not all finite": _number("generator.4.weight", np.nan),
    "tensor discriminator.adam.v is not all finite": _number("discriminator.adam.v", np.inf),
    "tensor generator.adam.v holds negative means of squares": _number("generator.adam.v", -1e-9),
    "tensor training.epoch_totals is not all finite": _number("training.epoch_totals", -np.inf),
    "tensor generator.0.weight is float64 (100, 256), expected float32 (100, 256)": _array(
        "generator.0.weight", np.float64
    ),
    "tensor generator.0.weight is not all finite numbers": _array("generator.0.weight", lambda array: array.astype("i4")),
    "tensor generator.adam.m is float32 (1, 1486352), expected float32 (1486352,)": _array(
        "generator.adam.m", lambda array: array[None]
    ),
    "tensor training.epoch_totals is float64 (5,), expected float64 (6,)": _array(
        "training.epoch_totals", lambda array: array[:5]
    ),
    "tensor generator.2.bias is missing": lambda body, tensors: tensors.pop("generator.2.bias"),
    "tensor ../../x is not one of its networks": lambda body, tensors: tensors.update({"../../x": np.zeros(2)}),
    "expected float32 (536870911, 256)": _entry("config", latent_dim=2**29 - 1),
    "must be below 2**32": _entry("config", latent_dim=2**31 - 1),
    "its configuration: --epochs must be a whole number": _entry("config", epochs=ESC),
    "its metadata are not those of a run": _entry("runtime", data_dir="a\0b"),
    "its metadata are not those of a run ": _entry("runtime", data_dir="\ud800"),
    "its metadata are not those of a run  ": _entry("runtime", precision=ESC),
    "its metadata are not those of a run   ": _entry("runtime", keep="many"),
    "its metadata are not those of a run    ": lambda body, tensors: body.update(runtime=[1]),
    "its metadata are not those of a run     ": lambda body, tensors: body.update(step=2**32),  # of no random stream
    "holds step 6": lambda body, tensors: body.update(step=6),
}  # fmt: skip


@pytest.mark.parametrize("words", FORGED)
def test_the_one_before_a_forged_checkpoint_is_taken(run: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    forge(run / LAST, FORGED[words])
    assert RunFolder(run).latest_checkpoint().step == 6
    _one_line_tells(capsys, words.strip())


def test_a_step_past_the_end(run: Path, whole: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen only once the images are known; there, the one before is at the end, so nothing is trained."""
    forge(run / LAST, lambda body, tensors: body.update(step=9))
    (run / LAST).rename(run / "checkpoints/step-000000009.safetensors")
    assert train("--resume", run) == 0
    _one_line_tells(capsys, "past the end of the run at step 8")
    assert (run / LAST).read_bytes() == (whole / LAST).read_bytes()


def _no_file(path: Path) -> Path:
    path.unlink()
    return path


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: (_no_file(path).mkdir(), (path / "x").touch()),
    "a dangling link": lambda path: _no_file(path).symlink_to("nowhere"),
    "a link to itself": lambda path: _no_file(path).symlink_to(path.name),
    "a pipe": lambda path: os.mkfifo(_no_file(path)),
    "holes": lambda path: (_no_file(path).touch(), os.truncate(path, 35_000_000)),
    "a terabyte of holes": lambda path: (_no_file(path).touch(), os.truncate(path, 1 << 40)),
    "holes at its end": lambda path: (os.truncate(path, 20_000_000), os.truncate(path, 35_364_504)),
    "cut": lambda path: os.truncate(path, 20_000_000),
    "empty": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_the_one_before_what_is_no_file_is_taken(run: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    NO_FILES[kind](run / LAST)
    assert RunFolder(run).latest_checkpoint().step == 6
    _one_line_tells(capsys, "damaged checkpoint")


def test_training_goes_on_from_there(run: Path, whole: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    NO_FILES["a folder"](run / LAST)
    assert train("--resume", run) == 0
    _one_line_tells(capsys, "damaged checkpoint")
    assert (run / LAST).read_bytes() == (whole / LAST).read_bytes() and (run / (LAST + ".damaged") / "x").exists()


def _one_line_tells(capsys: pytest.CaptureFixture[str], words: str) -> None:
    out, err = capsys.readouterr()
    assert words in err and "; taking the one before\n" in err
    assert err.count("\n") == 1 and err.strip().isprintable() and out == ""


def test_other_commands_take_the_one_before_too(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge(run / LAST, _array("generator.0.weight", np.float64))
    assert main(["sample", str(run), "--backend", "numpy", "--out", str(tmp_path / "a.png")]) == 0
    out, err = capsys.readouterr()
    assert "after step 6" in out and "is float64 (100, 256), expected float32" in err
    forge(run / "checkpoints/step-000000004.safetensors", _number("generator.4.weight", np.nan))
    assert main(["inspect", str(run), "--summary"]) == 0
    out, err = capsys.readouterr()
    assert "the step after 6" in out and err.count("\n") == 3 and "; left out" in err


def test_text_of_a_checkpoint_cannot_steer_the_terminal(
    run: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(run / LAST, _entry("runtime", backend=ESC, kernels=ESC))
    assert train("--resume", run) == 0
    err = capsys.readouterr().err
    assert "backend numpy after ?]0;owned?[bold]" in err and err.strip().isprintable()
    forge(run / LAST, _entry("runtime", data_dir=f"/nowhere/{ESC}"))
    assert train("--resume", run) == 2
    err = capsys.readouterr().err
    assert "--data-dir /nowhere/?]0;owned?[bold]: No such file" in err and err.strip().isprintable()


def test_a_path_that_this_system_has_no_name_for(
    run: Path, data: Path, train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.listdir

    def listdir(path: Path) -> list[str]:
        if Path(path) == data:
            raise UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)")  # as with the C locale
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert train("--resume", run) == 2
    err = capsys.readouterr().err
    assert "--data-dir" in err and err.count("\n") == 1


def test_restore_checks(whole: Path) -> None:
    checkpoint = load(whole / LAST)
    checkpoint.tensors["generator.0.bias"] = np.zeros(256)
    with pytest.raises(DamagedCheckpoint, match=r"generator.0.bias is float64 \(256,\), expected float32 \(256,\)"):
        restore(checkpoint, select("numpy"))


def test_a_generator_whose_images_are_not_finite(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every number of its weights is: only their sums are not."""

    def spoil(body: dict[str, Any], tensors: Tensors) -> None:
        for name, array in tensors.items():
            if name.startswith("generator") and name.endswith("weight"):
                array[...] = np.where(np.arange(array.size).reshape(array.shape) % 2, 3e38, -3e38)

    forge(run / LAST, spoil)
    for suffix in ("png", "npy"):
        assert main(["sample", str(run), "--out", str(tmp_path / f"x.{suffix}")]) == 2
        assert "images that are not all finite" in capsys.readouterr().err
        assert not (tmp_path / f"x.{suffix}").exists()
    with np.errstate(all="ignore"):
        assert main(["inspect", str(run)]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err
