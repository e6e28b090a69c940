"""What this node knows of the collections: their definitions, as the system user's log has them.

They are wanted for every write, so they are kept in memory: read at start-up, then followed like any log, through
the hub, so that what another node defines arrives by the tail. `until` tells when a seq has been reached, so that
whoever defines something here finds it in force once that is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import structlog

from roost.core import definitions
from roost.core.definitions import RESERVED_POLICY, Definition
from roost.core.errors import Code, RoostError
from roost.core.events import Event
from roost.core.ids import DEFINITIONS, RESERVED_PREFIX, SYSTEM_USER
from roost.core.ports import Engine, EngineUnavailable, TransactionLost
from roost.feed.hub import Follower, Hub
from roost.settings import Settings

PAGE_EVENTS = 500
_PAUSE_S = 0.2

log = structlog.get_logger(__name__)


class _Known(NamedTuple):
    """All definitions by the collection's name, as they are at `seq` of the system user's log."""

    seq: int
    by_name: Mapping[str, Definition]


class Definitions:
    """The definitions that this node decides by. `keep` has to run; until it has read them, nothing may be decided."""

    def __init__(self, engine: Engine, hub: Hub, settings: Settings) -> None:
        self._engine = engine
        self._hub = hub
        self._settings = settings
        self._known: _Known | None = None
        self._news = asyncio.Condition()

    def policy_of(self, collection: str) -> str:
        """The conflict policy of a collection: as it is defined, else as the settings say."""
        if collection.startswith(RESERVED_PREFIX):
            return RESERVED_POLICY
        defined = self.of(collection)
        return defined.conflict if defined else self._settings.policy_of(collection)

    def of(self, collection: str) -> Definition | None:
        """What is defined of a collection; None where nothing is, and for Roost's own."""
        return self._known.by_name.get(collection) if self._known else None

    def check(self) -> None:
        """Raise `UNAVAILABLE` while the definitions have not been read since this node started."""
        if self._known is None:
            raise RoostError(Code.UNAVAILABLE, "This node has not read its definitions yet.", retry_after_s=1)

    async def until(self, seq: int) -> None:
        """Return once all that was defined up to `seq` is in force here. Raises `UNAVAILABLE` where that takes long."""
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s), self._news:
                await self._news.wait_for(lambda: self._known is not None and self._known.seq >= seq)
        except TimeoutError:
            detail = "It is defined, or will be; this node has not read it yet."
            raise RoostError(Code.UNAVAILABLE, detail, retry_after_s=1) from None

    async def keep(self) -> None:
        """Read the definitions and keep them fresh, until cancelled. An engine that is away is waited for."""
        with self._hub.follow(SYSTEM_USER, own=True) as follower:
            away = False
            while True:
                try:
                    seq = await self._advance(follower)
                    away = False
                    await follower.wait(seq, None)
                    if not follower.released:
                        continue
                    # The hub keeps nobody any more, and still there may be writes to decide: look now and then.
                except (EngineUnavailable, TransactionLost):
                    if not away:  # once, however long it lasts
                        log.warning("the definitions wait for the engine")
                    away = True
                except Exception:
                    log.exception("the definitions failed")
                await asyncio.sleep(_PAUSE_S)

    async def read(self) -> int:
        """Bring what is known to the end of the log, and return its seq. Raises what the engine raises."""
        known = self._known or _Known(0, {})
        while True:
            read = await self._engine.log(SYSTEM_USER, known.seq, PAGE_EVENTS, None)
            if read is None:  # nothing was ever defined
                break
            if 0 < known.seq < read.head.floor:
                # Deletions up to the floor may be gone. From the log's beginning, all that still stands is there.
                known = _Known(0, {})
                continue
            known = _Known(read.reached, _added(known.by_name, read.events))
            if not read.events or read.reached >= read.head.seq:
                break
        return await self._learn(known)

    async def _advance(self, follower: Follower) -> int:
        """`read`, or take the events at hand where they come next."""
        if self._known is not None and (events := follower.take(self._known.seq)):
            return await self._learn(_Known(events[-1].seq, _added(self._known.by_name, events)))
        return await self.read()

    async def _learn(self, known: _Known) -> int:
        async with self._news:
            self._known = known
            self._news.notify_all()
        return known.seq


def _added(by_name: Mapping[str, Definition], events: list[Event]) -> dict[str, Definition]:
    added = dict(by_name)
    for event in events:
        if event.collection != DEFINITIONS:
            continue
        added.pop(event.key, None)
        if event.value is not None:
            try:
                added[event.key] = definitions.decode(event.value)
            except msgspec.DecodeError:
                # A newer node knows more policies than this one: the settings are the best guess that is left.
                log.warning("a definition that this release does not understand", collection=event.key)
    return added
