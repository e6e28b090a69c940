"""The pages: whole in themselves, and true to the document that they show."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from roost.console import PAGES

WRITTEN = {path: body.decode() for path, _, body in PAGES if path != "/demo/client.js"}
"""What is written by hand: the client is the TypeScript client's own concern."""


def test_pages_have_no_external_parts() -> None:
    for path, media_type, body in PAGES:
        text = body.decode()
        assert not re.search(r"""(?:src|href|from)\s*=?\s*["'](?:https?:)?//""", text), path
        assert not re.search(r"@import|url\(", text), path
        assert "default-src 'none'" in text or b"html" not in media_type, path


def test_pages_are_whole() -> None:
    served = {path for path, _, _ in PAGES}
    assert served >= {"/docs", "/demo"}
    for path, text in WRITTEN.items():
        parts = re.findall(r'(?:src=|href=|from )"((?:demo|\.)/[^"]*)"', text)
        assert {urljoin(path, part) for part in parts} <= served, path


def test_what_the_server_says_is_never_markup() -> None:
    for path, text in WRITTEN.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path


def test_the_demo_runs_no_script_but_its_own() -> None:
    assert "unsafe-inline" not in WRITTEN["/demo"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", WRITTEN["/demo"])
