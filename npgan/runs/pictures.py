"""Pictures of samples and of losses: a PNG grid and a GIF for files, a heat map and curves for a terminal.

Plain functions from arrays, or from PNGs, to a file or a string. plotext's figure is one global object of that library,
so curves are drawn by one thread at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npgan.errors import InputError
from npgan.files import replacing
from npgan.runs.colormaps import COLORMAP, colors

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 28  # pixels; every image is _SIDE x _SIDE
_GAP_GRAY = 64  # between the images of a grid: neither ink (255) nor paper (0), so that their edges show
_GAP_COLUMNS, _GAP_ROWS = 2, 1  # terminal cells between samples
_RAMP = " .:-=+*#%@"  # dark to bright, for a light-on-dark or a dark-on-light page alike: ink is what is dense
_CAPTION_HEIGHT = 30  # pixels above a frame of the animation
_MOST_FRAMES = 100  # a frame takes up to 90 kB
_ALL_FRAMES_MS, _LAST_FRAME_MS = 15_000, 2_000  # the frames but the last, where there are many; the last one
_MOST_PIXELS = 4096  # a side of a picture that we are willing to open; ours have 484
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

    ``gap``: gray pixels between and around the images. ``scale``: every pixel, gaps too, becomes scale x scale. Fewer
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
    grid = np.full((rows * pitch + gap, columns * pitch + gap), _GAP_GRAY, dtype=np.uint8)
    for index, image in enumerate(pixels):
        top, left = (gap + pitch * place for place in divmod(index, columns))
        grid[top : top + _SIDE, left : left + _SIDE] = image
    grid = grid.repeat(scale, axis=0).repeat(scale, axis=1)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        Image.fromarray(grid).save(file, format="PNG")


def save_animation(pictures: Sequence[tuple[str, Path]], path: Path, colormap: str = COLORMAP) -> int:
    """Write (caption, PNG) pairs as one GIF that plays for ever, the caption above each picture. Returns its frames.

    The pictures are grayscale and of one size; ``colormap``, one of ``COLORMAPS``, gives the GIF its colors. Of more than
    ``_MOST_FRAMES`` an evenly spaced choice is shown, the first and the last among them. A frame stays half a second, less
    where there are many, the last one longer. The file appears whole or not at all. Same pictures, same bytes. Raises
    InputError, naming the file, for one that is no such picture.
    """
    if len(pictures) > _MOST_FRAMES:
        chosen = np.linspace(0, len(pictures) - 1, _MOST_FRAMES).round().astype(int)
        pictures = [pictures[index] for index in chosen]
    palette = bytes(itertools.chain.from_iterable(colors(colormap)))
    frames: list[Image] = []
    for caption, file in pictures:
        frame = _frame(caption, file)
        frame.putpalette(palette)
        if frames and frame.size != frames[0].size:
            raise InputError(f"{file}: is not of the size of the pictures before it")
        frames.append(frame)
    milliseconds = min(500, max(100, _ALL_FRAMES_MS // len(frames) // 10 * 10))
    durations = [milliseconds] * (len(frames) - 1) + [_LAST_FRAME_MS]
    with replacing(path) as animation:
        frames[0].save(
            animation, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False
        )
    return len(frames)


def read_grid(path: Path, *, columns: int = 8, gap: int = 2, scale: int = 2) -> np.ndarray:
    """The images (N, 28, 28) uint8 of a PNG of ``save_grid`` with full rows. Raises InputError, naming the file."""
    pixels = np.asarray(_open_picture(path))[::scale, ::scale]
    pitch = _SIDE + gap
    rows = len(pixels) // pitch
    if rows < 1 or pixels.shape != (rows * pitch + gap, columns * pitch + gap):
        raise InputError(f"{path}: is not a grid of samples")
    tiles = pixels[gap:, gap:].reshape(rows, pitch, columns, pitch)[:, :_SIDE, :, :_SIDE]
    return tiles.swapaxes(1, 2).reshape(-1, _SIDE, _SIDE)


def _frame(caption: str, file: Path) -> Image:
    """A saved picture below a line of text."""
    from PIL import Image, ImageDraw, ImageFont

    picture = _open_picture(file)
    frame = Image.new("L", (picture.width, picture.height + _CAPTION_HEIGHT), 0)
    frame.paste(picture, (0, _CAPTION_HEIGHT))
    place = (_CAPTION_HEIGHT // 4, _CAPTION_HEIGHT // 2)
    ImageDraw.Draw(frame).text(place, caption, 255, ImageFont.load_default(_CAPTION_HEIGHT * 2 // 3), anchor="lm")
    return frame


def _open_picture(file: Path) -> Image:
    """A picture of samples. Raises InputError for what is none."""
    from PIL import Image

    try:
        if file.is_file():  # opening a pipe would wait for ever
            with Image.open(file) as opened:
                if opened.format == "PNG" and opened.mode == "L" and max(opened.size) <= _MOST_PIXELS:
                    return opened.copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass
    raise InputError(f"{file}: is not a picture of samples")


def heat_map(images: np.ndarray, *, width: int, color: bool, colormap: str = COLORMAP) -> str:
    """Samples side by side for a terminal ``width`` cells wide: lines without a newline at the end.

    ``images``: (N, 28, 28) or (N, 784) in [-1, 1]. A cell is about twice as tall as wide, so a sample takes 28 columns
    and 14 rows. ``color``: a half block shows two pixels in 24-bit colors of ``colormap``, one of ``COLORMAPS``, with
    escape codes. Otherwise one character of an ASCII ramp shows their mean, without. Raises ValueError when ``width`` is
    below 28, and as ``to_uint8`` does.
    """
    pixels = to_uint8(images)
    if width < _SIDE:
        raise ValueError(f"width must be at least {_SIDE}, got {width}")
    most = (width + _GAP_COLUMNS) // (_SIDE + _GAP_COLUMNS)
    rows = math.ceil(len(pixels) / most)
    columns = math.ceil(len(pixels) / rows)  # four samples where three fit: two and two
    draw = partial(_half_blocks, palette=colors(colormap)) if color else _ramp
    pictures = [draw(image) for image in pixels]
    pictures += [[" " * _SIDE] * (_SIDE // 2)] * (rows * columns - len(pictures))
    lines: list[str] = []
    for start in range(0, len(pictures), columns):
        lines += [""] * (_GAP_ROWS if lines else 0)
        lines += [(" " * _GAP_COLUMNS).join(line) for line in zip(*pictures[start : start + columns], strict=True)]
    return "\n".join(line.ljust(columns * (_SIDE + _GAP_COLUMNS) - _GAP_COLUMNS) for line in lines)


def _half_blocks(image: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> list[str]:
    """Each cell is an upper half block: its foreground is the upper pixel, its background the lower one."""
    codes = [f"{red};{green};{blue}" for red, green, blue in palette]
    return [
        "".join(f"\x1b[38;2;{codes[upper]};48;2;{codes[lower]}m▀" for upper, lower in zip(*pair.tolist(), strict=True))
        + "\x1b[0m"
        for pair in image.reshape(-1, 2, _SIDE)
    ]


def _ramp(image: np.ndarray) -> list[str]:
    """Each cell is a character as dense as the mean of its two pixels is bright."""
    levels = (image[0::2].astype(int) + image[1::2]) * len(_RAMP) // (2 * 256)
    return ["".join(_RAMP[level] for level in line) for line in levels]


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
