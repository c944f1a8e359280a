"""What networks say of themselves, and the files that they are kept in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npgan
from npgan import Dense, Dropout, InputError, Layer, LeakyReLU, Maxout, ReLU, Sequential, Sigmoid, Softmax, Tanh
from npgan.files import read_tensors, write_tensors


class Shift(Layer):
    """A layer of a user's own: y = x + shift."""

    def __init__(self, width: int, start: float = 0.5) -> None:
        self.width, self.start = width, start

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"shift": (self.width,)}

    def initialize(self, seed: int, site: int) -> None:
        self.shift = self.tensors["shift"]
        self.shift[...] = self.start

    def forward(self, x: Any, key: Any = None) -> tuple[Any, None]:
        return x + self.shift, None


def _net(dtype: Any = np.float32) -> Sequential:
    inner = Sequential([Dense(8, 6), Maxout(3), ReLU()])
    layers = [Shift(4), Dense(4, 8), LeakyReLU(0.1), Dropout(0.25), inner, Dense(2, 3), Tanh(), Sigmoid(), Softmax()]
    return Sequential(layers, dtype, seed=5)


def test_a_network_prints_as_a_table() -> None:
    assert repr(_net()).splitlines() == _net().summary().splitlines()
    assert [line.rstrip() for line in Sequential([Dense(2, 3), LeakyReLU()]).summary().splitlines()] == [
        "   layer           tensors                   output  parameters",
        "0  Dense(2, 3)     weight (2, 3), bias (3,)       3           9",
        "1  LeakyReLU(0.2)                                 3           0",
        "                                                              9",
    ]


def test_a_layer_that_does_not_keep_its_arguments_prints_too() -> None:
    class Forgetful(Tanh):
        def __init__(self, gain: float) -> None:
            pass

    net = Sequential([Forgetful(2.0)])
    assert "Forgetful(…)" in repr(net)
    with pytest.raises(ValueError, match="cannot be saved: it must keep its arguments"):
        net.save("never-written.safetensors")
    assert not Path("never-written.safetensors").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_saved_network_is_the_same_when_loaded(dtype: Any, tmp_path: Path) -> None:
    net = _net(dtype)
    net.parameters += np.arange(net.size, dtype=dtype)
    net.save(str(tmp_path / "net.safetensors"))
    loaded = npgan.load(tmp_path / "net.safetensors")
    assert repr(loaded) == repr(net) and loaded.parameters.dtype == dtype
    assert [type(layer) for layer in loaded.leaves()] == [type(layer) for layer in net.leaves()]
    assert loaded.parameters.tobytes() == net.parameters.tobytes()
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(dtype)
    key = npgan.DropoutKey(1, 2, 0)
    np.testing.assert_array_equal(loaded.forward(x, key)[0], net.forward(x, key)[0])


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (None, "'network'"),
        ("[]", "not enough values"),
        ("{}", "not enough values"),
        ("7", "cannot unpack"),
        ('["Sequential"]', "takes a list of layers"),
        ('["Sequential", ["Nope", 1]]', "no layer called 'Nope'"),
        ('["Sequential", ["Dense", 2, 3]]', "tensors are not those"),
        ('["Sequential", ["Dense", 2, "x"]]', "wanted whole numbers"),
        ('["Sequential", ["Dense", 2]]', "missing 1 required"),
        ("[" * 5000, "recursion"),
    ],
)
def test_files_that_are_no_networks_are_one_line(network: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_tensors(path, {"0.weight": np.ones((2, 2))}, {} if network is None else {"network": network})
    with pytest.raises(InputError, match=told) as caught:
        npgan.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_asks_for_more_memory_than_there_is_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_tensors(path, {"0.weight": np.ones((2, 2))}, {"network": '["Sequential", ["Dense", 3, 1000000000000]]'})
    with pytest.raises(InputError, match="not a network of npgan"):
        npgan.load(path)


def test_a_loaded_network_keeps_its_parameters_in_another_one(tmp_path: Path) -> None:
    Sequential([Dense(4, 3)], seed=2).save(tmp_path / "net.safetensors")
    loaded = npgan.load(tmp_path / "net.safetensors")
    before = loaded.parameters.copy()
    Sequential([loaded, Dense(3, 1)], seed=7)
    np.testing.assert_array_equal(loaded.parameters, before)


def test_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for content in (b"", b"not a file of tensors", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            npgan.load(path)
    with pytest.raises(InputError, match="missing"):
        npgan.load(tmp_path / "missing.safetensors")


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([7])}
    write_tensors(tmp_path / "t", tensors, {"key": "text"})
    read, metadata = read_tensors(tmp_path / "t")
    assert metadata == {"key": "text"} and list(read) == ["a", "b"]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


def test_all_public_names_are_there_and_completed() -> None:
    assert set(npgan.__all__) <= set(dir(npgan))
    for name in npgan.__all__:
        assert getattr(npgan, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        npgan.nothing  # noqa: B018 - it is the access that raises


def test_a_saved_network_with_nan_is_refused(tmp_path: Path) -> None:
    net = Sequential([Dense(3, 2)])
    net.parameters[1] = np.nan
    net.save(tmp_path / "net")
    with pytest.raises(InputError, match="not all finite numbers"):
        npgan.load(tmp_path / "net")
