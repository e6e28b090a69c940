"""The engine that speaks the PostgreSQL wire: any PostgreSQL, the embedded one among them.

One shared implementation of `roost.core.ports.Engine`. Three sets of connections keep three kinds of work
from starving each other: writers, batched point reads, and pages. The SQL is in `sql/`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol

from roost.core.audit import AuditStore
from roost.core.events import Device, Document, Head
from roost.core.ids import lane_of
from roost.core.ports import (
    DocumentRef,
    EngineUnavailable,
    Feed,
    History,
    LaneEvent,
    Log,
    Page,
    Point,
    Reading,
    Snapshot,
    SnapshotTooLarge,
)
from roost.engines import statements
from roost.engines.audit import PostgresAudit
from roost.engines.connections import Connection, Connections
from roost.engines.keys import PostgresKeys
from roost.engines.migrate import SCHEMA_VERSION
from roost.engines.news import News
from roost.engines.retention import PostgresRetention
from roost.engines.rows import columns, event_of, head_of, refs_columns
from roost.engines.transaction import PostgresTransaction

SQL = statements.load("write", "read")
_SURROGATES, _AFTER_SURROGATES = 0xD800, 0xE000
_PREFETCH = 500
LOG_WINDOW = 50_000
"""Events that one statement of a narrowed `log` looks at, so that its cost is bounded."""


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
    def notify(self) -> bool:
        """Whether processes wake each other."""

    @property
    def engine_timeout_s(self) -> float:
        """How long to wait for a connection, and for a statement."""


def prefix_end(prefix: str) -> str | None:
    """The least text that comes after every text with this prefix, by bytes; None where there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < sys.maxunicode:
            return prefix[:-1] + chr(_AFTER_SURROGATES if last + 1 == _SURROGATES else last + 1)
        prefix = prefix[:-1]
    return None


def _device_columns(devices: list[tuple[str, Device]]) -> list[list[Any]]:
    return columns((lane_of(user), user, d.device, d.cursor, d.seen_at, d.until) for user, d in devices)


def _count(status: str) -> int:
    """How many rows a statement changed, from what the server says of it: `DELETE 3`."""
    return int(status.rpartition(" ")[2])


class Postgres:
    """See `roost.core.ports.Engine`. `url` is what libpq takes, several hosts allowed."""

    name = "postgres"

    def __init__(self, url: str, sizes: Sizes, *, page_bytes_max: int, snapshot_bytes_max: int) -> None:
        timeout_s = sizes.engine_timeout_s
        self._writers = Connections(url, size=sizes.writers, timeout_s=timeout_s)
        self._readers = Connections(url, size=sizes.readers, timeout_s=timeout_s)
        self._pages = Connections(url, size=sizes.pool, timeout_s=timeout_s)
        self.keys = PostgresKeys(self._pages)
        self._audit = Connections(url, size=1, timeout_s=timeout_s)
        self.audit: AuditStore = PostgresAudit(self._audit, self._pages)
        self._news = News(url, timeout_s=timeout_s, enabled=sizes.notify)
        self.retention = PostgresRetention(self._pages)
        self._page_bytes_max = page_bytes_max
        self._snapshot_bytes_max = snapshot_bytes_max

    async def open(self) -> None:
        """Get ready. Connections are made when they are needed, so a node starts while its engine is away."""
        for connections in (self._writers, self._readers, self._pages, self._audit):
            await connections.open()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._news.close()
        for connections in (self._writers, self._readers, self._pages, self._audit):
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
        for nr, seq, erased, *found in await self._readers.fetch(SQL["points"], *refs_columns(refs)):
            ref = refs[nr - 1]
            document = None if found[0] is None else Document(ref.collection, ref.key, *found)
            points[nr - 1] = Point(seq, document, erased)
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
                size += documents[-1].size
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
            events = [event_of(row) for row in rows[:limit]]
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
                events = [event_of(row) for row in rows]
                # The page ended at its last event, unless it holds all there was: then the window is behind it.
                size = sum(event.size for event in events)
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
        return [head_of(row) for row in await self._pages.fetch(SQL["users"], lane, user, limit)]

    async def positions(self) -> dict[int, int]:
        """The last position of each lane."""
        return dict(await self._pages.fetch(SQL["positions"]))

    async def floors(self) -> dict[int, int]:
        """Up to where each lane may have holes."""
        return dict(await self._pages.fetch(SQL["floors"]))

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        """A lane's events in position order."""
        rows = await self._pages.fetch(SQL["lane"], lane, after, limit, self._page_bytes_max)
        return [LaneEvent(lane, pos, row[0], event_of(row)) for pos, *row in rows]

    async def feed(self, cursor: dict[int, int], limit: int) -> Feed:
        """The events of lanes after a cursor."""
        if not cursor:
            return Feed({}, [], more=False)
        rows = await self._pages.fetch(SQL["feed"], list(cursor), list(cursor.values()), limit, self._page_bytes_max)
        heads = {row[0]: row[1] for row in rows}
        events = [LaneEvent(row[0], row[2], row[3], event_of(row[3:])) for row in rows if row[2] is not None]
        # As in `log`: there was more unless all of it was there.
        size = sum(event.event.size for event in events)
        return Feed(heads, events, more=len(rows) >= limit or size >= self._page_bytes_max)

    async def stored(self, user: str) -> tuple[Head, list[Document]] | None:
        """A head and its documents' rows."""
        async with self._pages.moment() as connection:
            head = await self._head(connection, user)
            if head is None:
                return None
            rows = await connection.fetch(SQL["stored"], lane_of(user), user)
            return head, [Document(*row) for row in rows]

    async def devices(self, user: str) -> list[Device] | None:
        """A user's devices, by name."""
        async with self._pages.use() as connection:
            if await self._head(connection, user) is None:
                return None
            return [Device(*row) for row in await connection.fetch(SQL["devices"], lane_of(user), user)]

    async def connected(self, users: list[str], at: datetime) -> dict[str, list[Device]]:
        """The devices of these users that are connected."""
        found: dict[str, list[Device]] = {user: [] for user in users}
        lanes = [lane_of(user) for user in found]
        for user, *device in await self._pages.fetch(SQL["connected"], lanes, list(found), at):
            found[user].append(Device(*device))
        return found

    async def touch(self, devices: list[tuple[str, Device]], devices_max: int) -> None:
        """Write what devices said, and until when they count as connected."""
        if devices:
            await self._pages.fetch(SQL["touch"], *_device_columns(devices), devices_max)

    async def leave(self, devices: list[tuple[str, Device]]) -> None:
        """Clear `until` where nobody has written a later one."""
        if devices:
            await self._pages.fetch(SQL["leave"], *_device_columns(devices))

    async def forget_devices(self, before: datetime, limit: int) -> int:
        """Delete devices that have been away for long."""
        async with self._pages.use() as connection:
            return _count(await connection.execute(SQL["forget_devices"], before, limit))

    async def compact(self, user: str, floor: int) -> int:
        """Raise a log's floor, under the locks that writers take, in their order."""
        lane = lane_of(user)
        async with self._pages.use() as connection, connection.transaction():
            rows = await connection.fetch(SQL["lock_floor"], lane, user, floor)
            if not rows:
                return 0
            count: int
            count, pos = (await connection.fetch(SQL["fold_away"], lane, user, rows[0][0], floor))[0]
            await connection.fetch(SQL["raise_floor"], lane, user, floor)
            if count:
                await connection.fetch(SQL["raise_lane"], lane, pos)
            return count

    async def wait_for_news(self, timeout_s: float) -> None:
        """Wait until another process announces something."""
        await self._news.wait(timeout_s)

    async def announce(self) -> None:
        """Wake the others."""
        await self._news.announce()

    async def forget_answers(self, before: datetime, limit: int) -> int:
        """Delete old idempotency answers."""
        async with self._pages.use() as connection:
            return _count(await connection.execute(SQL["forget_answers"], before, limit))

    async def _head(self, connection: Connection, user: str) -> Head | None:
        rows = await connection.fetch(SQL["head"], lane_of(user), user)
        return head_of(rows[0]) if rows else None
