"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from npgan.backend import Array, to_numpy
from npgan.errors import InputError

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what a file system says that cannot flush a folder, as some on a network


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of ``path`` as in ``atomic_path``."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


@contextmanager
def named_output(path: Path) -> Iterator[BinaryIO]:
    """What somebody named to be written: a file, also behind a link, is replaced whole or not at all; into a pipe or a device
    is written. Raises OSError."""
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
    else:
        with replacing(path.resolve()) as file:
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


def write_tensors(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str]) -> None:
    """A safetensors file, whole or not at all. Raises OSError."""
    from safetensors.numpy import save

    with replacing(path) as file:
        file.write(save({name: np.ascontiguousarray(to_numpy(tensor)) for name, tensor in tensors.items()}, metadata))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a safetensors file and its metadata. Raises InputError, naming the file."""
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise InputError(f"{path}: is not a regular file")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read: {(str(error).splitlines() or ['no safetensors file'])[0]}") from None
