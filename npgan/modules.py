"""What layers and networks are besides their maths: flat vectors and views, places and draws, a table, a file."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from npgan import expect
from npgan.backend import Array, Shape
from npgan.files import write_tensors

SITES = 16  # so many layers of a network may draw in their forwards


class Module:
    """What ``Layer`` and ``Sequential`` have in common."""

    parameters: Array  # (P,)
    gradients: Array  # (P,)
    tensors: dict[str, Array]  # views into the parameters by name
    gradient_tensors: dict[str, Array]  # views into the gradients
    site: int | None = None  # a layer that draws in ``forward`` starts at 0 here, and its network numbers it
    placed = False  # in a network: a layer with tensors or a site has one place

    def shapes(self) -> dict[str, Shape]:
        return {}

    def initialize(self, seed: int, site: int) -> None:
        """Fills the layer's tensors. ``site`` tells this draw apart from those of other layers."""
        if self.shapes():
            raise NotImplementedError(f"{self!r} has tensors and no initialize(seed, site): they would stay 0")

    def output_width(self, width: int | None) -> int | None:
        """O for an input of I = ``width`` columns, None where the width is not known yet. Raises ValueError."""
        return width

    def leaves(self) -> Iterator[Module]:
        """The layer itself; of a network its layers, those of inner networks one by one."""
        yield self

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def bind(self, parameters: Array, gradients: Array) -> None:
        """Makes the tensors, such as ``weight`` and ``dweight``, views of two flat vectors (P,)."""
        self.parameters, self.gradients = parameters, gradients
        self.tensors, self.gradient_tensors, stop = {}, {}, 0
        for name, shape in self.shapes().items():
            start, stop = stop, stop + math.prod(shape)
            self.tensors[name] = parameters[start:stop].reshape(shape)
            self.gradient_tensors[name] = gradients[start:stop].reshape(shape)
            setattr(self, name, self.tensors[name])
            setattr(self, f"d{name}", self.gradient_tensors[name])

    def astype(self, dtype: Any) -> Self:
        """The same layer or network in another dtype, with parameters of its own."""
        twin = copy.deepcopy(self)
        twin.bind(self.parameters.astype(dtype), self.gradients.astype(dtype))
        return twin

    def arguments(self) -> list[Any]:
        """What the layer was made with: those of its attributes that have the names of its arguments."""
        return [getattr(self, name, ...) for name in inspect.signature(type(self)).parameters]

    def __repr__(self) -> str:
        arguments = ("…" if argument is ... else repr(argument) for argument in self.arguments())
        return f"{type(self).__name__}({', '.join(arguments)})"

    def summary(self) -> str:
        """A table of the layers: their tensors, the width that each hands on, and how many parameters it has."""
        rows, width, total = [("", "layer", "tensors", "output", "parameters")], None, 0
        for place, layer in enumerate(self.leaves()):
            width = layer.output_width(width)
            total += layer.size
            tensors = ", ".join(f"{name} {shape}" for name, shape in layer.shapes().items())
            rows.append((str(place), repr(layer), tensors, str(width or ""), f"{layer.size:,}"))
        rows.append(("", "", "", "", f"{total:,}"))
        a, b, c, d, e = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(f"{r[0]:>{a}}  {r[1]:<{b}}  {r[2]:<{c}}  {r[3]:>{d}}  {r[4]:>{e}}" for r in rows)

    def save(self, path: str | Path) -> None:
        """Writes layers and parameters to a safetensors file, which ``npgan.load`` reads.

        Raises OSError, and ValueError for a layer that does not keep what it was made with under the same names.
        """
        write_tensors(Path(path), self.tensors, {"network": json.dumps(self.written())})

    def written(self) -> list[Any]:
        """For ``save``: the name of the class and its arguments, numbers and texts all."""
        try:
            json.dumps(arguments := self.arguments())
        except TypeError:
            told = "cannot be saved: it must keep its arguments, numbers or texts, as attributes"
            raise ValueError(f"{self!r} {told}") from None
        return [type(self).__name__, *arguments]


class Chain(Module):
    """Layers in a row, over one vector of parameters and one of gradients."""

    drawn: tuple[int, int] | None = None  # the seed and the site of the initial parameters

    def __init__(
        self,
        layers: Sequence[Module],
        dtype: Any = np.float32,
        xp: ModuleType = np,
        seed: int | None = 0,
        site: int = 0,
    ) -> None:
        """Takes its width from its first Dense, and draws its parameters from the seed (``initialize``); None: all 0.

        An inner network that was trained or loaded before keeps its parameters. Raises ValueError when a layer does not
        fit the one before or stands in a network already, TypeError for what is no layer.
        """
        self.layers: list[Any] = list(layers) if isinstance(layers, Sequence) else [layers]
        if (
            not isinstance(layers, Sequence)
            or not layers
            or not all(isinstance(layer, Module) for layer in self.layers)
        ):
            raise TypeError(f"{type(self).__name__} takes a list of layers, got {layers!r}")
        if seed is not None:
            expect.whole_numbers("seed", 0, seed)
        if np.dtype(dtype).kind not in "fc":
            raise TypeError(f"parameters are floats, got the dtype {dtype!r}")
        self.output_width(None)
        for index, layer in enumerate(self.layers):
            if (layer.placed or layer in self.layers[:index]) and (layer.shapes() or layer.site is not None):
                name = type(layer).__name__
                raise ValueError(f"layer {index}, {name}, stands in a network already: make one for each place")
        drawing = [layer for layer in self.leaves() if layer.site is not None]
        if len(drawing) > SITES:
            raise ValueError(f"a network has at most {SITES} dropout layers, got {len(drawing)}")
        for number, layer in enumerate(drawing):
            layer.site = number
        inner = [layer for layer in self.layers if isinstance(layer, Chain)]
        trained = [(layer, layer.parameters) for layer in inner if layer.trained()]
        self.bind(xp.zeros(self.size, dtype), xp.zeros(self.size, dtype))
        if seed is not None:
            self.initialize(seed, site)
        for layer, parameters in trained:
            layer.parameters[...] = xp.asarray(parameters)
        for layer in self.layers:
            layer.placed = True

    def leaves(self) -> Iterator[Module]:
        for layer in self.layers:
            yield from layer.leaves()

    def shapes(self) -> dict[str, Shape]:
        named = ((index, layer.shapes()) for index, layer in enumerate(self.layers))
        return {f"{index}.{name}": shape for index, shapes in named for name, shape in shapes.items()}

    def bind(self, parameters: Array, gradients: Array) -> None:
        self.parameters, self.gradients, self.tensors, self.gradient_tensors, stop = parameters, gradients, {}, {}, 0
        for index, layer in enumerate(self.layers):
            start, stop = stop, stop + layer.size
            layer.bind(parameters[start:stop], gradients[start:stop])
            self.tensors |= {f"{index}.{name}": tensor for name, tensor in layer.tensors.items()}
            self.gradient_tensors |= {f"{index}.{name}": tensor for name, tensor in layer.gradient_tensors.items()}

    def initialize(self, seed: int, site: int = 0) -> None:
        """Draws every layer's tensors; ``site`` + the layer's place tells the draws apart."""
        self.drawn = seed, site
        for place, layer in enumerate(self.leaves()):
            layer.initialize(seed, site + place)

    def trained(self) -> bool:
        """Whether the parameters are others than those that were drawn."""
        if self.drawn is None:
            return True
        twin = self.astype(self.parameters.dtype)
        twin.initialize(*self.drawn)
        return bool((twin.parameters != self.parameters).any())

    def output_width(self, width: int | None) -> int | None:
        for layer in self.layers:
            width = layer.output_width(width)
        return width

    __repr__ = Module.summary

    def written(self) -> list[Any]:
        return [type(self).__name__, *(layer.written() for layer in self.layers)]
