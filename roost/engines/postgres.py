"""The engine that speaks the PostgreSQL wire: any PostgreSQL, the embedded one among them.

One shared implementation of `roost.core.ports.Engine`. Three sets of connections keep three kinds of work
from starving each other: writers, batched point reads, and pages. The SQL is in `sql/`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol

import msgspec

from roost.core.events import Document, Event, Head
from roost.core.ids import lane_of
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
    TransactionLost,
)
from roost.engines import statements
from roost.engines.connections import Connection, Connections, Record
from roost.engines.migrate import SCHEMA_VERSION

SQL = statements.load("write", "read")
_SURROGATES, _AFTER_SURROGATES = 0xD800, 0xE000
_PREFETCH = 500
LOG_WINDOW = 50_000
"""Events that one statement of a narrowed `log` looks at, so that its cost is bounded."""

_counts = msgspec.json.Decoder(dict[str, int])


class Sizes(Protocol):
    """What the engine takes from the settings."""

    @property
    def writers(self) -> int:
        """Connections for transactions."""

    @property
    def readers(self) -> int:
        """Connections for batched point reads."""

    @property
    def pool(self) -> int:
        """Connections for every other read."""

    @property
    def engine_timeout_s(self) -> float:
        """How long to wait for a connection, and for a statement."""


def _head(row: Record) -> Head:
    user, seq, floor, created_at, updated_at, counts = row
    return Head(user, seq, floor, created_at, updated_at, _counts.decode(counts))


def _event(row: Record) -> Event:
    _, seq, kind, collection, key, value, at, actor, device, mutation = row
    return Event(seq, kind, collection, key, value, at, actor, device, mutation)


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows, one at least, as the arrays that `unnest` takes, one a column."""
    return [list(column) for column in zip(*rows, strict=True)]


def prefix_end(prefix: str) -> str | None:
    """The least text that comes after every text with this prefix, by bytes; None where there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < sys.maxunicode:
            return prefix[:-1] + chr(_AFTER_SURROGATES if last + 1 == _SURROGATES else last + 1)
        prefix = prefix[:-1]
    return None


class PostgresTransaction:
    """See `roost.core.ports.Transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locked: dict[str, Head] = {}

    async def lock(self, users: list[str], at: datetime) -> tuple[dict[str, Head], set[str]]:
        """Lock the heads; where some are missing, they are created first. The transaction's first statement."""
        refs = [lane_of(user) for user in users], users
        rows = await self._fetch("lock_heads", *refs)
        created: set[str] = set()
        if len(rows) < len(users):
            # Creating one while others are locked could meet somebody who does the same in another order: what is
            # locked is let go, and locked again in order once all are there.
            await self._connection.execute(SQL["let_go"])
            created = {row[0] for row in await self._fetch("create_heads", *refs, at)}
            rows = await self._fetch("lock_heads", *refs)
            if len(rows) < len(users):
                raise TransactionLost
        self._locked = {head.user: head for head in map(_head, rows)}
        return self._locked, created

    async def load(self, documents: list[DocumentRef], answers: list[AnswerRef], events: list[EventRef]) -> Loaded:
        """Load what the commands name."""
        loaded = Loaded({}, {}, {})
        if documents:
            for user, *row in await self._fetch("load_documents", *_refs(documents)):
                loaded.documents[DocumentRef(user, row[0], row[1])] = Document(*row)
        if answers:
            for user, key, *stored in await self._fetch("load_answers", *_refs(answers)):
                ref = AnswerRef(user, key)
                loaded.answers[ref] = StoredAnswer(ref, *stored)
        if events:
            for row in await self._fetch("load_events", *_refs(events)):
                loaded.events[EventRef(row[0], row[1])] = _event(row)
        return loaded

    async def append(self, appendix: Appendix, abandoned: list[str]) -> None:
        """Write answers, heads and documents, and the events at the next positions of their lanes."""
        if abandoned:
            await self._fetch("drop_heads", [lane_of(user) for user in abandoned], abandoned)
        if appendix.answers:
            rows = ((lane_of(a.ref.user), *a.ref, a.fingerprint, a.answer, a.at) for a in appendix.answers)
            await self._fetch("append_answers", *_columns(rows))
        if not appendix.events:
            return
        heads = [(lane_of(h.user), h.user, h.seq, h.updated_at, self._new_counts(h)) for h in appendix.heads]
        versions = {(user, d.version) for user, d in appendix.documents}
        steps: dict[int, int] = {}
        events = []
        for user, e in appendix.events:
            lane = lane_of(user)
            steps[lane] = step = steps.get(lane, 0) + 1
            last = (user, e.seq) in versions
            row = (
                lane,
                user,
                e.seq,
                step,
                last,
                e.kind,
                e.collection,
                e.key,
                e.value,
                e.actor,
                e.device,
                e.mutation,
                e.at,
            )
            events.append(row)
        await self._fetch("append", *_columns(heads), *_columns(events), list(steps), list(steps.values()))

    def _new_counts(self, head: Head) -> str | None:
        """The counts to write; None where they are what they were, as for most writes."""
        if head.counts == self._locked[head.user].counts:
            return None
        return msgspec.json.encode(head.counts).decode()

    async def _fetch(self, statement: str, *arguments: Any) -> list[Record]:
        rows: list[Record] = await self._connection.fetch(SQL[statement], *arguments)
        return rows


def _refs(refs: list[Any]) -> list[list[Any]]:
    return [[lane_of(ref[0]) for ref in refs], *_columns(refs)]


class Postgres:
    """See `roost.core.ports.Engine`. `url` is what libpq takes, several hosts allowed."""

    name = "postgres"

    def __init__(self, url: str, sizes: Sizes, *, page_bytes_max: int, snapshot_bytes_max: int) -> None:
        timeout_s = sizes.engine_timeout_s
        self._writers = Connections(url, size=sizes.writers, timeout_s=timeout_s)
        self._readers = Connections(url, size=sizes.readers, timeout_s=timeout_s)
        self._pages = Connections(url, size=sizes.pool, timeout_s=timeout_s)
        self._page_bytes_max = page_bytes_max
        self._snapshot_bytes_max = snapshot_bytes_max

    async def open(self) -> None:
        """Get ready. Connections are made when they are needed, so a node starts while its engine is away."""
        for connections in (self._writers, self._readers, self._pages):
            await connections.open()

    async def close(self) -> None:
        """Let go of every connection."""
        for connections in (self._writers, self._readers, self._pages):
            await connections.close()

    async def ping(self) -> None:
        """Return if the engine answers with a schema that this release knows."""
        (version,) = (await self._pages.fetch(SQL["ping"]))[0]
        if version is None or version < SCHEMA_VERSION:
            detail = f"The database has schema {version}, this release needs {SCHEMA_VERSION}: run `roost migrate`."
            raise EngineUnavailable(detail)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        """A transaction under READ COMMITTED: its locks, not its snapshot, are what keeps it right."""
        async with self._writers.use() as connection, connection.transaction():
            yield PostgresTransaction(connection)

    async def points(self, refs: list[DocumentRef]) -> list[Point]:
        """Many point reads in one query."""
        if not refs:
            return []
        points = [Point(None, None)] * len(refs)
        for nr, seq, version, value, updated_at in await self._readers.fetch(SQL["points"], *_refs(refs)):
            ref = refs[nr - 1]
            document = None if version is None else Document(ref.collection, ref.key, version, value, updated_at)
            points[nr - 1] = Point(seq, document)
        return points

    async def head(self, user: str) -> Head | None:
        """Where a user's log stands."""
        async with self._pages.use() as connection:
            return await self._head(connection, user)

    async def document_at(self, ref: DocumentRef, seq: int) -> Reading:
        """A document as it was."""
        async with self._pages.moment() as connection:
            head = await self._head(connection, ref.user)
            rows = await connection.fetch(SQL["document_at"], lane_of(ref.user), *ref, seq)
            return Reading(head, Document(*rows[0]) if rows else None)

    async def page(self, user: str, collection: str, prefix: str, after: str | None, limit: int) -> Page | None:
        """A page of a collection."""
        async with self._pages.moment() as connection:
            head = await self._head(connection, user)
            if head is None:
                return None
            rows = await connection.fetch(
                SQL["page"],
                *(lane_of(user), user, collection, after or "", prefix, prefix_end(prefix)),
                *(limit + 1, self._page_bytes_max),
            )
            documents = [Document(*row) for row in rows[:limit]]
            more = len(rows) > limit
            if rows and not more:
                # Fewer rows than asked for: the collection has ended, or the page was full of bytes.
                last = documents[-1].key
                more = bool(
                    await connection.fetch(
                        SQL["page"], lane_of(user), user, collection, last, prefix, prefix_end(prefix), 1, 1
                    )
                )
            return Page(head, documents, more)

    async def snapshot(self, user: str, seq: int | None) -> Snapshot | None:
        """All documents as they are, or were at `seq`. Raises `TOO_LARGE` rather than fill the memory."""
        async with self._pages.moment() as connection:
            head = await self._head(connection, user)
            if head is None:
                return None
            if seq is None or seq >= head.seq:
                seq = head.seq
                rows = connection.cursor(SQL["snapshot_now"], lane_of(user), user, prefetch=_PREFETCH)
            else:
                rows = connection.cursor(SQL["snapshot_at"], lane_of(user), user, seq, prefetch=_PREFETCH)
            documents, size = [], 0
            async for row in rows:
                documents.append(Document(*row))
                size += len(row[3])
                if size > self._snapshot_bytes_max:
                    raise SnapshotTooLarge(self._snapshot_bytes_max)
            return Snapshot(head, seq, documents)

    async def history(self, ref: DocumentRef, before: int | None, limit: int) -> History | None:
        """A document's events, newest first."""
        async with self._pages.moment() as connection:
            head = await self._head(connection, ref.user)
            if head is None:
                return None
            before = head.seq + 1 if before is None else before
            rows = await connection.fetch(
                SQL["history"], lane_of(ref.user), *ref, before, limit + 1, self._page_bytes_max
            )
            events = [_event(row) for row in rows[:limit]]
            more = len(rows) > limit
            if rows and not more:
                more = bool(await connection.fetch(SQL["history"], lane_of(ref.user), *ref, events[-1].seq, 1, 1))
            return History(head, events, more)

    async def log(self, user: str, after: int, limit: int, collections: list[str] | None) -> Log | None:
        """A user's events, in order, window by window until there is something to show."""
        async with self._pages.moment() as connection:
            head = await self._head(connection, user)
            if head is None:
                return None
            reached = after
            while reached < head.seq:
                end = min(reached + LOG_WINDOW, head.seq)
                rows = await connection.fetch(
                    SQL["log"],
                    *(lane_of(user), user, reached, end, collections, limit, self._page_bytes_max),
                )
                if not rows:
                    reached = end
                    continue
                events = [_event(row) for row in rows]
                # The page ended at its last event, unless it holds all there was: then the window is behind it.
                size = sum(len(event.value or b"") for event in events)
                whole = len(rows) < limit and size < self._page_bytes_max
                return Log(head, events, end if whole else events[-1].seq)
            return Log(head, [], reached)

    async def seq_at(self, user: str, at: datetime) -> int | None:
        """The last seq at or before a time, by halving."""
        rows = await self._pages.fetch(SQL["seq_at"], lane_of(user), user, at)
        return rows[0][0] if rows else None

    async def users(self, after: str | None, limit: int) -> list[Head]:
        """Users by lane, then id."""
        lane, user = (-1, "") if after is None else (lane_of(after), after)
        return [_head(row) for row in await self._pages.fetch(SQL["users"], lane, user, limit)]

    async def positions(self) -> dict[int, int]:
        """The last position of each lane."""
        return dict(await self._pages.fetch(SQL["positions"]))

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        """A lane's events in position order."""
        rows = await self._pages.fetch(SQL["lane"], lane, after, limit, self._page_bytes_max)
        return [LaneEvent(lane, pos, row[0], _event(row)) for pos, *row in rows]

    async def stored(self, user: str) -> tuple[Head, list[Document]] | None:
        """A head and its documents' rows."""
        async with self._pages.moment() as connection:
            head = await self._head(connection, user)
            if head is None:
                return None
            rows = await connection.fetch(SQL["stored"], lane_of(user), user)
            return head, [Document(*row) for row in rows]

    async def forget_answers(self, before: datetime, limit: int) -> int:
        """Delete old idempotency answers."""
        async with self._pages.use() as connection:
            status = await connection.execute(SQL["forget_answers"], before, limit)
            return int(status.rpartition(" ")[2])

    async def _head(self, connection: Connection, user: str) -> Head | None:
        rows = await connection.fetch(SQL["head"], lane_of(user), user)
        return _head(rows[0]) if rows else None
