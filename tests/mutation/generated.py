"""Mutants made from the syntax tree: one small change each. The sample is drawn with a seed, the same on every machine."""

from __future__ import annotations

import ast
import copy
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutants import Mutant

LAYOUT = (  # how it looks: another color or a wider column is not wrong
    "runs/colormaps.py", "runs/display.py", "runs/pictures.py", "gradcheck/report.py", "gradcheck/gallery.py",
    "evaluation/picture.py", "evaluation/report.py", "inspector/page.py", "inspector/style.py", "inspector/svg.py",
    "inspector/terminal.py", "inspector/over_time.py",
)  # fmt: skip
OTHER_MACHINES = ("engines/cuda/",)  # most of their tests need a GPU, or CuPy and a C++ compiler

_COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitXor: ast.BitAnd,
}  # fmt: skip
_SYMMETRIC = ("max", "min", "maximum", "minimum", "isinstance")  # a swap changes nothing, or is an exception at once
_KINDS = ("comparison", "arithmetic", "constant", "boolean", "statement", "arguments")


def sample(package: Path, part: str, count: int, seed: int) -> list[Mutant]:
    """``count`` mutants of npgan/``part``: a kind in turn, of a file drawn for it, at a place drawn from it."""
    places: dict[str, dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for path in (
        [package / f"{part}.py"] if (package / f"{part}.py").exists() else sorted((package / part).rglob("*.py"))
    ):
        file = path.relative_to(package).as_posix()
        if file not in LAYOUT and not file.startswith(OTHER_MACHINES):
            for mutant in mutants_of(f"npgan/{file}", path.read_text(encoding="utf-8")):
                places[mutant.kind][file].append(mutant)
    chance, drawn = random.Random(f"{seed} {part}"), []
    while len(drawn) < count and any(places.values()):
        files = places[_KINDS[len(drawn) % len(_KINDS)]] or next(filter(None, places.values()))
        left = files[file := chance.choice(sorted(files))]
        drawn.append(left.pop(chance.randrange(len(left))))
        if not left:
            del files[file]
    return drawn


def mutants_of(file: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of the source."""
    whole = source.encode()
    lines = whole.splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(len(lines))]
    for node in _walk(ast.parse(source)):
        for kind, place, new in _changed(node):
            text = ast.unparse(new)
            text = f"({text})" if isinstance(new, ast.BinOp | ast.BoolOp | ast.Compare | ast.UnaryOp) else text
            start = starts[place.lineno - 1] + place.col_offset
            stop = starts[(place.end_lineno or 0) - 1] + (place.end_col_offset or 0)
            yield Mutant.made(file, kind, source, (whole[:start] + text.encode() + whole[stop:]).decode())


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """What runs and has a place in the source: no annotation, decorator, f-string or ``strict=``, nothing for type checkers."""
    if (
        isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.keyword) and node.arg == "strict")
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ):
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child)


def _changed(node: ast.AST) -> Iterator[tuple[str, Any, ast.AST]]:
    """Kind, what is replaced, and by what."""
    new: Any = copy.deepcopy(node)
    match new:
        case ast.Compare() if type(new.ops[0]) in _COMPARED:
            new.ops[0] = _COMPARED[type(new.ops[0])]()
            yield "comparison", node, new
        case ast.BinOp() | ast.AugAssign() if type(new.op) in _COMPUTED:
            new.op = _COMPUTED[type(new.op)]()
            yield "arithmetic", node, new
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield "arithmetic", node, operand
        case ast.Constant(value=bool()):
            yield "boolean", node, ast.Constant(not new.value)
        case ast.Constant(value=int()):
            yield "constant", node, ast.Constant(new.value + 1)
        case ast.Constant(value=float()):
            yield "constant", node, ast.Constant(2.0 * new.value or 1.0)
        case ast.BoolOp():
            new.op = ast.And() if isinstance(new.op, ast.Or) else ast.Or()
            yield "boolean", node, new
        case ast.UnaryOp(op=ast.Not()):
            yield "boolean", node, new.operand
        case ast.If(test=test) | ast.IfExp(test=test):
            yield "boolean", node.test, ast.UnaryOp(ast.Not(), test)  # type: ignore[attr-defined]
        case ast.Call(args=[first, second, *rest]) if ast.unparse(new.func).rpartition(".")[2] not in _SYMMETRIC:
            if not any(isinstance(each, ast.Starred) for each in new.args):
                new.args = [second, first, *rest]
                yield "arguments", node, new
    if isinstance(new, ast.AugAssign | ast.Raise) or (isinstance(new, ast.Expr) and isinstance(new.value, ast.Call)):
        yield "statement", node, ast.Pass()
    if isinstance(new, ast.Assign) and isinstance(new.targets[0], ast.Subscript | ast.Attribute):
        yield "statement", node, ast.Pass()
