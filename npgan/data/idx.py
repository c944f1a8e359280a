"""IDX files, the format of MNIST: big-endian 32-bit numbers (a magic, then the size of every axis), then the bytes.

idx2numpy decodes them, but it believes the header and asks for as many bytes as the header claims. So ``read_idx`` first
makes sure, piece by piece, that the file really holds what its header says, and only then hands the bytes over.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from npgan.errors import InputError
from npgan.files import replacing

Kind = Literal["images", "labels"]

SIDE = 28  # pixels in a row and in a column

_MAGIC = {"images": 0x0803, "labels": 0x0801}  # 08: unsigned bytes; 03 and 01: the number of axes
_HEADER_BYTES = {"images": 16, "labels": 8}
_GZIP_MAGIC = b"\x1f\x8b"
_PIECE = 1 << 18  # bytes read at once: all that a false claim can make us hold too many of


class IdxError(InputError):
    """The file is not what it should be: missing, damaged, of another kind or with other bytes."""


def read_idx(path: Path, kind: Kind, sha256: str | None = None) -> np.ndarray:
    """What an IDX file holds, plain or gzipped (its first two bytes tell): images uint8 (N, 784) or labels uint8 (N,).

    The array is C-contiguous and read-only. ``sha256``: what the decompressed file must hash to. Raises IdxError for
    every fault of the file. Holds at most twice the decompressed size.
    """
    content = _checked_bytes(path, kind)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise IdxError(f"{path} is not the original file: its SHA-256 differs")
    array = _decoded(content, kind)
    if kind == "images":
        return array.reshape(-1, SIDE * SIDE)
    if array.max() > 9:
        raise IdxError(f"{path} has a label {array.max()}: labels are 0 to 9")
    return array


def _decoded(content: bytes, kind: Kind) -> np.ndarray:
    """What follows the header, which has been checked."""
    if importlib.util.find_spec("idx2numpy") is None:  # a machine without it loses nothing: these are the same bytes
        return np.frombuffer(content, dtype=np.uint8, offset=_HEADER_BYTES[kind])
    import idx2numpy

    return idx2numpy.convert_from_string(content)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes uint8 (N, 28, 28) images or (N,) labels as a plain IDX file that appears whole or not at all.

    Raises OSError, and ValueError for another dtype. Not idx2numpy's writer: that one turns every byte into an argument
    of ``struct.pack``, about 2 GB of them for MNIST.
    """
    if array.dtype != np.uint8:
        raise ValueError(f"an IDX file of images or labels holds uint8, not {array.dtype}")
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    with replacing(path) as file:
        file.write(header)
        file.write(np.ascontiguousarray(array).data)


def _checked_bytes(path: Path, kind: Kind) -> bytes:
    """The whole decompressed file, header included, once it is known to be exactly as long as the header says."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise IdxError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}, not an IDX file")
        with open(path, "rb") as file:
            zipped = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if not zipped:
                return _read_as_claimed(file, path, kind)
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _read_as_claimed(unzipped, path, kind)
    except EOFError:
        raise IdxError(f"{path} is truncated: its gzip data ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise IdxError(f"{path} is damaged: its gzip data is corrupt ({error})") from None
    except OSError as error:
        raise IdxError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_as_claimed(stream: io.BufferedIOBase, path: Path, kind: Kind) -> bytes:
    """Reads in pieces, so that memory follows the bytes that are there and never the header's claim."""
    header = stream.read(_HEADER_BYTES[kind])
    claimed = _claimed_bytes(header, path, kind)
    pieces, missing = [header], claimed
    while missing > 0 and (piece := stream.read(min(missing, _PIECE))):
        pieces.append(piece)
        missing -= len(piece)
    if missing > 0:
        raise IdxError(f"{path} is truncated: its header promises {claimed:,} bytes of {kind}, {missing:,} are missing")
    if stream.read(1):  # reading to the end also makes gzip compare its checksum
        raise IdxError(f"{path} is damaged: more bytes follow than the {claimed:,} of {kind} in its header")
    return b"".join(pieces)


def _claimed_bytes(header: bytes, path: Path, kind: Kind) -> int:
    """How many bytes must follow ``header``. Raises IdxError for a header that no file of this ``kind`` has."""
    if not header:
        raise IdxError(f"{path} is empty")
    magic = int.from_bytes(header[:4], "big")
    other: Kind = "labels" if kind == "images" else "images"
    if len(header) >= 4 and magic == _MAGIC[other]:
        raise IdxError(f"{path} holds {other} where {kind} belong")
    if len(header) >= 4 and magic != _MAGIC[kind]:
        raise IdxError(f"{path} is not an IDX file of {kind}: it starts with {magic:08x}, not {_MAGIC[kind]:08x}")
    if len(header) < _HEADER_BYTES[kind]:
        raise IdxError(f"{path} is truncated: {len(header)} bytes are too few for an IDX header")
    count = int.from_bytes(header[4:8], "big")
    if count == 0:
        raise IdxError(f"{path} holds no {kind}")
    if kind == "labels":
        return count
    rows, columns = struct.unpack(">II", header[8:])
    if (rows, columns) != (SIDE, SIDE):
        raise IdxError(f"{path} has images of {rows}x{columns} pixels: {SIDE}x{SIDE} are needed")
    return count * SIDE * SIDE
