"""Typed code under the gradient checks, in a process of its own: a limit against accidents, not against malice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import npgan
from npgan.errors import one_line
from npgan.puzzles.puzzle import Puzzle
from npgan.puzzles.verdict import CODE, SECONDS, Verdict

_START = 20  # seconds that Python and NumPy may take to start
_LONGEST = 1 << 20  # bytes of an answer
# Of the environment: without these NumPy may not load.
_KEPT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


async def check(puzzle: Puzzle, text: str) -> Verdict:
    """The verdict on ``text``. Whatever it has started has ended when this returns or is cancelled."""
    secret = secrets.token_hex()
    request = {"secret": secret, "function": puzzle.bug.function, "text": text, "seconds": SECONDS}
    with tempfile.TemporaryDirectory(prefix="npgan-puzzle-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-B", "-P", "-m", "npgan.puzzles.worker",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=folder, env=_environment(folder), start_new_session=True,
        )  # fmt: skip
        output, status = b"", None
        try:
            async with asyncio.timeout(_START + SECONDS):
                output = await _talk(process, json.dumps(request).encode() + b"\n")
                status = await process.wait()
        except TimeoutError:
            pass
        finally:
            _kill(process)
            await process.wait()
    return _verdict(output.decode(errors="replace"), status, secret)


async def _talk(process: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    with suppress(ConnectionError):
        process.stdin.write(request)
        await process.stdin.drain()  # it stays open: at its end the process would think that nobody waits
    try:
        return await process.stdout.readexactly(_LONGEST)
    except asyncio.IncompleteReadError as all_there_was:
        return all_there_was.partial


def _environment(folder: str) -> dict[str, str]:
    paths = [str(Path(npgan.__file__).parents[1]), *filter(None, sys.path)]
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    homes = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), folder)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, **threads, **homes, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"}


def _kill(process: asyncio.subprocess.Process) -> None:
    """With all that it has started; on Windows itself alone."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _verdict(output: str, status: int | None, secret: str) -> Verdict:
    lines = output.splitlines()
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            answer = json.loads(line)
            if answer["secret"] == secret:
                return Verdict.from_dict(answer["verdict"])
    if status is None or any(line.startswith("Timeout (") for line in lines):
        place = re.search(rf'File "{CODE}", line (\d+)', output)
        where = f": it was in line {place[1]}" if place else ""
        return Verdict(False, f"no end after {SECONDS} seconds{where}", [])
    if status < 0:
        with suppress(ValueError):
            return Verdict(False, f"the process was ended by {signal.Signals(-status).name}", [])
    last = f": {one_line(lines[-1])}" if lines else ""
    return Verdict(False, f"the process ended before the checks did, with exit status {status}{last}", [])
