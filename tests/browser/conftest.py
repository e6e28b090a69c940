"""Chromium, driven by Playwright, on pages of a real server's own origin that hold nothing but the client.

Where there is no Chromium these tests are skipped, and say so; on CI one is installed first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.support.chromium import chromium, serve
from tests.support.server import Server

numbers = count(1)
# Each waits for as long as it takes; this is only when to give up.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


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


def start(page: Page, server: Server, user: str) -> None:
    """Open the replica in a page."""
    page.wait_for_function("window.client !== undefined")
    page.evaluate(
        "async (given) => { window.roost = await client.open({url: location.origin, ...given}) }",
        {"user": user, "token": server.token(user)},
    )
