"""A run folder to look at while another process trains in it: what there is along its time line, and its networks at work.

Only ever reads, and never takes the run's lock. Every file may be replaced, pruned or damaged at any moment, so each look at
one either comes from a whole file or ends in an InputError of one line.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgan.backend import select
from npgan.config import TrainConfig, flag_name, shown_value
from npgan.console import say
from npgan.data.batches import scale_pixels
from npgan.data.mnist import fingerprint, first_images, load_dataset
from npgan.errors import InputError, first_line, one_line
from npgan.gan import PASS_G, loss_of
from npgan.inspector.figures import change_colors, wanted_change
from npgan.nn.layers import DropoutKey
from npgan.nn.network import Sequential
from npgan.runs.checkpoint import Checkpoint, DamagedCheckpoint, load, restore
from npgan.runs.folder import RunFolder, is_epoch
from npgan.runs.lines import GrowingFile, Series
from npgan.runs.owned import CHECKPOINT_NAME, SAMPLE_NAME
from npgan.runs.pictures import read_grid, to_uint8
from npgan.runs.sample import great_circle, noise_vectors
from npgan.runs.train import SAMPLE_GRID

SLIDERS = 8
FARTHEST = 4.0  # a slider's ends; along any direction of length 1 z is standard normal
POINTS = 4096  # rows of the run's noise that may be named; the first SAMPLE_GRID are its fixed noise
STRIP = 8  # images from one point to the other
DIRECTIONS = {
    "first-layer": "The directions of z that the first layer of this checkpoint's G amplifies most: the left singular vectors "
    "of its weights (SeFa, Shen and Zhou 2021). They have no names: see what each changes.",
    "dimensions": f"The first {SLIDERS} numbers of z, as they are.",
}
PATHS = {
    "circle": "On a great circle (White 2016, Sampling Generative Networks): ‖z‖ stays that of normal noise",
    "line": "On the straight line: in the middle ‖z‖ is less than that of almost all noise that G has met",
}
_MOST_ROWS = 500  # of the curves: more than they have pixels
_MOST_LOOKS = 256  # that are remembered, 100 kB each
_LOG_TAIL, _MOST_SAID = 1 << 16, 3  # bytes of the log that are read; its newest warnings and errors
_SAID = re.compile(r"\S+ \S+  (warning|error): .+")
_HOLDER = re.compile(r"process (\d+) on (.*)")
_LEVELS = 255  # of −∂L/∂pixels, the middle one 0


_Stamp = tuple[int, int, int]  # of a file: another one where it was replaced or written to
_File = tuple[Path, _Stamp]


class Moment(NamedTuple):
    """A place on the time line: a checkpoint, or where there is none a picture of the samples that training left."""

    step: int
    epoch: float | None  # None where no line of metrics.jsonl tells how long one is
    file: Path
    is_checkpoint: bool
    stamp: _Stamp


class Look(NamedTuple):
    """N images, and what D makes of them. Without networks, or the real images that D needs beside them, ``note`` says why the
    rest is empty.

    A verdict is D's probability, by the loss that an image is real, or that it is more real than a real one beside it. L is G's
    loss of an image by itself; the training step takes the mean over its batch.
    """

    pixels: np.ndarray  # (N, 784) uint8, as in the files of ``npgan sample``
    verdicts: list[float]
    losses: list[float]
    change: np.ndarray  # (N, 784) uint8: levels of −∂L/∂pixels, each image's largest at an end
    slopes: list[float]  # ‖∂L/∂pixels‖
    note: str = ""


class LatentPoint(NamedTuple):
    """Where in latent space: on the way from one row of the run's noise to another, then moved along some directions."""

    start: int = 0
    end: int = 0
    t: float = 0.0
    path: str = "circle"
    directions: str = "first-layer"
    sliders: tuple[tuple[int, float], ...] = ()  # number of the direction, the coordinate of z along it

    @classmethod
    def of_page(cls, values: Any) -> LatentPoint:
        """Raises InputError for what no page of ours asks for."""
        try:
            point = cls(**values)
            sliders = tuple((number, float(value)) for number, value in point.sliders)
            right = (
                all(type(row) is int and 0 <= row < POINTS for row in (point.start, point.end))
                and all(type(number) is int and 0 <= number < SLIDERS for number, _ in sliders)
                and all(abs(value) <= FARTHEST for _, value in sliders)
                and 0.0 <= point.t <= 1.0
                and point.path in PATHS
                and point.directions in DIRECTIONS
            )
        except (TypeError, ValueError):
            right = False
        if not right:
            raise InputError("no such point in latent space")
        return point._replace(sliders=sliders)


class LatentLook(NamedTuple):
    look: Look  # of one image
    coordinates: list[float]  # of z along each direction
    length: float  # ‖z‖


@dataclass(frozen=True)
class _Networks:
    """A checkpoint's, in main memory."""

    checkpoint: Checkpoint  # without its tensors
    sampler: Sequential
    discriminator: Sequential
    directions: dict[str, np.ndarray]  # (K, Z) orthonormal rows

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> _Networks:
        state = restore(checkpoint, select("numpy"))
        weight = state.sampler.tensors["0.weight"]
        stretched = np.linalg.svd(weight, full_matrices=False)[0].T[:SLIDERS]
        largest = np.take_along_axis(stretched, np.abs(stretched).argmax(axis=1)[:, None], axis=1)
        directions = {"first-layer": stretched * np.sign(largest), "dimensions": np.eye(len(weight))[:SLIDERS]}
        return cls(replace(checkpoint, tensors={}), state.sampler, state.discriminator, directions)


class WatchedRun:
    """``poll`` now and then; the rest tells of what it found. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises InputError where there is no run with a whole checkpoint."""
        self.damaged: list[str] = []  # its newest checkpoints, when this began
        try:
            self._run = RunFolder.open_existing(path)
            newest = self._run.latest_checkpoint(self.damaged.append)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {first_line(error)}") from None
        self.name = one_line(str(path))
        self.moments: list[Moment] = []
        self.status = ("", "")  # a word, and a line for people
        self.problem = ""  # with config.json
        self.said: list[str] = []  # warnings and errors of its training, with their time
        self._config = newest.config
        self._metrics_file = GrowingFile(self._run.metrics_file)
        self._seen: object = None
        self._networks: dict[object, _Networks] = {}
        self._looks: dict[object, Look] = {}
        self._real: dict[object, np.ndarray | InputError] = {}
        self._forget_epochs()
        self.poll()
        for moment in self.moments:
            if moment.file == newest.path:
                self._networks[_key(moment)] = _Networks.of(newest)

    # --- what is in the folder

    def poll(self) -> bool:
        """Looks at the folder. Whether anything is other than before."""
        before = self._seen
        try:
            holder = self._run.holder()
            checkpoints, samples = _listing(self._run.checkpoints), _listing(self._run.samples)
            files = [self._run.metrics_file, self._run.config_file, self._run.log_file]
            self._seen = holder, _lives(holder), checkpoints, samples, [_stamp(file) for file in files]
            if self._seen != before:
                self._read(holder, checkpoints, samples)
        except OSError as error:
            self._seen = first_line(error)
            self.status = "unreadable", f"{self.name}: cannot be read: {self._seen}"
        return self._seen != before

    def _read(self, holder: str, checkpoints: list[_File], samples: list[_File]) -> None:
        """Raises OSError."""
        self._read_config()
        for line in self._metrics_file.read(self._forget_epochs):
            self._take(line)
        self.said = _said(self._run.log_file)
        self.moments = self._moments(checkpoints, samples)
        self.status = self._told(holder)

    def _forget_epochs(self) -> None:
        self._epochs = Series()
        self._newest: dict[str, Any] | None = None
        self._per_epoch: int | None = None

    def _take(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if not is_epoch(line) or (self._newest is not None and line["epoch"] <= self._newest["epoch"]):
            return
        self._newest = line
        self._epochs.append(line)
        if self._per_epoch is None and line["epoch"] > 0:
            self._per_epoch = max(1, line["step"] // line["epoch"])

    def _read_config(self) -> None:
        """A run that is resumed may have more epochs than its checkpoint says; one that replaces another has all new."""
        try:
            self._config = self._run.read_config() or self._config
            self.problem = ""
        except InputError as error:
            self.problem = f"{error}; taking the settings that were known before"

    def _moments(self, checkpoints: list[_File], samples: list[_File]) -> list[Moment]:
        """In order; where there are both, a step's checkpoint."""
        found: dict[int, Moment] = {}
        if self._per_epoch is not None and self._newest is not None:
            for file, stamp in samples:
                match = SAMPLE_NAME.fullmatch(file.name)
                if match and int(match[1]) <= self._newest["epoch"]:  # later ones are of a time that is done again
                    step = int(match[1]) * self._per_epoch
                    found[step] = Moment(step, int(match[1]), file, False, stamp)
        for file, stamp in checkpoints:
            if match := CHECKPOINT_NAME.fullmatch(file.name):
                step = int(match[1])
                epoch = step / self._per_epoch if self._per_epoch else None
                found[step] = Moment(step, epoch, file, True, stamp)
        return [found[step] for step in sorted(found)]

    def _told(self, holder: str) -> tuple[str, str]:
        if not any(moment.is_checkpoint for moment in self.moments):
            return "unreadable", f"{self.name}: holds no checkpoint any more"
        epoch = self._newest["epoch"] if self._newest else 0
        where = f"epoch {epoch:,} of {self._config.epochs:,}"
        if _lives(holder):
            return "training", f"{where} is done; {holder} trains"
        if epoch >= self._config.epochs:
            return "finished", f"{where} is done"
        return "stopped", f"after {where}; npgan train --resume {self.name} goes on"

    def settings(self) -> str:
        """The data, and as flags what differs from the tutorial's."""
        config = self._config
        flags = []
        for each in fields(TrainConfig):
            if (value := getattr(config, each.name)) != each.default and each.name != "dataset":
                shown = "" if each.metadata["flag"].kind is bool else f" {shown_value(each.name, value)}"
                flags.append(f"{flag_name(each.name)}{shown}")
        return f"{config.dataset}, {' '.join(flags) or 'all as in the tutorial'}"

    def drawn_with(self) -> str:
        """What draws the samples."""
        ema = self._config.ema
        return f"the average of G's weights over the steps (--ema {ema:g})" if ema else "G as it is"

    def verdict_means(self) -> str:
        """What the numbers of ``Look.verdicts`` are."""
        if self._config.loss == "relativistic":
            return "its probability that the sample is more real than a real image beside it"
        return "its probability that the sample is real"

    @property
    def latent_dim(self) -> int:
        return self._config.latent_dim

    def curves(self) -> dict[str, list[float]]:
        """The columns of metrics.jsonl; of a long run some lines, evenly spaced, the first and the last among them."""
        lines = self._epochs.remembered()
        if len(lines) > _MOST_ROWS:
            chosen = np.linspace(0, len(lines) - 1, _MOST_ROWS).round().astype(int)
            lines = [lines[index] for index in chosen]
        return {
            name: [line[name] for line in lines] for name in ("epoch", "step", "loss_d", "loss_g", "d_real", "d_fake")
        }

    # --- the networks at work

    def samples(self, step: int) -> Look:
        """The run's fixed noise through G, or its average of G, as in ``npgan sample``. Raises InputError."""
        moment = self._moment(step)
        if (key := _key(moment)) not in self._looks:
            if moment.is_checkpoint:
                networks = self._load(moment)
                look = self._look(networks, self._noise(networks))
            else:
                pixels = read_grid(moment.file).reshape(-1, 784)
                if len(pixels) != SAMPLE_GRID:
                    raise InputError(f"{moment.file}: is not a grid of {SAMPLE_GRID} samples")
                look = Look(
                    pixels,
                    [],
                    [],
                    pixels[:0],
                    [],
                    "A picture that training left: this moment has no checkpoint.",
                )
            _remember(self._looks, key, look, _MOST_LOOKS)
        return self._looks[key]

    def latent(self, step: int, point: LatentPoint) -> LatentLook:
        """The image of one vector. Raises InputError."""
        networks = self._load(self._moment(step))
        noise = self._noise(networks, point.start, point.end)
        z = _between(noise, point.start, point.end, np.array([[point.t]]), point.path)[0].astype(np.float64)
        directions = networks.directions[point.directions]
        for number, value in point.sliders:
            if number < len(directions):
                z += (value - z @ directions[number]) * directions[number]
        # in the place of its start, so that a sample is to the last digit what it is in the grid
        row = point.start % SAMPLE_GRID
        rows = noise[:SAMPLE_GRID].copy()
        rows[row] = z
        look = self._look(networks, rows, slice(row, row + 1))
        return LatentLook(look, (directions @ z).tolist(), float(np.linalg.norm(z)))

    def strips(self, step: int, start: int, end: int) -> dict[str, np.ndarray]:
        """The way from one row of noise to another by each of ``PATHS``: pixels (STRIP, 784) uint8. Raises InputError."""
        networks = self._load(self._moment(step))
        noise, t = self._noise(networks, start, end), np.linspace(0.0, 1.0, STRIP)[:, None]
        ways = [_between(noise, start, end, t, path) for path in PATHS]
        pixels = _pixels(_images(networks, np.concatenate(ways)))
        return dict(zip(PATHS, np.split(pixels, len(PATHS)), strict=True))

    def _moment(self, step: int) -> Moment:
        for moment in self.moments:
            if moment.step == step:
                return moment
        raise InputError(f"{self.name}: there is nothing of step {step} any more")

    def _load(self, moment: Moment) -> _Networks:
        if not moment.is_checkpoint:
            raise InputError(f"{moment.file.name} is a picture without networks: choose a moment with a checkpoint")
        if (key := _key(moment)) not in self._networks:
            checkpoint = load(moment.file)
            if checkpoint.step != moment.step:
                raise DamagedCheckpoint(f"{moment.file}: holds step {checkpoint.step}")
            _remember(self._networks, key, _Networks.of(checkpoint), 4)  # 24 MB each
        return self._networks[key]

    def _noise(self, networks: _Networks, *points: int) -> np.ndarray:
        """The run's noise, its fixed noise first, as far as the points. Raises InputError."""
        config, rows = networks.checkpoint.config, max([SAMPLE_GRID, *(point + 1 for point in points)])
        if rows * config.latent_dim >= 2**32:
            raise InputError(f"{rows} vectors of {config.latent_dim} numbers are more than one draw has")
        return noise_vectors(config.seed, rows, config.latent_dim)

    def _look(self, networks: _Networks, noise: np.ndarray, rows: slice = slice(None)) -> Look:
        """``rows``: of which to tell. The G step of ``train_step``, on these fakes and up to the pixels."""
        fake = _images(networks, noise)
        pixels = _pixels(fake)[rows]
        checkpoint = networks.checkpoint
        config, d, count = checkpoint.config, networks.discriminator, len(fake)
        real = fake[:0]
        if config.loss == "relativistic":
            try:
                real = self._real_rows(checkpoint, count)
            except InputError as error:
                told = f"What D says, and ∂L/∂pixels, need real images beside the fakes: {error}"
                return Look(pixels, [], [], pixels[:0], [], told)
        loss = loss_of(config)
        key = DropoutKey(config.seed, checkpoint.step, PASS_G) if config.dropout_in_g_step else None
        with np.errstate(all="ignore"):  # what is not finite is told below
            output, caches = d.forward(np.concatenate([real, fake]), key)
            target = np.ones_like(output)
            target[:-count] = 0.0
            gradient = d.backward_input(loss.backward(output, target), caches)[-count:] * count  # the loss is a mean
        if not (np.isfinite(gradient).all() and np.isfinite(output).all()):
            raise InputError(f"{checkpoint.path}: what its networks compute is not all finite numbers")
        verdicts = loss.probability(output)[-count:, 0]
        alone = [[row, row + count] if len(real) else [row] for row in range(count)[rows]]
        losses = [float(loss.forward(output[places], target[places])) for places in alone]
        change = np.stack([_levels(each) for each in gradient[rows]])
        slopes = np.linalg.norm(gradient[rows].astype(np.float64), axis=1)
        return Look(pixels, verdicts[rows].tolist(), losses, change, slopes.tolist())

    def _real_rows(self, checkpoint: Checkpoint, count: int) -> np.ndarray:
        """The first images of the training data, scaled: always the same. Raises InputError."""
        config, runtime = checkpoint.config, checkpoint.runtime
        data_dir, sha256 = runtime.get("data_dir"), runtime.get("data_sha256")
        key = (config.dataset, data_dir, config.train_images, sha256)
        if key not in self._real:
            try:
                data = load_dataset(config.dataset, data_dir, report=partial(say, to_stderr=True), labels=False)
                data = first_images(data, config.train_images)
                if sha256 is not None and fingerprint(data) != sha256:
                    raise InputError(f"the images are not those that the run was trained on ({data.source})")
                self._real[key] = data.images[:SAMPLE_GRID].copy()
            except InputError as error:
                self._real[key] = error
        found = self._real[key]
        if isinstance(found, InputError):
            raise found
        rows: np.ndarray = scale_pixels(np.resize(found, (count, found.shape[1])))
        return rows


def palette() -> list[tuple[int, int, int]]:
    """Red, green and blue of the levels of ``Look.change``: blue for darker, black for 0, yellow for brighter."""
    colors = change_colors(np.linspace(-1.0, 1.0, _LEVELS))
    return [(int(red), int(green), int(blue)) for red, green, blue in colors]


def _listing(folder: Path) -> list[_File]:
    """Each file with what tells whether it was replaced; what goes away meanwhile is not there. Raises OSError."""
    try:
        files = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    return [(file, stamp) for file in files if (stamp := _stamp(file)) is not None]


def _stamp(file: Path) -> _Stamp | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _said(log: Path) -> list[str]:
    """Raises OSError."""
    if not log.is_file():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        lines = file.read(_LOG_TAIL).decode(errors="replace").splitlines()
    return [one_line(line) for line in lines if _SAID.fullmatch(line)][-_MOST_SAID:]


def _lives(holder: str) -> bool:
    """Whether the process that a lock file names is there. One of another machine, or on Windows, is taken at its word."""
    match = _HOLDER.fullmatch(holder)
    if match is None:
        return False
    if match[2] != platform.node() or os.name == "nt":
        return True
    try:
        os.kill(int(match[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def _key(moment: Moment) -> object:
    return moment.file, moment.stamp


def _remember(cache: dict[object, Any], key: object, value: object, most: int) -> None:
    cache[key] = value
    while len(cache) > most:
        del cache[next(iter(cache))]


def _between(noise: np.ndarray, start: int, end: int, t: np.ndarray, path: str) -> np.ndarray:
    """Shapes: t (N, 1) → z (N, Z)."""
    a, b = noise[start], noise[end]
    z: np.ndarray = great_circle(a, b, t) if path == "circle" else ((1.0 - t) * a + t * b).astype(np.float32)
    return z


def _images(networks: _Networks, noise: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        images: np.ndarray = networks.sampler(noise)
    if not np.isfinite(images).all():
        raise InputError(f"{networks.checkpoint.path}: its generator makes images that are not all finite numbers")
    return images


def _pixels(images: np.ndarray) -> np.ndarray:
    return to_uint8(images).reshape(len(images), -1)


def _levels(gradient: np.ndarray) -> np.ndarray:
    half = _LEVELS // 2
    levels: np.ndarray = np.rint(wanted_change(gradient) * half) + half
    return levels.astype(np.uint8).reshape(-1)
