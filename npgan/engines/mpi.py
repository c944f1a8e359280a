"""One run on several workers: every rank has the whole networks and does its share of each batch's rows.

A batch is cut into shards. A rank computes the gradients of its shards' rows, which draw what one process would draw for them;
the gradients of all shards are added, each with its share of the rows; and every rank does the same Adam with the sum.

- Without ``--same-bytes`` there are as many shards as ranks, and MPI adds their gradients: one all-reduce before each Adam. For
  one number of ranks that is always the same sum, for another one it is rounded in another way.
- With it there are always eight, whose gradients are exchanged, which only copies them, and added from the first to the last:
  the bytes do not depend on the number of ranks.

Rank 0 leads: its ``MpiEngine`` is the run's engine, and it alone reads and writes files. The others ``follow``: they do what it
tells them until it lets them go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from npgan.backend import Array
from npgan.config import TrainConfig
from npgan.data.batches import iterations_per_epoch
from npgan.engines.base import Tensor, set_learning_rates
from npgan.engines.ranks import Ranks
from npgan.engines.schedule import Draw, FusedStep, Kernels, Parameters, Resident, unsupported
from npgan.gan import PASS_G, StepMetrics, TrainState, new_state
from npgan.nn import philox

SHARDS = 8  # of ``--same-bytes``
_BY_ROWS = 4  # of StepMetrics: the losses, and what D says of real and fake; the others are norms of summed gradients


@dataclass(frozen=True)
class Share:
    """Which rows of an iteration are a shard's."""

    first: int  # of the real images, and of the D step's fakes
    rows: int
    first_fake: int  # of the G step's fakes
    fakes: int
    all_rows: int  # b
    all_fakes: int

    @property
    def of_d(self) -> float:
        return self.rows / self.all_rows

    @property
    def of_g(self) -> float:
        return self.fakes / self.all_fakes


def shares(rows: int, fakes: int, shards: int) -> list[Share]:
    """An iteration of b ``rows`` in so many shards, of at least one row each: so in fewer where there are not enough rows."""
    count = min(shards, rows)
    ends = [(rows * part // count, fakes * part // count) for part in range(count + 1)]
    return [
        Share(first, last - first, first_fake, last_fake - first_fake, rows, fakes)
        for (first, first_fake), (last, last_fake) in zip(ends[:-1], ends[1:], strict=True)
    ]


def shards_of_ranks(shards: int, size: int) -> list[range]:
    """Which are each rank's, neighbors together."""
    return [range(shards * rank // size, shards * (rank + 1) // size) for rank in range(size)]


class ShardStep(FusedStep):
    """A shard's iteration: draws for its own rows, and gradients without Adam."""

    def __init__(
        self,
        kernels: Kernels,
        state: TrainState,
        config: TrainConfig,
        resident: Resident,
        share: Share,
        noise: Array | None,
    ) -> None:
        """``noise``: the whole iteration's (b + fakes, Z), if another shard of the rank has drawn it by then."""
        own = resident._replace(
            order=resident.order[share.first :],
            step=resident.step.copy(),
            metrics=np.zeros_like(resident.metrics),
        )
        super().__init__(kernels, state, config, own, share.rows, fakes=share.fakes)
        self.share = share
        self._draws_noise = noise is None
        self.noise = kernels.empty(share.all_rows + share.all_fakes, config.latent_dim) if noise is None else noise
        self._not_drawn = kernels.empty(2, config.latent_dim)

    def _inputs(self) -> None:
        """Images from the shard's first row on. Noise is drawn from its first element on, so for all shards at once."""
        s, real = self.share, self.images[: self.rows]
        if self._draws_noise:
            self.kernels.inputs(self, real, self.noise[: s.all_rows], self.noise[s.all_rows :])
        else:
            self.kernels.inputs(self, real, self._not_drawn[:1], self._not_drawn[1:])
        self.latent[: self.rows] = self.noise[s.first : s.first + s.rows]
        first = s.all_rows + s.first_fake
        self.latent[self.rows :] = self.noise[first : first + s.fakes]

    def _draws(self, draw: Draw) -> list[tuple[slice, Draw]]:
        s, in_g_step = self.share, draw.site == draw.dropout.draw_site(PASS_G)
        if in_g_step and len(self.pass_g.x) == s.fakes:
            return [(slice(None), draw._replace(first=s.first_fake))]
        # real rows and behind them as many fakes, here as in the whole batch
        fakes = draw._replace(first=s.all_rows + s.first)
        return [(slice(None, s.rows), draw._replace(first=s.first)), (slice(s.rows, None), fakes)]

    def _learn(self, x: Array, dz: Array, parameters: Parameters, c: Array | None = None) -> None:
        self.kernels.gradients(x, dz, parameters, c)


class Worker:
    """What a rank does, the leader's and the others' alike. All ranks call the same methods in the same order."""

    def __init__(
        self, ranks: Ranks, kernels: Kernels, state: TrainState, images: Array, config: TrainConfig, same_bytes: bool
    ) -> None:
        """Shapes: images (M, 784) uint8. Raises ValueError for what the kernels cannot train."""
        lacking = None if kernels.draws_from_any_row else "its dropout draws whole batches only"
        if reason := unsupported(state, config) or lacking:
            raise ValueError(reason)
        self.ranks, self.kernels, self.state, self.config = ranks, kernels, state, config
        self._same_bytes = same_bytes
        self._shards = SHARDS if same_bytes else ranks.size
        like, self._count = state.generator.parameters, len(images)
        self.per_epoch = iterations_per_epoch(self._count, config.batch_size)
        metrics = np.zeros((self.per_epoch, len(StepMetrics._fields)), like.dtype)
        self._resident = Resident(images, np.empty(self._count, np.uint32), np.zeros(1, np.uint32), metrics)
        self._order_epoch = -1
        self._steps: dict[int, list[ShardStep]] = {}  # by b: this rank's shards
        self._adam = FusedStep(
            kernels, state, config, self._resident, 1, fakes=1
        )  # for its parameters, also without a shard
        self._last: list[ShardStep] = []

    def run(self, iterations: int) -> np.ndarray:
        """So many iterations, of one epoch. Returns their StepMetrics (iterations, 6)."""
        state, found = self.state, np.zeros((iterations, len(StepMetrics._fields)))
        epoch, first = divmod(state.step, self.per_epoch)
        if epoch != self._order_epoch:
            self._resident.order[...] = philox.permutation(self.config.seed, epoch, self._count)
            self._order_epoch = epoch
        set_learning_rates(state, self.config, epoch)
        measured: list[list[np.ndarray]] = []
        for number in range(iterations):
            rows = min(self.config.batch_size, self._count - (first + number) * self.config.batch_size)
            self._last = self._shard_steps(rows)
            found[number, _BY_ROWS:] = self._iterate(rows)
            measured.append([step.resident.metrics[first + number, :_BY_ROWS] for step in self._last])
        for number, parts in enumerate(self._everybodys(measured)):
            rows = min(self.config.batch_size, self._count - (first + number) * self.config.batch_size)
            for share, (loss_d, loss_g, d_real, d_fake) in zip(self._shares(rows), parts, strict=True):
                of = share.of_d
                found[number, :_BY_ROWS] += of * loss_d, share.of_g * loss_g, of * d_real, of * d_fake
        return found

    def tensors(self) -> list[Tensor]:
        """What the last iteration computed on all ranks, in its order; on rank 0, elsewhere nothing."""
        mine = [[(net, name, np.array(array)) for net, name, array in step.tensors()] for step in self._last]
        shards = [shard for rank in self.ranks.collect(mine) for shard in rank]
        return [tensor for together in zip(*shards, strict=True) for tensor in together]

    def take_state(self) -> None:
        """Rank 0's, on all ranks."""
        state = self.state
        state.step = self.ranks.tell(state.step)
        state.optimizer_d.step = state.optimizer_g.step = state.step
        for net, optimizer in ((state.generator, state.optimizer_g), (state.discriminator, state.optimizer_d)):
            for array in (net.parameters, optimizer.m, optimizer.v):
                self.ranks.tell_array(array)
        if state.average is not None:
            self.ranks.tell_array(state.average.parameters)

    def _shares(self, rows: int) -> list[Share]:
        pairs = self.config.loss == "relativistic"
        return shares(rows, rows if pairs else self.config.batch_size, self._shards)

    def _shard_steps(self, rows: int) -> list[ShardStep]:
        if rows not in self._steps:
            every, made = self._shares(rows), list[ShardStep]()
            for place in shards_of_ranks(len(every), self.ranks.size)[self.ranks.rank]:
                noise = made[0].noise if made else None
                made.append(ShardStep(self.kernels, self.state, self.config, self._resident, every[place], noise))
            self._steps[rows] = made
        for step in self._steps[rows]:
            step.resident.step[...] = self.state.step
        return self._steps[rows]

    def _iterate(self, rows: int) -> tuple[float, float]:
        """One iteration. Returns the norms of D's gradients and of G's."""
        state, adam = self.state, self._adam
        self._resident.step[...] = state.step
        for step in self._last:
            step._inputs()
            step.make_images()
        of_d, of_g = ([getattr(share, of) for share in self._shares(rows)] for of in ("of_d", "of_g"))
        self._add_up(lambda step: step.step_d(step.parameters_d), state.discriminator.gradients, of_d)
        for parameters in adam.parameters_d:
            self.kernels.adam(parameters, self._resident.step)
        self._add_up(lambda step: step.step_g(step.parameters_g), state.generator.gradients, of_g)
        for parameters in adam.parameters_g:
            self.kernels.adam(parameters, self._resident.step)
        for step in self._last:
            self.kernels.finish(step)
        state.step += 1
        state.optimizer_d.step = state.optimizer_g.step = state.step
        norms = [float(np.sqrt(squares.sum(dtype=np.float64))) for squares in (adam.squares_d, adam.squares_g)]
        return norms[0], norms[1]

    def _add_up(self, compute: Callable[[ShardStep], None], gradients: Array, weights: list[float]) -> None:
        """``gradients`` (P,) become the sum over all shards of their own, each with its weight."""
        of_ranks = shards_of_ranks(len(weights), self.ranks.size)
        mine = of_ranks[self.ranks.rank]
        if self._same_bytes:
            own = np.empty((len(mine), gradients.size), gradients.dtype)
            for row, step, place in zip(own, self._last, mine, strict=True):
                compute(step)
                np.multiply(gradients, weights[place], out=row)
            self.ranks.add_in_order(own, [len(places) for places in of_ranks], gradients)
            return
        for step, place in zip(self._last, mine, strict=True):  # one, or none where there are fewer rows than ranks
            compute(step)
            gradients *= weights[place]
        if not self._last:
            gradients[...] = 0.0
        self.ranks.add(gradients)

    def _everybodys(self, measured: list[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        """By iteration what all shards measured, in their order; on rank 0, elsewhere nothing."""
        collected = self.ranks.collect(measured)
        for parts in zip(*collected, strict=True):
            yield [part for rank in parts for part in rank]


@dataclass
class MpiEngine:
    """The run's engine, on rank 0."""

    worker: Worker
    asynchronous = False
    _left_at: int = field(default=-1, init=False)  # the step at which the last call ended

    def run(self, iterations: int, ahead: int = 0) -> np.ndarray:
        worker, parts = self.worker, []
        state, ranks = worker.state, worker.ranks
        ranks.together = True  # what an exception leaves it at
        if state.step != self._left_at:  # the run's begin, or somebody has set it back
            ranks.tell(("state",))
            worker.take_state()
        while iterations:
            count = min(iterations, worker.per_epoch - state.step % worker.per_epoch)
            ranks.tell(("run", count))
            parts.append(worker.run(count))
            iterations -= count
        self._left_at, ranks.together = state.step, False
        return np.concatenate(parts) if parts else np.empty((0, len(StepMetrics._fields)))

    def tensors(self) -> Iterator[Tensor]:
        self.worker.ranks.tell(("tensors",))
        yield from self.worker.tensors()


def lead(
    ranks: Ranks, kernels: Kernels, name: str, same_bytes: bool, state: TrainState, images: Array, config: TrainConfig
) -> MpiEngine:
    """On rank 0: an engine, and the others begin to follow. ``name``: of the kernels, so that they take the same."""
    worker = Worker(ranks, kernels, state, images, config, same_bytes)
    ranks.tell(("start", config, state.generator.parameters.dtype.name, images.shape, name, same_bytes))
    ranks.tell_array(images)
    return MpiEngine(worker)


def follow(ranks: Ranks, kernels_of: Callable[[str], Kernels]) -> None:
    """On the other ranks: does what rank 0 tells, until it lets them go. ``kernels_of``: by the name that it tells."""
    from npgan.backend import select

    worker: Worker | None = None
    while True:
        match ranks.tell(None):
            case ("start", config, dtype, shape, name, same_bytes):
                images = np.empty(shape, np.uint8)
                ranks.tell_array(images)
                state = new_state(config, select("numpy"), np.dtype(dtype))
                worker = Worker(ranks, kernels_of(name), state, images, config, same_bytes)
            case ("state",) if worker:
                worker.take_state()
            case ("run", count) if worker:
                worker.run(count)
            case ("tensors",) if worker:
                worker.tensors()
            case _:
                return


def let_go(ranks: Ranks) -> None:
    """On rank 0: the others need not follow any more. Where they wait for it in the midst of something, all are ended."""
    if ranks.together:
        ranks.abort(1)
    ranks.tell(("end",))
