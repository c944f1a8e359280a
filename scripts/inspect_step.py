"""``npgan inspect`` without installing: python scripts/inspect_step.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from npgan.cli import main  # noqa: E402 - after the path is set

sys.exit(main(["inspect", *sys.argv[1:]]))
