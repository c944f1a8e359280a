"""The part of the page that shows a run: its samples over time, latent space, ∂L/∂pixels and its curves."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from npgan.errors import InputError
from npgan.play.arrays import packed
from npgan.play.base import Message, Send
from npgan.play.watched import (
    DIRECTIONS,
    FARTHEST,
    PATHS,
    POINTS,
    SLIDERS,
    STRIP,
    LatentPoint,
    Look,
    WatchedRun,
    palette,
)

_SECONDS_BETWEEN_LOOKS = 1.0  # at the folder


class Digits:
    """Answers each request once; what is new in the folder it sends unasked.

    The page waits for an answer before it asks again, and then only for what it wants by then, so moves of a slider never wait
    in line.
    """

    def __init__(self, send: Send, run_path: Path | None) -> None:
        self._send, self._path = send, run_path
        self._run: WatchedRun | None = None
        self._in_use = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def handle(self, message: Message) -> None:
        if self._path is None:
            await self._send({"run": None})
            return
        if self._run is None:
            self._run = await asyncio.to_thread(WatchedRun, self._path)
            await self._send(_constants())
            await self._send({"run": _overview(self._run)})
            self._following = asyncio.create_task(self._follow(self._run))
        if self._following is not None and self._following.done():
            self._following.result()
        if message.get("show") != "run":
            async with self._in_use:
                answer = await asyncio.to_thread(_answer, self._run, message)
            await self._send(answer)

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following

    async def _follow(self, run: WatchedRun) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            async with self._in_use:
                news = _overview(run) if await asyncio.to_thread(run.poll) else None
            if news is not None:
                await self._send({"run": news})


def _answer(run: WatchedRun, message: Message) -> Message:
    """Raises InputError."""
    show: Any = message.get("show")
    step: Any = message.get("step")
    if show == "samples":
        return {"samples": _written(run.samples(step))}
    point = LatentPoint.of_page(message.get("point"))
    if show == "latent":
        found = run.latent(step, point)
        return {"latent": _written(found.look), "coordinates": found.coordinates, "length": found.length}
    if show == "strips":
        strips = run.strips(step, point.start, point.end)
        return {"strips": {path: packed(pixels) for path, pixels in strips.items()}}
    raise InputError(f"the page asks for {show!r}")


def _written(look: Look) -> Message:
    return {**look._asdict(), "pixels": packed(look.pixels), "change": packed(look.change)}


def _overview(run: WatchedRun) -> Message:
    word, line = run.status
    return {
        "name": run.name,
        "status": word,
        "line": line,
        "settings": run.settings(),
        "verdict": run.verdict_means(),
        "drawn_with": run.drawn_with(),
        "latent_dim": run.latent_dim,
        "notes": [*run.damaged, *([run.problem] if run.problem else []), *run.said],
        "moments": [
            {
                "step": moment.step,
                "epoch": moment.epoch,
                "checkpoint": moment.is_checkpoint,
                "stamp": "-".join(map(str, moment.stamp)),
            }
            for moment in run.moments
        ],
        "curves": run.curves(),
    }


def _constants() -> Message:
    return {
        "constants": {
            "directions": DIRECTIONS,
            "paths": PATHS,
            "sliders": SLIDERS,
            "strip": STRIP,
            "farthest": FARTHEST,
            "points": POINTS,
            "palette": packed(np.array(palette(), np.uint8)),
        }
    }
