"""What came out of a check, and what the code under check may use."""

from __future__ import annotations

from typing import Any, NamedTuple

from npgan.gradcheck.report import Diagnosis
from npgan.gradcheck.source import Source

CODE = "your code"  # what it is called where it is quoted
LARGEST = 100_000  # letters or bytes of it
SECONDS = 10  # after the start: right answers take about one
MEMORY = 1 << 30  # bytes of address space; about 0.15 GiB of it are Python's and NumPy's own


class Verdict(NamedTuple):
    """``line``: what to tell a person. ``printed``: what the code wrote to standard output and error, or its beginning."""

    solved: bool
    line: str
    diagnoses: list[Diagnosis]
    printed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = [{**each._asdict(), "source": each.source and each.source._asdict()} for each in self.diagnoses]
        return {**self._asdict(), "diagnoses": told}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Verdict:
        told = [
            Diagnosis(**{**each, "source": each["source"] and Source(**each["source"])}) for each in values["diagnoses"]
        ]
        return cls(**{**values, "diagnoses": told})
