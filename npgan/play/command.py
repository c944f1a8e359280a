"""``npgan play``: serves the page until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from npgan.console import say
from npgan.errors import InputError

_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def play(run_path: Path | None, port: int, browser: bool) -> int:
    """Returns 128 + the signal that stopped it. Raises InputError for a run or a port that cannot be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port must be a whole number from 0 to 65535, got {port}")
    if run_path is not None:
        from npgan.play.watched import WatchedRun

        for problem in WatchedRun(run_path).damaged:
            say(problem, to_stderr=True)
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise InputError("the page needs aiohttp: pip install 'npgan[play]'") from None
    return asyncio.run(_serve(run_path, port, browser))


async def _serve(run_path: Path | None, port: int, browser: bool) -> int:
    from npgan.play.server import Server

    server = Server(run_path)
    await server.start(port)
    try:
        with _stop_signals() as stopped:
            say(f"{server.address}  Ctrl-C stops it")
            if browser:  # a daemon: some browsers come back only when they are closed
                threading.Thread(target=_open, args=[server.address_once], daemon=True).start()
            number = await stopped.get()
            say(f"stopped by {signal.Signals(number).name}")
    finally:
        await server.stop()
    return 128 + number


@contextmanager
def _stop_signals() -> Iterator[asyncio.Queue[int]]:
    """Where the signals that ask to stop arrive."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Queue[int]()
    numbers = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name)]
    previous = {
        number: signal.signal(number, lambda number, _: loop.call_soon_threadsafe(stopped.put_nowait, number))
        for number in numbers
    }
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _open(address: str) -> None:
    if not webbrowser.open(address):
        say("no browser was found here: open the address in one")
