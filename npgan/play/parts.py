"""Which parts there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from npgan.play.base import Part, Send
from npgan.play.digits import Digits
from npgan.play.lab import Lab
from npgan.play.puzzles import Puzzles

# By name, in the order of the tabs. Made of the page's ``send`` and the run that the command was given.
PARTS: dict[str, Callable[[Send, Path | None], Part]] = {"lab": Lab, "digits": Digits, "puzzles": Puzzles}
