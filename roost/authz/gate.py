"""The gate: the only door to a user's state.

Whoever reads or writes, from the network or from inside, comes through here with a principal, as a `Caller`. A user
reaches that user's state, admins and services everything; what only they may do says `_privileged`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from roost.authz.principal import Caller
from roost.commands.writer import Writer
from roost.core.commands import Accepted, AppendLog, Change, CreateUser, Idempotency, Op, Push
from roost.core.errors import Code, RoostError
from roost.core.events import Device, Event, Head
from roost.core.ids import DEFINITIONS, SYSTEM_USER, check_writable
from roost.core.limits import NUMBER_MAX
from roost.core.moment import NOW, Moment
from roost.core.ports import DocumentRef, History, Log, Page, Point, Snapshot
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.feed.presence import Connection, Presence, Watch
from roost.queries.reader import Reader

STRETCH_EVENTS_MAX = 500


class Stretch(NamedTuple):
    """A piece of a log: events in order, the cursor behind them, and whether that was the log's end."""

    events: list[Event]
    seq: int
    live: bool


class Gate:
    """Every method raises `FORBIDDEN` for a caller that may not, before anything is read."""

    def __init__(self, writer: Writer, reader: Reader, hub: Hub, definitions: Definitions, presence: Presence) -> None:
        self._writer = writer
        self._reader = reader
        self._hub = hub
        self._definitions = definitions
        self._presence = presence

    async def change(self, caller: Caller, change: Change) -> Accepted:
        """Change documents; see `Writer.run`."""
        _own(caller, change.user)
        for index, op in enumerate(change.ops):
            try:
                check_writable(op.collection, deletes=op.kind == "delete")
            except RoostError as refusal:
                refusal.pointer = f"/ops/{index}" if change.batch else None
                raise
        self._definitions.check()
        return await self._writer.run(change)

    async def push(self, caller: Caller, push: Push) -> Accepted:
        """Carry out a device's mutations, each answered alone; `results` may be fewer, then the rest was not looked at.

        Raises what refuses the push as a whole, with nothing done. What a device may not do to a collection, it is
        told in the mutation's own answer: a refusal here would keep the rest of its queue from ever coming through.
        """
        _own(caller, push.user)
        self._definitions.check()
        accepted = await self._writer.run(push)
        results = accepted.results
        while len(results) < len(push.mutations):
            try:
                rest = msgspec.structs.replace(push, mutations=push.mutations[len(results) :])
                accepted = await self._writer.run(rest)
            except RoostError:
                break  # what was answered is answered
            results += accepted.results
        return Accepted(accepted.seq, results=results)

    async def create_user(self, caller: Caller, user: str) -> tuple[Head, bool]:
        """The user's head, and whether this brought the user into being."""
        _own(caller, user)
        accepted = await self._writer.run(CreateUser(user, caller.actor))
        return await self._reader.head(user), accepted.created

    async def append_log(self, caller: Caller, command: AppendLog) -> Accepted:
        """Append events of another Roost's log, with their own actors: for admins and services."""
        _privileged(caller)
        return await self._writer.run(command)

    async def document(self, caller: Caller, ref: DocumentRef, moment: Moment = NOW) -> Point:
        """One document; see `Reader.document`."""
        _own(caller, ref.user)
        return await self._reader.document(ref, moment)

    async def page(
        self,
        caller: Caller,
        user: str,
        collection: str,
        prefix: str,
        after: str | None,
        limit: int,
        moment: Moment = NOW,
    ) -> Page:
        """A page of a collection; see `Reader.page`."""
        _own(caller, user)
        return await self._reader.page(user, collection, prefix, after, limit, moment)

    async def snapshot(self, caller: Caller, user: str, moment: Moment = NOW) -> Snapshot:
        """All documents; see `Reader.snapshot`."""
        _own(caller, user)
        return await self._reader.snapshot(user, moment)

    async def history(self, caller: Caller, ref: DocumentRef, before: int | None, limit: int) -> History:
        """A document's versions; see `Reader.history`."""
        _own(caller, ref.user)
        return await self._reader.history(ref, before, limit)

    async def log(
        self,
        caller: Caller,
        user: str,
        after: int,
        limit: int,
        collections: list[str] | None,
        wait_s: float = 0,
    ) -> Log:
        """Events after a cursor; with `wait_s` (seconds), an empty answer is held until there is one."""
        _own(caller, user)
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
        self, caller: Caller, user: str, after: int, collections: list[str] | None
    ) -> AsyncGenerator[Stretch, None]:
        """A user's log from a cursor on, stretch by stretch, until this node stops or the caller does.

        The first stretch with `live` comes as soon as the log was read to its end, with events or without: from
        then on events come as they are committed. Raises what `log` raises.
        """
        _own(caller, user)
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

    async def stay(self, caller: Caller, user: str) -> None:
        """Be counted among those who follow this user's log, without following; returns when this node stops."""
        _own(caller, user)
        with self._hub.follow(user) as follower:
            while not follower.released:
                await follower.wait(NUMBER_MAX, None)

    @contextmanager
    def connect(self, caller: Caller, user: str, device: str, cursor: int) -> Iterator[Connection]:
        """The device is connected, inside; see `Presence.connect`."""
        _own(caller, user)
        with self._presence.connect(user, device, cursor) as connection:
            yield connection

    @contextmanager
    def watch(self, caller: Caller, user: str) -> Iterator[Watch]:
        """Be told who is connected, inside; see `Presence.watch`."""
        _own(caller, user)
        with self._presence.watch(user) as watch:
            yield watch

    async def devices(self, caller: Caller, user: str) -> list[Device]:
        """A user's devices; see `Presence.devices`."""
        _own(caller, user)
        return await self._presence.devices(user)

    async def head(self, caller: Caller, user: str) -> Head:
        """Where a user's log stands."""
        _own(caller, user)
        return await self._reader.head(user)

    async def users(self, caller: Caller, after: str | None, limit: int) -> list[Head]:
        """All users, in pages: for admins and services."""
        _privileged(caller)
        return await self._reader.users(after, limit)

    async def define(self, caller: Caller, op: Op, idempotency: Idempotency | None) -> Accepted:
        """Put or delete the definition of a collection (`op.key`), for admins; in force here once this returns."""
        _admin(caller)
        check_writable(op.key, deletes=False)
        change = Change(SYSTEM_USER, (op,), caller.actor, idempotency)
        accepted = await self._writer.run(change)
        await self._definitions.until(accepted.seq)
        return accepted

    async def definition(self, caller: Caller, collection: str) -> Point:  # noqa: ARG002  # no secret to anybody
        """The definition of a collection, as a document of the system user. Raises `NOT_FOUND` if none ever was."""
        return await self._reader.document(DocumentRef(SYSTEM_USER, DEFINITIONS, collection), NOW)

    async def definitions(self, caller: Caller, after: str | None, limit: int) -> Page:  # noqa: ARG002
        """A page of all definitions. Raises `NOT_FOUND` if there never was one."""
        return await self._reader.page(SYSTEM_USER, DEFINITIONS, "", after, limit, NOW)

    async def ready(self) -> None:
        """Whether this node can serve. Raises `UNAVAILABLE`. Nothing of anybody's state is told, so no principal."""
        await self._reader.ready()
        self._definitions.check()


def _own(caller: Caller, user: str) -> None:
    if caller.principal.kind == "user" and caller.principal.id != user:
        raise RoostError(Code.FORBIDDEN, "This token reaches the state of its own user only.")


def _privileged(caller: Caller) -> None:
    if caller.principal.kind == "user":
        raise RoostError(Code.FORBIDDEN, "Only an admin's or a service's token may do this.")


def _admin(caller: Caller) -> None:
    if caller.principal.kind != "admin":
        raise RoostError(Code.FORBIDDEN, "Only an admin's token may do this.")
