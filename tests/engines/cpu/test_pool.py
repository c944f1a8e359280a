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


def test_recorded_calls_read_their_arrays_again() -> None:
    pool, done, other = Pool(2), np.zeros((8, 2), np.int64), np.zeros((3, 2), np.int64)

    def launches() -> None:
        _note(pool.control, 8, done, 5)
        _note(pool.control, 3, other, 7)

    recording = pool.record(launches)
    assert (done[:, 0] == 5).all() and (other[:, 0] == 7).all()
    done[...], other[...] = 100, 200
    for _ in range(2):
        pool.replay(recording)
    assert (done[:, 0] == 110).all() and (other[:, 0] == 214).all()
    _note(pool.control, 8, done, 1)  # not recorded any more
    pool.replay(recording)
    assert (done[:, 0] == 116).all()


def test_calls_that_do_not_fit_are_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npgan.engines.cpu.pool._ROOM", 40)
    pool, done = Pool(2), np.zeros((8, 2), np.int64)
    with pytest.raises(RuntimeError, match="more than 40 words"):
        pool.record(lambda: [_note(pool.control, 8, done, 1) for _ in range(9)] and None)
    assert (done[:, 0] == 9).all()
    assert pool.record(lambda: None).size == 0


def test_what_raises_is_no_recording() -> None:
    pool, done = Pool(2), np.zeros((8, 2), np.int64)
    with pytest.raises(ZeroDivisionError):
        pool.record(lambda: 1 // 0 and None)
    for _ in range(3):
        _note(pool.control, 8, done, 1)
    assert pool.record(lambda: None).size == 0
