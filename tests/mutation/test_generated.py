"""The generated mutants: the same sample for the same seed, each of them Python and other than the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from generated import mutants_of, sample

PACKAGE = Path(__file__).parents[2] / "npgan"


@pytest.mark.parametrize("part", ["gan", "nn"])
def test_a_sample_is_a_function_of_its_seed(part: str) -> None:
    first, again, other = (sample(PACKAGE, part, 14, seed) for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 14
    assert {mutant.part for mutant in first} == {part}
    for mutant in first:
        before = (PACKAGE.parent / mutant.file).read_text(encoding="utf-8")
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(before))


def test_what_is_changed_and_what_is_not() -> None:
    source = '''"""Words."""

def f(x: int | None, y: float = 0.5) -> str:
    if x is None and not y:
        g(x, "ä", 2)
    return f"{x + 1}" + max(x, y)
'''
    found = [(mutant.kind, mutant.line, mutant.new) for mutant in mutants_of("npgan/f.py", source)]
    assert sorted(found) == sorted(
        [
            ("constant", 3, "def f(x: int | None, y: float = 1.0) -> str:"),
            ("boolean", 4, "if (not (x is None and (not y))):"),
            ("boolean", 4, "if (x is None or not y):"),
            ("comparison", 4, "if (x is not None) and not y:"),
            ("boolean", 4, "if x is None and y:"),
            ("statement", 5, "pass"),
            ("arguments", 5, "g('ä', x, 2)"),
            ("constant", 5, 'g(x, "ä", 3)'),
            ("arithmetic", 6, "return (f'{x + 1}' - max(x, y))"),
        ]
    )
