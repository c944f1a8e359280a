"""The lab's own process: trains, and answers the page. ``python -m npgan.play.trainer``: JSON objects in, JSON objects out.

A line of standard input is a message of the page, a line of standard output one to it. When the input ends, the page or the
server is gone, and so is the process, whatever it is doing.
"""

from __future__ import annotations

import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from npgan.errors import InputError
from npgan.play.base import Message
from npgan.play.learner import VIEW, Learner, Which
from npgan.play.settings import controls, presets, read, read_rates
from npgan.play.slow import packed_picture, slow_motion

FRAMES = 20  # a second, at most
_ON_THE_WAY = 2  # frames that the page has not shown yet: then it gets no more
_FEWEST_DRAWN, _MOST_DRAWN = 1, 5000
_KINDS: tuple[Which, ...] = ("both", "D", "G")


class Trainer:
    """``send`` takes a message for the page."""

    def __init__(self, inbox: queue.Queue[Message], send: Callable[[Message], None]) -> None:
        self.inbox, self.send = inbox, send
        self.learner: Learner | None = None
        self.averaged = False
        self.refused = ""  # why the last settings were
        self.playing: Which | None = None
        self.speed = math.inf  # steps a second
        self.on_the_way = 0
        self.news: list[tuple[int, float, float]] = []  # the steps since the last frame: number, both losses
        self.frame_due = self.step_due = 0.0

    def run(self) -> None:
        while True:
            try:
                self._handle(self.inbox.get(timeout=self._pause()))
            except queue.Empty:
                pass
            except (ValueError, KeyError, TypeError, MemoryError) as error:
                self.playing = None
                self.send({"error": str(error) or type(error).__name__})
            now = time.monotonic()
            if self.playing and self.learner and now >= self.step_due:
                self.step_due = max(self.step_due + 1.0 / self.speed, now - 0.1)
                self._step(self.learner, self.playing)
            if self.playing and now >= self.frame_due and self.on_the_way < _ON_THE_WAY:
                self._show()

    def _pause(self) -> float | None:
        """How long there is nothing to do but to wait for a message; None: until there is one."""
        return max(self.step_due - time.monotonic(), 0.0) if self.playing else None

    def _handle(self, message: Message) -> None:
        """Raises InputError, and ValueError for what our page does not send."""
        wanted = message.get("do")
        if wanted == "hello":
            self.send({"setup": {"controls": controls(), "presets": presets(), "view": VIEW}})
        elif wanted == "shown":
            self.on_the_way = max(self.on_the_way - 1, 0)
        elif wanted == "speed":
            speed = float(message["value"])
            self.speed = speed if speed > 0 else math.inf
        elif wanted == "start":
            self._settings(lambda: self._start(message))
        elif self.learner is None:
            raise ValueError("nothing was started yet")
        else:
            self._do(self.learner, message)

    def _settings(self, take: Callable[[], None]) -> None:
        """Settings that are refused leave all as it was, playing too; the page says why until others are taken."""
        refused = ""
        try:
            take()
        except InputError as error:
            refused = str(error)
        if refused or self.refused:
            self.send({"refused": refused})
        self.refused = refused

    def _start(self, message: Message) -> None:
        lab, config = read(message.get("settings"))
        drawn = _drawn(message.get("drawn")) if lab.data == "drawn" else None
        self.learner = Learner(lab, config, drawn)
        self.playing = None
        self.learner.averaged = self.averaged
        self.news.clear()
        self._show()

    def _do(self, learner: Learner, message: Message) -> None:
        wanted = message["do"]
        if wanted == "rates":
            self._settings(lambda: setattr(learner, "rates", read_rates(message)))
            return
        if wanted == "play":
            self.playing, self.step_due = _kind(message), time.monotonic()
        elif wanted == "pause":
            self.playing = None
        elif wanted == "step":
            self.playing = None
            self._step(learner, _kind(message))
        elif wanted == "back":
            self.playing = None
            learner.back()
            self.news.clear()
        elif wanted == "average":
            self.averaged = learner.averaged = bool(message["on"])
        elif wanted == "slow":
            self.playing = None
            self.send({"slow": slow_motion(learner, _kind(message))})
        else:
            raise ValueError(f"there is nothing like {wanted!r} to do")
        self._show()

    def _step(self, learner: Learner, which: Which) -> None:
        metrics = learner.step(which)
        losses = float(metrics.loss_d), float(metrics.loss_g)
        self.news.append((learner.state.step, *losses))
        if not all(map(math.isfinite, metrics)):
            self.playing = None
            self._show()
            self.send(
                {"error": f"step {learner.state.step:,} is not finite: step back, or begin anew with lower rates"}
            )

    def _show(self) -> None:
        learner = self.learner
        assert learner is not None
        metrics = learner.metrics
        self.send(
            {
                "frame": {
                    "step": learner.state.step,
                    "data": learner.lab.data,
                    "playing": self.playing is not None,
                    "metrics": None if metrics is None else {k: _number(v) for k, v in metrics._asdict().items()},
                    "measures": {k: _number(v) for k, v in learner.measures()._asdict().items()},
                    "news": [[step, *map(_number, losses)] for step, *losses in self.news],
                    **packed_picture(learner.picture()),
                }
            }
        )
        self.news.clear()
        self.on_the_way += 1
        self.frame_due = time.monotonic() + 1.0 / FRAMES


def _kind(message: Message) -> Which:
    which = message.get("which", "both")
    if which not in _KINDS:
        raise ValueError(f"a step is one of {', '.join(_KINDS)}, not {which!r}")
    return which


def _number(value: Any) -> float | None:
    """None for what JSON has no number for."""
    return float(value) if value is not None and math.isfinite(value) else None


def _drawn(points: object) -> np.ndarray:
    try:
        array = np.array(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise InputError("the drawn points are not pairs of numbers") from None
    if not _FEWEST_DRAWN <= len(array) <= _MOST_DRAWN:
        raise InputError(f"draw from {_FEWEST_DRAWN} to {_MOST_DRAWN:,} points first, got {len(array):,}")
    if not (np.abs(array) <= VIEW).all():  # NaN is not
        raise InputError(f"drawn points lie between −{VIEW} and {VIEW}")
    return array


def main() -> None:
    np.seterr(all="ignore")  # what is not finite is told by the page
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else gets between the lines
    inbox: queue.Queue[Message] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            inbox.put(json.loads(line))
        os._exit(0)

    def send(message: Message) -> None:
        try:
            out.write(json.dumps(message, allow_nan=False).encode() + b"\n")
            out.flush()
        except OSError:  # nobody is there any more
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    Trainer(inbox, send).run()


if __name__ == "__main__":
    main()
