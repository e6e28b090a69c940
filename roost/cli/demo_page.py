"""What `roost demo` does for its page: a person with a few things, a token, and a browser that is told where to look.

The page itself is the server's (`/demo`), and does the rest. The token goes into the URL's fragment, which a browser
sends to nobody.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import typer

from roost.cli.output import say
from roost.core.definitions import Policy
from roost.node.interrupt import Interrupt

POLICIES: dict[str, Policy] = {"preferences": "merge", "wishes": "merge", "notes": "siblings"}
DOCUMENTS: dict[tuple[str, str], Any] = {
    ("preferences", "ui"): {"theme": "auto", "language": "en", "size": 15, "tea": 2},
    ("wishes", "sleeping-bag"): {"name": "A warm sleeping bag", "done": False, "order": 1},
    ("wishes", "map"): {"name": "A map of the islands", "done": True, "order": 2},
    ("wishes", "stove"): {"name": "A small stove", "done": False, "order": 3},
    ("notes", "note"): "Call Grace about Saturday",
}
TOKEN_TTL = "12h"  # noqa: S105  # a time


def show(url: str, issue: Callable[..., str], *, browser: bool) -> None:
    """Make a fresh user on a server that was made for it, say where to look, and stay until a signal."""
    user = f"ada-{token_hex(3)}"
    prepare(url, issue("--admin"), user)
    page = f"{url}/demo#token={issue('--user', user, '--ttl', TOKEN_TTL)}"
    say("\nTwo devices of one person, and what becomes of what they do:\n")
    typer.echo(page)
    say("\nTake one offline, or both, and edit. Ctrl-C ends the demo, and all that was in it.")
    if browser and has_browser():
        webbrowser.open(page)
    with Interrupt() as interrupt:
        interrupt.wait()


def prepare(url: str, token: str, user: str) -> None:
    """Define the collections, and give the user something to begin with."""
    from roost.client import SyncClient

    with SyncClient(url, token) as client:
        for name, policy in POLICIES.items():
            client.define(name, conflict=policy)
        batch = client.user(user).batch()
        for (collection, key), value in DOCUMENTS.items():
            batch.put(collection, key, value)
        batch.commit()


def has_browser() -> bool:
    """Whether a browser would appear: one in a terminal would take that from us."""
    graphical = sys.platform in ("darwin", "win32") or any(os.environ.get(it) for it in ("DISPLAY", "WAYLAND_DISPLAY"))
    return graphical and "SSH_CONNECTION" not in os.environ
