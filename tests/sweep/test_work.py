"""What a worker does with a run, on a training that is not one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from npgan.runs.folder import IN_USE
from npgan.sweep import work as module
from npgan.sweep.examine import Outcome, checkpoint_step, diverged
from npgan.sweep.work import Work, difference, finish, identity


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setattr(module, "examine", lambda folder: Outcome("finished", "", checkpoint_step(folder)))
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.0)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return Work(str(tmp_path / "run"), 3, ["--quiet"], {}, "plugin")


def checkpoint(work: Work, step: int) -> None:
    (Path(work.folder) / "checkpoints" / f"step-{step:09d}.safetensors").touch()


def training(
    work: Work, *ends: tuple[int, int | None, str]
) -> tuple[list[list[str]], Callable[[list[str]], tuple[int, str]]]:
    """The words that each training is begun with; its exit status, the checkpoint that it leaves, what it says."""
    asked: list[list[str]] = []
    left: Iterator[tuple[int, int | None, str]] = iter(ends)

    def train(words: list[str]) -> tuple[int, str]:
        asked.append(words)
        status, step, said = next(left)
        if step is not None:
            checkpoint(work, step)
        return status, said

    return asked, train


def test_a_process_that_dies_is_begun_again_and_resumes(work: Work) -> None:
    asked, train = training(work, (-9, None, ""), (-9, 4, ""), (143, 6, ""), (0, 9, ""))
    assert finish(work, train, lambda: False) == Outcome("finished", "", 9)
    assert [words[-2:] for words in asked] == [["--out", work.folder]] * 2 + [["--resume", work.folder]] * 2


def test_one_that_gets_no_further_is_given_up(work: Work) -> None:
    asked, train = training(work, *[(-11, 4, "segfault")] * 20)
    outcome = finish(work, train, lambda: False)
    assert (outcome.state, len(asked)) == ("failed", 6) and "status -11" in outcome.message


def test_a_failure_is_told_and_not_tried_again(work: Work) -> None:
    asked, train = training(work, (1, 4, "no space left"))
    assert finish(work, train, lambda: False) == Outcome("failed", "no space left") and len(asked) == 1


def test_a_run_that_another_process_has_is_waited_for(work: Work) -> None:
    busy = (2, None, f"{work.folder}: {IN_USE} process 7 on kiwi")
    _, train = training(work, busy, busy, (0, 9, ""))
    assert finish(work, train, lambda: False).state == "finished"


def test_a_stopped_sweep_begins_nothing(work: Work) -> None:
    asked, train = training(work, (143, 4, ""))
    assert finish(work, train, lambda: bool(asked)).state == "stopped"
    assert len(asked) == 1


def test_to_diverge_is_an_end(work: Work) -> None:
    checkpoint(work, 4)
    (Path(work.folder) / "checkpoints" / "diagnosis-step-000000006.json").write_text('{"net": "g", "tensor": "noise"}')
    asked, train = training(work)
    outcome = finish(work, train, lambda: False)
    assert outcome.ended and not outcome.alive and (outcome.state, outcome.dead) == ("diverged", "g: noise")
    checkpoint(work, 8)  # it got past that
    assert diverged(Path(work.folder)) is None and not asked


def test_workers_of_another_npgan_are_told_apart() -> None:
    ours = identity()
    assert difference(dict(ours), ours) == ""
    assert difference({**ours, "npgan": "0.0.1 (source 0)"}, ours) == f"npgan 0.0.1 (source 0) and not {ours['npgan']}"
    assert difference({**ours, "numpy": "1"}, ours).startswith("numpy 1 and not ")
    assert difference(None, ours).startswith("no npgan that sweeps")
