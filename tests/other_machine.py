"""A machine that lacks what Linux has, for processes that call ``hide`` before anything else.

Gone are the modules that only POSIX has, its signals, system calls that Windows lacks, /proc and /sys; a folder cannot be
opened, so not flushed. os.name and os.uname() stay: Python and NumPy, built for this system, go by them.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

MODULES = ("fcntl", "resource", "termios", "tty", "pty", "grp", "pwd", "syslog")
SIGNALS = ("SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV")  # all that Windows has
NEEDED = ("SIGKILL",)  # by subprocess, as it is on this system
CALLS = (
    "sched_getaffinity", "geteuid", "getuid", "getgid", "fork", "getloadavg", "sysconf", "statvfs", "mkfifo",
    "killpg", "getpgid", "setsid", "fchmod", "posix_fallocate", "fdatasync", "sync",
)  # fmt: skip


def hide(modules: Sequence[str] = ()) -> None:
    """``modules``: others that are not installed."""
    for name in (*MODULES, *modules):
        sys.modules[name] = None  # type: ignore[assignment]
    for name in dir(signal):
        if name.startswith("SIG") and name[3:4].isalpha() and name not in (*SIGNALS, *NEEDED):
            delattr(signal, name)
    for name in CALLS:
        if hasattr(os, name):
            delattr(os, name)
    builtins.open = io.open = _guarded(io.open, folders=True)  # type: ignore[assignment]
    os.open = _guarded(os.open, folders=False)


def _guarded(opened: Callable[..., Any], folders: bool) -> Callable[..., Any]:
    """``folders``: whether it may be given one, as Python's tempfile gives one to ``io.open``."""

    def look(path: Any, *arguments: Any, **more: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            text = os.fspath(path)
            if text.startswith(("/proc/", "/sys/")):
                raise FileNotFoundError(2, "No such file or directory", text)
            if not folders and os.path.isdir(text):
                raise PermissionError(13, "Permission denied", text)
        return opened(path, *arguments, **more)

    return look


def import_all() -> None:
    """Every module of npgan; what other libraries an optional part asks for may be missing."""
    import importlib
    import pkgutil

    import npgan

    for module in pkgutil.walk_packages(npgan.__path__, "npgan."):
        if module.name != "npgan.__main__":
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                missing = (error.name or "").split(".")[0]
                if missing == "resource" and module.name.startswith("npgan.sweep"):
                    continue  # psutil, which Dask needs, takes this for a POSIX system
                if missing not in ("numba", "cupy", "torch", "jax"):
                    raise
                print(f"{module.name} needs {missing}")
