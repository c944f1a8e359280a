"""Arrays in JSON: compact, and a typed array again in ``static/dom.js``."""

from __future__ import annotations

import base64

import numpy as np

from npgan.play.base import Message


def packed(array: np.ndarray) -> Message:
    """As float32, but bytes as bytes."""
    values = np.ascontiguousarray(array, np.uint8 if array.dtype == np.uint8 else np.dtype("<f4"))
    return {"shape": values.shape, "type": values.dtype.name, "data": base64.b64encode(values.tobytes()).decode()}
