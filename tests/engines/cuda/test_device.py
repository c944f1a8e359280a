"""What is chosen for a GPU: how GEMMs are done, and in which tiles."""

from __future__ import annotations

import pytest

from npgan.engines.cuda.device import passes, tile_of


def test_the_tile_leaves_no_multiprocessor_idle_without_need() -> None:
    assert tile_of(784, 1024, 132) == (64, 64)
    assert tile_of(256, 1024, 132) == (32, 64)
    assert tile_of(256, 512, 132) == (32, 32)
    assert tile_of(128, 256, 132) == (32, 32)
    assert tile_of(8, 8, 4) == (32, 32)


def test_older_gpus_do_without_tensor_cores() -> None:
    assert (passes("fp32", 90), passes("tf32", 90), passes("fp32", 75), passes("fp32", 80)) == (3, 1, 0, 3)
    with pytest.raises(ValueError, match="7.0"):
        passes("fp32", 61)


@pytest.mark.parametrize("capability", [86, 89, 120, 121])
def test_three_passes_are_not_for_gpus_that_do_tf32_no_faster(capability: int) -> None:
    assert (passes("fp32", capability), passes("tf32", capability)) == (0, 1)
