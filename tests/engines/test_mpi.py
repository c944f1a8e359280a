"""A run on several ranks is the run on one: within 1e-12 in float64 and, with --same-bytes, to the byte."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import roomy_folder
from mpi_steps import IMAGES, NETWORKS, OPTIONS, STEPS, config_of, run, state_arrays

from npgan import gan
from npgan.backend import select
from npgan.data.digits import render
from npgan.data.idx import write_idx
from npgan.engines import Compute, choose
from npgan.engines.base import FusedEngine
from npgan.engines.mpi import shards_of_ranks, shares
from npgan.engines.ranks import Ranks, environment_without
from npgan.engines.reference import ReferenceKernels
from npgan.engines.schedule import Draw, Kernels
from npgan.gan import DEFAULTS, new_state
from npgan.nn.layers import Dense, Dropout, LeakyReLU
from npgan.nn.network import Sequential

ROOT = Path(__file__).parents[2]
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: pip install mpich")


def mpiexec(ranks: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    if ranks:
        command = [str(MPIEXEC), "-n", str(ranks), *command]
    environment = {**environment_without(os.environ), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def train(ranks: int, out: Path, data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    new = [
        "--out",
        str(out),
        "--data-dir",
        str(data),
        "--batch-size",
        "10",
        "--kernels",
        "reference",
        "--backend",
        "numpy",
    ]
    words = ["train", "--quiet", "--threads", "1", *(["--resume", str(out)] if out.exists() else new), *flags]
    return mpiexec(ranks, "-m", "npgan", *words)


def last_sha256(out: Path) -> str:
    file = out / "checkpoints" / (out / "checkpoints" / "latest").read_text().strip()
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with roomy_folder() as folder:
        yield folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """32 images: the last batch of an epoch has two rows, fewer than shards."""
    (tmp_path / "data").mkdir()
    write_idx(tmp_path / "data" / "train-images-idx3-ubyte", render(32, 1)[0])
    return tmp_path / "data"


def _held_to_one_process(arrays: dict[str, np.ndarray], name: str) -> None:
    config = config_of(OPTIONS[name])
    state = new_state(config, select("numpy"), np.float64)
    metrics = FusedEngine(ReferenceKernels(np.float64), state, IMAGES, config).run(STEPS)
    for key, expected in state_arrays(state, metrics).items():
        assert np.linalg.norm(arrays[key] - expected) <= 1e-12 * np.linalg.norm(expected), key


@needs_mpi
def test_twenty_steps_of_two_ranks_are_those_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, network in NETWORKS.items():
        monkeypatch.setattr(gan, name, network)
    done = mpiexec(2, ROOT / "tests" / "engines" / "mpi_steps.py", tmp_path / "two.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "two.npz") as file:
        found = dict(file)
    for name, option in OPTIONS.items():
        _held_to_one_process(
            {key: found[f"{name}/False/{key}"] for key in ("g", "d", "average", "metrics", "m", "v")}, name
        )
        alone = run(Ranks(), option, same_bytes=True)
        assert alone is not None
        for key, array in alone.items():
            assert np.array_equal(found[f"{name}/True/{key}"], array), key


@pytest.mark.slow
@needs_mpi
def test_same_bytes_on_any_number_of_ranks_also_after_a_resume_on_another(tmp_path: Path, data: Path) -> None:
    flag = "--same-bytes"  # which a checkpoint remembers
    for out, ranks, flags in (("a", 0, ("3", flag)), ("b", 2, ("2", flag)), ("b", 3, ("3",))):
        done = train(ranks, tmp_path / out, data, "--epochs", *flags)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    assert last_sha256(tmp_path / "a") == last_sha256(tmp_path / "b")


@needs_mpi
def test_what_is_wrong_is_told_by_one_rank_in_one_line(tmp_path: Path, data: Path) -> None:
    done = train(2, tmp_path / "run", data, "--epochs", "0")
    told = [line for line in done.stderr.splitlines() if line.startswith("npgan")]
    assert told == ["npgan train: error: --epochs must be a whole number from 1 to 2147483647, got 0"]
    assert done.returncode == 2 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "fakes", "shards"), [(128, 128, 8), (22, 32, 8), (3, 32, 8), (1, 128, 8), (10, 10, 3)]
)
def test_every_row_is_in_one_share_and_none_is_empty(rows: int, fakes: int, shards: int) -> None:
    found = shares(rows, fakes, shards)
    assert len(found) == min(rows, shards)
    assert [n for s in found for n in range(s.first, s.first + s.rows)] == list(range(rows))
    assert [n for s in found for n in range(s.first_fake, s.first_fake + s.fakes)] == list(range(fakes))
    assert min(min(s.rows, s.fakes) for s in found) >= 1
    assert sum(s.of_d for s in found) == pytest.approx(1) == sum(s.of_g for s in found)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9])
def test_every_shard_has_one_rank(size: int) -> None:
    of_ranks = shards_of_ranks(8, size)
    assert [shard for rank in of_ranks for shard in rank] == list(range(8)) and len(of_ranks) == size


def _tables() -> list[Kernels]:
    fused = choose(Compute(kernels="fused"), select("numpy"))
    engine = fused.start(new_state(DEFAULTS, select("numpy")), IMAGES, DEFAULTS)
    assert isinstance(engine, FusedEngine)
    return [ReferenceKernels(np.float32), engine.kernels]


@pytest.mark.parametrize("table", [0, 1], ids=["reference", "fused"])
def test_rows_of_a_pass_have_the_dropout_that_they_have_in_the_whole(table: int) -> None:
    kernels = _tables()[table]
    if not kernels.draws_from_any_row:
        pytest.skip("and says so")
    layer, dropout, step = Dense(16, 24), Dropout(0.4), np.array([5], np.uint32)
    Sequential([layer, LeakyReLU(0.2), dropout], seed=3)
    draw = Draw(dropout, dropout.draw_site(0), 2**40 + 1, step)
    x, y, dydz, y_part, dydz_part = (kernels.empty(40, width) for width in (16, 24, 24, 24, 24))
    x[...] = np.random.default_rng(0).normal(size=x.shape)
    kernels.forward_dropout(x, layer, 0.2, draw, y, dydz)
    for part in (slice(0, 7), slice(7, 23), slice(23, 40)):
        shifted = draw._replace(first=part.start)
        kernels.forward_dropout(x[part], layer, 0.2, shifted, y_part[part], dydz_part[part])
    np.testing.assert_allclose(y_part, y, rtol=1e-5, atol=1e-6)
    assert np.array_equal(dydz_part, dydz) and 0.3 < np.mean(y == 0) < 0.5
