"""A checkpoint comes back whole, is the same bytes every time, and damage is told."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npgan.backend import Backend
from npgan.config import PRESETS, TrainConfig
from npgan.data.digits import render
from npgan.engines.base import ReferenceEngine
from npgan.errors import InputError
from npgan.gan import TrainState, new_state
from npgan.runs.checkpoint import load, restore, save

_IMAGES = render(64, 2)[0].reshape(64, 784)
_CONFIG = TrainConfig(dataset="digits", batch_size=32, epochs=4)
_RUNTIME = {"backend": "numpy", "data_dir": None}


def test_the_average_comes_back(backend: Backend, tmp_path: Path) -> None:
    config = replace(_CONFIG, **PRESETS["r3gan"])
    state = new_state(config, backend)
    ReferenceEngine(state, _IMAGES, config).run(3)
    save(tmp_path / "a.safetensors", state, config, _RUNTIME, np.zeros(6))
    again = restore(load(tmp_path / "a.safetensors"), backend)
    assert state.average and again.average and again.sampler is again.average
    assert again.average.parameters.tobytes() == state.average.parameters.tobytes()
    assert again.average.parameters.tobytes() != again.generator.parameters.tobytes()


@pytest.fixture
def trained(backend: Backend) -> TrainState:
    state = new_state(_CONFIG, backend)
    ReferenceEngine(state, _IMAGES, _CONFIG).run(3)
    return state


def test_everything_comes_back(trained: TrainState, backend: Backend, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", trained, _CONFIG, _RUNTIME, np.arange(6.0))
    checkpoint = load(tmp_path / "a.safetensors")
    assert (checkpoint.config, checkpoint.step, checkpoint.runtime) == (_CONFIG, 3, _RUNTIME)
    np.testing.assert_array_equal(checkpoint.epoch_totals, np.arange(6.0))
    again = restore(checkpoint, backend)
    for ours, theirs in ((trained, again),):
        assert ours.generator.parameters.tobytes() == theirs.generator.parameters.tobytes()
        assert ours.discriminator.parameters.tobytes() == theirs.discriminator.parameters.tobytes()
        for mine, its in ((ours.optimizer_g, theirs.optimizer_g), (ours.optimizer_d, theirs.optimizer_d)):
            assert (mine.step, mine.lr, mine.m.tobytes(), mine.v.tobytes()) == (
                its.step,
                its.lr,
                its.m.tobytes(),
                its.v.tobytes(),
            )
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_tensors_have_their_documented_names(trained: TrainState, tmp_path: Path) -> None:
    from safetensors import safe_open

    save(tmp_path / "a.safetensors", trained, _CONFIG, _RUNTIME, np.zeros(6))
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        names = set(file.keys())
        metadata = json.loads(file.metadata()["npgan"].partition(" ")[2])
        moments = {name: file.get_tensor(name) for name in names if ".adam." in name}
    assert {"generator.0.weight", "generator.6.bias", "discriminator.9.weight", "generator.adam.m"} < names
    for net, adam in (("generator", trained.optimizer_g), ("discriminator", trained.optimizer_d)):
        np.testing.assert_array_equal(moments.pop(f"{net}.adam.m"), adam.m)
        np.testing.assert_array_equal(moments.pop(f"{net}.adam.v"), adam.v)
    assert not moments
    assert (metadata["format"], metadata["step"]) == (1, 3)  # a new number shuts out every run there is


def test_training_on_from_a_checkpoint_is_training_on(trained: TrainState, backend: Backend, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", trained, _CONFIG, _RUNTIME, np.zeros(6))
    again = restore(load(tmp_path / "a.safetensors"), backend)
    for state in (trained, again):
        ReferenceEngine(state, _IMAGES, _CONFIG).run(2)
    assert trained.generator.parameters.tobytes() == again.generator.parameters.tobytes()


def test_another_process_writes_the_same_bytes(backend: Backend, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from npgan.backend import select;"
        "from npgan.runs.checkpoint import save;"
        "from npgan.config import TrainConfig; from npgan.gan import new_state;"
        "c = TrainConfig(dataset='digits'); b = select('numpy');"
        "save(Path(sys.argv[1]), new_state(c, b), c, {'x': 1, 'a': [2]}, np.zeros(6))"
    )
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        subprocess.run([sys.executable, "-c", code, file], check=True, cwd=Path(__file__).parents[2])
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("where", [0, 4, 9, 200, 0.1, 0.5, 0.99, 1.0])
def test_a_flipped_bit_is_told(trained: TrainState, tmp_path: Path, where: float) -> None:
    path = tmp_path / "a.safetensors"
    save(path, trained, _CONFIG, _RUNTIME, np.zeros(6))
    content = bytearray(path.read_bytes())
    content[where if isinstance(where, int) else int(where * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.safetensors: (damaged|not an npgan) checkpoint"):
        load(path)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 5_000, 0.5, 0.999])
def test_a_cut_file_is_told(trained: TrainState, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.safetensors"
    save(path, trained, _CONFIG, _RUNTIME, np.zeros(6))
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match="damaged checkpoint"):
        load(path)


def test_other_files_are_told(backend: Backend, trained: TrainState, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(InputError, match="no such checkpoint"):
        load(tmp_path / "missing")
    save_file({"x": np.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="not an npgan checkpoint"):
        load(tmp_path / "foreign.safetensors")
    save(tmp_path / "a.safetensors", trained, _CONFIG, _RUNTIME, np.zeros(6))
    checkpoint = load(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"generator\.0\.weight"):
        restore(replace(checkpoint, config=replace(_CONFIG, latent_dim=50)), backend)
    with pytest.raises(InputError, match="tensor discriminator.0.bias is missing"):
        restore(replace(checkpoint, tensors={}), backend)
    with pytest.raises(InputError, match="tensor more is not one of"):
        restore(replace(checkpoint, tensors={**checkpoint.tensors, "more": np.ones(1)}), backend)


def test_a_file_that_the_disk_does_not_give_back(
    trained: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save(path, trained, _CONFIG, _RUNTIME, np.zeros(6))

    def failing(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("builtins.open", failing)
    with pytest.raises(InputError, match=r"a\.safetensors: cannot be read: Input/output error"):
        load(path)
