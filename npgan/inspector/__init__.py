"""The inspector: one training step taken apart, operation by operation, for people who study backpropagation.

``inspect_step`` runs ``gan.train_step`` on a copy and records everything it computes; ``npgan inspect`` shows that in the
terminal and as a page.
"""

from __future__ import annotations

from npgan.inspector.proof import Verdict, prove
from npgan.inspector.toy import toy_sections
from npgan.inspector.trace import Op, StepTrace, TensorUpdate, inspect_step

__all__ = ["Op", "StepTrace", "TensorUpdate", "Verdict", "inspect_step", "prove", "toy_sections"]
