"""A reader of server-sent events, as the standard tells it, on an open response."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx

from tests.support.api import Account


class Message(NamedTuple):
    """A message that a browser would show; `id` is the cursor after it."""

    name: str
    id: str
    data: Any


class Stream:
    """An open stream. `cursor` moves with every id, shown or not; `beats` counts the comments."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.cursor = ""
        self.beats = 0
        self._lines = self._heard()

    def _heard(self) -> Iterator[str]:
        for line in self.response.iter_lines():
            self.beats += line.startswith(":")
            yield line

    def __iter__(self) -> Iterator[Message]:
        name, data = "message", ""
        for line in self._lines:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "id":
                self.cursor = value
            elif field == "event":
                name = value
            elif field == "data":
                data += value
            elif not line:
                if data:
                    yield Message(name, self.cursor, json.loads(data))
                name, data = "message", ""

    def until_cursor(self, cursor: str) -> None:
        """Read until the cursor is there, by whatever moves it."""
        for line in self._lines:
            if line == f"id: {cursor}":
                return

    def seqs(self, count: int) -> list[int]:
        """The seqs of the next `count` events of the log."""
        seqs: list[int] = []
        for message in self:
            if message.name == "message":
                assert message.id == str(message.data["seq"])
                seqs.append(message.data["seq"])
            if len(seqs) == count:
                break
        return seqs

    def until_live(self) -> list[int]:
        """The seqs of all events up to the message that says so."""
        seqs = []
        for message in self:
            if message.name == "live":
                break
            seqs.append(message.data["seq"])
        return seqs


@contextmanager
def stream(account: Account, query: str = "", **headers: str) -> Iterator[Stream]:
    """Open the stream of an account's log. Headers: `last_event_id="7"`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    path = account.at("events") + query
    with account.http.stream("GET", path, headers={"accept": "text/event-stream", **named}) as response:
        if response.status_code != httpx.codes.OK:
            response.read()
        yield Stream(response)
