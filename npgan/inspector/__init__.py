"""The inspector: one training step taken apart, operation by operation, for people who study backpropagation.

``inspect_step`` repeats a step on copies and keeps everything it computed; ``npgan inspect`` shows that in the terminal and as
a page.
"""

from __future__ import annotations

from npgan.inspector.proof import Verdict, prove
from npgan.inspector.toy import toy_sections
from npgan.inspector.trace import Op, StepTrace, TensorUpdate, inspect_step

__all__ = ["Op", "StepTrace", "TensorUpdate", "Verdict", "inspect_step", "prove", "toy_sections"]
