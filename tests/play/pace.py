"""Run by hand, not a test: how much the pictures slow the lab's steps.

    python tests/play/pace.py

In turns, the trainer without a page, which gets no pictures, and the whole of it in Chromium: steps and pictures a second.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

from serving import ROOT, serve

from npgan.play.settings import controls

SECONDS, TURNS = 4.0, 3


def alone() -> float:
    """Steps a second of the trainer: what is never said to be shown is not followed by more."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "npgan.play.trainer"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as trainer:
        assert trainer.stdin is not None and trainer.stdout is not None

        def told(**message: Any) -> int:
            trainer.stdin.write(json.dumps(message) + "\n")
            trainer.stdin.flush()
            return int(json.loads(trainer.stdout.readline())["frame"]["step"])

        told(do="start", settings={each["name"]: each["value"] for each in controls()})
        told(do="play")
        time.sleep(SECONDS)
        steps = told(do="pause")
        trainer.stdin.close()
    return steps / SECONDS


def in_a_page(browser: Any) -> tuple[float, float]:
    """Steps and pictures a second, by the page's own count."""
    server = serve("--no-browser")
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(server.address)
        page.click("#lab-play:enabled")
        page.wait_for_timeout(1000 * SECONDS)
        words = page.inner_text(".scale").split("; ")[-1].split()
        page.close()
    finally:
        server.stop()
    return float(words[0]), float(words[3])


def main() -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        turns = [(alone(), *in_a_page(browser)) for _ in range(TURNS)]
        browser.close()
    without, steps, pictures = map(statistics.median, zip(*turns, strict=True))
    print(f"without pictures {without:.0f} steps a second, in the page {steps:.0f} and {pictures:.0f} pictures")
    print(f"slower by {without / steps - 1:.0%}")


if __name__ == "__main__":
    main()
