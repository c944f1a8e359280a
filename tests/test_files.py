"""Files that appear whole or not at all, on file systems that differ."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from npgan import files
from npgan.errors import InputError


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Some file systems have no such thing, and the file is there all the same; a broken disk is an error."""
    real, path = os.fsync, tmp_path / "file"
    folder = tmp_path.stat().st_ino

    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == folder:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)), files.replacing(path) as file:
            file.write(b"words")
    else:
        with files.replacing(path) as file:
            file.write(b"words")
    assert path.read_bytes() == b"words"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    real = os.open

    def opened(path: Path, *arguments: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", opened)
    with files.replacing(tmp_path / "file") as file:
        file.write(b"words")
    assert (tmp_path / "file").read_bytes() == b"words"


def test_what_was_written_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves the old file or the new one: the content is flushed, then the name, then the folder that has it."""
    path, calls = tmp_path / "file", []
    fsync, replace, inode = os.fsync, os.replace, tmp_path.stat().st_ino

    def flushed(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append("folder" if status.st_ino == inode else f"{status.st_size} bytes")
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        calls.append(f"{Path(new).name} replaced")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    with files.replacing(path) as file:
        file.write(b"words")
    assert calls == ["5 bytes", "file replaced", "folder"]


def test_no_tensors_are_read_from_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a regular file"):
        files.read_tensors(tmp_path)
