"""Which puzzles are solved: the answers are in the platform's folder for users' data, from the terminal and from the page."""

from __future__ import annotations

import os
import re
from pathlib import Path

from npgan.errors import InputError, first_line
from npgan.files import replacing
from npgan.puzzles.puzzle import Puzzle, puzzles


def answers_folder() -> Path:
    """A file for each solved puzzle. It may not exist yet."""
    try:
        import platformdirs
    except ImportError:
        return Path(os.path.expanduser("~/.local/share/npgan/puzzles"))
    return platformdirs.user_data_path("npgan", appauthor=False) / "puzzles"


def solved() -> set[Puzzle]:
    """Raises InputError where the folder cannot be read."""
    folder = answers_folder()
    try:
        there = set(os.listdir(folder))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"{folder}: which puzzles are solved cannot be read: {first_line(error)}") from None
    return {puzzle for puzzle in puzzles() if _file_name(puzzle) in there}


def keep_solved(puzzle: Puzzle, answer: str) -> None:
    """Raises InputError where the answer cannot be written."""
    folder = answers_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / _file_name(puzzle)) as file:
            file.write(answer.encode())
    except OSError as error:
        raise InputError(f"{folder}: the answer is right but cannot be kept: {first_line(error)}") from None


def _file_name(puzzle: Puzzle) -> str:
    """By the bug, whatever its number: "sigmoid-s-derivative-without-the-factor-y.py"."""
    return re.sub(r"\W+", "-", puzzle.title.lower()) + ".py"
