"""The checks of Adam: against its formula, written down here once more."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from npgan.backend import Array
from npgan.gradcheck.check import FormulaCheck
from npgan.gradcheck.hints import Factor, Hint
from npgan.nn.optim import Adam

_SETTINGS = (2e-4, 0.9, 0.999, 1e-8)  # lr, β₁, β₂, ε


def adam_formula(
    grad: Array, m: Array, v: Array, step: int, lr: float, beta1: float, beta2: float, epsilon: float
) -> tuple[Array, Array, Array]:
    """Kingma and Ba's algorithm 1 word for word, out of place: (change of the parameters, m, v)."""
    m = beta1 * m + (1.0 - beta1) * grad
    v = beta2 * v + (1.0 - beta2) * grad**2
    m_hat = m / (1.0 - beta1**step)
    v_hat = v / (1.0 - beta2**step)
    return -lr * m_hat / (v_hat**0.5 + epsilon), m, v


def adam_factors(step: int, beta1: float, beta2: float) -> list[Factor]:
    hint = Hint("bias-correction", f"off by what dividing m and v by 1 − βᵗ does at t = {step}: no bias correction")
    first, second = 1.0 - beta1**step, (1.0 - beta2**step) ** 0.5
    return [Factor(first / second, hint), Factor(first, hint), Factor(1.0 / second, hint)]


def adam_checks(rng: np.random.Generator, xp: ModuleType) -> Iterator[FormulaCheck]:
    """``nn.optim.Adam`` from zero and from used moments."""
    # Gradients of all sizes, down to where ε matters, on parameters of 0: their change then keeps all its digits.
    grad = xp.asarray(rng.normal(size=40) * 10.0 ** rng.uniform(-9.0, 0.0, 40))
    used_m, used_v = xp.asarray(rng.normal(size=40)), xp.asarray(rng.uniform(0.1, 1.0, 40))
    zero = xp.zeros(40)
    for step, m, v, case in ((1, zero, zero, "first step"), (5, used_m, used_v, "step 5")):

        def prepare(step: int = step, m: Array = m, v: Array = v) -> dict[str, tuple[Array, Array]]:
            parameters = xp.zeros_like(grad)
            adam = Adam(parameters, *_SETTINGS)
            adam.m, adam.v, adam.step = m.copy(), v.copy(), step - 1
            adam.update(parameters, grad)
            change, expected_m, expected_v = adam_formula(grad, m, v, step, *_SETTINGS)
            counted = xp.asarray([adam.step]), xp.asarray([step])
            compared = {"m": (adam.m, expected_m), "v": (adam.v, expected_v), "change": (parameters, change)}
            return {**compared, "step": counted}

        factors = adam_factors(step, *_SETTINGS[1:3])
        yield FormulaCheck("Adam", "nn.optim.Adam.update", prepare, case, factors=factors)
