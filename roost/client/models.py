"""What the client gives back: frozen values, read straight from the server's JSON.

Fields that a newer server adds are ignored, so an older client keeps working. `seq` and `version` are event
numbers of one user's log; times are aware datetimes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar

import msgspec

from roost.core.definitions import Audit, Definition, Policy, Privacy
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


class LoginSession(msgspec.Struct, frozen=True):
    """Where a user is logged in: one session, that a login began.

    `client` is the application that it was begun for, `address` where it was used last; `current` marks the one whose
    token was sent.
    """

    id: str
    name: str | None
    device: str | None
    client: str | None
    address: str
    created_at: datetime
    used_at: datetime
    expires_at: datetime
    current: bool


class Erasure(msgspec.Struct, frozen=True):
    """The receipt of an erasure: when, by which event, and how many events and documents there had been.

    `shredded_at` is when older copies of the database had become unreadable, None before that. `proof` is all of it,
    signed by the server (a JWS).
    """

    user: str
    erased_at: datetime
    seq: int
    events: int
    documents: int
    shredded_at: datetime | None
    proof: str


class ExportPage(msgspec.Struct, frozen=True):
    """A part of an export, as lines of JSON (`text`), and where it goes on: `next`, None behind the last part."""

    text: bytes
    lines: int
    next: str | None


class Result(msgspec.Struct, frozen=True):
    """What became of one op of a batch."""

    collection: str
    key: str
    version: int


class Committed(msgspec.Struct, frozen=True):
    """What became of a batch: the user's `seq` after it, and a result for each op, in order."""

    seq: int
    results: tuple[Result, ...]


class Collection(msgspec.Struct, frozen=True, omit_defaults=True):
    """A collection that is defined, and its definition: see `Members`. `version` is the definition's own."""

    name: str
    version: int
    conflict: Policy
    privacy: Privacy = "personal"
    audit: Audit = "writes"
    queryable: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    ttl_s: int | None = None
    history_s: int | None = None

    @property
    def definition(self) -> Definition:
        """What is defined of it."""
        return Definition(**{name: getattr(self, name) for name in Definition.__struct_fields__})


class Members(TypedDict, total=False):
    """What can be defined of a collection.

    `conflict`: what happens to writes that have not seen each other. `privacy`: whom its documents concern. `audit`:
    whether reads are put on record too. `queryable`: members of documents that are kept in clear, for SQL. `masked`:
    members that support staff do not see. `ttl_s`: after how many seconds without a write documents are deleted.
    `history_s`: for how many seconds history is kept at most; None: for ever, of both.
    """

    conflict: Policy
    privacy: Privacy
    audit: Audit
    queryable: Sequence[str]
    masked: Sequence[str]
    ttl_s: int | None
    history_s: int | None


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


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who did or tried what, when, from where, for which purpose, and what it came to.

    It has its number `n` on the audit trail, or is a write, with its `seq` in the user's log. `actor` is empty for
    somebody who did not prove who that is; `count` is how many alike this one stands for.
    """

    n: int | None = None
    seq: int | None = None
    at: datetime
    actor: str
    kind: str
    action: str
    outcome: str
    address: str = ""
    request_id: str = ""
    purpose: str | None = None
    user: str | None = None
    collection: str | None = None
    key: str | None = None
    count: int = 1
    detail: str | None = None


class AuditFilter(TypedDict, total=False):
    """Which records are asked for: of what is given, all must be so. Times need a zone; `until` is not included."""

    user: str
    actor: str
    action: str
    outcome: str
    since: datetime
    until: datetime


class AuditPage(msgspec.Struct, frozen=True):
    """Records by time, the opaque cursor to go on from, and whether that was all for now."""

    records: tuple[AuditRecord, ...]
    next: str
    live: bool


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and the opaque cursor of the page that follows, None at the end."""

    items: tuple[T, ...]
    next: str | None = None
