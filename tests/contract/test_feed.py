"""What follows a feed needs of an engine: all lanes from a cursor in one answer, and wake-ups that may fail.

A wake-up is only ever a hint, so nothing here promises that it comes where nothing can be heard; that it
comes between two nodes of one PostgreSQL, and again after its connection was lost, is shown here too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import pytest

from roost.core.ids import LANES, lane_of
from roost.core.limits import Limits
from roost.core.ports import Engine, LaneEvent
from roost.engines.memory import Memory
from roost.engines.news import APPLICATION
from roost.engines.postgres import Postgres
from roost.settings import Settings
from tests.contract.conftest import NODES, Store
from tests.contract.writing import Write, write

USERS = ("ada", "bob", "cyd", "dan")
LONG_S = 60.0
PATIENCE_S = 20.0


def some_writes(size: int = 1) -> list[Write]:
    return [Write(user, "notes", key, b"%0*d" % (size, 1)) for key in "abc" for user in USERS]


def expected(cursor: dict[int, int]) -> dict[int, int]:
    """The heads of the lanes of a cursor that `some_writes` have moved beyond it."""
    lanes = [lane_of(user) for user in USERS for _ in "abc"]
    return {lane: lanes.count(lane) for lane in cursor if lanes.count(lane) > cursor[lane]}


async def lanes_of(engine: Engine, cursor: dict[int, int]) -> list[LaneEvent]:
    """What the feed ought to tell, lane by lane."""
    return [event for lane in sorted(cursor) for event in await engine.lane(lane, cursor[lane], 1000)]


@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param(dict.fromkeys(range(LANES), 0), id="everything"),
        pytest.param({lane_of("ada"): 1, lane_of("bob"): 2}, id="two lanes"),
        pytest.param({lane_of("ada"): 1000}, id="ahead"),
        pytest.param({}, id="nothing"),
    ],
)
def test_a_feed_is_what_its_lanes_have_after_a_cursor(store: Store, cursor: dict[int, int]) -> None:
    async def run() -> None:
        assert await store.engine.feed(cursor, 10) == ({}, [], False)
        await write(store.engine, *some_writes())
        heads, events, more = await store.engine.feed(cursor, 1000)
        assert heads == expected(cursor)
        assert events == await lanes_of(store.engine, cursor)
        assert not more

    store.run(run())


async def pages(engine: Engine, cursor: dict[int, int], limit: int) -> list[list[LaneEvent]]:
    found = []
    more = True
    while more:
        _, events, more = await engine.feed(cursor, limit)
        assert events or not more
        cursor |= {event.lane: event.pos for event in events}
        found.append(events)
    return found


@pytest.mark.parametrize("limit", [1, 2, 5, 12, 100])
def test_a_feed_comes_in_pages(store: Store, limit: int) -> None:
    async def run() -> None:
        await write(store.engine, *some_writes())
        everything = dict.fromkeys(range(LANES), 0)
        found = await pages(store.engine, dict(everything), limit)
        assert [event for page in found for event in page] == await lanes_of(store.engine, everything)
        assert all(len(page) <= limit for page in found)

    store.run(run())


def test_a_page_of_a_feed_is_bounded_in_bytes(store: Store) -> None:
    small = store.another(Limits(page_bytes_max=100))

    async def run() -> None:
        await write(store.engine, *some_writes(size=len(store.value(40))))
        everything = dict.fromkeys(range(LANES), 0)
        found = await pages(small, dict(everything), 100)
        assert [len(page) for page in found] == [3, 3, 3, 3, 0] or [len(page) for page in found] == [3, 3, 3, 3]
        assert [event for page in found for event in page] == await lanes_of(store.engine, everything)

    store.run(run())


def test_waiting_for_news_ends(store: Store) -> None:
    async def run() -> None:
        for timeout_s in (0, 0.01, 0.1):
            async with asyncio.timeout(PATIENCE_S):
                await store.engine.wait_for_news(timeout_s)

    store.run(run())


async def heard(waiter: Engine, announce: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Returns once an announcement ends a long wait; the first may go out before anybody listens."""
    async with asyncio.timeout(PATIENCE_S):
        await waiter.wait_for_news(0)
        waiting = asyncio.create_task(waiter.wait_for_news(LONG_S))
        while not waiting.done():
            await announce()
            await asyncio.wait((waiting,), timeout=0.05)


def test_an_announcement_ends_the_wait_of_another_node(store: Store) -> None:
    other = store.another()
    store.run(heard(store.engine, other.announce))
    store.run(heard(other, store.engine.announce))


async def listening(url: str) -> list[int]:
    """The backends that wake-ups come by."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = $1", APPLICATION)
    await connection.close()
    return [row[0] for row in rows]


def test_a_node_is_not_woken_by_itself_and_one_that_only_reads_does_not_listen(store: Store) -> None:
    if store.url is None:
        pytest.skip("there are no other processes")
    url = store.url

    async def run() -> None:
        while await listening(url):  # noqa: ASYNC110 (those of the test before end without being waited for)
            await asyncio.sleep(0.01)
        await store.engine.positions()
        assert await listening(url) == []
        async with asyncio.timeout(PATIENCE_S):
            await store.engine.wait_for_news(LONG_S)  # being connected is news: there may have been some before
        assert len(await listening(url)) == 1
        began = time.monotonic()
        waiting = asyncio.create_task(store.engine.wait_for_news(0.5))
        while not waiting.done():
            await store.engine.announce()
            await asyncio.sleep(0.01)
        assert time.monotonic() - began >= 0.5

    store.run(run())


def test_what_is_announced_before_there_is_a_connection_is_heard(store: Store) -> None:
    if store.url is None:
        pytest.skip("there are no other processes")
    other = store.another()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await store.engine.wait_for_news(LONG_S)  # of being connected
            await other.announce()
            await store.engine.wait_for_news(LONG_S)

    store.run(run())


def test_news_come_again_after_their_connection_was_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if store.url is None:
        pytest.skip("there are no other processes")
    monkeypatch.setattr("roost.engines.news.PAUSE_S", (0.01, 0.1))
    url, other = store.url, store.another()

    async def run() -> None:
        await heard(store.engine, other.announce)
        for _ in range(3):
            connection = await asyncpg.connect(url)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", APPLICATION
            )
            await connection.close()
            await store.engine.announce()
            await heard(store.engine, other.announce)  # perhaps only of being connected again
            await heard(store.engine, other.announce)

    store.run(run())


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "memory:"])
def test_without_wake_ups_waiting_takes_its_time_and_announcing_does_no_harm(url: str) -> None:
    """The engine is away; or there is nobody to listen to."""

    async def run() -> None:
        engine: Engine = Memory() if url == "memory:" else Postgres(url, NODES, page_bytes_max=1, snapshot_bytes_max=1)
        await engine.open()
        began = time.monotonic()
        await engine.wait_for_news(0.2)
        assert time.monotonic() - began >= 0.2
        await engine.announce()
        await engine.close()

    asyncio.run(run())


def test_wake_ups_can_be_turned_off(store: Store) -> None:
    if store.url is None:
        pytest.skip("there are no other processes")
    url = store.url

    async def run() -> None:
        before = await listening(url)
        deaf = Postgres(url, Settings(notify=False), page_bytes_max=1, snapshot_bytes_max=1)
        await deaf.open()
        await deaf.announce()
        await deaf.wait_for_news(0.1)
        assert set(await listening(url)) <= set(before)
        await deaf.close()

    store.run(run())
