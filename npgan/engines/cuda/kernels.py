"""``schedule.Kernels`` on an NVIDIA GPU: every call is one launch of a kernel in ``step.cu``, on CuPy's current stream.

Elementwise passes are epilogues of GEMMs, and so is Adam. All arrays are float32 on the device, and their rows begin on 16-byte
boundaries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from npgan.backend import Array
from npgan.engines.cuda.device import CLUSTER, CLUSTERED, DESIGN, THREADS, Design, Gpu, Launcher, clustered, tile_of
from npgan.engines.cuda.graph import Graphs
from npgan.engines.schedule import Draw, FusedStep, Parameters, Pass, Penalty, loss_number
from npgan.gan import IMAGE_PIXELS
from npgan.nn.layers import Dense
from npgan.nn.losses import Loss

_i, _f, _u, _u64, _d = np.int32, np.float32, np.uint32, np.uint64, np.float64  # the kernels' argument types
_NULL = np.uint64(0)


class CudaKernels:
    """The table. On a ``Gpu`` iterations become graphs; another launcher gets them launch by launch, on whatever stream."""

    asynchronous = True
    keeps_gradients = True
    draws_from_any_row = False

    def __init__(self, launcher: Launcher, xp: ModuleType, design: Design = DESIGN) -> None:
        """``xp``: CuPy."""
        self.launcher = launcher
        self._design = design
        self._xp = xp
        self._graphs = Graphs(launcher, self.iterations) if isinstance(launcher, Gpu) else None

    def empty(self, rows: int, width: int) -> Array:
        """A width that is not a multiple of 4 has zeros behind it, up to the next one: kernels copy four numbers at a time."""
        if width % 4:
            return self._xp.zeros((rows, width + -width % 4), _f)[:, :width]
        return self._xp.empty((rows, width), _f)

    def stream(self) -> AbstractContextManager[object]:
        return self._graphs.stream() if self._graphs else nullcontext()

    def side_stream(self) -> AbstractContextManager[object]:
        return self.launcher.side_stream()

    def join(self) -> None:
        self.launcher.join()

    def repeat(self, step: FusedStep, count: int) -> int:
        if self._graphs:
            self._graphs.repeat(step, count)
        else:
            for _ in range(count):
                step.launch()
        return count

    def fetch(self, metrics: Array) -> Callable[[], np.ndarray]:
        """Into memory that the device writes by itself, so that later kernels may go on meanwhile."""
        cuda = self._xp.cuda
        room = np.frombuffer(cuda.alloc_pinned_memory(metrics.nbytes), metrics.dtype, metrics.size)
        copied = room.reshape(metrics.shape)
        metrics.get(stream=cuda.get_current_stream(), out=copied, blocking=False)
        done = cuda.Event(disable_timing=True)
        done.record(cuda.get_current_stream())

        def wait() -> np.ndarray:
            done.synchronize()
            return np.array(copied)

        return wait

    def partial_sums(self, layer: Dense) -> int:
        """One for each block. Raises ValueError for a layer that the kernels cannot do."""
        if layer.weight.dtype != _f:
            raise ValueError(f"the kernels are for float32, got {layer.weight.dtype}")
        if layer.out_features % 8 and layer.out_features != 1:  # a block of Philox would span two rows
            raise ValueError(f"the width must be a multiple of 8, got {layer.out_features}")
        return math.prod(self._update_blocks(layer))

    def iterations(self, step: FusedStep, twin: FusedStep, count: int) -> None:
        """What a graph of so many has."""
        if self._design.overlapped:
            self.overlapped(step, twin, count)
            return
        for offset in range(count):
            self.inputs(step, *step.inputs())
            step.body(keep_gradients=offset == count - 1)
            self.finish(step)

    def overlapped(self, step: FusedStep, twin: FusedStep, count: int) -> None:
        """So many iterations, of ``step`` last, with what goes in and comes out beside the main chain.

        The next iteration's inputs are made on the side stream, before this one's updates, which the main stream waits for
        anyway; so are metrics after it. Gradients are kept in the last one, which ``FusedEngine.tensors`` tells of.
        """
        turns = [(step, twin)[left % 2] for left in reversed(range(count))]
        self.inputs(turns[0], *turns[0].inputs())
        for offset, turn in enumerate(turns, 1):
            if offset < count:
                with self.launcher.side_stream():
                    self.inputs(turns[offset], *turns[offset].inputs(), offset=offset)
            turn.body(keep_gradients=offset == count)
            with self.launcher.side_stream():
                self.finish(turn, advance=count if offset == count else 0)
        self.launcher.join()

    def inputs(self, step: FusedStep, real: Array, noise_d: Array, noise_g: Array, offset: int = 0) -> None:
        """``offset``: iterations before this one that ``resident.step`` does not know of yet."""
        resident, (rows, z), fakes = step.resident, noise_d.shape, len(noise_g)
        threads = rows * IMAGE_PIXELS // 4 + -(-rows * z // 4) + -(-fakes * z // 4) + 2
        config, (d, g) = step.config, step.optimizers
        cosine = config.lr_schedule == "cosine"  # the kernel works out an epoch's rates: a graph is captured once
        rates = (config.lr_d, config.lr_g) if cosine else (d.lr, g.lr)
        settings = [_d(each) for o, lr in zip((d, g), rates, strict=True) for each in (lr, o.beta1, o.beta2, o.epsilon)]
        self.launcher.launch(
            "inputs", (-(-threads // THREADS), 1), resident.pixels, resident.order, resident.step, step.counter, real,
            noise_d, noise_g, step.constants, _u(offset), _i(rows), _i(config.batch_size), _i(fakes),
            _i(len(resident.metrics)), _i(z), _u64(config.seed), *settings, _u(config.epochs if cosine else 0), _d(config.ema),
        )  # fmt: skip

    def forward_leaky_relu(self, x: Array, layer: Dense, slope: float, y: Array) -> None:
        self._gemm("forward_leaky_relu", y.shape, layer, (x, layer.weight, layer.bias, y), _f(slope))

    def forward_dropout(self, x: Array, layer: Dense, slope: float, draw: Draw, y: Array, dydz: Array) -> None:
        mask = _u(draw.dropout.threshold), _f(draw.dropout.scale), draw.step, _u(draw.site), _u64(draw.seed)
        self._gemm("forward_dropout", y.shape, layer, (x, layer.weight, layer.bias, y, dydz), _f(slope), *mask)

    def forward_tanh(self, x: Array, layer: Dense, y: Array) -> None:
        self._gemm("forward_tanh", y.shape, layer, (x, layer.weight, layer.bias, y))

    def head(self, p: Pass, layer: Dense, slope: float, loss: Loss) -> None:
        """A warp for each row."""
        x, dydz = p.y[-1], p.dydz[-1] if p.dydz else _NULL
        start = _NULL if p.start is p.output_dz else p.start
        rows, width = x.shape
        self.launcher.launch(
            "head", (-(-rows * 32 // THREADS), 1), x, layer.weight, layer.bias, p.target, dydz, start, p.output,
            p.output_dz, p.dz[-1], _i(rows), _i(width), _f(slope), _i(loss_number(loss)),
        )  # fmt: skip

    def backward_leaky_relu(self, dz: Array, layer: Dense, y: Array, slope: float, dz_before: Array) -> None:
        self._gemm("backward_leaky_relu", dz_before.shape, layer, (dz, layer.weight, y, dz_before), _f(slope))

    def backward_dydz(self, dz: Array, layer: Dense, dydz: Array, dz_before: Array) -> None:
        self._gemm("backward_dydz", dz_before.shape, layer, (dz, layer.weight, dydz, dz_before))

    def backward_tanh(self, dz: Array, layer: Dense, y: Array, dz_before: Array) -> None:
        self._gemm("backward_tanh", dz_before.shape, layer, (dz, layer.weight, y, dz_before))

    def input_gradient(self, dz: Array, layer: Dense, penalty: Penalty) -> None:
        u, rate = penalty.u[0], penalty.rate
        self._gemm("input_gradient", u.shape, layer, (dz, layer.weight, rate, u))
        rows, width = u.shape
        blocks = -(-rows * 32 // THREADS), 1
        self.launcher.launch("penalty_value", blocks, u, rate, penalty.value, _i(rows), _i(width))

    def tangent_leaky_relu(self, u: Array, layer: Dense, y: Array, slope: float, out: Array) -> None:
        self._gemm("tangent_leaky_relu", out.shape, layer, (u, layer.weight, y, out), _f(slope))

    def tangent_dydz(self, u: Array, layer: Dense, dydz: Array, out: Array) -> None:
        self._gemm("tangent_dydz", out.shape, layer, (u, layer.weight, dydz, out))

    def combine(self, c: Array, x: Array, u: Array) -> None:
        self.launcher.launch("combine", _quads(u.size), c, x, u, _i(u.shape[0]), _i(u.shape[1]))

    def copy(self, x: Array, out: Array) -> None:
        self.launcher.launch("copy", _quads(x.size), x, out, _i(x.size))

    def update(self, x: Array, dz: Array, p: Parameters, step: Array, c: Array | None = None) -> None:
        self._update(x, dz, p, p.m, c)

    def gradients(self, x: Array, dz: Array, p: Parameters, c: Array | None = None) -> None:
        self._update(x, dz, p, _NULL, c)

    def adam(self, p: Parameters, step: Array) -> None:
        arrays = p.gradient, p.parameter, p.m, p.v, _or_null(p.average), p.constants, p.squares
        self.launcher.launch("adam_update", (p.squares.size, 1), *arrays, _i(p.parameter.size))

    def finish(self, step: FusedStep, advance: int = 1) -> None:
        """``advance``: what ``resident.step`` is advanced by."""
        resident, d, g = step.resident, step.pass_d, step.pass_g
        self.launcher.launch(
            "finish", (1, 1), d.output, d.target, g.output, g.target, step.squares_d, step.squares_g,
            step.penalty.value if step.penalty else _NULL, resident.metrics, step.counter, resident.step, _u(advance),
            _i(step.rows), _i(step.batch),
            _i(len(resident.metrics)), _i(step.squares_d.size), _i(step.squares_g.size), _i(loss_number(step.loss)),
        )  # fmt: skip

    def _update(self, x: Array, dz: Array, p: Parameters, m: Any, c: Array | None) -> None:
        """Gradients, and Adam unless ``m`` is a null pointer."""
        vectors = _or_null(p.gradient), p.parameter, m, p.v, _or_null(p.average)
        arrays = x, dz, _or_null(c), *vectors, p.constants, p.squares
        if p.layer.out_features == 1:
            sizes = _i(len(x)), _i(p.layer.in_features)
            self.launcher.launch("head_update", self._update_blocks(p.layer), *arrays, *sizes)
        else:
            self._gemm("update", p.layer.weight.shape, p.layer, arrays)

    def _gemm(self, kernel: str, shape: tuple[int, int], layer: Dense, arrays: tuple[Any, ...], *more: Any) -> None:
        """One of the kernels with a GEMM, whose result has that shape. N is the length of the first array."""
        tile, blocks = self._tiles(*shape)
        design, ks = self._design, arrays[0].shape[1]
        if design.clusters and kernel != "update" and clustered(*shape, ks, self.launcher.multiprocessors):
            tile, blocks = CLUSTERED, (CLUSTER * -(-shape[1] // 64), -(-shape[0] // 64))
        sizes = _i(len(arrays[0])), _i(layer.in_features), _i(layer.out_features)
        self.launcher.launch(f"{kernel}_{tile}", blocks, *arrays, *sizes, *more)

    def _tiles(self, rows: int, columns: int) -> tuple[str, tuple[int, int]]:
        """The tile of a (rows, columns) result as kernels have it in their names, and the blocks to start."""
        tile = self._design.tile or tile_of(rows, columns, self.launcher.multiprocessors)
        return f"{tile[0]}x{tile[1]}", (-(-columns // tile[1]), -(-rows // tile[0]))

    def _update_blocks(self, layer: Dense) -> tuple[int, int]:
        """Those of the kernel that updates the layer's parameters: ``head_update`` does 32 of them in a block."""
        if layer.out_features == 1:
            return -(-(layer.in_features + 1) // 32), 1
        return self._tiles(layer.in_features, layer.out_features)[1]


def _or_null(array: Array | None) -> Any:
    return _NULL if array is None else array


def _quads(size: int) -> tuple[int, int]:
    """The blocks of a kernel of which a thread does four numbers."""
    return -(-size // (4 * THREADS)), 1
