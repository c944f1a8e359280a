"""Networks from files that ``save`` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from npgan.errors import InputError
from npgan.files import read_tensors
from npgan.nn.layers import Layer
from npgan.nn.network import Sequential


def load(path: str | Path, xp: ModuleType = np) -> Sequential:
    """The network that ``net.save(path)`` wrote. Layers of your own are found by the names of their classes.

    Raises InputError, naming the file, for anything else.
    """
    tensors, metadata = read_tensors(Path(path))
    dtype = next((tensor.dtype for tensor in tensors.values()), np.float32)
    try:
        layers = _layer(json.loads(metadata["network"]), dtype, xp)
        net = layers if isinstance(layers, Sequential) else Sequential([layers], dtype, xp, seed=None)
        if {name: tensor.shape for name, tensor in tensors.items()} != net.shapes():
            raise ValueError("its tensors are not those of its layers")
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("its tensors are not all finite numbers")
    except (ValueError, KeyError, TypeError, IndexError, NotImplementedError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not a network of npgan: {error}") from None
    for name, tensor in tensors.items():
        net.tensors[name][...] = xp.asarray(tensor)
    return net


def _layer(written: list[Any], dtype: Any, xp: ModuleType) -> Layer:
    classes = {each.__name__: each for each in _subclasses(Layer)}
    name, *arguments = written
    if name not in classes:
        raise ValueError(f"no layer called {name!r}: import or define its class first")
    if classes[name] is Sequential:
        return Sequential([_layer(each, dtype, xp) for each in arguments], dtype, xp, seed=None)
    return classes[name](*arguments)


def _subclasses(kind: type[Layer]) -> Iterator[type[Layer]]:
    """In the order of their definition, so that of two with one name the newer one is taken."""
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)
