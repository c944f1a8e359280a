"""One iteration of ``training.train_step`` as launches of the kernels in ``step.cu``: what runs on a GPU with fused kernels.

Why it is written again: every pass is done where a matrix product ends, Adam's too, and some products run beside each other.
``tests/test_cupy_host.py`` holds it against ``train_step``, on a CPU.

Letters as in ``training``: B the batch size, b ≤ B the rows of this batch, Z the latent size. All arrays are float32 on the
device, allocated once: a captured graph has their addresses.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from npgan.backend import Array
from npgan.config import TrainConfig
from npgan.engines.cuda.device import THREADS, Launcher, tile_of
from npgan.gan import PASS_D, PASS_G, TrainState
from npgan.nn.layers import Dense, Dropout, dropout_threshold
from npgan.nn.network import IMAGE_PIXELS, Sequential

_i, _f, _u, _seed, _d = np.int32, np.float32, np.uint32, np.uint64, np.float64  # the kernels' argument types


def unsupported(config: TrainConfig) -> str | None:
    """Why these kernels cannot train ``config``, or None."""
    if config.networks != "tutorial" or config.optimiser != "adam":
        return "only the tutorial's networks with Adam have fused kernels on a GPU"
    return None


class Resident(NamedTuple):
    """What stays on the device through a run, besides the state."""

    pixels: Array  # (M, 784) uint8: the data set
    order: Array  # (M,) uint32: the permutation of the current epoch
    step: Array  # (1,) uint32: iterations done, advanced by the last kernel of each
    metrics: Array  # (iterations of an epoch, 6): StepMetrics of each, as the epoch goes on


@dataclass
class _Pass:
    """The discriminator's forward and backward on N rows. Lists have an entry for each hidden layer of width O."""

    x: Array  # (N, 784)
    target: Array  # (N,)
    forward_pass: int | None  # of the dropout key; None where dropout is off
    y: list[Array]  # (N, O)
    slopes: list[Array]  # (N, O), ∂y/∂z where dropout is on
    dz: list[Array]  # (N, O)
    output: Array  # (N,)
    output_dz: Array  # (N,)


class _Parameters(NamedTuple):
    """A Dense layer's, weight (I, O) and bias (O,) in one piece: shapes (I·O + O,)."""

    gradient: Array
    parameter: Array
    m: Array
    v: Array
    adam: Array  # (7,)
    squares: Array  # (blocks,), each block's share of the gradient's squared norm


class CudaStep:
    """Iterations of b rows each. ``launch`` starts one; its result is in the state and in ``resident.metrics``."""

    def __init__(
        self, launcher: Launcher, state: TrainState, config: TrainConfig, resident: Resident, rows: int
    ) -> None:
        self.launcher, self.state, self.config, self.resident, self.rows = launcher, state, config, resident, rows
        g, d, batch = state.generator, state.discriminator, config.batch_size
        self.g, self.d = _dense(g), _dense(d)
        self.dropout = [layer for layer in d.layers if isinstance(layer, Dropout)]
        self.latent = self._empty(rows + batch, -(-config.latent_dim // 4) * 4)  # rows on 16-byte boundaries
        self.latent[...] = 0.0
        self.images = self._empty(2 * rows + batch, IMAGE_PIXELS)  # real, fake for the D step, fake for the G step
        self.g_y = [self._empty(rows + batch, layer.out_features) for layer in self.g[:-1]] + [self.images[rows:]]
        self.g_dz = [self._empty(batch, layer.out_features) for layer in self.g]
        target_d = self._empty(2 * rows)
        target_d[:rows], target_d[rows:] = 1.0 - config.label_smoothing, 0.0
        target_g = self._empty(batch)
        target_g[...] = 1.0
        self.pass_d = self._pass(self.images[: 2 * rows], target_d, PASS_D)
        pass_g = PASS_G if config.dropout_in_g_step else None
        self.pass_g = self._pass(self.images[2 * rows :], target_g, pass_g)
        self.adam = self._empty(2, 7)  # device.cuh's AdamStep of D and of G
        self.parameters_d, self.squares_d = self._parameters(d, state.adam_d, self.adam[0])
        self.parameters_g, self.squares_g = self._parameters(g, state.adam_g, self.adam[1])

    def launch(self) -> None:
        """The same order as in ``training.train_step``."""
        rows, config, resident = self.rows, self.config, self.resident

        # The images of this step: real ones and noise, and both noise batches through G as one.
        self._inputs()
        x = self.latent
        for layer, y in zip(self.g[:-1], self.g_y[:-1], strict=True):
            self._product("forward_leaky_relu", y, layer, x, layer.weight, layer.bias, y, slope=True)
            x = y
        last = self.g[-1]
        self._product("forward_tanh", self.g_y[-1], last, x, last.weight, last.bias, self.g_y[-1])

        # D step: tell real from fake.
        self._forward_d(self.pass_d)
        self._backward_d(self.pass_d, update=True)

        # G step: make the updated D say "real". The gradient goes through D and tanh down to G's last z.
        self._forward_d(self.pass_g)
        self._backward_d(self.pass_g, update=False)
        fakes, first = self.pass_g.x, self.d[0]
        self._product("backward_tanh", fakes, first, self.pass_g.dz[0], first.weight, fakes, self.g_dz[-1])
        for index in reversed(range(len(self.g))):
            layer, dz = self.g[index], self.g_dz[index]
            x = (self.g_y[index - 1] if index else self.latent)[rows:]
            if index:
                self._product("backward_leaky_relu", x, layer, dz, layer.weight, x, self.g_dz[index - 1], slope=True)
            self._update(index, layer, self.parameters_g[index], x, dz)

        self.launcher.launch(
            "finish", (1, 1), self.pass_d.output, self.pass_d.target, self.pass_g.output, self.pass_g.target,
            self.squares_d, self.squares_g, resident.metrics, resident.step, _i(rows), _i(config.batch_size),
            _i(len(resident.metrics)), _i(self.squares_d.size), _i(self.squares_g.size), self._logits,
        )  # fmt: skip

    def _inputs(self) -> None:
        rows, resident, config = self.rows, self.resident, self.config
        noise_d, noise_g = self.latent[:rows], self.latent[rows:]
        z = config.latent_dim
        threads = rows * IMAGE_PIXELS // 4 + -(-rows * z // 4) + -(-config.batch_size * z // 4) + 2
        self.launcher.launch(
            "inputs", (-(-threads // THREADS), 1), resident.pixels, resident.order, resident.step, self.images, noise_d,
            noise_g, self.adam, _i(rows), _i(config.batch_size), _i(len(resident.metrics)), _i(z), _seed(config.seed),
            _d(config.lr_d), _d(config.lr_g), _d(config.beta1), _d(config.beta2), _d(config.adam_epsilon),
        )  # fmt: skip

    def _forward_d(self, p: _Pass) -> None:
        """Hidden layers, then the head: the output, its loss's gradient, and dz of the last hidden layer."""
        x = p.x
        for index, (layer, dropout) in enumerate(zip(self.d[:-1], self.dropout, strict=True)):
            if p.forward_pass is None:
                self._product(
                    "forward_leaky_relu", p.y[index], layer, x, layer.weight, layer.bias, p.y[index], slope=True
                )
            else:
                key = (
                    _u(dropout_threshold(dropout.rate)), _f(1.0 / (1.0 - dropout.rate)), self.resident.step,
                    _u(16 * p.forward_pass + dropout.site), _seed(self.config.seed),
                )  # fmt: skip
                self._product(
                    "forward_dropout", p.y[index], layer, x, layer.weight, layer.bias, p.y[index], p.slopes[index],
                    slope=True, more=key,
                )  # fmt: skip
            x = p.y[index]
        head, rows = self.d[-1], len(p.output)
        slopes = p.slopes[-1] if p.forward_pass is not None else _seed(0)  # a null pointer
        self.launcher.launch(
            "head", (-(-rows * 32 // THREADS), 1), x, head.weight, head.bias, p.target, slopes, p.output, p.output_dz,
            p.dz[-1], _i(rows), _i(head.in_features), _f(self.config.leaky_slope), self._logits,
        )  # fmt: skip

    def _backward_d(self, p: _Pass, update: bool) -> None:
        """From dz of the last hidden layer to dz of the first, and, if wanted, the update of all parameters."""
        if update:
            head, x = self.d[-1], p.y[-1]
            with self.launcher.beside():
                self.launcher.launch(
                    "head_params", self._update_blocks(head), x, p.output_dz, *self.parameters_d[-1], _i(len(x)),
                    _i(head.in_features),
                )  # fmt: skip
        for index in reversed(range(len(self.d) - 1)):
            layer, dz = self.d[index], p.dz[index]
            if index:
                before = p.dz[index - 1]
                if p.forward_pass is None:
                    y = p.y[index - 1]
                    self._product("backward_leaky_relu", before, layer, dz, layer.weight, y, before, slope=True)
                else:
                    slopes = p.slopes[index - 1]
                    self._product("backward_slopes", before, layer, dz, layer.weight, slopes, before)
            if update:
                self._update(index, layer, self.parameters_d[index], p.y[index - 1] if index else p.x, dz)

    def _update(self, index: int, layer: Dense, parameters: _Parameters, x: Array, dz: Array) -> None:
        """Gradients and Adam, after the product that reads the layer's weight: beside the next one, the first layer's last."""
        with self.launcher.beside() if index else nullcontext():
            tile, blocks = self._tiles(layer.in_features, layer.out_features)
            self.launcher.launch(
                f"backward_params_{tile}", blocks, x, dz, *parameters, _i(len(x)), _i(layer.in_features),
                _i(layer.out_features),
            )  # fmt: skip
        if index == 0:
            self.launcher.join()

    def _product(
        self,
        kernel: str,
        result: Array,
        layer: Dense,
        *arrays: Array,
        slope: bool = False,
        more: tuple[Any, ...] = (),
    ) -> None:
        """One of the Dense kernels: ``result`` (N, columns) decides the tiles."""
        tile, blocks = self._tiles(*result.shape)
        self.launcher.launch(
            f"{kernel}_{tile}", blocks, *arrays, _i(len(result)), _i(layer.in_features), _i(layer.out_features),
            *((_f(self.config.leaky_slope),) if slope else ()), *more,
        )  # fmt: skip

    def _tiles(self, rows: int, columns: int) -> tuple[str, tuple[int, int]]:
        """The tile of a (rows, columns) result as kernels have it in their names, and the blocks to start."""
        tile = tile_of(rows, columns, self.launcher.multiprocessors)
        return f"{tile[0]}x{tile[1]}", (-(-columns // tile[1]), -(-rows // tile[0]))

    def _update_blocks(self, layer: Dense) -> tuple[int, int]:
        """Those of the kernel that updates the layer's parameters."""
        if layer.out_features == 1:
            return -(-(layer.in_features + 1) // 32), 1  # head_params
        return self._tiles(layer.in_features, layer.out_features)[1]

    def _parameters(self, net: Sequential, adam: Any, settings: Array) -> tuple[list[_Parameters], Array]:
        """Of each Dense layer, and all their ``squares``. ``settings`` (7,): this iteration's AdamStep."""
        layers = [(layer, math.prod(self._update_blocks(layer))) for layer in _dense(net)]
        squares = self._empty(sum(blocks for _, blocks in layers))
        found: list[_Parameters] = []
        start = block = 0
        for layer, blocks in layers:
            own = slice(start, start + (layer.in_features + 1) * layer.out_features)
            vectors = net.gradients[own], net.parameters[own], adam.m[own], adam.v[own]
            found.append(_Parameters(*vectors, settings, squares[block : block + blocks]))
            start, block = own.stop, block + blocks
        return found, squares

    @property
    def _logits(self) -> np.int32:
        return _i(self.config.loss == "bce-logits")

    def _empty(self, *shape: int) -> Array:
        return self.state.generator.xp.empty(shape, dtype=np.float32)

    def _pass(self, x: Array, target: Array, forward_pass: int | None) -> _Pass:
        def hidden() -> list[Array]:
            return [self._empty(len(x), layer.out_features) for layer in self.d[:-1]]

        slopes = hidden() if forward_pass is not None else []
        return _Pass(x, target, forward_pass, hidden(), slopes, hidden(), self._empty(len(x)), self._empty(len(x)))


def _dense(net: Sequential) -> list[Dense]:
    return [layer for layer in net.layers if isinstance(layer, Dense)]
