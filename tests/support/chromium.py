"""Chromium, and a TypeScript replica in a page of it, driven as those in Node and in Python are (`tests.support.node`).

The page comes from the test itself, at the origin that the device speaks to; all it holds is the client.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
CLIENT = Path(__file__).parents[2] / "roost" / "console" / "client.js"
PAGE = """<!doctype html><meta charset=utf-8><title>A page</title>
<script type=module>import * as client from './client.js'; window.client = client;</script>"""
DO = """async ({do: what, collection, key, value, edits}) => {
  const on = collection && roost.collection(collection);
  if (what === "put") await on.put(key, value);
  else if (what === "delete") await on.delete(key);
  else if (what === "edit") {
    const add = (all, {op, path, value}) => op === "unset" ? all.unset(path) : all[op](path, value);
    await edits.reduce(add, on.edit(key)).save();
  }
  else if (what === "synced") await roost.synced();
  else if (what === "view") {
    const values = (name) => roost.collection(name).list().map(({key, value}) => [key, value]);
    return Object.fromEntries(roost.collections().map((name) => [name, Object.fromEntries(values(name))]));
  }
  return {};
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips the test where there is none."""
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


def serve(route: Route) -> None:
    """The page and the client; these come even where the network does not."""
    if route.request.url.endswith(".js"):
        route.fulfill(path=CLIENT, content_type="text/javascript")
    else:
        route.fulfill(body=PAGE, content_type="text/html")


class ChromiumDevice:
    """A device, on the IndexedDB of a browser of its own. `kill` takes the page away; `again` opens it anew."""

    def __init__(self, browser: Browser, url: str, user: str, token: str) -> None:
        self._context = browser.new_context()
        self._url = url
        self._given = {"user": user, "token": token}
        self._page = self._opened()

    def ask(self, do: str, **more: Any) -> Any:
        """Tell it to do something, and wait for the answer."""
        return self._page.evaluate(DO, {"do": do, **more})

    def kill(self) -> None:
        """Close the page, whatever it is about."""
        self._page.close()

    def again(self) -> None:
        """Open it anew, on what it has kept."""
        self._page = self._opened()

    def end(self) -> None:
        """Close it in order."""
        self._context.close()

    def _opened(self) -> Page:
        page = self._context.new_page()
        page.route("**/page/**", serve)
        page.goto(f"{self._url}/page/index.html")
        page.wait_for_function("window.client !== undefined")
        opening = "async (given) => { window.roost = await client.open({url: location.origin, ...given}) }"
        page.evaluate(opening, self._given)
        return page
