"""Chromium, driven by Playwright, on pages of a real server's own origin that hold nothing but the client.

Where there is no Chromium these tests are skipped, and say so; on CI one is installed first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from tests.support.server import Server

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
CLIENT = Path(__file__).parents[2] / "roost" / "console" / "client.js"
PAGE = """<!doctype html><meta charset=utf-8><title>A page</title>
<script type=module>import * as client from './client.js'; window.client = client;</script>"""

numbers = count(1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here (on Debian: apt install chromium; elsewhere name one in CHROMIUM)")
    # A page that a test made up counts as one from the internet, which may not open WebSockets to this machine.
    arguments = ["--disable-features=LocalNetworkAccessChecks"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def user() -> str:
    """A user that nobody has used yet."""
    return f"browser-{next(numbers)}"


@pytest.fixture
def profile(browser: Browser) -> Iterator[Callable[[], BrowserContext]]:
    """Makes browsers of their own: what one stores, no other sees."""
    contexts: list[BrowserContext] = []

    def fresh() -> BrowserContext:
        contexts.append(browser.new_context())
        return contexts[-1]

    yield fresh
    for context in contexts:
        context.close()


@pytest.fixture
def tab(server: Server, user: str) -> Callable[[BrowserContext], Page]:
    """Opens a tab with the user's replica, as `roost` in the page."""

    def opened(context: BrowserContext) -> Page:
        page = context.new_page()
        page.route("**/page/**", serve)
        page.goto(f"{server.url}/page/index.html")
        start(page, server, user)
        return page

    return opened


def serve(route: Route) -> None:
    """The page and the client; these come even where the network does not."""
    if route.request.url.endswith(".js"):
        route.fulfill(path=CLIENT, content_type="text/javascript")
    else:
        route.fulfill(body=PAGE, content_type="text/html")


def start(page: Page, server: Server, user: str) -> None:
    """Open the replica in a page."""
    page.wait_for_function("window.client !== undefined")
    page.evaluate(
        "async (given) => { window.roost = await client.open({url: location.origin, ...given}) }",
        {"user": user, "token": server.token(user)},
    )
