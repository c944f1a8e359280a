"""One process at a time writes into a run folder.

The lock is the kernel's and ends with the process that holds it, however that ends: a lock file left by a kill locks nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from npgan.errors import InputError

LOCK_FILE = ".lock"
_TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def locked(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Holds the folder's lock. Raises InputError, naming the process, when another one has it.

    The file says who holds it, for people; it is emptied at the end, so words in a file without a lock were left by a kill
    and are reported. Where the file system has no locks that is reported too.
    """
    path = folder / LOCK_FILE
    try:
        # O_NOFOLLOW: a link in the place of the file must not lead elsewhere
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise InputError(f"{folder}: in use by {_holder(descriptor) or 'another process'}") from None
            report(f"{path}: no locks here ({error.strerror}): start only one process on this run")
        if holder := _holder(descriptor):
            report(f"{folder}: {holder} ended without saying so: taking over")
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        try:
            yield
        finally:
            os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """The first line of the lock file, made printable."""
    line = os.pread(descriptor, 200, 0).decode(errors="replace").split("\n")[0]
    return "".join(letter for letter in line if letter.isprintable())
