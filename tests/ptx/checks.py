"""Every kernel held against float64 NumPy, ``ops``, ``philox`` and ``Adam``. A check raises AssertionError.

A ``Bench`` runs a kernel several times, warps and blocks in other orders, and with tensor cores that round in another way.
Letters: N rows, I inputs, O outputs, as in step.cu.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from helpers import adam_at

from npgan.data.batches import scale_pixels
from npgan.engines.cuda.device import CLUSTER, THREADS
from npgan.gan import kept_of_average
from npgan.nn import ops, philox
from npgan.nn.layers import Dropout, DropoutKey
from npgan.nn.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, Loss, Relativistic
from npgan.nn.philox import Stream
from ptx.emulator import Module, Options, empty, owner_of, written

Array = Any
Tile = tuple[int, ...]  # rows, columns and, if there is more than one, the blocks of a cluster

SEED = 2**40 + 3
SLOPE = np.float32(0.2)
F, N, U, S, D = np.float32, np.int32, np.uint32, np.uint64, np.float64  # the kernels' argument types
NULL = S(0)
ADAM = (2e-4, 0.9, 0.999, 1e-8)

ORDERS = (Options(), Options(1), Options(2), Options(3), Options(0, 1, 2))
FEW = (Options(), Options(3), Options(1, 1, 2))

CLUSTER_TILE = (64, 64, CLUSTER)

EXACT = {3: 1e-6, 1: 1.1e-3, 0: 1e-6}  # of Σ|a·b| + 1, by PASSES: TF32 rounds each factor to 2⁻¹¹


class Bench:
    """``module`` on trial. ``random`` makes the numbers."""

    def __init__(self, module: Module, passes: int, options: Sequence[Options] = FEW, seed: int = 7) -> None:
        self.module, self.passes, self.options = module, passes, options
        self.random = np.random.default_rng(seed)
        self.launches = 0

    def normal(self, *shape: int) -> Array:
        return self.random.standard_normal(shape).astype(F)

    def padded(self, rows: int, width: int) -> Array:
        """Normal numbers, and zeros behind every row up to a multiple of four."""
        values = np.zeros((rows, -(-width // 4) * 4), F)
        values[:, :width] = self.normal(rows, width)
        return values

    def run(
        self, kernel: str, blocks: tuple[int, int], arguments: Sequence[Any], outputs: Sequence[Array]
    ) -> list[list[Array]]:
        """``outputs``, which are among the arguments, after the first run and after the last. Orders must not change a bit."""
        ends: list[list[Array]] = []
        for options in self.options:
            copies = [output.copy() for output in outputs]
            given = [next((c for c, o in zip(copies, outputs, strict=True) if o is each), each) for each in arguments]
            self.module.launch(kernel, blocks, *given, options=options)
            self.launches += 1
            if options.tensor_cores == options.approximately == 0 and ends:
                for one, other in zip(copies, ends[0], strict=True):
                    assert np.array_equal(one.view(np.uint8), other.view(np.uint8)), (
                        f"{kernel}: {options} gives other bits"
                    )
            ends.append(copies)
        return [ends[0], ends[-1]]

    def run_tiled(
        self, kernel: str, tile: Tile, shape: tuple[int, int], arguments: Sequence[Any], outputs: Sequence[Array]
    ) -> list[list[Array]]:
        """A kernel with a GEMM whose result has that shape."""
        rows, columns, *cluster = tile
        blocks = (-(-shape[1] // columns) * (cluster[0] if cluster else 1), -(-shape[0] // rows))
        return self.run(f"{kernel}_{'x'.join(map(str, tile))}", blocks, arguments, outputs)

    def product(self, what: str, found: Array, exact: Array, a: Array, b: Array, factor: Any = 1.0) -> None:
        """``exact``: from a·b in float64, times up to ``factor``."""
        size = (np.abs(a.astype(D)) @ np.abs(b.astype(D)) + 1.0) * factor
        worst = close(what, found, exact, size, EXACT[self.passes])
        if self.passes == 1 and a.shape[1] > 20 and np.size(found) > 100:
            assert worst > 1e-6, f"{what}: that is not TF32"


def close(what: str, found: Array, exact: Array, size: Any, limit: float) -> float:
    """The largest error as a share of ``size``, which is to stay below ``limit``."""
    assert written(np.ascontiguousarray(found, F)).all(), f"{what}: not everything is written"
    worst = float((np.abs(found.astype(D) - exact) / size).max())
    assert worst < limit, f"{what}: off by {worst:.3g}, which is not below {limit}"
    return worst


FORWARD = ("forward_leaky_relu", "forward_tanh", "forward_dropout")
BACKWARD = ("backward_dydz", "backward_leaky_relu", "backward_tanh")

# --- kernels with a GEMM -----------------------------------------------------------------------------------------------


def forward(bench: Bench, n: int, i: int, o: int, tile: Tile, kinds: Collection[str] = FORWARD) -> None:
    x, weight, bias = bench.padded(n, i), bench.normal(i, o), bench.normal(o)
    given, sizes = (x, weight, bias), (N(n), N(i), N(o))
    x = x[:, :i]
    z = x.astype(D) @ weight + bias
    y = empty(n, o)
    for kernel, exact, more in (
        ("forward_leaky_relu", ops.leaky_relu_forward(z, 0.2), (SLOPE,)),
        ("forward_tanh", np.tanh(z), ()),
    ):
        if kernel in kinds:
            for (found,) in bench.run_tiled(kernel, tile, (n, o), (*given, y, *sizes, *more), [y]):
                bench.product(kernel, found, exact, x, weight)
    if o % 8 or "forward_dropout" not in kinds:
        return
    dropout = Dropout(0.3)
    dropout.site = 2
    drawn = U(dropout.threshold), F(dropout.scale), np.array([5], U), U(dropout.draw_site(1)), S(SEED)
    dydz, mask = empty(n, o), dropout.mask(y, DropoutKey(SEED, 5, 1))
    sure = np.abs(z) > 0.1  # on which side of 0 the others are is up to rounding
    for found, slopes in bench.run_tiled(
        "forward_dropout", tile, (n, o), (*given, y, dydz, *sizes, SLOPE, *drawn), [y, dydz]
    ):
        bench.product("forward_dropout", found, ops.leaky_relu_forward(z, 0.2) * mask, x, weight)
        assert np.array_equal(slopes == 0, mask == 0), "forward_dropout: another mask"
        close("forward_dropout's dydz", slopes[sure], ops.leaky_relu_backward(mask, z, 0.2)[sure], 1.0, 1e-6)


def early(bench: Bench, n: int, i: int, o: int) -> None:
    """With programmatic dependent launch: only weights are touched before the wait, as the kernel before may still run."""
    x, weight, y = bench.padded(n, i), bench.normal(i, o), empty(n, o)
    bench.module.launch(
        "forward_tanh_32x32", (-(-o // 32), -(-n // 32)), x, weight, bench.normal(o), y, N(n), N(i), N(o)
    )
    touched = bench.module.footprint()
    found = {address for address, flags in touched.items() if (flags & 4).any()}
    assert found == {owner_of(weight).ctypes.data}, f"{len(found)} arrays are touched early"
    assert not (touched[owner_of(weight).ctypes.data] & 2).any(), "weights are written"
    forward(bench, n, i, o, (32, 32), ["forward_tanh"])


def backward(bench: Bench, n: int, i: int, o: int, tile: Tile, kinds: Collection[str] = BACKWARD) -> None:
    """``i`` a multiple of 4, as all widths of hidden layers and images are."""
    dz, weight, before = bench.normal(n, o), bench.normal(i, o), bench.normal(n, i)
    dx, sizes = dz.astype(D) @ weight.T, (N(n), N(i), N(o))
    for kernel, exact, more in (
        ("backward_dydz", dx * before, ()),
        ("backward_leaky_relu", ops.leaky_relu_backward(dx, before, 0.2), (SLOPE,)),
        ("backward_tanh", ops.tanh_backward(dx, before.astype(D)), ()),
    ):
        out = empty(n, i)
        if kernel in kinds:
            for (found,) in bench.run_tiled(kernel, tile, (n, i), (dz, weight, before, out, *sizes, *more), [out]):
                bench.product(kernel, found, exact, dz, weight.T, 1.0 + before.astype(D) ** 2)


def update(bench: Bench, n: int, i: int, o: int, tile: Tile, penalized: bool = False) -> None:
    """Of weight (I, O) and bias, in one and in two halves. ``penalized``: with a c_n for each row, and with an average."""
    x, dz, before = bench.padded(n, i), bench.normal(n, o), parameters(bench, i * o + o)
    c = bench.normal(n) if penalized else NULL
    average = [bench.normal(i * o + o)] if penalized else []
    squares = empty(-(-i // tile[0]) * -(-o // tile[1]))
    more = adam_constants(4), squares, N(n), N(i), N(o)
    exact = x[:, :i].T.astype(D) @ dz
    weighted = dz.astype(D) * (c[:, None] if penalized else 1.0)
    arguments = (x, dz, c, *before, *(average or [NULL]), *more)
    gradients = []  # by order and model of the tensor cores
    for found in bench.run_tiled("update", tile, (i, o), arguments, [*before, *average, squares]):
        gradient = found[0]
        gradients.append(gradient)
        bench.product("update's dW", gradient[: i * o].reshape(i, o), exact, x[:, :i].T, dz)
        close("update's db", gradient[i * o :], weighted.sum(axis=0), np.abs(weighted).sum(axis=0) + 1.0, 1e-6)
        updated("update", found, before + average)
    arguments = (x, dz, c, NULL, *before[1:], NULL, *more)  # nobody looks at the gradient
    again = bench.run_tiled("update", tile, (i, o), arguments, [*before[1:], squares])
    for gradient, found in zip(gradients, again, strict=True):
        updated("update", [gradient, *found], before)
    arguments = (x, dz, c, *before[:2], NULL, before[3], NULL, *more)
    halves(bench, bench.run_tiled("update", tile, (i, o), arguments, [before[0]])[0][0], before + average, squares)


def penalty(bench: Bench, n: int, i: int, o: int, tile: Tile) -> None:
    """What a gradient penalty adds: the gradient at the images, the forward of tangents, and both losses' x in one."""
    dz, weight, rate = bench.normal(n, o), bench.normal(i, o), np.abs(bench.normal(n))
    rate[0] = 0.0
    u, value = empty(n, i), empty(n)
    g = dz.astype(D) @ weight.T
    arguments = (dz, weight, rate, u, N(n), N(i), N(o))
    for (found,) in bench.run_tiled("input_gradient", tile, (n, i), arguments, [u]):
        bench.product("input_gradient", found, rate[:, None] * g, dz, weight.T, 1.0 + rate[:, None])
    blocks = -(-n * 32 // THREADS), 1
    for (row,) in bench.run("penalty_value", blocks, (found, rate, value, N(n), N(i)), [value]):
        exact = 0.5 * (found.astype(D) ** 2).sum(axis=1) / np.where(rate > 0, rate, 1.0)
        close("penalty_value", row, exact, exact + 1e-12, 3e-6)

    tangent, before, sizes = bench.padded(n, i), bench.normal(n, o), (N(n), N(i), N(o))
    product, out = tangent[:, :i].astype(D) @ weight, empty(n, o)
    for kernel, exact, more in (
        ("tangent_leaky_relu", ops.leaky_relu_backward(product, before, 0.2), (SLOPE,)),
        ("tangent_dydz", product * before, ()),
    ):
        for (found,) in bench.run_tiled(kernel, tile, (n, o), (tangent, weight, before, out, *sizes, *more), [out]):
            bench.product(kernel, found, exact, tangent[:, :i], weight, 1.0 + np.abs(before))

    c, x, copied = bench.normal(n), bench.normal(n, i), empty(n, i)
    u = bench.normal(n, i)
    blocks = -(-n * i // (4 * THREADS)), 1
    for (found,) in bench.run("combine", blocks, (c, x, u, N(n), N(i)), [u]):
        close("combine", found, u + c[:, None].astype(D) * x, np.abs(u) + np.abs(c[:, None] * x) + 1e-6, 3e-7)
    for (found,) in bench.run("copy", blocks, (x, copied, N(n * i)), [copied]):
        assert np.array_equal(found, x), "copy: other numbers"


# --- Adam --------------------------------------------------------------------------------------------------------------


EMA = 0.3


def adam_constants(step: int, settings: tuple[float, float, float, float] = ADAM, ema: float = EMA) -> Array:
    """``AdamStep`` of math.cuh, for the update after ``step`` others."""
    lr, beta1, beta2, epsilon = settings
    rate, unbias = lr / (1.0 - beta1 ** (step + 1)), 1.0 / (1.0 - beta2 ** (step + 1))
    moved = 1.0 - kept_of_average(ema, step)
    return np.array([beta1, beta2, 1.0 - beta1, 1.0 - beta2, epsilon, rate, unbias, moved], F)


def parameters(bench: Bench, count: int) -> list[Array]:
    """Gradient, parameter, m and v before the fifth step."""
    return [empty(count), bench.normal(count), bench.normal(count), np.abs(bench.normal(count))]


def updated(what: str, found: list[Array], before: list[Array]) -> None:
    """``found``: gradient, parameter, m, v, perhaps an average, and squares. ``before``: the same without squares."""
    gradient, *others, squares = found
    exact = [array.astype(D) for array in before[1:]]
    adam_at(*exact[1:3], 4, *ADAM).update(exact[0], gradient.astype(D))
    if len(exact) > 3:
        exact[3] += (1.0 - kept_of_average(EMA, 4)) * (exact[0] - exact[3])
    sizes = [np.abs(array) + 0.1 for array in exact]
    sizes[1] += np.abs(before[2]) + np.abs(gradient)  # m may be a small sum of two that are not
    for name, one, other, size in zip(("parameter", "m", "v", "average"), others, exact, sizes, strict=False):
        close(f"{what}'s {name}", one, other, size, 4e-6)
    sum_of_squares = (gradient.astype(D) ** 2).sum()
    close(f"{what}'s squares", np.array([squares.astype(D).sum()]), sum_of_squares, sum_of_squares + 1e-12, 2e-6)


def halves(bench: Bench, gradient: Array, before: list[Array], squares: Array) -> None:
    """``gradient``: of a kernel that had a null pointer for m. ``adam_update`` does what was left out."""
    given = [gradient, *before[1:]]
    arguments = (*given, *([] if len(given) > 4 else [NULL]), adam_constants(4), squares, N(gradient.size))
    for found in bench.run("adam_update", (squares.size, 1), arguments, [*given[1:], squares]):
        updated("adam_update", [gradient, *found], before)


# --- the small kernels -------------------------------------------------------------------------------------------------

LOSSES: tuple[Loss, ...] = (BinaryCrossEntropy(), BinaryCrossEntropyWithLogits(), Relativistic())  # math.cuh, enum Loss


def head(bench: Bench, n: int, i: int, kind: int, dropout: bool, scale: float = 1.0, penalized: bool = False) -> None:
    """``kind`` of LOSSES. ``penalized``: the backward starts from ones."""
    x, weight, bias = scale * bench.normal(n, i), bench.normal(i, 1) / F(8), bench.normal(1)
    loss, logits = LOSSES[kind], kind > 0
    target = np.resize([1.0, 0.0, 0.9], (n, 1)).astype(F)
    start = bench.normal(n) if penalized else NULL
    dydz = np.abs(bench.normal(n, i))
    output, dz, dz_before = empty(n), empty(n), empty(n, i)
    arguments = (
        x, weight, bias, target, dydz if dropout else NULL, start, output, dz, dz_before, N(n), N(i), SLOPE, N(kind),
    )  # fmt: skip
    z = ops.dense_forward(x.astype(D), weight.astype(D), bias.astype(D))
    size = np.abs(x.astype(D)) @ np.abs(weight.astype(D)) + 1.0
    for found, found_dz, found_before in bench.run(
        "head", (-(-n * 32 // THREADS), 1), arguments, [output, dz, dz_before]
    ):
        exact = z if logits else ops.sigmoid_forward(z)
        close("head's output", found, exact[:, 0], size[:, 0], 1e-6)
        exact = found.astype(D)[:, None]  # from here on: the loss itself is steep
        dy = loss.backward(exact, target.astype(D))
        exact_dz = (dy if logits else ops.sigmoid_backward(dy, exact))[:, 0]
        # near p = t it is a small difference of two that are not
        close("head's dz", found_dz, exact_dz, np.abs(exact_dz) + 1e-2 / n, 1e-5 if scale == 1.0 else 1e-4)
        dx = (start if penalized else found_dz).astype(D)[:, None] * weight[:, 0]
        dx = dx * dydz if dropout else ops.leaky_relu_backward(dx, x, 0.2)
        close("head's dz of the layer before", found_before, dx, np.abs(dx) + 1e-30, 3e-7)
    head_update(bench, n, i, x, penalized)


def head_update(bench: Bench, n: int, i: int, x: Array, penalized: bool) -> None:
    dz, before, blocks = bench.normal(n), parameters(bench, i + 1), -(-(i + 1) // 32)
    c = bench.normal(n) if penalized else NULL
    average = [bench.normal(i + 1)] if penalized else []
    squares = empty(blocks)
    more = adam_constants(4), squares, N(n), N(i)
    weighted = dz.astype(D) * (c if penalized else 1.0)
    arguments = (x, dz, c, *before, *(average or [NULL]), *more)
    for found in bench.run("head_update", (blocks, 1), arguments, [*before, *average, squares]):
        exact = np.append(x.astype(D).T @ dz, weighted.sum())
        size = np.append(np.abs(x).T @ np.abs(dz), np.abs(weighted).sum()) + 1e-3
        close("head_update's gradient", found[0], exact, size, 1e-6)
        updated("head_update", found, before + average)
    arguments = (x, dz, c, *before[:2], NULL, before[3], NULL, *more)
    halves(bench, bench.run("head_update", (blocks, 1), arguments, [before[0]])[0][0], before + average, squares)


def inputs(bench: Bench, rows: int, batch: int, z: int, count: int, step: int, seed: int, epochs: int = 0) -> None:
    """``epochs``: of a cosine of the learning rates, or 0; with one, fakes are as many as the rows."""
    fakes = rows if epochs else batch
    per_epoch, width = -(-count // batch), -(-z // 4) * 4
    pixels = bench.random.integers(0, 256, (count, 784), dtype=np.uint8)
    order = bench.random.permutation(count).astype(U)
    outputs = [empty(1, dtype=U), empty(rows, 784), empty(rows, width), empty(fakes, width), empty(2, 8)]
    threads = rows * 196 + -(-rows * z // 4) + -(-fakes * z // 4) + 2
    other = (1e-3, 0.5, 0.99, 1e-7)
    before, offset = np.array([(step - 3) % 2**32], U), U(3)  # the fourth iteration of a graph
    arguments = (
        pixels, order, before, *outputs, offset, N(rows), N(batch), N(fakes), N(per_epoch), N(z), S(seed),
        *(D(each) for each in (*ADAM, *other)), U(epochs), D(EMA),
    )  # fmt: skip
    share = 0.5 * (1.0 + np.cos(np.pi * (step // per_epoch) / epochs)) if epochs else 1.0
    first = step % per_epoch * batch
    for counter, images, *noises, constants in bench.run("inputs", (-(-threads // THREADS), 1), arguments, outputs):
        close("inputs' images", images, scale_pixels(pixels[order[first : first + rows]], D), 1.0, 2e-7)
        assert int(counter[0]) == step, "inputs: another iteration"
        for site, noise in enumerate(noises):
            exact = philox.normal(seed, Stream.LATENT, step, site, (len(noise), z))
            close("inputs' noise", noise[:, :z], exact, 1.0 + np.abs(exact), 4e-6)
            assert not written(noise[:, z:]).any(), "inputs: what pads the rows is written"
        for row, settings in zip(constants, (ADAM, other), strict=True):
            exact = adam_constants(step, (share * settings[0], *settings[1:])).astype(D)
            close("inputs' constants of Adam", row, exact, np.abs(exact), 1e-6)


def finish(
    bench: Bench,
    rows: int,
    batch: int,
    kind: int,
    blocks: tuple[int, int],
    per_epoch: int,
    step: int,
    scale: float = 1.0,
) -> None:
    """``kind`` of LOSSES. With pairs there is a penalty too."""
    loss, pairs = LOSSES[kind], kind == 2
    outputs = [scale * bench.normal(count, 1) for count in (2 * rows, 2 * batch if pairs else batch)]
    if kind == 0:
        outputs = [ops.sigmoid_forward(output).astype(F) for output in outputs]
    targets = [np.resize([1.0, 0.0, 0.9], (len(output), 1)).astype(F) for output in outputs]
    squares = [np.abs(bench.normal(count)) for count in blocks]
    penalties = np.abs(bench.normal(2 * rows)) if pairs else NULL
    metrics, counter, before = empty(per_epoch, 6), np.array([step], U), np.array([step - step % 3], U)
    arguments = (
        outputs[0], targets[0], outputs[1], targets[1], *squares, penalties, metrics, counter, before, U(5), N(rows),
        N(batch), N(per_epoch), *map(N, blocks), N(kind),
    )  # fmt: skip
    d, g = (output.astype(D) for output in outputs)
    real = loss.probability(d)[:rows].mean(), loss.probability(d)[rows:].mean()
    losses = [loss.forward(output, target.astype(D)) for output, target in zip((d, g), targets, strict=True)]
    losses[0] += penalties.astype(D).sum() if pairs else 0.0
    exact = np.array([*losses, *real, *(np.sqrt(each.astype(D).sum()) for each in squares)])
    for found, after in bench.run("finish", (1, 1), arguments, [metrics, before]):
        row = step % per_epoch
        close("finish's metrics", found[row], exact, np.abs(exact) + 1e-3, 3e-6 if scale == 1.0 else 1e-4)
        assert not written(np.delete(found, row, 0)).any(), "finish: another row is written"
        assert int(after[0]) == (int(before[0]) + 5) % 2**32, "finish: the step counter"
