"""The gate: the only door to a user's state.

Whoever reads or writes, from the network or from inside, comes through here with a principal. A user
reaches that user's state, admins and services everything; what only they may do says `_privileged`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from roost.authz.principal import Principal
from roost.commands.writer import Writer
from roost.core.commands import Accepted, AppendLog, Change, CreateUser
from roost.core.errors import Code, RoostError
from roost.core.events import Event, Head
from roost.core.moment import NOW, Moment
from roost.core.ports import DocumentRef, History, Log, Page, Point, Snapshot
from roost.feed.hub import Hub
from roost.queries.reader import Reader

STRETCH_EVENTS_MAX = 500


class Stretch(NamedTuple):
    """A piece of a log: events in order, the cursor behind them, and whether that was the log's end."""

    events: list[Event]
    seq: int
    live: bool


class Gate:
    """Every method raises `FORBIDDEN` for a principal that may not, before anything is read."""

    def __init__(self, writer: Writer, reader: Reader, hub: Hub) -> None:
        self._writer = writer
        self._reader = reader
        self._hub = hub

    async def change(self, principal: Principal, change: Change) -> Accepted:
        """Change documents; see `Writer.run`."""
        _own(principal, change.user)
        return await self._writer.run(change)

    async def create_user(self, principal: Principal, user: str) -> tuple[Head, bool]:
        """The user's head, and whether this brought the user into being."""
        _own(principal, user)
        accepted = await self._writer.run(CreateUser(user, principal.actor))
        return await self._reader.head(user), accepted.created

    async def append_log(self, principal: Principal, command: AppendLog) -> Accepted:
        """Append events of another Roost's log, with their own actors: for admins and services."""
        _privileged(principal)
        return await self._writer.run(command)

    async def document(self, principal: Principal, ref: DocumentRef, moment: Moment = NOW) -> Point:
        """One document; see `Reader.document`."""
        _own(principal, ref.user)
        return await self._reader.document(ref, moment)

    async def page(
        self,
        principal: Principal,
        user: str,
        collection: str,
        prefix: str,
        after: str | None,
        limit: int,
        moment: Moment = NOW,
    ) -> Page:
        """A page of a collection; see `Reader.page`."""
        _own(principal, user)
        return await self._reader.page(user, collection, prefix, after, limit, moment)

    async def snapshot(self, principal: Principal, user: str, moment: Moment = NOW) -> Snapshot:
        """All documents; see `Reader.snapshot`."""
        _own(principal, user)
        return await self._reader.snapshot(user, moment)

    async def history(self, principal: Principal, ref: DocumentRef, before: int | None, limit: int) -> History:
        """A document's versions; see `Reader.history`."""
        _own(principal, ref.user)
        return await self._reader.history(ref, before, limit)

    async def log(
        self,
        principal: Principal,
        user: str,
        after: int,
        limit: int,
        collections: list[str] | None,
        wait_s: float = 0,
    ) -> Log:
        """Events after a cursor; with `wait_s` (seconds), an empty answer is held until there is one."""
        _own(principal, user)
        if not wait_s:
            return await self._reader.log(user, after, limit, collections)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        # Following begins before the log is read, so a commit between the two is not missed.
        with self._hub.follow(user) as follower:
            while True:
                log = await self._reader.log(user, after, limit, collections)
                left_s = deadline - loop.time()
                if log.events or left_s <= 0 or not await follower.wait(log.head.seq, left_s):
                    return log
                after = log.reached

    async def follow(
        self, principal: Principal, user: str, after: int, collections: list[str] | None
    ) -> AsyncGenerator[Stretch, None]:
        """A user's log from a cursor on, stretch by stretch, until this node stops or the caller does.

        The first stretch with `live` comes as soon as the log was read to its end, with events or without: from
        then on events come as they are committed. Raises what `log` raises.
        """
        _own(principal, user)
        with self._hub.follow(user) as follower:
            live = confirmed = False
            while not follower.released:
                events = follower.take(after) if live else []
                reached = events[-1].seq if events else after
                if events and collections is not None:
                    events = [event for event in events if event.collection in collections]
                if reached == after:
                    log = await self._reader.log(user, after, STRETCH_EVENTS_MAX, collections)
                    events, reached = log.events, log.reached
                    live = reached >= log.head.seq
                if reached > after or (live and not confirmed):
                    yield Stretch(events, reached, live)
                after, confirmed = reached, live
                if live:
                    await follower.wait(after, None)

    async def head(self, principal: Principal, user: str) -> Head:
        """Where a user's log stands."""
        _own(principal, user)
        return await self._reader.head(user)

    async def users(self, principal: Principal, after: str | None, limit: int) -> list[Head]:
        """All users, in pages: for admins and services."""
        _privileged(principal)
        return await self._reader.users(after, limit)

    async def ready(self) -> None:
        """Whether this node can serve. Raises `UNAVAILABLE`. Nothing of anybody's state is told, so no principal."""
        await self._reader.ready()


def _own(principal: Principal, user: str) -> None:
    if principal.kind == "user" and principal.id != user:
        raise RoostError(Code.FORBIDDEN, "This token reaches the state of its own user only.")


def _privileged(principal: Principal) -> None:
    if principal.kind == "user":
        raise RoostError(Code.FORBIDDEN, "Only an admin's or a service's token may do this.")
