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


@pytest.fixture
def backend() -> Backend:
    return select("numpy")


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(dataset="digits", epochs=2, batch_size=8)
