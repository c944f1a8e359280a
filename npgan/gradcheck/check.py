"""One check: a backward's gradients against numerical derivatives, and what came out of it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from npgan.backend import Array, array_module, to_numpy
from npgan.errors import first_line
from npgan.gradcheck.hints import Factor, Hint, find_hint, locate
from npgan.gradcheck.methods import (
    CENTRAL,
    COMPLEX,
    METHODS,
    Bind,
    Bound,
    Derivative,
    along_direction,
    along_element,
    random_direction,
)
from npgan.gradcheck.source import Source, read_source, resolve
from npgan.gradcheck.trace import first_non_finite

FORMULA = "formula"
ALL_PARAMETERS = "all parameters"
CENTRAL_TOLERANCE = 1e-6
ULP = 2.0**-23  # of a float32 near 1


@dataclass(frozen=True)
class Check:
    """Gradients to compare with derivatives of the loss they claim to be of.

    ``prepare`` runs the backward and returns its gradients by name and the loss as a function of the same names.
    ``op`` is the dotted name, within npgan, of what is at fault when the check fails.
    """

    level: str
    op: str
    prepare: Callable[[], tuple[dict[str, Array], Bind]]
    case: str = ""
    tolerance: float = 1e-12  # of the complex step
    methods: Sequence[str] = METHODS
    elements: int | None = None  # how many of each tensor, drawn at random; None: all
    directions: int = 0  # that move all tensors at once; of several tensors, each then has one of its own too
    factors: Sequence[Factor] = ()


@dataclass(frozen=True)
class FormulaCheck:
    """Values to compare with the same computed in another way: by name, (got, expected). ``prepare`` runs both."""

    level: str
    op: str
    prepare: Callable[[], dict[str, tuple[Array, Array]]]
    case: str = ""
    tolerance: float = 1e-12
    factors: Sequence[Factor] = ()


@dataclass(frozen=True)
class Result:
    """How one tensor's gradient fared under one method.

    ``error`` is the worst |analytic − numeric| / max(|analytic|, |numeric|, typical), where typical is the root mean square
    of the numeric values: an element that is small by chance is not held to more digits than its neighbors.
    ``analytic`` and ``numeric`` are the values at that worst place, ``index``: an element's, or empty for a direction.
    """

    level: str
    op: str
    case: str
    tensor: str
    shape: tuple[int, ...]
    method: str
    error: float
    tolerance: float
    index: tuple[int, ...]
    analytic: float
    numeric: float
    elements: int  # compared
    directions: int
    wrong: int  # of elements and directions
    shrunk: int = 0  # central differences that took a smaller step to keep off a kink
    at_kink: int = 0  # elements set apart: too close to a kink for any step
    largest: float = float("nan")  # of the numeric values' sizes
    problem: str = ""  # what prevented a comparison: an exception, a non-finite value
    hint: Hint = field(default=Hint("", ""))
    where: str = ""  # which layer of a network
    source: Source | None = None  # of the code at fault, read when it failed

    @property
    def passed(self) -> bool:
        return not self.problem and self.error <= self.tolerance


def run_check(
    check: Check | FormulaCheck, rng: np.random.Generator, function: Callable[..., Any] | None = None
) -> list[Result]:
    """One result per tensor and method. An exception in the code under check is a failed result, never a crash.

    ``function`` is what is quoted of a failure, where ``check.op`` does not name it within npgan.
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            results = _compare_formula(check) if isinstance(check, FormulaCheck) else compare_gradients(check, rng)
        except Exception as error:  # the code under check may be a learner's: whatever it raises is a finding
            place = _line_of(error, function or resolve(check.op))
            results = [_broken(check, f"raised {type(error).__name__}{place}: {first_line(error)}")]
    source = None if all(result.passed for result in results) else read_source(function or resolve(check.op))
    return [result if result.passed else replace(result, source=source) for result in results]


def _line_of(error: Exception, function: Callable[..., Any]) -> str:
    """Where in the function's file the error came from, or ""."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in line {lines[-1]}" if lines else ""


def _compare_formula(check: FormulaCheck) -> list[Result]:
    results = []
    for name, (got, expected) in check.prepare().items():
        a, n = to_numpy(got).reshape(-1), to_numpy(expected).reshape(-1)
        probes = _Probes(a, n, _relative_error(a, n, _root_mean_square(n)), elements=a.size)
        results.append(_result(check, name, got.shape, FORMULA, check.tolerance, probes, np.arange(a.size)))
    return results


def compare_gradients(check: Check, rng: np.random.Generator) -> list[Result]:
    """One result per tensor and method, and for directions one for all parameters together."""
    gradients, bind = check.prepare()
    for name, gradient in gradients.items():
        kind = gradient.dtype if hasattr(gradient, "dtype") else type(gradient).__name__
        if getattr(kind, "kind", "") not in tuple("fiu"):
            raise TypeError(f"the gradient of {name} is {kind}, not an array of real numbers")
    gradients = {name: to_numpy(gradient) for name, gradient in gradients.items()}
    real = bind(np.float64)
    for name, gradient in gradients.items():
        if gradient.shape != real.work[name].shape:
            raise ValueError(f"the gradient of {name} has shape {gradient.shape}, {name} has {real.work[name].shape}")
    if bad := _non_finite(float(real.evaluate()[0]), gradients):
        culprit = first_non_finite(lambda: check.prepare()[1](np.float64).evaluate())
        return [_broken(check, f"{bad}; {culprit}" if culprit else bad)]
    own_directions = check.directions if len(gradients) == 1 else min(check.directions, 1)
    chosen = {name: _choose(gradient.size, check.elements, rng) for name, gradient in gradients.items()}
    results = []
    for method in check.methods:
        bound = bind(np.complex128 if method == COMPLEX else np.float64)
        tolerance = CENTRAL_TOLERANCE if method == CENTRAL else check.tolerance
        rows = []
        for name, gradient in gradients.items():
            few = method == CENTRAL and check.elements is not None  # of a large tensor: directions only
            positions = chosen[name][:0] if few and check.directions else chosen[name]
            probes = _probe(method, bound, {name: gradient}, positions, own_directions, rng)
            rows.append(_result(check, name, gradient.shape, method, tolerance, probes, positions))
        if check.directions and len(gradients) > 1:
            parameters = {name: gradient for name, gradient in gradients.items() if name != "x"}
            probes = _probe(method, bound, parameters, np.arange(0), check.directions, rng)
            count = sum(gradient.size for gradient in parameters.values())
            rows.append(_result(check, ALL_PARAMETERS, (count,), method, tolerance, probes, np.arange(0)))
        where = locate({row.tensor: not row.passed for row in rows if row.tensor != ALL_PARAMETERS})
        results += [row if row.passed else replace(row, where=where) for row in rows]
    return results


@dataclass(frozen=True)
class _Probes:
    """Pairs of numbers to compare: elements first, then directions. Shapes: analytic, numeric and error (K,)."""

    analytic: np.ndarray
    numeric: np.ndarray
    error: np.ndarray
    elements: int
    shrunk: int = 0
    at_kink: int = 0


def _probe(
    method: str,
    bound: Bound,
    gradients: dict[str, np.ndarray],
    positions: np.ndarray,
    directions: int,
    rng: np.random.Generator,
) -> _Probes:
    """Derivatives at ``positions`` of the one tensor, and along random directions in all of ``gradients`` together."""
    derivatives: list[Derivative] = []
    analytic: list[float] = []
    for name, gradient in gradients.items():
        for position in positions:
            derivatives.append(along_element(method, bound, name, int(position)))
            analytic.append(float(gradient.reshape(-1)[position]))
    typical = [_root_mean_square(np.array([d.value for d in derivatives if not d.at_kink]))] * len(derivatives)
    for _ in range(directions):
        direction = random_direction({name: gradient.shape for name, gradient in gradients.items()}, rng)
        xp_direction = {name: _like(bound.work[name], u) for name, u in direction.items()}
        derivatives.append(along_direction(method, bound, xp_direction))
        terms = [gradients[name] * u for name, u in direction.items()]
        analytic.append(float(sum(term.sum() for term in terms)))
        typical.append(float(sum((term**2).sum() for term in terms)) ** 0.5)  # of a sum of random signs
    a, n = np.array(analytic), np.array([d.value for d in derivatives])
    return _Probes(
        a,
        n,
        _relative_error(a, n, np.array(typical)),
        elements=len(positions),
        shrunk=sum(d.shrunk for d in derivatives),
        at_kink=sum(d.at_kink for d in derivatives),
    )


def _result(
    check: Check | FormulaCheck,
    tensor: str,
    shape: tuple[int, ...],
    method: str,
    tolerance: float,
    probes: _Probes,
    positions: np.ndarray,
) -> Result:
    apart = np.isnan(probes.numeric) if probes.at_kink else np.zeros(probes.numeric.shape, dtype=bool)
    usable = np.where(apart, -1.0, np.where(np.isnan(probes.error), np.inf, probes.error))
    worst = int(np.argmax(usable))
    error = float(usable[worst])
    is_element = worst < probes.elements
    index = tuple(int(i) for i in np.unravel_index(positions[worst], shape)) if is_element else ()
    wrong = int((usable > tolerance).sum())
    compared_elements = probes.elements - int(apart[: probes.elements].sum())
    problem = "" if not apart.all() else "every element lies at a kink: nothing is left to compare"
    hint = Hint("", "")
    if wrong and not problem:
        keep = ~apart
        part = keep & (np.arange(keep.size) < probes.elements) if compared_elements else keep
        complete = shape if probes.elements == int(np.prod(shape)) and not apart.any() else None
        hint = find_hint(probes.analytic[part], probes.numeric[part], complete, check.factors, method != CENTRAL)
    return Result(
        level=check.level,
        op=check.op,
        case=check.case,
        tensor=tensor,
        shape=tuple(shape),
        method=method,
        error=error,
        tolerance=tolerance,
        index=index,
        analytic=float(probes.analytic[worst]),
        numeric=float(probes.numeric[worst]),
        elements=compared_elements,
        directions=len(probes.analytic) - probes.elements,
        wrong=wrong,
        shrunk=probes.shrunk,
        at_kink=probes.at_kink,
        largest=float(np.max(np.abs(probes.numeric[~apart]), initial=0.0)),
        problem=problem,
        hint=hint,
    )


def _non_finite(loss: float, gradients: dict[str, np.ndarray]) -> str:
    """A line on the first number that is not finite, or ""."""
    if not np.isfinite(loss):
        return f"the forward gives a loss of {loss}"
    for name, gradient in gradients.items():
        bad = np.argwhere(~np.isfinite(gradient))
        if len(bad):
            index = [int(i) for i in bad[0]]
            return f"the gradient of {name} has {len(bad)} non-finite values, the first at {index}"
    return ""


def _broken(check: Check | FormulaCheck, problem: str) -> Result:
    nan = float("nan")
    return Result(
        check.level, check.op, check.case, "", (), "", nan, check.tolerance, (), nan, nan, 0, 0, 0, problem=problem
    )


def _choose(size: int, elements: int | None, rng: np.random.Generator) -> np.ndarray:
    """Flat positions to compare: all, or the first, the last and random ones between."""
    if elements is None or elements >= size:
        return np.arange(size)
    return np.unique(np.concatenate([[0, size - 1], 1 + rng.choice(size - 2, max(elements - 2, 0), replace=False)]))


def _relative_error(analytic: np.ndarray, numeric: np.ndarray, typical: Any) -> np.ndarray:
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), typical)
    error: np.ndarray = np.abs(analytic - numeric) / np.where(scale == 0.0, 1.0, scale)
    return error


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _like(array: Array, values: np.ndarray) -> Array:
    """``values`` on the device where ``array`` lives."""
    return array_module(array).asarray(values)
