"""Real runs of a few iterations, to be looked at."""

from __future__ import annotations

from pathlib import Path

from npgan.cli import main
from npgan.data.digits import render
from npgan.data.idx import write_idx

EPOCHS, PER_EPOCH, IMAGES = 4, 2, 16
KINDS = {
    "tutorial": ["--seed", "3"],
    "logits": ["--loss", "bce-logits", "--dropout-in-g-step"],
    "r3gan": ["--preset", "r3gan"],
}


def train(*words: str | Path) -> int:
    return main([str(word) for word in ("train", "--backend", "numpy", "--kernels", "reference", "--quiet", *words)])


def make_runs(folder: Path, *kinds: str) -> dict[str, Path]:
    """A finished run of each kind, or of these ``kinds`` alone, with its last two checkpoints."""
    data = folder / "data"
    data.mkdir()
    write_idx(data / "train-images-idx3-ubyte", render(IMAGES, 1)[0])
    fixed = ["--data-dir", data, "--batch-size", str(IMAGES // PER_EPOCH), "--epochs", str(EPOCHS)]
    made = {kind: folder / kind for kind in kinds or KINDS}
    for kind, run in made.items():
        assert train("--out", run, "--checkpoint-every", "1", "--keep", "2", *fixed, *KINDS[kind]) == 0
    return made
