"""The hub: who waits is woken by news of their log only, and everybody is let go in the end."""

from __future__ import annotations

import asyncio

import pytest

from roost.core.errors import Code, RoostError
from roost.feed.hub import Hub

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
