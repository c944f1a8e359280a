"""No two launches that may run at once touch the same bytes, in iterations of all kinds, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from npgan.backend import select
from npgan.config import TrainConfig
from npgan.engines.cuda.kernels import CudaKernels
from npgan.engines.schedule import FusedStep, Resident
from npgan.gan import TrainState, new_state
from ptx.races import Recorder

_CONFIG = TrainConfig(dataset="digits", batch_size=8, latent_dim=10)
_CHANGES: list[dict[str, Any]] = [
    {},
    {"dropout_in_g_step": True},
    {"batch_size": 100, "latent_dim": 7},
    {"loss": "relativistic", "r1": 0.5, "r2": 0.5, "dropout": 0.0, "ema": 0.999},
]


def _step(recorder: Recorder, state: TrainState, config: TrainConfig, rows: int) -> FusedStep:
    pixels, order = np.zeros((500, 784), np.uint8), np.zeros(500, np.uint32)
    resident = Resident(pixels, order, np.zeros(1, np.uint32), np.zeros((4, 6), np.float32))
    return FusedStep(CudaKernels(recorder, np), state, config, resident, rows)


def _recorded(recorder: Recorder, config: TrainConfig) -> Recorder:
    """Four iterations, the third of a shorter batch."""
    state, batch = new_state(config, select("numpy")), config.batch_size
    whole, rest = (_step(recorder, state, config, rows) for rows in (batch, batch - 4))
    for recorder.iteration, step in enumerate((whole, whole, rest, whole)):
        step.launch()
    return recorder


def _overlapped(recorder: Recorder, config: TrainConfig) -> Recorder:
    """Two graphs of whole batches, one of five iterations and one of four, and one of a shorter batch between them."""
    state = new_state(config, select("numpy"))
    whole, rest = (_step(recorder, state, config, rows) for rows in (config.batch_size, config.batch_size - 4))
    twins = {step: step.twin() for step in (whole, rest)}
    for recorder.iteration, (step, count) in enumerate(((whole, 5), (rest, 1), (whole, 4))):
        CudaKernels(recorder, np).overlapped(step, twins[step], count)
    return recorder


@pytest.mark.parametrize("changes", _CHANGES, ids=str)
@pytest.mark.parametrize("recorded", [_recorded, _overlapped])
def test_no_two_launches_at_once_touch_the_same_bytes(recorded: Any, changes: dict[str, Any]) -> None:
    recorder = recorded(Recorder(), replace(_CONFIG, **changes))
    assert recorder.unjoined() == set()
    assert len(list(recorder.at_once())) > 10  # updates run beside the main chain
    assert recorder.races() == []
    assert recorder.early_races() == []
    assert any(launch.at_start != launch.before for launch in recorder.launches)


def test_gradients_that_nobody_looks_at_are_not_written() -> None:
    state = new_state(_CONFIG, select("numpy"))
    vectors = [net.gradients for net in (state.generator, state.discriminator)]
    for kept in (True, False):
        recorder = Recorder()
        _step(recorder, state, _CONFIG, 8).body(keep_gradients=kept)
        writes = [each for launch in recorder.launches for each in launch.writes]
        for vector in vectors:
            start = vector.ctypes.data
            assert any(start <= at < start + vector.nbytes for at, _ in writes) == kept


def test_inputs_and_metrics_are_off_the_main_chain() -> None:
    recorder = _overlapped(Recorder(), _CONFIG)
    beside = {frozenset((one.kernel, other.kernel)) for one, other in recorder.at_once()}
    first = "forward_leaky_relu_32x32"
    assert {frozenset(("inputs", first)), frozenset(("finish", first))} <= beside


def test_one_set_of_inputs_for_all_iterations_is_found() -> None:
    recorder = Recorder()
    step = _step(recorder, new_state(_CONFIG, select("numpy")), _CONFIG, 8)
    CudaKernels(recorder, np).overlapped(step, step, 3)
    assert recorder.races()


def test_a_missing_join_is_found() -> None:
    class Forgetful(Recorder):
        def join(self) -> None:
            pass

    found = _recorded(Forgetful(), _CONFIG)
    assert found.unjoined() and found.races() and found.early_races()


def test_a_side_stream_that_waits_for_nothing_is_found() -> None:
    class Hasty(Recorder):
        @contextmanager
        def side_stream(self) -> Iterator[None]:
            self._stream = "side"
            yield
            self._stream = "main"

    assert _recorded(Hasty(), _CONFIG).races()
