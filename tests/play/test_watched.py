"""A run folder that is looked at: what is told of it is what npgan sample and the textbook say, and nothing in it changes."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import roomy_folder
from tiny_runs import IMAGES, KINDS, make_runs, train

from npgan.backend import select
from npgan.cli import main
from npgan.config import TrainConfig
from npgan.data.digits import render
from npgan.errors import InputError
from npgan.gan import PASS_G, TrainState, loss_of
from npgan.nn import ops
from npgan.nn.layers import DropoutKey
from npgan.play.watched import FARTHEST, PATHS, SLIDERS, STRIP, LatentPoint, WatchedRun, palette
from npgan.runs.checkpoint import load, restore, save
from npgan.runs.folder import RunFolder
from npgan.runs.pictures import to_uint8
from npgan.runs.sample import noise_vectors


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Path]]:
    """To be looked at only."""
    with roomy_folder() as folder:
        yield make_runs(folder)


@pytest.fixture(params=KINDS)
def whole(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Path:
    return runs[request.param]


@pytest.fixture
def run(runs: dict[str, Path]) -> Iterator[Path]:
    """A copy of the tutorial's, to be spoiled."""
    with roomy_folder() as folder:
        yield Path(shutil.copytree(runs["tutorial"], folder / "run"))


def state_of(run: Path, step: int) -> tuple[TrainState, TrainConfig]:
    checkpoint = load(run / "checkpoints" / f"step-{step:09d}.safetensors")
    return restore(checkpoint, select("numpy")), checkpoint.config


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def latest(watched: WatchedRun) -> int:
    return watched.moments[-1].step


# ---- what is told


def test_the_time_line(whole: Path) -> None:
    """Two checkpoints were kept, and training left a picture after each epoch."""
    watched = WatchedRun(whole)
    assert [(each.step, each.epoch, each.is_checkpoint) for each in watched.moments] == [
        (2, 1, False), (4, 2, False), (6, 3, True), (8, 4, True),
    ]  # fmt: skip
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for name, column in watched.curves().items():
        assert column == [row[name] for row in rows]
    assert watched.status == ("finished", "epoch 4 of 4 is done")


def test_samples_are_those_of_npgan_sample(whole: Path, tmp_path: Path) -> None:
    """To the bit; and a picture of the same moment has the same."""
    out = tmp_path / "samples.npy"
    watched = WatchedRun(whole)
    seed = load(watched.moments[-1].file).config.seed
    assert main(["sample", str(whole), "--seed", str(seed), "--backend", "numpy", "--out", str(out)]) == 0
    look = watched.samples(latest(watched))
    np.testing.assert_array_equal(look.pixels, to_uint8(np.load(out)).reshape(64, 784))


def test_a_picture_is_what_its_checkpoint_drew(run: Path) -> None:
    before = WatchedRun(run).samples(6)
    (run / "checkpoints" / "step-000000006.safetensors").unlink()
    watched = WatchedRun(run)
    after = watched.samples(6)
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert after.verdicts == after.losses == after.slopes == [] and after.change.size == 0 and after.note
    with pytest.raises(InputError, match="without networks"):
        watched.latent(6, LatentPoint())


def test_the_gradient_is_the_textbooks(whole: Path) -> None:
    """On the checkpoint's parameters, as the G step of train_step has it, times N: L is of each sample by itself."""
    watched = WatchedRun(whole)
    look = watched.samples(latest(watched))
    state, config = state_of(whole, latest(watched))
    fake = state.sampler(noise_vectors(config.seed, 64, config.latent_dim))
    key = DropoutKey(config.seed, state.step, PASS_G) if config.dropout_in_g_step else None
    real = np.resize(render(IMAGES, 1)[0].reshape(IMAGES, 784), (64, 784)) / np.float32(127.5) - np.float32(1)
    pairs = config.loss == "relativistic"
    z, caches = state.discriminator.forward(np.concatenate([real, fake]) if pairs else fake, key)
    fakes = z[-64:]
    if pairs:
        p = ops.sigmoid_forward(fakes - z[:64])
        dfake = (p - 1) / 64
        dz = np.concatenate([-dfake, dfake])
        losses = -np.log(p)
    elif config.loss == "bce":
        p, dz = fakes, ops.binary_cross_entropy_backward(fakes, np.ones_like(fakes))
        losses = -np.log(p + ops.BCE_EPSILON)
    else:
        p = ops.sigmoid_forward(fakes)
        dz, losses = (p - 1) / 64, -np.log(p)
    gradient = 64 * state.discriminator.backward_input(dz.astype(np.float32), caches)[-64:]
    np.testing.assert_allclose(look.verdicts, p[:, 0], rtol=1e-6)
    np.testing.assert_allclose(look.losses, losses[:, 0], rtol=1e-5)
    np.testing.assert_allclose(look.slopes, np.linalg.norm(gradient, axis=1), rtol=1e-5)
    scaled = -gradient / np.abs(gradient).max(axis=1, keepdims=True)
    assert np.abs(look.change.astype(int) - 127 - 127 * scaled).max() < 0.51
    assert {0, 254} & set(look.change[0])  # the largest is at an end


def test_the_gradient_is_the_slope_of_the_loss(runs: dict[str, Path]) -> None:
    """A numerical derivative in float64 along the gradient gives its norm."""
    watched = WatchedRun(runs["tutorial"])
    look = watched.samples(latest(watched))
    state, config = state_of(runs["tutorial"], latest(watched))
    d = state.discriminator.astype(np.float64)
    fake = state.sampler(noise_vectors(config.seed, 64, config.latent_dim)).astype(np.float64)[5:6]
    loss, one = loss_of(config), np.ones((1, 1))
    output, caches = d.forward(fake)
    direction = d.backward_input(loss.backward(output, one), caches)
    direction /= np.linalg.norm(direction)
    up, down = (loss.forward(d.forward(fake + step * direction)[0], one) for step in (1e-6, -1e-6))
    assert look.slopes[5] == pytest.approx((up - down) / 2e-6, rel=1e-4)


def test_colors_of_the_gradient() -> None:
    colors = palette()
    assert len(colors) == 255
    assert colors[0] == (70, 140, 255) and colors[254] == (255, 200, 40) and max(colors[127]) < 25


def test_without_the_real_images_only_the_samples(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise InputError("--data-dir /x: is gone")

    monkeypatch.setattr("npgan.play.watched.load_dataset", gone)
    watched = WatchedRun(runs["r3gan"])
    look = watched.samples(latest(watched))
    assert look.pixels.shape == (64, 784) and look.verdicts == [] and "is gone" in look.note
    assert "\n" not in look.note
    assert watched.latent(latest(watched), LatentPoint(1, 2, 0.5)).look.pixels.shape == (1, 784)


def test_other_real_images_are_not_taken(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from npgan.data.mnist import Dataset

    other = Dataset(np.zeros((IMAGES, 784), np.uint8), None, "mnist", "elsewhere")
    monkeypatch.setattr("npgan.play.watched.load_dataset", lambda *_, **__: other)
    watched = WatchedRun(runs["r3gan"])
    assert "not those that the run was trained on" in watched.samples(latest(watched)).note


# ---- latent space


def test_a_point_on_a_sample_is_that_sample(whole: Path) -> None:
    watched = WatchedRun(whole)
    look = watched.samples(latest(watched))
    for index in (0, 17, 63):
        found = watched.latent(latest(watched), LatentPoint(index, 5, 0.0))
        np.testing.assert_array_equal(found.look.pixels[0], look.pixels[index])
        np.testing.assert_array_equal(found.look.change[0], look.change[index])
        assert found.look.verdicts == [look.verdicts[index]] and found.look.losses == [look.losses[index]]
        config = load(watched.moments[-1].file).config
        z = noise_vectors(config.seed, 64, config.latent_dim)[index].astype(np.float64)
        assert found.length == pytest.approx(float(np.linalg.norm(z)), rel=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_a_way_ends_at_both_samples(runs: dict[str, Path], path: str) -> None:
    watched = WatchedRun(runs["tutorial"])
    step = latest(watched)
    pixels = watched.samples(step).pixels
    strip = watched.strips(step, 3, 9)[path]
    assert strip.shape == (STRIP, 784)
    for at, sample in ((0, 3), (-1, 9)):
        assert np.abs(strip[at].astype(int) - pixels[sample]).max() <= 1  # a batch of another size rounds otherwise
    middle = watched.latent(step, LatentPoint(3, 9, 0.5, path))
    between = watched.latent(step, LatentPoint(3, 9, 3 / (STRIP - 1), path)).look.pixels[0]
    assert np.abs(between.astype(int) - strip[3]).max() <= 1
    assert (middle.length > 8.5) == (path == "circle")  # √100 = 10, and on the line about 10/√2


@pytest.mark.parametrize("directions", ["first-layer", "dimensions"])
def test_sliders_set_coordinates_and_leave_the_others(runs: dict[str, Path], directions: str) -> None:
    watched = WatchedRun(runs["tutorial"])
    step = latest(watched)
    before = watched.latent(step, LatentPoint(4, 4, 0.0, "circle", directions))
    after = watched.latent(step, LatentPoint(4, 4, 0.0, "circle", directions, ((0, 3.0), (6, -2.5))))
    expected = list(before.coordinates)
    expected[0], expected[6] = 3.0, -2.5
    np.testing.assert_allclose(after.coordinates, expected, atol=1e-6)
    assert (after.look.pixels != before.look.pixels).any()
    config = load(watched.moments[-1].file).config
    if directions == "dimensions":
        z = noise_vectors(config.seed, 64, config.latent_dim)[4]
        np.testing.assert_allclose(before.coordinates, z[:SLIDERS], rtol=1e-6)


def test_directions_are_those_that_the_first_layer_amplifies(runs: dict[str, Path]) -> None:
    """Of one length, at right angles, and amplified by the singular values of W, largest first."""
    watched = WatchedRun(runs["tutorial"])
    step = latest(watched)
    state, config = state_of(runs["tutorial"], step)
    noise = noise_vectors(config.seed, 200, config.latent_dim).astype(np.float64)
    coordinates = np.array([watched.latent(step, LatentPoint(row, row)).coordinates for row in range(200)])
    directions = np.linalg.lstsq(noise, coordinates)[0].T
    np.testing.assert_allclose(directions @ directions.T, np.eye(SLIDERS), atol=1e-5)
    amplified = np.linalg.norm(directions @ state.sampler.tensors["0.weight"], axis=1)
    np.testing.assert_allclose(
        amplified, np.linalg.svd(state.sampler.tensors["0.weight"], compute_uv=False)[:SLIDERS], rtol=1e-4
    )


@pytest.mark.parametrize(
    "values",
    [
        None, [], "x", {"start": -1}, {"start": 4096}, {"end": 1.5}, {"end": True}, {"t": 1.1}, {"t": float("nan")}, {"t": "0"},
        {"path": "arc"}, {"directions": "up"}, {"directions": []}, {"sliders": [[8, 0.0]]}, {"sliders": [[0, FARTHEST + 0.1]]},
        {"sliders": [[0, float("nan")]]}, {"sliders": [0]}, {"sliders": {"0": 1}}, {"sliders": None}, {"other": 1},
    ],
)  # fmt: skip
def test_no_such_point(values: Any) -> None:
    with pytest.raises(InputError, match="no such point"):
        LatentPoint.of_page(values)


def test_a_latent_space_of_one_dimension(runs: dict[str, Path]) -> None:
    with roomy_folder() as folder:
        data = runs["tutorial"].parent / "data"
        assert train("--out", folder / "narrow", "--data-dir", data, "--epochs", "1", "--latent-dim", "1") == 0
        watched = WatchedRun(folder / "narrow")
        found = watched.latent(latest(watched), LatentPoint(0, 1, 0.5, sliders=((0, 1.0), (7, 2.0))))
        assert found.coordinates == [pytest.approx(1.0)]
        assert watched.strips(latest(watched), 0, 1)["circle"].shape == (STRIP, 784)


# ---- nothing changes, whatever others do


def test_looking_leaves_the_folder_as_it_is(run: Path) -> None:
    before = contents(run)
    watched = WatchedRun(run)
    for moment in watched.moments:
        watched.samples(moment.step)
    watched.latent(latest(watched), LatentPoint(1, 2, 0.5))
    assert not watched.poll()
    assert contents(run) == before


def test_a_run_in_use_is_looked_at_and_says_so(run: Path) -> None:
    watched = WatchedRun(run)
    with RunFolder(run).locked(print):
        assert watched.poll() and watched.status[0] == "training" and f"process {os.getpid()} " in watched.status[1]
        assert WatchedRun(run).status[0] == "training"
    assert watched.poll() and watched.status[0] == "finished"


def test_a_process_that_was_killed_does_not_train(run: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    (run / ".lock").write_text(f"process {ended.pid} on {platform.node()}\n")
    word, line = WatchedRun(run).status
    assert word == "stopped" and "epoch 2 of 4" in line and f"--resume {run}" in line


def test_a_run_grows(run: Path) -> None:
    """A line of metrics counts once it is whole, a checkpoint once it has its name."""
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    last = run / "checkpoints" / "step-000000008.safetensors"
    away = last.rename(run.parent / last.name)
    (run / "samples" / "epoch-00004.png").unlink()
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    watched = WatchedRun(run)
    assert watched.curves()["epoch"] == [1, 2] and latest(watched) == 6
    steps = [(lines[2][:50], [1, 2]), (lines[2][50:], [1, 2, 3]), (b"{broken\n" + lines[3], [1, 2, 3, 4])]
    for text, epochs in steps:
        with open(run / "metrics.jsonl", "ab") as file:
            file.write(text)
        watched.poll()
        assert watched.curves()["epoch"] == epochs
    temporary = shutil.copy(away, last.with_name(f".{last.name}.1.tmp"))
    watched.poll()
    assert latest(watched) == 6
    os.replace(temporary, last)
    assert watched.poll() and latest(watched) == 8 and not watched.poll()
    assert watched.samples(8).verdicts


def test_resumed_from_before(run: Path) -> None:
    """A resumed run drops what is past its checkpoint; pictures of the time that is done again are not of it."""
    watched = WatchedRun(run)
    (run / "checkpoints" / "step-000000008.safetensors").unlink()
    RunFolder(run).cut_metrics(6, 3, print, lambda line: None)
    assert watched.poll()
    assert watched.curves()["epoch"] == [1, 2, 3] and latest(watched) == 6 and watched.status[0] == "stopped"


def test_more_epochs(run: Path) -> None:
    watched = WatchedRun(run)
    assert train("--resume", run, "--epochs", "6") == 0
    assert watched.poll() and watched.status == ("finished", "epoch 6 of 6 is done") and latest(watched) == 12


def test_another_run_takes_its_place(run: Path) -> None:
    watched = WatchedRun(run)
    before = watched.samples(8).pixels
    data = load(watched.moments[-1].file).runtime["data_dir"]
    flags = ["--out", run, "--overwrite", "--data-dir", data, "--batch-size", "8", "--epochs", "4", "--latent-dim", "7"]
    assert train(*flags) == 0
    assert watched.poll()
    assert "--latent-dim 7" in watched.settings() and watched.latent_dim == 7
    assert len(watched.curves()["epoch"]) == 4
    after = watched.samples(8).pixels
    assert (after != before).any()
    assert watched.latent(8, LatentPoint(2, 3, 0.5)).length < 8  # √7 ≈ 2.6


def test_what_is_gone_is_told_in_a_line(run: Path) -> None:
    watched = WatchedRun(run)
    (run / "checkpoints" / "step-000000006.safetensors").unlink()
    with pytest.raises(InputError, match="no such checkpoint"):
        watched.samples(6)
    watched.poll()
    assert not next(moment for moment in watched.moments if moment.step == 6).is_checkpoint
    (run / "samples" / "epoch-00003.png").write_bytes(b"no picture")
    watched.poll()
    with pytest.raises(InputError, match="not a picture of samples"):
        watched.samples(6)
    with pytest.raises(InputError, match="nothing of step 5"):
        watched.samples(5)
    shutil.rmtree(run)
    assert watched.poll()
    assert watched.status == ("unreadable", f"{run}: holds no checkpoint any more")
    assert not watched.poll()


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint(run: Path) -> None:
    spoil(run / "checkpoints" / "step-000000008.safetensors")
    watched = WatchedRun(run)
    assert len(watched.damaged) == 1 and "checksum" in watched.damaged[0] and "\n" not in watched.damaged[0]
    with pytest.raises(
        InputError, match=r"step-000000008.safetensors: damaged checkpoint: its checksum does not match"
    ):
        watched.samples(8)
    assert watched.samples(6).verdicts


def test_a_checkpoint_under_the_name_of_another(run: Path) -> None:
    shutil.copy(run / "checkpoints" / "step-000000006.safetensors", run / "checkpoints" / "step-000000007.safetensors")
    with pytest.raises(InputError, match="holds step 6"):
        WatchedRun(run).samples(7)


def test_a_config_that_cannot_be_read(run: Path) -> None:
    (run / "config.json").write_text("{")
    watched = WatchedRun(run)
    assert "config.json" in watched.problem and "\n" not in watched.problem
    assert watched.samples(8).verdicts


def test_what_training_said(run: Path) -> None:
    with open(run / "npgan.log", "a") as log:
        log.write("2026-01-01 10:00:00  warning: D \x1b[31msaturated\n2026-01-01 10:00:01  run: x\n")
    watched = WatchedRun(run)
    assert watched.said == ["2026-01-01 10:00:00  warning: D ?[31msaturated"]


def _no_folder(run: Path) -> str:
    shutil.rmtree(run)
    return "no such run folder"


def _a_file(run: Path) -> str:
    shutil.rmtree(run)
    run.write_text("x")
    return "no such run folder"


def _no_checkpoint(run: Path) -> str:
    shutil.rmtree(run / "checkpoints")
    return "holds no checkpoint"


def _all_damaged(run: Path) -> str:
    for file in (run / "checkpoints").glob("*.safetensors"):
        spoil(file)
    return "holds no checkpoint that is whole"


def _not_npgans(run: Path) -> str:
    (run / ".npgan-run").unlink()
    _all_damaged(run)
    return "not a run of npgan's"


@pytest.mark.parametrize("ruin", [_no_folder, _a_file, _no_checkpoint, _all_damaged, _not_npgans])
def test_no_run(run: Path, ruin: Callable[[Path], str], capsys: pytest.CaptureFixture[str]) -> None:
    told = ruin(run)
    assert main(["play", str(run), "--no-browser"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("npgan play: error:") and told in lines[0]


@pytest.mark.parametrize(
    ("tensor", "told"), [("generator.6.weight", "makes images"), ("discriminator.0.weight", "compute")]
)
def test_networks_that_overflow(run: Path, tensor: str, told: str) -> None:
    """Finite parameters, results that are not: a line, and no warning of NumPy's."""
    state, config = state_of(run, 8)
    net, _, name = tensor.partition(".")
    getattr(state, net).tensors[name][:] = 3e38
    if net == "generator":
        state.generator.tensors["6.weight"][::2] = -3e38
    checkpoint = load(run / "checkpoints" / "step-000000008.safetensors")
    save(checkpoint.path, state, config, checkpoint.runtime, checkpoint.epoch_totals)
    with pytest.raises(InputError, match=told):
        WatchedRun(run).samples(8)
