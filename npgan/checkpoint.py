"""A checkpoint is one safetensors file that appears whole or not at all. No pickle anywhere.

Tensors: ``generator.0.weight`` … and ``discriminator.0.weight`` … by the networks' own names; ``generator.adam.m`` and ``.v``
(and the discriminator's) as flat vectors in the order of the tensors; ``training.epoch_totals``, the sums of the metrics
over the iterations of the unfinished epoch, so that a run stopped inside an epoch reports it as if it had not been.
Metadata: one entry ``npgan`` = "<sha256> <JSON>". safetensors writes several entries in an order that differs from process to
process; with one entry the same state always gives the same bytes. The hash covers the JSON and every tensor.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgan.backend import Backend, to_numpy
from npgan.config import TrainConfig
from npgan.errors import InputError
from npgan.optim import Adam
from npgan.training import TrainState, new_networks

FORMAT = 1
EPOCH_TOTALS = "training.epoch_totals"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: arrays in main memory by name, and the metadata."""

    path: Path
    config: TrainConfig
    step: int
    runtime: dict[str, Any]  # how it was run: backend, precision, data …; not part of the config
    tensors: dict[str, np.ndarray]

    @property
    def epoch_totals(self) -> np.ndarray:
        return self.tensors[EPOCH_TOTALS]


def save(path: Path, state: TrainState, config: TrainConfig, runtime: dict[str, Any], epoch_totals: np.ndarray) -> None:
    """Writes the state to ``path``: a temporary file, flushed to disk, renamed, the folder flushed. May raise OSError."""
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(to_numpy(array)) for name, array in _named_arrays(state).items()}
    tensors[EPOCH_TOTALS] = np.asarray(epoch_totals, dtype=np.float64)
    metadata = {"format": FORMAT, "step": state.step, "config": config.to_dict(), "runtime": runtime}
    body = json.dumps(metadata, sort_keys=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, {"npgan": f"{_digest(body, tensors)} {body}"})
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> Checkpoint:
    """Reads and checks a whole file. Raises InputError, naming the file, for anything but an intact npgan checkpoint."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            digest, _, body = metadata.get("npgan", "").partition(" ")
            if not body:
                raise InputError(f"{path}: not an npgan checkpoint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged checkpoint: {str(error).splitlines()[0]}") from None
    if digest != _digest(body, tensors):
        raise InputError(f"{path}: damaged checkpoint: its checksum does not match")
    values = json.loads(body)  # intact, so what save wrote
    if values["format"] != FORMAT:
        raise InputError(f"{path}: checkpoint format {values['format']}, this version of npgan reads {FORMAT}")
    return Checkpoint(path, TrainConfig.from_dict(values["config"]), values["step"], values["runtime"], tensors)


def restore(checkpoint: Checkpoint, backend: Backend) -> TrainState:
    """The training state that was saved, on ``backend``. Raises InputError when the tensors do not fit the config."""
    config, tensors = checkpoint.config, checkpoint.tensors
    g, d = new_networks(config, backend)
    betas = (config.beta1, config.beta2, config.adam_epsilon)
    adam_g = Adam.for_parameters(g.parameters, config.lr_g, *betas)
    adam_d = Adam.for_parameters(d.parameters, config.lr_d, *betas)
    adam_g.step = adam_d.step = checkpoint.step  # both nets are updated once in every iteration
    state = TrainState(g, d, adam_g, adam_d, checkpoint.step)
    expected = _named_arrays(state)
    if set(tensors) != {*expected, EPOCH_TOTALS}:
        raise InputError(f"{checkpoint.path}: its tensors are not those of its configuration")
    for name, array in expected.items():
        if tensors[name].shape != array.shape or tensors[name].dtype != array.dtype:
            raise InputError(
                f"{checkpoint.path}: tensor {name} has shape {tensors[name].shape}, expected {array.shape}"
            )
        array[...] = backend.to_device(tensors[name])
    return state


def publish(temporary: Path, path: Path) -> None:
    """Gives a finished temporary file its name so that a kill or a power cut leaves the old file or the new one."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _named_arrays(state: TrainState) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for net_name, net, adam in (
        ("generator", state.generator, state.adam_g),
        ("discriminator", state.discriminator, state.adam_d),
    ):
        arrays |= {f"{net_name}.{name}": array for name, array in net.tensors.items()}
        arrays |= {f"{net_name}.adam.m": adam.m, f"{net_name}.adam.v": adam.v}
    return arrays


def _digest(body: str, tensors: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256(body.encode())
    for name in sorted(tensors):
        array = tensors[name]
        sha.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
