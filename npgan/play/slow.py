"""A step in slow motion: what the page shows of each operation, from the inspector's record of it."""

from __future__ import annotations

from functools import cache

import numpy as np

from npgan.gan import LATENT_G, noise
from npgan.inspector import Op, Verdict
from npgan.inspector.figures import number, shape_text
from npgan.inspector.proof import operation_verdicts, step_verdicts
from npgan.inspector.terminal import share_text, verdicts_of, work_text
from npgan.inspector.trace import D_STEP, G_STEP
from npgan.play.arrays import packed
from npgan.play.base import Message
from npgan.play.learner import Learner, Picture, Which

_NONE = np.empty((0, 2), np.float32)
# What each part of the step does, and what of the picture it acts on.
_ACTS: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    (D_STEP, "G forward"): ("G makes fakes out of noise", ("grid", "fake")),
    (D_STEP, "D forward"): ("D judges real points and fakes", ("ground", "real", "fake")),
    (D_STEP, "loss"): ("how wrong D is, and its slope", ("real", "fake")),
    (D_STEP, "D backward"): ("the gradient, into D's weights", ("ground", "real", "fake")),
    (D_STEP, "D penalty"): ("how steep D is, and the derivative of that backward pass", ("ground", "real", "fake")),
    (D_STEP, "update"): ("Adam moves D's weights: the ground changes", ("ground",)),
    (G_STEP, "G forward"): ("G makes new fakes", ("grid", "fake")),
    (G_STEP, "D forward"): ("the updated D judges them", ("ground", "fake")),
    (G_STEP, "loss"): ("how far from “real”, and its slope", ("fake",)),
    (G_STEP, "D backward"): ("through the frozen D to the fakes: the arrows", ("fake", "arrows")),
    (G_STEP, "G backward"): ("from there into G's weights", ("grid", "arrows")),
    (G_STEP, "update"): ("Adam moves G's weights: the grid and the fakes move", ("grid", "fake")),
}


def slow_motion(learner: Learner, which: Which) -> Message:
    """All operations of the next step, and four pictures: before D's update and after it, before G's and after it."""
    trace = learner.trace(which)
    verdicts = _of_operations() | step_verdicts(trace)
    before, after, b = trace.before, trace.after, len(trace.images) // 2
    real, fake = trace.images[:b], trace.images[b:]
    moved = after.generator.forward(noise(before, trace.config, LATENT_G, len(trace.samples)))[0]
    arrows = -len(trace.samples) * trace.dsamples
    ground = learner.ground(after.discriminator, real, fake)
    grid = learner.grid(before.generator)
    pictures = [
        Picture(real, fake, _NONE, learner.ground(before.discriminator, real, fake), grid),
        Picture(real, fake, _NONE, ground, grid),
        Picture(real, trace.samples, arrows, ground, grid),
        Picture(real, moved, _NONE, ground, learner.grid(after.generator)),
    ]
    ops = [_operation(op, verdicts) for op in trace.ops]
    return {"which": which, "number": trace.number, "ops": ops, "pictures": list(map(packed_picture, pictures))}


def packed_picture(picture: Picture) -> Message:
    return {name: packed(array) for name, array in picture._asdict().items()}


@cache
def _of_operations() -> dict[str, Verdict]:
    return operation_verdicts()


def _operation(op: Op, verdicts: dict[str, Verdict]) -> Message:
    words, lit = _ACTS[op.step, op.part]
    return {
        "step": op.step,
        "part": op.part,
        "where": op.where,
        "name": op.function,
        "words": words,
        "lit": lit,
        "picture": (0 if op.step == D_STEP else 2) + (op.part == "update"),
        "formula": op.source.formula,
        "source": f"{op.source.file}:{op.source.line}",
        "code": [list(line) for line in op.source.code],
        "why": op.why,
        "work": work_text(op),
        "shares": [share_text(name, share) for name, share in op.shares.items()],
        "cached": f"keeps {op.cached} for backward: {op.cached_why}" if op.cached else "",
        "tensors": [[name, shape_text(array), *_statistics(op, name)] for name, array in op.tensors.items()],
        "verdicts": [verdict.plain for verdict in verdicts_of(op, verdicts)],
    }


def _statistics(op: Op, name: str) -> list[str]:
    """Mean, standard deviation, minimum, maximum and norm; none of a mask or a target."""
    return [number(value) for value in op.stats[name]] if name in op.stats else []
