"""The 2-D lab: hands messages on between the page and a process of its own, in which the GAN learns (``trainer``)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from npgan.play.base import Message, Send

_LONGEST_LINE = 1 << 26  # bytes
_SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",  # the products are too small for two, and the page has the other core
    "MALLOC_MMAP_THRESHOLD_": str(
        32 << 20
    ),  # glibc does not give memory back between two pictures: 2 ms for one, not 5
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


class Lab:
    def __init__(self, send: Send, run: Path | None) -> None:
        self.send = send
        self.process: Process | None = None
        self.relay: asyncio.Task[None] | None = None

    async def handle(self, message: Message) -> None:
        if self.process is None or self.process.returncode is not None:
            self.process = await _trainer()
            self.relay = asyncio.create_task(self._relay(self.process))
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has just ended: the relay tells
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            await self.process.stdin.drain()

    async def _relay(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            await self.send(json.loads(line))
        await self.send(
            {"error": f"the learner has ended, with status {await process.wait()}: begin anew", "ended": True}
        )

    async def close(self) -> None:
        if self.relay is not None:
            self.relay.cancel()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


async def _trainer() -> Process:
    """In a session of its own, out of the reach of Ctrl-C, which is the server's; -P and the server's own path, so that nothing
    else is imported from the folder."""
    environment = {**os.environ, **_SETTINGS, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "npgan.play.trainer",
        stdin=PIPE, stdout=PIPE, limit=_LONGEST_LINE, env=environment, start_new_session=True,
    )  # fmt: skip
