"""What several test files share."""

from __future__ import annotations

import os
import signal

import pytest

# One thread, here and in the processes that tests start: the products are small, and on a busy machine OpenBLAS's threads
# wait for one another ten times longer than they work. OpenBLAS reads this when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell gives what it starts in the background some signals to ignore; tests send them, and so do processes that tests start.
for _name, _handler in (
    ("SIGINT", signal.default_int_handler),
    ("SIGQUIT", signal.SIG_DFL),
    ("SIGHUP", signal.SIG_DFL),
):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _handler)

from npgan.backend import Backend, select  # noqa: E402
from npgan.config import TrainConfig  # noqa: E402
from npgan.engines import Compute, choose  # noqa: E402

choose(Compute(), select("numpy"))  # compiles the fused kernels if need be, as every run does: not in this process


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the options in its own
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Where no tests are named, all run, in a process for each core, and a file's in one of them. Those that are named run in
    this process, which starts sooner; as do all with ``-n 0``, and without pytest-xdist."""
    unnamed = config.args_source is config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput")
    if unnamed and config.getoption("numprocesses", 0) is None:
        config.option.numprocesses, config.option.dist = "auto", "loadfile"


@pytest.fixture
def backend() -> Backend:
    return select("numpy")


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(dataset="digits", epochs=2, batch_size=8)
