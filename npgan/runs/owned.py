"""Which entries of a run folder are npgan's own. Nothing else is ever replaced, moved or removed."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

MARKER_FILE = ".npgan-run"  # in every folder that npgan made; says when the run last trained
LOCK_FILE = ".lock"
SOFT_LOCK_FILE = ".lock-marker"  # where there are no locks
STARTING_FILE = ".starting.safetensors"  # in checkpoints/: the first checkpoint of a run that has not begun yet
PREVIOUS = ".previous-run"  # a folder: the run that is about to be replaced
LOG_FILE = "npgan.log"
DAMAGED = ".damaged"  # added to the name of a checkpoint that is set aside

CHECKPOINT_NAME = re.compile(r"step-(\d{9,15})\.safetensors")
SAMPLE_NAME = re.compile(r"epoch-(\d{5,15})\.png")

# A run's files by the folder they lie in, and what a kill may leave of them half-written.
_NAMES = {
    "": r"config\.json|metrics\.jsonl|npgan\.log|evaluation\.json|evaluation\.jsonl|evaluation\.png|evaluation-curves\.png",
    "checkpoints": r"step-\d{9,15}\.safetensors(\.damaged(-\d+)?)?|latest|kept\.json|diagnosis-step-\d+\.json",
    "samples": r"epoch-\d{5,15}\.png|training\.gif",
}
_OWN = {folder: re.compile(names) for folder, names in _NAMES.items()}
_TEMPORARY = {
    "": re.compile(rf"\.({_NAMES['']}|\.npgan-run)\.\d+\.tmp|\.writable\.\d+"),
    "checkpoints": re.compile(
        rf"\.({_NAMES['checkpoints']}|\.starting\.safetensors)\.\d+\.tmp|\.writable\.\d+|\.tmp\w{{6}}"  # of safetensors
    ),
    "samples": re.compile(rf"\.({_NAMES['samples']})\.\d+\.tmp|\.writable\.\d+"),
}
_FOLDERS = ("checkpoints", "samples")


def own_entries(run: Path) -> list[Path]:
    """Everything in the folder that has the name of a run's file, whatever it is."""
    return list(_named(run, _OWN))


def temporary_files(run: Path) -> list[Path]:
    """What a kill left half-written."""
    return [entry for entry in _named(run, _TEMPORARY) if is_regular(entry)]


def _named(run: Path, names: Mapping[str, re.Pattern[str]]) -> Iterator[Path]:
    for below, name in names.items():
        folder = run / below
        if folder.is_dir() and not (below and folder.is_symlink()):
            yield from (entry for entry in folder.iterdir() if name.fullmatch(entry.name))


def is_regular(path: Path) -> bool:
    """A file, and no link to one. npgan writes no other kind."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_of_a_run(path: Path) -> bool:
    """Whether the path, also behind a link, is that of a run's own file, there or not yet, in a folder that npgan made."""
    path = path.resolve()
    for run in (path.parent, path.parent.parent):
        below = "" if run == path.parent else path.parent.name
        fixed = not below and path.name in (MARKER_FILE, LOCK_FILE, SOFT_LOCK_FILE)
        named = below in _OWN and _OWN[below].fullmatch(path.name)
        if is_regular(run / MARKER_FILE) and (fixed or named):
            return True
    return False


def lies_in_a_run(path: Path) -> bool:
    """Whether a folder of this path is, or is within, one where a run keeps its own files."""
    places = [path.resolve(), *path.resolve().parents]
    return any(each.name in (*_FOLDERS, PREVIOUS) and is_regular(each.parent / MARKER_FILE) for each in places)


def in_the_way(run: Path) -> Path | None:
    """What in a folder without a marker has the place of a run's file or folder; None where a run may be made.

    What a start that came to nothing left is not in the way.
    """
    litter = {file for file in temporary_files(run) if not file.name.startswith(".tmp")}  # that may be of any program
    for entry in run.iterdir():
        if entry.name in _FOLDERS:
            taken = entry.is_symlink() or not entry.is_dir() or not set(entry.iterdir()) <= litter
        elif entry.name in (LOCK_FILE, SOFT_LOCK_FILE):
            taken = not (is_regular(entry) and _is_lock(entry))
        else:
            taken = entry.name in (MARKER_FILE, PREVIOUS) or bool(_OWN[""].fullmatch(entry.name))
        if taken:
            return entry
    return None


def _is_lock(file: Path) -> bool:
    """As npgan or filelock writes one."""
    if file.stat().st_size > 1024:
        return False
    return re.fullmatch(rb"(process \d+ on .*\n?|\d+\n[^\0]*)?", file.read_bytes()) is not None


def move(source: Path, target: Path) -> None:
    """Within one file system, to a place that is free. Raises OSError."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "is in the way", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
