"""A network small enough for pencil and paper: 3 inputs, 4 hidden units, 2 outputs, 2 rows. Every number of a training step.

The numbers in every line are elements of arrays that the library computed; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from npgan.gradcheck import COMPLEX, Report, check_gradients
from npgan.gradcheck.source import Source
from npgan.inspector.figures import read_op
from npgan.nn import ops
from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU, Sigmoid
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam

SLOPE, RATE, KEY = 0.2, 0.5, DropoutKey(seed=7, step=0, forward_pass=0)
LR, BETA1, BETA2, EPSILON = 0.05, 0.9, 0.999, 1e-8

X = [[1.0, -2.0, 0.5], [0.0, 1.0, -1.0]]
TARGET = [[1.0, 0.0], [0.0, 1.0]]
WEIGHT_1 = [[0.5, -0.4, 0.3, 0.1], [0.2, 0.3, -0.5, 0.4], [-0.3, 0.1, 0.2, -0.2]]
BIAS_1 = [0.1, 0.0, -0.1, 0.2]
WEIGHT_2 = [[0.4, -0.2], [-0.3, 0.5], [0.2, 0.1], [0.6, -0.4]]
BIAS_2 = [0.0, 0.1]


TOY_INTRODUCTION = (
    "3 inputs, 4 hidden units, 2 outputs, 2 rows, with D's own layers and round parameters. Rows and columns are counted from "
    "0. Every number is an element of an array that npgan computed in float64, shown to five digits."
)


class ToySection(NamedTuple):
    """One operation: its matrices by name, and a line for every element of the result."""

    title: str
    source: Source
    matrices: dict[str, np.ndarray]
    lines: list[str]
    note: str = ""


def toy_network(dtype: Any = np.float64) -> Sequential:
    """3 → 4, leaky ReLU, dropout; → 2, sigmoid: D's own layers, with round numbers as parameters."""
    layers: list[Layer] = [Dense(3, 4), LeakyReLU(SLOPE), Dropout(RATE), Dense(4, 2), Sigmoid()]
    network = Sequential(layers, dtype)
    values = {"0.weight": WEIGHT_1, "0.bias": BIAS_1, "3.weight": WEIGHT_2, "3.bias": BIAS_2}
    for name, value in values.items():
        network.tensors[name][...] = value
    return network


def toy_sections() -> list[ToySection]:
    """The step in order: forward, backward, Adam's first update, and the gradient checker's word on it."""
    network = toy_network()
    x, target = np.array(X), np.array(TARGET)
    outputs, caches = [], []
    y = x
    for layer in network.layers:
        y, cache = layer.forward(y, KEY)
        outputs.append(y)
        caches.append(cache)
    z1, a1, h, z2, p = outputs
    mask = caches[2]
    column, target_column = p.reshape(-1, 1), target.reshape(-1, 1)
    loss = ops.binary_cross_entropy_forward(column, target_column)
    dp = ops.binary_cross_entropy_backward(column, target_column).reshape(p.shape)
    gradients = [dp]
    for layer, cache in zip(reversed(network.layers), reversed(caches), strict=True):
        gradients.append(layer.backward(gradients[-1], cache))
    _, dz2, dh, da1, dz1, dx = gradients
    weight_1, bias_1, weight_2, bias_2 = network.tensors.values()
    dweight_1, dbias_1, dweight_2, dbias_2 = network.gradient_tensors.values()

    sections = [
        _section(
            "Forward 1: Dense",
            "dense_forward",
            {"x": x, "W1": weight_1, "b1": bias_1, "z1": z1},
            _dense(z1, x, weight_1, bias_1),
        ),
        _section(
            "Forward 2: leaky ReLU",
            "leaky_relu_forward",
            {"z1": z1, "a1": a1},
            _each(a1, lambda i: _leaky(z1[i], z1[i])),
        ),
        _section(
            "Forward 3: dropout",
            "dropout_forward",
            {"a1": a1, "mask": mask, "h": h},
            _each(h, lambda i: f"{_n(a1[i])}·{_n(mask[i])}"),
            f"Half of the elements are dropped, the others doubled: p = {RATE}.",
        ),
        _section(
            "Forward 4: Dense",
            "dense_forward",
            {"h": h, "W2": weight_2, "b2": bias_2, "z2": z2},
            _dense(z2, h, weight_2, bias_2),
        ),
        _section(
            "Forward 5: sigmoid",
            "sigmoid_forward",
            {"z2": z2, "p": p},
            _each(p, lambda i: f"1/(1 + exp(−{_n(z2[i])}))"),
        ),
        _section(
            "Forward 6: binary cross-entropy",
            "binary_cross_entropy_forward",
            {"p": p, "t": target},
            _loss_lines(loss, p, target),
            "The four probabilities are taken as N = 4 rows of one. ε = 1.2e-07 is too small to show in these digits.",
        ),
        _section(
            "Backward 6: binary cross-entropy",
            "binary_cross_entropy_backward",
            {"dp": dp},
            _each(dp, lambda i: f"−1/{_n(p[i])}/4" if target[i] else f"1/(1 − {_n(p[i])})/4"),
            "Only the term of the loss that the target leaves standing has a slope.",
        ),
        _section(
            "Backward 5: sigmoid",
            "sigmoid_backward",
            {"dz2": dz2},
            _each(dz2, lambda i: f"{_n(dp[i])}·{_n(p[i])}·(1 − {_n(p[i])})"),
        ),
        _section(
            "Backward 4: Dense, its parameters",
            "dense_backward_params",
            {"dW2": dweight_2, "db2": dbias_2},
            [*_weight_lines(dweight_2, h, dz2), *_bias_lines(dbias_2, dz2)],
        ),
        _section("Backward 4: Dense, its input", "dense_backward_dx", {"dh": dh}, _input_lines(dh, dz2, weight_2)),
        _section(
            "Backward 3: dropout", "dropout_backward", {"da1": da1}, _each(da1, lambda i: f"{_n(dh[i])}·{_n(mask[i])}")
        ),
        _section(
            "Backward 2: leaky ReLU", "leaky_relu_backward", {"dz1": dz1}, _each(dz1, lambda i: _leaky(z1[i], da1[i]))
        ),
        _section(
            "Backward 1: Dense, its parameters",
            "dense_backward_params",
            {"dW1": dweight_1, "db1": dbias_1},
            [*_weight_lines(dweight_1, x, dz1), *_bias_lines(dbias_1, dz1)],
        ),
        _section(
            "Backward 1: Dense, its input",
            "dense_backward_dx",
            {"dx": dx},
            _input_lines(dx, dz1, weight_1),
            "Of the first layers' dx, training needs one: D's in the G step, which is ∂L/∂pixels.",
        ),
    ]
    sections.append(_adam_section(network))
    return sections


def check_toy() -> Report:
    """Every gradient of the toy step against the complex step and central differences."""
    network = toy_network()
    target = np.array(TARGET).reshape(-1, 1)
    names = list(network.tensors)

    def run(values: Iterable[np.ndarray], dtype: Any) -> tuple[Sequential, np.ndarray, list[Any]]:
        twin = network.astype(dtype)
        for name, value in zip(names, values, strict=True):
            twin.tensors[name][...] = value
        return twin, *twin.forward(np.array(X), KEY)

    def loss(*values: np.ndarray) -> np.ndarray:
        return np.asarray(ops.binary_cross_entropy_forward(run(values, values[0].dtype)[1].reshape(-1, 1), target))

    def gradients(dy: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
        twin, p, caches = run(values, np.float64)
        dp = dy * ops.binary_cross_entropy_backward(p.reshape(-1, 1), target).reshape(p.shape)
        twin.backward(dp, caches)
        return tuple(twin.gradient_tensors.values())

    return check_gradients(loss, gradients, dict(zip(("W1", "b1", "W2", "b2"), network.tensors.values(), strict=True)))


def verdict_text(report: Report) -> str:
    passed = "✓ right" if report.passed else "✗ WRONG"
    return f"{passed}: dW1, db1, dW2 and db2, every element against the complex step, worst error {report.worst(COMPLEX):.1e}"


def _adam_section(network: Sequential) -> ToySection:
    before = {name: tensor.copy() for name, tensor in network.tensors.items()}
    adam = Adam(network, LR, BETA1, BETA2, EPSILON)
    adam.update(network.parameters, network.gradients)
    lines, start = [], 0
    for (name, old), label in zip(before.items(), ("W1", "b1", "W2", "b2"), strict=True):
        for index, element in _elements(old):
            (g, m, v), where = (array[start] for array in (network.gradients, adam.m, adam.v)), _index(index)
            lines.append(f"m {label}{where} = 0.9·0 + 0.1·{_n(g)} = {_n(m, bare=True)}")
            lines.append(f"v {label}{where} = 0.999·0 + 0.001·{_n(g)}² = {_n(v)}")
            lines.append(
                f"  {label}{where} = {_n(element)} − {LR}·({_n(m)}/0.1)/(√({_n(v)}/0.001) + 1e-8)"
                f" = {_n(network.tensors[name][index], bare=True)}"
            )
            start += 1
    after = dict(zip(("W1", "b1", "W2", "b2"), network.tensors.values(), strict=True))
    note = (
        "t = 1: 1 − β₁ = 0.1 and 1 − β₂ = 0.001 cancel what the zero start of m and v did, so the first step is lr·g/|g|: "
        f"every parameter with a gradient moves by lr = {LR}, however small its gradient."
    )
    return _section("Update: Adam", "nn.optim.Adam.update", after, lines, note)


def _section(title: str, op: str, matrices: dict[str, np.ndarray], lines: list[str], note: str = "") -> ToySection:
    """The last matrix is the result: its name goes before lines that have none."""
    name = next(reversed(matrices))
    named = [f"{name}{line}" if line.startswith("[") else line for line in lines]
    if op == "dense_backward_params":  # two results
        weight, bias = matrices
        named = [(weight if "," in line.partition("]")[0] else bias) + line for line in lines]
    source = read_op(op if "." in op else f"nn.ops.{op}")
    return ToySection(title, source, {key: array.copy() for key, array in matrices.items()}, named, note)


def _each(result: np.ndarray, term: Callable[[tuple[int, ...]], str]) -> list[str]:
    return [f"{_index(index)} = {term(index)} = {_n(value, bare=True)}" for index, value in _elements(result)]


def _dense(y: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> list[str]:
    def term(index: tuple[int, ...]) -> str:
        n, o = index
        products = [f"{_n(x[n, i])}·{_n(weight[i, o])}" for i in range(x.shape[1])]
        return " + ".join([*products, _n(bias[o])])

    return _each(y, term)


def _weight_lines(dweight: np.ndarray, x: np.ndarray, dy: np.ndarray) -> list[str]:
    return _each(dweight, lambda at: " + ".join(f"{_n(x[n, at[0]])}·{_n(dy[n, at[1]])}" for n in range(len(x))))


def _bias_lines(dbias: np.ndarray, dy: np.ndarray) -> list[str]:
    return _each(dbias, lambda at: " + ".join(_n(row[at[0]]) for row in dy))


def _input_lines(dx: np.ndarray, dy: np.ndarray, weight: np.ndarray) -> list[str]:
    return _each(dx, lambda at: " + ".join(f"{_n(dy[at[0], o])}·{_n(weight[at[1], o])}" for o in range(dy.shape[1])))


def _leaky(x: float, value: float) -> str:
    """1·value right of the kink, slope·value left of it."""
    return f"{'1' if x > 0 else _n(SLOPE)}·{_n(value)}"


def _loss_lines(loss: float, p: np.ndarray, target: np.ndarray) -> list[str]:
    terms = [f"log({_n(p[i])})" if t else f"log(1 − {_n(p[i])})" for i, t in _elements(target)]
    return [f"L = −({' + '.join(terms)})/4 = {_n(loss, bare=True)}"]


def _elements(array: np.ndarray) -> Iterable[tuple[tuple[int, ...], float]]:
    return ((index, float(array[index])) for index in np.ndindex(array.shape))


def _index(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]"


def _n(value: float, bare: bool = False) -> str:
    """Five significant digits; a negative number inside an expression is in brackets."""
    text = f"{value:.5g}" if value else "0"
    if value >= 0 or bare:
        return text.replace("-", "−") if value < 0 else text
    return f"({text.replace('-', '−', 1)})"


def matrix_lines(name: str, matrix: np.ndarray) -> list[str]:
    """A matrix in full, rows under rows."""
    rows = np.atleast_2d(matrix)
    cells = [[_n(value, bare=True) for value in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    head = f"{name} = "
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return [f"{head if i == 0 else ' ' * len(head)}[ {line} ]" for i, line in enumerate(lines)]
