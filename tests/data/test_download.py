"""Mirrors that send too much, too slowly or for ever: real HTTP, from this machine to itself."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import struct
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from npgan.data import mnist as data
from npgan.data.mnist import DownloadError, load_dataset

IMAGE_FILE = struct.pack(">4I", 0x803, 3, 28, 28) + bytes(3 * 784)
LABEL_FILE = struct.pack(">2I", 0x801, 3) + bytes(3)
CONTENT = {name: IMAGE_FILE if "images" in name else LABEL_FILE for name in data.MNIST_SHA256}

BOMB = gzip.compress(bytes(30_000_000))

Answer = Callable[[socket.socket, str], None]  # to a request for a file of this name


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], list[int]]]:
    """A server on this machine that answers as told. Returns the bytes that it has sent, one entry a connection."""
    server = socket.create_server(("127.0.0.1", 0))
    sent: list[int] = []
    stop = threading.Event()

    def serve(answer: Answer) -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(answer, connection), daemon=True).start()

    def talk(answer: Answer, connection: socket.socket) -> None:
        place = len(sent)
        sent.append(0)

        class Counted:
            def sendall(self, piece: bytes) -> None:
                connection.sendall(piece)
                sent[place] += len(piece)
                if stop.is_set():
                    raise OSError("the test is over")

        with connection:
            try:
                name = connection.recv(4096).split()[1].decode().rpartition("/")[2]
                answer(Counted(), name)  # type: ignore[arg-type]
            except OSError:
                pass

    def install(answer: Answer) -> list[int]:
        threading.Thread(target=serve, args=(answer,), daemon=True).start()
        return sent

    monkeypatch.setenv("NPGAN_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "MIRRORS", (f"http://127.0.0.1:{server.getsockname()[1]}/",))
    monkeypatch.setattr(
        data, "MNIST_SHA256", {name: hashlib.sha256(file).hexdigest() for name, file in CONTENT.items()}
    )
    monkeypatch.setattr(data, "_BYTES", {name: (40_000, len(file)) for name, file in CONTENT.items()})
    monkeypatch.setattr(data, "_PATIENCE", 0.2)
    yield install
    stop.set()
    server.close()


def _headers(length: int | None, status: str = "200 OK", more: str = "") -> bytes:
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {status}\r\n{size}{more}Connection: close\r\n\r\n".encode()


def _good(connection: socket.socket, name: str) -> None:
    packed = gzip.compress(CONTENT[name.removesuffix(".gz")])
    connection.sendall(_headers(len(packed)) + packed)


def _endless(connection: socket.socket, name: str) -> None:
    connection.sendall(_headers(None))
    while True:
        connection.sendall(bytes(10_000))


def _endless_redirection(connection: socket.socket, name: str) -> None:
    connection.sendall(_headers(None, "302 Found", "Location: /elsewhere\r\n"))
    while True:
        connection.sendall(bytes(10_000))


def _more_than_it_says(connection: socket.socket, name: str) -> None:
    connection.sendall(_headers(2_000_000_000))
    while True:
        connection.sendall(bytes(10_000))


def _bomb(connection: socket.socket, name: str) -> None:
    connection.sendall(_headers(len(BOMB)) + BOMB)


def _drops(connection: socket.socket, name: str) -> None:
    connection.sendall(_headers(1000))
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def _drops_from_the_start(connection: socket.socket, name: str) -> None:
    for letter in _headers(1000) + bytes(1000):
        connection.sendall(bytes([letter]))
        time.sleep(0.02)


def _silence(connection: socket.socket, name: str) -> None:
    time.sleep(5)


def test_a_good_mirror(mirror: Callable[[Answer], list[int]], tmp_path: Path) -> None:
    mirror(_good)
    opener = urllib.request._opener  # type: ignore[attr-defined]
    dataset = load_dataset("mnist")
    assert dataset.labels is not None and np.array_equal(dataset.images, np.zeros((3, 784)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "mnist").iterdir()} == CONTENT
    assert urllib.request._opener is opener  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "words", "most"),
    [
        (_endless, "is longer than the 40,000 bytes that it must have", 8_000_000),  # what the sockets hold besides
        (_more_than_it_says, "is longer than the 40,000 bytes that it must have", 8_000_000),
        (_endless_redirection, "infinite loop", 80_000_000),
        (_bomb, "wrong SHA-256 of train-images-idx3-ubyte", 4 * 40_000),
        (_drops, "too slow: ", 1000),
        (_drops_from_the_start, "too slow: 0 bytes in 0.2 s", 1000),
        (_silence, "too slow: 0 bytes in 0.2 s", 0),
    ],
)
def test_a_mirror_without_bounds_is_given_up(
    mirror: Callable[[Answer], list[int]], tmp_path: Path, answer: Answer, words: str, most: int
) -> None:
    sent = mirror(answer)
    begin = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(DownloadError) as error:
            load_dataset("mnist")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert words in str(error.value) and "\n" not in str(error.value)
    assert time.perf_counter() - begin < 3 and sum(sent) <= most
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert socket.getdefaulttimeout() is None
    assert os.listdir(tmp_path / "cache") == ["mnist"]
