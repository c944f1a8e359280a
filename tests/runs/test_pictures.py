"""PNG grids of samples, and pictures of samples and losses for the terminal."""

from __future__ import annotations

import io
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.text import Text

from npgan.console import Console
from npgan.errors import InputError
from npgan.runs.colormaps import COLORMAPS, colors
from npgan.runs.pictures import heat_map, loss_curves, read_grid, save_animation, save_grid, to_uint8

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def random_images(count: int) -> Any:
    levels = np.random.default_rng(7).integers(0, 256, (count, 28, 28))
    return (levels / 127.5 - 1).astype(np.float32)


# ---- to_uint8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_gray_level_survives_the_round_trip(dtype: type) -> None:
    levels = np.arange(784) % 256
    images: Any = (levels / 127.5 - 1).astype(dtype)[None]
    assert (to_uint8(images) == levels.reshape(1, 28, 28)).all()


@given(st.floats(-1.5, 1.5))
def test_to_uint8_rounds_to_the_nearest_level_and_clips(value: float) -> None:
    level = int(to_uint8(np.full((1, 784), value))[0, 0, 0])
    assert abs(level - (min(max(value, -1.0), 1.0) + 1) * 127.5) <= 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    images = random_images(2)
    images[1, 3, 4] = bad
    with pytest.raises(ValueError, match="finite"):
        to_uint8(images)


@pytest.mark.parametrize("shape", [(0, 784), (2, 783), (28, 28), (2, 1, 28, 28), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        to_uint8(np.zeros(shape))


# ---- save_grid


@pytest.mark.parametrize(
    ("count", "columns", "gap", "scale"), [(5, 3, 2, 3), (1, 8, 0, 1), (16, 4, 1, 2), (3, 8, 2, 2)]
)
def test_grid_holds_every_pixel_and_gray_gaps(tmp_path: Path, count: int, columns: int, gap: int, scale: int) -> None:
    images = random_images(count)
    path = tmp_path / "new" / "grid.png"
    save_grid(images, path, columns=columns, gap=gap, scale=scale)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "L"
        grid = np.asarray(picture)
    columns = min(columns, count)
    rows = -(-count // columns)
    assert grid.shape == (scale * (rows * (28 + gap) + gap), scale * (columns * (28 + gap) + gap))

    rest = np.ones(grid.shape, dtype=bool)  # what no image covers
    for index, image in enumerate(to_uint8(images)):
        top, left = (scale * (gap + (28 + gap) * place) for place in (index // columns, index % columns))
        where = np.s_[top : top + 28 * scale, left : left + 28 * scale]
        assert (grid[where] == np.kron(image, np.ones((scale, scale)))).all()
        rest[where] = False
    assert len(np.unique(grid[rest])) <= 1


def test_flat_images_and_a_second_run_give_the_same_bytes(tmp_path: Path) -> None:
    images = random_images(3)
    save_grid(images, tmp_path / "a.png")
    save_grid(images.reshape(3, 784), str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grid.png"
    save_grid(random_images(1), path)
    before = path.read_bytes()

    def full_disk(self: Image.Image, file: BinaryIO, format: str) -> None:
        file.write(b"half a picture")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_grid(random_images(2), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["grid.png"]


@pytest.mark.parametrize("option", [{"columns": 0}, {"gap": -1}, {"scale": 0}])
def test_impossible_grids_are_refused(tmp_path: Path, option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="need columns"):
        save_grid(random_images(1), tmp_path / "grid.png", **option)


@pytest.mark.parametrize("count", [8, 64])
def test_a_grid_is_read_as_it_was_written(tmp_path: Path, count: int) -> None:
    images = random_images(count)
    save_grid(images, tmp_path / "grid.png")
    np.testing.assert_array_equal(read_grid(tmp_path / "grid.png"), to_uint8(images))


@pytest.mark.parametrize("size", [(484, 480), (480, 484), (484, 4), (28, 28), (5000, 484)])
def test_what_is_no_grid(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png: is not a"):
        read_grid(tmp_path / "x.png")


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_what_is_no_picture(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png: is not a picture"):
        read_grid(tmp_path / "x.png")


# ---- save_animation


def saved_grids(folder: Path, count: int) -> list[tuple[str, Path]]:
    files = [folder / f"{index}.png" for index in range(count)]
    for index, file in enumerate(files):
        save_grid(np.full((4, 784), index / count), file)
    return [(f"epoch {index}", file) for index, file in enumerate(files)]


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_an_animation_shows_every_picture_in_color_below_its_caption(tmp_path: Path, colormap: str) -> None:
    pictures, palette = saved_grids(tmp_path, 3), np.array(colors(colormap))
    assert save_animation(pictures, tmp_path / "a.gif", colormap) == 3
    captions, durations = [], []
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.info["loop"] == 0  # for ever
        for index, (_, file) in enumerate(pictures):
            animation.seek(index)
            frame, picture = np.asarray(animation.convert("RGB")), np.asarray(Image.open(file))
            bar = len(frame) - len(picture)
            assert (frame[bar:] == palette[picture]).all()
            captions.append(frame[:bar].tobytes())
            durations.append(animation.info["duration"])
        assert animation.n_frames == 3
    assert len(set(captions)) == 3
    assert durations == [500, 500, 2000]
    save_animation(pictures, tmp_path / "b.gif", colormap)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_a_long_animation_shows_a_hundred_pictures_with_the_first_and_the_last(tmp_path: Path) -> None:
    pictures = [pair for pair in saved_grids(tmp_path, 2) for _ in range(75)]
    pictures = [(f"epoch {index}", file) for index, (_, file) in enumerate(pictures)]
    assert save_animation(pictures, tmp_path / "a.gif") == 100
    save_animation([pictures[0], pictures[-1]], tmp_path / "ends.gif")
    with Image.open(tmp_path / "a.gif") as animation, Image.open(tmp_path / "ends.gif") as ends:
        assert animation.n_frames == 100
        for frame, end in ((0, 0), (99, 1)):
            animation.seek(frame)
            ends.seek(end)
            assert animation.convert("L").tobytes() == ends.convert("L").tobytes()


@pytest.mark.parametrize("spoil", ["garbage", "cut", "color", "other size", "huge"])
def test_a_spoiled_picture_is_named_and_the_old_animation_stays(tmp_path: Path, spoil: str) -> None:
    pictures = saved_grids(tmp_path, 3)
    save_animation(pictures, tmp_path / "a.gif")
    before, bad = (tmp_path / "a.gif").read_bytes(), pictures[1][1]
    if spoil == "garbage":
        bad.write_bytes(b"no picture")
    elif spoil == "cut":
        bad.write_bytes(bad.read_bytes()[:-40])
    elif spoil == "color":
        Image.open(bad).convert("RGB").save(bad)
    else:
        Image.new("L", (100, 100) if spoil == "other size" else (5000, 10)).save(bad)
    with pytest.raises(InputError, match=re.escape(str(bad))) as caught:
        save_animation(pictures, tmp_path / "a.gif")
    assert str(caught.value).count(str(bad)) == 1
    assert (tmp_path / "a.gif").read_bytes() == before


# ---- heat_map


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize(
    ("count", "width", "rows", "columns"),
    [
        (4, 28, 59, 28),
        (4, 60, 29, 58),
        (4, 80, 29, 58),
        (4, 100, 29, 58),
        (4, 118, 14, 118),
        (4, 160, 14, 118),
        (1, 80, 14, 28),
    ],
)
def test_heat_map_fits_its_width(count: int, width: int, rows: int, columns: int, color: bool) -> None:
    lines = ESCAPE.sub("", heat_map(random_images(count), width=width, color=color)).split("\n")
    assert len(lines) == rows
    assert {len(line) for line in lines} == {columns}


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_half_blocks_carry_every_pixel_exactly(colormap: str) -> None:
    image = random_images(1)
    levels = to_uint8(image)[0]
    console, palette = Console(file=io.StringIO()), colors(colormap)
    picture = heat_map(image, width=80, color=True, colormap=colormap)
    for row, line in enumerate(Text.from_ansi(picture).split()):
        assert line.plain == "▀" * 28
        for column in range(28):
            style = line.get_style_at_offset(console, column)
            assert style.color is not None and style.bgcolor is not None
            assert style.color.triplet == palette[levels[2 * row, column]]
            assert style.bgcolor.triplet == palette[levels[2 * row + 1, column]]


def test_colormaps() -> None:
    assert colors("gray") == [(level,) * 3 for level in range(256)]
    # matplotlib's own at three levels that are not among the anchors
    for level, true in ((56, (75, 12, 107)), (120, (177, 50, 90)), (200, (251, 155, 6))):
        assert np.abs(np.subtract(colors("inferno")[level], true)).max() <= 7
    for name in COLORMAPS:
        table = np.array(colors(name))
        assert table.shape == (256, 3) and table.min() >= 0 and table.max() <= 255
        brightness = table @ (0.2126, 0.7152, 0.0722)
        assert (np.diff(brightness) > -0.5).all()  # brighter pixels are brighter


def test_ramp_is_plain_ascii_and_brighter_is_denser() -> None:
    gradient = np.tile(np.linspace(-1, 1, 28, dtype=np.float32), (28, 1))
    first, *others = heat_map(gradient[None], width=28, color=False).split("\n")
    assert all(line == first for line in others)
    assert first.isascii() and first[0] == " " and first[-1] == "@"
    assert list(first) == sorted(first, key=" .:-=+*#%@".index)


def test_ramp_shows_the_mean_of_two_rows() -> None:
    striped = np.full((1, 28, 28), -1.0)
    striped[:, ::2] = 1.0
    assert set(heat_map(striped, width=28, color=False)) == {"=", "\n"}


def test_samples_stand_in_reading_order() -> None:
    grays = np.linspace(-1, 1, 6)
    images = np.broadcast_to(grays[:, None, None], (6, 28, 28))
    lines = heat_map(images, width=90, color=False).split("\n")  # two rows of three
    assert "".join(lines[row * 15 + 7][column * 30 + 14] for row in range(2) for column in range(3)) == " .-+#@"


def test_heat_map_needs_room_for_one_sample() -> None:
    with pytest.raises(ValueError, match="width"):
        heat_map(random_images(1), width=27, color=True)


# ---- loss_curves


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5000])
@pytest.mark.parametrize(("width", "height"), [(80, 20), (160, 12)])
def test_curves_have_the_asked_size_and_name_everything(count: int, color: bool, width: int, height: int) -> None:
    epochs = range(101, 101 + count)
    loss_d = [0.7 - 0.2 * math.sin(epoch) for epoch in epochs]
    loss_g = [1.5 + 0.2 * math.cos(epoch) for epoch in epochs]
    picture = loss_curves(epochs, loss_d, loss_g, width=width, height=height, color=color)
    lines = ESCAPE.sub("", picture).split("\n")
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}
    for word in ("mean loss per epoch", "discriminator", "generator", "epoch", "101", str(100 + count)):
        assert word in "\n".join(lines)
    if color:
        assert "\x1b[" in picture
    else:
        assert picture.isascii() and "\x1b" not in picture
        canvas = "".join(lines[1:-3])
        assert "d" in canvas and "g" in canvas


def test_losses_that_are_not_finite_leave_a_gap() -> None:
    loss_d = [1.0] * 10 + [math.nan] * 10 + [1.0] * 10
    picture = loss_curves(range(30), loss_d, [2.0] * 29 + [math.inf], width=60, height=12, color=False)
    curve = next(line for line in picture.split("\n") if "ddd" in line)
    assert re.search(r"d {10,}d", curve)
    all_lost = loss_curves([1, 2], [math.nan] * 2, [math.inf] * 2, width=60, height=12, color=False)
    assert len(all_lost.split("\n")) == 12


@pytest.mark.parametrize("lengths", [(0, 0, 0), (2, 1, 2), (1, 1, 2)])
def test_curves_need_sequences_of_one_length(lengths: tuple[int, int, int]) -> None:
    epochs, loss_d, loss_g = ([1] * length for length in lengths)
    with pytest.raises(ValueError, match="one length"):
        loss_curves(epochs, loss_d, loss_g, width=80, height=20, color=False)
