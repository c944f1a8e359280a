"""Damaged checkpoints and IDX files: the quick part of ``mutations.py``, every prefix, every byte of the header, hypothesis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import feed, idx_file, small_checkpoint

from npgan.data.idx import read_idx
from npgan.errors import InputError
from npgan.runs.checkpoint import DamagedCheckpoint, load


def test_random_mutations(tmp_path: Path) -> None:
    results = feed(tmp_path, count=500, seed=1)
    assert sum(results.values()) == 1000
    assert results["checkpoint: refused"] > 100
    assert results["idx: refused"] > 100


def test_every_prefix_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "case"
    for length in reversed(range(len(small_checkpoint(path)))):
        os.truncate(path, length)
        with pytest.raises(DamagedCheckpoint, match="case: "):
            load(path)


def test_every_prefix_of_an_idx_file_is_refused(tmp_path: Path) -> None:
    path, content = tmp_path / "case", idx_file("images", 1)
    path.write_bytes(content)
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(InputError, match="case "):
            read_idx(path, "images")


@settings(max_examples=150, deadline=None)
@given(
    flips=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4, unique=True), tail=st.binary(max_size=9)
)
def test_flipped_bits_are_told(tmp_path_factory: pytest.TempPathFactory, flips: list[float], tail: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped"
    content = bytearray(small_checkpoint(path))
    bits = {int(place * 8 * len(content)) for place in flips}
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content + tail)
    with pytest.raises(DamagedCheckpoint, match="flipped: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_no_checkpoint(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpoint):
        load(path)
