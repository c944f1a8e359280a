"""What layers and networks say of themselves: a line, a table, a file."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from npgan.backend import Array, Shape
from npgan.files import write_tensors


class Described:
    """What every ``Layer`` can besides its maths: ``repr``, ``summary``, ``save`` and ``astype``."""

    parameters: Array  # (P,)
    gradients: Array  # (P,)
    tensors: dict[str, Array]  # views into the parameters by name
    gradient_tensors: dict[str, Array]  # views into the gradients

    def shapes(self) -> dict[str, Shape]:
        raise NotImplementedError

    def leaves(self) -> Iterator[Any]:
        raise NotImplementedError

    def bind(self, parameters: Array, gradients: Array) -> None:
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return sum(math.prod(shape) for shape in self.shapes().values())

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
            raise ValueError(
                f"{self!r} cannot be saved: it must keep its arguments, numbers or texts, as attributes"
            ) from None
        return [type(self).__name__, *arguments]
