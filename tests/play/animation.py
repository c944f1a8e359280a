"""Run by hand, not a test: the README's picture of the lab, from screenshots of a run in Chromium.

python tests/play/animation.py docs/images/play.webp
"""

from __future__ import annotations

import io
import shutil
import sys

from PIL import Image
from playwright.sync_api import sync_playwright
from serving import serve

WIDTH, HEIGHT = 1040, 760
LEARNING = 45  # screenshots
OPERATIONS = 0, 16, 18, 23, 46, 53, 70, 82, 92, 94  # those that are shown of one step, a screenshot each


def main(path: str) -> None:
    server = serve("--no-browser")
    shots: list[tuple[bytes, int]] = []  # a PNG, and the milliseconds that it stays
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="dark")
        page.goto(server.address)
        page.select_option("#lab-speed", "100")
        page.click("#lab-play:enabled")
        page.evaluate("scrollTo(0, 0)")
        for _ in range(LEARNING):
            page.wait_for_timeout(150)
            shots.append((page.screenshot(), 150))
        page.click("#lab-play")
        page.click("#lab-slow:enabled")
        page.locator(".slow").wait_for()
        page.evaluate("scrollTo(0, 0)")
        for place in OPERATIONS:
            page.locator(".slow input").fill(str(place))
            page.wait_for_timeout(100)
            shots.append((page.screenshot(), 1500))
        browser.close()
    server.stop()
    size = WIDTH * 3 // 4, HEIGHT * 3 // 4
    images = [Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.LANCZOS) for data, _ in shots]
    durations = [duration for _, duration in shots]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, quality=40, method=6)


if __name__ == "__main__":
    main(sys.argv[1])
