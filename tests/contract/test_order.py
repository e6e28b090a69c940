"""Many at once: one log a user, one winner a version, and lanes that a reader can follow without missing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import cycle, islice
from typing import NamedTuple

import asyncpg
import pytest

from roost.core.events import Event
from roost.core.fold import fold
from roost.core.ids import lane_of
from roost.core.ports import DocumentRef, Engine
from tests.contract.conftest import Store
from tests.contract.writing import START, Write, appendix_of, head_of, write, write_again

WRITERS = 8
EACH = 20
LANE = lane_of("user-0")
NEIGHBOURS = list(islice((user for user in (f"user-{n}" for n in range(10_000)) if lane_of(user) == LANE), 5))


def nodes(store: Store) -> list[Engine]:
    """An engine for each writer, in turn: two nodes on one store."""
    return list(islice(cycle([store.engine, store.another()]), WRITERS))


async def log_of(engine: Engine, user: str) -> list[Event]:
    log = await engine.log(user, 0, 10_000, None)
    assert log is not None
    assert log.head == head_of(user, log.events, log.head.created_at)
    return log.events


def test_many_writers_of_one_new_user_make_one_log(store: Store) -> None:
    engines = nodes(store)
    starts = dict.fromkeys(range(WRITERS))

    async def run() -> None:
        gate = asyncio.Barrier(WRITERS)
        created: list[str] = []

        async def one(number: int) -> None:
            await gate.wait()
            for turn in range(EACH):
                async with engines[number].transaction() as tx:
                    heads, new = await tx.lock(["ada"], START)
                    created.extend(new)
                    event = Event(
                        heads["ada"].seq + 1, "put", "notes", f"{number}-{turn}", b"1", START, f"user:{number}"
                    )
                    await tx.append(appendix_of("ada", heads["ada"], [event], []), [])

        await asyncio.gather(*map(one, starts))
        events = await log_of(store.engine, "ada")
        assert [event.seq for event in events] == list(range(1, WRITERS * EACH + 1))
        assert created == ["ada"]
        for number in starts:
            own = [event.key for event in events if event.actor == f"user:{number}"]
            assert own == [f"{number}-{turn}" for turn in range(EACH)]
        lane = await store.engine.lane(lane_of("ada"), 0, 1000)
        assert [place.event for place in lane] == events

    store.run(run())


@pytest.mark.parametrize("is_new", [False, True])
def test_whoever_comes_second_waits_and_sees_what_the_first_has_done(store: Store, is_new: bool) -> None:
    other = store.another()

    async def run() -> None:
        if not is_new:
            await write(store.engine, Write("ada", "notes", "k", b"0"))
        async with store.engine.transaction() as tx:
            heads, created = await tx.lock(["ada"], START)
            second = asyncio.create_task(write(other, Write("ada", "notes", "k", b"2")))
            for _ in range(20):  # as much as it takes for the second to get as far as it can
                await other.positions()
                await asyncio.sleep(0)
            ref = DocumentRef("ada", "notes", "k")
            documents = (await tx.load([ref], [], [], [])).documents.values()
            event = Event(heads["ada"].seq + 1, "put", "notes", "k", b"1", START, "user:test")
            await tx.append(appendix_of("ada", heads["ada"], [event], list(documents)), [])
        await second
        assert created == ({"ada"} if is_new else set())
        assert [event.value for event in await log_of(store.engine, "ada")] == [b"0", b"1", b"2"][is_new:]

    store.run(run())


def test_of_writers_that_race_for_a_version_one_wins(store: Store) -> None:
    engines = nodes(store)

    async def run() -> None:
        await write(store.engine, Write("ada", "notes", "k", b"0"))
        gate = asyncio.Barrier(WRITERS)
        wins: list[tuple[int, int]] = []

        async def one(engine: Engine, number: int) -> None:
            ref = DocumentRef("ada", "notes", "k")
            for _ in range(10):
                await gate.wait()
                seen = (await engine.points([ref]))[0].document
                assert seen is not None
                await gate.wait()
                async with engine.transaction() as tx:
                    heads, _ = await tx.lock(["ada"], START)
                    now = (await tx.load([ref], [], [], [])).documents[ref]
                    if now.version == seen.version:
                        event = Event(heads["ada"].seq + 1, "put", "notes", "k", b"%d" % number, START, "user:test")
                        await tx.append(appendix_of("ada", heads["ada"], [event], [now]), [])
                        wins.append((seen.version, number))

        await asyncio.gather(*(one(engine, number) for number, engine in enumerate(engines)))
        assert [version for version, _ in wins] == list(range(1, 11))
        assert [event.value for event in (await log_of(store.engine, "ada"))[1:]] == [b"%d" % n for _, n in wins]

    store.run(run())


@pytest.mark.parametrize("some_are_new", [False, True])
def test_users_that_share_a_transaction_never_deadlock(store: Store, some_are_new: bool) -> None:
    """Locks are taken in one order, also where some users exist and others do not."""
    engines, old = nodes(store), [f"old-{number}" for number in range(12)]

    async def run() -> None:
        async def one(engine: Engine, number: int) -> None:
            for turn in range(EACH):
                names = [old[(number * step + turn) % 12] for step in (1, 2, 3)]
                names += [f"new-{turn}-{number % 3}", f"new-{turn}"] if some_are_new else []
                await write(engine, *(Write(name, "notes", f"{number}", b"1") for name in names))

        await write(engines[0], *(Write(name, "notes", "k", b"1") for name in old))
        await asyncio.gather(*(one(engine, number) for number, engine in enumerate(engines)))
        for head in await store.engine.users(None, 1000):
            stored = await store.engine.stored(head.user)
            assert stored is not None
            events = await log_of(store.engine, head.user)
            assert {(d.collection, d.key): d for d in stored[1]} == fold(events).documents
        for lane, pos in (await store.engine.positions()).items():
            assert [place.pos for place in await store.engine.lane(lane, 0, 10_000)] == list(range(1, pos + 1))

    store.run(run())


async def waiting_for_locks(url: str, transactions: int, done: asyncio.Task[object] | None = None) -> None:
    """Return once this many transactions wait for a lock, or `done` is."""
    connection, waiting = await asyncpg.connect(url), 0
    while waiting < transactions and not (done and done.done()):
        waiting = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    await connection.close()


def test_a_user_that_somebody_else_creates_meanwhile_is_locked_in_order_too(store: Store) -> None:
    if store.url is None:
        pytest.skip("its transactions run one after the other")
    url, other = store.url, store.another()
    low, high = sorted(["ada", "bob"], key=lambda user: (lane_of(user), user))

    async def run() -> None:
        await write(store.engine, Write(high, "notes", "k", b"1"))

        async def both(engine: Engine) -> None:
            async with engine.transaction() as tx:
                heads, _ = await tx.lock([low, high], START)
                assert sorted(heads) == ["ada", "bob"]

        async with store.engine.transaction() as tx:
            await tx.lock([high], START)
            # One waits for `high`, with `low` not there yet; somebody creates that (or waits to); then comes another.
            one = asyncio.create_task(both(store.engine))
            await waiting_for_locks(url, 1)
            creation = asyncio.create_task(write(other, Write(low, "notes", "k", b"1")))
            await waiting_for_locks(url, 2, creation)
            another = asyncio.create_task(both(other))
            await waiting_for_locks(url, 2 if creation.done() else 3)
        await asyncio.gather(one, creation, another)

    store.run(run())


class Seen(NamedTuple):
    """An event as a reader of a feed saw it."""

    pos: int
    user: str
    seq: int


async def follow(
    read: Callable[[int], Awaitable[list[Seen]]], writing: Callable[[], Awaitable[list[tuple[str, int]]]]
) -> list[str]:
    """What goes wrong for a reader that follows a feed, from the position it saw last, while others write.

    `writing` returns the (user, seq) that were committed.
    """
    seen: list[Seen] = []
    writers = asyncio.ensure_future(writing())
    while True:
        finished = writers.done()
        page = await read(seen[-1].pos if seen else 0)
        await asyncio.sleep(0)  # an engine without a network answers without letting the writers go on
        seen += page
        if finished and not page:
            break
    wrong = []
    if [place.pos for place in seen] != list(range(1, len(seen) + 1)):
        wrong.append("positions are not dense")
    if sorted((place.user, place.seq) for place in seen) != sorted(writers.result()):
        wrong.append("events were missed, or came twice")
    for user in {place.user for place in seen}:
        own = [place.seq for place in seen if place.user == user]
        if own != sorted(own):
            wrong.append("events of a user came out of order")
    return sorted(set(wrong))


def test_who_follows_a_lane_misses_nothing_whatever_commits_meanwhile(store: Store) -> None:
    engines, reader = nodes(store), store.another()

    async def run() -> None:
        async def read(after: int) -> list[Seen]:
            return [Seen(place.pos, place.user, place.event.seq) for place in await reader.lane(LANE, after, 20)]

        async def one(engine: Engine, number: int) -> list[tuple[str, int]]:
            written = []
            for turn in range(EACH):
                user, other = NEIGHBOURS[(number + turn) % 5], NEIGHBOURS[(number * turn) % 5]
                seqs = await write_again(
                    engine, *(Write(name, "notes", f"{number}", b"%d" % turn) for name in {user, other, f"user-{turn}"})
                )
                written += [(name, seq) for name, seq in seqs.items() if lane_of(name) == LANE]
            return written

        async def writing() -> list[tuple[str, int]]:
            written = await asyncio.gather(*(one(engine, number) for number, engine in enumerate(engines)))
            return [event for events in written for event in events]

        assert await follow(read, writing) == []

    store.run(run())


def test_transactions_that_fail_leave_no_gap_behind(store: Store) -> None:
    engines, reader = nodes(store), store.another()

    class Interruption(Exception):
        pass

    async def run() -> None:
        async def read(after: int) -> list[Seen]:
            return [Seen(place.pos, place.user, place.event.seq) for place in await reader.lane(LANE, after, 20)]

        async def one(engine: Engine, number: int) -> list[tuple[str, int]]:
            user, written = NEIGHBOURS[number % 5], []
            for turn in range(EACH):
                try:
                    async with engine.transaction() as tx:
                        heads, _ = await tx.lock([user], START)
                        event = Event(heads[user].seq + 1, "put", "notes", f"{number}-{turn}", b"1", START, "user:test")
                        await tx.append(appendix_of(user, heads[user], [event], []), [])
                        if turn % 3 == number % 3:
                            raise Interruption  # noqa: TRY301  # it is what goes wrong
                except Interruption:
                    continue
                written.append((user, event.seq))
            return written

        async def writing() -> list[tuple[str, int]]:
            written = await asyncio.gather(*(one(engine, number) for number, engine in enumerate(engines)))
            return [event for events in written for event in events]

        assert await follow(read, writing) == []

    store.run(run())


def test_who_follows_a_sequence_instead_misses_events(database: str) -> None:
    """The same reader, on the order that a database's sequence gives: so the tests above can fail."""

    async def run() -> list[str]:
        pool = await asyncpg.create_pool(database, min_size=WRITERS + 1, max_size=WRITERS + 1)
        await pool.execute("CREATE TABLE scratch (id bigserial PRIMARY KEY, name text, seq bigint)")

        async def read(after: int) -> list[Seen]:
            rows = await pool.fetch("SELECT id, name, seq FROM scratch WHERE id > $1 ORDER BY id LIMIT 20", after)
            return [Seen(*row) for row in rows]

        async def one(number: int) -> list[tuple[str, int]]:
            for seq in range(1, 4 * EACH + 1):
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("INSERT INTO scratch (name, seq) VALUES ($1, $2)", f"user-{number}", seq)
                    # A transaction has more to do after it has taken its number, and not always as much.
                    for _ in range(number % 4):
                        await connection.execute("SELECT")
            return [(f"user-{number}", seq) for seq in range(1, 4 * EACH + 1)]

        async def writing() -> list[tuple[str, int]]:
            written = await asyncio.gather(*map(one, range(WRITERS)))
            return [event for events in written for event in events]

        try:
            return await follow(read, writing)
        finally:
            await pool.execute("DROP TABLE scratch")
            await pool.close()

    assert "events were missed, or came twice" in asyncio.run(run())


@pytest.mark.parametrize("users", [1, 20])
def test_positions_are_the_order_of_commits(store: Store, users: int) -> None:
    """What a reader saw in a lane stays a prefix of what the lane shows later."""
    engines, reader = nodes(store), store.another()
    names = [f"user-{number}" for number in range(users)]

    async def run() -> None:
        async def one(engine: Engine, number: int) -> None:
            for turn in range(EACH):
                await write_again(engine, *(Write(name, "notes", f"{number}", b"%d" % turn) for name in names))

        writers = asyncio.gather(*(one(engine, number) for number, engine in enumerate(engines)))
        views = []
        while not writers.done():
            views.append(await reader.lane(LANE, 0, 100_000))
            await asyncio.sleep(0)
        await writers
        final = await reader.lane(LANE, 0, 100_000)
        assert len(final) == WRITERS * EACH * sum(lane_of(name) == LANE for name in names)
        assert all(view == final[: len(view)] for view in views)

    store.run(run())
