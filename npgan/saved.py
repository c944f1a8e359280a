"""Networks from files that ``Sequential.save`` wrote."""

from __future__ import annotations

import json
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
    try:
        layers = [_layer(written) for written in json.loads(metadata["layers"])[1:]]
        dtype = next(iter(tensors.values())).dtype if tensors else np.float32
        net = Sequential(layers, dtype, xp)
        if {name: tensor.shape for name, tensor in tensors.items()} != net.shapes():
            raise ValueError("its tensors are not those of its layers")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise InputError(f"{path}: not a network of npgan: {error}") from None
    for name, tensor in tensors.items():
        net.tensors[name][...] = xp.asarray(tensor)
    return net


def _layer(written: list[Any]) -> Layer:
    known = {each.__name__: each for each in Layer.__subclasses__()}
    kind, arguments = known[written[0]], written[1:]
    return kind([_layer(each) for each in arguments]) if kind is Sequential else kind(*arguments)
