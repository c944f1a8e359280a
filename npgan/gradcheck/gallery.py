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
        "ops.dense_backward_params",
        (("np.matmul(x.T, dy, out=dweight)", "np.matmul(dy.T, x).reshape(dweight.shape)"),),
        "transposed",
    ),
    Bug(
        "dx with the weight reshaped, not transposed",
        "ops.dense_backward_dx",
        (("weight.T", "weight.reshape(weight.shape[::-1])"),),
    ),
    Bug(
        "bias gradient averaged over the rows",
        "ops.dense_backward_params",
        (("np.sum(dy", "np.mean(dy"),),
        "mean-sum",
    ),
    Bug(
        "dW added to what the buffer holds",
        "ops.dense_backward_params",
        (("np.matmul(x.T, dy, out=dweight)", "np.add(dweight, np.matmul(x.T, dy), out=dweight)"),),
        "accumulates",
    ),
    Bug(
        "leaky ReLU's slope on the wrong side", "ops.leaky_relu_backward", (("where=x > 0", "where=x < 0"),), "branches"
    ),
    Bug("dropout's backward forgets the mask", "ops.dropout_backward", (("(dy, mask,", "(dy, 1.0,"),), "mask"),
    Bug("dropout's backward forgets 1/(1 − p)", "ops.dropout_backward", (("(dy, mask,", "(dy, mask > 0,"),), "scale"),
    Bug("sigmoid's derivative without the factor y", "ops.sigmoid_backward", (("dx *= y", "pass"),)),
    Bug("tanh's derivative 1 − y for 1 − y²", "ops.tanh_backward", (("(y, y,", "(y, 1.0,"),)),
    Bug(
        "the mean loss differentiated as a sum",
        "ops.binary_cross_entropy_backward",
        ((" / p.shape[0]", ""),),
        "mean-sum",
    ),
    Bug(
        "the loss's gradient with its sign flipped",
        "ops.binary_cross_entropy_backward",
        (("dp = ((1.0", "dp = -((1.0"),),
        "sign",
    ),
    Bug(
        "the loss on logits: mean differentiated as a sum",
        "ops.binary_cross_entropy_with_logits_backward",
        (("dz /= z.shape[0]", "dz /= z.shape[1]"),),
        "mean-sum",
    ),
    Bug(
        "sigmoid keeps x for backward, which takes y",
        "layers.Sigmoid.forward",
        (("OutputCache(y)", "OutputCache(x)"),),
        caught_at="layers.Sigmoid.backward",
    ),
    Bug(
        "a Dense layer's dx from dweight, not weight",
        "layers.Dense.backward",
        (("self.weight", "self.dweight"),),
    ),
    Bug(
        "leaky ReLU's backward passes dy on as it is",
        "layers.LeakyReLU.backward",
        (("ops.leaky_relu_backward(dy, cache.x, self.slope, out)", "dy"),),
        "slope",
    ),
    Bug(
        "the first layer's dy skips the activation after it",
        "networks.Sequential.backward",
        (("need_params, out)", "need_params, out) if index != 1 else dx"),),
    ),
    Bug(
        "Adam without bias correction",
        "ops.adam_update",
        (("1.0 / (1.0 - beta2**step)", "1.0"), ("lr / (1.0 - beta1**step)", "lr")),
        "bias-correction",
    ),
    Bug(
        "Adam's ε inside the root",
        "ops.adam_update",
        (("    np.sqrt(b, out=b)\n    b += epsilon", "    b += epsilon\n    np.sqrt(b, out=b)"),),
        "small",
    ),
    Bug("Adam's β₁ and β₂ mixed up in m", "ops.adam_update", (("m *= beta1", "m *= beta2"),)),
    Bug(
        "Adam's t counts every step twice",
        "optim.Adam.update",
        (("self.step += 1", "self.step += 2"),),
        "factor",
    ),
    Bug(
        "the real batch's gradient from the fake batch's cache",
        "training.discriminator_gradients",
        (
            (
                "caches, need_dx",
                "take_rows(caches, np.arange(len(images)) % (len(images) // 2) - len(images) // 2), need_dx",
            ),
        ),
    ),
    Bug(
        "label smoothing left out of the gradient",
        "training.discriminator_gradients",
        (("loss.backward(output, target)", "loss.backward(output, np.round(target))"),),
    ),
    Bug(
        "fakes counted as real in the gradient",
        "training.discriminator_gradients",
        (("loss.backward(output, target)", "loss.backward(output, np.ones_like(target))"),),
    ),
    Bug(
        "real and fake halves averaged each by itself",
        "training.discriminator_gradients",
        (("loss.backward(output, target)", "2.0 * loss.backward(output, target)"),),
        "mean-sum",
    ),
    Bug(
        "the images' gradient never reaches G",
        "training.generator_gradients",
        (("g.backward(dimages,", "g.backward(np.zeros_like(dimages),"),),
        "zero",
    ),
    Bug(
        "G's caches cleared before its backward",
        "training.generator_gradients",
        (("g_caches, need_dx", "[type(c)(*(np.zeros_like(a) for a in c)) for c in g_caches], need_dx"),),
        "zero",
    ),
    Bug(
        "the G step's backward with dropout, its forward without",
        "training.generator_gradients",
        (("d_caches, need", "d.forward(images, DropoutKey(1, 2, 0))[1], need"),),
    ),
    Bug(
        "the G step writes D's gradients too",
        "training.generator_gradients",
        (("need_params=False", "need_params=True"),),
    ),
    Bug(
        "G's gradient from the caches of the D step's fakes",
        "training.train_step",
        (("slice(b, None)", "slice(0, w.target_g.shape[0])"),),
    ),
    Bug(
        "dropout left on in the G step",
        "training.train_step",
        ((" if config.dropout_in_g_step else None", ""),),
    ),
    Bug(
        "Adam updates a copy: the generator never trains",
        "training.train_step",
        (("state.adam_g.update(g.parameters,", "state.adam_g.update(g.parameters.copy(),"),),
        "zero",
    ),
    Bug(
        "the G step's targets are 0: G learns to be caught",
        "training.new_workspace",
        (("target_g=xp.ones(", "target_g=xp.zeros("),),
        caught_at="training.train_step",
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
    path, _, name = bug.function.rpartition(".")
    owner = resolve(path)
    module = inspect.getmodule(resolve(bug.function))
    lines, text, first = _edit(bug)
    file = inspect.getsourcefile(resolve(bug.function)) or ""
    whole = linecache.getlines(file)
    edited = [*whole[: first - 1], *text.splitlines(keepends=True), *whole[first - 1 + len(lines) :]]
    # Under a name of its own, so that the edited lines, not the file's, are quoted when it fails.
    planted_file = file.removesuffix(".py") + " (bug planted).py"
    linecache.cache[planted_file] = (sum(map(len, edited)), None, edited, planted_file)
    # Blank lines in front keep the line numbers; a block around it keeps a method's indentation.
    opening = "if True:\n" if text[0] == " " else "\n"
    scope: dict[str, object] = {}
    exec(compile("\n" * (first - 2) + opening + text, planted_file, "exec"), vars(module), scope)
    try:
        with mock.patch.object(owner, name, scope[name]):
            yield
    finally:
        del linecache.cache[planted_file]


def difference(bug: Bug) -> list[str]:
    """The lines that the bug takes out and puts in: "- …" and "+ …"."""
    lines, text, _ = _edit(bug)
    changes = difflib.ndiff(lines, text.splitlines(keepends=True))
    return [f"{line[0]} {line[2:].strip()}" for line in changes if line[0] in "-+"]


def _edit(bug: Bug) -> tuple[list[str], str, int]:
    """The lines of the function, its text with the bug, and the number of its first line."""
    lines, first = inspect.getsourcelines(resolve(bug.function))
    text = "".join(lines)
    for old, new in bug.edits:
        if text.count(old) != 1:
            raise InputError(f"cannot plant {bug.title!r}: npgan.{bug.function} does not have {old.strip()!r} once")
        text = text.replace(old, new)
    return lines, text, first
