"""Folding old events away: nothing changes that can be seen from the floor on, and what is left still adds up."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from roost.core import siblings
from roost.core.events import Document, Event, Head
from roost.core.fold import Fold, superseded
from roost.core.ids import lane_of
from roost.core.ports import DocumentRef, Engine
from roost.queries.verify import verify
from tests.contract.conftest import Store
from tests.contract.writing import START, STEPS, Step, Write, log_of, write, write_log

HELD_STORE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)
numbers = count()


async def findings(engine: Engine) -> list[str]:
    found: list[str] = []
    await verify(engine, found.append)
    return found


def with_siblings(events: list[Event], leaves: list[bool]) -> list[Event]:
    """The same log, but some of its puts have not seen what is there, and leave it beside them."""
    folded, changed = Fold(), list[Event]()
    for event, leaves_it in zip(events, leaves, strict=False):
        standing = siblings.values(folded.documents.get((event.collection, event.key)))
        beside = tuple(value.version for value in standing) if leaves_it and event.kind == "put" else ()
        changed.append(replace(event, beside=beside))
        folded.add(changed[-1])
    return changed


def seen(document: Document | None) -> Document | None:
    """A document as a reader tells of it: of a tombstone, nothing."""
    return None if document is None or document.value is None else document


async def at_every_moment(engine: Engine, user: str, events: list[Event], floor: int) -> object:
    """All that can be read of a log's present, and of its past from `floor` on."""
    names = sorted({(event.collection, event.key) for event in events})
    moments = range(floor, len(events) + 1)
    snapshots = [await engine.snapshot(user, seq) for seq in [*moments, None]]
    logs = [await engine.log(user, after, 100, None) for after in moments]
    narrowed = [await engine.log(user, after, 100, ["notes"]) for after in moments]
    histories = [await engine.history(DocumentRef(user, *name), None, 100) for name in names]
    page = await engine.page(user, "notes", "", None, 100)
    ats = [at for event in events[max(floor - 1, 0) :] for at in (event.at, event.at + MICROSECOND)]
    assert None not in snapshots + logs + narrowed + histories
    assert page is not None
    return (
        [(snapshot.seq, snapshot.documents) for snapshot in snapshots if snapshot],
        [(log.events, log.reached) for log in logs + narrowed if log],
        [[event for event in history.events if event.seq > floor] for history in histories if history],
        page.documents,
        [seen((await engine.document_at(DocumentRef(user, *name), seq)).document) for name in names for seq in moments],
        [await engine.points([DocumentRef(user, *name)]) for name in names],
        [await engine.seq_at(user, at) for at in ats],
    )


@HELD_STORE
@given(STEPS, st.lists(st.booleans(), min_size=20, max_size=20), st.data())
def test_from_the_floor_on_everything_is_as_it_was(
    store: Store, steps: list[Step], leaves: list[bool], data: st.DataObject
) -> None:
    events = with_siblings(log_of(steps), leaves)
    floors = data.draw(st.lists(st.integers(0, len(events)), max_size=3).map(sorted))

    async def run() -> None:
        engine, user = store.engine, f"user-{next(numbers)}"
        await write_log(engine, user, events)
        deleted = 0
        for floor in floors:
            before = await at_every_moment(engine, user, events, floor)
            deleted += await engine.compact(user, floor)
            assert await at_every_moment(engine, user, events, floor) == before
            head = await engine.head(user)
            assert head is not None
            assert (head.floor, head.seq) == (floor, len(events))
        stored, log = await engine.stored(user), await engine.log(user, 0, 100, None)
        assert stored is not None
        assert log is not None
        floor = max(floors, default=0)
        gone = superseded(events[:floor], floor)
        assert log.events == [event for event in events if event.seq not in gone]
        assert deleted == len(gone)
        assert len(stored[1]) == len({(event.collection, event.key) for event in events})
        assert await findings(engine) == []

    store.run(run())


@HELD_STORE
@given(STEPS, st.lists(st.booleans(), min_size=20, max_size=20), st.data())
@example([Step("notes", "a", b"1", DAY)] * 3, [False] * 20, None)
def test_a_time_before_the_floor_is_told_from_the_floor_itself(
    store: Store, steps: list[Step], leaves: list[bool], data: st.DataObject | None
) -> None:
    events = log_of([*steps, Step("notes", "a", b"1", MICROSECOND)])
    floor = data.draw(st.integers(1, len(events))) if data else 2

    async def run() -> None:
        user = f"user-{next(numbers)}"
        await write_log(store.engine, user, events)
        await store.engine.compact(user, floor)
        for event in events:
            for at in (event.at - MICROSECOND, event.at):
                seq = sum(other.at <= at for other in events)
                found = await store.engine.seq_at(user, at)
                assert found is not None
                assert found == seq if seq >= floor else found < floor

    store.run(run())


def puts(user: str, keys: str, value: bytes | None = b"1") -> list[Write]:
    return [Write(user, "notes", key, value) for key in keys]


def test_what_nothing_needs_any_more_is_gone_and_the_rest_stays(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *puts("ada", "aabac"), *puts("ada", "b", None), *puts("ada", "ad"))
        assert await engine.compact("ada", 6) == 3
        log = await engine.log("ada", 0, 100, None)
        assert log is not None
        assert [(event.seq, event.key) for event in log.events] == [(4, "a"), (5, "c"), (6, "b"), (7, "a"), (8, "d")]
        assert await engine.compact("ada", 8) == 2
        log = await engine.log("ada", 0, 100, None)
        assert log is not None
        assert [event.seq for event in log.events] == [5, 7, 8]
        lane = await engine.lane(lane_of("ada"), 0, 100)
        assert [(place.pos, place.event) for place in lane] == [(event.seq, event) for event in log.events]
        assert (await engine.floors())[lane_of("ada")] == 6
        assert (await engine.positions())[lane_of("ada")] == 8

    store.run(run())


@pytest.mark.parametrize("floor", [-1, 0, 1, 2, 5, 100])
def test_a_floor_that_is_no_higher_or_beyond_the_log_changes_nothing(store: Store, floor: int) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *puts("ada", "aaaa"))
        assert await engine.compact("ada", 2) == 1
        before = await engine.head("ada"), await engine.lane(lane_of("ada"), 0, 10), await engine.floors()
        assert await engine.compact("ada", floor) == 0
        assert (await engine.head("ada"), await engine.lane(lane_of("ada"), 0, 10), await engine.floors()) == before
        assert await engine.compact("nobody", 1) == 0

    store.run(run())


def test_a_floor_under_which_nothing_is_superseded_is_raised_all_the_same(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *puts("ada", "abc"))
        assert await engine.compact("ada", 3) == 0
        head = await engine.head("ada")
        assert head == Head("ada", 3, 3, START, START, {"notes": 3})
        assert set((await engine.floors()).values()) == {0}

    store.run(run())


def test_one_log_is_folded_and_its_neighbours_are_left_alone(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        lane = lane_of("ada")
        neighbour = next(user for user in (f"user-{n}" for n in range(10_000)) if lane_of(user) == lane)
        await write(engine, *puts("ada", "aa"), *puts(neighbour, "aa"), *puts("ada", "a"))
        before = await engine.log(neighbour, 0, 10, None), await engine.stored(neighbour)
        assert await engine.compact("ada", 3) == 2
        assert (await engine.log(neighbour, 0, 10, None), await engine.stored(neighbour)) == before
        places = await engine.lane(lane, 0, 10)
        assert [(place.pos, place.user) for place in places] == [(3, neighbour), (4, neighbour), (5, "ada")]
        assert (await engine.floors())[lane] == 2
        assert await engine.compact(neighbour, 2) == 1
        assert (await engine.floors())[lane] == 3
        assert await findings(engine) == []

    store.run(run())


def test_a_lanes_floor_never_falls(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        lane = lane_of("ada")
        neighbour = next(user for user in (f"user-{n}" for n in range(10_000)) if lane_of(user) == lane)
        await write(engine, *puts("ada", "aa"), *puts(neighbour, "aa"))
        for user in (neighbour, "ada"):
            assert await engine.compact(user, 2) == 1
            assert (await engine.floors())[lane] == 3

    store.run(run())


def test_a_log_goes_on_behind_its_floor(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *puts("ada", "ab"), *puts("ada", "a", None))
        await engine.compact("ada", 3)
        assert await write(engine, *puts("ada", "ab")) == {"ada": 5}
        head, snapshot = await engine.head("ada"), await engine.snapshot("ada", 3)
        assert head is not None
        assert snapshot is not None
        assert (head.floor, head.counts) == (3, {"notes": 2})
        assert [document.key for document in snapshot.documents] == ["b"]
        assert await findings(engine) == []

    store.run(run())


def test_folding_beside_writers_loses_nothing(store: Store) -> None:
    """And several that fold the same log at once fold it once."""
    other = store.another()

    async def run() -> None:
        engine = store.engine
        await write(engine, *puts("ada", "ab"))
        folded: list[int] = []

        async def writer(node: Engine) -> None:
            for number in range(20):
                await write(node, *puts("ada", "ab"[number % 2]))

        async def folder(node: Engine) -> None:
            while (head := await node.head("ada")) is None or head.seq < 40:
                folded.append(await node.compact("ada", head.seq if head else 0))

        await asyncio.gather(writer(engine), writer(other), folder(engine), folder(other))
        head = await engine.head("ada")
        assert head is not None
        assert head.seq == 42
        folded.append(await engine.compact("ada", 42))
        log = await engine.log("ada", 0, 100, None)
        assert log is not None
        assert sum(folded) == 42 - len(log.events) == 40
        assert await findings(engine) == []

    store.run(run())
