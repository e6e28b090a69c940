"""What engines let go of: `roost.core.retention` on the PostgreSQL wire. The SQL is `sql/erasure.sql`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from roost.core.events import Head
from roost.core.ids import lane_of
from roost.core.retention import ERASED_ROWS, Expired
from roost.engines import statements
from roost.engines.connections import Connection, Connections
from roost.engines.rows import columns

SQL = statements.load("erasure")


async def erase(connection: Connection, users: Sequence[str]) -> tuple[int, dict[int, int]]:
    """Delete what users have, in part; how many rows that were, and to where their lanes' floors are to be raised."""
    count, floors = 0, dict[int, int]()
    for user in users:
        lane = lane_of(user)
        rows, pos = (await connection.fetch(SQL["erase"], lane, user, ERASED_ROWS))[0]
        count += rows
        if pos is not None:
            floors[lane] = max(pos, floors.get(lane, 0))
    return count, floors


async def raise_lanes(connection: Connection, floors: Mapping[int, int]) -> None:
    """Up to these positions lanes may have holes. The last thing that a transaction locks."""
    if floors:
        await connection.execute(SQL["raise_lanes"], list(floors), list(floors.values()))


async def erase_heads(connection: Connection, heads: Sequence[Head]) -> None:
    """Make tombstones of heads."""
    rows = ((lane_of(head.user), head.user, head.floor, head.erased_at) for head in heads)
    await connection.execute(SQL["erase_heads"], *columns(rows))


class PostgresRetention:
    """See `roost.core.retention.RetentionStore`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def sweep(self, user: str) -> int:
        """Delete what is left of an erased user, in part."""
        async with self._connections.use() as connection, connection.transaction():
            if not await connection.fetch(SQL["is_erased"], lane_of(user), user):
                return 0
            count, floors = await erase(connection, [user])
            await raise_lanes(connection, floors)
            return count

    async def leftovers(self, users: Sequence[str]) -> list[str]:
        """Of whom anything is left."""
        rows = await self._connections.fetch(SQL["leftovers"], [lane_of(user) for user in users], list(users))
        return [user for (user,) in rows]

    async def holders(self, users: Sequence[str], collections: Sequence[str]) -> set[tuple[str, str]]:
        """Who has, or had, a document of which collection."""
        lanes = [lane_of(user) for user in users]
        rows = await self._connections.fetch(SQL["holders"], lanes, list(users), list(collections))
        return {(user, collection) for user, collection in rows}

    async def expired(self, users: Sequence[str], before: Mapping[str, datetime], limit: int) -> list[Expired]:
        """Documents whose time is over."""
        lanes = [lane_of(user) for user in users]
        arguments = lanes, list(users), list(before), list(before.values()), limit
        return [Expired(*row) for row in await self._connections.fetch(SQL["expired"], *arguments)]
