"""Pictures of samples and of losses: a PNG grid for a file, a heat map and curves for a terminal.

Plain functions from arrays to a file or a string. plotext's figure is one global object of that library, so the drawing
functions are for one thread at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npgan.files import replacing

_SIDE = 28  # pixels; every image is _SIDE x _SIDE
_GAP_GREY = 64  # between the images of a grid: neither ink (255) nor paper (0), so that their edges show
_GAP_COLUMNS, _GAP_ROWS = 2, 1  # terminal cells between samples
_RAMP = " .:-=+*#%@"  # dark to bright, for a light-on-dark or a dark-on-light page alike: ink is what is dense
_TICKS = 7  # labels under the curves
_ASCII_FRAME = str.maketrans("┌┐└┘├┤┬┴┼─│", "+++++++++-|")


def plotext_problem() -> str:
    """Why plotext, which draws in the terminal, cannot be had here; "" where it can."""
    try:
        import plotext  # noqa: F401
    except ImportError as error:
        missing = error.name == "plotext"
        return "plotext is not installed (pip install plotext)" if missing else f"plotext does not load ({error})"
    return ""


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images (N, 28, 28) or (N, 784) in [-1, 1] to uint8 (N, 28, 28): round(127.5·(x + 1)), clipped to 0 … 255.

    Raises ValueError when N is 0, the shape is another, or a value is not finite.
    """
    images = np.asarray(images)
    if images.size == 0 or images.shape[1:] not in {(_SIDE, _SIDE), (_SIDE * _SIDE,)}:
        raise ValueError(f"images must have the shape (N, 28, 28) or (N, 784) with N > 0, got {images.shape}")
    if not np.isfinite(images).all():
        raise ValueError("images must be finite, got NaN or infinity")
    levels = np.rint((images.astype(np.float64) + 1.0) * 127.5)
    return np.clip(levels, 0, 255).astype(np.uint8).reshape(-1, _SIDE, _SIDE)


def save_grid(images: np.ndarray, path: str | Path, *, columns: int = 8, gap: int = 2, scale: int = 2) -> None:
    """Write images (N, 28, 28) or (N, 784) in [-1, 1] as one grayscale PNG, row by row, ``columns`` to a row.

    ``gap``: grey pixels between and around the images. ``scale``: every pixel, gaps too, becomes scale x scale. Fewer
    images than columns make a narrower grid. The folder is made when missing; the file appears whole or not at all.
    Same images, same bytes. Raises ValueError as ``to_uint8`` does, OSError when the file cannot be written.
    """
    from PIL import Image

    if columns < 1 or gap < 0 or scale < 1:
        raise ValueError(f"need columns >= 1, gap >= 0, scale >= 1, got {columns}, {gap}, {scale}")
    pixels = to_uint8(images)
    columns = min(columns, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    pitch = _SIDE + gap
    grid = np.full((rows * pitch + gap, columns * pitch + gap), _GAP_GREY, dtype=np.uint8)
    for index, image in enumerate(pixels):
        top, left = (gap + pitch * place for place in divmod(index, columns))
        grid[top : top + _SIDE, left : left + _SIDE] = image
    grid = grid.repeat(scale, axis=0).repeat(scale, axis=1)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        Image.fromarray(grid).save(file, format="PNG")


def heat_map(images: np.ndarray, *, width: int, color: bool) -> str:
    """Samples side by side for a terminal ``width`` cells wide: lines without a newline at the end.

    ``images``: (N, 28, 28) or (N, 784) in [-1, 1]. A cell is about twice as tall as wide, so a sample takes 28 columns
    and 14 rows. ``color``: a half block shows two pixels in 24-bit grey, with escape codes. Otherwise one character of
    an ASCII ramp shows their mean, without. Raises ValueError when ``width`` is below 28, and as ``to_uint8`` does.
    """
    import plotext

    pixels = to_uint8(images)
    if width < _SIDE:
        raise ValueError(f"width must be at least {_SIDE}, got {width}")
    most = (width + _GAP_COLUMNS) // (_SIDE + _GAP_COLUMNS)
    rows = math.ceil(len(pixels) / most)
    columns = math.ceil(len(pixels) / rows)  # four samples where three fit: two and two
    x_pitch, y_pitch = _SIDE + _GAP_COLUMNS, _SIDE // 2 + _GAP_ROWS
    canvas = plotext.matrix(columns * x_pitch - _GAP_COLUMNS, rows * y_pitch - _GAP_ROWS, plotext.pixel())
    draw = _draw_half_blocks if color else _draw_ramp
    for index, image in enumerate(pixels):
        row, column = divmod(index, columns)
        draw(canvas, column * x_pitch, row * y_pitch, image)
    return str(canvas.string(colorless=not color)).rstrip("\n")


def _draw_half_blocks(canvas: Any, left: int, top: int, image: np.ndarray) -> None:
    """Each cell is an upper half block: its foreground is the upper pixel, its background the lower one."""
    import plotext

    for row in range(_SIDE // 2):
        for column in range(_SIDE):
            upper, lower = (int(grey) for grey in image[2 * row : 2 * row + 2, column])
            cell = plotext.colorize("▀", plotext.pixel((upper,) * 3, (lower,) * 3))
            canvas.insert(left + column, top + row, cell)


def _draw_ramp(canvas: Any, left: int, top: int, image: np.ndarray) -> None:
    """Each cell is a character as dense as the mean of its two pixels is bright."""
    levels = (image[0::2].astype(int) + image[1::2]) * len(_RAMP) // (2 * 256)
    canvas.insert(left, top, "\n".join("".join(_RAMP[level] for level in line) for line in levels))


def loss_curves(
    epochs: Sequence[int], loss_d: Sequence[float], loss_g: Sequence[float], *, width: int, height: int, color: bool
) -> str:
    """Both losses over the epochs, ``height`` lines of ``width`` cells, without a newline at the end.

    The three sequences have one length >= 1 (else ValueError). A loss that is not finite leaves a gap in its curve.
    ``color``: braille dots in two colors, with escape codes. Otherwise pure ASCII, the curves drawn as d and g.
    """
    import plotext

    if not len(epochs) == len(loss_d) == len(loss_g) >= 1:
        raise ValueError(f"need three sequences of one length >= 1, got {len(epochs)}, {len(loss_d)}, {len(loss_g)}")
    plotext.terminal.limit(False, False)  # or the plot would shrink to the terminal that plotext believes in
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.theme("simple")  # unlike the default theme, paints no white background
    title = plotext.colorize("mean loss per epoch:")
    for label, losses, letter, hue in (("discriminator", loss_d, "d", "orange+"), ("generator", loss_g, "g", "cyan+")):
        pixel = plotext.pixel(hue)
        figure.draw(_curve(epochs, losses, plotext.marker("braille" if color else letter, pixel=pixel)))
        # plotext's own legend box would hide seven rows of the curves
        title = title + plotext.colorize(f"  {'━━' if color else letter} {label}", pixel)
    figure.title(title)
    figure.label("epoch", "x")
    figure.label("loss", "y")
    ticks = sorted({round(tick) for tick in np.linspace(min(epochs), max(epochs), _TICKS)})
    figure.ruler("x").ticks(ticks, [str(tick) for tick in ticks])
    text = str(figure.build().string(colorless=not color)).rstrip("\n")
    return text if color else text.translate(_ASCII_FRAME)


def _curve(epochs: Sequence[int], losses: Sequence[float], marker: Any) -> Any:
    import plotext

    finite = [index for index, loss in enumerate(losses) if math.isfinite(loss)]
    curve = plotext.figure.signal(
        [int(epochs[index]) for index in finite], [float(losses[index]) for index in finite], marker=marker
    ).lines()
    for place in range(1, len(finite)):
        if finite[place] != finite[place - 1] + 1:
            curve.line(place, False)  # no line across the epochs that were dropped
    return curve
