"""The checks of every operation, layer, loss and of Adam, on small random arrays: every element, by both methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from npgan.backend import Array
from npgan.gradcheck.check import Check, FormulaCheck
from npgan.gradcheck.hints import JUNK, Factor, Hint, rows_factors
from npgan.gradcheck.methods import Bind, Bound
from npgan.nn import layers, losses, ops, optim
from npgan.nn.layers import DropoutKey

Function = Callable[..., Any]

N, I, O = 7, 4, 3  # noqa: E741 - the letters of ops.py. All different, so that a wrong axis shows
SLOPE = 0.2
RATE = 0.3
LOGITS, PROBABILITIES = "bce-logits", "bce"

_SCALE_LOST = Factor(
    1.0 - RATE, Hint("scale", f"off by 1 − p = {1 - RATE:g}: the mask's scaling 1/(1 − p) is lost on the way back")
)

# What a layer's input is put through to give the numbers that must stay off 0; of a Maxout(2) the winner's lead.
_KINKS: dict[type, Function] = {
    layers.LeakyReLU: lambda x, *_: x,
    layers.ReLU: lambda x, *_: x,
    layers.Maxout: lambda x, *_: x[:, : I // 2] - x[:, I // 2 :],
}
_SLOPE_LOST = Factor(
    1.0 / SLOPE, Hint("slope", f"too large by {1 / SLOPE:g} = 1/slope: leaky ReLU's slope is lost where x is negative")
)


def bind_function(f: Function, inputs: dict[str, Array], dy: Array, kinks: Function | None = None) -> Bind:
    """The loss Σ dy·f(inputs): its gradient in an input is what f's backward makes of dy."""

    def bind(dtype: Any) -> Bound:
        work = {name: array.astype(dtype) for name, array in inputs.items()}

        def evaluate() -> tuple[Array, list[Array]]:
            loss = (dy * f(*work.values())).sum()
            return loss, [] if kinks is None else [kinks(*work.values())]

        return Bound(work, evaluate)

    return bind


def op_checks(rng: np.random.Generator, xp: Any) -> Iterator[Check]:
    """One check per backward in ``ops``. Each writes into buffers that hold junk, as training's hold the last step's."""

    def normal(*shape: int) -> Array:
        return xp.asarray(rng.normal(size=shape))

    def check(
        op: str, f: Function, df: Function, inputs: dict[str, Array], dy: Array, kinks: Any = None, **more: Any
    ) -> Check:
        def prepare() -> tuple[dict[str, Array], Bind]:
            gradients = df(dy, *inputs.values())
            parts = gradients if isinstance(gradients, tuple) else (gradients,)
            return dict(zip(inputs, parts, strict=True)), bind_function(f, inputs, dy, kinks)

        return Check("op", f"ops.{op}", prepare, factors=[*rows_factors(N), _SCALE_LOST, _SLOPE_LOST], **more)

    def junk(like: Array) -> Array:
        return xp.full_like(like, JUNK)

    for inputs, outputs, case in ((I, O, ""), (I, I, "square weight")):
        x, weight, bias, dy = normal(N, inputs), normal(inputs, outputs), normal(outputs), normal(N, outputs)
        yield check(
            "dense_backward_dx",
            lambda x, w=weight, b=bias: ops.dense_forward(x, w, b),
            lambda dy, x, w=weight: ops.dense_backward_dx(dy, w, junk(x)),
            {"x": x}, dy, case=case,
        )  # fmt: skip
        yield check(
            "dense_backward_params",
            lambda w, b, x=x: ops.dense_forward(x, w, b),
            lambda dy, w, b, x=x: ops.dense_backward_params(dy, x, junk(w), junk(b)),
            {"weight": weight, "bias": bias}, dy, case=case,
        )  # fmt: skip

    def leaky(case: str, x: Array, dy: Array) -> Check:
        return check(
            "leaky_relu_backward",
            lambda x: ops.leaky_relu_forward(x, SLOPE),
            lambda dy, x: ops.leaky_relu_backward(dy, x, SLOPE, junk(x)),
            {"x": x}, dy, kinks=lambda x: x, case=case,
        )  # fmt: skip

    x = normal(N, O)
    yield leaky("", x, normal(N, O))
    x = normal(N, O)
    x[0, 0], x[1, 1], x[2, 2], x[3, 0] = 0.0, 3e-6, -3e-6, 1e-9  # on the kink; a step beside it; far too close
    yield leaky("inputs at the kink", x, normal(N, O))

    mask = xp.asarray((rng.permutation(N * O).reshape(N, O) >= 4) / (1.0 - RATE))  # 4 of 21 dropped
    yield check(
        "dropout_backward",
        lambda x: ops.dropout_forward(x, mask),
        lambda dy, x: ops.dropout_backward(dy, mask, junk(x)),
        {"x": normal(N, O)}, normal(N, O),
    )  # fmt: skip
    for case, x in (("", normal(N, O)), ("far out", xp.asarray(rng.uniform(-30.0, 30.0, (N, O))))):
        yield check(
            "sigmoid_backward",
            ops_call("sigmoid_forward"),
            lambda dy, x: ops.sigmoid_backward(dy, ops.sigmoid_forward(x), junk(x)),
            {"x": x}, normal(N, O), case=case,
        )  # fmt: skip
    yield check(
        "tanh_backward",
        ops_call("tanh_forward"),
        lambda dy, x: ops.tanh_backward(dy, ops.tanh_forward(x), junk(x)),
        {"x": normal(N, O)}, normal(N, O),
    )  # fmt: skip
    target = xp.asarray(rng.uniform(0.0, 1.0, (N, 1)))
    yield check(
        "binary_cross_entropy_backward",
        lambda p: ops.binary_cross_entropy_forward(p, target),
        lambda dy, p: dy * ops.binary_cross_entropy_backward(p, target, out=junk(p)),
        {"p": xp.asarray(rng.uniform(0.05, 0.95, (N, 1)))}, normal(),
    )  # fmt: skip
    yield check(
        "binary_cross_entropy_with_logits_backward",
        lambda z: ops.binary_cross_entropy_with_logits_forward(z, target),
        lambda dy, z: dy * ops.binary_cross_entropy_with_logits_backward(z, target, junk(z)),
        {"z": 3.0 * normal(N, 1)}, normal(),
    )  # fmt: skip
    yield check(
        "relu_backward", ops_call("relu_forward"), lambda dy, x: ops.relu_backward(dy, x, junk(x)),
        {"x": normal(N, O)}, normal(N, O), kinks=lambda x: x,
    )  # fmt: skip
    yield check(
        "maxout_backward",
        lambda x: ops.maxout_forward(x, 2),
        lambda dy, x: ops.maxout_backward(dy, x, 2, junk(x)),
        {"x": normal(N, 2 * O)}, normal(N, O), kinks=lambda x: x[:, :O] - x[:, O:],
    )  # fmt: skip
    label = xp.asarray(rng.integers(0, I, N))
    yield check(
        "softmax_cross_entropy_backward",
        lambda z: ops.softmax_cross_entropy_forward(z, label),
        lambda dy, z: dy * ops.softmax_cross_entropy_backward(z, label, junk(z)),
        {"z": 3.0 * normal(N, I)}, normal(),
    )  # fmt: skip


def ops_call(name: str) -> Function:
    """``ops.name``, looked up when called, so that a function exchanged meanwhile is the one that is checked."""
    return lambda *args: getattr(ops, name)(*args)


def layer_checks(rng: np.random.Generator, xp: Any) -> Iterator[Check]:
    """Every layer's forward and backward: its input, and Dense's weight and bias."""
    key = DropoutKey(int(rng.integers(2**32)), int(rng.integers(1000)), 0)

    def check(layer: Any, parameters: dict[str, Array], dy: Array, dropout: DropoutKey | None = None) -> Check:
        inputs = {"x": xp.asarray(rng.normal(size=(N, I))), **parameters}

        def forward(x: Array, *values: Array) -> tuple[Array, Any]:
            for name, value in zip(parameters, values, strict=True):
                setattr(layer, name, value)
            return layer.forward(x, dropout)

        def prepare() -> tuple[dict[str, Array], Bind]:
            for name, value in parameters.items():
                setattr(layer, f"d{name}", xp.full_like(value, JUNK))
            _, cache = forward(*inputs.values())
            dx = layer.backward(dy, cache)
            gradients = {"x": dx, **{name: getattr(layer, f"d{name}") for name in parameters}}
            kinks = _KINKS.get(type(layer))
            return gradients, bind_function(lambda *values: forward(*values)[0], inputs, dy, kinks)

        op = f"layers.{type(layer).__name__}.backward"
        return Check("layer", op, prepare, factors=[*rows_factors(N), _SCALE_LOST, _SLOPE_LOST])

    def normal(*shape: int) -> Array:
        return xp.asarray(rng.normal(size=shape))

    yield check(layers.Dense(I, O), {"weight": normal(I, O), "bias": normal(O)}, normal(N, O))
    yield check(layers.LeakyReLU(SLOPE), {}, normal(N, I))
    yield check(layers.Dropout(RATE, 2), {}, normal(N, I), key)
    yield check(layers.Sigmoid(), {}, normal(N, I))
    yield check(layers.Tanh(), {}, normal(N, I))
    yield check(layers.ReLU(), {}, normal(N, I))
    yield check(layers.Maxout(2), {}, normal(N, I // 2))


def loss_checks(rng: np.random.Generator, xp: Any) -> Iterator[Check]:
    """Both losses, with the targets of training: ones, zeros and a smoothed one."""
    target = xp.asarray(np.array([1.0, 0.0, 1.0, 0.0, 0.9, 1.0, 0.0]).reshape(N, 1))
    cases = (
        (losses.BinaryCrossEntropy(), xp.asarray(rng.uniform(0.05, 0.95, (N, 1)))),
        (losses.BinaryCrossEntropyWithLogits(), xp.asarray(3.0 * rng.normal(size=(N, 1)))),
    )
    for loss, output in cases:

        def prepare(loss: Any = loss, output: Array = output) -> tuple[dict[str, Array], Bind]:
            gradient = loss.backward(output, target, xp.full_like(output, JUNK))
            one = xp.asarray(1.0)
            return {"output": gradient}, bind_function(lambda p: loss.forward(p, target), {"output": output}, one)

        yield Check("loss", f"losses.{type(loss).__name__}.backward", prepare, factors=rows_factors(N))


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


ADAM = (2e-4, 0.9, 0.999, 1e-8)  # lr, β₁, β₂, ε


def adam_op_checks(rng: np.random.Generator, xp: Any) -> Iterator[FormulaCheck]:
    """``ops.adam_update`` from zero and from used moments."""
    # Gradients of all sizes, down to where ε matters, on parameters of 0: their change then keeps all its digits.
    grad = xp.asarray(rng.normal(size=40) * 10.0 ** rng.uniform(-9.0, 0.0, 40))
    used_m, used_v = xp.asarray(rng.normal(size=40)), xp.asarray(rng.uniform(0.1, 1.0, 40))
    zero = xp.zeros(40)
    for step, m, v, case in ((1, zero, zero, "first step"), (5, used_m, used_v, "step 5")):

        def prepare(step: int = step, m: Array = m, v: Array = v) -> dict[str, tuple[Array, Array]]:
            def update(param: Array, grad: Array, m: Array, v: Array) -> None:
                ops.adam_update(param, grad, m, v, step, *ADAM, (xp.full_like(m, JUNK), xp.full_like(m, JUNK)))

            return _compare_adam(update, grad, m, v, step)

        yield FormulaCheck("op", "ops.adam_update", prepare, case, factors=adam_factors(step, *ADAM[1:3]))


def optimiser_checks(rng: np.random.Generator, xp: Any) -> Iterator[FormulaCheck]:
    """``optim.Adam`` on more parameters than it takes at a time."""

    def prepare() -> dict[str, tuple[Array, Array]]:
        grad, m, v = (xp.asarray(rng.uniform(0.1, 1.0, 70_000)) for _ in range(3))
        counted: list[int] = []

        def update(param: Array, grad: Array, m: Array, v: Array) -> None:
            adam = optim.Adam(*ADAM, m, v, step=2)
            adam.update(param, grad)
            counted.append(adam.step)

        compared = _compare_adam(update, grad, m, v, 3)
        return {**compared, "step": (np.array(counted), np.array([3]))}

    yield FormulaCheck("Adam", "optim.Adam.update", prepare, "70,000 parameters, step 3")


def _compare_adam(update: Function, grad: Array, m: Array, v: Array, step: int) -> dict[str, tuple[Array, Array]]:
    """``update(param, grad, m, v)`` in place, against the formula."""
    change, expected_m, expected_v = adam_formula(grad, m, v, step, *ADAM)
    param, got_m, got_v = grad * 0.0, m.copy(), v.copy()
    update(param, grad, got_m, got_v)
    return {"m": (got_m, expected_m), "v": (got_v, expected_v), "change": (param, change)}
