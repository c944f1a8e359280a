"""What a run takes over from the checkpoint that it goes on from, and what it must not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from npgan.engines.cpu import blas
from npgan import engines as kernels
from npgan.backend import Backend, select
from npgan.runs.checkpoint import Checkpoint
from npgan.config import TrainConfig
from npgan.errors import InputError
from npgan.engines.cuda.kernels import unsupported
from npgan.runs.folder import Keeping, RunFolder

_MAY_CHANGE_BYTES = ("backend", "precision", "kernels", "products")  # of a checkpoint's ``runtime``


def what_changed(before: dict[str, Any], runtime: dict[str, Any]) -> str | None:
    """A warning when the run goes on in another way than the one that its checkpoint records."""
    changed = [
        f"{name} {runtime[name]} after {before[name]}"
        for name in _MAY_CHANGE_BYTES
        if None not in (before.get(name), runtime[name]) and before[name] != runtime[name]
    ]
    if not changed:
        return None
    return (
        f"--resume: goes on with {', '.join(changed)}: the bytes may differ from those of a run that was never stopped"
    )


def file_config(run: RunFolder, checkpoint: Checkpoint) -> TrainConfig:
    """The checkpoint's config, with the epochs of config.json. Raises InputError that lists where else they differ."""
    saved, in_file = checkpoint.config, run.read_config()
    if in_file is None:
        return saved
    values, saved_values = in_file.to_dict(), saved.to_dict()
    differing = [
        f"{name} is {value!r} there, {saved_values[name]!r} in the checkpoint"
        for name, value in values.items()
        if (value < saved.epochs if name == "epochs" else value != saved_values[name])
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
        f"--{name.replace('_', '-')} is {getattr(saved, name)}, not {value}"
        for name, value in sorted(asked.items())
        if value != getattr(saved, name)
    ]
    if differing:
        raise InputError(f"--resume: the run was made with other settings: {'; '.join(differing)}")
    if epochs < saved.epochs:
        raise InputError(f"--resume: --epochs {epochs} is less than the run's {saved.epochs}; it may only grow")
    return replace(saved, epochs=epochs)


def keeping_of(default: Keeping, every: int | None, last: int | None) -> Keeping:
    """The flags, where given. Raises InputError."""
    keeping = Keeping(default.every if every is None else every, default.last if last is None else last)
    keeping.check()
    return keeping


def select_as_before(
    backend_name: str,
    precision: str | None,
    kernels_name: str,
    products: blas.Products,
    before: dict[str, Any],
    config: TrainConfig,
    report: Callable[[str], None],
) -> tuple[Backend, str, kernels.Kernels]:
    """Backend, precision and kernels for ``config``. What is "auto" stays, where it can, as the resumed checkpoint has it.

    ``before``: that checkpoint's ``runtime``, empty for a new run. Raises InputError.
    """
    asked_for = backend_name
    if backend_name == "auto" and before.get("backend") == "numpy":
        backend_name = "numpy"
    if precision is None:
        same = before.get("backend") == backend_name or backend_name == "auto"
        precision = (before.get("precision") if same else None) or "fp32"
    if precision == "tf32" and config.eval_every is not None:
        raise InputError(
            "--eval-every measures in float32, so not with --precision tf32: npgan evaluate can, afterwards"
        )
    backend = select(backend_name, precision)
    if backend_name != asked_for:
        backend = replace(backend, reason="as before")
    if kernels_name == "auto" and before.get("kernels") == "reference":
        return backend, precision, replace(kernels.REFERENCE, reason="as before")
    if backend.name == "numpy":
        return backend, precision, kernels.select(kernels_name, products.threads, report, products.asked)
    return backend, precision, kernels.select_for_gpu(kernels_name, backend.xp, precision, unsupported(config), report)
