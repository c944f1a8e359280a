"""How npgan prints: what comes from outside cannot steer the terminal, is never read as markup, and fits any encoding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment
from rich.text import Text

from npgan.errors import one_line


class Console(rich.console.Console):
    """rich's, where only styles and controls that are rich's own reach the terminal as such.

    Whatever is printed goes through ``render`` as pieces of text, and escape codes are made of their styles after that.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **settings)

    def render(self, *what: Any, **how: Any) -> Iterable[Segment]:
        for segment in super().render(*what, **how):
            yield segment if segment.control else Segment(self._shown(segment.text), segment.style)

    def _shown(self, text: str) -> str:
        text = "\n".join(map(one_line, text.split("\n")))
        return text if text.isascii() else text.encode(self.encoding, "replace").decode(self.encoding)


def say(line: str, to_stderr: bool = False) -> None:
    """Prints one line, however long."""
    Console(stderr=to_stderr).print(Text(one_line(line)), soft_wrap=True)
