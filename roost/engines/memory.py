"""The reference engine: the contract of `roost.core.ports` in plain Python, clear before fast.

It holds each user's log and what it adds up to, and each lane as the list of its events. A transaction works on
copies, so that nobody sees it before it commits and nothing is left of it if it does not; one runs at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TypeVar

from msgspec.structs import replace

from roost.core.audit import AuditStore
from roost.core.events import Device, Document, DocumentId, Event, Head
from roost.core.fold import document_of, superseded
from roost.core.ids import LANES, lane_of
from roost.core.limits import Limits
from roost.core.ports import (
    UNREAD,
    UNSEEN_BYTES_MAX,
    AnswerRef,
    Appendix,
    DeviceRef,
    DocumentRef,
    EngineUnavailable,
    EventRef,
    Feed,
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
    Unseen,
)
from roost.core.retention import Expired
from roost.engines.audit import MemoryAudit
from roost.engines.held import Held, User
from roost.engines.keys import MemoryKeys, MemoryTransactionKeys

Item = TypeVar("Item", Document, Event)


class MemoryTransaction:
    """See `roost.core.ports.Transaction`. `users` are the copies that it works on."""

    def __init__(self, users: dict[str, User], answers: dict[AnswerRef, StoredAnswer], keys: MemoryKeys) -> None:
        self._committed = users
        self.keys = MemoryTransactionKeys(keys)
        self.users: dict[str, User] = {}
        self.answers = answers.copy()
        self.events: list[tuple[str, Event]] = []
        self.erased: list[str] = []

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
        self.keys.lock(users)
        return {user: self.users[user].head for user in users}, created

    async def load(
        self,
        documents: list[DocumentRef],
        answers: list[AnswerRef],
        events: list[EventRef],
        devices: list[DeviceRef],
        unread: AbstractSet[DocumentRef] = frozenset(),
    ) -> Loaded:
        """Look everything up in the copies."""
        loaded = Loaded({}, {}, {}, {}, {})
        for document in documents:
            if found := self.users[document.user].documents.get(document[1:]):
                if document in unread and found.value is not None:
                    found = replace(found, value=UNREAD, siblings=None)
                loaded.documents[document] = found
        for answer in answers:
            if stored := self.answers.get(answer):
                loaded.answers[answer] = stored
        for event in events:
            if event.seq > 0:
                loaded.events.update((event, kept) for kept in self.users[event.user].log(event.seq - 1, event.seq))
        for device in devices:
            if known := self.users[device.user].devices.get(device.device):
                loaded.devices[device] = known
            else:
                loaded.device_counts[device.user] = len(self.users[device.user].devices)
        return loaded

    async def unseen(self, bases: dict[DocumentRef, int], limit: int) -> dict[DocumentRef, Unseen]:
        """Look it up in the copies."""
        found = {}
        left = dict.fromkeys((ref.user for ref in bases), UNSEEN_BYTES_MAX)
        for ref, base in bases.items():
            events = self.users[ref.user].events_of(ref[1:], base)
            told: list[Event] = []
            for event in reversed(events[-limit - 1 :]):
                left[ref.user] -= len((event.value if event.edits is None else event.edits) or b"")
                told.append(_told(event, fits=left[ref.user] >= 0))
            cut = bool(told) and left[ref.user] < 0
            found[ref] = Unseen(told[::-1][-limit:], more=len(events) > limit, cut=cut)
        return found

    async def append(self, appendix: Appendix, abandoned: list[str]) -> None:
        """Change the copies."""
        for head in appendix.heads:
            self.users[head.user].head = head
        for user in appendix.erased:
            self._erase(user)
        for user, document in appendix.documents:
            name = document.collection, document.key
            self.users[user].documents[name] = document
            self.users[user].fields.pop(name, None)
            if fields := appendix.fields.get(DocumentRef(user, *name)):
                self.users[user].fields[name] = fields
        for user, event in appendix.events:
            self.users[user].events.append(event)
        for user, device in appendix.devices:
            before = self.users[user].devices.get(device.device)
            self.users[user].devices[device.device] = _advanced(before, device, device.number)
        self.answers |= {answer.ref: answer for answer in appendix.answers}
        self.events += appendix.events
        for user in abandoned:
            del self.users[user]

    def _erase(self, user: str) -> None:
        """Empty a user's copy; the event that says so is still to come."""
        self.users[user] = emptied = User(self.users[user].head)
        emptied.events = [None] * (emptied.head.seq - 1)
        self.answers = {ref: answer for ref, answer in self.answers.items() if ref.user != user}
        self.erased.append(user)
        self.keys.erase(user)


class Memory:
    """See `roost.core.ports.Engine`."""

    name = "memory"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._users: dict[str, User] = {}
        self._answers: dict[AnswerRef, StoredAnswer] = {}
        # A lane's item is at its position less one, and None where the event was folded away.
        self._lanes: list[list[tuple[str, Event] | None]] = [[] for _ in range(LANES)]
        self.audit: AuditStore = MemoryAudit()
        self.keys = MemoryKeys(self._alone, self.users)
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._is_open = False
        self.retention = MemoryRetention(self)

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
            transaction = MemoryTransaction(self._users, self._answers, self.keys)
            yield transaction
            transaction.keys.commit()
            self._users |= transaction.users
            self._answers = transaction.answers
            for user in transaction.erased:
                self._forget_positions(user)
            for user, event in transaction.events:
                self._lanes[lane_of(user)].append((user, event))

    @asynccontextmanager
    async def _alone(self, user: str) -> AsyncIterator[Held | None]:
        """What there is of a user, to be changed while nobody has a transaction."""
        async with self._lock:
            found = self._users.get(user)
            yield None if found is None else Held(found, self._answers, self._lanes[lane_of(user)])

    async def points(self, refs: list[DocumentRef]) -> list[Point]:
        """Many point reads."""
        return [
            Point(user.head.seq, user.documents.get(ref[1:]), user.head.erased_at is not None)
            if user
            else Point(None, None)
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
        events = found.events_of(ref[1:], 0, seq)
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
        """The documents as they are, or what the log up to `seq` adds up to."""
        found = self._users.get(user)
        if found is None:
            return None
        if seq is None or seq >= found.head.seq:
            seq, documents = found.head.seq, _in_order(found.documents)
        else:
            documents = _in_order({(e.collection, e.key): document_of(e) for e in found.log(0, seq)})
        if sum(document.size for document in documents) > self._limits.snapshot_bytes_max:
            raise SnapshotTooLarge(self._limits.snapshot_bytes_max)
        return Snapshot(found.head, seq, documents)

    async def history(self, ref: DocumentRef, before: int | None, limit: int) -> History | None:
        """A document's events, newest first."""
        found = self._users.get(ref.user)
        if found is None:
            return None
        until = found.head.seq if before is None else max(before - 1, 0)
        earlier = found.events_of(ref[1:], 0, until)[::-1]
        events = _cut(earlier, limit, self._limits.page_bytes_max)
        return History(found.head, events, more=len(events) < len(earlier))

    async def log(self, user: str, after: int, limit: int, collections: list[str] | None) -> Log | None:
        """A user's events, in order."""
        found = self._users.get(user)
        if found is None:
            return None
        following = [e for e in found.log(after) if collections is None or e.collection in collections]
        events = _cut(following, limit, self._limits.page_bytes_max)
        reached = events[-1].seq if len(events) < len(following) else max(after, found.head.seq)
        return Log(found.head, events, reached)

    async def seq_at(self, user: str, at: datetime) -> int | None:
        """Events from the floor on are all kept: the last of these that happened at or before `at`."""
        found = self._users.get(user)
        if found is None:
            return None
        below = max(found.head.floor - 1, 0)
        return max((event.seq for event in found.log(below) if event.at <= at), default=below)

    async def users(self, after: str | None, limit: int) -> list[Head]:
        """Users by lane, then id."""
        following = [user for user in self._users if after is None or _place(user) > _place(after)]
        return [self._users[user].head for user in sorted(following, key=_place)[:limit]]

    async def positions(self) -> dict[int, int]:
        """The length of each lane."""
        return {lane: len(events) for lane, events in enumerate(self._lanes)}

    async def floors(self) -> dict[int, int]:
        """Up to where each lane has nothing but holes."""
        return {
            lane: max((pos for pos, place in enumerate(places, 1) if place is None), default=0)
            for lane, places in enumerate(self._lanes)
        }

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        """A lane's events in position order."""
        places = enumerate(self._lanes[lane][after:], after + 1)
        events = [LaneEvent(lane, pos, *place) for pos, place in places if place is not None]
        return events[: len(_cut([place.event for place in events], limit, self._limits.page_bytes_max))]

    async def feed(self, cursor: dict[int, int], limit: int) -> Feed:
        """The events of lanes after a cursor."""
        heads = {lane: len(self._lanes[lane]) for lane, after in cursor.items() if len(self._lanes[lane]) > after}
        events = [event for lane in sorted(heads) for event in await self.lane(lane, cursor[lane], limit + 1)]
        fitting = events[: len(_cut([place.event for place in events], limit, self._limits.page_bytes_max))]
        return Feed(heads, fitting, more=len(fitting) < len(events))

    async def stored(self, user: str) -> tuple[Head, list[Document]] | None:
        """A head and all documents, tombstones included."""
        found = self._users.get(user)
        return (found.head, list(found.documents.values())) if found else None

    async def devices(self, user: str) -> list[Device] | None:
        """A user's devices, by name."""
        found = self._users.get(user)
        return [device for _, device in sorted(found.devices.items())] if found else None

    async def connected(self, users: list[str], at: datetime) -> dict[str, list[Device]]:
        """Devices that count as connected beyond `at`."""
        return {
            user: [device for device in await self.devices(user) or () if device.until and device.until > at]
            for user in users
        }

    async def touch(self, devices: list[tuple[str, Device]], devices_max: int) -> None:
        """Write what the devices said, and until when they count as connected."""
        async with self._lock:
            for user, device in devices:
                found = self._users.get(user)
                before = found.devices.get(device.device) if found else None
                if found and not found.head.erased_at and (before or len(found.devices) < devices_max):
                    number = before.number if before else 0
                    found.devices[device.device] = replace(_advanced(before, device, number), until=device.until)

    async def leave(self, devices: list[tuple[str, Device]]) -> None:
        """Clear `until` where it is not later than what the node that says so has written."""
        async with self._lock:
            for user, device in devices:
                before = self._users[user].devices.get(device.device) if user in self._users else None
                if before:
                    until = before.until if before.until and device.until and before.until > device.until else None
                    seen_at = max(before.seen_at, device.seen_at)
                    after = replace(_advanced(before, device, before.number), seen_at=seen_at, until=until)
                    self._users[user].devices[device.device] = after

    async def forget_devices(self, before: datetime, limit: int) -> int:
        """Delete devices that have been away for long, the longest first."""
        async with self._lock:
            old = sorted(
                (device.seen_at, user, device.device)
                for user, found in self._users.items()
                for device in found.devices.values()
                if device.seen_at < before
            )
            for _, user, device in old[:limit]:
                del self._users[user].devices[device]
            return len(old[:limit])

    async def compact(self, user: str, floor: int) -> int:
        """Put None in the place of events that are not needed, in the log and in its lane."""
        async with self._lock:
            found = self._users.get(user)
            if found is None or not found.head.floor < floor <= found.head.seq:
                return 0
            gone = superseded(found.log(0, floor), floor)
            found.head = replace(found.head, floor=floor)
            found.events = [None if event is None or event.seq in gone else event for event in found.events]
            lane = self._lanes[lane_of(user)]
            lane[:] = [
                None if place is None or (place[0] == user and place[1].seq in gone) else place for place in lane
            ]
            return len(gone)

    async def wait_for_news(self, timeout_s: float) -> None:
        """Wait for `announce`: there are no other processes, but nodes of a test may share this object."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        self._news.clear()

    async def announce(self) -> None:
        """Wake whoever waits for news."""
        self._news.set()

    async def forget_answers(self, before: datetime, limit: int) -> int:
        """Delete old idempotency answers, the oldest first."""
        async with self._lock:
            old = sorted((answer.at, answer.ref) for answer in self._answers.values() if answer.at < before)
            for _, ref in old[:limit]:
                del self._answers[ref]
            return len(old[:limit])

    def _forget_positions(self, user: str) -> None:
        lane = self._lanes[lane_of(user)]
        lane[:] = [None if place is None or place[0] == user else place for place in lane]


class MemoryRetention:
    """See `roost.core.retention.RetentionStore`. An erased user is rid of everything at once."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def sweep(self, user: str) -> int:  # noqa: ARG002  # see the class
        """Nothing is ever left."""
        return 0

    async def leftovers(self, users: Sequence[str]) -> list[str]:  # noqa: ARG002  # see the class
        """Nobody has any."""
        return []

    async def holders(self, users: Sequence[str], collections: Sequence[str]) -> set[tuple[str, str]]:
        """Who has, or had, a document of which collection."""
        documents = await self._documents(users)
        return {(user, document.collection) for user, document in documents if document.collection in collections}

    async def expired(self, users: Sequence[str], before: Mapping[str, datetime], limit: int) -> list[Expired]:
        """Documents whose time is over."""
        found = [
            Expired(user, document.collection, document.key, document.version)
            for user, document in await self._documents(users)
            if document.value is not None
            and document.collection in before
            and document.updated_at < before[document.collection]
        ]
        return sorted(found, key=lambda each: (_place(each.user), each))[:limit]

    async def _documents(self, users: Sequence[str]) -> list[tuple[str, Document]]:
        stored = {user: await self._memory.stored(user) for user in users}
        return [(user, document) for user, found in stored.items() if found for document in found[1]]


def _advanced(before: Device | None, device: Device, number: int) -> Device:
    """A device as it was, with what it said now."""
    if before is None:
        return replace(device, number=number, until=None)
    return replace(before, number=number, cursor=max(before.cursor, device.cursor), seen_at=device.seen_at)


def _told(event: Event, *, fits: bool) -> Event:
    """An event as it is told to whoever has not seen it."""
    edits = event.edits if fits or event.edits == b"[]" else None
    return replace(event, value=event.value if fits and event.edits is None else None, edits=edits)


def _cut(items: list[Item], limit: int, bytes_max: int) -> list[Item]:
    """The first `limit` items; fewer where those before an item have reached `bytes_max`, but never none."""
    size = 0
    for index, item in enumerate(items[:limit]):
        if size >= bytes_max:
            return items[:index]
        size += item.size
    return items[:limit]


def _in_order(documents: dict[DocumentId, Document]) -> list[Document]:
    """Documents without tombstones by collection, then key: by code point, which is the order of UTF-8's bytes."""
    return [document for _, document in sorted(documents.items()) if document.value is not None]


def _place(user: str) -> tuple[int, str]:
    return lane_of(user), user
