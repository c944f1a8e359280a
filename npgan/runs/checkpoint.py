"""A checkpoint is one safetensors file that appears whole or not at all. No pickle anywhere.

Tensors: ``generator.0.weight`` … and ``discriminator.0.weight`` … by the networks' own names; ``generator.adam.m`` and ``.v``
(and the discriminator's) as flat vectors in the order of the tensors; ``training.epoch_totals``, the sums of the metrics
over the iterations of the unfinished epoch, so that a run stopped inside an epoch reports it as if it had not been.
Metadata: one entry ``npgan`` = "<sha256> <JSON>". safetensors writes several entries in an order that differs from process to
process; with one entry the same state always gives the same bytes. The hash covers the JSON and every tensor.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from npgan import gan
from npgan.backend import Array, Backend, Shape, to_numpy
from npgan.config import OtherVersion, TrainConfig
from npgan.errors import InputError, first_line
from npgan.files import atomic_path
from npgan.gan import StepMetrics, TrainState, new_state

FORMAT = 1
EPOCH_TOTALS = "training.epoch_totals"
AVERAGE = "generator.average"  # of G's parameters, where the config has an ``ema``
_MOST_HEADER_BYTES = 1 << 16  # ours have 5,000. A header of nothing but tiny entries would ask for many times its size
_TEXTS = {"backend", "precision", "kernels", "gemm", "products", "data_dir", "data_sha256", "workers"}  # of ``runtime``
_COUNTS = ("checkpoint_every", "keep")  # likewise


class DamagedCheckpoint(InputError):
    """The file does not hold what was written, or what npgan could have written."""


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

    if not os.path.lexists(path):
        raise InputError(f"{path}: no such checkpoint")
    if not path.is_file():  # opening a pipe would wait for ever
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: not a regular file")
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
        kind = DamagedCheckpoint if error.errno == errno.EIO else InputError
        raise kind(f"{path}: cannot be read: {first_line(error)}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: {first_line(error)}") from None
    if digest != _digest(body, tensors):
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: its checksum does not match")
    for name, array in tensors.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise DamagedCheckpoint(f"{path}: damaged checkpoint: tensor {name} is not all finite numbers")
        if name.endswith(".adam.v") and (array < 0).any():
            raise DamagedCheckpoint(f"{path}: damaged checkpoint: tensor {name} holds negative means of squares")
    return Checkpoint(path, *_read_metadata(path, body), tensors)


def _read_metadata(path: Path, body: str) -> tuple[TrainConfig, int, dict[str, Any]]:
    """Config, step and runtime. The checksum was right, so anything strange was written by another program."""
    try:
        values = json.loads(body)
        if values["format"] != FORMAT:
            raise OtherVersion(f"checkpoint format {values['format']!r}, this version of npgan reads {FORMAT}")
        step, runtime = values["step"], dict(values["runtime"])
        texts = [text for name in _TEXTS & set(runtime) if (text := runtime[name]) is not None]
        if type(step) is not int or not 0 <= step < 2**32 or not all(map(_is_text, texts)):
            raise ValueError("step or runtime")
        if runtime.get("precision") not in (None, "fp32", "tf32") or not all(
            _is_count(runtime.get(n)) for n in _COUNTS
        ):
            raise ValueError("precision, checkpoint_every or keep")
        return TrainConfig.from_dict(dict(values["config"])), step, runtime
    except OtherVersion as error:
        raise InputError(f"{path}: {error}") from None
    except InputError as error:
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: its configuration: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedCheckpoint(f"{path}: damaged checkpoint: its metadata are not those of a run") from None


def _is_count(value: object) -> bool:
    return value is None or (type(value) is int and 1 <= value < 2**31)


def _is_text(value: object) -> bool:
    """Text that may be a path, in whatever encoding paths have here."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def restore(checkpoint: Checkpoint, backend: Backend) -> TrainState:
    """The training state that was saved, on ``backend``. Raises DamagedCheckpoint when the tensors do not fit the config."""
    check_fits(checkpoint)
    state = new_state(checkpoint.config, backend)
    load_into(checkpoint, state, backend)
    return state


def check_fits(checkpoint: Checkpoint) -> None:
    """Raises DamagedCheckpoint when the tensors are not those of the config's networks. Allocates none of these."""
    expected, tensors = _layout(checkpoint.config), checkpoint.tensors
    damaged = f"{checkpoint.path}: damaged checkpoint:"
    if missing := sorted(set(expected) - set(tensors)):
        raise DamagedCheckpoint(f"{damaged} tensor {missing[0]} is missing")
    if unknown := sorted(set(tensors) - set(expected)):
        raise DamagedCheckpoint(f"{damaged} tensor {unknown[0]} is not one of its networks")
    for name, (shape, dtype) in expected.items():
        array = tensors[name]
        if (array.shape, array.dtype) != (shape, dtype):
            raise DamagedCheckpoint(
                f"{damaged} tensor {name} is {array.dtype.name} {array.shape}, expected {dtype.name} {shape}"
            )


def _layout(config: TrainConfig) -> dict[str, tuple[Shape, np.dtype[Any]]]:
    """Shape and dtype of every tensor of a checkpoint, by name."""
    xp = cast(ModuleType, _Weightless)
    generator, discriminator = gan.generator(config, xp=xp, drawn=False), gan.discriminator(config, xp=xp, drawn=False)
    arrays: dict[str, np.ndarray] = {EPOCH_TOTALS: np.zeros(len(StepMetrics._fields))}
    for name, net in (("generator", generator), ("discriminator", discriminator)):
        moments = {"adam.m": net.parameters, "adam.v": net.parameters}
        arrays |= {f"{name}.{tensor}": array for tensor, array in (net.tensors | moments).items()}
    if config.ema:
        arrays[AVERAGE] = generator.parameters
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


class _Weightless:
    """In the place of NumPy, for networks of any size of which only the shapes are wanted."""

    @staticmethod
    def zeros(count: int, dtype: Any) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), count)


def load_into(checkpoint: Checkpoint, state: TrainState, backend: Backend) -> None:
    """Sets the state to what was saved, in the arrays that it has; they must be of the checkpoint's config."""
    for name, array in _named_arrays(state).items():
        array[...] = backend.to_device(checkpoint.tensors[name])
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
    return arrays if state.average is None else arrays | {AVERAGE: state.average.parameters}


def _digest(body: str, tensors: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256(body.encode())
    for name in sorted(tensors):
        array = tensors[name]
        sha.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
