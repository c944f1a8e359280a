"""What several test files share."""

from __future__ import annotations

import pytest

from npgan.backend import Backend, select
from npgan.config import TrainConfig


@pytest.fixture
def backend() -> Backend:
    return select("numpy")


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(dataset="digits", epochs=2, batch_size=8)
