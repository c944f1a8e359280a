"""The long reliability tests, about ten minutes: 200 kills, 20,000 mutated files. The quick ones are in tests/runs/."""

import argparse
import subprocess
import sys
from pathlib import Path

argparse.ArgumentParser(description=__doc__).parse_args()  # --help must not start it

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "runs"

for command in (
    ["kills.py", "--kills", "100", "--kernels", "reference"],
    ["kills.py", "--kills", "100", "--kernels", "fused", "--seed", "1"],
    ["mutations.py", "--count", "10000"],
):
    subprocess.run([sys.executable, FOLDER / command[0], *command[1:]], check=True)
