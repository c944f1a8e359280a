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
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgan.backend import Array, Backend, to_numpy
from npgan.config import TrainConfig
from npgan.errors import InputError
from npgan.files import atomic_path
from npgan.gan import StepMetrics, TrainState, new_state

FORMAT = 1
EPOCH_TOTALS = "training.epoch_totals"
_MOST_HEADER_BYTES = 1 << 16  # ours have 5,000. A header of nothing but tiny entries would ask for many times its size
_TEXTS = {"backend", "precision", "kernels", "gemm", "products", "data_dir", "data_sha256"}  # of ``runtime``


class DamagedCheckpoint(InputError):
    """The file does not hold what was written."""


class NotFinite(RuntimeError):
    """A tensor that was to be saved holds NaN or infinity."""


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
    """Writes the state to ``path``: a temporary file, flushed to disk, renamed, the folder flushed.

    Raises OSError, and NotFinite, before anything is written, for a state that training cannot go on from.
    """
    from safetensors import SafetensorError, TensorSpec, serialize_file

    tensors = {name: np.ascontiguousarray(to_numpy(array)) for name, array in _named_arrays(state).items()}
    tensors[EPOCH_TOTALS] = np.asarray(epoch_totals, dtype=np.float64)
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise NotFinite(name)
    metadata = {"format": FORMAT, "step": state.step, "config": config.to_dict(), "runtime": runtime}
    body = json.dumps(metadata, sort_keys=True)
    specs = {
        name: TensorSpec(dtype=array.dtype.name, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
        for name, array in tensors.items()
    }
    with atomic_path(path) as temporary:
        try:  # not safetensors.numpy.save: it holds the whole file twice
            serialize_file(specs, temporary, metadata={"npgan": f"{_digest(body, tensors)} {body}"})
        except SafetensorError as error:
            raise _os_error(error) from None


def _os_error(error: Exception) -> OSError:
    """safetensors reports a full disk as text, such as "No space left on device (os error 28) at path …"."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def load(path: Path) -> Checkpoint:
    """Reads and checks a whole file. Holds no more than the tensors, which are smaller than the file.

    Raises DamagedCheckpoint, an InputError that names the file, for anything but an intact npgan checkpoint, and a plain
    InputError for a file that cannot be read or was written by a version of npgan with another format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with open(path, "rb") as opened:
            if int.from_bytes(opened.read(8), "little") > _MOST_HEADER_BYTES:
                raise DamagedCheckpoint(f"{path}: damaged checkpoint: its header is too long")
        with safe_open(path, framework="np") as file:
            digest, _, body = (file.metadata() or {}).get("npgan", "").partition(" ")
            if not body:
                raise DamagedCheckpoint(f"{path}: not an npgan checkpoint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or ["no safetensors file"])[0]
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: {reason}") from None
    if digest != _digest(body, tensors):
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: its checksum does not match")
    return Checkpoint(path, *_read_metadata(path, body), tensors)


def _read_metadata(path: Path, body: str) -> tuple[TrainConfig, int, dict[str, Any]]:
    """Config, step and runtime. The checksum was right, so anything strange was written by another program."""
    try:
        values = json.loads(body)
        if values["format"] != FORMAT:
            raise InputError(f"{path}: checkpoint format {values['format']!r}, this version of npgan reads {FORMAT}")
        step, runtime = values["step"], values["runtime"]
        texts = [runtime[name] for name in _TEXTS & set(runtime)]
        if type(step) is not int or not 0 <= step < 2**53 or not all(isinstance(text, str | None) for text in texts):
            raise ValueError("step or runtime")
        return TrainConfig.from_dict(dict(values["config"])), step, dict(runtime)
    except InputError as error:
        raise InputError(error if str(error).startswith(f"{path}:") else f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: its metadata are not those of a run") from None


def restore(checkpoint: Checkpoint, backend: Backend) -> TrainState:
    """The training state that was saved, on ``backend``. Raises InputError when the tensors do not fit the config."""
    first = checkpoint.tensors.get("generator.0.weight")
    if first is None or checkpoint.config.latent_dim not in first.shape:  # before networks of that size are allocated
        raise InputError(f"{checkpoint.path}: its tensor generator.0.weight is not that of its configuration")
    state = new_state(checkpoint.config, backend)
    load_into(checkpoint, state, backend)
    return state


def load_into(checkpoint: Checkpoint, state: TrainState, backend: Backend) -> None:
    """Sets the state to what was saved, in the arrays that it has. Raises InputError when the tensors do not fit them."""
    tensors = checkpoint.tensors
    expected = _named_arrays(state)
    if set(tensors) != {*expected, EPOCH_TOTALS}:
        raise InputError(f"{checkpoint.path}: its tensors are not those of its configuration")
    for name, array in expected.items():
        if tensors[name].shape != array.shape or tensors[name].dtype != array.dtype:
            raise InputError(
                f"{checkpoint.path}: tensor {name} has shape {tensors[name].shape}, expected {array.shape}"
            )
        array[...] = backend.to_device(tensors[name])
    totals = checkpoint.epoch_totals
    if totals.shape != (len(StepMetrics._fields),) or totals.dtype != np.float64:
        raise InputError(f"{checkpoint.path}: tensor {EPOCH_TOTALS} is not one number for each metric")
    # both nets are updated once in every iteration
    state.step = state.optimizer_g.step = state.optimizer_d.step = checkpoint.step


def _named_arrays(state: TrainState) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, net, optimizer in (
        ("generator", state.generator, state.optimizer_g),
        ("discriminator", state.discriminator, state.optimizer_d),
    ):
        arrays |= {f"{name}.{tensor}": array for tensor, array in net.tensors.items()}
        arrays |= {f"{name}.adam.m": optimizer.m, f"{name}.adam.v": optimizer.v}
    return arrays


def _digest(body: str, tensors: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256(body.encode())
    for name in sorted(tensors):
        array = tensors[name]
        sha.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
