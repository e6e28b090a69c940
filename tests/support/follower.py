"""A consumer of the feed that follows everything a server commits, through whatever happens to its engine.

It has connections of its own to the server's PostgreSQL, as a sink of another process would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from roost.core.ids import LANES
from roost.core.limits import Limits
from roost.core.ports import EngineUnavailable, LaneEvent
from roost.engines.postgres import Postgres
from roost.feed.tail import Tail
from roost.node.directory import CannotStart
from roost.settings import Settings

PAUSE_S = 0.01
SIZES = Settings(writers=1, readers=1, pool=1, engine_timeout_s=5)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Postgres]:
    """An engine of one's own on a server's database."""
    limits = Limits()
    engine = Postgres(url, SIZES, page_bytes_max=limits.page_bytes_max, snapshot_bytes_max=limits.snapshot_bytes_max)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


class Follower:
    """`url` tells where the engine is at the time; `seen` is what has come, in the order in which it came."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._cursor: dict[int, int] = {}
        self._stopping = False
        self.seen: list[LaneEvent] = []

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """It follows inside; when it is left, what was committed until then has been seen."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            try:
                yield
            finally:
                self._stopping = True

    def check(self, logs: dict[str, list[dict[str, Any]]]) -> None:
        """See that everything in `logs` came, once, dense by position, each user's in order."""
        lanes: dict[int, list[int]] = {}
        users: dict[str, list[int]] = {user: [] for user in logs}
        for lane, pos, user, event, _ in self.seen:
            lanes.setdefault(lane, []).append(pos)
            users.setdefault(user, []).append(event.seq)
        for lane, positions in lanes.items():
            assert positions == list(range(1, len(positions) + 1)), f"lane {lane}"
        for user, seqs in users.items():
            assert seqs == [event["seq"] for event in logs[user]], user

    async def _follow(self) -> None:
        while True:
            try:
                async with opened(self._url()) as engine:
                    tail = Tail(engine, dict.fromkeys(range(LANES), 0) | self._cursor)
                    self._cursor = tail.cursor
                    while True:
                        last = self._stopping
                        async for event in tail.advance():
                            self.seen.append(event)
                        if last:
                            return
                        await asyncio.sleep(PAUSE_S)
            except (EngineUnavailable, CannotStart):  # it is down, or somewhere else soon
                await asyncio.sleep(PAUSE_S)
