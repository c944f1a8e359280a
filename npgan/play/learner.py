"""The lab's GAN: two small networks of the textbook's layers, which ``gan.train_step`` trains on points in the plane.

Letters: N points of a picture, b rows of a step's batch.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from npgan.config import TrainConfig
from npgan.data.batches import batch_bounds, iterations_per_epoch
from npgan.gan import DISCRIMINATOR_SITE, StepMetrics, TrainState, loss_of, train_step
from npgan.inspector import StepTrace, inspect_step
from npgan.inspector.trace import copied
from npgan.nn import philox
from npgan.nn.layers import Dense, Dropout, Layer, LeakyReLU, Sigmoid
from npgan.nn.network import Sequential
from npgan.nn.ops import sigmoid_forward
from npgan.nn.optim import Adam
from npgan.play.points import energy_distance, mean_distance, modes_found, points_of
from npgan.play.settings import LATENT, LabConfig

Which = Literal["both", "D", "G"]
SHOWN = 512  # points of each kind in a picture
VIEW = 1.25  # a picture shows the plane from −VIEW to VIEW
_GROUND = 40  # D's output is shown on so many places squared
_LINES = 17  # of the grid in each direction
_KEEP_EVERY = 32  # steps between the states that are kept
_KEPT_DENSELY = 16  # so many of the last ones, then every second, every fourth …


def generator(config: TrainConfig, widths: Sequence[int]) -> Sequential:
    """Noise (N, 2) → points (N, 2)."""
    layers: list[Layer] = []
    for inputs, units in pairwise([LATENT, *widths]):
        layers += [Dense(inputs, units), LeakyReLU(config.leaky_slope)]
    return Sequential([*layers, Dense(widths[-1], 2)], seed=config.seed)


def discriminator(config: TrainConfig, widths: Sequence[int]) -> Sequential:
    """Points (N, 2) → the probability that each is real (N, 1) or, for the losses on logits, its logit."""
    layers: list[Layer] = []
    for inputs, units in pairwise([2, *widths]):
        layers += [Dense(inputs, units), LeakyReLU(config.leaky_slope), Dropout(config.dropout)]
    end: list[Layer] = [Dense(widths[-1], 1), Sigmoid()]
    return Sequential(
        [*layers, *(end if config.loss == "bce" else end[:-1])], seed=config.seed, site=DISCRIMINATOR_SITE
    )


def first_state(lab: LabConfig, config: TrainConfig) -> TrainState:
    """The state before the first step, as ``gan.new_state`` makes it for the tutorial's networks."""
    g, d = generator(config, lab.widths_g), discriminator(config, lab.widths_d)
    settings = config.beta1, config.beta2, config.adam_epsilon
    average = g.astype(np.float32) if config.ema else None
    return TrainState(g, d, Adam(g, config.lr_g, *settings), Adam(d, config.lr_d, *settings), 0, average)


class Picture(NamedTuple):
    """What is drawn of a state."""

    real: np.ndarray  # (N, 2)
    fake: np.ndarray  # (N, 2)
    arrows: np.ndarray  # (N, 2): −∂L/∂x of each fake in the G step's loss, times N: the mean's 1/N is taken out
    ground: np.ndarray  # (places, places): D's probability, from the lower left corner, rows along x
    grid: np.ndarray  # (lines, lines, 2): where G puts a grid of noise that has as much of the noise in each cell


class Measures(NamedTuple):
    accuracy: float  # share of N real points and N fakes that D, without dropout, calls by their name
    distance: float  # the energy distance of the fakes from the real points
    modes: int | None  # of the eight Gaussians those that were found, and
    on_modes: float | None  # the share of fakes that lie on one


class _Change(NamedTuple):
    """From this step on every step, counted from 0, was of this kind."""

    step: int
    which: Which
    rates: tuple[float, float]


class Learner:
    """A GAN that can go forward and back, step by step. A state is a function of the settings, the data and the changes."""

    def __init__(self, lab: LabConfig, config: TrainConfig, drawn: np.ndarray | None = None) -> None:
        """Raises ValueError for drawn data without points."""
        self.lab, self.config = lab, config
        self.data = points_of(lab.data, config.seed, drawn)
        self.state = first_state(lab, config)
        self.rates = config.lr_g, config.lr_d
        self.metrics: StepMetrics | None = None  # of the last step
        self.averaged = False  # fakes are those of the average G
        self._changes: list[_Change] = []
        self._kept: dict[int, TrainState] = {}
        self._order, self._order_epoch = np.empty(0, np.uint32), -1
        self._noise = philox.normal(config.seed, philox.Stream.EVAL, 0, 0, (SHOWN, LATENT))
        self._real = self.data[:SHOWN]
        self._within_real = mean_distance(self._real, self._real)
        line = np.linspace(-VIEW, VIEW, _GROUND, dtype=np.float32)
        self._places = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
        quantiles = [NormalDist().inv_cdf((i + 0.5) / _LINES) for i in range(_LINES)]
        self._grid = np.stack(np.meshgrid(quantiles, quantiles), axis=-1).reshape(-1, 2).astype(np.float32)

    def batch(self) -> np.ndarray:
        """The real points (b, 2) of the next step: in the order of training, an epoch's data shuffled by its number."""
        count, size = len(self.data), self.config.batch_size
        epoch, iteration = divmod(self.state.step, iterations_per_epoch(count, size))
        if epoch != self._order_epoch:
            self._order, self._order_epoch = philox.permutation(self.config.seed, epoch, count), epoch
        return self.data[self._order[batch_bounds(iteration, count, size)]]

    def step(self, which: Which = "both") -> StepMetrics:
        """One ``train_step``; D's or G's update alone where ``which`` says so."""
        step = self.state.step
        if not self._changes or self._changes[-1][1:] != (which, self.rates):
            self._changes.append(_Change(step, which, self.rates))
        self._keep()
        twin = self._ready(which)
        self.metrics = train_step(twin, self.batch(), self.config)
        self.state.step = twin.step
        return self.metrics

    def trace(self, which: Which = "both") -> StepTrace:
        """What ``step(which)`` will do, taken apart; nothing is changed. Of D or G alone without the other's operations."""
        trace = inspect_step(self._ready(which), self.batch(), self.config)
        return replace(trace, ops=[op for op in trace.ops if which in ("both", op.step[0])])

    def back(self) -> None:
        """To the state before the last step, byte for byte: from a kept one it is computed again."""
        if self.state.step:
            self._go_to(self.state.step - 1)

    def _ready(self, which: Which) -> TrainState:
        """The state with the rates as they are now. A network that is not to learn has a copy of its Adam, with the rate 0."""
        state = self.state
        state.optimizer_g.lr, state.optimizer_d.lr = self.rates
        if which == "D":
            return replace(state, optimizer_g=_still(state.optimizer_g), average=None)
        return replace(state, optimizer_d=_still(state.optimizer_d)) if which == "G" else replace(state)

    def _keep(self) -> None:
        """Keeps the state now and then, the longer ago the more seldom: their number grows with the logarithm of the steps."""
        if self.state.step % _KEEP_EVERY:
            return
        now = self.state.step // _KEEP_EVERY
        self._kept[now] = copied(self.state)
        for index in list(self._kept):
            if index % _spacing(now - index):
                del self._kept[index]

    def _go_to(self, step: int) -> None:
        """The last steps up to there are done again, for their metrics."""
        now, changes = self.rates, self._changes
        start = max(index for index in self._kept if index * _KEEP_EVERY <= max(step - 1, 0))
        self._kept = {index: state for index, state in self._kept.items() if index <= start}
        self.state, self.metrics = copied(self._kept[start]), None
        self._changes = [change for change in changes if change.step < start * _KEEP_EVERY]
        starts = [change.step for change in changes]
        while self.state.step < step:
            done = changes[bisect_right(starts, self.state.step) - 1]
            self.rates = done.rates
            self.step(done.which)
        self.rates = now

    def fakes(self) -> np.ndarray:
        """Of the same noise at every step. Shapes: (N, 2)."""
        return self._sampler().forward(self._noise)[0]

    def _sampler(self) -> Sequential:
        return self.state.sampler if self.averaged else self.state.generator

    def picture(self) -> Picture:
        fake = self.fakes()
        arrows = -len(fake) * self.gradient_at(fake)
        ground = self.ground(self.state.discriminator, self._real, fake)
        return Picture(self._real, fake, arrows, ground, self.grid(self._sampler()))

    def ground(self, d: Sequential, real: np.ndarray, fake: np.ndarray) -> np.ndarray:
        """D's probability all over the view. With the relativistic loss, to which only differences of logits count, ½ is
        halfway between the mean logits of the real points and of the fakes."""
        output = d.forward(self._places)[0]
        if self.config.loss == "relativistic":
            output -= 0.5 * (d.forward(real)[0].mean() + d.forward(fake)[0].mean())
        p = output if self.config.loss == "bce" else sigmoid_forward(output)
        return p.reshape(_GROUND, _GROUND)

    def grid(self, g: Sequential) -> np.ndarray:
        return g.forward(self._grid)[0].reshape(_LINES, _LINES, 2)

    def gradient_at(self, fake: np.ndarray) -> np.ndarray:
        """∂L/∂x of fakes in the G step's loss, D without dropout, by the textbook's parts. Shapes: (N, 2) → (N, 2)."""
        d, loss = self.state.discriminator, loss_of(self.config)
        pairs = self.config.loss == "relativistic"
        shown = np.concatenate([self._real[: len(fake)], fake]) if pairs else fake
        output, caches = d.forward(shown)
        target = np.ones_like(output)
        target[: -len(fake)] = 0.0
        return d.backward_input(loss.backward(output, target), caches)[-len(fake) :]

    def measures(self) -> Measures:
        fake = self.fakes()
        if not np.isfinite(fake).all():
            return Measures(float("nan"), float("nan"), None, None)
        output = self.state.discriminator.forward(np.concatenate([self._real, fake]))[0]
        p = loss_of(self.config).probability(output)
        right = np.concatenate([p[:SHOWN] > 0.5, p[SHOWN:] <= 0.5])
        distance = energy_distance(fake, self._real, self._within_real)
        modes = modes_found(fake) if self.lab.data == "eight Gaussians" else (None, None)
        return Measures(float(right.mean()), distance, *modes)


def _still(adam: Adam) -> Adam:
    """One whose updates change nothing: neither its network nor the moments of ``adam``."""
    twin = copy.copy(adam)
    twin.m, twin.v, twin.lr = adam.m.copy(), adam.v.copy(), 0.0
    return twin


def _spacing(age: int) -> int:
    """1 for the last few states, then 2, 4, 8 … as the age doubles."""
    return 1 << max(age // _KEPT_DENSELY, 1).bit_length() - 1
