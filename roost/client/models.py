"""What the client gives back: frozen values, read straight from the server's JSON.

Fields that a newer server adds are ignored, so an older client keeps working. `seq` and `version` are event
numbers of one user's log; times are aware datetimes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from roost.core.definitions import Policy
from roost.core.edits import Edit

Json: TypeAlias = Any
"""A JSON value: None, bool, int, float, str, list of these, or dict from str to these."""

T = TypeVar("T")


class Sibling(msgspec.Struct, frozen=True):
    """One of several values of a document that stand side by side, and when it was written."""

    version: int
    value: Json
    at: datetime


class Versioned(msgspec.Struct, frozen=True):
    """A value, and the `seq` of the event that wrote it; `siblings` are all values, newest last, if several stand."""

    version: int
    value: Json
    siblings: tuple[Sibling, ...] = ()


class Document(msgspec.Struct, frozen=True):
    """A document as it was when the user's log stood at `seq`.

    `updated_at` is when `version` was written, to the second where the server told it in a header. `standing` is
    how many values stand side by side, of which this is the newest: ask for `siblings` if there are several.
    """

    collection: str
    key: str
    value: Json
    version: int
    seq: int
    updated_at: datetime
    standing: int = 1


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

    `actor` is who did it; `device` and `mutation` say which edit of which replica it was, if any. `clock` is when it
    was made, in microseconds since 1970, where that is not just `at`; `beside` are the versions that stand on as
    siblings; `edits` say what was done, where that was less than to replace the whole value.
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
    clock: int | None = None
    beside: tuple[int, ...] = ()
    edits: tuple[Edit, ...] | None = None


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


class Collection(msgspec.Struct, frozen=True):
    """A collection that is defined, its conflict policy, and the definition's own version."""

    name: str
    version: int
    conflict: Policy


class Kept(msgspec.Struct, frozen=True):
    """A document as it stands after a conflict; both None where it never was, the value where it was left out."""

    version: int | None
    value: Json = None


class Given(msgspec.Struct, frozen=True):
    """What did not make it: a `value` (None for a deletion) or `edits`; with a `version` where it was in the log."""

    version: int | None = None
    value: Json = None
    edits: tuple[Edit, ...] | None = None


class InboxConflict(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision set aside: `lost`, in favour of what was `kept`.

    `policy` decided, about a mutation of `device` that had seen the log up to `base`. `outcome` is "merged", or
    "refused" with a `code` and a `detail`.
    """

    id: str
    at: datetime
    policy: str
    outcome: str
    code: str | None = None
    detail: str | None = None
    collection: str
    key: str
    device: str
    mutation: int
    base: int
    kept: Kept
    lost: Given


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and the opaque cursor of the page that follows, None at the end."""

    items: tuple[T, ...]
    next: str | None = None
