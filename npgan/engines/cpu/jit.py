"""How the loops of ``cpu`` are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numba
from numba.extending import is_jitted

from npgan.engines.cpu import cache

_njit: Any = numba.njit
# Loops vectorize only with NumPy's rules for x/0 and where sums may be reordered. NaN and infinity keep their meaning.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}


def compiled(signature: Any, inline: Literal["never", "always"] = "never") -> Callable[[Any], Any]:
    """Compiled when its module is first imported, then kept on disk, next to the source or in numba's own cache folder."""

    def compile_now(function: Any) -> Any:
        dispatcher = _njit(inline=inline, **OPTIONS)(function)
        if is_jitted(dispatcher):  # not under NUMBA_DISABLE_JIT
            cache.use(dispatcher)
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher

    return compile_now


def inlined(function: Any) -> Any:
    """For a part of compiled functions: compiled with each that calls it."""
    return _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)
