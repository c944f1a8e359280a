"""The job behind ``npgan sample``: images from a trained run."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np

from npgan.backend import Backend, select, to_numpy
from npgan.errors import InputError
from npgan.files import named_output
from npgan.nn import philox
from npgan.nn.network import Sequential
from npgan.runs.checkpoint import restore
from npgan.runs.folder import RunFolder
from npgan.runs.owned import is_of_a_run
from npgan.runs.pictures import save_grid


def generate(run_path: Path, count: int, out: Path | None, *, seed: int, interpolate: bool, backend_name: str) -> str:
    """Draws from a run's latest checkpoint into ``out`` (.png: a grid; .npy: float32 (count, 28, 28) in [−1, 1]).

    None: samples.png, or the next name that nobody has: what nobody named is not replaced.
    ``interpolate``: each row of eight walks on a great circle from one noise vector to another. Returns a line to print.
    """
    out = out or _free_name()
    if out.suffix not in (".png", ".npy"):
        raise InputError(f"--out {out}: must end in .png or .npy")
    _check_folder(out)
    if is_of_a_run(out):
        raise InputError(f"--out {out}: is a file of a run: name another one")
    if not 1 <= count <= 1_000_000:
        raise InputError(f"--n must be from 1 to 1000000, got {count}")
    if not 0 <= seed < 2**64:
        raise InputError(f"--seed must be from 0 to 2**64 - 1, got {seed}")
    backend = select(backend_name)
    checkpoint = RunFolder.open_existing(run_path).latest_checkpoint()
    g = restore(checkpoint, backend).sampler
    latent_dim = checkpoint.config.latent_dim
    if count * latent_dim >= 2**32:
        raise InputError(f"--n {count} times {latent_dim} numbers are more than one draw has: take fewer")
    noise = _interpolation(seed, count, latent_dim) if interpolate else noise_vectors(seed, count, latent_dim)
    with np.errstate(all="ignore"):  # what is not finite is told below
        images = _generate_in_batches(g, noise, backend).reshape(count, 28, 28)
    if not np.isfinite(images).all():
        raise InputError(f"{checkpoint.path}: its generator makes images that are not all finite numbers")
    try:
        if out.suffix == ".npy":
            with named_output(out) as file:
                np.save(file, images)
        else:
            save_grid(images, out.resolve())  # not in the place of a link
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    return f"{out}: {count} samples of {run_path} after step {checkpoint.step}"


def animate(run_path: Path, out: Path | None, colormap: str) -> str:
    """The pictures that training left in a run, as a GIF: ``out`` or samples/training.gif. Returns a line to print."""
    if out is not None:
        if out.suffix != ".gif":
            raise InputError(f"--out {out}: must end in .gif with --animate")
        _check_folder(out)
    run = RunFolder.open_existing(run_path)
    out = out or run.animation_file
    try:
        frames, epoch = run.save_animation(out.resolve(), colormap)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    return f"{out}: {frames} {'picture' if frames == 1 else 'pictures'} of {run_path} up to epoch {epoch}"


def _free_name() -> Path:
    names = (Path(f"samples-{number}.png") for number in itertools.count(2))
    return next(path for path in itertools.chain([Path("samples.png")], names) if not os.path.lexists(path))


def _check_folder(out: Path) -> None:
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist")
    if out.exists() and not out.is_file():  # opening a pipe would wait for ever
        raise InputError(f"--out {out}: is not a regular file")


def _generate_in_batches(g: Sequential, noise: np.ndarray, backend: Backend, rows: int = 1000) -> np.ndarray:
    parts = [noise[start : start + rows] for start in range(0, len(noise), rows)]
    return np.concatenate([to_numpy(g(backend.to_device(part))) for part in parts])


def noise_vectors(seed: int, count: int, latent_dim: int, site: int = 0) -> np.ndarray:
    return philox.normal(seed, philox.Stream.EVAL, 0, site, (count, latent_dim))


def _interpolation(seed: int, count: int, latent_dim: int, columns: int = 8) -> np.ndarray:
    """Noise (count, Z) in rows of ``columns``, from one draw to another along a great circle."""
    rows = -(-count // columns)
    start, end = (noise_vectors(seed, rows, latent_dim, site)[:, None, :] for site in (0, 1))
    walk = great_circle(start, end, np.linspace(0.0, 1.0, columns)[None, :, None])
    return walk.reshape(rows * columns, latent_dim)[:count]


def great_circle(start: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """From ``start`` (t = 0) to ``end`` (1), float32 (…, Z); White 2016, "Sampling Generative Networks".

    On the straight line between two Gaussian vectors the middle is too short to be one; on the circle lengths stay typical.
    Vectors of one direction, or of opposite ones, have no circle of their own: between them the line is taken.
    """
    start, end = start.astype(np.float64), end.astype(np.float64)
    lengths = np.linalg.norm(start, axis=-1) * np.linalg.norm(end, axis=-1)
    cosine = np.sum(start * end, axis=-1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))[..., None]
    sine = np.sin(angle)
    on_line = sine < 1e-6
    sine = np.where(on_line, 1.0, sine)
    of_start = np.where(on_line, 1.0 - t, np.sin((1.0 - t) * angle) / sine)
    of_end = np.where(on_line, t, np.sin(t * angle) / sine)
    return (of_start * start + of_end * end).astype(np.float32)
