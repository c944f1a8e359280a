"""Compiled kernels on disk: in numba's cache folders, but checked before anything of them is unpickled or run.

numba itself believes its files: a damaged one ends the program, or is run. Here a file that is not what was written counts
as one that is not there, and where none can be written kernels are compiled in memory. ``problems`` says so.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

from npgan.errors import first_line
from npgan.files import replacing

problems: list[str] = []  # what was wrong with the cache in this process, a line each
must_save = "NPGAN_FILLS_CACHE" in os.environ  # a process that is there for nothing else ends where it cannot

_DIGEST = hashlib.sha256().digest_size
_SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()


def use(dispatcher: Any) -> None:
    """Gives a function that numba is going to compile its place in the cache, where there is one."""
    try:
        dispatcher._cache = KernelCache(dispatcher.py_func)
    except (RuntimeError, OSError) as error:  # numba finds no folder that it can write to
        if must_save:
            raise
        _note(
            f"no folder for compiled kernels can be written ({first_line(error)}): compiled in memory, for this run alone"
        )


class KernelCache(FunctionCache):
    """One function's, a file for each machine and version: the digest of the rest, that of the source, the pickled code."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        """What ``save_overload`` was given, in this process or an earlier one; None where the file does not hold that."""
        target.refresh()
        path, stamp = self._place(signature, target.codegen())
        try:
            if not path.is_file():
                if path.exists():  # opening a pipe would wait for ever
                    raise ValueError("not a regular file")
                return None
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
                raise ValueError("not what was written")
            if content[_DIGEST : 2 * _DIGEST] != stamp:
                return None  # of another version of the function
            return self._impl.rebuild(target, pickle.loads(content[2 * _DIGEST :]))
        except Exception:  # whatever unpickling and LLVM may raise: the function can be compiled again
            _note(f"compiled kernels in {path.parent} are damaged: compiled anew")
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        path, stamp = self._place(signature, compiled.codegen)
        try:
            content = stamp + dumps(self._impl.reduce(compiled))
            with replacing(path) as file:
                file.write(hashlib.sha256(content).digest() + content)
            if must_save:
                os.write(1, b"\n")  # who waits counts the lines
        except OSError as error:
            if must_save:
                raise
            _note(
                f"compiled kernels cannot be kept in {path.parent} ({first_line(error)}): compiled for this run alone"
            )

    def _place(self, signature: Any, codegen: Any) -> tuple[Path, bytes]:
        """The file, and the digest of the source that its code must come from."""
        versions = repr((numba.__version__, llvmlite.__version__, codegen.magic_tuple())).encode()
        name = f"{self._impl.filename_base}.{hashlib.sha256(versions).hexdigest()[:12]}.nbc"
        # what a closure calls is not in its own code, so every file here counts, and the function's own
        source = repr((str(signature), _SOURCES, self._impl.locator.get_source_stamp())).encode()
        return Path(self.cache_path) / name, hashlib.sha256(source).digest()


def _note(line: str) -> None:
    if not problems:  # what is true of one function's file is mostly true of all
        problems.append(line)
