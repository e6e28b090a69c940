"""Where the audit trail rests: in two tables of a PostgreSQL, or in memory. See `roost.core.audit.AuditStore`.

It has a connection of its own, so that records neither wait for the writers of documents nor hold them up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from roost.core.audit import BEGINNING, Checkpoint, Found, Link, Record, Selection
from roost.engines import statements
from roost.engines.connections import Connection, Connections
from roost.engines.rows import columns

SQL = statements.load("audit")
WINDOW = 50_000
"""Records that one statement looks at where no index leads to those that are selected."""
WINDOWS_MAX = 20
_COLUMNS = (
    *("n", "at", "actor", "kind", "action", "outcome", "address", "request_id", "purpose", "user", "collection"),
    *("key", "count", "detail", "mac"),
)


class PostgresAuditTransaction:
    """See `roost.core.audit.AuditTransaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lock(self) -> Link:
        """Lock the chain's row; made where there is none."""
        rows = await self._connection.fetch(SQL["lock_chain"])
        if not rows:
            await self._connection.execute(SQL["begin_chain"], *BEGINNING)
            rows = await self._connection.fetch(SQL["lock_chain"])
        return Link(*rows[0])

    async def mac(self, n: int) -> bytes | None:
        """The hash of a record."""
        rows = await self._connection.fetch(SQL["mac"], n)
        return rows[0][0] if rows else None

    async def append(self, records: list[Record]) -> None:
        """Write records and the new end in one statement."""
        if records:
            last = records[-1]
            rows = [[getattr(record, name) for name in _COLUMNS] for record in records]
            await self._connection.execute(SQL["append_records"], last.n, last.mac, last.at, *columns(rows))

    async def last_before(self, at: datetime, most: int) -> Link | None:
        """The last that is older, of the oldest."""
        rows = await self._connection.fetch(SQL["last_before"], at, most)
        return Link(*rows[0]) if rows else None

    async def prune(self, checkpoint: Checkpoint) -> int:
        """Delete records, and keep the checkpoint."""
        status: str = await self._connection.execute(SQL["delete_records"], checkpoint.n)
        await self._connection.execute(SQL["set_checkpoint"], *checkpoint)
        return int(status.rpartition(" ")[2])


class PostgresAudit:
    """The trail in a PostgreSQL; reads go over the engine's connections for `pages`."""

    def __init__(self, connections: Connections, pages: Connections) -> None:
        self._connections = connections
        self._pages = pages

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresAuditTransaction]:
        """A transaction; the lock on the chain's row orders it."""
        async with self._connections.use() as connection, connection.transaction():
            yield PostgresAuditTransaction(connection)

    async def end(self) -> Link:
        """The chain's end."""
        rows = await self._pages.fetch(SQL["end"])
        return Link(*rows[0]) if rows else BEGINNING

    async def checkpoint(self) -> Checkpoint | None:
        """Where the chain begins."""
        rows = await self._pages.fetch(SQL["checkpoint"])
        return Checkpoint(*rows[0]) if rows else None

    async def page(self, selection: Selection, after: int, limit: int) -> Found:
        """Records, window by window until there are enough."""
        async with self._pages.moment() as connection:
            rows = await connection.fetch(SQL["end"])
            end = rows[0][0] if rows else 0
            last = end
            if selection.since is not None:
                after = max(after, await _before(connection, selection.since, end))
            if selection.until is not None:
                last = await _before(connection, selection.until, end)
            names = (selection.user, selection.actor, selection.action, selection.outcome)
            statement, window = SQL["records"], WINDOW
            if selection.user is not None:
                statement, window = SQL["records_of_user"], end
            elif selection.actor is not None:
                statement, window = SQL["records_of_actor"], end
            records: list[Record] = []
            reached = after
            for _ in range(WINDOWS_MAX):
                until = min(reached + window, last)
                if until <= reached:
                    # What is left was not selected for its time, and nothing that comes later will be.
                    return Found(records, max(reached, end), end)
                room = limit - len(records)
                found = [_record(row) for row in await connection.fetch(statement, reached, until, room, *names)]
                records += found
                reached = found[-1].n if len(found) == room else until
                if len(found) == room:
                    break
            return Found(records, reached, end)


class MemoryAuditTransaction:
    """See `roost.core.audit.AuditTransaction`; it works on a copy."""

    def __init__(self, records: list[Record], end: Link, base: Checkpoint | None) -> None:
        self.records = records.copy()
        self.end = end
        self.base = base

    async def lock(self) -> Link:
        """Nobody else works on the chain anyhow."""
        return self.end

    async def mac(self, n: int) -> bytes | None:
        """Look it up."""
        return next((record.mac for record in self.records if record.n == n), None)

    async def append(self, records: list[Record]) -> None:
        """Add to the copy."""
        self.records += records
        if records:
            self.end = Link(records[-1].n, records[-1].mac, records[-1].at)

    async def last_before(self, at: datetime, most: int) -> Link | None:
        """Look it up."""
        older = [record for record in self.records[:most] if record.at < at]
        return Link(older[-1].n, older[-1].mac, older[-1].at) if older else None

    async def prune(self, checkpoint: Checkpoint) -> int:
        """Take away from the copy."""
        before = len(self.records)
        self.records = [record for record in self.records if record.n > checkpoint.n]
        self.base = checkpoint
        return before - len(self.records)


class MemoryAudit:
    """The trail in memory."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._end = BEGINNING
        self._base: Checkpoint | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryAuditTransaction]:
        """A transaction; the others wait until it has ended."""
        async with self._lock:
            transaction = MemoryAuditTransaction(self._records, self._end, self._base)
            yield transaction
            self._records, self._end, self._base = transaction.records, transaction.end, transaction.base

    async def end(self) -> Link:
        """The last record's."""
        return self._end

    async def checkpoint(self) -> Checkpoint | None:
        """Where the chain begins."""
        return self._base

    async def page(self, selection: Selection, after: int, limit: int) -> Found:
        """Look at all of them."""
        found = [record for record in self._records if record.n > after and selection.has(record)]
        reached = found[limit - 1].n if len(found) >= limit else max(after, self._end.n)
        return Found(found[:limit], reached, self._end.n)


async def _before(connection: Connection, at: datetime, end: int) -> int:
    """The number before the first record at or after a time; `end` where there is none."""
    rows = await connection.fetch(SQL["first_since"], at)
    return rows[0][0] - 1 if rows else end


def _record(row: Any) -> Record:
    return Record(**dict(zip(_COLUMNS, row, strict=True)))
