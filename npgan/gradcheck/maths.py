"""The checks of every operation, layer and loss on small random arrays: every element, by both methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import Array
from npgan.gradcheck.check import Check, FormulaCheck
from npgan.gradcheck.hints import Factor, Hint, rows_factors
from npgan.gradcheck.methods import Bind, Bound, bind_function
from npgan.gradcheck.networks import RATE, SLOPE, alone, backward_checks, kinks, random_key, randomized
from npgan.nn import losses, ops
from npgan.nn.layers import Dense, Dropout, Layer, LeakyReLU, Maxout, ReLU, Sigmoid, Softmax, Tanh
from npgan.nn.network import Sequential

Function = Callable[..., Any]

N, I, O = 7, 4, 3  # noqa: E741 - the letters of ops.py. All different, so that a wrong axis shows

_FACTORS = [
    *rows_factors(N),
    Factor(
        1.0 - RATE, Hint("scale", f"off by 1 − p = {1 - RATE:g}: the mask's scaling 1/(1 − p) is lost on the way back")
    ),
    Factor(
        1.0 / SLOPE,
        Hint("slope", f"too large by {1 / SLOPE:g} = 1/slope: leaky ReLU's slope is lost where x is negative"),
    ),
]


def op_checks(rng: np.random.Generator, xp: ModuleType) -> Iterator[Check]:
    """One check per backward in ``ops``."""

    def normal(*shape: int) -> Array:
        return xp.asarray(rng.normal(size=shape))

    def check(
        op: str,
        f: Function,
        df: Function,
        inputs: dict[str, Array],
        dy: Array,
        case: str = "",
        kinks: Function | None = None,
    ) -> Check:
        def prepare() -> tuple[dict[str, Array], Bind]:
            given = {"dy": dy, **inputs}
            before = {name: array.copy() for name, array in given.items()}
            gradients = df(dy, *inputs.values())
            parts = gradients if isinstance(gradients, tuple) else (gradients,)
            if len(parts) != len(inputs):
                raise ValueError(f"returned {len(parts)} gradients, not {len(inputs)}: of {' and '.join(inputs)}")
            for name, array in given.items():
                if not bool((array == before[name]).all()):
                    raise ValueError(f"changed {name} in place: it must leave what it is given as it is")
            return dict(zip(inputs, parts, strict=True)), bind_function(f, inputs, dy, kinks)

        return Check("op", f"nn.ops.{op}", prepare, case, factors=_FACTORS)

    for inputs, outputs, case in ((I, O, ""), (I, I, "square weight")):
        x, weight, bias, dy = normal(N, inputs), normal(inputs, outputs), normal(outputs), normal(N, outputs)
        yield check(
            "dense_backward_dx",
            lambda x, w=weight, b=bias: ops.dense_forward(x, w, b),
            lambda dy, x, w=weight: ops.dense_backward_dx(dy, w),
            {"x": x}, dy, case,
        )  # fmt: skip
        yield check(
            "dense_backward_params",
            lambda w, b, x=x: ops.dense_forward(x, w, b),
            lambda dy, w, b, x=x: ops.dense_backward_params(dy, x),
            {"weight": weight, "bias": bias}, dy, case,
        )  # fmt: skip

    yield check(
        "dense_double_backward",
        lambda dy, w: dy @ w.T,  # written out: a wrong dense_backward_dx is that function's fault alone
        lambda u, dy, w: ops.dense_double_backward(u, dy, w),
        {"dy": normal(N, O), "weight": normal(I, O)}, normal(N, I),
    )  # fmt: skip
    at_kink = normal(N, O)
    at_kink[0, 0], at_kink[1, 1], at_kink[2, 2], at_kink[3, 0] = (
        0.0,
        3e-6,
        -3e-6,
        1e-9,
    )  # on it, a step beside it, too close
    for case, x in (("", normal(N, O)), ("inputs at the kink", at_kink)):
        yield check(
            "leaky_relu_backward",
            lambda x: ops.leaky_relu_forward(x, SLOPE),
            lambda dy, x: ops.leaky_relu_backward(dy, x, SLOPE),
            {"x": x}, normal(N, O), case, kinks=lambda x: x,
        )  # fmt: skip

    mask = xp.asarray((rng.permutation(N * O).reshape(N, O) >= 4) / (1.0 - RATE))  # 4 of 21 dropped
    yield check(
        "dropout_backward",
        lambda x: ops.dropout_forward(x, mask),
        lambda dy, x: ops.dropout_backward(dy, mask),
        {"x": normal(N, O)}, normal(N, O),
    )  # fmt: skip
    for case, x in (("", normal(N, O)), ("far out", xp.asarray(rng.uniform(-30.0, 30.0, (N, O))))):
        yield check(
            "sigmoid_backward",
            lambda x: ops.sigmoid_forward(x),
            lambda dy, x: ops.sigmoid_backward(dy, ops.sigmoid_forward(x)),
            {"x": x}, normal(N, O), case,
        )  # fmt: skip
    yield check(
        "tanh_backward",
        lambda x: ops.tanh_forward(x),
        lambda dy, x: ops.tanh_backward(dy, ops.tanh_forward(x)),
        {"x": normal(N, O)}, normal(N, O),
    )  # fmt: skip
    target = xp.asarray(rng.uniform(0.0, 1.0, (N, 1)))
    yield check(
        "binary_cross_entropy_backward",
        lambda p: ops.binary_cross_entropy_forward(p, target),
        lambda dy, p: dy * ops.binary_cross_entropy_backward(p, target),
        {"p": xp.asarray(rng.uniform(0.05, 0.95, (N, 1)))}, normal(),
    )  # fmt: skip
    yield check(
        "binary_cross_entropy_with_logits_backward",
        lambda z: ops.binary_cross_entropy_with_logits_forward(z, target),
        lambda dy, z: dy * ops.binary_cross_entropy_with_logits_backward(z, target),
        {"z": 3.0 * normal(N, 1)}, normal(),
    )  # fmt: skip
    for order in ((1.0, 0.0), (0.0, 1.0)):
        pairs = xp.asarray(np.repeat(order, N).reshape(2 * N, 1))
        pulled = check(
            "relativistic_backward",
            lambda z, t=pairs: ops.relativistic_forward(z, t),
            lambda dy, z, t=pairs: dy * ops.relativistic_backward(z, t),
            {"z": 3.0 * normal(2 * N, 1)}, normal(), "D's order" if order[0] else "G's order",
        )  # fmt: skip
        yield replace(pulled, level="loss")  # it calls another backward, which is held to its own check before
    yield check(
        "maxout_backward",
        lambda x: ops.maxout_forward(x, 2),
        lambda dy, x: ops.maxout_backward(dy, x, 2),
        {"x": normal(N, 2 * O)}, normal(N, O), kinks=lambda x: x[:, :O] - x[:, O:],
    )  # fmt: skip
    yield check(
        "softmax_backward",
        lambda x: ops.softmax_forward(x),
        lambda dy, x: ops.softmax_backward(dy, ops.softmax_forward(x)),
        {"x": normal(N, I)}, normal(N, I),
    )  # fmt: skip
    yield check(
        "mean_squared_error_backward",
        lambda y: ops.mean_squared_error_forward(y, mask),
        lambda dy, y: dy * ops.mean_squared_error_backward(y, mask),
        {"y": normal(N, O)}, normal(),
    )  # fmt: skip
    label = xp.asarray(rng.integers(0, I, N))
    yield check(
        "softmax_cross_entropy_backward",
        lambda z: ops.softmax_cross_entropy_forward(z, label),
        lambda dy, z: dy * ops.softmax_cross_entropy_backward(z, label),
        {"z": 3.0 * normal(N, I)}, normal(),
    )  # fmt: skip


def layer_checks(rng: np.random.Generator, xp: ModuleType) -> Iterator[Check | FormulaCheck]:
    """Every layer: its input, and Dense's weight and bias."""
    layers: list[Layer] = [
        Dense(I, O),
        LeakyReLU(SLOPE),
        Dropout(RATE),
        Sigmoid(),
        Tanh(),
        ReLU(),
        Maxout(2),
        Softmax(),
    ]
    for layer in layers:
        x, key = xp.asarray(rng.normal(size=(N, I))), random_key(rng)
        subject = randomized(alone(layer, xp), rng)
        yield from backward_checks("layer", "", subject, x, key, rng, tolerance=1e-12, factors=_FACTORS)


def double_backward_checks(rng: np.random.Generator, xp: ModuleType) -> Iterator[Check]:
    """The derivative of ``backward_input``, of every layer that has one."""
    for layer in (Dense(I, O), LeakyReLU(SLOPE), Dropout(RATE)):
        subject, key = randomized(alone(layer, xp), rng), random_key(rng)
        x = xp.asarray(rng.normal(size=(N, I)))
        y, cache = subject.forward(x, key)
        inputs = {"dy": xp.asarray(rng.normal(size=y.shape)), **subject.tensors}
        yield _double_backward_check(subject, inputs, cache, xp.asarray(rng.normal(size=x.shape)))


def penalty_checks(rng: np.random.Generator, xp: ModuleType) -> Iterator[Check]:
    """A penalty on a network's input gradients, and its gradient in the parameters."""
    layers = [Dense(I, 6), LeakyReLU(SLOPE), Dropout(RATE), Dense(6, O), LeakyReLU(SLOPE), Dense(O, 1)]
    net, key = randomized(Sequential(layers, np.float64, xp), rng), random_key(rng)
    x, rate = xp.asarray(rng.normal(size=(N, I))), xp.asarray(rng.uniform(0.1, 1.0, (N, 1)))

    def bind(dtype: Any) -> Bound:
        twin = net.astype(dtype)

        def evaluate() -> tuple[Array, list[Array]]:
            y, caches = twin.forward(x, key)
            slopes = twin.backward_input(xp.ones_like(y), caches)
            return 0.5 * (rate * slopes**2).sum(), kinks(twin, caches)

        return Bound(twin.tensors, evaluate)

    def prepare() -> tuple[dict[str, Array], Bind]:
        _, caches = net.forward(x, key)
        net.gradients[...] = 0.0
        net.gradient_penalty(rate, caches)
        return net.gradient_tensors, bind

    yield Check("penalty", "nn.network.Sequential.gradient_penalty", prepare, "", factors=rows_factors(N))


def _double_backward_check(subject: Layer, inputs: dict[str, Array], cache: Any, u: Array) -> Check:
    def bind(dtype: Any) -> Bound:
        twin = subject.astype(dtype)
        work = {name: array.astype(dtype) for name, array in inputs.items()}

        def evaluate() -> tuple[Array, list[Array]]:
            for name, tensor in twin.tensors.items():
                tensor[...] = work[name]
            return (u * twin.backward_input(work["dy"], cache)).sum(), []

        return Bound(work, evaluate)

    def prepare() -> tuple[dict[str, Array], Bind]:
        subject.gradients[...] = 0.0
        ddy = subject.double_backward(u, inputs["dy"], cache)
        return {"dy": ddy, **subject.gradient_tensors}, bind

    return Check("double backward", f"nn.layers.{type(subject).__name__}.double_backward", prepare, factors=_FACTORS)


def loss_checks(rng: np.random.Generator, xp: ModuleType) -> Iterator[Check]:
    """The losses for one output, with the targets of training: ones, zeros and a smoothed one."""
    target = xp.asarray(np.array([1.0, 0.0, 1.0, 0.0, 0.9, 1.0, 0.0]).reshape(N, 1))
    pairs = xp.asarray(np.repeat([1.0, 0.0], N).reshape(2 * N, 1))
    cases = (
        (losses.BinaryCrossEntropy, xp.asarray(rng.uniform(0.05, 0.95, (N, 1))), target),
        (losses.BinaryCrossEntropyWithLogits, xp.asarray(3.0 * rng.normal(size=(N, 1))), target),
        (losses.MeanSquaredError, xp.asarray(rng.normal(size=(N, 1))), target),
        (losses.Relativistic, xp.asarray(3.0 * rng.normal(size=(2 * N, 1))), pairs),
    )
    for make, output, wanted in cases:

        def prepare(
            make: Callable[[], losses.Loss] = make, output: Array = output, wanted: Array = wanted
        ) -> tuple[dict[str, Array], Bind]:
            loss, one = make(), xp.asarray(1.0)
            gradients = {"output": loss.backward(output, wanted)}
            return gradients, bind_function(lambda p: loss.forward(p, wanted), {"output": output}, one)

        yield Check("loss", f"nn.losses.{make.__name__}", prepare, factors=rows_factors(N))
