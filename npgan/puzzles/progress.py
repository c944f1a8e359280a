"""Which puzzles are solved: kept in the platform's folder for users' data, for the terminal and for the page."""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs
from filelock import FileLock

from npgan.errors import InputError, first_line
from npgan.files import replacing
from npgan.puzzles.puzzle import Puzzle


def progress_file() -> Path:
    return platformdirs.user_data_path("npgan", appauthor=False) / "puzzles.json"


def solved() -> set[str]:
    """The titles of the solved bugs. Raises InputError where the file cannot be read."""
    file = progress_file()
    try:
        titles = json.loads(file.read_text(encoding="utf-8"))["solved"]
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}): delete it to start afresh") from None
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise InputError(f"{file}: does not hold a list of titles: delete it to start afresh")
    return set(titles)


def keep_solved(puzzle: Puzzle) -> None:
    """Raises InputError where the file cannot be read or written."""
    file = progress_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):  # the page and the terminal may both be at it
            titles = sorted(solved() | {puzzle.title})
            with replacing(file) as new:
                new.write(json.dumps({"solved": titles}, ensure_ascii=False, indent=1).encode())
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({first_line(error)}): solved, but not kept") from None
