"""``npgan`` in a process of its own that saves and stops when the one that started it is gone, however that ended.

Its standard input is a pipe that nobody writes to. It ends when the parent closes it, or when the system does that because the
parent is no more: then this process sends itself the signal that asks a training to save and to stop.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading


def _stop_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    runpy.run_module("npgan", run_name="__main__")
