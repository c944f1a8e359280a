"""``check_gradients``: the checks for a function of the reader's own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from npgan.backend import Array, array_module, to_numpy
from npgan.gradcheck.check import Check, Result, compare_gradients
from npgan.gradcheck.hints import Hint, rows_factors
from npgan.gradcheck.methods import CENTRAL, COMPLEX, METHODS, Bind, bind_function
from npgan.gradcheck.report import Report
from npgan.gradcheck.source import read_source


def check_gradients(
    f: Callable[..., Array],
    df: Callable[..., Any],
    inputs: Sequence[Array] | dict[str, Array],
    *,
    kinks: Callable[..., Array] | None = None,
    methods: Sequence[str] = METHODS,
    elements: int | None = None,
    directions: int = 2,
    tolerance: float = 1e-12,
    seed: int = 0,
) -> Report:
    """Checks the backward ``df`` of ``f``. Print the report, or ``assert report.passed, report`` in a test.

    ``f(*inputs)`` returns an array y of any shape; ``df(dy, *inputs)`` returns ∂L/∂input for L = Σ dy·y, with the shape of
    the input: one array, or a tuple of one per input. dy is drawn from ``seed``. ``inputs`` are float arrays, which are
    checked in float64; give a dict to name them in the report.

    - ``kinks(*inputs)``: an array whose zeros are f's kinks (for ``abs(x)``: x), to keep central differences off them.
    - ``methods``: leave COMPLEX out where f does not take complex numbers; branches must look at real parts.
    - ``elements``: how many of each input to compare, at random; None: all. ``directions``: random ones, besides, that
      move all inputs at once; with several inputs each has one of its own too.
    - ``tolerance``: of the complex step's relative error. Central differences are held to 1e-6.

    Raises TypeError and ValueError for wrong use: a df that returns nothing or the wrong number of gradients or another
    shape, inputs that are integers, complex or empty, an f that changes its inputs or cannot take complex numbers.
    """
    started = time.perf_counter()
    if not callable(f) or not callable(df):
        raise TypeError("check_gradients needs two functions, f(*inputs) and df(dy, *inputs)")
    if not methods or set(methods) - set(METHODS):
        raise ValueError(f"methods must be among {METHODS}, got {tuple(methods)}")
    arrays = _checked_inputs(inputs)
    rng = np.random.default_rng(seed)
    y = _checked_output(f, arrays)
    dy = array_module(y).asarray(rng.normal(size=y.shape))
    gradients = _checked_gradients(df, dy, arrays)
    if COMPLEX in methods:
        _check_takes_complex(f, arrays)

    def prepare() -> tuple[dict[str, Array], Bind]:
        return gradients, bind_function(f, arrays, dy, kinks)

    name = getattr(df, "__qualname__", type(df).__name__)
    rows = y.shape[0] if y.ndim else next(iter(arrays.values())).size
    check = Check(
        "user", name, prepare, "", tolerance, methods, elements, directions, rows_factors(rows) if rows > 1 else ()
    )
    with np.errstate(all="ignore"):
        results = compare_gradients(check, rng)
    results = _mark_unsafe_for_complex(results)
    if not all(result.passed for result in results):
        source = read_source(df)
        results = [result if result.passed else replace(result, source=source) for result in results]
    return Report(results, seed, seconds=time.perf_counter() - started)


def _checked_inputs(inputs: Sequence[Array] | dict[str, Array]) -> dict[str, Array]:
    if hasattr(inputs, "dtype") or not isinstance(inputs, Sequence | dict):
        raise TypeError("inputs must be a list or a dict of arrays: for one input x, give [x]")
    named = inputs if isinstance(inputs, dict) else {f"input {i}": array for i, array in enumerate(inputs)}
    if not named:
        raise ValueError("inputs is empty: there is nothing to differentiate in")
    arrays = {}
    for name, array in named.items():
        if not hasattr(array, "dtype"):
            raise TypeError(f"{name} is a {type(array).__name__}, not an array: use numpy.asarray")
        if array.dtype.kind != "f":
            raise TypeError(f"{name} is {array.dtype}: derivatives are checked in float64, use {name}.astype(float)")
        if array.size == 0:
            raise ValueError(f"{name} has no elements: shape {array.shape}")
        arrays[name] = array_module(array).asarray(array, dtype=np.float64).copy()
    return arrays


def _checked_output(f: Callable[..., Array], arrays: dict[str, Array]) -> Array:
    before = {name: array.copy() for name, array in arrays.items()}
    with np.errstate(all="ignore"):
        y = f(*arrays.values())
    if not hasattr(y, "dtype"):
        raise TypeError(f"f returned a {type(y).__name__}, not an array")
    if y.dtype.kind != "f":
        raise TypeError(f"f returned {y.dtype} for float64 inputs: it must return floats")
    for name, array in arrays.items():
        if not bool((to_numpy(array) == to_numpy(before[name])).all()):
            raise ValueError(f"f changed {name} in place: it must leave its inputs as they are")
    return y


def _checked_gradients(df: Callable[..., Any], dy: Array, arrays: dict[str, Array]) -> dict[str, Array]:
    with np.errstate(all="ignore"):
        returned = df(dy, *(array.copy() for array in arrays.values()))
    parts = list(returned) if isinstance(returned, tuple | list) else [returned]
    if returned is None:
        raise TypeError("df returned no gradient (None): return one array per input, of its shape")
    if len(parts) != len(arrays):
        raise ValueError(f"df returned {len(parts)} gradients for {len(arrays)} inputs ({', '.join(arrays)})")
    for (name, array), part in zip(arrays.items(), parts, strict=True):
        if not hasattr(part, "dtype") or part.dtype.kind not in "fiu":
            kind = part.dtype if hasattr(part, "dtype") else type(part).__name__
            raise TypeError(f"df's gradient of {name} is {kind}, not an array of real numbers")
        if part.shape != array.shape:
            raise ValueError(f"df's gradient of {name} has shape {part.shape}, but {name} has shape {array.shape}")
    return dict(zip(arrays, parts, strict=True))


def _check_takes_complex(f: Callable[..., Array], arrays: dict[str, Array]) -> None:
    advice = "leave the complex step out with methods=(CENTRAL,)"
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            y = f(*(array.astype(np.complex128) for array in arrays.values()))
        except (TypeError, ValueError, np.exceptions.ComplexWarning) as error:
            raise TypeError(f"f does not take complex numbers ({error}): {advice}") from error
    if not hasattr(y, "dtype") or y.dtype.kind != "c":
        raise TypeError(f"f made real numbers of complex ones (abs, .real or a float buffer): {advice}")


def _mark_unsafe_for_complex(results: list[Result]) -> list[Result]:
    """Where central differences confirm df and the complex step does not, it is f that is not analytic as written."""
    confirmed = {result.tensor for result in results if result.method == CENTRAL and result.passed}
    hint = Hint(
        "not-analytic",
        "the central difference confirms df, so it is f that is not analytic as written (abs, conj, .real, a branch on a "
        "complex number): write it without, or leave the complex step out with methods=(CENTRAL,)",
    )
    return [
        replace(result, hint=hint)
        if result.method == COMPLEX and not result.passed and result.tensor in confirmed and result.error > 1e-3
        else result
        for result in results
    ]
