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
from roost.core.limits import Limits
from roost.core.ports import EngineUnavailable, LaneEvent, TransactionLost
from roost.engines.memory import Memory
from roost.feed.hub import Hub
from roost.feed.tail import watch

PATIENCE_S = 10
RULES = Rules(Limits(), lambda collection: "lww")


class Eventful(Memory):
    """Something happens just before positions are read; reading lanes may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], Awaitable[None]] | None = None
        self.troubles: list[Exception] = []
        self._look = asyncio.Event()

    async def positions(self) -> dict[int, int]:
        self._look.set()
        if self.before is not None:
            before, self.before = self.before, None
            await before()
        return await super().positions()

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        if self.troubles:
            raise self.troubles.pop()
        return await super().lane(lane, after, limit)

    async def commit(self) -> None:
        """A write of another node."""
        change = Change("ada", (Op("put", "notes", "k", b"1"),), "admin")
        await GroupCommit(self, [change], RULES).run(datetime(2026, 1, 1, tzinfo=UTC))

    async def looked(self, times: int) -> None:
        """Wait until the feed has looked at the positions so often from here on."""
        for _ in range(times):
            self._look.clear()
            await self._look.wait()


@asynccontextmanager
async def watched(engine: Memory, hub: Hub) -> AsyncIterator[None]:
    await engine.open()
    watching = asyncio.create_task(watch(engine, hub, interval_s=0))
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
            await engine.looked(2)
            with hub.follow("ada") as follower:
                await engine.commit()
                assert await follower.wait(0, PATIENCE_S)

    asyncio.run(run())


@pytest.mark.parametrize("looks", [0, 2], ids=["at the start", "later"])
def test_a_follower_that_comes_while_positions_are_read_misses_nothing(looks: int) -> None:
    """It reads the log, an event is committed, and the positions that the feed gets lie behind it."""

    async def run() -> None:
        engine, hub = Eventful(), Hub(10)
        came = asyncio.Event()

        async def follow() -> bool:
            with hub.follow("ada") as follower:
                came.set()
                return await follower.wait(0, PATIENCE_S)

        async def meanwhile() -> None:
            followers.append(asyncio.create_task(follow()))
            await came.wait()
            await engine.commit()

        followers: list[asyncio.Task[bool]] = []
        if not looks:
            engine.before = meanwhile
        async with watched(engine, hub):
            if looks:
                await engine.looked(looks)
                engine.before = meanwhile
            await came.wait()
            assert await followers[0]

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
            await engine.looked(2)
            with hub.follow("ada") as follower:
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
