"""A mutant: the package with one small change, which some test must notice."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    file: str  # from the repository's root on
    kind: str  # "planted", or the kind of change
    line: int  # where it begins
    old: str  # the changed lines of the source, in one line
    new: str
    source: str  # the whole file, changed

    @classmethod
    def made(cls, file: str, kind: str, before: str, after: str) -> Mutant:
        a, b = before.splitlines(), after.splitlines()
        first = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        last = next((n for n, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y), 0)
        last = min(last, len(a) - first - 1, len(b) - first - 1)
        old, new = (" ".join(map(str.strip, lines[first : len(lines) - last])) for lines in (a, b))
        return cls(file, kind, first + 1, old, new, after)

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line} {self.old}  →  {self.new}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.file}\n{self.source}".encode()).hexdigest()

    @property
    def part(self) -> str:
        """Whose score it counts with. files.py is tested by faults of runs, what layers stand on by those of nn."""
        homes = {"files": "runs", "config": "gan", "modules": "nn", "expect": "nn", "saved": "nn"}
        return homes.get(part := Path(self.file).parts[1].removesuffix(".py"), part)
