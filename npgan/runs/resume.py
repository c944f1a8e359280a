"""What a run takes over from the checkpoint that it is resumed from, and what it must not change."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from npgan.config import TrainConfig, flag_name, shown_value
from npgan.errors import InputError
from npgan.runs.checkpoint import Checkpoint
from npgan.runs.folder import RunFolder

_MAY_CHANGE_BYTES = ("backend", "precision", "kernels", "gemm", "workers")  # of a checkpoint's ``runtime``


def what_changed(before: dict[str, Any], runtime: dict[str, Any]) -> str | None:
    """A warning when the run is resumed in another way than the one that its checkpoint records."""
    before = {
        "gemm": before.get("products"),
        "workers": "one",
        **before,
    }  # as older versions named it, or where it is so
    runtime = {"workers": "one", **runtime}
    changed = [
        f"{name} {runtime[name]} after {before[name]}"
        for name in _MAY_CHANGE_BYTES
        if None not in (before.get(name), runtime[name]) and before[name] != runtime[name]
    ]
    if not changed:
        return None
    return (
        f"--resume: resumes with {', '.join(changed)}: the bytes may differ from those of a run that was never stopped"
    )


def file_config(run: RunFolder, checkpoint: Checkpoint) -> TrainConfig:
    """The checkpoint's config, with the epochs of config.json. Raises InputError that lists where else they differ."""
    saved, in_file = checkpoint.config, run.read_config()
    if in_file is None:
        return saved
    names = (each.name for each in fields(TrainConfig))  # all of them: a file leaves some out at their defaults
    both = [(name, getattr(in_file, name), getattr(saved, name)) for name in names]
    differing = [
        f"{name} is {there!r} there, {here!r} in the checkpoint"
        for name, there, here in both
        if (there < here if name == "epochs" and saved.lr_schedule != "cosine" else there != here)
    ]
    if differing:
        raise InputError(
            f"{run.config_file}: does not fit {checkpoint.path.name}: {'; '.join(differing)}: correct the file or remove it"
        )
    return replace(saved, epochs=in_file.epochs)


def resumed_config(saved: TrainConfig, flags: dict[str, Any], dataset: str) -> TrainConfig:
    """The saved config; only ``epochs`` may grow. Raises InputError that lists every flag that disagrees."""
    asked = dict(flags)
    if dataset != "auto":
        asked["dataset"] = dataset
    epochs = asked.pop("epochs", saved.epochs)
    differing = [
        f"{flag_name(name)} is {shown_value(name, getattr(saved, name))}, not {value}"
        for name, value in sorted(asked.items())
        if value != getattr(saved, name)
    ]
    if differing:
        raise InputError(f"--resume: the run was made with other settings: {'; '.join(differing)}")
    if epochs < saved.epochs:
        raise InputError(f"--resume: --epochs {epochs} is less than the run's {saved.epochs}; it may only grow")
    if epochs != saved.epochs and saved.lr_schedule == "cosine":
        raise InputError(
            f"--resume: the run has --lr-schedule cosine: its learning rates fall to 0 over its {saved.epochs} epochs, "
            f"and --epochs {epochs} would have been another run from the start"
        )
    return replace(saved, epochs=epochs)
