"""One training step taken apart: the same calls as ``training.train_step``, on copies, with everything kept.

Letters as in ``training``: b real rows, B rows of the G step. The walk calls each layer's forward and backward exactly as
``networks.Sequential`` does, so every gradient is the one that training computes, bit by bit (a test holds them together).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from npgan.backend import to_numpy
from npgan.config import TrainConfig
from npgan.data.mnist import scale_pixels
from npgan.engines import REFERENCE
from npgan.gan import PASS_D, PASS_G, TrainState, draw_latent, loss_of
from npgan.gradcheck.source import Source
from npgan.inspector.figures import SATURATED, Stats, flops, moved_bytes, read_op, reason, statistics
from npgan.nn import layers as layer_types
from npgan.nn.layers import Dense, Dropout, DropoutKey
from npgan.nn.losses import BinaryCrossEntropy, Loss
from npgan.nn.network import Sequential, take_rows
from npgan.nn.optim import Adam, Optimiser

D_STEP, G_STEP = "D step", "G step"

_OP_OF = {  # the operation of ops.py that a layer calls; a Dense layer's backward calls two
    layer_types.Dense: "dense",
    layer_types.LeakyReLU: "leaky_relu",
    layer_types.ReLU: "relu",
    layer_types.Maxout: "maxout",
    layer_types.Dropout: "dropout",
    layer_types.Sigmoid: "sigmoid",
    layer_types.Tanh: "tanh",
}
_WHY_CACHED = {
    "dense_forward": ("x", "dW = xᵀ·dy: each weight's gradient is a sum over the inputs that it met"),
    "leaky_relu_forward": ("x", "its sign says which of the two slopes each element took"),
    "relu_forward": ("x", "its sign says which elements passed"),
    "maxout_forward": ("x", "it says which piece was the largest"),
    "dropout_forward": ("mask", "the gradient goes through the elements that were kept, and through no others"),
    "sigmoid_forward": ("y", "the slope y·(1 − y) is a function of the result: x need not be kept"),
    "tanh_forward": ("y", "the slope 1 − y² is a function of the result: x need not be kept"),
    "binary_cross_entropy_forward": ("p", "the slope of the logarithm is one over its argument"),
    "binary_cross_entropy_with_logits_forward": ("z", "its sigmoid is the gradient, but for the target"),
}


@dataclass(frozen=True)
class Op:
    """One operation of a step. ``tensors``: what it read and then what it wrote, by the names of its formula."""

    step: str  # D_STEP or G_STEP
    part: str  # "G forward", "D backward", "loss", "update" …
    where: str  # "D.3 Dense 1024→512"
    name: str  # "ops.dense_forward"
    source: Source
    why: str  # the docstring's reason
    tensors: dict[str, np.ndarray]
    flops: int
    bytes: int
    stats: dict[str, Stats]
    shares: dict[str, float]  # such as {"negative slope": 0.51}
    cached: str = ""  # which tensor is kept for the backward
    cached_why: str = ""

    @property
    def key(self) -> str:
        """The layer without its description: "D.3"."""
        return self.where.split()[0]


class TensorUpdate(NamedTuple):
    """What the optimiser did to one tensor. Norms are Euclidean; ``ratio`` is change over weight, NaN for a tensor of zeros."""

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
    middle: TrainState  # after D's update
    after: TrainState
    gradients: dict[str, np.ndarray]  # "D.0.weight" → its gradient

    @property
    def accuracy(self) -> float:
        """The share of real and fake rows of the D step that D calls by their name."""
        b = len(self.p_d) // 2
        return float((np.sum(self.p_d[:b] > 0.5) + np.sum(self.p_d[b:] <= 0.5)) / len(self.p_d))


def inspect_step(state: TrainState, pixels: np.ndarray, config: TrainConfig) -> StepTrace:
    """The step that ``train_step`` would do next, done on copies: ``state`` is left as it is. Shapes: pixels (b, 784) uint8."""
    before, state = copied(state), copied(state)
    g, d = state.generator, state.discriminator
    b, dtype = pixels.shape[0], g.parameters.dtype
    loss = loss_of(config)
    images = np.empty((2 * b + config.batch_size, d.input_width), dtype)
    scale_pixels(to_numpy(pixels), out=images[:b])
    latent = np.empty((b + config.batch_size, g.input_width), dtype)
    draw_latent(config, state.step, latent, b)
    trace: list[Op] = []

    walk = _Walk(trace, D_STEP, "G", g)
    fakes, g_caches = walk.forward(latent, None)
    images[b:] = fakes

    target_d = np.zeros((2 * b, 1), dtype)
    target_d[:b] = 1.0 - config.label_smoothing
    walk = _Walk(trace, D_STEP, "D", d)
    output_d, d_caches = walk.forward(images[: 2 * b], DropoutKey(config.seed, state.step, PASS_D))
    loss_d, dy = walk.loss(loss, output_d, target_d)
    walk.backward(dy, d_caches, need_dx=False, need_params=True)
    updates = walk.update(state.adam_d)
    middle = copied(state)

    samples = images[2 * b :]
    dropout = DropoutKey(config.seed, state.step, PASS_G) if config.dropout_in_g_step else None
    walk = _Walk(trace, G_STEP, "D", d)
    output_g, d_caches = walk.forward(samples, dropout)
    loss_g, dy = walk.loss(loss, output_g, np.ones((config.batch_size, 1), dtype))
    dsamples = walk.backward(dy, d_caches, need_dx=True, need_params=False)
    walk = _Walk(trace, G_STEP, "G", g)
    walk.backward(dsamples, take_rows(g_caches, slice(b, None)), need_dx=False, need_params=True)
    updates += walk.update(state.adam_g)

    state.step += 1
    gradients = {f"{n}.{name}": t for n, net in (("D", d), ("G", g)) for name, t in net.gradient_tensors.items()}
    return StepTrace(
        config, state.step, trace, updates, loss_d, loss_g, loss.probability(output_d), loss.probability(output_g),
        images[: 2 * b], samples, dsamples, before, middle, state, gradients,
    )  # fmt: skip


class _Walk:
    """One network in one step, walked as ``Sequential`` walks it; notes every operation in ``trace``."""

    def __init__(self, trace: list[Op], step: str, net: str, network: Sequential) -> None:
        self.trace, self.step, self.net, self.network = trace, step, net, network

    def forward(self, x: np.ndarray, dropout: DropoutKey | None) -> tuple[np.ndarray, list[Any]]:
        caches = []
        for index, layer in enumerate(self.network.layers):
            y, cache = layer.forward(x, dropout)
            tensors = {"x": x, **_parameters(layer), **_mask(cache), "y": y}
            if isinstance(layer, Dropout) and cache.mask is None:
                self._note("forward", self._where(index), "layers.Dropout.forward", {"x": x, "y": y}, {"kept": 1.0})
            else:
                self._note(
                    "forward", self._where(index), f"ops.{_op_of(layer)}_forward", tensors, _shares(layer, tensors)
                )
            caches.append(cache)
            x = y
        return x, caches

    def loss(self, loss: Loss, output: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient in the network's output."""
        logits = not isinstance(loss, BinaryCrossEntropy)
        name, letter = ("with_logits_", "z") if logits else ("", "p")
        value, doutput = loss.forward(output, target), loss.backward(output, target)
        given = {letter: output, "t": target}
        op = f"ops.binary_cross_entropy_{name}"
        self._note("loss", "loss", f"{op}forward", {**given, "L": np.asarray(value)}, {})
        self._note("loss", "loss", f"{op}backward", {**given, f"d{letter}": doutput}, {})
        return float(value), doutput

    def backward(self, dy: np.ndarray, caches: list[Any], need_dx: bool, need_params: bool) -> np.ndarray | None:
        dx: np.ndarray | None = dy
        for index in reversed(range(len(self.network.layers))):
            layer, dy, where = self.network.layers[index], dx, self._where(index)
            wanted = need_dx or index > 0
            dx = layer.backward(dy, caches[index], wanted, need_params)
            if isinstance(layer, Dense):
                if need_params:
                    written = {"dweight": layer.dweight.copy(), "dbias": layer.dbias.copy()}
                    self._note(
                        "backward", where, "ops.dense_backward_params", {"dy": dy, "x": caches[index].x, **written}, {}
                    )
                if wanted:
                    tensors = {"dy": dy, "weight": layer.weight.copy(), "dx": dx}
                    self._note("backward", where, "ops.dense_backward_dx", tensors, {})
            elif wanted and isinstance(layer, Dropout) and caches[index].mask is None:
                self._note("backward", where, "layers.Dropout.backward", {"dy": dy, "dx": dx}, {"kept": 1.0})
            elif wanted:
                tensors = {"dy": dy, **caches[index]._asdict(), "dx": dx}
                self._note("backward", where, f"ops.{_op_of(layer)}_backward", tensors, {})
        return dx

    def update(self, optimiser: Optimiser) -> list[TensorUpdate]:
        """Lets the optimiser update the network's parameters."""
        network = self.network
        before = {name: tensor.copy() for name, tensor in network.tensors.items()}
        old = network.parameters.copy()
        optimiser.update(network.parameters, network.gradients)
        moments = {"m": optimiser.m.copy()} | ({"v": optimiser.v.copy()} if isinstance(optimiser, Adam) else {})
        name = "ops.adam_update" if isinstance(optimiser, Adam) else "ops.momentum_update"
        tensors = {"grad": network.gradients.copy(), **moments, "param": old, "change": network.parameters - old}
        self._note("update", self.net, name, tensors, {})
        updates = []
        for name, tensor in network.tensors.items():
            gradient, weight, change = (
                float(np.linalg.norm(array))
                for array in (network.gradient_tensors[name], before[name], tensor - before[name])
            )
            ratio = change / weight if weight else float("nan")
            updates.append(TensorUpdate(self.net, name, gradient, weight, change, ratio))
        return updates

    def _where(self, index: int) -> str:
        network = self.network
        layer, width = network.layers[index], network.widths[index]
        shape = (
            f" {network.widths[index - 1] if index else network.input_width}→{width}"
            if isinstance(layer, Dense)
            else ""
        )
        return f"{self.net}.{index} {type(layer).__name__}{shape}"

    def _note(self, part: str, where: str, name: str, tensors: dict[str, np.ndarray], shares: dict[str, float]) -> None:
        op = name.rpartition(".")[2]
        off = name.startswith("layers.")  # dropout that is off hands its input on: no arithmetic
        cached, cached_why = _WHY_CACHED.get(op, ("", "")) if not off else ("", "")
        self.trace.append(
            Op(
                self.step,
                part if part in ("loss", "update") else f"{self.net} {part}",
                where,
                name,
                read_op(name),
                "" if off else reason(name),
                tensors,
                0 if off else flops(op, tensors),
                0 if off else moved_bytes(tensors),
                {key: statistics(array) for key, array in tensors.items() if key not in ("mask", "t")},
                shares,
                cached,
                cached_why,
            )
        )


def copied(state: TrainState) -> TrainState:
    """The same state in arrays of its own, in main memory, with the plain maths."""
    g, d = copied_network(state.generator), copied_network(state.discriminator)
    return TrainState(g, d, _copied_optimiser(state.adam_g), _copied_optimiser(state.adam_d), state.step)


def copied_network(network: Sequential, dtype: Any = None) -> Sequential:
    """The same layers and parameters, in arrays of their own; in another ``dtype`` if given."""
    layers = [copy.copy(layer) for layer in network.layers]
    twin = Sequential(layers, network.input_width, dtype or network.parameters.dtype)
    twin.parameters[...] = to_numpy(network.parameters)
    twin.gradients[...] = to_numpy(network.gradients)
    return twin


def _copied_optimiser(optimiser: Optimiser) -> Optimiser:
    changes: dict[str, Any] = {}
    for field in fields(optimiser):
        value = getattr(optimiser, field.name)
        if hasattr(value, "dtype"):
            changes[field.name] = to_numpy(value).copy()
    return (
        replace(optimiser, **changes, kernels=REFERENCE)
        if isinstance(optimiser, Adam)
        else replace(optimiser, **changes)
    )


def _op_of(layer: Any) -> str:
    return _OP_OF[type(layer)]


def _parameters(layer: Any) -> dict[str, np.ndarray]:
    """Copies: the layer's own tensors are about to be updated."""
    return {"weight": layer.weight.copy(), "bias": layer.bias.copy()} if isinstance(layer, Dense) else {}


def _mask(cache: Any) -> dict[str, np.ndarray]:
    return {"mask": cache.mask} if getattr(cache, "mask", None) is not None else {}


def _shares(layer: Any, tensors: dict[str, np.ndarray]) -> dict[str, float]:
    x, y = tensors["x"], tensors["y"]
    match layer:
        case layer_types.LeakyReLU() | layer_types.ReLU():
            return {"negative slope": float(np.mean(x <= 0))}
        case layer_types.Tanh():
            return {"saturated": float(np.mean(np.abs(y) > SATURATED))}
        case layer_types.Sigmoid():
            return {"saturated": float(np.mean((y > SATURATED) | (y < 1.0 - SATURATED)))}
        case Dropout():
            return {"kept": float(np.mean(tensors["mask"] != 0))}
    return {}
