"""A writer for tests of engines: lock, load, append, without the decisions of the real one."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from hypothesis import strategies as st

from roost.core.events import Document, Event, Head, Kind
from roost.core.fold import Fold, document_of, fold
from roost.core.ids import lane_of
from roost.core.ports import Appendix, DocumentRef, Engine, StoredAnswer, TransactionLost

START = datetime(2026, 1, 1, tzinfo=UTC)


class Write(NamedTuple):
    """One event to be: a put, or with `value` None a delete."""

    user: str
    collection: str
    key: str
    value: bytes | None
    at: datetime = START


class Step(NamedTuple):
    """A write whose user is still open, and the time since the write before it."""

    collection: str
    key: str
    value: bytes | None
    pause: timedelta


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["carts", "notes"]),
        st.sampled_from(["a", "b", "é", "z"]),
        st.none() | st.sampled_from([b"1", b"2", b'{"x":[]}']),
        st.sampled_from([timedelta(0), timedelta(microseconds=1), timedelta(seconds=1)]),
    ),
    max_size=20,
)


def log_of(steps: list[Step], start: datetime = START) -> list[Event]:
    """The log that these steps make, from the first event on. Deletes of what does not exist are left out."""
    events: list[Event] = []
    folded, at = Fold(), start
    for collection, key, value, pause in steps:
        at += pause
        before = folded.documents.get((collection, key))
        if value is None and (before is None or before.value is None):
            continue
        kind: Kind = "delete" if value is None else "put"
        events.append(Event(len(events) + 1, kind, collection, key, value, at, "user:test"))
        folded.add(events[-1])
    return events


def head_of(user: str, events: list[Event], created_at: datetime = START) -> Head:
    """The head of a log that holds these events."""
    folded = fold(events)
    return Head(user, folded.seq, 0, created_at, folded.at or created_at, folded.counts)


def appendix_of(user: str, head: Head, events: list[Event], documents: list[Document]) -> Appendix:
    """What a transaction writes to put `events` behind `head`, with `documents` as they were before it."""
    after = {(document.collection, document.key): document for document in documents}
    counts = dict(head.counts)
    for event in events:
        before = after.get((event.collection, event.key))
        difference = (event.value is not None) - (before is not None and before.value is not None)
        counts[event.collection] = counts.get(event.collection, 0) + difference
        after[event.collection, event.key] = document_of(event, before)
    counts = {collection: count for collection, count in counts.items() if count}
    changed = [document for document in after.values() if document.version > head.seq]
    last = events[-1]
    return Appendix(
        [Head(user, last.seq, head.floor, head.created_at, last.at, counts)],
        [(user, document) for document in changed],
        [(user, event) for event in events],
        [],
        [],
    )


def together(*appendices: Appendix) -> Appendix:
    """The appendices of several users as one."""
    heads, documents, events, answers, devices = (
        [item for part in parts for item in part]
        for parts in zip(*(appendix[:5] for appendix in appendices), strict=True)
    )
    return Appendix(heads, documents, events, answers, devices)


async def write(engine: Engine, *writes: Write, answers: list[StoredAnswer] | None = None) -> dict[str, int]:
    """Append events to the logs of their users in one transaction; returns the seq of each user after it."""
    users = sorted({write.user for write in writes}, key=lambda user: (lane_of(user), user))
    async with engine.transaction() as tx:
        heads, _ = await tx.lock(users, writes[0].at)
        refs = sorted({DocumentRef(write.user, write.collection, write.key) for write in writes})
        loaded = await tx.load(refs, [], [], [])
        parts = []
        for user in users:
            events = [
                Event(
                    heads[user].seq + number,
                    "put" if write.value is not None else "delete",
                    *(write.collection, write.key, write.value),
                    max(write.at, heads[user].updated_at),
                    "user:test",
                )
                for number, write in enumerate((write for write in writes if write.user == user), start=1)
            ]
            documents = [document for ref, document in loaded.documents.items() if ref.user == user]
            parts.append(appendix_of(user, heads[user], events, documents))
        appendix = together(*parts, Appendix([], [], [], answers or [], []))
        # In the order of the writes, not user by user: that is what decides positions.
        queues = {user: iter([event for name, event in appendix.events if name == user]) for user in users}
        events_in_order = [(write.user, next(queues[write.user])) for write in writes]
        await tx.append(appendix._replace(events=events_in_order), [])
    return {head.user: head.seq for head in appendix.heads}


async def write_again(engine: Engine, *writes: Write) -> dict[str, int]:
    """`write`, again whenever the transaction was lost: an engine may give up one of several that race."""
    while True:
        with suppress(TransactionLost):
            return await write(engine, *writes)


async def write_log(engine: Engine, user: str, events: list[Event], created_at: datetime = START) -> None:
    """Append a whole log to a user that does not exist yet, in one transaction."""
    async with engine.transaction() as tx:
        heads, _ = await tx.lock([user], created_at)
        if events:
            await tx.append(appendix_of(user, heads[user], events, []), [])
