"""``npgan play``: serves the page until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import webbrowser
from pathlib import Path

from npgan.console import say
from npgan.errors import InputError

_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def play(run_path: Path | None, port: int, browser: bool) -> int:
    """Returns 128 + the signal that stopped it. Raises InputError for a run or a port that cannot be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port must be a whole number from 0 to 65535, got {port}")
    if run_path is not None:
        from npgan.runs.folder import RunFolder

        RunFolder.open_existing(run_path)
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise InputError("the page needs aiohttp: pip install 'npgan[play]'") from None
    return asyncio.run(_serve(run_path, port, browser))


async def _serve(run_path: Path | None, port: int, browser: bool) -> int:
    from npgan.play.server import Server

    loop = asyncio.get_running_loop()
    stopped: asyncio.Queue[int] = asyncio.Queue()
    for name in _STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(
                getattr(signal, name), lambda number, _: loop.call_soon_threadsafe(stopped.put_nowait, number)
            )
    server = Server(run_path)
    await server.start(port)
    try:
        say(f"{server.address}  Ctrl-C stops it")
        if browser and not await asyncio.to_thread(webbrowser.open, server.address):
            say("no browser was found here: open the address in one")
        number = await stopped.get()
        say(f"stopped by {signal.Signals(number).name}")
    finally:
        await server.stop()
    return 128 + number
