"""The reference engine: the contract of `roost.core.ports` in plain Python, clear before fast.

It holds each user's log and what it adds up to, and each lane as the list of its events. A transaction works on
copies, so that nobody sees it before it commits and nothing is left of it if it does not; one runs at a time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

from roost.core.events import Document, DocumentId, Event, Head
from roost.core.fold import document_of, fold
from roost.core.ids import LANES, lane_of
from roost.core.limits import Limits
from roost.core.ports import (
    AnswerRef,
    Appendix,
    DocumentRef,
    EngineUnavailable,
    EventRef,
    History,
    LaneEvent,
    Loaded,
    Log,
    Page,
    Point,
    Reading,
    Snapshot,
    SnapshotTooLarge,
    StoredAnswer,
)

Item = TypeVar("Item", Document, Event)


class User:
    """A user's state. `events[seq - 1]` is event `seq`: the floor is always 0 here."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.events: list[Event] = []
        self.documents: dict[DocumentId, Document] = {}

    def copy(self) -> User:
        """A copy that can be changed on its own; what it holds is immutable."""
        twin = User(self.head)
        twin.events = self.events.copy()
        twin.documents = self.documents.copy()
        return twin


class MemoryTransaction:
    """See `roost.core.ports.Transaction`. `users` are the copies that it works on."""

    def __init__(self, users: dict[str, User], answers: dict[AnswerRef, StoredAnswer]) -> None:
        self._committed = users
        self.users: dict[str, User] = {}
        self.answers = answers.copy()
        self.events: list[tuple[str, Event]] = []

    async def lock(self, users: list[str], at: datetime) -> tuple[dict[str, Head], set[str]]:
        """Copy the users; create those that do not exist."""
        created = set()
        for user in users:
            if user in self.users:
                continue
            if user in self._committed:
                self.users[user] = self._committed[user].copy()
            else:
                self.users[user] = User(Head(user, 0, 0, at, at, {}))
                created.add(user)
        return {user: self.users[user].head for user in users}, created

    async def load(self, documents: list[DocumentRef], answers: list[AnswerRef], events: list[EventRef]) -> Loaded:
        """Look everything up in the copies."""
        loaded = Loaded({}, {}, {})
        for document in documents:
            if found := self.users[document.user].documents.get(document[1:]):
                loaded.documents[document] = found
        for answer in answers:
            if stored := self.answers.get(answer):
                loaded.answers[answer] = stored
        for event in events:
            if 0 < event.seq <= len(self.users[event.user].events):
                loaded.events[event] = self.users[event.user].events[event.seq - 1]
        return loaded

    async def append(self, appendix: Appendix, abandoned: list[str]) -> None:
        """Change the copies."""
        for head in appendix.heads:
            self.users[head.user].head = head
        for user, document in appendix.documents:
            self.users[user].documents[document.collection, document.key] = document
        for user, event in appendix.events:
            self.users[user].events.append(event)
        self.answers |= {answer.ref: answer for answer in appendix.answers}
        self.events += appendix.events
        for user in abandoned:
            del self.users[user]


class Memory:
    """See `roost.core.ports.Engine`."""

    name = "memory"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._users: dict[str, User] = {}
        self._answers: dict[AnswerRef, StoredAnswer] = {}
        self._lanes: list[list[tuple[str, Event]]] = [[] for _ in range(LANES)]
        self._lock = asyncio.Lock()
        self._is_open = False

    async def open(self) -> None:
        """Begin to answer."""
        self._is_open = True

    async def close(self) -> None:
        """Stop answering; what was committed is there again after the next `open`."""
        self._is_open = False

    async def ping(self) -> None:
        """Return between `open` and `close`."""
        if not self._is_open:
            raise EngineUnavailable("The engine is closed.")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        """A transaction; the others wait until it has ended."""
        await self.ping()
        async with self._lock:
            transaction = MemoryTransaction(self._users, self._answers)
            yield transaction
            self._users |= transaction.users
            self._answers = transaction.answers
            for user, event in transaction.events:
                self._lanes[lane_of(user)].append((user, event))

    async def points(self, refs: list[DocumentRef]) -> list[Point]:
        """Many point reads."""
        return [
            Point(user.head.seq, user.documents.get(ref[1:])) if user else Point(None, None)
            for ref, user in ((ref, self._users.get(ref.user)) for ref in refs)
        ]

    async def head(self, user: str) -> Head | None:
        """Where a user's log stands."""
        found = self._users.get(user)
        return found.head if found else None

    async def document_at(self, ref: DocumentRef, seq: int) -> Reading:
        """The last event of the document up to `seq`, as a document."""
        found = self._users.get(ref.user)
        if found is None:
            return Reading(None, None)
        events = [event for event in found.events[:seq] if (event.collection, event.key) == ref[1:]]
        return Reading(found.head, document_of(events[-1]) if events else None)

    async def page(self, user: str, collection: str, prefix: str, after: str | None, limit: int) -> Page | None:
        """A page of a collection."""
        found = self._users.get(user)
        if found is None:
            return None
        following = [
            document
            for document in _in_order(found.documents)
            if document.collection == collection
            and document.key.startswith(prefix)
            and (after is None or document.key > after)
        ]
        documents = _cut(following, limit, self._limits.page_bytes_max)
        return Page(found.head, documents, more=len(documents) < len(following))

    async def snapshot(self, user: str, seq: int | None) -> Snapshot | None:
        """The documents as they are, or the fold of the log up to `seq`."""
        found = self._users.get(user)
        if found is None:
            return None
        seq = found.head.seq if seq is None else min(seq, found.head.seq)
        documents = _in_order(fold(found.events[:seq]).documents)
        if sum(len(document.value or b"") for document in documents) > self._limits.snapshot_bytes_max:
            raise SnapshotTooLarge(self._limits.snapshot_bytes_max)
        return Snapshot(found.head, seq, documents)

    async def history(self, ref: DocumentRef, before: int | None, limit: int) -> History | None:
        """A document's events, newest first."""
        found = self._users.get(ref.user)
        if found is None:
            return None
        earlier = [
            event
            for event in reversed(found.events)
            if (event.collection, event.key) == ref[1:] and (before is None or event.seq < before)
        ]
        events = _cut(earlier, limit, self._limits.page_bytes_max)
        return History(found.head, events, more=len(events) < len(earlier))

    async def log(self, user: str, after: int, limit: int, collections: list[str] | None) -> Log | None:
        """A user's events, in order."""
        found = self._users.get(user)
        if found is None:
            return None
        following = [e for e in found.events[after:] if collections is None or e.collection in collections]
        events = _cut(following, limit, self._limits.page_bytes_max)
        reached = events[-1].seq if len(events) < len(following) else max(after, found.head.seq)
        return Log(found.head, events, reached)

    async def seq_at(self, user: str, at: datetime) -> int | None:
        """How many events happened at or before `at`."""
        found = self._users.get(user)
        return bisect_right(found.events, at, key=lambda event: event.at) if found else None

    async def users(self, after: str | None, limit: int) -> list[Head]:
        """Users by lane, then id."""
        following = [user for user in self._users if after is None or _place(user) > _place(after)]
        return [self._users[user].head for user in sorted(following, key=_place)[:limit]]

    async def positions(self) -> dict[int, int]:
        """The length of each lane."""
        return {lane: len(events) for lane, events in enumerate(self._lanes)}

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        """A lane's events in position order."""
        events = self._lanes[lane][after:]
        whole = _cut([event for _, event in events], limit, self._limits.page_bytes_max)
        return [LaneEvent(lane, after + 1 + i, user, event) for i, (user, event) in enumerate(events[: len(whole)])]

    async def stored(self, user: str) -> tuple[Head, list[Document]] | None:
        """A head and all documents, tombstones included."""
        found = self._users.get(user)
        return (found.head, list(found.documents.values())) if found else None

    async def forget_answers(self, before: datetime, limit: int) -> int:
        """Delete old idempotency answers, the oldest first."""
        async with self._lock:
            old = sorted((answer.at, answer.ref) for answer in self._answers.values() if answer.at < before)
            for _, ref in old[:limit]:
                del self._answers[ref]
            return len(old[:limit])


def _cut(items: list[Item], limit: int, bytes_max: int) -> list[Item]:
    """The first `limit` items; fewer where those before an item have reached `bytes_max`, but never none."""
    size = 0
    for index, item in enumerate(items[:limit]):
        if size >= bytes_max:
            return items[:index]
        size += len(item.value or b"")
    return items[:limit]


def _in_order(documents: dict[DocumentId, Document]) -> list[Document]:
    """Documents without tombstones by collection, then key: by code point, which is the order of UTF-8's bytes."""
    return [document for _, document in sorted(documents.items()) if document.value is not None]


def _place(user: str) -> tuple[int, str]:
    return lane_of(user), user
