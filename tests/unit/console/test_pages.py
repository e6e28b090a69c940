"""The pages: whole in themselves, and true to the document that they show."""

from __future__ import annotations

import re

from roost.console import PAGES


def test_pages_have_no_external_parts() -> None:
    assert [path for path, _ in PAGES] == ["/docs"]
    for _, body in PAGES:
        text = body.decode()
        assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", text)
        assert not re.search(r"@import|url\(", text)
        assert "default-src 'none'" in text


def test_what_the_server_says_is_never_markup() -> None:
    for _, body in PAGES:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", body.decode())
