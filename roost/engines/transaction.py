"""One transaction on the PostgreSQL wire: a few statements, each for all commands of the group at once.

The SQL is `sql/write.sql`. Rows go as arrays, one a column, because a statement for each row would be a round trip for
each.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

import msgspec

from roost.core.events import Device, Document, Event, Head
from roost.core.ids import lane_of
from roost.core.ports import (
    UNSEEN_BYTES_MAX,
    AnswerRef,
    Appendix,
    DeviceRef,
    DocumentRef,
    EventRef,
    Loaded,
    StoredAnswer,
    TransactionLost,
    Unseen,
)
from roost.engines import statements
from roost.engines.connections import Connection, Record
from roost.engines.keys import PostgresTransactionKeys
from roost.engines.retention import erase, erase_heads, raise_lanes
from roost.engines.rows import columns, event_of, head_of, refs_columns, sparse

SQL = statements.load("write")


class PostgresTransaction:
    """See `roost.core.ports.Transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locked: dict[str, Head] = {}
        self.keys = PostgresTransactionKeys(connection)

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
        for generation, *row in rows:
            head = head_of(row)
            self._locked[head.user] = head
            self.keys.generations[head.user] = generation
        return self._locked, created

    async def load(
        self,
        documents: list[DocumentRef],
        answers: list[AnswerRef],
        events: list[EventRef],
        devices: list[DeviceRef],
        unread: AbstractSet[DocumentRef] = frozenset(),
    ) -> Loaded:
        """Load what the commands name."""
        loaded = Loaded({}, {}, {}, {}, {})
        if documents:
            whole = [ref not in unread for ref in documents]
            for user, *row in await self._fetch("load_documents", *refs_columns(documents), whole):
                loaded.documents[DocumentRef(user, row[0], row[1])] = Document(*row)
        if answers:
            for user, key, *stored in await self._fetch("load_answers", *refs_columns(answers)):
                ref = AnswerRef(user, key)
                loaded.answers[ref] = StoredAnswer(ref, *stored)
        if events:
            for row in await self._fetch("load_events", *refs_columns(events)):
                loaded.events[EventRef(row[0], row[1])] = event_of(row)
        if devices:
            for user, *row in await self._fetch("load_devices", *refs_columns(devices)):
                loaded.devices[DeviceRef(user, row[0])] = Device(*row)
            if new := sorted({ref.user for ref in devices if ref not in loaded.devices}):
                loaded.device_counts.update(await self._fetch("count_devices", [lane_of(user) for user in new], new))
        return loaded

    async def unseen(self, bases: dict[DocumentRef, int], limit: int) -> dict[DocumentRef, Unseen]:
        """What happened to documents after a seq, all in one query."""
        refs = list(bases)
        events: list[list[Event]] = [[] for _ in refs]
        cut = set()
        if refs:
            arguments = *refs_columns(refs), list(bases.values()), limit + 1, UNSEEN_BYTES_MAX
            for nr, fits, *row in await self._fetch("unseen", *arguments):
                events[nr - 1].append(event_of(row))
                if not fits:
                    cut.add(nr - 1)
        return {
            ref: Unseen(found[-limit:], more=len(found) > limit, cut=place in cut)
            for place, (ref, found) in enumerate(zip(refs, events, strict=True))
        }

    async def append(self, appendix: Appendix, abandoned: list[str]) -> None:
        """Write answers, heads and documents, and the events at the next positions of their lanes."""
        if abandoned:
            await self._fetch("drop_heads", [lane_of(user) for user in abandoned], abandoned)
        if appendix.answers:
            answers = ((lane_of(a.ref.user), *a.ref, a.fingerprint, a.answer, a.at) for a in appendix.answers)
            await self._fetch("append_answers", *columns(answers))
        if appendix.devices:
            devices = ((lane_of(user), user, d.device, d.number, d.cursor, d.seen_at) for user, d in appendix.devices)
            await self._fetch("append_devices", *columns(devices))
        if not appendix.events:
            return
        _, floors = await erase(self._connection, appendix.erased) if appendix.erased else (0, {})
        heads = [(lane_of(h.user), h.user, h.seq, h.updated_at, h.clock, self._new_counts(h)) for h in appendix.heads]
        siblings = {(user, d.version): d.siblings for user, d in appendix.documents}
        steps: dict[int, int] = {}
        events = []
        for user, e in appendix.events:
            lane = lane_of(user)
            steps[lane] = step = steps.get(lane, 0) + 1
            last = (user, e.seq) in siblings
            events.append(
                (
                    *(lane, user, e.seq, step, last, e.kind, e.collection, e.key, e.value),
                    *(e.actor, e.device, e.mutation, e.at),
                )
            )
        await self._fetch(
            "append",
            *columns(heads),
            *columns(events),
            list(steps),
            list(steps.values()),
            sparse([e.clock for _, e in appendix.events]),
            sparse([_array(e.beside) for _, e in appendix.events]),
            sparse([e.edits for _, e in appendix.events]),
            sparse([siblings.get((user, e.seq)) for user, e in appendix.events]),
            [_fields(appendix, user, e) for user, e in appendix.events] if appendix.fields else [],
        )
        if appendix.erased:
            await erase_heads(self._connection, [head for head in appendix.heads if head.user in appendix.erased])
            await raise_lanes(self._connection, floors)

    def _new_counts(self, head: Head) -> str | None:
        """The counts to write; None where they are what they were, as for most writes."""
        if head.counts == self._locked[head.user].counts:
            return None
        return msgspec.json.encode(head.counts).decode()

    async def _fetch(self, statement: str, *arguments: Any) -> list[Record]:
        rows: list[Record] = await self._connection.fetch(SQL[statement], *arguments)
        return rows


def _fields(appendix: Appendix, user: str, event: Event) -> str | None:
    """What of the event's document is kept in clear."""
    fields = appendix.fields.get(DocumentRef(user, event.collection, event.key))
    return None if fields is None else fields.decode()


def _array(items: tuple[int, ...]) -> str | None:
    """An array as PostgreSQL writes it, since arrays of arrays of several lengths cannot be sent; None for none."""
    return "{" + ",".join(map(str, items)) + "}" if items else None
