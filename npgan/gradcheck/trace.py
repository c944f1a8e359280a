"""Finds the first operation that makes a NaN or an infinity out of finite numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from npgan.backend import to_numpy
from npgan.gradcheck.source import operations
from npgan.nn import ops


def first_non_finite(run: Callable[[], Any]) -> str:
    """Runs ``run`` with every function of ``npgan.nn.ops`` watched. Returns a line on the first to go wrong, or ""."""
    found: list[str] = []

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = _first_bad(signature.bind(*args, **kwargs).arguments)
            result = function(*args, **kwargs)
            parts = result if isinstance(result, tuple) else (result,)
            after = _first_bad({f"result {i}": part for i, part in enumerate(parts)})
            if not found and before:
                found.append(f"nn.ops.{name} was given {before}")
            elif not found and after:
                found.append(f"nn.ops.{name} made {after} from finite numbers")
            return result

        return watched

    watched_functions: dict[str, Any] = {name: watch(name, function) for name, function in operations().items()}
    with mock.patch.multiple(ops, **watched_functions):
        run()
    return found[0] if found else ""


def _first_bad(values: dict[str, Any]) -> str:
    for name, value in values.items():
        if not hasattr(value, "dtype"):
            continue
        host = to_numpy(value) if hasattr(value, "get") else np.asarray(value)
        bad = np.argwhere(~np.isfinite(host))
        if len(bad):
            index = tuple(int(i) for i in bad[0])
            return f"{host[index]} in {name}{list(index) if index else ''}"
    return ""
