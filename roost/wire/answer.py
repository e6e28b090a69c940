"""An answer as a handler gives it back, and the headers and times that answers share."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from roost.core import siblings
from roost.core.events import Document, Event
from roost.wire import shapes

Header = tuple[bytes, bytes]
_encode = msgspec.json.Encoder().encode

JSON: Header = (b"content-type", b"application/json")
NO_STORE: Header = (b"cache-control", b"no-store")
# State may rest in its owner's own cache, but is asked for anew each time, with the ETag.
PRIVATE: Header = (b"cache-control", b"private, no-cache")

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Answer(msgspec.Struct, gc=False):
    """Status, headers and body. What every answer carries (`Roost-Request-Id`, `Content-Length`) comes later."""

    status: int
    headers: list[Header]
    body: bytes = b""
    chunks: AsyncGenerator[bytes, None] | None = None
    """In place of a body, one that is made while it is sent."""


def etag(version: int) -> Header:
    """`ETag: "<version>"`."""
    return (b"etag", b'"%d"' % version)


def seq_header(seq: int) -> Header:
    """`Roost-Seq: <seq>`."""
    return (b"roost-seq", b"%d" % seq)


def siblings_header(count: int) -> Header:
    """`Roost-Siblings: <how many values stand side by side>`."""
    return (b"roost-siblings", b"%d" % count)


def last_modified(at: datetime) -> Header:
    """`Last-Modified`, as HTTP writes dates."""
    return _last_modified(int(at.timestamp()))


@lru_cache(maxsize=4_096)
def _last_modified(second: int) -> Header:
    # Not `strftime`, which follows the locale.
    at = datetime.fromtimestamp(second, UTC)
    text = (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month]} {at.year:04} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} GMT"
    )
    return (b"last-modified", text.encode())


def stamp(at: datetime) -> str:
    """A time as JSON carries it: RFC 3339 in UTC, always with microseconds, so that text order is time order."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def raw(value: bytes | None) -> msgspec.Raw:
    """A stored value inside an answer, not parsed again."""
    return msgspec.Raw(value or b"null")


def all_values(document: Document) -> list[shapes.Sibling]:
    """The values of a document that stand, its own last."""
    return [shapes.Sibling(one.version, one.value, stamp(one.at)) for one in siblings.values(document)]


def several(document: Document) -> list[shapes.Sibling] | UnsetType:
    """All values of a document that has several."""
    return UNSET if document.siblings is None else all_values(document)


def event_shape(event: Event) -> shapes.Event:
    """An event as it is told, its value and edits not parsed again."""
    edits: Any = UNSET if event.edits is None else msgspec.Raw(event.edits)
    return shapes.Event(
        event.seq,
        event.kind,
        event.collection,
        event.key,
        raw(event.value),
        stamp(event.at),
        event.actor,
        event.device,
        UNSET if event.mutation is None else event.mutation,
        UNSET if event.clock is None else event.clock,
        list(event.beside) or UNSET,
        edits,
    )


def encode_event(event: Event) -> bytes:
    """An event as it is told, in JSON."""
    return _encode(event_shape(event))
