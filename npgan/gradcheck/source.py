"""The formula and the code of a function, read from its docstring and its file when a check of it fails."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from npgan.nn import ops

_MAX_LINES = 22
_PACKAGE = Path(__file__).parents[1]


class Source(NamedTuple):
    """Where a function is and what it says. ``code`` is its body without the docstring: (line number, text)."""

    file: str  # from its package on: "npgan/nn/ops.py"
    line: int
    formula: str  # from the docstring, or a method's class's
    code: list[tuple[int, str]]


def resolve(dotted: str) -> Any:
    """What a name such as "gan" or "nn.layers.Dense.backward" stands for within npgan, as it is at this moment."""
    return resolve_name(f"npgan.{dotted}")


def read_source(function: Callable[..., Any]) -> Source | None:
    """None for what has no Python source: a builtin, a function typed into an interpreter."""
    try:
        lines, first = inspect.getsourcelines(function)
        path = Path(inspect.getsourcefile(function) or "")
    except (OSError, TypeError):
        return None
    file = path.relative_to(_PACKAGE.parent).as_posix() if path.is_relative_to(_PACKAGE) else path.name
    return Source(file, first, _formula(function), _body(lines, first))


def _formula(function: Callable[..., Any]) -> str:
    """The first paragraph of the docstring that begins with a formula, or else the first of all, without the shapes."""
    doc = inspect.getdoc(function) or ""
    owner = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not doc and owner:
        doc = inspect.getdoc(getattr(inspect.getmodule(function), owner, None)) or ""
    paragraphs = [" ".join(paragraph.split()) for paragraph in doc.split("\n\n")]
    stated = [paragraph for paragraph in paragraphs if re.match(r"\S+ [=←] ", paragraph)]
    return (stated or paragraphs)[0].partition(" Shapes:")[0]


def _body(lines: list[str], first: int) -> list[tuple[int, str]]:
    """The statements: no signature, no docstring, no comments, no blank lines; the rest of a long body is left out."""
    text = textwrap.dedent("".join(lines))
    try:
        tree = ast.parse(text).body[0]
    except SyntaxError:  # a lambda in the middle of an expression
        return [(first, lines[0].rstrip())]
    statements = getattr(tree, "body", None)
    if not isinstance(statements, list):
        return [(first, lines[0].rstrip())]
    if isinstance(statements[0], ast.Expr) and isinstance(statements[0].value, ast.Constant) and len(statements) > 1:
        statements = statements[1:]
    start = statements[0].lineno - 1
    numbered = [(first + i, line) for i, line in enumerate(text.splitlines()) if i >= start]
    numbered = [(number, line) for number, line in numbered if line.strip() and not line.strip().startswith("#")]
    margin = min(len(line) - len(line.lstrip()) for _, line in numbered)
    body = [(number, line[margin:]) for number, line in numbered]
    return body if len(body) <= _MAX_LINES else [*body[:_MAX_LINES], (body[_MAX_LINES][0], "…")]


def operations() -> dict[str, Callable[..., Any]]:
    """The forwards and backwards of ``nn.ops`` by name, as they are at this moment."""
    return {name: function for name, function in vars(ops).items() if re.search("_(for|back)ward", name)}
