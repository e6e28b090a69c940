"""Writing: a transaction is all or nothing, and nobody sees it before it is all."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pytest

from roost.core.events import Document, Event, Head
from roost.core.fold import fold
from roost.core.ids import lane_of
from roost.core.ports import (
    UNREAD,
    AnswerRef,
    Appendix,
    DocumentRef,
    Engine,
    EngineUnavailable,
    EventRef,
    LaneEvent,
    Loaded,
    Point,
    StoredAnswer,
)
from tests.contract.conftest import Store
from tests.contract.writing import START, Write, appendix_of, head_of, together, write, write_log

LATER = START + timedelta(days=1)
NOTHING = Appendix([], [], [], [], [])


class Interruption(Exception):
    """What goes wrong in the middle of a transaction."""


def put(seq: int, key: str = "k", value: bytes | None = b"1", at: datetime = START) -> Event:
    return Event(seq, "delete" if value is None else "put", "notes", key, value, at, "user:test")


def answer(user: str, key: str, at: datetime = START, body: bytes = b"{}") -> StoredAnswer:
    return StoredAnswer(AnswerRef(user, key), b"\x00\xff", body, at)


async def everything(engine: Engine, *users: str) -> object:
    """All that can be read of these users, and of the lanes."""
    positions = await engine.positions()
    return (
        positions,
        [await engine.lane(lane, 0, 100) for lane in positions],
        [await engine.users(None, 100)],
        [(await engine.stored(user), await engine.log(user, 0, 100, None)) for user in users],
        await answers_of(engine, *users),
    )


async def answers_of(engine: Engine, *users: str) -> dict[AnswerRef, StoredAnswer]:
    async with engine.transaction() as tx:
        return (await tx.load([], [AnswerRef(user, key) for user in users for key in "abc"], [], [])).answers


def test_locking_creates_the_users_that_are_missing_and_says_which(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        async with engine.transaction() as tx:
            heads, created = await tx.lock(["ada"], START)
            assert created == {"ada"}
            assert heads == {"ada": Head("ada", 0, 0, START, START, {})}
        async with engine.transaction() as tx:
            heads, created = await tx.lock(sorted(["ada", "bob"], key=lambda user: (lane_of(user), user)), LATER)
            assert created == {"bob"}
            assert heads == {"ada": Head("ada", 0, 0, START, START, {}), "bob": Head("bob", 0, 0, LATER, LATER, {})}
        assert await engine.head("ada") == Head("ada", 0, 0, START, START, {})

    store.run(run())


def test_what_was_appended_is_what_is_loaded_and_read(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        events = [put(1, "a"), put(2, "b"), put(3, "a", None), put(4, "c", b"3", LATER)]
        async with engine.transaction() as tx:
            heads, _ = await tx.lock(["ada"], START)
            await tx.append(appendix_of("ada", heads["ada"], events, []), [])
        refs = [DocumentRef("ada", "notes", key) for key in "abcx"]
        async with engine.transaction() as tx:
            heads, created = await tx.lock(["ada"], LATER)
            assert (heads["ada"], created) == (head_of("ada", events), set())
            loaded = await tx.load(refs, [AnswerRef("ada", "a")], [EventRef("ada", seq) for seq in (4, 1, 0, 5)], [])
            documents = fold(events).documents
            assert loaded == Loaded(
                {ref: documents[ref[1:]] for ref in refs[:3]},
                {},
                {EventRef("ada", 4): events[3], EventRef("ada", 1): events[0]},
                {},
                {},
            )
        assert await engine.head("ada") == head_of("ada", events)

    store.run(run())


def test_a_transaction_sees_what_it_has_written(store: Store) -> None:
    async def run() -> None:
        async with store.engine.transaction() as tx:
            heads, _ = await tx.lock(["ada"], START)
            await tx.append(appendix_of("ada", heads["ada"], [put(1)], []), [])
            ref, event = DocumentRef("ada", "notes", "k"), EventRef("ada", 1)
            loaded = await tx.load([ref], [], [event], [])
            assert loaded == Loaded({ref: Document("notes", "k", 1, b"1", START)}, {}, {event: put(1)}, {}, {})

    store.run(run())


def test_nobody_sees_a_transaction_before_it_commits(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, Write("ada", "notes", "k", b"0"))
        ref, lane = DocumentRef("ada", "notes", "k"), lane_of("ada")
        async with engine.transaction() as tx:
            heads, _ = await tx.lock(["ada"], START)
            old = (await tx.load([ref], [], [], [])).documents[ref]
            await tx.append(appendix_of("ada", heads["ada"], [put(2), put(3, "l")], [old]), [])
            assert await engine.points([ref]) == [Point(1, old)]
            assert await engine.head("ada") == heads["ada"]
            assert (await engine.positions())[lane] == 1
            assert len(await engine.lane(lane, 0, 10)) == 1
            log = await engine.log("ada", 0, 10, None)
            assert log is not None
            assert (log.reached, len(log.events)) == (1, 1)
            stored = await engine.stored("ada")
            assert stored == (heads["ada"], [old])
        assert await engine.points([ref]) == [Point(3, Document("notes", "k", 2, b"1", START))]

    store.run(run())


@pytest.mark.parametrize("moment", ["locked", "appended"])
def test_a_transaction_that_fails_leaves_nothing(store: Store, moment: str) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, Write("ada", "notes", "k", b"0"), answers=[answer("ada", "a")])
        before = await everything(engine, "ada", "bob")
        users = sorted(["ada", "bob"], key=lambda user: (lane_of(user), user))

        async def fail() -> None:
            async with engine.transaction() as tx:
                heads, _ = await tx.lock(users, LATER)
                if moment == "appended":
                    appendix = together(
                        appendix_of("ada", heads["ada"], [put(2, "l", at=LATER)], []),
                        appendix_of("bob", heads["bob"], [put(1, at=LATER), put(2, value=None, at=LATER)], []),
                        NOTHING._replace(answers=[answer("ada", "a", LATER), answer("bob", "b")]),
                    )
                    await tx.append(appendix, [])
                raise Interruption

        with pytest.raises(Interruption):
            await fail()
        assert await everything(engine, "ada", "bob") == before
        await write(engine, Write("ada", "notes", "l", b"1"), Write("bob", "notes", "l", b"1"))
        assert sorted((await engine.positions()).values())[-3:] in ([0, 1, 2], [0, 0, 3])

    store.run(run())


def test_a_cancelled_transaction_leaves_nothing_and_lets_go_of_its_locks(store: Store) -> None:
    async def run() -> None:
        engine, waiting = store.engine, asyncio.Event()
        before = await everything(engine, "ada")

        async def hang() -> None:
            async with engine.transaction() as tx:
                heads, _ = await tx.lock(["ada"], START)
                await tx.append(appendix_of("ada", heads["ada"], [put(1)], []), [])
                waiting.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hang())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await everything(engine, "ada") == before
        assert await write(engine, Write("ada", "notes", "k", b"1")) == {"ada": 1}

    store.run(run())


def test_abandoned_users_vanish_and_the_others_stay(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        users = sorted(["ada", "bob", "cyd"], key=lambda user: (lane_of(user), user))
        async with engine.transaction() as tx:
            heads, _ = await tx.lock(users, START)
            await tx.append(appendix_of("ada", heads["ada"], [put(1)], []), ["bob"])
        assert await engine.head("bob") is None
        assert {head.user for head in await engine.users(None, 10)} == {"ada", "cyd"}
        async with engine.transaction() as tx:
            _, created = await tx.lock(["bob"], LATER)
            assert created == {"bob"}
            await tx.append(NOTHING, ["bob"])
        assert await engine.head("bob") is None

    store.run(run())


def test_the_answer_to_an_abandoned_user_is_kept(store: Store) -> None:
    async def run() -> None:
        async with store.engine.transaction() as tx:
            await tx.lock(["ada"], START)
            await tx.append(NOTHING._replace(answers=[answer("ada", "a")]), ["ada"])
        assert await answers_of(store.engine, "ada") == {AnswerRef("ada", "a"): answer("ada", "a")}

    store.run(run())


def test_answers_are_kept_replaced_and_each_user_has_keys_of_their_own(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, Write("ada", "notes", "k", b"1"), answers=[answer("ada", "a"), answer("ada", "b")])
        await write(engine, Write("bob", "notes", "k", b"1"), answers=[answer("bob", "a", body=b"bob")])
        newer = StoredAnswer(AnswerRef("ada", "a"), b"other", b"body", LATER)
        await write(engine, Write("ada", "notes", "k", b"1"), answers=[newer])
        kept = [newer, answer("ada", "b"), answer("bob", "a", body=b"bob")]
        assert await answers_of(engine, "ada", "bob") == {found.ref: found for found in kept}

    store.run(run())


def test_the_oldest_answers_are_forgotten_first_and_none_that_is_young(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        ages = {"a": START + timedelta(hours=2), "b": START, "c": START + timedelta(hours=1)}
        answers = [answer("ada", key, at) for key, at in ages.items()]
        await write(engine, Write("ada", "notes", "k", b"1"), answers=answers)
        assert await engine.forget_answers(START, 10) == 0
        assert await engine.forget_answers(START + timedelta(hours=2), 1) == 1
        assert {ref.key for ref in await answers_of(engine, "ada")} == {"a", "c"}
        assert await engine.forget_answers(START + timedelta(hours=2), 10) == 1
        assert {ref.key for ref in await answers_of(engine, "ada")} == {"a"}

    store.run(run())


def test_every_part_of_an_event_is_kept(store: Store) -> None:
    async def run() -> None:
        # A value is opaque bytes; a time keeps its microseconds and means the same in any zone.
        at = datetime(2026, 3, 29, 2, 30, 0, 123456, timezone(timedelta(hours=2)))
        keys = ["é/%_\\'\"", "\x20", "\U0010ffff", "a" * 200]
        events = [Event(n, "put", "c_1", key, b"\x00\xff", at, "user:ada") for n, key in enumerate(keys, 1)]
        events.append(Event(5, "put", "c_1", "k", b"", at, "service:import", "phone", 2**53))
        events.append(Event(6, "delete", "c_1", "k", None, at, "admin", "phone", 2**53 + 1))
        await write_log(store.engine, "ada.@:|~-", events, at)
        log = await store.engine.log("ada.@:|~-", 0, 10, None)
        assert log is not None
        assert log.events == events
        stored = await store.engine.stored("ada.@:|~-")
        assert stored is not None
        assert {(d.collection, d.key): d for d in stored[1]} == fold(events).documents

    store.run(run())


def test_events_get_positions_in_the_order_given_each_in_its_own_lane(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        users = [f"user-{number}" for number in range(100)]
        writes = [Write(user, "notes", key, key.encode()) for key in "ab" for user in reversed(users)]
        await write(engine, *writes)
        await write(engine, *writes[:150])
        seqs = dict.fromkeys(users, 0)
        lanes: dict[int, list[tuple[str, int, bytes | None]]] = {lane: [] for lane in await engine.positions()}
        for one in [*writes, *writes[:150]]:
            seqs[one.user] += 1
            lanes[lane_of(one.user)].append((one.user, seqs[one.user], one.value))
        assert len(lanes) == 64
        assert await engine.positions() == {lane: len(places) for lane, places in lanes.items()}
        for lane, places in lanes.items():
            found: list[LaneEvent] = await engine.lane(lane, 0, 1000)
            assert [place.pos for place in found] == list(range(1, len(places) + 1))
            assert [(place.user, place.event.seq, place.event.value) for place in found] == places
            assert {place.lane for place in found} <= {lane}

    store.run(run())


def test_an_engine_answers_only_while_it_is_open(store: Store) -> None:
    async def run() -> None:
        await store.engine.ping()
        await store.engine.close()
        with pytest.raises(EngineUnavailable):
            await store.engine.ping()
        with pytest.raises(EngineUnavailable):
            await write(store.engine, Write("ada", "notes", "k", b"1"))
        await store.engine.close()

    store.run(run())


def test_a_log_that_was_written_at_once_is_one_that_was_written_bit_by_bit(store: Store) -> None:
    async def run() -> None:
        writes = [Write("ada", "notes", key, value) for key, value in (("a", b"1"), ("b", b"2"), ("a", None))]
        for one in writes:
            await write(store.engine, one)
        await write(store.engine, *(one._replace(user="bob") for one in writes))
        ada, bob = [await store.engine.log(user, 0, 10, None) for user in ("ada", "bob")]
        assert ada is not None
        assert bob is not None
        assert ada.events == bob.events
        assert len(ada.events) == 3
        assert ada.head.counts == {"notes": 1}

    store.run(run())


def test_of_what_is_unread_only_whether_there_is_a_value_is_told(store: Store) -> None:
    engine = store.engine

    async def run() -> None:
        await write(engine, *(Write("ada", "notes", key, b'"value"') for key in ("a", "b", "gone")))
        await write(engine, Write("ada", "notes", "gone", None))
        refs = [DocumentRef("ada", "notes", key) for key in ("a", "b", "gone", "never")]
        async with engine.transaction() as tx:
            await tx.lock(["ada"], LATER)
            loaded = await tx.load(refs, [], [], [], {refs[0], refs[2], refs[3]})
        assert loaded.documents == {
            refs[0]: Document("notes", "a", 1, UNREAD, START),
            refs[1]: Document("notes", "b", 2, b'"value"', START),
            refs[2]: Document("notes", "gone", 4, None, START),
        }

    store.run(run())
