"""SIGKILL at random instants and inside writes: the quick part of ``kills.py``."""

from __future__ import annotations

from pathlib import Path

from kills import torment


def test_killed_runs_end_like_undisturbed_ones(tmp_path: Path) -> None:
    counts = torment(tmp_path, kills=5, kernels="reference", seed=2, longest=2.0)
    assert counts["kills"] == 5
    assert counts["runs finished"] >= 1
