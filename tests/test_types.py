"""What a type checker sees of the public names: their types, not Any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import npgan

_ROOT = Path(__file__).parents[1]


def test_public_names_have_their_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="types are checked by mypy: pip install -e '.[dev]'")
    names = ", ".join(npgan.__all__)
    program = tmp_path / "program.py"
    program.write_text(
        f"from npgan import {names}\n"
        + "".join(f"reveal_type({name})\n" for name in npgan.__all__)
        + "reveal_type(Sequential([Dense(2, 3)]).summary())\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path / 'cache'}", "--follow-imports=silent"]
    run = subprocess.run(
        [*command, str(program)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(_ROOT)},
        capture_output=True,
        text=True,
    )
    seen = [line.split('"')[1] for line in run.stdout.splitlines() if "Revealed type is" in line]
    assert len(seen) == len(npgan.__all__) + 1, run.stdout
    assert "Any" not in seen and seen[-1] == "str", run.stdout
    assert run.returncode == 0, run.stdout
