"""Each bug of the gradient checker's gallery as a puzzle: the broken function, what to read above it, its hints."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import textwrap
from collections import Counter
from dataclasses import dataclass

from npgan.errors import InputError
from npgan.gradcheck.gallery import BUGS, Bug, edit
from npgan.gradcheck.source import resolve

# What to read above a function, where that is more than, or something else than, the forward of its name.
_READ_ABOVE = {
    "nn.ops.dense_double_backward": ("nn.ops.dense_backward_dx",),
    "nn.layers.Dense.backward": ("nn.ops.dense_forward", "nn.layers.Dense.forward"),
    "nn.layers.LeakyReLU.backward": ("nn.ops.leaky_relu_forward", "nn.layers.LeakyReLU.forward"),
    "nn.layers.Sigmoid.forward": ("nn.ops.sigmoid_forward", "nn.ops.sigmoid_backward", "nn.layers.Sigmoid.backward"),
    "nn.layers.Dense.double_backward": ("nn.layers.Dense.backward_input", "nn.ops.dense_double_backward"),
    "nn.layers.LeakyReLU.double_backward": ("nn.layers.LeakyReLU.forward", "nn.layers.LeakyReLU.backward"),
    "nn.layers.Dropout.double_backward": ("nn.layers.Dropout.forward", "nn.layers.Dropout.backward"),
    "nn.network.Sequential.gradient_penalty": ("nn.network.Sequential.forward", "nn.network.Sequential.backward_input"),
    "nn.optim.Adam.update": ("nn.optim.Adam.m_hat", "nn.optim.Adam.v_hat"),
    "gan.train_step": ("gan.loss_of", "gan.noise"),  # its forwards are in it
}


@dataclass(frozen=True)
class Puzzle:
    """``name``: the function's, with a number where several puzzles are about it."""

    number: int
    name: str
    bug: Bug

    @property
    def function(self) -> str:
        return f"npgan.{self.bug.function}"

    @property
    def title(self) -> str:
        """What is wrong: not for who has not solved it."""
        return self.bug.title

    @property
    def formula(self) -> str:
        """The docstring of the function, or of the class whose method it is."""
        function = resolve(self.bug.function)
        return inspect.getdoc(function) or inspect.getdoc(resolve(self.bug.function.rpartition(".")[0])) or ""

    @property
    def above(self) -> str:
        """What the function is the backward of, to be read."""
        function = self.bug.function
        names = _READ_ABOVE.get(function, (re.sub("backward.*", "forward", function),))
        return "\n".join(f"# npgan.{name}\n{_source(name)}" for name in names)

    @property
    def solution(self) -> str:
        """The textbook's own function."""
        return _source(self.bug.function)

    @property
    def broken(self) -> str:
        """The function as it is to be mended."""
        return textwrap.dedent(edit(self.bug)[1])

    @property
    def hints(self) -> list[str]:
        """Each says more than the one before."""
        lines = self.broken.splitlines()
        changes = difflib.SequenceMatcher(None, lines, self.solution.splitlines(), autojunk=False).get_opcodes()
        wrong = [
            each for kind, start, end, *_ in changes if kind != "equal" for each in range(start, max(end, start + 1))
        ]
        places = "; ".join(f"line {each + 1}, {lines[each].strip()}" for each in wrong)
        return [f"The bug: {self.title}.", f"In the function as given: {places}"]


@functools.cache
def puzzles() -> tuple[Puzzle, ...]:
    """All, in the gallery's order."""
    short = [re.sub(r"^(nn\.\w+|gan)\.", "", bug.function) for bug in BUGS]
    total, seen, made = Counter(short), Counter[str](), []
    for number, (name, bug) in enumerate(zip(short, BUGS, strict=True), 1):
        seen[name] += 1
        made.append(Puzzle(number, f"{name}-{seen[name]}" if total[name] > 1 else name, bug))
    return tuple(made)


def find(word: str) -> Puzzle:
    """The puzzle of a number or a name. Raises InputError where there is none."""
    every = puzzles()
    for puzzle in every:
        if word in (str(puzzle.number), puzzle.name):
            return puzzle
    names = [puzzle.name for puzzle in every]
    near = [name for name in names if name.startswith(f"{word}-")] or difflib.get_close_matches(word, names, n=1)
    told = f"did you mean {near[0] if len(near) == 1 else f'{near[0]} to {near[-1]}'}?" if near else ""
    raise InputError(f"there is no puzzle {word!r}: {told or f'they are 1 to {len(every)}, see npgan puzzle'}")


def _source(dotted: str) -> str:
    return textwrap.dedent(inspect.getsource(resolve(dotted))).rstrip("\n") + "\n"
