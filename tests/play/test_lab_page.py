"""The lab, driven in Chromium: every control does what it says, and the numbers are ``train_step``'s."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from serving import Served, children, serve

from npgan.gan import StepMetrics, train_step
from npgan.inspector import inspect_step
from npgan.inspector.history import next_batch
from npgan.play.learner import first_state
from npgan.play.points import points_of
from npgan.play.settings import controls, presets, read

Open = Callable[..., Any]

# For each setting another value than the defaults of the page, and what must change with it to be allowed.
OTHERS: dict[str, dict[str, str]] = {
    "data": {"data": "two moons"},
    "hidden_g": {"hidden_g": "20, 10"},
    "hidden_d": {"hidden_d": "30"},
    "loss": {"loss": "bce-logits"},
    "r1": {"r1": "0.5"},
    "r2": {"r2": "0"},
    "lr_g": {"lr_g": "0.002"},
    "lr_d": {"lr_d": "0.003"},
    "beta1": {"beta1": "0.5"},
    "beta2": {"beta2": "0.9"},
    "ema": {"ema": "0"},
    "dropout": {"dropout": "0.4"},
    "dropout_in_g_step": {"dropout": "0.4", "dropout_in_g_step": "true"},
    "label_smoothing": {"loss": "bce-logits", "label_smoothing": "0.2"},
    "batch_size": {"batch_size": "32"},
    "seed": {"seed": "18446744073709551615"},
}
DEFAULTS = {each["name"]: each["value"] for each in controls()}


def _trained(steps: int, **texts: str) -> StepMetrics:
    """What ``train_step`` measures in the last of so many steps with these settings."""
    lab, config = read({**DEFAULTS, **texts})
    data, state = points_of(lab.data, config.seed), first_state(lab, config)
    for step in range(steps):
        metrics = train_step(state, next_batch(data, config, step), config)
    return metrics


def _lab(open_page: Open, served: Served, **settings: Any) -> Any:
    page = open_page(served.address, **settings)
    page.wait_for_selector("#lab-step:enabled")
    _at(page, 0)
    return page


def _at(page: Any, step: int) -> None:
    page.wait_for_function("text => document.getElementById('lab-now-step').textContent === text", arg=f"{step:,}")


def _losses(page: Any) -> tuple[str, str]:
    return page.inner_text("#lab-now-loss_d"), page.inner_text("#lab-now-loss_g")


def _shown(metrics: StepMetrics) -> tuple[str, str]:
    return f"{metrics.loss_d:.4f}", f"{metrics.loss_g:.4f}"


def _step(page: Any, button: str, to: int) -> None:
    page.click(f"#lab-{button}:enabled")
    _at(page, to)


def _pressed(page: Any, button: str, times: int) -> list[tuple[str, str]]:
    """Both losses after each press of a button."""
    shown = page.evaluate(
        """async ([button, times]) => {
        const text = (name) => document.getElementById(`lab-now-${name}`).textContent;
        const shown = [];
        while (shown.length < times) {
            const before = text("step");
            document.getElementById(`lab-${button}`).click();
            while (text("step") === before) await new Promise((done) => setTimeout(done, 2));
            shown.push([text("loss_d"), text("loss_g")]);
        }
        return shown;
    }""",
        [button, times],
    )
    return [(loss_d, loss_g) for loss_d, loss_g in shown]


def _set(page: Any, name: str, text: str) -> None:
    field = page.locator(f"#lab-set-{name}")
    kind = field.evaluate("field => field.type")
    if kind == "select-one":
        field.select_option(text)
    elif kind == "checkbox":
        field.set_checked(text == "true")
    else:
        field.fill(text)
        field.blur()


def test_every_setting_is_one_of_the_test(open_page: Open, served: Served) -> None:
    assert set(OTHERS) == set(DEFAULTS)
    page = _lab(open_page, served)
    for name, text in DEFAULTS.items():
        label = page.locator(f"label[for=lab-set-{name}]")
        assert label.inner_text()
        field = page.locator(f"#lab-set-{name}")
        assert (str(field.is_checked()).lower() if text in ("true", "false") else field.input_value()) == text
        assert field.get_attribute("title")


def test_settings_are_those_that_it_learns_with(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    for name, others in OTHERS.items():
        for each, text in others.items():
            _set(page, each, text)
        page.click("#lab-anew")
        _at(page, 0)
        steps = 3 if name.startswith("beta") else 2  # Adam's first step knows no β
        seen = _pressed(page, "step", steps)
        assert seen[-1] == _shown(_trained(steps, **others)), name
        if name != "ema":  # which is of the samples alone
            without = {each: text for each, text in others.items() if each != name}
            assert seen[-1] != _shown(_trained(steps, **without)), name
        for each in others:
            _set(page, each, DEFAULTS[each])
    assert page.locator("#lab-error").is_hidden()


@pytest.mark.parametrize("preset", list(presets()))
def test_numbers_are_those_of_train_step(preset: str, open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    page.select_option("#lab-preset", preset)
    _set(page, "seed", "7")
    assert page.locator("#lab-preset").input_value() == preset
    page.click("#lab-anew")
    _at(page, 0)
    seen = [_losses(page), *_pressed(page, "step", 7)]
    texts = {**presets()[preset], "seed": "7"}
    assert seen == [("–", "–"), *(_shown(_trained(step, **texts)) for step in range(1, 8))]
    assert _pressed(page, "back", 7) == seen[-2::-1]
    assert page.locator("#lab-back").is_disabled()


def test_rates_change_while_it_learns(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    _step(page, "step", 1)
    _set(page, "lr_g", "0.004")
    page.get_by_label("Learning rate of D ×2").click()
    assert page.locator("#lab-set-lr_d").input_value() == "0.001"
    for step in (2, 3):
        _step(page, "step", step)
    lab, config = read(DEFAULTS)
    data, state = points_of(lab.data, config.seed), first_state(lab, config)
    for step in range(3):
        metrics = train_step(state, next_batch(data, config, step), config)
        state.optimizer_g.lr, state.optimizer_d.lr = 0.004, 0.001
    assert _losses(page) == _shown(metrics)
    assert page.locator("#lab-preset").input_value() == "own"


def test_what_cannot_be_set_is_told_until_it_is_put_right(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    _step(page, "step", 1)
    _set(page, "hidden_g", "<img src=x onerror=alert(1)>")
    page.wait_for_selector("#lab-refused:visible")
    assert "<img src=x" in page.inner_text("#lab-refused")
    assert page.locator("#lab-refused img").count() == 0
    _step(page, "step", 2)  # with what it had
    assert page.locator("#lab-refused").is_visible()
    _set(page, "hidden_g", "64, 64, 64")
    page.wait_for_selector("#lab-refused", state="hidden")
    for text, state in (("-1", "visible"), ("0.0005", "hidden")):
        _set(page, "lr_g", text)
        page.wait_for_selector("#lab-refused", state=state)  # type: ignore[arg-type]


def test_what_cannot_be_set_stops_nothing(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    page.click("#lab-play")
    for name in ("lr_g", "batch_size"):
        _set(page, name, "-1")
        page.wait_for_selector("#lab-refused:visible")
        step = page.inner_text("#lab-now-step")
        page.wait_for_function("old => document.getElementById('lab-now-step').textContent !== old", arg=step)
        assert page.inner_text("#lab-play") == "Pause"
        _set(page, name, {"lr_g": "0.0005", "batch_size": "128"}[name])
        page.wait_for_selector("#lab-refused", state="hidden")


def test_a_stopped_server_leaves_nothing_to_press(open_page: Open) -> None:
    server = serve("--no-browser")
    page = _lab(open_page, server)
    page.click("#lab-play")
    server.stop()
    page.wait_for_selector("#panels[inert]", state="attached")
    assert "has stopped" in page.inner_text("#connection")


def test_a_run_that_diverges_is_told_and_can_go_back(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    for name, text in (("loss", "bce-logits"), ("lr_g", "1e6"), ("lr_d", "1e6")):
        _set(page, name, text)
    page.click("#lab-anew")
    _at(page, 0)
    page.click("#lab-play")
    page.wait_for_selector("#lab-error:visible")
    assert "not finite" in page.inner_text("#lab-error")
    step = int(page.inner_text("#lab-now-step").replace(",", ""))
    _step(page, "back", step - 1)
    assert _losses(page) == _shown(_trained(step - 1, loss="bce-logits", lr_g="1e6", lr_d="1e6"))


def test_it_plays_pauses_and_keeps_to_its_speed(open_page: Open, served: Served) -> None:
    page = open_page(served.address)
    page.select_option("#lab-speed", "5")  # before there is anything to learn
    _at(page, 0)
    took = page.evaluate(
        """async () => {
        const step = () => Number(document.getElementById("lab-now-step").textContent.replaceAll(",", ""));
        const start = performance.now();
        document.getElementById("lab-play").click();
        while (step() < 4) await new Promise(requestAnimationFrame);
        return performance.now() - start;
    }"""
    )
    assert took > 500  # 4 steps, the first at once
    assert page.inner_text("#lab-play") == "Pause" and page.locator("#lab-step").is_disabled()
    page.select_option("#lab-speed", "0")
    page.wait_for_function("() => Number(document.getElementById('lab-now-step').textContent.replaceAll(',', '')) > 60")
    page.click("#lab-play")
    page.wait_for_selector("#lab-step:enabled")
    step = int(page.inner_text("#lab-now-step").replace(",", ""))
    assert _losses(page) == _shown(_trained(step))
    page.wait_for_timeout(200)
    assert int(page.inner_text("#lab-now-step").replace(",", "")) == step


def test_it_finds_all_eight_gaussians(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    page.click("#lab-play")
    page.wait_for_function("() => document.getElementById('lab-now-modes').textContent === '8 of 8'", timeout=60_000)


def test_slow_motion_walks_through_the_step_and_does_it(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    _step(page, "step", 1)
    lab, config = read(DEFAULTS)
    data, state = points_of(lab.data, config.seed), first_state(lab, config)
    train_step(state, next_batch(data, config, 0), config)
    trace = inspect_step(state, next_batch(data, config, 1), config)
    page.keyboard.press("w")
    panel = page.locator(".slow")
    panel.wait_for()
    shown = page.evaluate(
        """() => {
        const [panel, next] = [document.querySelector(".slow"), document.getElementById("lab-slow-next")];
        const shown = [];
        for (;;) {
            const picture = shown.length % 6 ? "" : document.getElementById("lab-picture").toDataURL();
            shown.push([panel.innerText, picture]);
            if (next.disabled) return shown;
            next.click();
        }
    }"""
    )
    assert len(shown) == len(trace.ops)
    for place, (op, (text, _)) in enumerate(zip(trace.ops, shown, strict=True), 1):
        assert f"Step 2, operation {place} of {len(trace.ops)}" in text
        assert op.where in text and op.source.formula in text
        assert f"{op.function}, {op.source.file}:{op.source.line}" in text
        if "_backward" in op.name:
            assert "✓ right" in text and "✗" not in text
    assert len({picture for _, picture in shown}) > 6  # it goes along
    for key, place in (("ArrowLeft", -1), ("ArrowRight", 0), ("ArrowRight", 0)):
        page.keyboard.press(key)
        assert f"operation {len(trace.ops) + place} of" in panel.inner_text()
    page.click("#lab-slow-finish")
    _at(page, 2)
    assert panel.is_hidden()
    assert _losses(page) == _shown(_trained(2))
    page.select_option("#lab-slow-which", "G")
    page.click("#lab-slow")
    panel.wait_for()
    assert "G step" in panel.inner_text()
    page.click("#lab-slow-play")
    page.wait_for_function("() => document.querySelector('.slow h2').textContent.includes('operation 2 of')")
    page.keyboard.press("Escape")
    assert panel.is_hidden()
    _at(page, 2)


def test_steps_of_one_network(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    grid = "document.getElementById('lab-picture').toDataURL()"
    for name in ("ground", "real", "fake", "arrows"):
        page.uncheck(f"#lab-show-{name}")
    before = page.evaluate(grid)
    _step(page, "step-D", 1)
    page.wait_for_timeout(100)
    assert page.evaluate(grid) == before  # G's grid stays
    _step(page, "step-G", 2)
    page.wait_for_timeout(100)
    assert page.evaluate(grid) != before


def test_every_layer_of_the_picture_can_be_left_out(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    _step(page, "step", 1)
    seen = set()
    for name in ("ground", "grid", "real", "fake", "arrows"):
        seen.add(page.evaluate("document.getElementById('lab-picture').toDataURL()"))
        page.uncheck(f"#lab-show-{name}")
    seen.add(page.evaluate("document.getElementById('lab-picture').toDataURL()"))
    assert len(seen) == 6
    distance = page.inner_text("#lab-now-distance")
    page.check("#lab-average")
    page.wait_for_function("text => document.getElementById('lab-now-distance').textContent !== text", arg=distance)


def test_points_are_drawn_with_the_mouse_and_with_keys(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    _set(page, "data", "drawn")
    page.wait_for_selector("#lab-learn:disabled")
    box = page.locator("#lab-picture").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 40, steps=20)
    page.mouse.up()
    count = int(page.inner_text("#lab-learn + button + span").split()[0])
    assert count >= 10
    page.click("#lab-clear")
    page.focus("#lab-picture")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Space", "ArrowLeft", "Space"):
        page.keyboard.press(key)
    assert page.inner_text("#lab-learn + button + span") == "2 points"
    page.click("#lab-learn")
    _step(page, "step", 1)
    lab, config = read({**DEFAULTS, "data": "drawn"})
    data, state = points_of("drawn", 0, np.array([[0.1, 0.05], [0.05, 0.05]])), first_state(lab, config)
    assert _losses(page) == _shown(train_step(state, next_batch(data, config, 0), config))


def test_keys_and_words_for_a_screen_reader(open_page: Open, served: Served) -> None:
    page = _lab(open_page, served)
    page.keyboard.press("s")
    _at(page, 1)
    page.keyboard.press("d")
    _at(page, 2)
    page.keyboard.press("g")
    _at(page, 3)
    page.keyboard.press("b")
    _at(page, 2)
    page.keyboard.press("Space")
    page.wait_for_function("() => document.getElementById('lab-play').textContent === 'Pause'")
    page.keyboard.press("Space")
    page.wait_for_selector("#lab-step:enabled")
    assert re.match(r"Step [\d,]+, Loss of D \d", page.locator("[role=status]#lab-said").text_content())
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas, [role=tab], [role=tabpanel]")]
        .filter((each) => !(each.getAttribute("aria-label") || each.getAttribute("aria-labelledby") || each.labels?.length
            || each.textContent.trim()))
        .map((each) => each.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_narrow_and_wide_windows_in_both_themes(theme: str, open_page: Open, served: Served) -> None:
    page = _lab(open_page, served, color_scheme=theme)
    page.click("#lab-slow")
    page.locator(".slow").wait_for()
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    ground = "getComputedStyle(document.body).backgroundColor"
    assert (sum(map(int, re.findall(r"\d+", page.evaluate(ground)))) < 300) == (theme == "dark")
    page.click("#theme")
    assert (sum(map(int, re.findall(r"\d+", page.evaluate(ground)))) < 300) == (theme == "light")


def test_two_pages_at_once_and_a_closed_one(open_page: Open, served: Served) -> None:
    first, second = _lab(open_page, served), _lab(open_page, served)
    _step(first, "step", 1)
    _step(first, "step", 2)
    _step(second, "step", 1)
    assert first.inner_text("#lab-now-step") == "2"
    started = len(children(served.process.pid))
    first.close()
    for _ in range(100):
        if len(children(served.process.pid)) < started:
            break
        second.wait_for_timeout(50)
    assert len(children(served.process.pid)) == started - 1
    _step(second, "step", 2)
