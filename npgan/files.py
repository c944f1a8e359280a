"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what a file system says that cannot flush a folder, as some on a network


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of ``path`` as in ``atomic_path``."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` to write or to replace, which takes its place when all went well: a kill or a power cut
    leaves the old one or the new one. Raises OSError that names ``path``, and then leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder: a rename within one file system
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        os.chmod(temporary, mode)  # a library that replaced it may have taken narrower permissions
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        publish(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Gives a finished file its name, and makes that last through a power cut."""
    os.replace(temporary, path)
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except PermissionError:  # Windows lets no program open a folder, nor may one that can be written and not read be
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(folder)
