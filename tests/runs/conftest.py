"""A small finished run that each test may take a copy of and spoil."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import roomy_folder
from kills import small_data

from npgan.cli import main

EPOCHS = 4  # of two iterations


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """SIGHUP as it is on a terminal, also where the tests run under nohup: their processes inherit what is ignored."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Instead of pytest's own, which keeps the folders of three sessions: gigabytes here."""
    with roomy_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def data() -> Iterator[Path]:
    with roomy_folder() as folder:
        yield small_data(folder / "data")


@pytest.fixture(scope="session")
def train(data: Path) -> Callable[..., int]:
    """Starts or resumes a run in this process; returns the exit status."""

    def run(*flags: str | Path) -> int:
        new = [] if "--resume" in flags else ["--data-dir", data, "--batch-size", "8", "--checkpoint-every", "1"]
        if new and "--epochs" not in flags:
            new += ["--epochs", str(EPOCHS)]
        words = ["train", "--backend", "numpy", "--kernels", "reference", "--quiet", *new, *flags]
        try:
            return main([str(word) for word in words])
        except SystemExit as stop:
            return int(stop.code or 0)

    return run


@pytest.fixture(scope="session")
def whole(train: Callable[..., int]) -> Iterator[Path]:
    """The run that nothing happened to: to be looked at only."""
    with roomy_folder() as folder:
        run = folder / "run"
        assert train("--out", run) == 0
        yield run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "run"))
