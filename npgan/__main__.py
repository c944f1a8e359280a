"""``python -m npgan <command>``: the command line without installing."""

import sys

from npgan.cli import main

sys.exit(main())
