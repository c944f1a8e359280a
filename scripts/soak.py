"""The long reliability tests, over half an hour: 240 kills, a sweep under a killer, 20,000 mutated files, 300 epochs."""

import argparse
import subprocess
import sys
from pathlib import Path

argparse.ArgumentParser(description=__doc__).parse_args()  # --help must not start it

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "runs"

for command in (
    ["-m", "pytest", FOLDER],  # files that are not npgan's, output that is gone, signals, clocks, users, spoilt files
    [FOLDER / "kills.py", "--kills", "100", "--kernels", "reference"],
    [FOLDER / "kills.py", "--kills", "100", "--kernels", "fused", "--seed", "1"],
    [FOLDER / "kills.py", "--kills", "40", "--overwrite"],
    [FOLDER / "mutations.py", "--count", "10000"],
    [FOLDER / "endurance.py"],
    [FOLDER.parent / "sweep" / "sweep_kills.py"],
    [FOLDER.parent / "sweep" / "sweep_kills.py", "--by-hand"],
):
    subprocess.run([sys.executable, *command], check=True, cwd=FOLDER.parent.parent)
