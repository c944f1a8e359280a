"""The puzzles: what is typed into the page is checked as by ``npgan puzzle --check``, and what is solved is so there too."""

from __future__ import annotations

from pathlib import Path

from npgan.play.base import Message, Send
from npgan.puzzles.check import check
from npgan.puzzles.progress import keep_solved, solved
from npgan.puzzles.puzzle import Puzzle, find, puzzles
from npgan.puzzles.verdict import LARGEST


class Puzzles:
    def __init__(self, send: Send, run: Path | None) -> None:
        self.send = send

    async def handle(self, message: Message) -> None:
        if message.get("do") == "list":
            await self._list()
            return
        puzzle = find(str(message.get("number")))
        match message:
            case {"do": "open"}:
                await self.send({"puzzle": _shown(puzzle)})
            case {"do": "check", "text": str(text)}:
                await self._check(puzzle, text)
            case {"do": "hint", "which": int(which)} if 0 <= which < len(puzzle.hints):
                await self.send({"hint": puzzle.hints[which], "number": puzzle.number})
            case {"do": "solution"}:
                await self.send({"solution": puzzle.solution, "number": puzzle.number})

    async def close(self) -> None:
        """Nothing: a check that is cancelled ends its process itself."""

    async def _list(self) -> None:
        done = solved()
        rows = [
            {"number": each.number, "name": each.name, "title": each.title if each in done else None}
            for each in puzzles()
        ]
        await self.send({"list": rows})

    async def _check(self, puzzle: Puzzle, text: str) -> None:
        verdict = await check(puzzle, text)
        title = puzzle.title if verdict.solved else None
        await self.send({"verdict": verdict.to_dict(), "number": puzzle.number, "title": title})
        if verdict.solved:
            keep_solved(puzzle, text)
            await self._list()


def _shown(puzzle: Puzzle) -> Message:
    return {
        "number": puzzle.number,
        "function": puzzle.function,
        "formula": puzzle.formula,
        "above": puzzle.above,
        "broken": puzzle.broken,
        "hints": len(puzzle.hints),
        "largest": LARGEST,
    }
