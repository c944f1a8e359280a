"""The thread pool of the kernels: every piece once, whoever sleeps, and no thread left behind."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fused kernels need numba: pip install 'npgan[fast]'")

from npgan.engines.cpu.pool import Pool, shared  # noqa: E402


@shared("void(int64[:, ::1], int64)")
def _note(piece, thread, done, number):  # type: ignore[no-untyped-def]
    done[piece, 0] += number
    done[piece, 1] = thread


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("pieces", [0, 1, 2, 7, 100])
def test_every_piece_is_done_once(threads: int, pieces: int) -> None:
    pool, done = Pool(threads), np.zeros((pieces + 1, 2), np.int64)
    for _ in range(300):
        _note(pool.control, pieces, done, 2)
    assert (done[:pieces, 0] == 600).all() and done[pieces, 0] == 0
    assert (done[:, 1] < threads).all()


def test_threads_that_sleep_are_woken() -> None:
    pool, done = Pool(2), np.zeros((400, 2), np.int64)
    for _ in range(20):
        time.sleep(0.002)  # by far longer than they look for work
        _note(pool.control, 400, done, 1)
    assert (done[:, 0] == 20).all()


def test_threads_end_with_their_pool() -> None:
    before = threading.active_count()
    pools = [Pool(3) for _ in range(3)]
    assert threading.active_count() == before + 6
    pools[0].close()
    assert threading.active_count() == before + 4
    del pools
    assert threading.active_count() == before
