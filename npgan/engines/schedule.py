"""One iteration of ``gan.train_step`` as calls of fused kernels, in buffers that are allocated once.

Every elementwise pass is the epilogue of a matmul, and Adam that of a weight gradient; updates may run on a side stream.
``Kernels`` is what a table of fused kernels has to offer: ``engines.reference`` (compositions of ops, any dtype),
``engines.cpu`` (numba), ``engines.cuda`` (launches). Tests hold the schedule to the textbook, and the tables to each other.

Letters: N rows; I inputs and O outputs of a Dense layer; z = x·W + b its result before the activation, y after it; B the batch
size, b ≤ B the rows of this batch, Z the latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from npgan.backend import Array, array_module, to_numpy
from npgan.config import TrainConfig
from npgan.gan import IMAGE_PIXELS, PASS_D, PASS_G, TrainState, loss_of
from npgan.nn.layers import Dense, Dropout, Layer, LeakyReLU, Sigmoid, Tanh
from npgan.nn.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, Loss, Relativistic
from npgan.nn.network import Sequential
from npgan.nn.optim import Adam

_LOSSES = [loss().name for loss in (BinaryCrossEntropy, BinaryCrossEntropyWithLogits, Relativistic)]
BCE, BCE_LOGITS, RELATIVISTIC = range(len(_LOSSES))  # what kernels know them by; math.cuh has the same enum


class Resident(NamedTuple):
    """What stays where the arrays live through a run, besides the state."""

    pixels: Array  # (M, 784) uint8: the data set
    order: Array  # (M,) uint32: the permutation of the current epoch
    step: Array  # (1,) uint32: iterations done, advanced by ``finish``
    metrics: Array  # (iterations of an epoch, 6): StepMetrics of each, as the epoch goes on


class Draw(NamedTuple):
    """Names the dropout mask of one layer in one forward pass, but for the iteration, which is read from ``step``."""

    dropout: Dropout
    site: int
    seed: int
    step: Array  # (1,) uint32
    first: int = 0  # the mask begins at this row of the pass: in a worker's share of a batch (``engines.mpi``)


class Parameters(NamedTuple):
    """A Dense layer's weight (I, O) and behind it its bias (O,), in one piece: shapes (I·O + O,)."""

    layer: Dense
    gradient: Array  # or None: nobody will look at it, so it need not be stored
    parameter: Array
    m: Array
    v: Array
    optimizer: Adam  # its settings; the iteration is ``resident.step``
    constants: Array  # (8,), where a table keeps what Adam needs in this iteration, the same for all elements
    squares: Array  # parts of Σ gradient², as many as the table likes
    average: Array | None  # of the parameters, moved with them by ``gan.kept_of_average(ema, iterations done)``
    ema: float


@dataclass
class Pass:
    """The discriminator's forward and backward on N rows. Lists have an entry for each hidden layer of width O."""

    x: Array  # (N, 784)
    target: Array  # (N, 1)
    draws: list[Draw]  # empty where dropout is off
    y: list[Array]  # (N, O)
    dydz: list[Array]  # (N, O), where dropout is on: the mask times leaky ReLU's slope
    dz: list[Array]  # (N, O)
    output: Array  # (N, 1)
    output_dz: Array  # (N, 1)
    start: Array  # (N, 1): what the backward starts from: output_dz or, for a gradient penalty, ones

    def rows_from(self, first: int) -> Pass:
        """Of all arrays the rows from ``first`` on."""
        fields = vars(self).items()
        return Pass(
            **{n: [a[first:] for a in v] if isinstance(v, list) else v[first:] for n, v in fields if n != "draws"},
            draws=self.draws,
        )


@dataclass
class Penalty:
    """A gradient penalty ½·Σ_n rate_n·‖∂z_n/∂x_n‖² on the N rows of a pass. Lists have an entry for each layer of width O."""

    rate: Array  # (N, 1)
    value: Array  # (N, 1): each row's part of the penalty
    u: list[Array]  # (N, I): ∂penalty/∂(∂z/∂input of the layer), then with c·input added


class Kernels(Protocol):
    """A table of fused kernels. Arrays for results come last and are written whole; what is read is left as it is."""

    asynchronous: bool  # calls return before the work is done, which is waited for by what ``fetch`` returns
    keeps_gradients: bool  # of the last iteration of ``repeat``; else ``FusedStep.gradients`` can have them
    draws_from_any_row: bool  # whether ``forward_dropout`` minds ``Draw.first``; if not, no batch can be shared out

    def empty(self, rows: int, width: int) -> Array:
        """A new array (rows, width) for activations, in the memory order that the kernels like."""

    def stream(self) -> AbstractContextManager[object]:
        """Everything of a run is done in this context."""

    def side_stream(self) -> AbstractContextManager[object]:
        """A context: what is called in it waits for all called before it, and nothing waits for it until ``join``."""

    def join(self) -> None:
        """What is called from now on waits for everything that was called on the side stream."""

    def repeat(self, step: FusedStep, count: int) -> int:
        """``step.launch()`` so many times. Returns how often: it may stop once the metrics are not finite."""

    def fetch(self, metrics: Array) -> Callable[[], np.ndarray]:
        """Starts to copy them to main memory, as they are after all calls before this one. The result waits for them."""

    def partial_sums(self, layer: Dense) -> int:
        """How many parts of Σ gradient² the table writes for the layer."""

    def inputs(self, step: FusedStep, real: Array, noise_d: Array, noise_g: Array) -> None:
        """This iteration's scaled images real (b, 784), noise_d (b, Z) and noise_g (B, Z), and Adam's ``constants``."""

    def forward_leaky_relu(self, x: Array, layer: Dense, slope: float, y: Array) -> None:
        """y = leaky_relu(x·W + b). Shapes: x (N, I), y (N, O)."""

    def forward_dropout(self, x: Array, layer: Dense, slope: float, draw: Draw, y: Array, dydz: Array) -> None:
        """The same and dropout, with dydz = ∂y/∂z for the backward. Shapes: x (N, I), y and dydz (N, O)."""

    def forward_tanh(self, x: Array, layer: Dense, y: Array) -> None:
        """y = tanh(x·W + b). Shapes: x (N, I), y (N, O)."""

    def head(self, p: Pass, layer: Dense, slope: float, loss: Loss) -> None:
        """The last layer, its loss's gradient ``p.output_dz``, and ``p.dz[-1]`` of the layer before it, from ``p.start``."""

    def backward_leaky_relu(self, dz: Array, layer: Dense, y: Array, slope: float, dz_before: Array) -> None:
        """dz of the layer before, which ends in a leaky ReLU with result y. Shapes: dz (N, O), y, dz_before (N, I)."""

    def backward_dydz(self, dz: Array, layer: Dense, dydz: Array, dz_before: Array) -> None:
        """The same where dropout follows: dz_before = (dz·Wᵀ)∘dydz. Shapes: dz (N, O), dydz, dz_before (N, I)."""

    def backward_tanh(self, dz: Array, layer: Dense, y: Array, dz_before: Array) -> None:
        """The same where the layer before ends in tanh with result y."""

    def input_gradient(self, dz: Array, layer: Dense, penalty: Penalty) -> None:
        """g = dz·Wᵀ, of the first layer: ``penalty.u[0]`` = rate·g, ``penalty.value`` = ½·rate·Σ_i g_i². dz: (N, O)."""

    def tangent_leaky_relu(self, u: Array, layer: Dense, y: Array, slope: float, out: Array) -> None:
        """out = (u·W)∘∂y/∂z, a forward without biases. Shapes: u (N, I), y, out (N, O)."""

    def tangent_dydz(self, u: Array, layer: Dense, dydz: Array, out: Array) -> None:
        """The same where dropout follows: out = (u·W)∘dydz."""

    def combine(self, c: Array, x: Array, u: Array) -> None:
        """u += c∘x. Shapes: c (N, 1), x, u (N, I)."""

    def copy(self, x: Array, out: Array) -> None:
        """out = x. Shapes: (N, I)."""

    def update(self, x: Array, dz: Array, p: Parameters, step: Array, c: Array | None = None) -> None:
        """dW = xᵀ·dz and db = Σ_n c_n·dz_n, and Adam with them. Shapes: x (N, I), dz (N, O), c (N, 1) or None: ones.

        It is ``gradients``, then ``adam``.
        """

    def gradients(self, x: Array, dz: Array, p: Parameters, c: Array | None = None) -> None:
        """The first half of ``update``, for an engine that gathers gradients of several workers in between."""

    def adam(self, p: Parameters, step: Array) -> None:
        """The other half: reads ``p.gradient``."""

    def finish(self, step: FusedStep) -> None:
        """Writes this iteration's row of ``resident.metrics``, and advances ``resident.step``."""


class InOrder:
    """What a table without streams says of them: everything is done in the order of the calls."""

    asynchronous = False
    keeps_gradients = True
    draws_from_any_row = False

    def stream(self) -> AbstractContextManager[object]:
        return nullcontext()

    def side_stream(self) -> AbstractContextManager[object]:
        return nullcontext()

    def join(self) -> None:
        pass

    def launch(self, step: FusedStep) -> None:
        step.launch()

    def repeat(self, step: FusedStep, count: int) -> int:
        metrics = step.resident.metrics
        for done in range(1, count + 1):
            row = int(step.resident.step[0]) % len(metrics)
            self.launch(step)
            if not np.isfinite(metrics[row]).all():
                return done
        return count

    def fetch(self, metrics: Array) -> Callable[[], np.ndarray]:
        copied = np.array(to_numpy(metrics))
        return lambda: copied


class FusedStep:
    """Iterations of b rows each. ``launch`` starts one; its result is in the state and in ``resident.metrics``."""

    def __init__(
        self,
        kernels: Kernels,
        state: TrainState,
        config: TrainConfig,
        resident: Resident,
        rows: int,
        twin: FusedStep | None = None,
        fakes: int | None = None,
    ) -> None:
        """``twin``: a step that takes turns with this one, so that what goes in and comes out may be made beside the other.

        Only that is in arrays of its own: noise, images, outputs, sums, constants. Between there are the twin's. ``fakes``: of
        the G step, where it is only a share of a batch.
        """
        self.kernels, self.config, self.resident, self.rows = kernels, config, resident, rows
        self._state = state
        self.loss, pairs = loss_of(config), config.loss == "relativistic"
        self.batch = fakes or (rows if pairs else config.batch_size)
        self.optimizers = state.optimizer_d, state.optimizer_g
        self.g, self.d = _dense(state.generator), _dense(state.discriminator)
        self._dropout = [layer for layer in state.discriminator.layers if isinstance(layer, Dropout) and layer.rate]
        like, empty, batch = state.generator.parameters, kernels.empty, self.batch
        self._xp, self._dtype = array_module(like), like.dtype
        # the iterations done before this one, for what is drawn; where iterations overlap, `inputs` writes it
        self.counter = self._xp.empty(1, np.uint32) if kernels.asynchronous else resident.step
        self.latent = empty(rows + batch, config.latent_dim)
        self.images = empty(2 * rows + batch, IMAGE_PIXELS)  # real, fake for the D step, fake for the G step
        hidden = twin.g_y[:-1] if twin else [empty(rows + batch, layer.out_features) for layer in self.g[:-1]]
        self.g_y: list[Array] = [*hidden, self.images[rows:]]
        self.g_dz: list[Array] = twin.g_dz if twin else [empty(batch, layer.out_features) for layer in self.g]
        self.pass_d: Pass = self._pass(self.images[: 2 * rows], PASS_D, twin.pass_d if twin else None)
        shown = self.images[: 2 * rows] if pairs else self.images[2 * rows :]
        forward_pass = PASS_G if config.dropout_in_g_step else None
        self.pass_g: Pass = self._pass(shown, forward_pass, twin.pass_g if twin else None)
        self.pass_d.target[:rows], self.pass_d.target[rows:] = 1.0 - config.label_smoothing, 0.0
        self.pass_g.target[:-batch], self.pass_g.target[-batch:] = 0.0, 1.0
        # G learns from its fakes, not from what they are paired with
        self.fakes = self.pass_g.rows_from(len(shown) - batch)
        self.penalty = self._penalty() if config.penalized else None
        # whether ``gradients`` can still have them: pairs write over the images of the D step
        self.gradients_last = not pairs or config.penalized
        self.constants = self._xp.empty((2, 8), self._dtype)  # of D's Adam and of G's
        d, g = (state.discriminator, state.optimizer_d, None), (state.generator, state.optimizer_g, state.average)
        self.parameters_d, self.squares_d = self._parameters(*d, self.constants[0])
        self.parameters_g, self.squares_g = self._parameters(*g, self.constants[1])

    def launch(self, keep_gradients: bool = True) -> None:
        """One iteration, in the order of ``gan.train_step``. Gradients that nobody will look at need not be kept."""
        self._inputs()
        self.body(keep_gradients)
        self.kernels.finish(self)

    def inputs(self) -> tuple[Array, Array, Array]:
        """Real images and both batches of noise: what ``Kernels.inputs`` writes."""
        return self.images[: self.rows], self.latent[: self.rows], self.latent[self.rows :]

    def body(self, keep_gradients: bool = True) -> None:
        """All between inputs and metrics."""
        parameters_d, parameters_g = self.parameters_d, self.parameters_g
        if not keep_gradients:
            parameters_d, parameters_g = _unkept(parameters_d), _unkept(parameters_g)
        self.make_images()
        self.step_d(parameters_d)
        self.step_g(parameters_g)

    def make_images(self) -> None:
        """The images of this step. D's update does not touch G, so both noise batches go through G as one."""
        k, slope = self.kernels, self.config.leaky_slope
        x = self.latent
        for layer, y in zip(self.g[:-1], self.g_y[:-1], strict=True):
            k.forward_leaky_relu(x, layer, slope, y)
            x = y
        k.forward_tanh(x, self.g[-1], self.g_y[-1])

    def step_d(self, parameters_d: list[Parameters]) -> None:
        """Tell real from fake."""
        self._forward_d(self.pass_d)
        self._backward_d(self.pass_d, parameters_d)

    def step_g(self, parameters_g: list[Parameters]) -> None:
        """Make the updated D say "real". The gradient goes through D and tanh down to G's last z."""
        k, rows, slope = self.kernels, self.rows, self.config.leaky_slope
        if self.config.loss == "relativistic":  # in pairs with the real images
            k.copy(self.images[2 * rows :], self.images[rows : 2 * rows])
        self._forward_d(self.pass_g)
        self._backward_d(self.fakes, None)
        k.backward_tanh(self.fakes.dz[0], self.d[0], self.fakes.x, self.g_dz[-1])
        for index in reversed(range(len(self.g))):
            x = (self.g_y[index - 1] if index else self.latent)[rows:]
            if index:
                k.backward_leaky_relu(self.g_dz[index], self.g[index], x, slope, self.g_dz[index - 1])
            self._update(index, x, self.g_dz[index], parameters_g)

    def gradients(self) -> None:
        """Those of the last iteration from what else it has left, where they were not kept. Only if ``gradients_last``."""
        d, penalty, last = self.pass_d, self.penalty, len(self.d) - 1
        for index, parameters in enumerate(self.parameters_d):
            x, c = (d.y[index - 1] if index else d.x), None
            if penalty:
                x, c = penalty.u[index], d.output_dz
            self.kernels.gradients(x, d.start if index == last else d.dz[index], parameters, c)
        for index, parameters in enumerate(self.parameters_g):
            x = (self.g_y[index - 1] if index else self.latent)[self.rows :]
            self.kernels.gradients(x, self.g_dz[index], parameters)

    def twin(self) -> FusedStep:
        """A step to take turns with this one."""
        return FusedStep(self.kernels, self._state, self.config, self.resident, self.rows, self)

    def tensors(self) -> Iterator[tuple[str, str, Array]]:
        """Net, name and array of everything that an iteration computes, in its order."""
        yield "generator", "noise", self.latent
        for index, y in enumerate(self.g_y):
            yield "generator", f"output of {_name(2 * index)}", y
        yield "discriminator", "images", self.images
        yield from _outputs(self.pass_d, "")
        yield from _gradients_back(self.pass_d, "")
        for index, u in enumerate(self.penalty.u if self.penalty else []):
            yield "discriminator", f"penalty's input of {_name(3 * index)}", u
        yield from _gradients("discriminator", 3, self.parameters_d)
        yield from _outputs(self.pass_g, " (G step)")
        yield from _gradients_back(self.fakes, " (G step)")
        for index, dz in reversed(list(enumerate(self.g_dz))):
            yield "generator", f"gradient before the activation of {_name(2 * index)}", dz
        yield from _gradients("generator", 2, self.parameters_g)

    def _forward_d(self, p: Pass) -> None:
        """Hidden layers, then the head: the output, its loss's gradient, and dz of the last hidden layer."""
        k, slope, x = self.kernels, self.config.leaky_slope, p.x
        for index, (layer, y) in enumerate(zip(self.d[:-1], p.y, strict=True)):
            if p.draws:
                for part, draw in self._draws(p.draws[index]):
                    k.forward_dropout(x[part], layer, slope, draw, y[part], p.dydz[index][part])
            else:
                k.forward_leaky_relu(x, layer, slope, y)
            x = y
        k.head(p, self.d[-1], slope, self.loss)

    def _backward_d(self, p: Pass, parameters: list[Parameters] | None) -> None:
        """From dz of the last hidden layer to dz of the first, and the update of the parameters, if given."""
        k = self.kernels
        plain = parameters if self.penalty is None else None
        if plain:
            self._update(len(self.d) - 1, p.y[-1], p.output_dz, plain)
        for index in reversed(range(len(self.d) - 1)):
            layer, dz = self.d[index], p.dz[index]
            if index and p.draws:
                k.backward_dydz(dz, layer, p.dydz[index - 1], p.dz[index - 1])
            elif index:
                k.backward_leaky_relu(dz, layer, p.y[index - 1], self.config.leaky_slope, p.dz[index - 1])
            if plain:
                self._update(index, p.y[index - 1] if index else p.x, dz, plain)
        if parameters and self.penalty:
            self._penalized_updates(p, self.penalty, parameters)

    def _penalized_updates(self, p: Pass, penalty: Penalty, parameters: list[Parameters]) -> None:
        """dW of loss and penalty in one matmul. The backward started from 1, so its dz is ∂z/∂(the layer's z), δ.

        The loss's dW is (c∘x)ᵀ·δ with c = ∂L/∂z, one number a row, and the penalty's uᵀ·δ: together (c∘x + u)ᵀ·δ.
        """
        k, c = self.kernels, p.output_dz
        k.input_gradient(p.dz[0], self.d[0], penalty)
        for index, (layer, u) in enumerate(zip(self.d, penalty.u, strict=True)):
            if layer is not self.d[-1] and p.draws:
                k.tangent_dydz(u, layer, p.dydz[index], penalty.u[index + 1])
            elif layer is not self.d[-1]:
                k.tangent_leaky_relu(u, layer, p.y[index], self.config.leaky_slope, penalty.u[index + 1])
            k.combine(c, p.y[index - 1] if index else p.x, u)
            self._learn(u, p.start if layer is self.d[-1] else p.dz[index], parameters[index], c)

    def _update(self, index: int, x: Array, dz: Array, parameters: list[Parameters]) -> None:
        """After the matmul that reads the layer's weight: on the side stream, but for the first layer."""
        with self.kernels.side_stream() if index else nullcontext():
            self._learn(x, dz, parameters[index])
        if index == 0:
            self.kernels.join()

    # What an engine of several workers does in another way (``engines.mpi``):

    def _inputs(self) -> None:
        self.kernels.inputs(self, *self.inputs())

    def _draws(self, draw: Draw) -> list[tuple[slice, Draw]]:
        """The pieces of a pass whose masks lie in one piece, each with its draw."""
        return [(slice(None), draw)]

    def _learn(self, x: Array, dz: Array, parameters: Parameters, c: Array | None = None) -> None:
        self.kernels.update(x, dz, parameters, self.resident.step, c)

    def _pass(self, x: Array, forward_pass: int | None, twin: Pass | None) -> Pass:
        rows = len(x)
        on = [] if forward_pass is None else self._dropout
        draws = [Draw(each, each.draw_site(forward_pass or 0), self.config.seed, self.counter) for each in on]

        def hidden() -> list[Array]:
            return [self.kernels.empty(rows, layer.out_features) for layer in self.d[:-1]]

        def column() -> Array:
            return self._xp.empty((rows, 1), self._dtype)

        y, dz = (twin.y, twin.dz) if twin else (hidden(), hidden())
        dydz = twin.dydz if twin else hidden() if draws else []
        output_dz = column()
        start = output_dz
        if forward_pass == PASS_D and self.config.penalized:
            start = column()
            start[...] = 1.0
        return Pass(x, column(), draws, y, dydz, dz, column(), output_dz, start)

    def _penalty(self) -> Penalty:
        rows, config = self.rows, self.config
        rate, value = (self._xp.empty((2 * rows, 1), self._dtype) for _ in range(2))
        rate[:rows], rate[rows:] = config.r1 / rows, config.r2 / rows
        return Penalty(rate, value, [self.kernels.empty(2 * rows, layer.in_features) for layer in self.d])

    def _parameters(
        self, net: Sequential, optimizer: Adam, average: Sequential | None, constants: Array
    ) -> tuple[list[Parameters], Array]:
        """Of each Dense layer, and the parts of Σ gradient² of all of them."""
        counts = [self.kernels.partial_sums(layer) for layer in _dense(net)]
        squares = self._xp.zeros(sum(counts), self._dtype)
        found: list[Parameters] = []
        start = part = 0
        for layer, count in zip(_dense(net), counts, strict=True):
            own = slice(start, start + layer.weight.size + layer.bias.size)
            vectors = net.gradients[own], net.parameters[own], optimizer.m[own], optimizer.v[own]
            own_average = None if average is None else average.parameters[own]
            own_squares = squares[part : part + count]
            found.append(Parameters(layer, *vectors, optimizer, constants, own_squares, own_average, self.config.ema))
            start, part = own.stop, part + count
        return found, squares


def loss_number(loss: Loss) -> int:
    """BCE, BCE_LOGITS or RELATIVISTIC."""
    return _LOSSES.index(loss.name)


def unsupported(state: TrainState, config: TrainConfig) -> str | None:
    """Why the schedule cannot train these networks, or None. It is written for the two of the tutorial, in any width."""
    hidden_g: list[type[Layer]] = [Dense, LeakyReLU]
    hidden_d: list[type[Layer]] = [Dense, LeakyReLU, Dropout]
    head: list[type[Layer]] = [Dense, Sigmoid] if config.loss == "bce" else [Dense]
    layers = [*state.generator.layers, *state.discriminator.layers]
    g, d = ([type(layer) for layer in net.layers] for net in (state.generator, state.discriminator))
    blocks = max(1, len(d) // 3)  # the head's backward ends in a hidden layer
    if g != [*hidden_g * (len(g) // 2 - 1), Dense, Tanh] or d != [*hidden_d * blocks, *head]:
        return "only the tutorial's layers have fused kernels"
    if any(isinstance(layer, LeakyReLU) and layer.slope != config.leaky_slope for layer in layers):
        return "fused kernels take one slope for every leaky ReLU, the config's"
    if not state.optimizer_d.step == state.optimizer_g.step == state.step:
        return "fused kernels update both networks once in every iteration"
    return None


def _unkept(parameters: list[Parameters]) -> list[Parameters]:
    return [each._replace(gradient=None) for each in parameters]


def _dense(net: Sequential) -> list[Dense]:
    return [layer for layer in net.layers if isinstance(layer, Dense)]


def _name(index: int) -> str:
    return f"layer {index} (Dense)"


def _outputs(p: Pass, where: str) -> Iterator[tuple[str, str, Array]]:
    for index, y in enumerate([*p.y, p.output]):
        yield "discriminator", f"output of {_name(3 * index)}{where}", y


def _gradients_back(p: Pass, where: str) -> Iterator[tuple[str, str, Array]]:
    for index, dz in reversed(list(enumerate([*p.dz, p.output_dz]))):
        yield "discriminator", f"gradient before the activation of {_name(3 * index)}{where}", dz


def _gradients(net: str, stride: int, parameters: list[Parameters]) -> Iterator[tuple[str, str, Array]]:
    """``stride``: layers of the network for each Dense layer."""
    for index, p in reversed(list(enumerate(parameters))):
        yield net, f"gradient of {stride * index}.bias", p.layer.dbias
        yield net, f"gradient of {stride * index}.weight", p.layer.dweight
