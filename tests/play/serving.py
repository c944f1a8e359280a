"""A server as users start it, and what processes it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Served:
    process: subprocess.Popen[str]
    address: str  # with the token

    @property
    def host(self) -> str:
        return self.address.split("/")[2]

    @property
    def token(self) -> str:
        return self.address.split("/")[3]

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """The exit status, and what was printed after the address."""
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=10)
        return self.process.returncode, printed


def serve(*arguments: str, **environment: str) -> Served:
    """As ``npgan play ARGUMENTS``; whoever calls it stops it."""
    command = [sys.executable, "-m", "npgan", "play", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert process.stdout is not None
    return Served(process, process.stdout.readline().split()[0])


def children(pid: int) -> set[int]:
    """The processes that one has started and that have not ended."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(parent) == pid and state != "Z":
            found.add(int(status.parent.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
