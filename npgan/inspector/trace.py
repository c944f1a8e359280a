"""One training step taken apart: ``gan.train_step`` itself runs on a copy of the state, and every operation is recorded.

Letters as in ``gan``: b real rows, B rows of the G step.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from npgan.backend import Array, to_numpy
from npgan.config import TrainConfig
from npgan.gan import StepMetrics, TrainState, loss_of, train_step
from npgan.gradcheck.source import Source, operations
from npgan.inspector import figures
from npgan.inspector.figures import Stats
from npgan.nn import ops
from npgan.nn.layers import Dense, DropoutKey, Layer
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam

D_STEP, G_STEP = "D step", "G step"


@dataclass(frozen=True)
class Op:
    """One operation of a step. ``tensors``: what it read and then what it wrote, by the names in the code."""

    step: str  # D_STEP or G_STEP
    part: str  # "G forward", "D backward", "D penalty", "loss", "update"
    where: str  # "D.3 Dense 1024→512"
    name: str  # "nn.ops.dense_forward"
    tensors: dict[str, np.ndarray]
    cached: str = ""  # which tensor of a forward is kept for its backward

    @property
    def key(self) -> str:
        """The layer without its description: "D.3"."""
        return self.where.split()[0]

    @property
    def function(self) -> str:
        """The name within its module: "dense_forward", "Adam.update"."""
        return self.name.split(".", 2)[2]

    @cached_property
    def source(self) -> Source:
        return figures.read_op(self.name)

    @property
    def why(self) -> str:
        """The docstring's reason."""
        return figures.reason(self.name)

    @property
    def cached_why(self) -> str:
        return figures.WHY_CACHED[self.function] if self.cached else ""

    @property
    def flops(self) -> int:
        """0 for dropout that is off: it hands its input on."""
        return figures.flops(self.function, self.tensors)

    @property
    def bytes(self) -> int:
        return figures.moved_bytes(self.tensors) if self.flops else 0

    @cached_property
    def stats(self) -> dict[str, Stats]:
        """By tensor, of those that were computed."""
        arrays = {name: array for name, array in self.tensors.items() if name not in ("mask", "target")}
        return {name: figures.statistics(array) for name, array in arrays.items()}

    @cached_property
    def shares(self) -> dict[str, float]:
        """Such as {"negative slope": 0.51}."""
        return figures.shares(self.function, self.tensors)


class TensorUpdate(NamedTuple):
    """What the optimizer did to one tensor. Norms are Euclidean; ``ratio`` is change over weight, NaN for a tensor of zeros."""

    net: str
    name: str
    gradient: float
    weight: float
    change: float
    ratio: float


@dataclass(frozen=True)
class StepTrace:
    """Everything of one step. Shapes: images (2b, 784), samples and dsamples (B, 784), p_d (2b, 1), p_g (B, 1)."""

    config: TrainConfig
    number: int  # the iteration, counted from 1
    ops: list[Op]
    updates: list[TensorUpdate]
    loss_d: float
    loss_g: float
    p_d: np.ndarray  # D's probabilities of the D step, real rows first
    p_g: np.ndarray
    images: np.ndarray
    samples: np.ndarray  # G's images of the G step
    dsamples: np.ndarray  # ∂L/∂samples, through D
    before: TrainState  # copies
    after: TrainState
    gradients: dict[str, np.ndarray]  # "D.0.weight" → its gradient

    @property
    def accuracy(self) -> float:
        """The share of real and fake rows of the D step that D calls by their name."""
        b = len(self.p_d) // 2
        return float((np.sum(self.p_d[:b] > 0.5) + np.sum(self.p_d[b:] <= 0.5)) / len(self.p_d))


def inspect_step(state: TrainState, pixels: Array, config: TrainConfig) -> StepTrace:
    """The step that ``train_step`` would do next, done on a copy: ``state`` is left as it is. Shapes: pixels (b, 784) uint8."""
    before, after = copied(state), copied(state)
    recorder = _Recorder()
    metrics = recorder.run(after, to_numpy(pixels), config)
    recorded = list(_with_caches(list(_in_order(recorder.ops))))

    def part(step: str, name: str) -> list[Op]:
        return [op for op in recorded if (op.step, op.part) == (step, name)]

    probability = loss_of(config).probability
    in_d, in_g = part(D_STEP, "D forward"), part(G_STEP, "D forward")
    fakes = slice(-len(part(G_STEP, "G forward")[-1].tensors["y"]), None)  # in pairs behind the real images
    nets = {"D": (before.discriminator, after.discriminator), "G": (before.generator, after.generator)}
    return StepTrace(
        config,
        after.step,
        recorded,
        [update for net, (old, new) in nets.items() for update in _updates(net, old, new)],
        float(metrics.loss_d),
        float(metrics.loss_g),
        probability(in_d[-1].tensors["y"]),
        probability(in_g[-1].tensors["y"])[fakes],
        images=in_d[0].tensors["x"],
        samples=in_g[0].tensors["x"][fakes],
        dsamples=part(G_STEP, "D backward")[-1].tensors["dx"][fakes],
        before=before,
        after=after,
        gradients={f"{net}.{name}": d for net, (_, new) in nets.items() for name, d in new.gradient_tensors.items()},
    )


class _Recorder:
    """Notes the operations of a step in the order of computation, each with the place in the step where it was called."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.step = D_STEP
        self.part = self.where = "loss"  # all that ``train_step`` calls outside the networks and the optimizers

    def run(self, state: TrainState, pixels: np.ndarray, config: TrainConfig) -> StepMetrics:
        """``train_step``, with every function of ``ops``, every layer and both optimizers watched."""
        watched: dict[str, Any] = {
            name: self._operation(f"nn.ops.{name}", function) for name, function in operations().items()
        }
        twin = replace(
            state, generator=self._network("G", state.generator), discriminator=self._network("D", state.discriminator)
        )
        update = Adam.update

        def watched_update(adam: Adam, parameters: np.ndarray, gradients: np.ndarray) -> None:
            tensors = {"gradients": gradients.copy(), "parameters": parameters.copy()}
            update(adam, parameters, gradients)
            tensors |= {"m": adam.m.copy(), "v": adam.v.copy(), "change": parameters - tensors["parameters"]}
            with self.at("update", "D" if adam is state.optimizer_d else "G"):
                self.note("nn.optim.Adam.update", tensors)
            self.step = G_STEP

        with mock.patch.multiple(ops, **watched), mock.patch.object(Adam, "update", watched_update):
            metrics = train_step(twin, pixels, config)
        state.step = twin.step
        return metrics

    @contextmanager
    def at(self, part: str, where: str) -> Iterator[None]:
        self.part, self.where = part, where
        yield
        self.part = self.where = "loss"

    def note(self, name: str, tensors: dict[str, np.ndarray]) -> None:
        self.ops.append(Op(self.step, self.part, self.where, name, tensors))

    def _operation(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature, results = inspect.signature(function), figures.result_names(function)

        def watched(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            tensors = {
                key: value.copy() if key in ("weight", "bias") else value  # parameters are soon updated in place
                for key, value in given.items()
                if isinstance(value, np.ndarray)
            }
            before = len(self.ops)
            result = function(*args, **kwargs)
            del self.ops[before:]  # what an operation calls is part of it
            arrays = map(np.asarray, result if isinstance(result, tuple) else (result,))
            self.note(name, tensors | dict(zip(results, arrays, strict=True)))
            return result

        return watched

    def _network(self, name: str, net: Sequential) -> Sequential:
        """The same network, parameters and all, with its layers watched."""
        twin = copy.copy(net)
        twin.layers = [_Watched(self, name, index, layer) for index, layer in enumerate(net.layers)]
        return twin


class _Watched(Layer):
    """A layer that tells the recorder where it is before it computes."""

    def __init__(self, recorder: _Recorder, net: str, index: int, layer: Layer) -> None:
        self.recorder, self.net, self.layer = recorder, net, layer
        shape = f" {layer.in_features}→{layer.out_features}" if isinstance(layer, Dense) else ""
        self.where = f"{net}.{index} {type(layer).__name__}{shape}"

    def forward(self, x: np.ndarray, key: DropoutKey | None = None) -> tuple[np.ndarray, Any]:
        with self.recorder.at(f"{self.net} forward", self.where):
            y, cache = self.layer.forward(x, key)
            if y is x:  # dropout is off
                self.recorder.note(f"nn.layers.{type(self.layer).__name__}.forward", {"x": x, "y": y})
        return y, cache

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return self._back("backward", self.layer.backward, dy, cache)

    def backward_input(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        # D learns in its own step, so a backward that leaves its weights alone there is the penalty's
        part = "penalty" if self.recorder.step == D_STEP else "backward"
        return self._back(part, self.layer.backward_input, dy, cache)

    def double_backward(self, u: np.ndarray, dy: np.ndarray, cache: Any) -> np.ndarray:
        with self.recorder.at(f"{self.net} penalty", self.where):
            return self.layer.double_backward(u, dy, cache)

    def _back(
        self, part: str, backward: Callable[[np.ndarray, Any], np.ndarray], dy: np.ndarray, cache: Any
    ) -> np.ndarray:
        with self.recorder.at(f"{self.net} {part}", self.where):
            dx = backward(dy, cache)
            if dx is dy:
                self.recorder.note(f"nn.layers.{type(self.layer).__name__}.backward", {"dy": dy, "dx": dx})
        return dx


def _in_order(recorded: list[Op]) -> Iterator[Op]:
    """``train_step`` measures its losses last of all; here each stands before the gradient that goes out from it."""
    end = 1 + max(place for place, op in enumerate(recorded) if op.part == "update")
    for op in recorded[:end]:
        if op.part == "loss":
            for measured in recorded[end:]:
                if _first(measured) is _first(op):
                    where = "probability" if "sigmoid" in measured.name else "loss"
                    yield replace(measured, step=op.step, where=where)
        yield op


def _with_caches(recorded: list[Op]) -> Iterator[Op]:
    """A forward keeps what a backward at the same place reads again."""
    read = {(op.where, id(array)) for op in recorded if "_backward" in op.name for array in op.tensors.values()}
    for op in recorded:
        kept = [name for name, array in op.tensors.items() if (op.where, id(array)) in read]
        yield replace(op, cached=kept[0]) if kept and op.name.endswith("_forward") else op


def _first(op: Op) -> np.ndarray:
    return next(iter(op.tensors.values()))


def _updates(net: str, before: Sequential, after: Sequential) -> Iterator[TensorUpdate]:
    for name, tensor in after.tensors.items():
        old = before.tensors[name]
        arrays = after.gradient_tensors[name], old, tensor - old
        gradient, weight, change = (float(np.linalg.norm(array)) for array in arrays)
        yield TensorUpdate(net, name, gradient, weight, change, change / weight if weight else float("nan"))


def copied(state: TrainState) -> TrainState:
    """The same state in arrays of its own, in main memory."""

    def adam(of: Adam) -> Adam:
        twin = copy.copy(of)
        twin.m, twin.v = np.array(to_numpy(of.m)), np.array(to_numpy(of.v))
        return twin

    def network(of: Sequential) -> Sequential:
        twin = copy.deepcopy(of)
        twin.bind(np.array(to_numpy(of.parameters)), np.array(to_numpy(of.gradients)))
        return twin

    nets = network(state.generator), network(state.discriminator)
    average = network(state.average) if state.average else None
    return TrainState(*nets, adam(state.optimizer_g), adam(state.optimizer_d), state.step, average)
