"""SIGKILL at random instants and inside writes: the quick part of ``kills.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import torment, torment_overwriting


@pytest.mark.slow
def test_killed_runs_end_like_undisturbed_ones(tmp_path: Path) -> None:
    counts = torment(tmp_path, kills=5, kernels="reference", seed=2, longest=2.0)
    assert counts["kills"] == 5
    assert counts["runs finished"] >= 1


def test_of_a_run_and_the_one_that_takes_its_place_one_is_whole(tmp_path: Path) -> None:
    counts = torment_overwriting(tmp_path, kills=3, seed=1)
    assert counts["kills"] == 3 == counts["the old run was left"] + counts["the new run was left"]
