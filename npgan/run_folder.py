"""A run's folder: config.json, metrics.jsonl, samples/, checkpoints/. Every file is replaced whole or appended to by lines."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from npgan.checkpoint import Checkpoint, load, publish, save
from npgan.config import TrainConfig
from npgan.errors import InputError
from npgan.training import TrainState

_CHECKPOINT_NAME = re.compile(r"step-\d{9,}\.safetensors")
_SAMPLE_NAME = re.compile(r"epoch-\d{5,}\.png")


class RunFolder:
    """The files of one run. ``create`` makes a new folder, ``open_existing`` takes up an old one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.latest_file = self.checkpoints / "latest"

    @classmethod
    def create(cls, path: Path, overwrite: bool) -> RunFolder:
        """An empty run folder. Raises InputError when it cannot be written, or holds a run and ``overwrite`` is not set."""
        run = cls(path)
        if run.holds_a_run() and not overwrite:
            raise InputError(f"--out {path}: holds a run already: go on with --resume {path}, or add --overwrite")
        try:
            run.samples.mkdir(parents=True, exist_ok=True)
            run.checkpoints.mkdir(exist_ok=True)
            probe = path / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"--out {path}: cannot be written: {error.strerror}") from None
        return run

    @classmethod
    def open_existing(cls, path: Path) -> RunFolder:
        """Raises InputError when there is no run with a checkpoint at ``path``."""
        run = cls(path)
        if not path.is_dir():
            raise InputError(f"{path}: no such run folder")
        if not run._checkpoint_files():
            raise InputError(f"{path}: holds no checkpoint")
        return run

    def holds_a_run(self) -> bool:
        return self.config_file.exists() or self.metrics_file.exists() or bool(self._checkpoint_files())

    def clear(self) -> None:
        """Removes what an earlier run left, and nothing else."""
        self.latest_file.unlink(missing_ok=True)
        for file in (*self._checkpoint_files(), self.metrics_file, self.config_file):
            file.unlink(missing_ok=True)
        for file in self.samples.iterdir():
            if _SAMPLE_NAME.fullmatch(file.name):
                file.unlink()

    def write_config(self, config: TrainConfig) -> None:
        write_text(self.config_file, config.to_json() + "\n")

    # --- checkpoints

    def save_checkpoint(
        self, state: TrainState, config: TrainConfig, runtime: dict[str, Any], epoch_totals: np.ndarray
    ) -> Path:
        """Writes ``step-….safetensors``, then points ``latest`` at it. Returns its path."""
        path = self.checkpoints / f"step-{state.step:09d}.safetensors"
        save(path, state, config, runtime, epoch_totals)
        write_text(self.latest_file, path.name + "\n")
        return path

    def latest_checkpoint(self) -> Checkpoint:
        """The checkpoint that ``latest`` names. Raises InputError when there is none or it is damaged."""
        try:
            name = self.latest_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{self.latest_file}: cannot be read") from None
        if not _CHECKPOINT_NAME.fullmatch(name):
            raise InputError(f"{self.latest_file}: does not name a checkpoint")
        return load(self.checkpoints / name)

    def _checkpoint_files(self) -> list[Path]:
        if not self.checkpoints.is_dir():
            return []
        return sorted(file for file in self.checkpoints.iterdir() if _CHECKPOINT_NAME.fullmatch(file.name))

    # --- metrics

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        with open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """One object per finished epoch. A torn last line, left by a kill, is not there."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise InputError(f"{self.metrics_file}: damaged: a line is not JSON") from None

    def cut_metrics(self, last_step: int) -> list[dict[str, Any]]:
        """Drops the epochs past ``last_step``, which a resumed run is going to do again. Returns what stays."""
        kept = [metrics for metrics in self.read_metrics() if metrics["step"] <= last_step]
        write_text(self.metrics_file, "".join(json.dumps(metrics) + "\n" for metrics in kept))
        return kept

    def sample_path(self, epoch: int) -> Path:
        return self.samples / f"epoch-{epoch:05d}.png"


def newest_run(parent: Path) -> Path:
    """The run below ``parent`` whose ``latest`` pointer is newest. Raises InputError when there is none."""
    pointers = [run / "checkpoints" / "latest" for run in parent.iterdir()] if parent.is_dir() else []
    pointers = [pointer for pointer in pointers if pointer.is_file()]
    if not pointers:
        raise InputError(f"--resume: no run with a checkpoint in {parent}/")
    return max(pointers, key=lambda pointer: pointer.stat().st_mtime_ns).parent.parent


def write_text(path: Path, text: str) -> None:
    """Replaces a small file whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
