"""The hub: who waits is woken by news of their log only, and everybody is let go in the end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from roost.core.errors import Code, RoostError
from roost.core.events import Event
from roost.core.ids import lane_of
from roost.feed.hub import BUFFER_BYTES_MAX, Hub

LONG_S = 30


def test_news_wakes_those_who_wait_for_that_log_only() -> None:
    async def go() -> None:
        hub = Hub(10)
        with hub.follow("ada") as ada, hub.follow("bob") as bob:
            waits = asyncio.ensure_future(ada.wait(3, LONG_S))
            other = asyncio.ensure_future(bob.wait(3, LONG_S))
            await asyncio.sleep(0)
            hub.publish("ada", 3)
            await asyncio.sleep(0)
            assert not waits.done()
            hub.publish("ada", 4)
            assert await waits is True
            assert not other.done()
            other.cancel()

    asyncio.run(go())


def test_what_is_kept_for_a_follower_is_bounded_in_bytes_too() -> None:
    async def go() -> None:
        hub = Hub(10)
        at = datetime(2026, 1, 1, tzinfo=UTC)
        value = b'"' + b"x" * (BUFFER_BYTES_MAX // 4) + b'"'
        with hub.follow("ada") as follower:
            for seq in range(1, 20):
                hub.publish("ada", seq, (Event(seq, "put", "notes", "a", value, at, "user:ada"),))
                assert sum(len(event.value or b"") for event in follower._events.values()) <= BUFFER_BYTES_MAX
            assert await follower.wait(0, LONG_S) is True
            hub.publish("ada", 20, (Event(20, "put", "notes", "a", b"1", at, "user:ada"),))
            assert [event.seq for event in follower.take(19)] == [20]

    asyncio.run(go())


def test_news_between_registering_and_waiting_is_not_missed() -> None:
    async def go() -> None:
        hub = Hub(10)
        with hub.follow("ada") as waiter:
            hub.publish("ada", 1)
            assert await waiter.wait(0, LONG_S) is True

    asyncio.run(go())


def test_a_wait_without_news_ends() -> None:
    async def go() -> None:
        with Hub(10).follow("ada") as waiter:
            assert await waiter.wait(0, 0.01) is False

    asyncio.run(go())


def test_draining_lets_everybody_go_now_and_later() -> None:
    async def go() -> None:
        hub = Hub(10)
        with hub.follow("ada") as waiter:
            waits = asyncio.ensure_future(waiter.wait(0, LONG_S))
            await asyncio.sleep(0)
            hub.drain()
            assert await waits is False
        with hub.follow("ada") as late:
            assert await late.wait(0, LONG_S) is False

    asyncio.run(go())


def event(seq: int) -> Event:
    return Event(seq, "put", "notes", "k", b"1", datetime(2026, 1, 1, tzinfo=UTC), "user:ada")


def test_what_is_told_twice_wakes_nobody_twice() -> None:
    """What a node commits itself comes again by the tail."""

    async def go() -> None:
        hub = Hub(10)
        with hub.follow("ada") as ada:
            hub.publish("ada", 1, [event(1)])
            assert await ada.wait(0, LONG_S)
            assert ada.take(0) == [event(1)]
            waits = asyncio.ensure_future(ada.wait(1, LONG_S))
            await asyncio.sleep(0)
            hub.publish("ada", 1, [event(1)])
            assert not ada._events
            assert not ada._news.is_set()
            waits.cancel()

    asyncio.run(go())


def test_doubt_is_for_those_in_the_lanes_that_it_names() -> None:
    async def go() -> None:
        hub = Hub(10)
        with hub.follow("ada") as ada, hub.follow("bob") as bob:
            assert hub.lanes == {lane_of("ada"), lane_of("bob")}
            hub.doubt({lane_of("ada")})
            assert await ada.wait(0, 0)
            assert not await bob.wait(0, 0)
        assert not hub.lanes

    asyncio.run(go())


def test_the_tail_is_told_of_a_lane_that_it_does_not_read() -> None:
    hub = Hub(10)
    hub.tailed = {lane_of("ada")}
    with hub.follow("ada"):
        assert not hub.look.is_set()
        with hub.follow("bob"):
            assert hub.look.is_set()


def test_what_the_node_follows_for_itself_does_not_count() -> None:
    hub = Hub(1)
    with hub.follow("ada"), hub.follow("ada", own=True), hub.follow("bob", own=True):
        assert hub.following == 1
        assert hub.lanes == {lane_of("ada"), lane_of("bob")}
    assert hub.following == 0


def test_waiters_are_bounded_and_leave_nothing_behind() -> None:
    hub = Hub(1)

    async def go() -> None:
        with hub.follow("ada"):
            assert hub.following == 1
            with pytest.raises(RoostError) as refusal, hub.follow("bob"):
                pass
            assert refusal.value.code is Code.OVERLOADED
        with hub.follow("bob"):
            pass
        assert hub.following == 0
        assert not hub._followers

    asyncio.run(go())
