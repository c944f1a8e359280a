"""Twenty iterations in float64 shared out to the ranks of mpiexec; the first one writes what came of them.

``mpiexec -n 2 python tests/engines/mpi_steps.py FILE.npz``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from helpers import small_networks  # noqa: E402 - after the path is set

from npgan import gan  # noqa: E402
from npgan.backend import select  # noqa: E402
from npgan.config import TrainConfig  # noqa: E402
from npgan.data.digits import render  # noqa: E402
from npgan.engines.mpi import follow, lead, let_go  # noqa: E402
from npgan.engines.ranks import Ranks, ranks_of_this_run  # noqa: E402
from npgan.engines.reference import ReferenceKernels  # noqa: E402
from npgan.gan import new_state  # noqa: E402

STEPS = 20
IMAGES = render(33, 3)[0].reshape(33, 784)  # batches of 16, the last of one row: three iterations an epoch
NETWORKS = small_networks((16, 24, 32))
OPTIONS: dict[str, dict[str, Any]] = {
    "tutorial": {},
    "dropout in the G step": {"dropout_in_g_step": True, "label_smoothing": 0.1},
    "penalized pairs": {
        "loss": "relativistic", "r1": 0.5, "r2": 2.0, "dropout_in_g_step": True, "ema": 0.9, "lr_schedule": "cosine",
    },
}  # fmt: skip


def config_of(option: dict[str, Any]) -> TrainConfig:
    return TrainConfig(dataset="digits", epochs=7, batch_size=16, seed=11, **option)


def state_arrays(state: Any, metrics: np.ndarray) -> dict[str, np.ndarray]:
    g, d = state.generator, state.discriminator
    average = g if state.average is None else state.average
    moments = {"m": state.optimizer_g.m, "v": state.optimizer_d.v}
    return {"g": g.parameters, "d": d.parameters, "average": average.parameters, "metrics": metrics, **moments}


def run(ranks: Ranks, option: dict[str, Any], same_bytes: bool) -> dict[str, np.ndarray] | None:
    """On the first rank what came of it."""
    kernels, config = ReferenceKernels(np.float64), config_of(option)
    if ranks.rank:
        return follow(ranks, lambda name: kernels)
    state = new_state(config, select("numpy"), np.float64)
    engine = lead(ranks, kernels, "reference", same_bytes, state, IMAGES, config)
    metrics = np.concatenate([engine.run(7), engine.run(STEPS - 7)])
    told = [(net, name, array.shape) for net, name, array in engine.tensors()]
    assert ("generator", "gradient of 0.weight", (100, 16)) in told
    let_go(ranks)
    return state_arrays(state, metrics)


if __name__ == "__main__":
    found: dict[str, np.ndarray] = {}
    everybody = ranks_of_this_run()
    for name, network in NETWORKS.items():
        setattr(gan, name, network)
    for name, option in OPTIONS.items():
        for same_bytes in (False, True):
            arrays = run(everybody, option, same_bytes)
            found |= {f"{name}/{same_bytes}/{key}": array for key, array in (arrays or {}).items()}
    if not everybody.rank:
        np.savez(sys.argv[1], **found)  # type: ignore[arg-type]
