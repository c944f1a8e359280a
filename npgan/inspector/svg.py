"""Pictures for the page, as SVG text: curves, bars, and small images. Colors come from the page's style sheet."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from npgan.inspector.figures import number, round_ticks

_WIDTH, _HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 34


class Curve(NamedTuple):
    """Points in the order of x. A value that is not finite leaves a gap. ``dashed``: of the other run."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    color: int = 0


def curves(title: str, lines: Sequence[Curve], logarithmic: bool = False, x_label: str = "epoch") -> str:
    """A chart with its legend. ``logarithmic``: of y; values that are not positive are left out."""

    def scale(value: float) -> float:
        return math.log10(value) if logarithmic else value

    def usable(value: float) -> bool:
        return math.isfinite(value) and (not logarithmic or value > 0)

    points = [[(x, scale(y)) for x, y in zip(c.x, c.y, strict=True) if usable(y)] for c in lines]
    xs, ys = [x for line in points for x, _ in line], [y for line in points for _, y in line]
    if not xs:
        return ""
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    right, high = right if right > left else left + 1, high if high > low else low + 1
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return across, _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    ends = (10**low, 10**high) if logarithmic else (low, high)
    for tick in round_ticks(*ends, logarithmic):
        _, y = place(left, scale(tick))
        label = number(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in sorted({round(float(tick)) for tick in np.linspace(min(xs), max(xs), 6)}):
        x, _ = place(tick, low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 16}" text-anchor="middle">{tick:,}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>')
    for curve, line in zip(lines, points, strict=True):
        style = f"curve c{curve.color % 8}{' dashed' if curve.dashed else ''}"
        placed = [place(x, y) for x, y in line]
        if len(placed) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            parts.append(f'<polyline class="{style}" points="{path}"/>')
        if len(placed) <= 12:
            parts += [f'<circle class="{style} dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in placed]
    parts.append("</svg>")
    legend = "".join(
        f'<span><i class="key c{curve.color % 8}{" dashed" if curve.dashed else ""}"></i>{escape(curve.label)}</span>'
        for curve in lines
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption>{"".join(parts)}<div class="legend">{legend}</div></figure>'
    )


def bars(title: str, values: Sequence[tuple[str, str, float]]) -> str:
    """Horizontal bars: (label, class of its color, value)."""
    row, left = 22, 64
    largest = max((value for _, _, value in values), default=0.0) or 1.0
    parts = [
        f'<svg class="bars" viewBox="0 0 {_WIDTH} {row * len(values) + 4}" role="img" aria-label="{escape(title)}">'
    ]
    for index, (label, style, value) in enumerate(values):
        y, width = index * row + 3, max(1.0, value / largest * (_WIDTH - left - 90))
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="{style}" x="{left}" y="{y}" width="{width:.1f}" height="16" rx="2"/>')
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 13}">{number(value)}</text>')
    return f"<figure><figcaption>{escape(title)}</figcaption>{''.join(parts)}</svg></figure>"


def picture(pixels: np.ndarray, label: str) -> str:
    """One image. Shapes: pixels (28, 28) or (28, 28, 3) uint8."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<image href="data:image/png;base64,{data}" width="28" height="28" style="image-rendering:pixelated"/>'
    return f'<svg class="pixels" viewBox="0 0 28 28" role="img" aria-label="{escape(label)}">{image}</svg>'
