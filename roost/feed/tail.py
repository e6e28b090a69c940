"""The feed: lanes' events in position order, as they are committed anywhere.

Positions are dense and their order is commit order, because a lane's counter is bumped under a lock that is
held until the commit. So a tail that has reached a position has seen all that came before; a gap cannot be
passed over, it is an alarm. Only below a lane's floor, where logs have been folded, are holes as they should be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog

from roost.core.ports import Engine, EngineUnavailable, LaneEvent, TransactionLost
from roost.feed.hub import Hub

PAGE_EVENTS = 1_000
SPACING_S = 0.005
"""Between two looks, and between two announcements: what happens meanwhile is one."""
RETRY_S = 1.0
"""How soon it looks again after trouble, at the latest."""
LINGER_S = 10.0
"""How long the tail goes on reading a lane in which nobody follows any more: somebody may come back."""

log = structlog.get_logger(__name__)


class Gap(Exception):
    """Positions of a lane that are not dense: acknowledged events are missing, or out of order."""


class Compacted(Exception):
    """Events behind the cursor have been folded away, so nobody can say what was in them: read the logs themselves."""


class Tail:
    """Follows the lanes of a cursor, `{lane: position}`."""

    def __init__(self, engine: Engine, cursor: dict[int, int]) -> None:
        self._engine = engine
        self.cursor = dict(cursor)

    async def advance(self) -> AsyncIterator[LaneEvent]:
        """The events that have been committed since, each lane's in order; the cursor moves with each.

        Raises `Gap`, `Compacted` where the cursor is below a lane's floor, and `EngineUnavailable`; after this last the
        tail can go on from where it is.
        """
        more = True
        while more:
            heads, events, more = await self._engine.feed(self.cursor, PAGE_EVENTS)
            for event in events:
                await self._reach(event.lane, event.pos - 1)
                self.cursor[event.lane] = event.pos
                yield event
            if not more:
                for lane, head in heads.items():
                    await self._reach(lane, head)

    async def _reach(self, lane: int, pos: int) -> None:
        """See that the cursor is at `pos`: that nothing is missing up to there."""
        at = self.cursor[lane]
        if at != pos:
            folded = at < pos <= (await self._engine.floors())[lane]
            raise (Compacted if folded else Gap)(f"lane {lane}: the events between {at} and {pos + 1} are missing")


class Announcer:
    """Tells other processes that something was committed here. What is committed while it does so, it tells as one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._committed = asyncio.Event()

    def committed(self) -> None:
        """Something was."""
        self._committed.set()

    async def run(self) -> None:
        """Announce, until cancelled."""
        while True:
            await self._committed.wait()
            self._committed.clear()
            await self._engine.announce()
            await asyncio.sleep(SPACING_S)


async def watch(engine: Engine, hub: Hub, interval_s: float) -> None:
    """Tell the hub of the commits of other workers and nodes, until cancelled.

    It looks when it is woken, and every `interval_s` besides; and only at lanes in which somebody follows.
    """
    hearing = asyncio.create_task(_hear(engine, hub, interval_s))
    try:
        await _look(engine, hub, interval_s)
    finally:
        hearing.cancel()


async def _hear(engine: Engine, hub: Hub, interval_s: float) -> None:
    while True:
        await engine.wait_for_news(interval_s)
        if hub.following:
            hub.look.set()


async def _look(engine: Engine, hub: Hub, interval_s: float) -> None:
    time = asyncio.get_running_loop().time
    tail, pruned, away = Tail(engine, {}), time(), False
    while True:
        hub.look.clear()
        pause_s = interval_s
        if time() - pruned > LINGER_S:
            for lane in tail.cursor.keys() - hub.lanes:
                del tail.cursor[lane]
            pruned = time()
        try:
            await _take_up(engine, hub, tail)
            async for place in tail.advance():
                # Who follows what cannot be opened reads it from the log, and is told so there.
                hub.publish(place.user, place.event.seq, () if place.corrupt else (place.event,))
            away = False
        except (EngineUnavailable, TransactionLost):
            if not away:  # once, however long it lasts: what keeps the engine away may be a full disk
                log.warning("the feed waits for the engine")
            away = True
            pause_s = min(interval_s, RETRY_S)
        except Compacted:
            tail = Tail(engine, {})
            pause_s = min(interval_s, RETRY_S)
        except Exception:  # a `Gap`, or a bug
            log.exception("the feed begins anew")
            tail = Tail(engine, {})
            pause_s = min(interval_s, RETRY_S)
        await asyncio.sleep(min(SPACING_S, interval_s))
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await hub.look.wait()


async def _take_up(engine: Engine, hub: Hub, tail: Tail) -> None:
    """Begin with the lanes that somebody follows by now, from where they are."""
    hub.tailed = tail.cursor.keys()
    lanes = hub.lanes - tail.cursor.keys()
    if lanes:
        positions = await engine.positions()
        tail.cursor.update((lane, positions[lane]) for lane in lanes)
        # Who came before may have read a log that has grown since, up to where the tail begins.
        hub.doubt(lanes)
