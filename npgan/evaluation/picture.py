"""The PNG of an evaluation: samples sorted by class, samples beside their nearest training images, and the run's curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgan.evaluation.figures import Details
from npgan.files import replacing
from npgan.runs.folder import RunFolder
from npgan.runs.lines import Series, are_numbers, read_objects

HISTORY_FILE = "evaluation.jsonl"  # one object for every evaluation while training

_SIDE, _GAP, _SCALE = 28, 2, 2
_SAMPLES, _PAIRS = 10, 5  # columns, one row a class
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (200, 200, 200)
_HUES = ((214, 96, 20), (20, 120, 190))  # tell apart for the color-blind too
_MARGIN, _TITLE = 24, 26
_CURVE_HEIGHT = 260
_AXIS_LEFT, _AXIS_BOTTOM = 64, 40


class Curve(NamedTuple):
    """Points to join by straight lines; those that are not finite are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def save_picture(path: Path, images: np.ndarray, details: Details, train: np.ndarray, run: RunFolder) -> None:
    """Shapes: images (N, 784) and train (M, 784) in [0, 1]. Each row of the picture is one class, as the classifier sees it."""
    assert details.neighbor is not None, "the pairs need what was measured with memory"
    by_class = [np.flatnonzero(details.label == k)[:_SAMPLES] for k in range(10)]
    samples = [[images[i] for i in members] for members in by_class]
    pairs = [
        [image for i in members[:_PAIRS] for image in (images[i], train[details.neighbor[i]])] for members in by_class
    ]
    panels = [
        ("samples, one class a row", _tiles(samples, _SAMPLES, pair=False)),
        ("pairs: sample, nearest training image", _tiles(pairs, 2 * _PAIRS, pair=True)),
    ]
    width = 3 * _MARGIN + sum(tiles.shape[1] for _, tiles in panels)
    charts = _charts_of(run, read_history(run))
    top = 2 * _MARGIN + _TITLE + panels[0][1].shape[0]
    sheet, draw, font = _sheet(width, top + (_CURVE_HEIGHT + _MARGIN if charts else 0))
    left = _MARGIN
    for title, tiles in panels:
        draw.text((left, _MARGIN), title, fill=_INK, font=font)
        sheet.paste(_image(tiles), (left, _MARGIN + _TITLE))
        left += tiles.shape[1] + _MARGIN
    _draw_row(draw, font, charts, width, top)
    _save(sheet, path)


def save_curves(path: Path, run: RunFolder, scores: Sequence[dict[str, Any]]) -> None:
    """The run's curves alone. ``scores``: the evaluations made while it trained."""
    charts = _charts_of(run, scores)
    if charts:
        width = 2 * _MARGIN + 480 * len(charts)
        sheet, draw, font = _sheet(width, _CURVE_HEIGHT + 2 * _MARGIN)
        _draw_row(draw, font, charts, width, _MARGIN)
        _save(sheet, path)


def _charts_of(run: RunFolder, scores: Sequence[dict[str, Any]]) -> list[tuple[str, list[Curve]]]:
    """Losses over the epochs and, where the run evaluated itself, Parzen and Fréchet."""
    losses = run.read_metrics()
    charts = []
    if losses:
        epochs = [line["epoch"] for line in losses]
        names = (("loss of D", "loss_d"), ("loss of G", "loss_g"))
        charts.append(("mean loss", [Curve(label, epochs, [line[key] for line in losses]) for label, key in names]))
    if scores:
        epochs = [line["epoch"] for line in scores]
        # Pillow's own font has no é.
        for title, key in (("Parzen log-likelihood, nats", "parzen"), ("Frechet distance", "frechet")):
            charts.append((title, [Curve("", epochs, [line[key] for line in scores])]))
    return charts


def read_history(run: RunFolder) -> list[dict[str, Any]]:
    """The evaluations made while the run trained; of thousands some, evenly spaced."""
    found = Series()
    for _, scores in history_lines(run):
        found.append(scores)
    return found.remembered()


def history_lines(run: RunFolder) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each evaluation made while the run trained, as a line and read. Lines that a kill damaged are not there."""
    for line, scores in read_objects(run.path / HISTORY_FILE):
        if are_numbers(scores, {"epoch", "step", "parzen", "frechet"}):
            yield line, scores


def _tiles(rows: list[list[np.ndarray]], columns: int, pair: bool) -> np.ndarray:
    """Images (784,) in [0, 1] as one picture, uint8. ``pair``: the second of every two lies close to the first."""
    lefts = [index * (_SIDE + _GAP) + (index // 2 * 2 * _GAP if pair else 0) for index in range(columns)]
    pitch = _SIDE + _GAP
    sheet = np.full((len(rows) * pitch - _GAP, lefts[-1] + _SIDE), 255, dtype=np.uint8)
    for top, images in enumerate(rows):
        for left, image in zip(lefts, images, strict=False):
            pixels = np.rint(image.reshape(_SIDE, _SIDE) * 255.0).astype(np.uint8)
            sheet[top * pitch : top * pitch + _SIDE, left : left + _SIDE] = pixels
    return sheet.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)


def _draw_row(draw: Any, font: Any, charts: list[tuple[str, list[Curve]]], width: int, top: int) -> None:
    each = (width - _MARGIN) // max(1, len(charts))
    for place, (title, curves) in enumerate(charts):
        box = (_MARGIN + place * each, top, (place + 1) * each, top + _CURVE_HEIGHT)
        _draw_chart(draw, font, title, curves, box)


def _draw_chart(draw: Any, font: Any, title: str, curves: list[Curve], box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box[0] + _AXIS_LEFT, box[1] + _TITLE, box[2], box[3] - _AXIS_BOTTOM
    points = [[(x, y) for x, y in zip(c.x, c.y, strict=True) if math.isfinite(y)] for c in curves]
    every = [point for part in points for point in part] or [(0.0, 0.0)]
    x_ticks, y_ticks = _ticks([x for x, _ in every], whole=True), _ticks([y for _, y in every])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    draw.text((left, box[1]), title, fill=_INK, font=font)
    for y in y_ticks:
        draw.line([place(x_ticks[0], y), place(x_ticks[-1], y)], fill=_FAINT)
        draw.text((left - 6, place(0, y)[1]), f"{y:g}", fill=_INK, font=font, anchor="rm")
    for x in x_ticks:
        draw.text((place(x, 0)[0], bottom + 6), f"{x:g}", fill=_INK, font=font, anchor="mt")
    draw.text((right, bottom + 22), "epoch", fill=_INK, font=font, anchor="rt")
    for number, (curve, part) in enumerate(zip(curves, points, strict=True)):
        hue = _HUES[number]
        spots = [place(x, y) for x, y in part]
        draw.line(spots, fill=hue, width=2)
        if len(spots) <= 30:
            for x, y in spots:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=hue)
        draw.text((right - 90 * (len(curves) - 1 - number), box[1]), curve.label, fill=hue, font=font, anchor="rt")


def _ticks(values: Sequence[float], whole: bool = False) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, from below the smallest value to above the largest."""
    low, high = min(values), max(values)
    rough = (high - low) / 5 or max(abs(high), 1.0) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * index, 10) for index in range(first, max(last, first + 1) + 1)]


def _sheet(width: int, height: int) -> tuple[Any, Any, Any]:
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", (width, height), _PAPER)
    return sheet, ImageDraw.Draw(sheet), ImageFont.load_default(14)


def _image(tiles: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(tiles)


def _save(sheet: Any, path: Path) -> None:
    with replacing(path) as file:
        sheet.save(file, format="PNG")
