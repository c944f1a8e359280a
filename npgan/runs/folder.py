"""A run's folder: config.json, metrics.jsonl, samples/, checkpoints/. Every file is replaced whole or appended to by lines.

After a kill at any instant the folder holds a checkpoint that is whole, or no run at all. What a kill leaves half-done is a
temporary file, a torn last line or a metrics line past the checkpoint, and ``recover`` takes these away.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgan.config import TrainConfig
from npgan.console import say
from npgan.engines import Report
from npgan.errors import InputError
from npgan.files import replacing
from npgan.gan import StepMetrics, TrainState
from npgan.runs.checkpoint import Checkpoint, DamagedCheckpoint, check_fits, load, save
from npgan.runs.pictures import save_animation, save_grid

LOCK_FILE = ".lock"
MARKER_FILE = ".lock-marker"  # where there are no locks
DAMAGED = ".damaged"  # added to the name of a checkpoint that is set aside

_CHECKPOINT_NAME = re.compile(r"step-(\d{9,15})\.safetensors")
_SET_ASIDE_NAME = re.compile(r"step-\d{9,15}\.safetensors\.damaged")
_SAMPLE_NAME = re.compile(r"epoch-(\d{5,15})\.png")
_EVALUATION_NAME = re.compile(r"evaluation(-curves)?\.(json|jsonl|png)")
_TEMPORARY_NAME = re.compile(
    r"\.(config\.json|metrics\.jsonl|evaluation[^.]*\.\w+|latest|kept\.json|diagnosis-step-\d+\.json|epoch-\d+\.png|"
    r"training\.gif|step-\d+\.safetensors)\.\d+\.tmp|\.writable\.\d+|"
    r"\.tmp\w{6}"  # of safetensors
)
_METRICS = {"epoch", "step", *StepMetrics._fields, "seconds", "images_per_second"}
_KEEPING = ("checkpoint_every", "keep")  # in the ``runtime`` of a checkpoint
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_MOST_TEXT = 1 << 20  # bytes of a config.json that we are willing to read


class Keeping(NamedTuple):
    """When checkpoints are made and which stay."""

    every: int | None = None  # epochs from one to the next; None: at the first epoch's end after a minute
    last: int | None = None  # so many stay, besides those after a multiple of the milestone period; None: 3

    @property
    def most(self) -> int:
        return 3 if self.last is None else self.last

    def check(self) -> Keeping:
        """Raises InputError, naming the flag."""
        for flag, value in (("--checkpoint-every", self.every), ("--keep", self.last)):
            if value is not None and (type(value) is not int or not 1 <= value < 2**31):
                raise InputError(f"{flag} must be a whole number from 1 to {2**31 - 1}, got {value!r}")
        return self

    def updated(self, asked: Keeping) -> Keeping:
        """What ``asked`` says, and where it says nothing this. Raises InputError."""
        return Keeping(*(old if new is None else new for old, new in zip(self, asked, strict=True))).check()

    def to_runtime(self) -> dict[str, int | None]:
        """As a checkpoint records it."""
        return dict(zip(_KEEPING, self, strict=True))

    def describe(self, milestone_period: int) -> str:
        """For the run's header."""
        if self.every is None:
            when = "every minute, at an epoch's end"
        else:
            when = "after every epoch" if self.every == 1 else f"every {self.every} epochs"
        return f"{when}; kept: the last {self.most}, and one every {milestone_period} epochs"


def _print_problem(line: str) -> None:
    say(line, to_stderr=True)


class RunFolder:
    """The files of one run. ``create`` makes a new folder, ``open_existing`` takes up an old one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.animation_file = self.samples / "training.gif"
        self.latest_file = self.checkpoints / "latest"
        self.old_keeping_file = self.checkpoints / "kept.json"
        self.last_saved: Path | None = None  # the newest checkpoint that this process knows to be whole

    @classmethod
    def create(cls, path: Path, overwrite: bool) -> RunFolder:
        """A folder for a new run. Raises InputError when it cannot be written, or holds a run and ``overwrite`` is not set."""
        run = cls(path)
        run.refuse_to_overwrite(overwrite)
        try:
            run.samples.mkdir(parents=True, exist_ok=True)
            run.checkpoints.mkdir(exist_ok=True)
            probe = path / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"--out {path}: cannot be written: {error.strerror}") from None
        run._refuse_links()
        return run

    @classmethod
    def open_existing(cls, path: Path) -> RunFolder:
        """Raises InputError when there is no run with a checkpoint at ``path``."""
        run = cls(path)
        if not path.is_dir():
            raise InputError(f"{path}: no such run folder")
        if not run._checkpoint_files():
            raise InputError(f"{path}: holds no checkpoint")
        run._refuse_links()
        return run

    @contextmanager
    def locked(self, report: Report) -> Iterator[None]:
        """This process alone writes here. Raises InputError, naming the process, when another one has the lock.

        The lock ends with the process that holds it, however that ends. The file says who holds it, for people; it is
        emptied at the end, so words in a file without a lock were left by a kill and are reported. Where the file system
        has no locks that is reported too. Where the whole system has none, a file that names its process takes their place.
        """
        path = self.path / LOCK_FILE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there are no locks: said below
            from filelock import FileLock, SoftFileLock, Timeout
        without = FileLock is SoftFileLock
        marker = self.path / MARKER_FILE
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise InputError(f"{path}: is not a regular file")
        # a marker of a process that is gone is taken over at the second try
        lock = SoftFileLock(marker, timeout=0.5) if without else FileLock(path, timeout=0)
        if without:
            report(f"{self.path}: this system has no file locks: {MARKER_FILE} takes their place")
        try:
            lock.acquire()
        except Timeout:
            remove = f" (if it is not: remove {marker})" if without else ""
            raise InputError(f"{self.path}: in use by {_holder(path) or 'another process'}{remove}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise InputError(f"{path}: cannot be written: {error.strerror}") from None
            report(f"{path}: no locks here ({error.strerror}): start only one process on this run")
        if holder := _holder(path):
            report(f"{self.path}: {holder} ended without saying so: taking over")
        with suppress(OSError):  # on Windows nobody may write into a locked file
            path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        try:
            yield
        finally:
            with suppress(OSError):
                os.truncate(path, 0)
            lock.release()

    def refuse_to_overwrite(self, overwrite: bool) -> None:
        """Raises InputError when a run is here and ``overwrite`` is not set."""
        if overwrite:
            return
        if self._checkpoint_files():
            raise InputError(
                f"--out {self.path}: holds a run already: resume with --resume {self.path}, or add --overwrite"
            )
        if self.config_file.exists() or self.metrics_file.exists():
            raise InputError(f"--out {self.path}: holds a run without a checkpoint: add --overwrite to replace it")

    def _refuse_links(self) -> None:
        for folder in (self.samples, self.checkpoints):
            if folder.is_symlink():
                raise InputError(f"{folder}: is a link: a run's files must lie inside its folder")

    def clear(self) -> None:
        """Removes what an earlier run left, and nothing else."""
        self.latest_file.unlink(missing_ok=True)
        for file in (
            *self._checkpoint_files(), self.old_keeping_file, self.metrics_file, self.config_file, self.animation_file
        ):  # fmt: skip
            file.unlink(missing_ok=True)
        self._remove_named(self.checkpoints, _SET_ASIDE_NAME)
        self._remove_named(self.samples, _SAMPLE_NAME)
        self._remove_named(self.path, _EVALUATION_NAME)
        self._remove_temporary()

    def recover(self, report: Report, most_steps: int | None = None) -> Checkpoint:
        """The checkpoint to resume from. Takes away what a kill left and sets damaged checkpoints aside; call it locked.

        ``most_steps``: of a run to its end.
        """
        self.samples.mkdir(exist_ok=True)
        self._remove_temporary()
        checkpoint = self.latest_checkpoint(report, most_steps)
        for file in self._checkpoint_files():
            if _step_of(file) > checkpoint.step:
                file.replace(file.with_name(file.name + DAMAGED))
        write_text(self.latest_file, checkpoint.path.name + "\n")
        self.last_saved = checkpoint.path
        return checkpoint

    def _remove_temporary(self) -> None:
        for folder in (self.path, self.checkpoints, self.samples):
            self._remove_named(folder, _TEMPORARY_NAME)

    @staticmethod
    def _remove_named(folder: Path, name: re.Pattern[str]) -> None:
        for file in folder.iterdir():
            if name.fullmatch(file.name):
                file.unlink()

    # --- configuration

    def write_config(self, config: TrainConfig) -> None:
        write_text(self.config_file, config.to_json() + "\n")

    def read_config(self) -> TrainConfig | None:
        """None when there is no config.json: a kill may come before it is written. Raises InputError naming the file."""
        if not self.config_file.exists():
            return None
        try:
            return TrainConfig.from_json(_read_text(self.config_file))
        except InputError as error:
            raise InputError(f"{self.config_file}: {error}") from None

    def keeping(self, checkpoint: Checkpoint) -> Keeping:
        """As the checkpoint records it; older versions wrote kept.json instead. Raises InputError naming the file."""
        if "keep" in checkpoint.runtime:
            return Keeping(*(checkpoint.runtime.get(name) for name in _KEEPING)).check()
        if not self.old_keeping_file.exists():
            return Keeping()
        try:
            return Keeping(**json.loads(_read_text(self.old_keeping_file))).check()
        except (ValueError, TypeError, RecursionError):
            raise InputError(f"{self.old_keeping_file}: damaged: remove it to keep checkpoints by default") from None

    # --- checkpoints

    def save_checkpoint(
        self,
        state: TrainState,
        config: TrainConfig,
        runtime: dict[str, Any],
        epoch_totals: np.ndarray,
        keep_last: int,
        milestone_steps: int,
    ) -> Path:
        """Writes ``step-….safetensors``, points ``latest`` at it, and only then removes old ones. Returns its path.

        ``keep_last`` stay, and those whose step is a multiple of ``milestone_steps``. Raises OSError, NotFinite.
        """
        if self.metrics_file.exists():  # a checkpoint on disk has its epochs' lines on disk
            _flush(self.metrics_file)
        path = self.checkpoints / f"step-{state.step:09d}.safetensors"
        save(path, state, config, runtime, epoch_totals)
        self.last_saved = path
        write_text(self.latest_file, path.name + "\n")
        for file in self._checkpoint_files()[:-keep_last]:
            step = _step_of(file)
            if step == 0 or step % milestone_steps:
                file.unlink()
        return path

    def latest_checkpoint(self, report: Report = _print_problem, most_steps: int | None = None) -> Checkpoint:
        """The newest checkpoint that is whole; damaged ones are reported. Raises InputError when there is none."""
        for path in reversed(self._checkpoint_files()):
            try:
                checkpoint = load(path)
                check_fits(checkpoint)
                if checkpoint.step != _step_of(path):
                    raise DamagedCheckpoint(f"{path}: holds step {checkpoint.step}")
                if most_steps is not None and checkpoint.step > most_steps:
                    raise DamagedCheckpoint(f"{path}: is past the end of the run at step {most_steps}")
                return checkpoint
            except DamagedCheckpoint as error:
                report(f"{error}; taking the one before")
        raise InputError(f"{self.path}: holds no checkpoint that is whole")

    def _checkpoint_files(self) -> list[Path]:
        """By step, newest last."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(
            (file for file in self.checkpoints.iterdir() if _CHECKPOINT_NAME.fullmatch(file.name)), key=_step_of
        )

    # --- metrics and samples

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        with _naming(self.metrics_file), open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """One object per finished epoch, in order. Lines that a kill or a power cut damaged are not there."""
        if not self.metrics_file.is_file():
            return []
        kept: list[dict[str, Any]] = []
        for line in self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            metrics = _parse_metrics(line)
            if metrics and (not kept or metrics["epoch"] > kept[-1]["epoch"]):
                kept.append(metrics)
        return kept

    def cut_metrics(self, last_step: int, epochs: int, report: Report) -> list[dict[str, Any]]:
        """Drops what is past ``last_step``, which a resumed run is going to do again. Returns what stays.

        Reports when that is not ``epochs`` lines.
        """
        kept = [metrics for metrics in self.read_metrics() if metrics["step"] <= last_step]
        if len(kept) != epochs:
            report(f"{self.metrics_file}: {len(kept)} whole lines for {epochs} finished epochs: the curves have a gap")
        write_text(self.metrics_file, "".join(json.dumps(metrics) + "\n" for metrics in kept))
        return kept

    def sample_path(self, epoch: int) -> Path:
        return self.samples / f"epoch-{epoch:05d}.png"

    def save_samples(self, images: np.ndarray, epoch: int) -> Path:
        """The samples' PNG, on disk. Shapes: images (N, 784) in [−1, 1]. Raises OSError."""
        path = self.sample_path(epoch)
        save_grid(images, path)
        return path

    def save_animation(self, path: Path) -> tuple[int, int]:
        """The samples' PNGs as a GIF. Returns its frames and the last one's epoch. Raises InputError, OSError."""
        found = [(match, file) for file in self.samples.glob("*.png") if (match := _SAMPLE_NAME.fullmatch(file.name))]
        pictures = sorted((int(match[1]), file) for match, file in found)
        if not pictures:
            raise InputError(f"{self.samples}: holds no pictures of samples")
        return save_animation([(f"epoch {epoch}", file) for epoch, file in pictures], path), pictures[-1][0]

    def write_diagnosis(self, step: int, diagnosis: dict[str, Any]) -> Path:
        """What is known of a training that went wrong in iteration ``step``, as JSON beside the checkpoints."""
        path = self.checkpoints / f"diagnosis-step-{step:09d}.json"
        write_text(path, json.dumps(diagnosis, indent=2) + "\n")
        return path


def newest_run(parent: Path) -> Path:
    """The run below ``parent`` whose newest checkpoint is newest. Raises InputError when there is none."""
    runs = [RunFolder(path) for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    newest = [(files[-1].stat().st_mtime_ns, run.path) for run in runs if (files := run._checkpoint_files())]
    if not newest:
        raise InputError(f"--resume: no run with a checkpoint in {parent}/")
    return max(newest)[1]


def write_text(path: Path, text: str) -> None:
    """Replaces a small file whole."""
    with replacing(path) as file:
        file.write(text.encode())


def _holder(lock_file: Path) -> str:
    """The first line of the lock file, made printable; "" where it cannot be read."""
    try:
        with open(lock_file, encoding="utf-8", errors="replace") as file:
            line = file.read(200).split("\n")[0]
    except OSError:
        return ""
    return "".join(letter for letter in line if letter.isprintable())


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An OSError from within says which file it was: one from write() does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _read_text(path: Path) -> str:
    """A small file of ours that the user may have edited. Raises InputError, without the path, when it is no such text."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise InputError("is not a regular file")
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_TEXT + 1)
        if len(content) > _MOST_TEXT:
            raise InputError(f"is longer than {_MOST_TEXT} bytes")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}") from None


def _parse_metrics(line: str) -> dict[str, Any] | None:
    """The object of one line of metrics.jsonl, None for anything else."""
    try:
        metrics = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(metrics, dict) or not set(metrics) >= _METRICS:
        return None
    numbers = [metrics[name] for name in _METRICS]
    right = all(isinstance(number, int | float) and -1e300 < number < 1e300 for number in numbers)  # NaN is not
    return metrics if right and type(metrics["epoch"]) is type(metrics["step"]) is int else None


def _step_of(checkpoint_file: Path) -> int:
    match = _CHECKPOINT_NAME.fullmatch(checkpoint_file.name)
    assert match, checkpoint_file
    return int(match[1])
