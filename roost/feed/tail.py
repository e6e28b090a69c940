"""The feed: every lane's events in position order, as they are committed anywhere.

Positions are dense and their order is commit order, because a lane's counter is bumped under a lock that is
held until the commit. So a tail that has reached a position has seen all that came before; a gap cannot be
passed over, it is an alarm.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog

from roost.core.ports import Engine, EngineUnavailable, LaneEvent, TransactionLost
from roost.feed.hub import Hub

PAGE_EVENTS = 1_000

log = structlog.get_logger(__name__)


class Gap(Exception):
    """Positions of a lane that are not dense: acknowledged events are missing, or out of order."""


class Tail:
    """Follows all lanes from a cursor (`{lane: position}`; lanes that it lacks start at 0)."""

    def __init__(self, engine: Engine, cursor: dict[int, int]) -> None:
        self._engine = engine
        self.cursor = dict(cursor)

    async def advance(self) -> AsyncIterator[LaneEvent]:
        """The events that have been committed since, each lane's in order; the cursor moves with each.

        Raises `Gap`, and `EngineUnavailable`; the tail can go on afterwards from where it is.
        """
        for lane, head in (await self._engine.positions()).items():
            while self.cursor.get(lane, 0) < head:
                events = await self._engine.lane(lane, self.cursor.get(lane, 0), PAGE_EVENTS)
                if not events:
                    raise Gap(f"lane {lane} stands at {head}, and its events end at {self.cursor.get(lane, 0)}")
                for event in events:
                    if event.pos != self.cursor.get(lane, 0) + 1:
                        raise Gap(f"lane {lane}: position {event.pos} follows {self.cursor.get(lane, 0)}")
                    self.cursor[lane] = event.pos
                    yield event


async def watch(engine: Engine, hub: Hub, interval_s: float) -> None:
    """Tell the hub of the commits of other workers and nodes, by polling, until cancelled.

    While nobody follows, only the lanes' heads are read.
    """
    tail: Tail | None = None
    away = False
    while True:
        try:
            if tail is None:
                tail = Tail(engine, await engine.positions())
                # Whoever came before may have read a log that has grown since, up to where the tail begins.
                hub.doubt()
            elif hub.following:
                async for _, _, user, event in tail.advance():
                    hub.publish(user, event.seq, (event,))
            else:
                positions = await engine.positions()
                if not hub.following:  # else somebody came meanwhile: the same goes for them
                    tail = Tail(engine, positions)
            away = False
        except (EngineUnavailable, TransactionLost):
            if not away:  # once, however long it lasts: what keeps the engine away may be a full disk
                log.warning("the feed waits for the engine")
            away = True
        except Gap:
            log.exception("the feed has a gap")
            tail = None
        except Exception:
            log.exception("the feed failed")
            tail = None
        await asyncio.sleep(interval_s)
