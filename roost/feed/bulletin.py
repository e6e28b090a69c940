"""What every node has to know: documents of the system user, told to whoever on this node goes by them.

Definitions of collections, policies, revocations: they are wanted for nearly every request, so each node keeps them
in memory. One `Bulletin` a node follows the system user's log: it is read at start-up, then followed like any log,
through the hub, so that what another node writes arrives by the tail. Whoever goes by a collection of it says so when
it is made, before `keep` runs:

    bulletin.subscribe(DEFINITIONS, self._learn)

and is told what changed, in the order of the log. `until` tells when a seq has been reached, so that whoever writes
something there finds it in force here once that is answered; `check` refuses while nothing is known yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

import structlog

from roost.core.errors import Code, RoostError
from roost.core.events import Event
from roost.core.ids import SYSTEM_USER
from roost.core.ports import Engine, EngineUnavailable, TransactionLost
from roost.feed.hub import Follower, Hub

PAGE_EVENTS = 500
_PAUSE_S = 0.2

_Changes = dict[str, dict[str, bytes | None]]

log = structlog.get_logger(__name__)


class Learn(Protocol):
    """Takes in what changed in a collection. What it raises is logged, and left at that."""

    def __call__(self, changed: Mapping[str, bytes | None], /, *, anew: bool) -> None:
        """The documents by key, None for a deleted one. `anew`: that is all that stands, forget what was known."""


class Bulletin:
    """The system user's log as this node knows it. `keep` has to run; until it has read it, nothing may be decided."""

    def __init__(self, engine: Engine, hub: Hub, *, timeout_s: float) -> None:
        self._engine = engine
        self._hub = hub
        self._timeout_s = timeout_s
        self._subscribers: dict[str, list[Learn]] = {}
        self._seq: int | None = None
        self._news = asyncio.Condition()

    def subscribe(self, collection: str, learn: Learn) -> None:
        """Tell `learn` of every change in a collection of the system user, and first of all that stands."""
        self._subscribers.setdefault(collection, []).append(learn)

    def check(self) -> None:
        """Raise `UNAVAILABLE` while the log has not been read since this node started."""
        if self._seq is None:
            raise RoostError(Code.UNAVAILABLE, "This node has not read its bulletin yet.", retry_after_s=1)

    async def until(self, seq: int) -> None:
        """Return once all that was written up to `seq` is in force here. Raises `UNAVAILABLE` where that takes long."""
        try:
            async with asyncio.timeout(self._timeout_s), self._news:
                await self._news.wait_for(lambda: self._seq is not None and self._seq >= seq)
        except TimeoutError:
            detail = "It is written, or will be; this node has not read it yet."
            raise RoostError(Code.UNAVAILABLE, detail, retry_after_s=1) from None

    async def keep(self) -> None:
        """Read the log and keep up with it, until cancelled. An engine that is away is waited for."""
        with self._hub.follow(SYSTEM_USER, own=True) as follower:
            away = False
            while True:
                try:
                    seq = await self._advance(follower)
                    away = False
                    await follower.wait(seq, None)
                    if not follower.released:
                        continue
                    # The hub keeps nobody any more, and still there may be requests to decide: look now and then.
                except (EngineUnavailable, TransactionLost):
                    if not away:  # once, however long it lasts
                        log.warning("the bulletin waits for the engine")
                    away = True
                except Exception:
                    log.exception("the bulletin failed")
                await asyncio.sleep(_PAUSE_S)

    async def read(self) -> int:
        """Bring what is known to the end of the log, and return its seq. Raises what the engine raises."""
        seq, anew = self._seq or 0, self._seq is None
        changes = self._nothing()
        floor = 0  # where it was when the log was read from its beginning
        while (read := await self._engine.log(SYSTEM_USER, seq, PAGE_EVENTS, sorted(changes))) is not None:
            if seq == 0:
                floor = read.head.floor
            elif seq < read.head.floor != floor:
                # Deletions up to the floor may be gone. From the log's beginning, all that still stands is there.
                seq, anew, changes = 0, True, self._nothing()
                continue
            _add(changes, read.events)
            seq = read.reached
            if not read.events or seq >= read.head.seq:
                break
        return await self._learn(seq, changes, anew=anew)

    async def _advance(self, follower: Follower) -> int:
        """`read`, or take the events at hand where they come next."""
        if self._seq is not None and (events := follower.take(self._seq)):
            _add(changes := self._nothing(), events)
            return await self._learn(events[-1].seq, changes, anew=False)
        return await self.read()

    async def _learn(self, seq: int, changes: _Changes, *, anew: bool) -> int:
        for collection, changed in changes.items():
            if changed or anew:
                for learn in self._subscribers[collection]:
                    try:
                        learn(changed, anew=anew)
                    except Exception:
                        log.exception("the bulletin was not understood", collection=collection)
        async with self._news:
            self._seq = seq
            self._news.notify_all()
        return seq

    def _nothing(self) -> _Changes:
        return {collection: {} for collection in self._subscribers}


def _add(changes: _Changes, events: Iterable[Event]) -> None:
    for event in events:
        if event.collection in changes:
            changes[event.collection][event.key] = event.value
