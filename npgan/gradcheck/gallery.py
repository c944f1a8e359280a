"""Planted bugs: small slips in a backward, in Adam or in the training step, each of which the checks must find.

A slip is an edit to the text of one function of npgan. The edited function stands in for the true one while the checks run,
level by level, until one fails; nothing on disk changes. Every slip keeps all shapes as they were.
"""

from __future__ import annotations

import difflib
import inspect
import linecache
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from npgan.backend import Backend
from npgan.errors import InputError
from npgan.gradcheck.report import Report
from npgan.gradcheck.source import resolve
from npgan.gradcheck.suite import run_levels


@dataclass(frozen=True)
class Bug:
    """``edits`` turn the text of ``function`` into the wrong one. ``caught_at`` and ``hint``: what the report should name."""

    title: str
    function: str  # dotted, within npgan
    edits: tuple[tuple[str, str], ...]
    hint: str = "other"  # the kind of hint
    caught_at: str = ""  # the op of the report; empty: ``function`` itself

    @property
    def culprit(self) -> str:
        return self.caught_at or self.function


BUGS = (
    Bug(
        "dW transposed, and reshaped until it fits",
        "nn.ops.dense_backward_params",
        (("return x.T @ dy", "return (dy.T @ x).reshape(x.shape[1], -1)"),),
        "transposed",
    ),
    Bug(
        "dx with the weight reshaped, not transposed",
        "nn.ops.dense_backward_dx",
        (("weight.T", "weight.reshape(weight.shape[::-1])"),),
    ),
    Bug(
        "bias gradient averaged over the rows",
        "nn.ops.dense_backward_params",
        (("dy.sum(", "dy.mean("),),
        "mean-sum",
    ),
    Bug(
        "dW added to what the gradient holds",
        "nn.layers.Dense.backward",
        (
            ("self.dweight[...], self.dbias[...] = ", "dweight, self.dbias[...] = "),
            ("        return", "        self.dweight += dweight\n        return"),
        ),
        "accumulates",
    ),
    Bug(
        "leaky ReLU's slope on the wrong side",
        "nn.ops.leaky_relu_backward",
        (("x.real > 0", "x.real < 0"),),
        "branches",
    ),
    Bug("dropout's backward forgets the mask", "nn.ops.dropout_backward", (("dy * mask", "dy"),), "mask"),
    Bug(
        "dropout's backward forgets 1/(1 − p)", "nn.ops.dropout_backward", (("dy * mask", "dy * (mask > 0)"),), "scale"
    ),
    Bug("sigmoid's derivative without the factor y", "nn.ops.sigmoid_backward", (("dy * y * (", "dy * ("),)),
    Bug("tanh's derivative 1 − y for 1 − y²", "nn.ops.tanh_backward", (("y * y", "y"),)),
    Bug(
        "the mean loss differentiated as a sum",
        "nn.ops.binary_cross_entropy_backward",
        ((" / p.shape[0]", ""),),
        "mean-sum",
    ),
    Bug(
        "the loss's gradient with its sign flipped",
        "nn.ops.binary_cross_entropy_backward",
        (("return ((1.0", "return -((1.0"),),
        "sign",
    ),
    Bug(
        "the loss on logits: mean differentiated as a sum",
        "nn.ops.binary_cross_entropy_with_logits_backward",
        ((" / z.shape[0]", " / z.shape[1]"),),
        "mean-sum",
    ),
    Bug(
        "sigmoid keeps x for backward, which takes y",
        "nn.layers.Sigmoid.forward",
        (("return y, y", "return y, x"),),
        caught_at="nn.layers.Sigmoid.backward",
    ),
    Bug(
        "a Dense layer's dx from dweight, not weight",
        "nn.layers.Dense.backward",
        (("self.backward_input(dy, cache)", "ops.dense_backward_dx(dy, self.dweight)"),),
    ),
    Bug(
        "leaky ReLU's backward passes dy on as it is",
        "nn.layers.LeakyReLU.backward",
        (("ops.leaky_relu_backward(dy, cache, self.slope)", "dy"),),
        "slope",
    ),
    Bug(
        "the first layer's dy skips the activation after it",
        "nn.network.Sequential.backward",
        (("= layer.backward(dy, cache)", "= dy if layer is self.layers[1] else layer.backward(dy, cache)"),),
    ),
    Bug(
        "Adam without bias correction",
        "nn.optim.Adam.update",
        (("self.m_hat()", "self.m"), ("self.v_hat()", "self.v")),
        "bias-correction",
    ),
    Bug(
        "Adam's ε inside the root",
        "nn.optim.Adam.update",
        (("(np.sqrt(self.v_hat()) + self.epsilon)", "np.sqrt(self.v_hat() + self.epsilon)"),),
        "small",
    ),
    Bug("Adam's β₁ and β₂ mixed up in m", "nn.optim.Adam.update", (("self.beta1 * self.m", "self.beta2 * self.m"),)),
    Bug("Adam's t counts every step twice", "nn.optim.Adam.update", (("self.step += 1", "self.step += 2"),), "factor"),
    Bug(
        "the real batch's gradient from the fake batch's cache",
        "gan.train_step",
        (("output, target), caches)", "output, target), [np.tile(cache[b:], (2, 1)) for cache in caches])"),),
    ),
    Bug(
        "label smoothing left out of the gradient",
        "gan.train_step",
        (("loss.backward(output, target)", "loss.backward(output, np.round(target))"),),
    ),
    Bug(
        "fakes counted as real in the gradient",
        "gan.train_step",
        (("loss.backward(output, target)", "loss.backward(output, np.ones_like(target))"),),
    ),
    Bug(
        "real and fake halves averaged each by itself",
        "gan.train_step",
        (("loss.backward(output, target)", "2.0 * loss.backward(output, target)"),),
        "mean-sum",
    ),
    Bug(
        "the images' gradient never reaches G",
        "gan.train_step",
        (("g.backward(dshown", "g.backward(0.0 * dshown"),),
        "zero",
    ),
    Bug(
        "G's caches cleared before its backward",
        "gan.train_step",
        ((":], g_caches)", ":], [np.zeros_like(cache) for cache in g_caches])"),),
        "zero",
    ),
    Bug(
        "the G step's backward with dropout, its forward without",
        "gan.train_step",
        (("target_g), d_caches)", "target_g), d.forward(shown, DropoutKey(1, 2, 0))[1])"),),
    ),
    Bug(
        "the G step writes D's gradients too",
        "gan.train_step",
        (("d.backward_input(", "d.backward("),),
    ),
    Bug(
        "G's gradient from the caches of the D step's fakes",
        "gan.train_step",
        ((":], g_caches)", ":], g.forward(noise(state, config, LATENT_D, len(fake)))[1])"),),
    ),
    Bug("dropout left on in the G step", "gan.train_step", ((" if config.dropout_in_g_step else None", ""),)),
    Bug(
        "Adam updates a copy: the generator never trains",
        "gan.train_step",
        (("optimizer_g.update(g.parameters,", "optimizer_g.update(g.parameters.copy(),"),),
        "zero",
    ),
    Bug(
        "the G step's targets are 0: G learns to be caught",
        "gan.train_step",
        (("np.ones_like(output_g)", "np.zeros_like(output_g)"),),
    ),
    Bug(
        "both of a pair pulled the same way",
        "nn.ops.relativistic_backward",
        (("[dd, -dd]", "[dd, dd]"),),
        "partial-factor",
    ),
    Bug(
        "the penalty's weight gradient taken twice, once for each factor",
        "nn.ops.dense_double_backward",
        (("u.T @ dy", "2.0 * u.T @ dy"),),
        "factor",
    ),
    Bug(
        "the penalty gives the bias a gradient",
        "nn.layers.Dense.double_backward",
        (("self.dweight += dweight", "self.dweight += dweight\n        self.dbias += ddy.sum(axis=0)"),),
        "should-be-zero",
    ),
    Bug(
        "the penalty's forward adds the bias",
        "nn.layers.Dense.double_backward",
        (("return ddy", "return ddy + self.bias"),),
    ),
    Bug(
        "the penalty's gradient put in the place of the loss's",
        "nn.layers.Dense.double_backward",
        (("self.dweight += dweight", "self.dweight[...] = dweight"),),
        caught_at="gan.train_step",
    ),
    Bug(
        "the second pass takes its slopes from the backward's dy, not from the forward's x",
        "nn.layers.LeakyReLU.double_backward",
        (("(u, cache, self.slope)", "(u, dy, self.slope)"),),
        "branches",
    ),
    Bug(
        "the second pass forgets the mask",
        "nn.layers.Dropout.double_backward",
        (("return self.backward(u, cache)", "return u"),),
        "mask",
    ),
    Bug(
        "every row of the penalty at the mean rate",
        "nn.network.Sequential.gradient_penalty",
        (("u = rate * dx", "u = rate.mean() * dx"),),
    ),
    Bug(
        "the penalty's half forgotten in its value, though not in its gradient",
        "nn.network.Sequential.gradient_penalty",
        (("0.5 * np.sum", "np.sum"),),
        "factor",
        caught_at="gan.train_step",
    ),
    Bug(
        "the penalties averaged over real and fake rows together: γ/2N, not γ/N",
        "gan.train_step",
        (
            ("output, config.r2 / b)", "output, config.r2 / len(output))"),
            ("= config.r1 / b", "= config.r1 / len(output)"),
        ),
    ),
    Bug(
        "the rates of R1 and R2 exchanged",
        "gan.train_step",
        (("output, config.r2 / b)", "output, config.r1 / b)"), ("= config.r1 / b", "= config.r2 / b")),
    ),
)


@dataclass(frozen=True)
class Finding:
    """What the checks said about a planted bug."""

    bug: Bug
    report: Report

    @property
    def named(self) -> list[str]:
        """The ops that the report calls the culprits."""
        return sorted({result.op for result in self.report.culprits}) if self.report.failures else []

    @property
    def caught(self) -> bool:
        """At the right op, with the right hint, and by numbers that differ: not by an exception."""
        culprits = self.report.culprits if self.report.failures else []
        return (
            self.named == [self.bug.culprit]
            and not any(result.problem for result in culprits)
            and self.bug.hint in {result.hint.kind for result in culprits}
        )


def find_planted(seed: int, backend: Backend, bugs: Sequence[Bug] = BUGS) -> Iterator[Finding]:
    """Plants one bug after the other and runs the levels, on small networks, until one fails."""
    for bug in bugs:
        results = []
        with planted(bug):
            for level in run_levels(seed, backend, real=False):
                results += level
                if not all(result.passed for result in level):
                    break
        yield Finding(bug, Report(results, seed, backend.device))


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The bug is in place inside the ``with`` block.

    Raises InputError when the function does not read as the bug expects: it has been edited.
    """
    lines, text, first = edit(bug)
    file = inspect.getsourcefile(resolve(bug.function)) or ""
    whole = linecache.getlines(file)
    edited = [*whole[: first - 1], *text.splitlines(keepends=True), *whole[first - 1 + len(lines) :]]
    # Blank lines in front keep the line numbers; a block around it keeps a method's indentation.
    opening = "if True:\n" if text[0] == " " else "\n"
    # Under a name of its own, so that the edited lines, not the file's, are quoted when it fails.
    planted_file = file.removesuffix(".py") + " (bug planted).py"
    with replaced(bug.function, "\n" * (first - 2) + opening + text, planted_file, edited):
        yield


@contextmanager
def replaced(function: str, text: str, file: str, lines: list[str]) -> Iterator[None]:
    """Inside the ``with`` block what ``text`` defines under the function's name stands in for it, in its module's names.

    ``lines`` are what is quoted as ``file``. Raises InputError where ``text`` defines no such function, and whatever running
    it raises.
    """
    path, _, name = function.rpartition(".")
    module = inspect.getmodule(resolve(function))
    # A copy of the module's names: what else the text defines is seen by it alone.
    scope = {each: value for each, value in vars(module).items() if each != name}
    exec(compile(text, file, "exec"), scope)
    if not callable(scope.get(name)):
        raise InputError(f"there is no function {name} in it")
    if inspect.isfunction(scope[name]):
        scope[name].__qualname__ = resolve(function).__qualname__  # a method's formula is its class's
    linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
    try:
        with mock.patch.object(resolve(path), name, scope[name]):
            yield
    finally:
        del linecache.cache[file]


def difference(bug: Bug) -> list[str]:
    """The lines that the bug takes out and puts in: "- …" and "+ …"."""
    lines, text, _ = edit(bug)
    changes = difflib.ndiff(lines, text.splitlines(keepends=True))
    return [f"{line[0]} {line[2:].strip()}" for line in changes if line[0] in "-+"]


def edit(bug: Bug) -> tuple[list[str], str, int]:
    """The lines of the function, its text with the bug, and the number of its first line."""
    lines, first = inspect.getsourcelines(resolve(bug.function))
    text = "".join(lines)
    for old, new in bug.edits:
        if text.count(old) != 1:
            raise InputError(f"cannot plant {bug.title!r}: npgan.{bug.function} does not have {old.strip()!r} once")
        text = text.replace(old, new)
    return lines, text, first
