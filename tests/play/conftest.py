"""A server as users start it, and the system's Chromium to drive its page."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served, serve

# The shell without windows of its own takes a fifth less time.
_CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    if not Path("/proc").is_dir():
        pytest.skip("its processes are counted in /proc")
    server = serve("--no-browser")
    yield server
    assert server.stop() == (130, "stopped by SIGINT\n")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """For one module: while it is there, the thread has a running event loop. Where there is none, tests are skipped; on Linux
    with ``CI`` set they fail."""
    path = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        told = "the page is driven by Playwright (pip install -e '.[test]') in the system's chromium"
        pytest.fail(told) if os.environ.get("CI") and sys.platform == "linux" else pytest.skip(told)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a browser of its own. Fails for a word on the console, and for what is fetched from elsewhere."""
    contexts, complaints = [], []

    def fetch(route: Any) -> None:
        if route.request.url.startswith("http://127.0.0.1:"):
            route.continue_()
        else:
            complaints.append(f"fetched {route.request.url}")
            route.abort()

    def opened(address: str, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        context.route("**/*", fetch)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints
