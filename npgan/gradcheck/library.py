"""``check_gradients``: the checks for a function, a layer or a network of the reader's own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from npgan.backend import Array, array_module, to_numpy
from npgan.gradcheck.check import Check, Result, compare_gradients, run_check
from npgan.gradcheck.hints import Hint, rows_factors
from npgan.gradcheck.methods import CENTRAL, COMPLEX, METHODS, Bind, bind_function
from npgan.gradcheck.networks import alone, backward_checks
from npgan.gradcheck.report import Report
from npgan.gradcheck.source import read_source
from npgan.nn.layers import DropoutKey, Layer

_MANY = 1000  # parameters of a layer, from which on ``_FEW`` elements of a tensor are compared
_FEW = 50


def check_gradients(
    f: Layer | Callable[..., Array],
    df: Callable[..., Any] | Array,
    inputs: Sequence[Array] | dict[str, Array] | None = None,
    *,
    kinks: Callable[..., Array] | None = None,
    methods: Sequence[str] = METHODS,
    elements: int | None = None,
    directions: int = 2,
    tolerance: float | None = None,
    seed: int = 0,
) -> Report:
    """``check_gradients(layer, x)``, also for a network, or ``check_gradients(f, df, inputs)`` for a function.

    Print the report, or ``assert report.passed, report`` in a test.

    Of a **layer** are checked, at the input x (N, I): the dx of ``backward``, the gradients of its tensors, and that
    ``backward_input`` gives the same dx and leaves the gradients alone. It stays as it is: a copy in float64 is checked, with
    dropout on, and with newly drawn parameters where no network has bound it yet.

    Of a **function**: ``f(*inputs)`` returns an array y of any shape; ``df(dy, *inputs)`` returns ∂L/∂input for L = Σ dy·y,
    with the shape of the input: one array, or a tuple of one per input. dy is drawn from ``seed``. ``inputs`` are float
    arrays, which are checked in float64; give a dict to name them in the report.

    - ``kinks(*inputs)``: an array whose zeros are f's kinks (for ``abs(x)``: x), to keep central differences off them.
    - ``methods``: leave COMPLEX out where f does not take complex numbers; branches must look at real parts.
    - ``elements``: how many of each input to compare, at least two, the first and the last among them; None: all, or 50 where a
      layer has over 1,000 parameters. ``directions``: random ones, besides, that move all inputs at once; with several inputs
      each has one of its own too.
    - ``tolerance``: of the complex step's relative error; None: 1e-12, for a layer 1e-10. Central differences: 1e-6.

    The report notes an input at which a wrong backward need not show: all zeros, or all derivatives 0.

    Raises TypeError and ValueError for wrong use: a df that returns nothing or the wrong number of gradients or another
    shape; inputs that are integers, complex, empty, NaN or infinite; an f that changes its inputs or cannot take complex
    numbers; a layer that its input does not fit.
    """
    started = time.perf_counter()
    if not methods or set(methods) - set(METHODS):
        raise ValueError(f"methods must be among {METHODS}, got {tuple(methods)}")
    for name, count, least in (("elements", elements, 1), ("directions", directions, 0)):
        if count is not None and (not isinstance(count, int | np.integer) or count < least):
            raise ValueError(f"{name} must be at least {least} and whole, got {count!r}")
    if tolerance is not None and not 0.0 < tolerance < 1.0:
        raise ValueError(f"tolerance must be above 0 and below 1, got {tolerance}")
    rng = np.random.default_rng((seed, 1))  # not of the seed alone: the reader's own x may be its first numbers
    if isinstance(f, Layer):
        if inputs is not None or kinks is not None:
            raise TypeError("a layer is checked by check_gradients(layer, x): it has its backward itself")
        arrays = _checked_inputs({"x": df})
        subject, key = alone(f, array_module(arrays["x"])), DropoutKey(seed, 0, 0)
        _checked_output(lambda x: subject.forward(x, key)[0], arrays)
        if COMPLEX in methods:
            _check_takes_complex(lambda x: subject.astype(np.complex128).forward(x, key)[0], arrays)
        few = _FEW if elements is None and subject.size > _MANY else elements
        options = {
            "methods": methods,
            "elements": few,
            "directions": directions,
            "factors": rows_factors(len(arrays["x"])),
        }
        checks = backward_checks("user", "", subject, arrays["x"], key, rng, tolerance or 1e-10, **options)
        results = [result for check in checks for result in run_check(check, rng, type(f).backward)]
        return Report(results, seed, "", time.perf_counter() - started, list(_notes(arrays, results)))
    if not callable(f) or not callable(df):
        raise TypeError("check_gradients needs two functions, f(*inputs) and df(dy, *inputs), or a layer and its input")
    arrays = _checked_inputs([] if inputs is None else inputs)
    y = _checked_output(f, arrays)
    dy = array_module(y).asarray(rng.normal(size=y.shape))
    gradients = _checked_gradients(df, dy, arrays)
    if COMPLEX in methods:
        _check_takes_complex(f, arrays)

    def prepare() -> tuple[dict[str, Array], Bind]:
        return gradients, bind_function(f, arrays, dy, kinks)

    name = getattr(df, "__qualname__", type(df).__name__)
    rows = y.shape[0] if y.ndim else next(iter(arrays.values())).size
    factors = rows_factors(rows) if rows > 1 else ()
    check = Check("user", name, prepare, "", tolerance or 1e-12, methods, elements, directions, factors)
    with np.errstate(all="ignore"):
        results = compare_gradients(check, rng)
    results = _mark_unsafe_for_complex(results)
    if not all(result.passed for result in results):
        source = read_source(df)
        results = [result if result.passed else replace(result, source=source) for result in results]
    return Report(results, seed, "", time.perf_counter() - started, list(_notes(arrays, results)))


def _notes(arrays: dict[str, Array], results: list[Result]) -> Iterator[str]:
    """Where a wrong backward need not show, although everything is compared."""
    for name, array in arrays.items():
        first = array.reshape(-1)[0]
        if array.size > 1 and bool((array == first).all()):
            yield f"{name} is {float(first):g} everywhere: a wrong backward need not show there, take random numbers"
    for name in dict.fromkeys(result.tensor for result in results):
        found = [result for result in results if result.tensor == name and result.method in METHODS]
        if found and all(result.passed and result.largest == 0.0 for result in found):
            yield f"all derivatives that were compared in {name} are 0: a wrong backward need not show, take another input"


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
        if not bool(np.isfinite(array).all()):
            raise ValueError(f"{name} holds NaN or infinity: there are no derivatives to compare")
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
    if y.size == 0:
        raise ValueError(f"f returned no elements: shape {y.shape}")
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
