"""The page of a run, driven in Chromium: what it shows is what the folder's reader tells, pixel by pixel."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import roomy_folder
from PIL import Image
from serving import Served, serve
from tiny_runs import make_runs

from npgan.play.watched import LatentPoint, WatchedRun, palette
from npgan.runs.folder import RunFolder

Open = Callable[..., Any]
NAME = "<img src=x onerror=alert(1)>"  # of a run's folder: no page may take it for HTML


@pytest.fixture(scope="module")
def run() -> Iterator[Path]:
    """To be looked at only."""
    with roomy_folder() as folder:
        yield make_runs(folder, "tutorial")["tutorial"].rename(folder / NAME)


@pytest.fixture(scope="module")
def watched(run: Path) -> WatchedRun:
    return WatchedRun(run)


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Served]:
    served = serve(str(run), "--no-browser")
    yield served
    assert served.stop() == (130, "stopped by SIGINT\n")


@pytest.fixture
def page(server: Served, open_page: Open) -> Any:
    return shown(open_page(server.address))


def shown(page: Any) -> Any:
    """Once the newest checkpoint's samples, its first one large and the strips are there."""
    page.locator(".samples button[title*='D says']").first.wait_for()
    settled(page)
    return page


def settled(page: Any) -> None:
    """Until all that was asked for is answered."""
    page.locator("#panel-digits[aria-busy='false']").wait_for()


def pixels(page: Any, selector: str, index: int = 0) -> np.ndarray:
    """Red, green and blue of a canvas, row by row: (784, 3)."""
    data = page.locator(selector).nth(index).evaluate("canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB")).reshape(784, 3)


def gray(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[:, None], 3, axis=1)


def colored(levels: np.ndarray) -> np.ndarray:
    return np.array(palette())[levels]


def fact(page: Any, name: str) -> str:
    text: str = page.locator("dl > div", has=page.get_by_text(name, exact=True)).locator("dd").inner_text()
    return text


def written(value: float) -> str:
    """As toPrecision(4) does."""
    assert 1e-6 < value < 1e4
    exponent = int(f"{value:.3e}".partition("e")[2])
    return f"{value:.{3 - exponent}f}"


def slide(page: Any, name: str, value: float) -> None:
    page.get_by_label(name, exact=True).evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def test_it_opens_on_the_run_at_its_newest_moment(page: Any, watched: WatchedRun, run: Path) -> None:
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Digits"
    assert page.locator(".badge").inner_text() == "finished"
    assert page.get_by_text(str(run)).is_visible() and page.locator("#panel-digits img").count() == 0
    assert "epoch 4, step 8: a checkpoint (4 of 4)" in page.locator("#panel-digits").inner_text()
    look = watched.samples(8)
    for index in (0, 17, 63):
        told = page.locator(".samples button").nth(index).get_attribute("aria-label")
        assert told == f"Sample {index + 1}: D says {written(look.verdicts[index])}, L {written(look.losses[index])}"
        np.testing.assert_array_equal(pixels(page, ".samples canvas", index), gray(look.pixels[index]))
    page.get_by_label("−∂L/∂pixels", exact=True).check()
    np.testing.assert_array_equal(pixels(page, ".samples canvas", 17), colored(look.change[17]))


def test_a_sample_is_shown_large_with_its_gradient(page: Any, watched: WatchedRun) -> None:
    look = watched.samples(8)
    page.get_by_role("button", name="Sample 10:").click()
    settled(page)
    np.testing.assert_array_equal(pixels(page, ".two canvas", 0), gray(look.pixels[9]))
    np.testing.assert_array_equal(pixels(page, ".two canvas", 1), colored(look.change[9]))
    assert fact(page, "D says") == written(look.verdicts[9])
    assert fact(page, "L, G's loss") == written(look.losses[9])
    assert fact(page, "‖∂L/∂pixels‖") == written(look.slopes[9])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.locator(".samples button[aria-pressed=true]").get_attribute("aria-label").startswith("Sample 19:")
    np.testing.assert_array_equal(pixels(page, ".two canvas", 0), gray(look.pixels[18]))


def test_the_time_line_by_keyboard(page: Any, watched: WatchedRun) -> None:
    line = page.get_by_label("Time line")
    line.focus()
    page.keyboard.press("ArrowLeft")
    settled(page)
    assert line.get_attribute("aria-valuetext") == "epoch 3, step 6: a checkpoint (3 of 4)"
    np.testing.assert_array_equal(pixels(page, ".samples canvas", 5), gray(watched.samples(6).pixels[5]))
    page.keyboard.press("Home")
    settled(page)
    assert line.get_attribute("aria-valuetext") == "epoch 1, step 2: a picture that training left (1 of 4)"
    np.testing.assert_array_equal(pixels(page, ".samples canvas", 5), gray(watched.samples(2).pixels[5]))
    assert page.get_by_label("Direction 1", exact=True).is_disabled() and fact(page, "D says") == "–"
    page.get_by_role("button", name="Newest").click()
    settled(page)
    assert page.get_by_label("Direction 1", exact=True).is_enabled()


def test_playing_ends_at_the_newest(page: Any) -> None:
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_text("step 4: a picture").wait_for()
    page.get_by_text("step 8: a checkpoint").wait_for()
    page.get_by_role("button", name="Play", exact=True).wait_for()


def test_curves_tell_the_numbers_of_the_moment(page: Any, watched: WatchedRun) -> None:
    page.get_by_label("Time line").focus()
    page.keyboard.press("ArrowLeft")
    settled(page)
    losses = page.get_by_role("img", name="Losses").get_attribute("aria-label")
    curves = watched.curves()
    told = f"loss of D {written(curves['loss_d'][2])}, loss of G {written(curves['loss_g'][2])}"
    assert losses == f"Losses, mean of each epoch; at epoch 3: {told}"
    d = f"D(real) {written(curves['d_real'][2])}, D(fake) {written(curves['d_fake'][2])}"
    assert page.get_by_role("img", name="What D says").get_attribute("aria-label").endswith(d)


def test_sliders(page: Any, watched: WatchedRun) -> None:
    page.get_by_role("button", name="Sample 4:").click()
    slide(page, "Direction 3", 2.5)
    slide(page, "Direction 8", -4)
    settled(page)
    found = watched.latent(8, LatentPoint(3, 1, 0.0, sliders=((2, 2.5), (7, -4.0))))
    np.testing.assert_array_equal(pixels(page, ".two canvas", 0), gray(found.look.pixels[0]))
    np.testing.assert_array_equal(pixels(page, ".two canvas", 1), colored(found.look.change[0]))
    assert fact(page, "‖z‖ (usual: 10.0)") == written(found.length)
    values = page.locator(".sliders output").all_inner_texts()
    assert values == [f"{value:.2f}".replace("-", "−") for value in found.coordinates]
    page.get_by_label("Directions").select_option("dimensions")
    settled(page)
    found = watched.latent(8, LatentPoint(3, 1, 0.0, directions="dimensions"))
    assert page.locator(".sliders output").first.inner_text() == f"{found.coordinates[0]:.2f}".replace("-", "−")
    page.get_by_role("button", name="Reset").click()
    settled(page)
    np.testing.assert_array_equal(pixels(page, ".two canvas", 0), gray(watched.samples(8).pixels[3]))


def test_moves_of_a_slider_do_not_pile_up(server: Served, open_page: Open, watched: WatchedRun) -> None:
    page = open_page("about:blank")
    sent: list[dict[str, Any]] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(json.loads(frame))))
    page.goto(server.address)
    shown(page)
    sent.clear()
    page.get_by_label("Direction 1", exact=True).evaluate(
        "e => { for (let i = 0; i <= 300; i += 1) { e.value = i / 100; e.dispatchEvent(new Event('input')); } }"
    )
    settled(page)
    assert 1 <= len(sent) <= 3 and sent[-1]["point"]["sliders"] == [[0, 3]]
    expected = watched.latent(8, LatentPoint(0, 1, sliders=((0, 3.0),))).look.pixels[0]
    np.testing.assert_array_equal(pixels(page, ".two canvas", 0), gray(expected))


def test_from_one_to_another(page: Any, watched: WatchedRun) -> None:
    page.get_by_label("From sample").fill("3")
    page.get_by_label("To sample").fill("200")
    page.get_by_label("To sample").press("Enter")
    settled(page)
    strips = watched.strips(8, 2, 199)
    for path in ("circle", "line"):
        for index in (0, 3, 7):
            drawn = pixels(page, f".strip[data-path={path}] canvas", index)
            np.testing.assert_array_equal(drawn, gray(strips[path][index]))
    page.get_by_role("radio", name="straight line").check()
    slide(page, "Way from the first to the second", 0.5)
    settled(page)
    found = watched.latent(8, LatentPoint(2, 199, 0.5, "line"))
    np.testing.assert_array_equal(pixels(page, ".two canvas", 0), gray(found.look.pixels[0]))
    assert fact(page, "‖z‖ (usual: 10.0)") == written(found.length)
    page.get_by_role("button", name="circle, 8 of 8").click()
    settled(page)
    assert page.get_by_role("radio", name="great circle").is_checked()
    assert page.get_by_label("Way from the first to the second").input_value() == "1"


def test_a_random_walk_goes_on_until_it_is_stopped(page: Any) -> None:
    way = page.get_by_label("Way from the first to the second")
    page.get_by_role("button", name="Random walk").click()
    page.wait_for_function("way => way.value > 0", arg=way.element_handle())
    page.get_by_role("button", name="Stop").click()
    settled(page)
    before = way.input_value()
    page.wait_for_timeout(300)
    assert way.input_value() == before


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_and_every_control_has_a_name(server: Served, open_page: Open, width: int, theme: str) -> None:
    page = shown(open_page(server.address, viewport={"width": width, "height": 900}, color_scheme=theme))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    told = page.locator("#panel-digits").aria_snapshot()
    assert re.findall(r"^ *- (?:button|slider|radio|spinbutton|combobox|img|radiogroup|group)[: ]*$", told, re.M) == []


def test_a_run_that_goes_on(run: Path, open_page: Open) -> None:
    """The page follows what another process writes, unasked, and says what that process does."""
    with roomy_folder() as folder:
        growing = Path(shutil.copytree(run, folder / "run"))
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        last = growing / "checkpoints" / "step-000000008.safetensors"
        away = last.rename(folder / last.name)
        (growing / "samples" / "epoch-00004.png").unlink()
        (growing / "metrics.jsonl").write_bytes(b"".join(lines[:3]))
        served = serve(str(growing), "--no-browser")
        try:
            page = shown(open_page(served.address))
            assert page.locator(".badge").inner_text() == "stopped"
            assert page.get_by_text(f"npgan train --resume {growing} goes on").is_visible()
            with RunFolder(growing).locked(print):
                page.locator(".badge", has_text="training").wait_for()
                with open(growing / "metrics.jsonl", "ab") as file:
                    file.write(lines[3])
                os.replace(away, last)
                page.get_by_text("epoch 4, step 8: a checkpoint (4 of 4)").wait_for()
            page.locator(".badge", has_text="finished").wait_for()
            settled(page)
            expected = WatchedRun(growing).samples(8).pixels[5]
            np.testing.assert_array_equal(pixels(page, ".samples canvas", 5), gray(expected))
            page.get_by_label("Time line").focus()
            page.keyboard.press("ArrowLeft")  # away from the newest nothing is followed
            settled(page)
            with open(growing / "npgan.log", "a") as log:
                log.write("2026-01-01 10:00:00  warning: <b>D</b> saturated\n")
            page.get_by_text("warning: <b>D</b> saturated").wait_for()
            assert page.get_by_text("epoch 3, step 6: a checkpoint (3 of 4)").is_visible()
            shutil.rmtree(growing)
            page.locator(".badge", has_text="unreadable").wait_for()
            page.get_by_role("button", name="Newest").click()
            page.get_by_role("alert").filter(has_text="nothing of step 8 any more").wait_for()
        finally:
            assert served.stop()[0] == 130


def test_a_damaged_checkpoint_is_one_line_and_the_rest_goes_on(run: Path, open_page: Open) -> None:
    with roomy_folder() as folder:
        spoiled = Path(shutil.copytree(run, folder / "run"))
        (spoiled / "checkpoints" / "step-000000006.safetensors").write_bytes(b"damaged")
        served = serve(str(spoiled), "--no-browser")
        try:
            page = shown(open_page(served.address))
            page.get_by_label("Time line").focus()
            page.keyboard.press("ArrowLeft")
            page.get_by_role("alert").filter(has_text="step-000000006.safetensors: damaged checkpoint").wait_for()
            page.keyboard.press("ArrowRight")
            shown(page)
            assert page.get_by_role("alert").inner_text() == ""
        finally:
            assert served.stop() == (130, "stopped by SIGINT\n")


def test_without_a_run_it_says_how_to_name_one(served: Served, open_page: Open) -> None:
    page = open_page(served.address)
    page.get_by_role("tab", name="Digits").click()
    page.get_by_text("npgan play RUN").wait_for()


def test_who_is_at_latent_space_is_not_taken_to_a_picture(run: Path, open_page: Open) -> None:
    with roomy_folder() as folder:
        growing = Path(shutil.copytree(run, folder / "run"))
        away = (growing / "samples" / "epoch-00004.png").rename(folder / "4.png")
        (growing / "checkpoints" / "step-000000008.safetensors").unlink()
        served = serve(str(growing), "--no-browser")
        try:
            page = shown(open_page(served.address))
            slide(page, "Direction 1", 1)
            settled(page)
            os.replace(away, growing / "samples" / "epoch-00004.png")
            page.get_by_text("epoch 3, step 6: a checkpoint (3 of 4)").wait_for()
            assert page.get_by_label("Direction 1", exact=True).is_enabled()
            page.get_by_role("button", name="Newest").click()
            page.get_by_text("epoch 4, step 8: a picture that training left (4 of 4)").wait_for()
        finally:
            assert served.stop()[0] == 130
