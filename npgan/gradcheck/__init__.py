"""Gradient checks: proof that a hand-written backward is the derivative of its forward, and what is wrong where it is not.

``check_gradients`` checks a function of your own; ``npgan gradcheck`` checks everything in npgan.
"""

from __future__ import annotations

from npgan.gradcheck.check import Result
from npgan.gradcheck.library import check_gradients
from npgan.gradcheck.methods import CENTRAL, COMPLEX
from npgan.gradcheck.report import Report

__all__ = ["CENTRAL", "COMPLEX", "Report", "Result", "check_gradients"]
