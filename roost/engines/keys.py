"""Where engines keep keys: `roost.core.keys`, on the PostgreSQL wire and in memory. The SQL is `sql/keys.sql`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from msgspec.structs import replace

from roost.core.events import Head, microseconds
from roost.core.ids import lane_of
from roost.core.keys import CLEAR, Corrupt, Kek, Kind, Passage, SealedRow, UserKey
from roost.core.ports import AnswerRef
from roost.engines import statements
from roost.engines.connections import Connection, Connections, Record
from roost.engines.held import Held
from roost.engines.rows import columns

SQL = statements.load("keys")
WINDOW_USERS = 5_000
"""Users whom one statement looks at, so that its cost is bounded."""
_FIRST = SealedRow("", "", 0, None, None)


async def _load(connection: Connection, users: list[str]) -> list[UserKey]:
    if not users:
        return []
    rows = await connection.fetch(SQL["load_keys"], [lane_of(user) for user in users], users)
    return [UserKey(*row) for row in rows]


async def _add(connection: Connection, keys: list[UserKey]) -> list[str] | None:
    """Add keys, and return whose; None where their KEK is not current."""
    arguments = columns((lane_of(key.user), key.user, key.generation, key.wrapped) for key in keys)
    rows = await connection.fetch(SQL["add_keys"], keys[0].kek, *arguments)
    return rows[0][1] if rows else None


class PostgresTransactionKeys:
    """See `roost.core.keys.TransactionKeys`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.generations: dict[str, int] = {}

    async def load(self, users: list[str]) -> list[UserKey]:
        """Load keys, also those that this transaction added."""
        return await _load(self._connection, users)

    async def add(self, keys: list[UserKey]) -> bool:
        """Add keys, and raise the generations of their users."""
        added = await _add(self._connection, keys)
        if added is None:
            return False
        for user in {key.user for key in keys}.difference(added):
            raise Corrupt(user, "the log does not know its key")
        raised = columns((lane_of(key.user), key.user, key.generation) for key in keys)
        await self._connection.fetch(SQL["raise_generations"], *raised)
        self.generations |= {key.user: key.generation for key in keys}
        return True


class PostgresKeys:
    """See `roost.core.keys.KeyStore`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def load(self, users: list[str]) -> list[UserKey]:
        """Load keys."""
        async with self._connections.use() as connection:
            return await _load(connection, users)

    async def add(self, keys: list[UserKey]) -> bool:
        """Add keys."""
        async with self._connections.use() as connection, connection.transaction():
            return await _add(connection, keys) is not None

    async def keks(self) -> list[Kek]:
        """All KEKs, by their age."""
        return [Kek(*row) for row in await self._connections.fetch(SQL["keks"])]

    async def begin(self, kek: Kek, before: str | None) -> bool:
        """Add a KEK."""
        async with self._connections.use() as connection, connection.transaction():
            if before is None:
                return bool(await connection.fetch(SQL["begin_first_kek"], *kek))
            # Waits for every transaction that is adding keys wrapped by the old one.
            if not await connection.fetch(SQL["retire_kek"], before):
                return False
            await connection.fetch(SQL["begin_kek"], *kek)
            return True

    async def adopted(self, kek: str) -> None:
        """An adopting KEK becomes current."""
        await self._connections.fetch(SQL["adopted"], kek)

    async def unvouched(self, after: str | None, limit: int) -> list[str]:
        """Users without keys, window by window until there are some."""
        while rows := await self._page("unvouched", after, max(limit, WINDOW_USERS)):
            if found := [user for user, unvouched in rows if unvouched]:
                return found[:limit]
            after = rows[-1][0]
        return []

    async def vouch(self, keys: list[UserKey]) -> None:
        """Add keys of generation `CLEAR`."""
        await self.add(keys)

    async def wrapped_by(self, kek: str, limit: int) -> list[UserKey]:
        """Some of the keys that a KEK wraps."""
        return [UserKey(*row) for row in await self._connections.fetch(SQL["wrapped_by"], kek, limit)]

    async def count(self, kek: str) -> int:
        """How many keys a KEK wraps."""
        return int((await self._connections.fetch(SQL["count_keys"], kek))[0][0])

    async def rewrap(self, keys: list[UserKey], before: str) -> bool:
        """Replace keys where they are still wrapped by `before`."""
        arguments = columns((lane_of(key.user), key.user, key.generation, key.wrapped) for key in keys)
        return bool(await self._connections.fetch(SQL["rewrap"], before, keys[0].kek, *arguments))

    async def end(self, kek: str) -> None:
        """Forget a KEK."""
        await self._connections.fetch(SQL["end_kek"], kek)

    async def outdated(self, after: str | None, limit: int) -> list[str]:
        """Users with older keys than their newest."""
        return [user for _, user in await self._page("outdated", after, limit)]

    @asynccontextmanager
    async def passage(self, user: str) -> AsyncIterator[Passage | None]:
        """A transaction that has locked the user's head."""
        async with self._connections.use() as connection, connection.transaction():
            rows = await connection.fetch(SQL["lock_generation"], lane_of(user), user)
            yield _PostgresPassage(connection, user, *rows[0]) if rows else None

    async def _page(self, statement: str, after: str | None, limit: int) -> list[Record]:
        lane, user = (-1, "") if after is None else (lane_of(after), after)
        return await self._connections.fetch(SQL[statement], lane, user, limit)


class _PostgresPassage:
    """See `roost.core.keys.Passage`."""

    def __init__(self, connection: Connection, user: str, generation: int, seq: int) -> None:
        self.seq = seq
        self._connection = connection
        self._user = lane_of(user), user
        self.keys = PostgresTransactionKeys(connection)
        self.keys.generations[user] = generation

    async def rows(self, kind: Kind, after: SealedRow | None, until: int, limit: int) -> list[SealedRow]:
        """Rows in the order of their keys."""
        last = after or _FIRST
        return [SealedRow(*row) for row in await self._fetch(f"{kind}_rows", *last[:3], until, limit)]

    async def write(self, kind: Kind, rows: list[SealedRow]) -> None:
        """Replace what is sealed."""
        await self._fetch(f"{kind}_write", *columns(rows))

    async def forget(self, below: int) -> None:
        """Delete older keys."""
        await self._fetch("forget_keys", below)

    async def _fetch(self, statement: str, *arguments: Any) -> list[Record]:
        rows: list[Record] = await self._connection.fetch(SQL[statement], *self._user, *arguments)
        return rows


class MemoryTransactionKeys:
    """See `roost.core.keys.TransactionKeys`. What it adds is there for others once `commit` is called."""

    def __init__(self, store: MemoryKeys) -> None:
        self._store = store
        self._added: list[UserKey] = []
        self._forgotten: set[str] = set()
        self.generations: dict[str, int] = {}

    def lock(self, users: list[str]) -> None:
        """The users whose heads are locked by now."""
        self.generations |= {user: self._store.generations.get(user, CLEAR) for user in users}

    async def load(self, users: list[str]) -> list[UserKey]:
        """Load keys, also those that this transaction added."""
        return [*await self._store.load(users), *(key for key in self._added if key.user in users)]

    async def add(self, keys: list[UserKey]) -> bool:
        """Add keys, and raise the generations of their users."""
        if not self._store.wraps(keys[0].kek):
            return False
        for key in keys:
            if self._store.has(key):
                raise Corrupt(key.user, "the log does not know its key")
        self._added += keys
        self.generations |= {key.user: key.generation for key in keys}
        return True

    def erase(self, user: str) -> None:
        """Delete all keys of a user."""
        self._forgotten.add(user)

    def commit(self) -> None:
        """Let others see it."""
        for user in self._forgotten:
            self._store.delete(user, None)
        self._store.put(self._added)
        self._store.generations |= {key.user: key.generation for key in self._added}


class MemoryKeys:
    """See `roost.core.keys.KeyStore`."""

    def __init__(
        self,
        alone: Callable[[str], AbstractAsyncContextManager[Held | None]],
        users: Callable[[str | None, int], Awaitable[list[Head]]],
    ) -> None:
        self._alone = alone
        self._list_users = users
        self._keks: dict[str, Kek] = {}
        self._keys: dict[tuple[str, int], UserKey] = {}
        self.generations: dict[str, int] = {}

    def wraps(self, kek: str) -> bool:
        """Whether it may wrap new keys."""
        return kek in self._keks and self._keks[kek].state != "retiring"

    def has(self, key: UserKey) -> bool:
        """Whether the user has a key of this generation."""
        return (key.user, key.generation) in self._keys

    def put(self, keys: list[UserKey]) -> None:
        """Add keys that are not there."""
        for key in keys:
            self._keys.setdefault((key.user, key.generation), key)

    def delete(self, user: str, below: int | None) -> None:
        """Delete a user's keys below a generation; None: all."""
        for ref in [ref for ref in self._keys if ref[0] == user and (below is None or ref[1] < below)]:
            del self._keys[ref]

    async def load(self, users: list[str]) -> list[UserKey]:
        """Load keys."""
        return [key for key in self._keys.values() if key.user in users]

    async def add(self, keys: list[UserKey]) -> bool:
        """Add keys."""
        if self.wraps(keys[0].kek):
            self.put(keys)
            return True
        return False

    async def keks(self) -> list[Kek]:
        """All KEKs, by their age."""
        return sorted(self._keks.values(), key=lambda kek: (kek.created_at, kek.kek))

    async def begin(self, kek: Kek, before: str | None) -> bool:
        """Add a KEK."""
        if before is None:
            if self._keks or self._keys:
                return False
            self._keks[kek.kek] = kek
            return True
        # As on a database: whoever adds a key has to be done before the key that wraps it retires.
        async with self._alone(kek.kek):
            if before not in self._keks or self._keks[before].state != "current":
                return False
            self._keks[before] = self._keks[before]._replace(state="retiring")
            self._keks[kek.kek] = kek
        return True

    async def adopted(self, kek: str) -> None:
        """An adopting KEK becomes current."""
        if self._keks[kek].state == "adopting":
            self._keks[kek] = self._keks[kek]._replace(state="current")

    async def unvouched(self, after: str | None, limit: int) -> list[str]:
        """Users without keys."""
        keyed = {user for user, _ in self._keys}
        return await self._users(after, limit, lambda user: user not in keyed)

    async def vouch(self, keys: list[UserKey]) -> None:
        """Add keys of generation `CLEAR`."""
        await self.add(keys)

    async def wrapped_by(self, kek: str, limit: int) -> list[UserKey]:
        """Some of the keys that a KEK wraps."""
        return [key for key in self._keys.values() if key.kek == kek][:limit]

    async def count(self, kek: str) -> int:
        """How many keys a KEK wraps."""
        return sum(key.kek == kek for key in self._keys.values())

    async def rewrap(self, keys: list[UserKey], before: str) -> bool:
        """Replace keys where they are still wrapped by `before`."""
        if not self.wraps(keys[0].kek):
            return False
        for key in keys:
            ref = key.user, key.generation
            if ref in self._keys and self._keys[ref].kek == before:
                self._keys[ref] = key
        return True

    async def end(self, kek: str) -> None:
        """Forget a KEK."""
        if not await self.count(kek):
            self._keks.pop(kek, None)

    async def outdated(self, after: str | None, limit: int) -> list[str]:
        """Users with older keys than their newest."""
        newest = self.generations
        old = {user for user, number in self._keys if number == CLEAR or number < newest.get(user, CLEAR)}
        return await self._users(after, limit, old.__contains__)

    @asynccontextmanager
    async def passage(self, user: str) -> AsyncIterator[Passage | None]:
        """The engine, while nobody else has a transaction."""
        async with self._alone(user) as held:
            if held is None or held.user.head.erased_at is not None:
                yield None
                return
            passage = _MemoryPassage(self, held)
            yield passage
            passage.keys.commit()

    async def _users(self, after: str | None, limit: int, wanted: Callable[[str], bool]) -> list[str]:
        heads = await self._list_users(after, sys.maxsize)
        return [head.user for head in heads if head.erased_at is None and wanted(head.user)][:limit]


class _MemoryPassage:
    """See `roost.core.keys.Passage`. Rows are replaced at once."""

    def __init__(self, store: MemoryKeys, held: Held) -> None:
        self._store = store
        self._user, self._answers, self._lane = held
        self.seq = self._user.head.seq
        self.keys = MemoryTransactionKeys(store)
        self.keys.lock([self._user.head.user])

    async def rows(self, kind: Kind, after: SealedRow | None, until: int, limit: int) -> list[SealedRow]:
        """Rows in the order of their names, or of events."""
        if kind == "events":
            events = self._user.log(after.seq if after else 0, until)
            return [SealedRow(e.collection, e.key, e.seq, e.value, e.edits) for e in events][:limit]
        if kind == "documents":
            documents = [d for d in self._user.documents.values() if d.version <= until]
            found = [SealedRow(d.collection, d.key, d.version, d.value, d.siblings) for d in documents]
        else:
            answers = [answer for ref, answer in self._answers.items() if ref.user == self._user.head.user]
            found = [SealedRow(*a.ref, microseconds(a.at), a.answer, a.fingerprint) for a in answers]
        found.sort(key=lambda row: row[:2])
        return [row for row in found if after is None or row[:2] > after[:2]][:limit]

    async def write(self, kind: Kind, rows: list[SealedRow]) -> None:
        """Replace what is sealed."""
        for row in rows:
            name = row.collection, row.key
            if kind == "documents":
                document = self._user.documents[name]
                self._user.documents[name] = replace(document, value=row.first, siblings=row.second)
            elif kind == "events":
                self._write_event(row)
            else:
                ref = AnswerRef(self._user.head.user, row.key)
                answer = self._answers[ref]
                self._answers[ref] = answer._replace(answer=row.first or b"", fingerprint=row.second or b"")

    async def forget(self, below: int) -> None:
        """Delete older keys."""
        self._store.delete(self._user.head.user, below)

    def _write_event(self, row: SealedRow) -> None:
        """Replace an event in the log, and in its lane."""
        user = self._user.head.user
        for before in list(self._user.log(row.seq - 1, row.seq)):
            event = replace(before, value=row.first, edits=row.second)
            self._user.events[row.seq - 1] = event
            self._lane[self._lane.index((user, before))] = user, event
