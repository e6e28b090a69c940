"""What is stored: events, and the heads and documents that they add up to.

A value is opaque here: JSON already encoded as compact UTF-8 bytes, or None for a deleted document.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec

Kind = Literal["put", "delete", "erase"]
"""What became of a document; `erase` is the end of the whole log: see `erasure`."""
DocumentId = tuple[str, str]
"""(collection, key)"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Event(msgspec.Struct, frozen=True):
    """One change of one document, with the document's value after it.

    `seq` is its number in the user's log, dense from 1. `at` never goes back within a log. An edit that a device
    pushed says which (`device`, `mutation`). `clock` is the hybrid logical clock of whoever made the edit, in
    microseconds, where that is not just `at`. `beside` are the versions whose values the event leaves beside its own,
    as siblings, because its writer had not seen them; nearly always none. `edits` say what was done, as encoded JSON
    (`roost.core.edits`), where that was less than to replace the whole value.
    """

    seq: int
    kind: Kind
    collection: str
    key: str
    value: bytes | None
    at: datetime
    actor: str
    device: str | None = None
    mutation: int | None = None
    clock: int | None = None
    beside: tuple[int, ...] = ()
    edits: bytes | None = None

    @property
    def size(self) -> int:
        """What it holds, in bytes: of pages, and of answers."""
        return len(self.value or b"") + len(self.edits or b"")

    @property
    def stamp(self) -> Stamp:
        """When the edit was made, by the clock of whoever made it."""
        clock = microseconds(self.at) if self.clock is None else self.clock
        return Stamp(clock, self.device or "", self.mutation or 0)


class Document(msgspec.Struct, frozen=True):
    """A document, or with `value` None the tombstone of a deleted one. `version` is the `seq` that wrote it.

    `siblings` are the values that stand beside `value` until a write that has seen them resolves them, as encoded
    JSON (`roost.core.siblings`); None where there are none, as nearly always.
    """

    collection: str
    key: str
    version: int
    value: bytes | None
    updated_at: datetime
    siblings: bytes | None = None

    @property
    def size(self) -> int:
        """What it holds, in bytes: of pages, and of answers."""
        return len(self.value or b"") + len(self.siblings or b"")


class Head(msgspec.Struct, frozen=True):
    """Where a user's log stands.

    `seq` is the last event's, 0 for an empty log. Events up to `floor` may have been folded away.
    `counts` holds the number of documents (not tombstones) of each collection that has any. `clock` is the latest
    hybrid logical clock of its events, in microseconds. `erased_at` is when the user was erased, if that is what is
    left of one: of the log, the event `erase` alone.
    """

    user: str
    seq: int
    floor: int
    created_at: datetime
    updated_at: datetime
    counts: dict[str, int]
    clock: int = 0
    erased_at: datetime | None = None


class Device(msgspec.Struct, frozen=True):
    """A replica of a user's state, as the server knows it.

    `number` is its last mutation that was answered, `cursor` how far it has said to have read the log, `until` the
    time up to which it counts as connected (None: it is not).
    """

    device: str
    number: int
    cursor: int
    seen_at: datetime
    until: datetime | None = None


def erasure(seq: int, at: datetime, actor: str) -> Event:
    """The last event of a log: nothing of the user is left. It belongs to no document, so its names are empty."""
    return Event(seq, "erase", "", "", None, at, actor)


class Stamp(NamedTuple):
    """When an edit was made. Stamps are ordered as edits were made, as far as anybody could know."""

    clock: int
    device: str
    mutation: int


def microseconds(at: datetime) -> int:
    """A time as microseconds since 1970; below 2^53 until the year 2255."""
    whole = at - _EPOCH
    return (whole.days * 86_400 + whole.seconds) * 1_000_000 + whole.microseconds
