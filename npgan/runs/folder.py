"""A run's folder: config.json, metrics.jsonl, samples/, checkpoints/. Every file is replaced whole or appended to by lines.

After a kill at any instant the folder holds a checkpoint that is whole, or no run at all. What a kill leaves half-done is a
temporary file, a torn last line or a metrics line past the checkpoint, and ``recover`` takes these away. A run that replaces
another begins in the instant in which its first checkpoint gets its name; until then ``settle`` brings the other back.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgan.config import TrainConfig
from npgan.console import say
from npgan.engines import Report
from npgan.errors import InputError, one_line
from npgan.files import publish, replacing
from npgan.gan import StepMetrics, TrainState
from npgan.runs.checkpoint import Checkpoint, DamagedCheckpoint, check_fits, load, save
from npgan.runs.colormaps import COLORMAP
from npgan.runs.lines import Series, are_numbers, read_objects
from npgan.runs.owned import (
    CHECKPOINT_NAME,
    DAMAGED,
    LOCK_FILE,
    LOG_FILE,
    MARKER_FILE,
    PREVIOUS,
    SAMPLE_NAME,
    SOFT_LOCK_FILE,
    STARTING_FILE,
    in_the_way,
    is_regular,
    lies_in_a_run,
    move,
    own_entries,
    temporary_files,
)
from npgan.runs.pictures import save_animation, save_grid

_METRICS = {"epoch", "step", *StepMetrics._fields, "seconds", "images_per_second"}
_KEEPING = ("checkpoint_every", "keep")  # in the ``runtime`` of a checkpoint
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
IN_USE = "in use by"  # what is said of a folder that another process has
_MOST_TEXT = 1 << 20  # bytes of a config.json that we are willing to read
_MOST_MILESTONES = 20  # checkpoints of 35 MB that stay for good


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
        return (
            f"{when}; kept: the last {self.most}, and one every {milestone_period} epochs (at most {_MOST_MILESTONES})"
        )


def _print_problem(line: str) -> None:
    say(line, to_stderr=True)


class RunFolder:
    """The files of one run. ``create`` makes a new folder, ``open_existing`` takes up an old one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.log_file = path / LOG_FILE
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.animation_file = self.samples / "training.gif"
        self.latest_file = self.checkpoints / "latest"
        self.old_keeping_file = self.checkpoints / "kept.json"
        self.last_saved: Path | None = None  # the newest checkpoint that this process knows to be whole
        self._marker_file = path / MARKER_FILE
        self._starting_file = self.checkpoints / STARTING_FILE
        self._previous = path / PREVIOUS
        self._metrics: Series | None = None  # what is in metrics.jsonl, once this process has read or begun it
        self._trained_after = 0  # nanoseconds since 1970: when other runs beside this one last trained

    @classmethod
    def create(cls, path: Path, overwrite: bool) -> RunFolder:
        """A folder for a new run. Raises InputError when it cannot be written, or as ``check_free`` does."""
        run = cls(path)
        run.check_free(overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not is_regular(run._marker_file):
                run._mark(None)
            for folder in (run.checkpoints, run.samples, path):
                folder.mkdir(exist_ok=True)
                probe = folder / f".writable.{os.getpid()}"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise InputError(f"--out {path}: cannot be written: {error.strerror}") from None
        run._trained_after = _newest_stamp(path.parent)
        return run

    @classmethod
    def open_existing(cls, path: Path) -> RunFolder:
        """Raises InputError when there is no run with a checkpoint at ``path``."""
        run = cls(path)
        if not path.is_dir():
            raise InputError(f"{path}: no such run folder")
        if not run._checkpoint_files() and not run._previous.is_dir():
            raise InputError(f"{path}: holds no checkpoint")
        run._refuse_links()
        if not is_regular(run._marker_file) and not run._has_whole_checkpoint():
            raise InputError(f"{path}: not a run of npgan's: no {MARKER_FILE} and no checkpoint that is whole")
        return run

    def check_free(self, overwrite: bool) -> None:
        """Raises InputError when a new run must not be made here: in a folder of somebody else's files, or, unless
        ``overwrite`` is set, in place of another run."""
        path = self.path
        if lies_in_a_run(path):
            raise InputError(f"--out {path}: lies among the files of a run: name a folder of its own")
        if not os.path.lexists(path):
            return
        try:
            taken = None if is_regular(self._marker_file) else in_the_way(path)
        except OSError as error:
            raise InputError(f"--out {path}: cannot be written: {error.strerror}") from None
        if taken and not self._is_of_an_older_version():
            raise InputError(f"--out {path}: no run of npgan's, and {taken} is in the way: name a folder of its own")
        self.check_files()
        if overwrite:
            return
        if self._checkpoint_files():
            raise InputError(f"--out {path}: holds a run already: resume with --resume {path}, or add --overwrite")
        found = own_entries(path)
        if found and not own_entries(self._previous):  # else ``settle`` decides first
            told = f"holds a run without a checkpoint, such as its {found[0].name}: add --overwrite to replace it"
            raise InputError(f"--out {path}: {told}")

    def check_files(self, checkpoints: bool = True) -> None:
        """Raises InputError when something has a name of npgan's and is nothing that npgan writes, such as a link.

        ``checkpoints``: also in the place of a checkpoint, which ``recover`` sets aside, or has.
        """
        self._refuse_links()
        fixed = [self.path / name for name in (MARKER_FILE, LOCK_FILE, SOFT_LOCK_FILE)]
        for entry in (*own_entries(self.path), *own_entries(self._previous), *filter(os.path.lexists, fixed)):
            if not is_regular(entry) and (checkpoints or not CHECKPOINT_NAME.match(entry.name)):
                raise InputError(f"{entry}: is not a regular file, so npgan did not write it: move it away")

    def _refuse_links(self) -> None:
        for folder in (self.samples, self.checkpoints, self._previous):
            if folder.is_symlink():
                raise InputError(f"{folder}: is a link: a run's files must lie inside its folder")

    def _is_of_an_older_version(self) -> bool:
        """Whether the folder, though it has no marker, is a run's: by its checkpoints, and its config.json where it has one."""
        try:
            self.read_config()
        except InputError:
            return False
        return self._has_whole_checkpoint()

    def _has_whole_checkpoint(self) -> bool:
        return any(_is_whole(file) for file in reversed(self._checkpoint_files()))

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
        marker = self.path / SOFT_LOCK_FILE
        # a marker of a process that is gone is taken over at the second try
        lock = SoftFileLock(marker, timeout=0.5) if without else FileLock(path, timeout=0)
        if without:
            report(f"{self.path}: this system has no file locks: {SOFT_LOCK_FILE} takes their place")
        try:
            lock.acquire()
        except Timeout:
            remove = f" (if it is not: remove {marker})" if without else ""
            raise InputError(f"{self.path}: {IN_USE} {self.holder() or 'another process'}{remove}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise InputError(f"{path}: cannot be written: {error.strerror}") from None
            report(f"{path}: no locks here ({error.strerror}): start only one process on this run")
        if holder := self.holder():
            report(f"{self.path}: {holder} ended without saying so: taking over")
        with suppress(OSError):  # on Windows nobody may write into a locked file
            path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        try:
            yield
        finally:
            with suppress(OSError):
                os.truncate(path, 0)
            lock.release()

    def holder(self) -> str:
        """Who trains here, such as "process 7 on kiwi", as the first line of the lock file says, made printable; a kill leaves
        it there. "" where it says nothing or cannot be read."""
        try:
            with open(self.path / LOCK_FILE, encoding="utf-8", errors="replace") as file:
                line = file.read(200).split("\n")[0]
        except OSError:
            return ""
        return one_line(line)

    # --- which run is here

    def begin(
        self, state: TrainState, config: TrainConfig, runtime: dict[str, Any], epoch_totals: np.ndarray, report: Report
    ) -> None:
        """Saves the first checkpoint of a new run, and removes what another run left. Raises OSError, NotFinite: then that
        is whole. Call it locked, and ``settle`` before."""
        save(self._starting_file, state, config, runtime, epoch_totals)
        path = self._checkpoint_path(state.step)
        try:
            for file in own_entries(self.path):
                move(file, self._previous / file.relative_to(self.path))
            publish(self._starting_file, path)  # from here on it is the new run's folder
        except BaseException:
            self.settle()
            raise
        self._metrics = Series()
        self._has_saved(path)
        try:
            self.settle()
        except OSError as error:
            report(f"{error.filename}: of the run before, cannot be removed: {error.strerror}")
        self._remove_temporary()

    def settle(self) -> None:
        """Ends what a kill or an error interrupted: the run that was to begin is gone, or the one before. Raises OSError."""
        starting = os.path.lexists(self._starting_file)
        for file in own_entries(self._previous):
            if starting:
                move(file, self.path / file.relative_to(self._previous))
            else:
                file.unlink()
        for folder in ("checkpoints", "samples", ""):
            with suppress(OSError):  # not there, or not empty
                (self._previous / folder).rmdir()
        self._starting_file.unlink(missing_ok=True)

    def recover(self, report: Report, most_steps: int | None = None) -> Checkpoint:
        """The checkpoint to resume from. Takes away what a kill left and sets damaged checkpoints aside; call it locked.

        ``most_steps``: of a run to its end.
        """
        self.settle()
        self.samples.mkdir(exist_ok=True)
        checkpoint = self.latest_checkpoint(report, most_steps)
        self._remove_temporary()
        for file in self._checkpoint_files():
            if _step_of(file) > checkpoint.step:
                move(file, _free_name(file.with_name(file.name + DAMAGED)))
        write_text(self.latest_file, checkpoint.path.name + "\n")
        if not is_regular(self._marker_file):
            self._mark(None)
        self._trained_after = _newest_stamp(self.path.parent)
        self.last_saved = checkpoint.path
        return checkpoint

    def _remove_temporary(self) -> None:
        for file in temporary_files(self.path):
            file.unlink(missing_ok=True)

    def last_trained(self) -> int | None:
        """Nanoseconds since 1970, as the marker says, whatever the dates of the files. None where it does not."""
        try:
            trained = json.loads(_read_text(self._marker_file))["trained_ns"]
        except (InputError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return trained if type(trained) is int and trained > 0 else None

    def _mark(self, trained_ns: int | None) -> None:
        trained = {} if trained_ns is None else {"trained_ns": trained_ns}
        write_text(self._marker_file, json.dumps({"made_by": "npgan", **trained}) + "\n")

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

        ``keep_last`` stay, and those whose step is a multiple of ``milestone_steps``; where these are too many, of twice that,
        and so on. Raises OSError, NotFinite.
        """
        if self.metrics_file.exists():  # a checkpoint on disk has its epochs' lines on disk
            _flush(self.metrics_file)
        path = self._checkpoint_path(state.step)
        save(path, state, config, runtime, epoch_totals)
        self._has_saved(path)
        while state.step > _MOST_MILESTONES * milestone_steps:
            milestone_steps *= 2
        for file in self._checkpoint_files()[:-keep_last]:
            step = _step_of(file)
            if (step == 0 or step % milestone_steps) and is_regular(file):
                file.unlink()
        return path

    def _has_saved(self, checkpoint: Path) -> None:
        self.last_saved = checkpoint
        write_text(self.latest_file, checkpoint.name + "\n")
        self._mark(max(time.time_ns(), self._trained_after + 1))  # though the clock may have been set back

    def _checkpoint_path(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:09d}.safetensors"

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
            (file for file in self.checkpoints.iterdir() if CHECKPOINT_NAME.fullmatch(file.name)), key=_step_of
        )

    # --- metrics and samples

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        with _naming(self.metrics_file), open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        if self._metrics is not None:
            self._metrics.append(metrics)

    def read_metrics(self) -> list[dict[str, Any]]:
        """One object per finished epoch, in order; of thousands some, evenly spaced, the first and the last among them.

        Lines that a kill or a power cut damaged are not there.
        """
        if self._metrics is None:
            self._metrics = Series()
            for _, metrics in self._epochs():
                self._metrics.append(metrics)
        return self._metrics.remembered()

    def _epochs(self, last_step: float = math.inf) -> Iterator[tuple[bytes, dict[str, Any]]]:
        epoch = -math.inf
        for line, metrics in read_objects(self.metrics_file):
            if is_epoch(metrics) and metrics["step"] <= last_step and metrics["epoch"] > epoch:
                epoch = metrics["epoch"]
                yield line, metrics

    def cut_metrics(
        self, last_step: int, epochs: int, report: Report, look: Callable[[dict[str, Any]], object]
    ) -> None:
        """Drops what is past ``last_step``, which a resumed run is going to do again. ``look`` is given what stays.

        Reports when that is not ``epochs`` lines.
        """
        kept = Series()
        with replacing(self.metrics_file) as file:
            for line, metrics in self._epochs(last_step):
                file.write(line)
                kept.append(metrics)
                look(metrics)
        if len(kept) != epochs:
            report(f"{self.metrics_file}: {len(kept)} whole lines for {epochs} finished epochs: the curves have a gap")
        self._metrics = kept

    def sample_path(self, epoch: int) -> Path:
        return self.samples / f"epoch-{epoch:05d}.png"

    def save_samples(self, images: np.ndarray, epoch: int) -> Path:
        """The samples' PNG, on disk. Shapes: images (N, 784) in [−1, 1]. Raises OSError."""
        path = self.sample_path(epoch)
        save_grid(images, path)
        return path

    def save_animation(self, path: Path, colormap: str = COLORMAP) -> tuple[int, int]:
        """The samples' PNGs as a GIF. Returns its frames and the last one's epoch. Raises InputError, OSError."""
        found = [(match, file) for file in self.samples.glob("*.png") if (match := SAMPLE_NAME.fullmatch(file.name))]
        pictures = sorted((int(match[1]), file) for match, file in found)
        if not pictures:
            raise InputError(f"{self.samples}: holds no pictures of samples")
        captioned = [(f"epoch {epoch}", file) for epoch, file in pictures]
        return save_animation(captioned, path, colormap), pictures[-1][0]

    def write_diagnosis(self, step: int, diagnosis: dict[str, Any]) -> Path:
        """What is known of a training that went wrong in iteration ``step``, as JSON beside the checkpoints."""
        path = self.checkpoints / f"diagnosis-step-{step:09d}.json"
        write_text(path, json.dumps(diagnosis, indent=2) + "\n")
        return path


def is_epoch(metrics: dict[str, Any]) -> bool:
    """Whether an object is a whole line of metrics.jsonl."""
    return are_numbers(metrics, _METRICS)


def newest_run(parent: Path) -> Path:
    """The run below ``parent`` that trained last. Raises InputError when there is none.

    A copy has trained when its original did, which is taken. Runs of versions that did not write that down go by the date of
    their newest checkpoint.
    """
    found = []
    for run in (RunFolder(path) for path in _folders(parent)):
        if files := run._checkpoint_files():
            date = files[-1].lstat().st_mtime_ns
            found.append((run.last_trained() or date, -date, run.path))
    if not found:
        raise InputError(f"--resume: no run with a checkpoint in {parent}/")
    return max(found)[-1]


def _newest_stamp(parent: Path) -> int:
    """When a run below ``parent`` last trained, 0 where none says so."""
    return max((RunFolder(path).last_trained() or 0 for path in _folders(parent)), default=0)


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:
        return []


def _is_whole(checkpoint_file: Path) -> bool:
    try:
        load(checkpoint_file)
    except InputError:
        return False
    return True


def _free_name(path: Path) -> Path:
    numbers = itertools.count(2)
    free = path
    while os.path.lexists(free):
        free = path.with_name(f"{path.name}-{next(numbers)}")
    return free


def write_text(path: Path, text: str) -> None:
    """Replaces a small file whole."""
    with replacing(path) as file:
        file.write(text.encode())


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


def _step_of(checkpoint_file: Path) -> int:
    match = CHECKPOINT_NAME.fullmatch(checkpoint_file.name)
    assert match, checkpoint_file
    return int(match[1])
