"""Time travel: whatever an engine says of a moment is the fold of the log up to it."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings

from roost.core.events import Document, Event
from roost.core.fold import document_of, fold
from roost.core.ports import DocumentRef, Engine, Reading
from tests.contract.conftest import Store
from tests.contract.writing import START, STEPS, Step, Write, head_of, log_of, write, write_log

HELD_STORE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
MICROSECOND = timedelta(microseconds=1)
numbers = count()


async def fresh_log(engine: Engine, steps: list[Step]) -> tuple[str, list[Event]]:
    """A new user with the log of these steps; the log as it was meant to be."""
    user, events = f"user-{next(numbers)}", log_of(steps)
    await write_log(engine, user, events)
    return user, events


def shown(events: list[Event]) -> list[Document]:
    """What a snapshot shows after these events."""
    return [document for _, document in sorted(fold(events).documents.items()) if document.value is not None]


@HELD_STORE
@given(STEPS)
def test_a_snapshot_is_the_fold_of_a_prefix(store: Store, steps: list[Step]) -> None:
    async def run() -> None:
        user, events = await fresh_log(store.engine, steps)
        head = head_of(user, events)
        for seq in range(len(events) + 1):
            assert await store.engine.snapshot(user, seq) == (head, seq, shown(events[:seq]))
        now = await store.engine.snapshot(user, None)
        assert now == (head, len(events), shown(events))

    store.run(run())


@HELD_STORE
@given(STEPS)
def test_a_document_at_a_moment_is_its_last_event_until_then(store: Store, steps: list[Step]) -> None:
    async def run() -> None:
        user, events = await fresh_log(store.engine, steps)
        head = head_of(user, events)
        for document in {(event.collection, event.key) for event in events} | {("notes", "never")}:
            for seq in range(len(events) + 1):
                expected = fold(events[:seq]).documents.get(document)
                assert await store.engine.document_at(DocumentRef(user, *document), seq) == Reading(head, expected)

    store.run(run())


@HELD_STORE
@given(STEPS)
def test_a_history_is_the_documents_events_newest_first(store: Store, steps: list[Step]) -> None:
    async def run() -> None:
        user, events = await fresh_log(store.engine, steps)
        head = head_of(user, events)
        for collection, key in {(event.collection, event.key) for event in events} | {("notes", "never")}:
            own = [event for event in reversed(events) if (event.collection, event.key) == (collection, key)]
            ref = DocumentRef(user, collection, key)
            assert await store.engine.history(ref, None, 100) == (head, own, False)
            for before in range(len(events) + 2):
                earlier = [event for event in own if event.seq < before]
                for limit in (1, 3):
                    expected = (head, earlier[:limit], len(earlier) > limit)
                    assert await store.engine.history(ref, before, limit) == expected

    store.run(run())


@HELD_STORE
@given(STEPS)
def test_the_moment_of_a_time_is_the_last_event_until_then(store: Store, steps: list[Step]) -> None:
    async def run() -> None:
        user, events = await fresh_log(store.engine, steps)
        for happened in {START, *(event.at for event in events)}:
            for at in (happened - MICROSECOND, happened, happened + MICROSECOND):
                assert await store.engine.seq_at(user, at) == sum(event.at <= at for event in events)

    store.run(run())


@HELD_STORE
@given(STEPS)
def test_everything_stored_follows_from_the_log(store: Store, steps: list[Step]) -> None:
    async def run() -> None:
        user, events = await fresh_log(store.engine, steps)
        log = await store.engine.log(user, 0, 100, None)
        assert log == (head_of(user, events), events, len(events))
        stored = await store.engine.stored(user)
        assert stored is not None
        assert stored[0] == head_of(user, events)
        assert {(document.collection, document.key): document for document in stored[1]} == fold(events).documents

    store.run(run())


@pytest.mark.parametrize("length", [1, 2, 3, 64, 100])
def test_the_moment_of_a_time_is_found_in_a_log_of_any_length(store: Store, length: int) -> None:
    async def run() -> None:
        events = [
            Event(seq, "put", "notes", "k", b"1", START + timedelta(seconds=seq // 3), "user:test")
            for seq in range(1, length + 1)
        ]
        await write_log(store.engine, "ada", events)
        for second in range(-1, length // 3 + 2):
            at = START + timedelta(seconds=second)
            assert await store.engine.seq_at("ada", at) == sum(event.at <= at for event in events)

    store.run(run())


def test_a_moment_does_not_change_when_the_log_goes_on(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, Write("ada", "notes", "a", b"1"), Write("ada", "notes", "b", b"2"))
        before = await engine.snapshot("ada", 2)
        await write(engine, Write("ada", "notes", "a", None), Write("ada", "notes", "c", b"3"))
        after = await engine.snapshot("ada", 2)
        assert before is not None
        assert after is not None
        assert after.documents == before.documents
        assert (before.head.seq, after.head.seq) == (2, 4)
        reading = await engine.document_at(DocumentRef("ada", "notes", "a"), 1)
        assert reading.document == document_of((await engine.log("ada", 0, 1, None)).events[0])  # type: ignore[union-attr]

    store.run(run())
