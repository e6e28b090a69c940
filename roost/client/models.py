"""What the client gives back: frozen values, read straight from the server's JSON.

Fields that a newer server adds are ignored, so an older client keeps working. `seq` and `version` are event
numbers of one user's log; times are aware datetimes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

Json: TypeAlias = Any
"""A JSON value: None, bool, int, float, str, list of these, or dict from str to these."""

T = TypeVar("T")


class Versioned(msgspec.Struct, frozen=True):
    """A value, and the `seq` of the event that wrote it."""

    version: int
    value: Json


class Document(msgspec.Struct, frozen=True):
    """A document as it was when the user's log stood at `seq`.

    `updated_at` is when `version` was written, to the second where the server told it in a header.
    """

    collection: str
    key: str
    value: Json
    version: int
    seq: int
    updated_at: datetime


class Snapshot(msgspec.Struct, frozen=True):
    """All documents of a user at one `seq`: `docs["preferences"]["ui"].value`."""

    user: str
    seq: int
    docs: dict[str, dict[str, Versioned]]


class PastVersion(msgspec.Struct, frozen=True):
    """A version of a document: its value (None for `kind` `delete`), when, by whom, on which device."""

    version: int
    kind: str
    value: Json
    at: datetime
    actor: str
    device: str | None = None


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened: number `seq` of the user's log, with the document's value after it (None for `delete`).

    `actor` is who did it; `device` and `mutation` say which edit of which replica it was, if any.
    """

    seq: int
    kind: str
    collection: str
    key: str
    value: Json
    at: datetime
    actor: str
    device: str | None = None
    mutation: int | None = None


class Log(msgspec.Struct, frozen=True):
    """Events in `seq` order, without holes. `seq` is the cursor to go on from; before `floor` nothing is left."""

    events: tuple[Event, ...]
    seq: int
    floor: int


class UserInfo(msgspec.Struct, frozen=True):
    """Where a user's log stands, and how many documents each collection holds."""

    user: str
    home: str
    seq: int
    floor: int
    created_at: datetime
    collections: dict[str, int] = {}


class Result(msgspec.Struct, frozen=True):
    """What became of one op of a batch."""

    collection: str
    key: str
    version: int


class Committed(msgspec.Struct, frozen=True):
    """What became of a batch: the user's `seq` after it, and a result for each op, in order."""

    seq: int
    results: tuple[Result, ...]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and the opaque cursor of the page that follows, None at the end."""

    items: tuple[T, ...]
    next: str | None = None
