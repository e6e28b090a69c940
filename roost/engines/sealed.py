"""Sealing: an engine whose values are sealed on their way in, and opened on their way out.

Everything above it sees plain values, as on any engine; the engine under it sees none. Values are those of documents
and events, siblings, edits, and what requests were answered. Names, numbers and times stay in clear: keys lead to
rows, and order them.

What cannot be opened is `Corrupt`, and never passed on. Where a key has been changed between the row and its keys, the
read is done once more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from msgspec.structs import replace

from roost.core.events import Document, Event, Head, microseconds
from roost.core.keys import CLEAR, SHARED, SHARED_USER, Corrupt, Keys
from roost.core.ports import (
    AnswerRef,
    Appendix,
    DeviceRef,
    DocumentRef,
    Engine,
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
    StoredAnswer,
    Transaction,
    Unseen,
)
from roost.crypto.reseal import NO_EDITS
from roost.crypto.seal import NotSealed, Seal, Slot, generation_of
from roost.crypto.vault import KeyRef, Vault

CORRUPT = "what is stored cannot be opened"

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Sealed:
    """See `roost.core.ports.Engine`. What holds no value is the `engine`'s own."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self._vault = vault
        self.name = engine.name
        self.keys = engine.keys
        self.audit = engine.audit
        self.retention = engine.retention
        self.open = engine.open
        self.close = engine.close
        self.ping = engine.ping
        self.head = engine.head
        self.seq_at = engine.seq_at
        self.users = engine.users
        self.positions = engine.positions
        self.floors = engine.floors
        self.devices = engine.devices
        self.connected = engine.connected
        self.touch = engine.touch
        self.leave = engine.leave
        self.forget_devices = engine.forget_devices
        self.compact = engine.compact
        self.wait_for_news = engine.wait_for_news
        self.announce = engine.announce
        self.forget_answers = engine.forget_answers

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction, through which values go sealed."""
        async with self._engine.transaction() as inner:
            transaction = SealedTransaction(inner, self._vault)
            yield transaction
        # Only what is committed is a key: see `Vault.newest`.
        self._vault.remember(transaction.made)

    async def points(self, refs: list[DocumentRef]) -> list[Point]:
        """Many point reads. Raises `Corrupt` if one of them is."""

        async def read() -> list[Point]:
            points = await self._engine.points(refs)

            def opened(opener: Opener) -> list[Point]:
                return [
                    Point(seq, opener.document(ref.user, document), erased) if document else Point(seq, None, erased)
                    for ref, (seq, document, erased) in zip(refs, points, strict=True)
                ]

            return await open_with(self._vault, self.keys, opened)

        return await self._again(read)

    async def document_at(self, ref: DocumentRef, seq: int) -> Reading:
        """A document as it was."""

        async def opened() -> Reading:
            head, document = await self._engine.document_at(ref, seq)
            return Reading(head, (await self._documents(ref.user, [document]))[0] if document else None)

        return await self._again(opened)

    async def page(self, user: str, collection: str, prefix: str, after: str | None, limit: int) -> Page | None:
        """A page of a collection."""

        async def opened() -> Page | None:
            page = await self._engine.page(user, collection, prefix, after, limit)
            return page and page._replace(documents=await self._documents(user, page.documents))

        return await self._again(opened)

    async def snapshot(self, user: str, seq: int | None) -> Snapshot | None:
        """All documents."""

        async def opened() -> Snapshot | None:
            snapshot = await self._engine.snapshot(user, seq)
            return snapshot and snapshot._replace(documents=await self._documents(user, snapshot.documents))

        return await self._again(opened)

    async def history(self, ref: DocumentRef, before: int | None, limit: int) -> History | None:
        """A document's events."""

        async def opened() -> History | None:
            history = await self._engine.history(ref, before, limit)
            return history and history._replace(events=await self._events(ref.user, history.events))

        return await self._again(opened)

    async def log(self, user: str, after: int, limit: int, collections: list[str] | None) -> Log | None:
        """A user's events."""

        async def opened() -> Log | None:
            found = await self._engine.log(user, after, limit, collections)
            return found and found._replace(events=await self._events(user, found.events))

        return await self._again(opened)

    async def stored(self, user: str) -> tuple[Head, list[Document]] | None:
        """A head and its documents' rows."""

        async def opened() -> tuple[Head, list[Document]] | None:
            found = await self._engine.stored(user)
            return found and (found[0], await self._documents(user, found[1]))

        return await self._again(opened)

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        """A lane's events."""
        events = await self._places(await self._engine.lane(lane, after, limit))
        if any(event.corrupt for event in events):
            events = await self._places(await self._engine.lane(lane, after, limit))
        return _told(events)

    async def feed(self, cursor: dict[int, int], limit: int) -> Feed:
        """The events of lanes after a cursor."""
        feed = await self._engine.feed(cursor, limit)
        events = await self._places(feed.events)
        if any(event.corrupt for event in events):
            feed = await self._engine.feed(cursor, limit)
            events = await self._places(feed.events)
        return feed._replace(events=_told(events))

    async def _again(self, read: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `read`; where something does not open, of another one with keys that are as new as the row."""
        try:
            return await read()
        except Corrupt as corrupt:
            self._vault.evict(corrupt.user)
        try:
            return await read()
        except Corrupt as corrupt:
            log.error(CORRUPT, user=corrupt.user, detail=corrupt.detail)  # noqa: TRY400
            raise

    async def _documents(self, user: str, documents: list[Document]) -> list[Document]:
        return await open_with(
            self._vault, self.keys, lambda opener: [opener.document(user, document) for document in documents]
        )

    async def _events(self, user: str, events: list[Event]) -> list[Event]:
        return await open_with(self._vault, self.keys, lambda opener: [opener.event(user, event) for event in events])

    async def _places(self, places: list[LaneEvent]) -> list[LaneEvent]:
        """Events of many users: what does not open is marked, so that the others are none the worse."""
        opened = await open_with(self._vault, self.keys, lambda opener: [opener.place(place) for place in places])
        for place in opened:
            if place.corrupt:
                self._vault.evict(place.user)
        return opened


class SealedTransaction:
    """See `roost.core.ports.Transaction`. `made` are the keys that it has given to users."""

    def __init__(self, inner: Transaction, vault: Vault) -> None:
        self._inner = inner
        self._vault = vault
        self.keys = inner.keys
        self.lock = inner.lock
        self.made: dict[str, Seal] = {}

    async def load(
        self,
        documents: list[DocumentRef],
        answers: list[AnswerRef],
        events: list[EventRef],
        devices: list[DeviceRef],
        unread: AbstractSet[DocumentRef] = frozenset(),
    ) -> Loaded:
        """Load what the commands name."""
        loaded = await self._inner.load(documents, answers, events, devices, unread)

        def opened(opener: Opener) -> Loaded:
            return Loaded(
                {
                    ref: document if ref in unread else opener.document(ref.user, document)
                    for ref, document in loaded.documents.items()
                },
                {ref: opener.answer(answer) for ref, answer in loaded.answers.items()},
                {ref: opener.event(ref.user, event) for ref, event in loaded.events.items()},
                loaded.devices,
                loaded.device_counts,
            )

        return await open_with(self._vault, self.keys, opened)

    async def unseen(self, bases: dict[DocumentRef, int], limit: int) -> dict[DocumentRef, Unseen]:
        """What happened to documents after a seq."""
        found = await self._inner.unseen(bases, limit)

        def opened(opener: Opener) -> dict[DocumentRef, Unseen]:
            return {
                ref: unseen._replace(events=[opener.event(ref.user, event) for event in unseen.events])
                for ref, unseen in found.items()
            }

        return await open_with(self._vault, self.keys, opened)

    async def append(self, appendix: Appendix, abandoned: list[str]) -> None:
        """Write everything, sealed. A value is the same in an event and its document, and sealed once."""
        users = {user for user, event in appendix.events if event.value is not None or event.edits is not None}
        users |= {answer.ref.user for answer in appendix.answers}
        nobody = users.intersection(abandoned)
        if users:
            seals, made = await self._vault.newest(users - nobody, self.keys)
            self.made |= made
            shared = await self._vault.shared() if nobody else None
            appendix = _sealed(appendix, seals, shared)
        await self._inner.append(appendix, abandoned)


def _told(places: list[LaneEvent]) -> list[LaneEvent]:
    """The same; what is corrupt is said in the server's log."""
    for place in places:
        if place.corrupt:
            event = place.event
            log.error(CORRUPT, user=place.user, collection=event.collection, key=event.key, seq=event.seq)
    return places


def _sealed(appendix: Appendix, seals: dict[str, Seal], shared: Seal | None) -> Appendix:
    """The same, sealed; `shared` is for the answers of users of whom nothing came."""
    events: list[tuple[str, Event]] = []
    values: dict[tuple[str, int], bytes] = {}
    for user, event in appendix.events:
        value, edits = event.value, event.edits
        if value is None and edits is None:
            events.append((user, event))
            continue
        seal, place = seals[user].seal, (event.collection, event.key, event.seq)
        if value is not None:
            value = values[user, event.seq] = seal(value, *place, Slot.VALUE)
        if edits is not None and edits != NO_EDITS:
            edits = seal(edits, *place, Slot.EDITS)
        events.append((user, replace(event, value=value, edits=edits)))
    documents = [
        (user, _sealed_document(document, seals[user], values[user, document.version]))
        if document.value is not None
        else (user, document)
        for user, document in appendix.documents
    ]
    answers = [_sealed_answer(answer, seals.get(answer.ref.user, shared)) for answer in appendix.answers]
    return appendix._replace(events=events, documents=documents, answers=answers)


def _sealed_document(document: Document, seal: Seal, value: bytes) -> Document:
    siblings = document.siblings
    if siblings is not None:
        siblings = seal.seal(siblings, document.collection, document.key, document.version, Slot.SIBLINGS)
    return replace(document, value=value, siblings=siblings)


def _sealed_answer(stored: StoredAnswer, seal: Seal | None) -> StoredAnswer:
    if seal is None:
        raise Corrupt(stored.ref.user, "a user without a key")
    place = *stored.ref, microseconds(stored.at)
    return stored._replace(
        answer=seal.seal(stored.answer, *place, Slot.ANSWER),
        fingerprint=seal.seal(stored.fingerprint, *place, Slot.FINGERPRINT),
    )


async def open_with(vault: Vault, keys: Keys, work: Callable[[Opener], Result]) -> Result:
    """What `work` makes of an opener. It is done over once what was not at hand has been loaded, in one query."""
    loaded: dict[KeyRef, Seal | None] = {}
    asked: set[KeyRef] = set()
    while True:
        opener = Opener(vault, loaded, asked)
        result = work(opener)
        if not opener.missing:
            return result
        loaded |= await vault.seals(opener.missing, keys)
        asked |= opener.missing


class Opener:
    """Opens values by keys that are at hand, or `loaded`.

    A value is `Corrupt` where its key was `asked` for in vain. A key that was not asked for yet becomes `missing`, and
    what is made of the opener then is of no use.
    """

    __slots__ = ("_asked", "_at_hand", "_loaded", "missing")

    def __init__(self, vault: Vault, loaded: dict[KeyRef, Seal | None], asked: set[KeyRef]) -> None:
        self._at_hand = vault.at_hand
        self._loaded = loaded
        self._asked = asked
        self.missing: set[KeyRef] = set()

    def document(self, user: str, document: Document) -> Document:
        """A document. Raises `Corrupt`."""
        value, siblings = document.value, document.siblings
        if value is None:
            return document
        collection, key, version = document.collection, document.key, document.version
        if siblings is not None:
            siblings = self._open(siblings, user, collection, key, version, Slot.SIBLINGS)
        value = self._open(value, user, collection, key, version, Slot.VALUE)
        return Document(collection, key, version, value, document.updated_at, siblings)

    def event(self, user: str, event: Event) -> Event:
        """An event. Raises `Corrupt`."""
        value, edits = event.value, event.edits
        if value is None and edits is None:
            return event
        place = event.collection, event.key, event.seq
        if value is not None:
            value = self._open(value, user, *place, Slot.VALUE)
        if edits is not None and edits != NO_EDITS:
            edits = self._open(edits, user, *place, Slot.EDITS)
        return replace(event, value=value, edits=edits)

    def answer(self, stored: StoredAnswer) -> StoredAnswer:
        """An answer. Raises `Corrupt`."""
        place = *stored.ref, microseconds(stored.at)
        generation = generation_of(stored.answer)
        user = SHARED_USER if generation == SHARED else stored.ref.user
        answer = self._open(stored.answer, user, *place, Slot.ANSWER)
        # What was stored in clear was so as a whole: a fingerprint may begin with any byte.
        fingerprint = stored.fingerprint
        if generation != CLEAR:
            fingerprint = self._open(fingerprint, user, *place, Slot.FINGERPRINT)
        return stored._replace(answer=answer, fingerprint=fingerprint)

    def place(self, place: LaneEvent) -> LaneEvent:
        """An event of a lane; `corrupt`, without what it held, where that does not open."""
        try:
            return place._replace(event=self.event(place.user, place.event))
        except Corrupt:
            return place._replace(event=replace(place.event, value=None, edits=None), corrupt=True)

    def _open(self, stored: bytes, user: str, collection: str, key: str, seq: int, slot: Slot) -> bytes:
        generation = generation_of(stored)
        try:
            try:
                seal = self._at_hand(user, generation)
            except KeyError:
                seal = self._loaded[user, generation]
            # Once a key is missing, all is done over: what is looked for then is what else is missing.
            return stored if seal is None or self.missing else seal.open(stored, collection, key, seq, slot)
        except KeyError:
            ref = user, generation
            if ref not in self._asked:
                self.missing.add(ref)
                return stored
        except NotSealed:
            pass
        raise Corrupt(user, f"{slot.name.lower()} of {collection}/{key} at {seq}")
