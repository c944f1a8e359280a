"""Runs of layers that a fused kernel does at once. A stage follows the protocol of a layer, ``layers.Layer``.

A stage owns no parameters: it reads those of its Dense layer. Its ``out`` are the buffers that it allocated itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from npgan.nn.layers import Dense, Dropout, DropoutKey, Layer, LeakyReLU, Sigmoid, Tanh

Array = Any  # numpy.ndarray or cupy.ndarray


class StageCache(NamedTuple):
    """The input, the result, and ∂y/∂z where dropout was on. Shapes: x (N, I), y and slopes (N, O)."""

    x: Array
    y: Array
    slopes: Array | None = None


class ForwardRoom(NamedTuple):
    """Buffers for one forward: y and slopes (N, O)."""

    y: Array
    slopes: Array | None


class BackwardRoom(NamedTuple):
    """Buffers for one backward: dz (N, O), dx (N, I)."""

    dz: Array
    dx: Array


def fuse(layers: Sequence[Layer], chains: ModuleType) -> list[Layer | Stage]:
    """The layers with every run that has a kernel replaced by one stage."""
    stages: list[Layer | Stage] = []
    index = 0
    while index < len(layers):
        dense, *following = layers[index : index + 3]
        after, dropout = (*following, None, None)[:2]
        if not isinstance(dense, Dense) or not isinstance(after, LeakyReLU | Tanh | Sigmoid):
            stages.append(dense)
            index += 1
        elif isinstance(after, LeakyReLU) and isinstance(dropout, Dropout) and dense.out_features % 8 == 0:
            stages.append(Stage(chains, dense, after, dropout))
            index += 3
        else:
            stages.append(Stage(chains, dense, after))
            index += 2
    return stages


class Stage:
    """A Dense layer, its activation and, after a leaky ReLU, perhaps dropout."""

    def __init__(
        self, chains: ModuleType, dense: Dense, activation: LeakyReLU | Tanh | Sigmoid, dropout: Dropout | None = None
    ) -> None:
        self.chains = chains
        self.dense = dense
        self.activation = activation
        self.dropout = dropout

    def output_width(self, input_width: int) -> int:
        return self.dense.output_width(input_width)

    def forward_room(self, y: Array) -> ForwardRoom:
        """Buffers for a forward that writes its result to ``y``."""
        return ForwardRoom(y, self.chains.empty(*y.shape) if self.dropout else None)

    def backward_room(self, dx: Array) -> BackwardRoom:
        """Buffers for a backward that writes its result to ``dx``."""
        return BackwardRoom(self.chains.empty(dx.shape[0], self.dense.out_features), dx)

    def forward(
        self, x: Array, dropout: DropoutKey | None = None, out: ForwardRoom | None = None
    ) -> tuple[Array, StageCache]:
        y, slopes = out or (None, None)
        weight, bias = self.dense.weight, self.dense.bias
        match self.activation:
            case LeakyReLU(slope=slope) if self.dropout and dropout:
                y, slopes = self.chains.dense_leaky_relu_dropout_forward(
                    x, weight, bias, slope, self.dropout.rate, self.dropout.site, dropout, y, slopes
                )
                return y, StageCache(x, y, slopes)
            case LeakyReLU(slope=slope):
                y = self.chains.dense_leaky_relu_forward(x, weight, bias, slope, y)
            case Tanh():
                y = self.chains.dense_tanh_forward(x, weight, bias, y)
            case Sigmoid():
                y = self.chains.dense_sigmoid_forward(x, weight, bias, y)
        return y, StageCache(x, y)

    def backward(
        self,
        dy: Array,
        cache: StageCache,
        need_dx: bool = True,
        need_params: bool = True,
        out: BackwardRoom | None = None,
    ) -> Array | None:
        dz, dx = out or (None, None)
        dense = self.dense
        dbias = dense.dbias if need_params else None
        match self.activation:
            case LeakyReLU() if cache.slopes is not None:
                dz = self.chains.dense_leaky_relu_dropout_backward(dy, cache.slopes, dbias, dz)
            case LeakyReLU(slope=slope):
                dz = self.chains.dense_leaky_relu_backward(dy, cache.y, slope, dbias, dz)
            case Tanh():
                dz = self.chains.dense_tanh_backward(dy, cache.y, dbias, dz)
            case Sigmoid():
                dz = self.chains.dense_sigmoid_backward(dy, cache.y, dbias, dz)
        if need_params:
            self.chains.matmul(cache.x.T, dz, dense.dweight)
        return self.chains.dense_backward_dx(dz, dense.weight, dx) if need_dx else None
