"""How the kernels of ``cpu`` are compiled, and the threads that their loops are shared out to: numba's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import numba
from numba import prange
from numba.extending import is_jitted

from npgan.engines.cpu import cache

# libgomp reads this when numba loads it. Its threads turn 300,000 times before they sleep. Where another program has one
# of two cores, they keep each other from running that way, and a step takes 130 to 270 ms; with 3,000 turns it takes 33,
# and on a quiet machine 1 % longer. What the user has set wins.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "3000"

# numba would also split up sums and NumPy's functions; only the loops that say ``prange`` are meant to be.
_PARALLEL = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)
_njit: Any = numba.njit
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}


def compiled(signature: str, inline: Literal["never", "always"] = "never") -> Callable[[Any], Any]:
    """Compiled when its module is first imported, then kept on disk, next to the source or in numba's own cache folder.

    Loops vectorize only with NumPy's rules for x/0 and where sums may be reordered. NaN and infinity keep their meaning.
    """
    return _compiler(signature, inline=inline)


def shared(signature: Any) -> Callable[[Any], Any]:
    """As ``compiled``, with every ``prange`` loop shared out to the threads: its turns must not need one another."""
    return _compiler(signature, parallel={"prange": True, **_PARALLEL})


def _compiler(signature: Any, **options: Any) -> Callable[[Any], Any]:
    def compile_now(function: Any) -> Any:
        dispatcher = _njit(**options, **_OPTIONS)(function)
        if is_jitted(dispatcher):  # not under NUMBA_DISABLE_JIT
            cache.use(dispatcher)
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher

    return compile_now


def use_threads(count: int) -> str:
    """Shares out ``shared`` loops to ``count`` threads from now on, at most to the cores. Returns why to fewer, or "".

    OpenMP's threads stay awake for a while and start a loop within 3 µs. Those that numba has where there is no OpenMP
    take 0.1 ms, longer than most loops here last, so then there is one thread.
    """
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    _first(1)  # only now numba chooses its threads
    if count == 1 or numba.threading_layer() != "workqueue":
        return ""
    numba.set_num_threads(1)
    return "numba finds no OpenMP, such as libgomp"


@shared("void(int64)")
def _first(count):  # type: ignore[no-untyped-def]
    for _ in prange(count):
        pass
