"""What the server needs of an engine: the contract that `tests/contract` holds every engine to.

Writing happens in a transaction that one writer drives: lock heads, load what the commands name, append.
Reading is single calls, each one consistent snapshot of one moment, at or after the last acknowledged write.

Errors: an engine that cannot answer raises `EngineUnavailable`; one whose transaction lost a race that is
worth repeating raises `TransactionLost`. Nothing else leaves an engine but bugs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, Protocol

from roost.core.audit import AuditStore
from roost.core.errors import Code, RoostError
from roost.core.events import Device, Document, Event, Head
from roost.core.keys import KeyStore, TransactionKeys
from roost.core.retention import RetentionStore


class EngineUnavailable(RoostError):
    """The engine cannot be reached or cannot write (disk full). Nothing is known of the last commit."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.UNAVAILABLE, detail, retry_after_s=1)


class EngineFull(EngineUnavailable):
    """The engine has no room to write. Repeating the transaction at once would be in vain."""

    def __init__(self) -> None:
        super().__init__("The engine's disk is full: reads work, writes will again once there is room.")
        self.retry_after_s = 5


class SnapshotTooLarge(RoostError):
    """A user's documents are more than one answer may hold."""

    def __init__(self, bytes_max: int) -> None:
        detail = f"The documents of this user are over {bytes_max} bytes: read them collection by collection."
        super().__init__(Code.TOO_LARGE, detail)


class TransactionLost(Exception):
    """The transaction was rolled back by the engine (a deadlock, a serialization failure): run it again."""


class DocumentRef(NamedTuple):
    """One document of one user."""

    user: str
    collection: str
    key: str


class EventRef(NamedTuple):
    """One event of one user's log."""

    user: str
    seq: int


class AnswerRef(NamedTuple):
    """The answer stored under one of a user's idempotency keys."""

    user: str
    key: str


class DeviceRef(NamedTuple):
    """One device of one user."""

    user: str
    device: str


UNREAD = b""
"""Stands for a value that is there and was not read: no JSON is empty."""

UNSEEN_BYTES_MAX = 8 << 20
"""What the events that are loaded as unseen may hold, of one user in one transaction."""


class Unseen(NamedTuple):
    """What happened to a document after a seq.

    `events` in order, the newest where there are `more` than were asked for; the `value` of those that have `edits`
    is left out (None). With `cut`, older ones have neither, being more than `UNSEEN_BYTES_MAX`.
    """

    events: list[Event]
    more: bool
    cut: bool = False


class StoredAnswer(NamedTuple):
    """What a request was answered, and the fingerprint of that request. `answer` is opaque to the engine."""

    ref: AnswerRef
    fingerprint: bytes
    answer: bytes
    at: datetime


class Loaded(NamedTuple):
    """What `Transaction.load` found; what does not exist is absent. Documents include tombstones."""

    documents: dict[DocumentRef, Document]
    answers: dict[AnswerRef, StoredAnswer]
    events: dict[EventRef, Event]
    devices: dict[DeviceRef, Device]
    device_counts: dict[str, int]
    """How many devices the users have of whom one was asked for that does not exist."""


class Appendix(NamedTuple):
    """What a transaction writes, across users.

    `events` are (user, event), in commit order: seqs of one user ascend. `documents` are (user, document)
    after the last of its events. `heads` replace the locked ones. `devices` are (user, device); of these, only
    `number`, `cursor` (if it is higher) and `seen_at` are written. Of the users `erased`, everything is deleted but the
    head and the events of this appendix: documents, events, answers, devices and keys. `fields` are what of `documents`
    is kept in clear, as encoded JSON objects; of a document that is not named there, nothing is.
    """

    heads: list[Head]
    documents: list[tuple[str, Document]]
    events: list[tuple[str, Event]]
    answers: list[StoredAnswer]
    devices: list[tuple[str, Device]]
    erased: Sequence[str] = ()
    fields: Mapping[DocumentRef, bytes] = MappingProxyType({})


class Transaction(Protocol):
    """One transaction; commits when its context is left without an exception."""

    @property
    def keys(self) -> TransactionKeys:
        """The keys of the users whose heads it has locked."""

    async def lock(self, users: list[str], at: datetime) -> tuple[dict[str, Head], set[str]]:
        """Lock the heads of `users` until the end; create, with `created_at = at`, those that do not exist.

        Returns the heads, and the users that this transaction created. Waits for other transactions that
        hold them, so what is loaded afterwards is what they committed.
        """

    async def load(
        self,
        documents: list[DocumentRef],
        answers: list[AnswerRef],
        events: list[EventRef],
        devices: list[DeviceRef],
        unread: AbstractSet[DocumentRef] = frozenset(),
    ) -> Loaded:
        """Load what the commands name, as it is now.

        Of the documents that are `unread` too, only whether there is a value is looked at: it is `UNREAD`, and of their
        siblings nothing is told.
        """

    async def unseen(self, bases: dict[DocumentRef, int], limit: int) -> dict[DocumentRef, Unseen]:
        """For each document, its events after a seq: the newest `limit` of them."""

    async def append(self, appendix: Appendix, abandoned: list[str]) -> None:
        """Write everything, and give each event the next position of its lane, in the order given.

        `abandoned` are users that this transaction created and that nothing came of: they vanish again.
        """


class Reading(NamedTuple):
    """A user's head (None if there is no such user) and one document as it is now (None or tombstone too)."""

    head: Head | None
    document: Document | None


class Point(NamedTuple):
    """The result of a batched point read: `seq` is None where there is no such user."""

    seq: int | None
    document: Document | None
    erased: bool = False


class Snapshot(NamedTuple):
    """All documents of a user at `seq`, without tombstones, by collection, then key (bytes).

    `head` is the head now; `seq` is the moment that was asked for.
    """

    head: Head
    seq: int
    documents: list[Document]


class Page(NamedTuple):
    """Documents by key, without tombstones; `more` where the page ended before the collection did."""

    head: Head
    documents: list[Document]
    more: bool


class History(NamedTuple):
    """Events of one document, newest first."""

    head: Head
    events: list[Event]
    more: bool


class Log(NamedTuple):
    """Events of one user in `seq` order. `reached` is the last seq looked at, narrowed or not."""

    head: Head
    events: list[Event]
    reached: int


class LaneEvent(NamedTuple):
    """An event at its place in a lane. Of one that is `corrupt`, the value and the edits could not be opened."""

    lane: int
    pos: int
    user: str
    event: Event
    corrupt: bool = False


class Feed(NamedTuple):
    """What lanes have after a cursor: `heads` of those that have moved, and their events, each lane's in order.

    `more` where not all of them fit; else a lane whose events end before its head lacks some.
    """

    heads: dict[int, int]
    events: list[LaneEvent]
    more: bool


class Engine(Protocol):
    """A database that Roost runs on. Every read of a user that does not exist returns None.

    Of a user who was erased, reads tell what there is: a head with `erased_at`, and nothing that it heads.
    """

    name: str

    @property
    def keys(self) -> KeyStore:
        """Where users' keys are, wrapped."""

    @property
    def audit(self) -> AuditStore:
        """Where the audit trail rests."""

    @property
    def retention(self) -> RetentionStore:
        """What it lets go of."""

    async def open(self) -> None:
        """Connect, and see that the schema is the one that this release needs."""

    async def close(self) -> None:
        """Let go of every connection. Never raises."""

    async def ping(self) -> None:
        """Return if the engine answers; else raise `EngineUnavailable`."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction; commit on leaving, roll back on an exception."""

    async def points(self, refs: list[DocumentRef]) -> list[Point]:
        """Many point reads in one query, answered in the order of `refs`."""

    async def head(self, user: str) -> Head | None:
        """Where a user's log stands."""

    async def document_at(self, ref: DocumentRef, seq: int) -> Reading:
        """A document as it was when the log stood at `seq`."""

    async def page(self, user: str, collection: str, prefix: str, after: str | None, limit: int) -> Page | None:
        """A page of a collection: keys that start with `prefix` and come after `after`."""

    async def snapshot(self, user: str, seq: int | None) -> Snapshot | None:
        """All documents as they were at `seq`, or as they are. Raises `SnapshotTooLarge`."""

    async def history(self, ref: DocumentRef, before: int | None, limit: int) -> History | None:
        """A document's events with a seq under `before`, newest first."""

    async def log(self, user: str, after: int, limit: int, collections: list[str] | None) -> Log | None:
        """A user's events after `after`; narrowed, at most `limit` of those that match."""

    async def seq_at(self, user: str, at: datetime) -> int | None:
        """The last seq whose event happened at or before `at`; some seq below the floor where it is below that."""

    async def users(self, after: str | None, limit: int) -> list[Head]:
        """Users in an order that is the engine's own; `after` is the last user of the page before."""

    async def positions(self) -> dict[int, int]:
        """The last position of each lane."""

    async def floors(self) -> dict[int, int]:
        """The highest position of each lane whose event was deleted: up to there, positions may have holes."""

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        """A lane's events after a position, in position order."""

    async def feed(self, cursor: dict[int, int], limit: int) -> Feed:
        """The events of some lanes after a position of each (`{lane: position}`), at most `limit` of all together."""

    async def stored(self, user: str) -> tuple[Head, list[Document]] | None:
        """A head and all rows of its documents, tombstones included, for `roost verify`."""

    async def devices(self, user: str) -> list[Device] | None:
        """A user's devices, by name."""

    async def connected(self, users: list[str], at: datetime) -> dict[str, list[Device]]:
        """The devices of each of these users that are connected at `at`, by name."""

    async def touch(self, devices: list[tuple[str, Device]], devices_max: int) -> None:
        """Write `cursor` (if it is higher), `seen_at` and `until` of devices, as (user, device).

        New ones begin with `number` 0. Passed over are devices of users that do not exist, and new ones of users
        that have `devices_max`.
        """

    async def leave(self, devices: list[tuple[str, Device]]) -> None:
        """These devices are not connected any more: `until` becomes None, unless another node has written a later one.

        `cursor` (if it is higher) and `seen_at` (if it is later) are written; who is not there is passed over.
        """

    async def forget_devices(self, before: datetime, limit: int) -> int:
        """Delete at most `limit` devices that were last seen before `before`; returns how many."""

    async def compact(self, user: str, floor: int) -> int:
        """Raise a log's floor to `floor`, and delete the events up to it that nothing above needs; returns how many.

        Of each document the last event up to the floor stays, so that every moment from the floor on can be read, and
        of a document with siblings all from the oldest of these on. A deletion does not stay, unless it is at the
        floor itself: that event tells when the floor was. A floor that is not above the present one, or beyond the
        log, changes nothing.
        """

    async def wait_for_news(self, timeout_s: float) -> None:
        """Return when another process may have committed something, or after `timeout_s`."""

    async def announce(self) -> None:
        """Tell other processes that something was committed here. Best effort; never raises."""

    async def forget_answers(self, before: datetime, limit: int) -> int:
        """Delete at most `limit` idempotency answers older than `before`; returns how many."""
