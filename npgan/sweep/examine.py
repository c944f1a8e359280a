"""How a run ended: whether its G still has a gradient and, where not, which tensor on the way back is the first without."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgan.backend import select
from npgan.data.mnist import first_images, load_dataset
from npgan.engines.base import ReferenceEngine
from npgan.gan import StepMetrics
from npgan.runs.checkpoint import restore
from npgan.runs.folder import RunFolder
from npgan.runs.health import DEAD, first_dead
from npgan.runs.owned import CHECKPOINT_NAME

_DIAGNOSIS = re.compile(r"diagnosis-step-(\d+)\.json")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: str  # finished, diverged, failed or stopped
    message: str = ""
    step: int | None = None  # of its last checkpoint
    checkpoint_sha256: str = ""  # of that file
    gradient: float | None = None  # norm of G's gradient in the step after it
    dead: str = ""  # "net: tensor", where that is below health.DEAD or training diverged

    @property
    def alive(self) -> bool:
        """Whether G still has a gradient."""
        return self.state == "finished" and self.gradient is not None and self.gradient >= DEAD

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do: to diverge is an end, too."""
        return self.state in ("finished", "diverged")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def checkpoint_step(folder: Path) -> int | None:
    """Of the newest checkpoint by name; None where there is none."""
    return max(
        (int(match[1]) for match in map(CHECKPOINT_NAME.fullmatch, _names(folder / "checkpoints")) if match),
        default=None,
    )


def is_finished(folder: Path, epochs: int) -> bool:
    """Whether nothing is left to do: so many epochs, their checkpoint, and the animation that comes last."""
    run, step = RunFolder(folder), checkpoint_step(folder)
    lines = run.read_metrics()
    done = bool(lines) and lines[-1]["epoch"] >= epochs and lines[-1]["step"] == step and run.animation_file.is_file()
    return done and run.latest_checkpoint().step == step


def diverged(folder: Path) -> Outcome | None:
    """What a run says that stopped because a number was no longer finite. None for others."""
    step = checkpoint_step(folder)
    found = [(int(match[1]), name) for name in _names(folder / "checkpoints") if (match := _DIAGNOSIS.fullmatch(name))]
    if step is None or not found or max(found)[0] < step:
        return None
    try:
        told = json.loads((folder / "checkpoints" / max(found)[1]).read_text(encoding="utf-8"))
        where = f"{told['net']}: {told['tensor']}"
    except (OSError, ValueError, LookupError, TypeError):
        where = "its diagnosis cannot be read"
    return Outcome("diverged", f"in iteration {max(found)[0]}", step, _sha256(folder), None, where)


def examine(folder: Path) -> Outcome:
    """Does the step after the last checkpoint, by the textbook, and writes nothing. Raises InputError."""
    run = RunFolder(folder)
    checkpoint = run.latest_checkpoint()
    config, recorded = checkpoint.config, checkpoint.runtime.get("data_dir")
    data = load_dataset(config.dataset, Path(recorded) if recorded else None, labels=False)
    images = first_images(data, config.train_images).images
    engine = ReferenceEngine(restore(checkpoint, select("numpy")), images, config)
    with np.errstate(all="ignore"):
        gradient = StepMetrics(*engine.run(1)[0].tolist()).grad_norm_g
    first = first_dead(engine.tensors()) if gradient < DEAD else None
    dead = f"{first[0]}: {first[1]}" if first else ""
    return Outcome("finished", "", checkpoint.step, _sha256(folder), float(gradient), dead)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _sha256(folder: Path) -> str:
    """Of the newest checkpoint."""
    with open(folder / "checkpoints" / f"step-{checkpoint_step(folder):09d}.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
