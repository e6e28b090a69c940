"""The feed tells every follower of every commit, whenever the two come, and whatever trouble it has had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from roost.commands.transaction import GroupCommit
from roost.core.commands import Change, Op
from roost.core.decide import Rules
from roost.core.ids import lane_of
from roost.core.limits import Limits
from roost.core.ports import EngineUnavailable, Feed, TransactionLost
from roost.engines.memory import Memory
from roost.feed.hub import Hub
from roost.feed.tail import SPACING_S, Announcer, watch

PATIENCE_S = 60
LONG_S = 60
RULES = Rules(Limits(), lambda collection: "lww")


OTHER = next(user for user in (f"user{n}" for n in range(99)) if lane_of(user) != lane_of("ada"))


class Eventful(Memory):
    """Something happens just before positions, or the feed, are read; reading the feed may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.before_positions: Callable[[], Awaitable[None]] | None = None
        self.before_feed: Callable[[], Awaitable[None]] | None = None
        self.troubles: list[Exception] = []
        self.read: list[set[int]] = []
        self._look = asyncio.Event()

    async def positions(self) -> dict[int, int]:
        if self.before_positions is not None:
            before, self.before_positions = self.before_positions, None
            await before()
        return await super().positions()

    async def feed(self, cursor: dict[int, int], limit: int) -> Feed:
        self._look.set()
        self.read.append(set(cursor))
        if self.before_feed is not None:
            before, self.before_feed = self.before_feed, None
            await before()
        if self.troubles:
            raise self.troubles.pop()
        return await super().feed(cursor, limit)

    async def commit(self, user: str = "ada") -> None:
        """A write of another node."""
        change = Change(user, (Op("put", "notes", "k", b"1"),), "admin")
        await GroupCommit(self, [change], RULES).run(datetime(2026, 1, 1, tzinfo=UTC))

    async def looked(self, times: int) -> None:
        """Wait until the feed has been read so often from here on."""
        for _ in range(times):
            self._look.clear()
            async with asyncio.timeout(PATIENCE_S):
                await self._look.wait()


@asynccontextmanager
async def watched(engine: Memory, hub: Hub, interval_s: float = 0) -> AsyncIterator[None]:
    await engine.open()
    watching = asyncio.create_task(watch(engine, hub, interval_s))
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def test_a_follower_hears_of_what_is_committed_elsewhere() -> None:
    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        async with watched(engine, hub):
            with hub.follow("ada") as follower:
                await engine.looked(2)
                assert await follower.wait(0, 0), "its log may have grown before the tail began"
                await engine.commit()
                assert await follower.wait(0, PATIENCE_S)
                assert [event.seq for event in follower.take(0)] == [1]

    asyncio.run(run())


@pytest.mark.parametrize("user", ["ada", OTHER], ids=["the same lane", "another lane"])
@pytest.mark.parametrize("reading", ["positions", "the feed"])
@pytest.mark.parametrize("interval_s", [0, LONG_S], ids=["polling", "woken"])
def test_a_follower_that_comes_while_the_tail_begins_misses_nothing(interval_s: float, reading: str, user: str) -> None:
    """It reads the log, an event is committed, and the positions that the tail gets lie behind it."""

    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        came = asyncio.Event()

        async def follow() -> bool:
            with hub.follow(user) as follower:
                came.set()
                return await follower.wait(0, PATIENCE_S)

        async def meanwhile() -> None:
            followers.append(asyncio.create_task(follow()))
            await came.wait()
            await engine.commit(user)

        followers: list[asyncio.Task[bool]] = []
        if reading == "positions":
            engine.before_positions = meanwhile
        else:
            engine.before_feed = meanwhile
        async with watched(engine, hub, interval_s):
            with hub.follow("ada"):
                async with asyncio.timeout(PATIENCE_S):
                    await came.wait()
                    if user == "ada" and reading == "the feed":
                        await engine.announce()
                    assert await followers[0]

    asyncio.run(run())


def test_news_wake_the_tail() -> None:
    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        async with watched(engine, hub, LONG_S):
            with hub.follow("ada") as follower:
                await engine.looked(1)
                await follower.wait(0, 0)
                for seq in range(3):
                    await engine.commit()
                    await engine.announce()
                    assert await follower.wait(seq, PATIENCE_S)

    asyncio.run(run())


def test_only_lanes_that_are_followed_are_read() -> None:
    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        async with watched(engine, hub):
            with hub.follow("ada"):
                await engine.looked(2)
                assert engine.read[-1] == {lane_of("ada")}
                with hub.follow(OTHER):
                    await engine.looked(2)
                    assert engine.read[-1] == {lane_of("ada"), lane_of(OTHER)}

    asyncio.run(run())


def test_lanes_that_nobody_follows_any_more_are_left_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost.feed.tail.LINGER_S", 0)

    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        async with watched(engine, hub):
            with hub.follow("ada"):
                with hub.follow(OTHER):
                    await engine.looked(2)
                await engine.looked(2)
                assert engine.read[-1] == {lane_of("ada")}
                with hub.follow(OTHER) as follower:
                    await engine.looked(2)
                    await engine.commit(OTHER)
                    assert await follower.wait(0, PATIENCE_S)

    asyncio.run(run())


def test_the_tail_is_not_woken_for_the_nodes_own_sake() -> None:
    """What the node itself follows is told at the interval."""

    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        async with watched(engine, hub, LONG_S):
            with hub.follow("ada", own=True):
                await engine.looked(1)
                looks = len(engine.read)
                for _ in range(10):
                    await engine.announce()
                    await asyncio.sleep(0.01)
                assert len(engine.read) == looks
            with hub.follow("ada"):
                await engine.announce()
                await engine.looked(1)

    asyncio.run(run())


def test_many_wake_ups_are_one_look_and_many_commits_one_announcement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost.feed.tail.SPACING_S", 0.2)

    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        announcer = Announcer(engine)
        announcing = asyncio.create_task(announcer.run())
        async with watched(engine, hub, LONG_S):
            with hub.follow("ada"):
                await engine.looked(1)
                for _ in range(50):
                    announcer.committed()
                    await engine.announce()
                    await asyncio.sleep(0)
                await engine.looked(1)
                assert len(engine.read) <= 3
        announcing.cancel()

    asyncio.run(run())


def test_commits_are_announced_one_after_the_other() -> None:
    class Slow(Memory):
        announced = under_way = 0

        def __init__(self) -> None:
            super().__init__()
            self.gate = asyncio.Event()

        async def announce(self) -> None:
            assert not self.under_way
            self.under_way += 1
            await self.gate.wait()
            self.under_way -= 1
            self.announced += 1

    async def run() -> None:
        engine = Slow()
        announcer = Announcer(engine)
        announcing = asyncio.create_task(announcer.run())
        for _ in range(100):
            announcer.committed()
            await asyncio.sleep(0)
        assert engine.under_way == 1
        engine.gate.set()
        while engine.announced < 2:  # noqa: ASYNC110 (what came while the first was under way is not forgotten)
            await asyncio.sleep(0.001)
        await asyncio.sleep(5 * SPACING_S)
        assert engine.announced == 2
        announcing.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    "trouble",
    [EngineUnavailable("It is away."), TransactionLost(), ZeroDivisionError()],
    ids=["away", "lost", "unforeseen"],
)
def test_the_feed_goes_on_after_trouble(trouble: Exception) -> None:
    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        async with watched(engine, hub):
            with hub.follow("ada") as follower:
                await engine.looked(2)
                engine.troubles = [trouble] * 3
                await engine.commit()
                assert await follower.wait(0, PATIENCE_S)
                while engine.troubles:
                    await engine.commit()
                    await engine.looked(1)
                head = await engine.head("ada")
                assert head is not None
                # Whoever is only told to look again does so; what matters is to be told of the next commit too.
                await follower.wait(head.seq, 0)
                await engine.commit()
                assert await follower.wait(head.seq, PATIENCE_S)

    asyncio.run(run())
