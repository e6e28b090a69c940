"""The gate: the only door to a user's state.

Whoever reads or writes, from the network or from inside, comes through here with a principal, as a `Caller`. Each
method asks the door (`roost.authz.door`) before anything is read or written, and shows no more than the caller's view.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import msgspec

from roost.authz.departures import Departures, Proof, Told
from roost.authz.door import Door
from roost.authz.policy.model import Action
from roost.authz.principal import Caller
from roost.authz.shelf import Shelf
from roost.authz.view import View, told_of
from roost.commands.writer import Writer
from roost.core.audit import AUDIT, Cursor, Excerpt, Selection
from roost.core.commands import Accepted, AppendLog, Change, CreateUser, Flaw, Idempotency, Mutation, Op, Push, Sees
from roost.core.errors import Code, RoostError, user_erased
from roost.core.events import Device, Document, Event, Head
from roost.core.ids import DEFINITIONS, HIDDEN, INBOX, SYSTEM_USER
from roost.core.limits import NUMBER_MAX
from roost.core.moment import NOW, Moment
from roost.core.ports import DocumentRef, History, Log, Page, Point, Snapshot
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.feed.presence import Connection, Presence, Watch
from roost.queries.reader import Reader

STRETCH_EVENTS_MAX = 500
AUDIT_LOOK_S = 0.5
"""How often whoever follows the audit trail looks for what other nodes have put down."""


class Stretch(NamedTuple):
    """A piece of a log: events in order, the cursor behind them, and whether that was the log's end."""

    events: list[Event]
    seq: int
    live: bool


class Gate:
    """Every method raises `FORBIDDEN` for a caller that may not, before anything is read."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        hub: Hub,
        definitions: Definitions,
        presence: Presence,
        door: Door,
        departures: Departures | None = None,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._hub = hub
        self._definitions = definitions
        self._presence = presence
        self._door = door
        self.policies = Shelf(door, writer, reader, definitions)
        self._departures = departures

    def enter(self, caller: Caller, action: Action, user: str | None = None) -> None:
        """Return if `caller` may do what is about no documents, or raise `FORBIDDEN`; see `Door.enter`."""
        self._door.enter(caller, action, user)

    async def change(self, caller: Caller, change: Change) -> Accepted:
        """Change documents; see `Writer.run`."""
        sees = None
        for index, op in enumerate(change.ops):
            try:
                self._door.change(caller, change.user, op)
            except RoostError as refusal:
                refusal.pointer = f"/ops/{index}" if change.batch else None
                raise
            if op.collection == INBOX and sees is None:
                sees = _seeing(self._door.sights(caller, change.user))
        if sees is not None:
            change = msgspec.structs.replace(change, sees=sees)
        try:
            accepted = await self._writer.run(change)
        except RoostError as refusal:
            await self._refused(caller, change, refusal)
            raise
        if accepted.replayed:
            # The log has who wrote it then, and not who is told of it now.
            await self._door.told(caller, "read", change.user, {op.collection for op in change.ops})
        return accepted

    async def _refused(self, caller: Caller, change: Change, refusal: RoostError) -> None:
        """Put on record what a refusal tells of the state, and leave out what the caller does not see of it."""
        told: set[str] = set()
        if refusal.code is Code.PATCH_FAILED:
            told = {op.collection for op in change.ops}
        elif refusal.current is not None:
            refusal.current = self._door.sights(caller, change.user).document(refusal.current)
            told = told_of([refusal.current] if refusal.current else [])
        if told:
            await self._door.told(caller, "read", change.user, told)

    async def push(self, caller: Caller, push: Push) -> Accepted:
        """Carry out a device's mutations, each answered alone; `results` may be fewer, then the rest was not looked at.

        Raises what refuses the push as a whole, with nothing done. What a device may not do to a collection, it is
        told in the mutation's own answer: a refusal here would keep the rest of its queue from ever coming through.
        What is refused there is kept in the inbox, so the caller has to be one who may write to that.
        """
        caller = _on(caller, push.device)
        self._door.enter(caller, "write", push.user, INBOX)
        sees = _seeing(self._door.sights(caller, push.user))
        push = msgspec.structs.replace(push, mutations=self._allowed(caller, push.user, push.mutations), sees=sees)
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

    def _allowed(self, caller: Caller, user: str, mutations: tuple[Mutation, ...]) -> tuple[Mutation, ...]:
        """The mutations, with a flaw those that the caller may not."""
        flaws: dict[str, Flaw | None] = {}
        for collection in {op.collection for each in mutations if each.flaw is None for op in each.ops}:
            flaws[collection] = None
            try:
                self._door.enter(caller, "write", user, collection)
            except RoostError as refusal:
                if refusal.code is not Code.FORBIDDEN:
                    raise
                flaws[collection] = Flaw(refusal.code, refusal.detail, None)
        if not any(flaws.values()):
            return mutations
        return tuple(each if each.flaw else _flawed(each, flaws) for each in mutations)

    async def create_user(self, caller: Caller, user: str) -> tuple[Head, bool]:
        """The user's head, and whether this brought the user into being."""
        self._door.enter(caller, "create", user)
        accepted = await self._writer.run(CreateUser(user, caller.actor))
        return _shown(await self._reader.head(user)), accepted.created

    async def append_log(self, caller: Caller, command: AppendLog) -> Accepted:
        """Append events of another Roost's log, with their own actors: for admins and services."""
        self._door.enter(caller, "import", command.user)
        for index, event in enumerate(command.events):
            if event.collection in HIDDEN:
                try:
                    self._door.enter(caller, "write", command.user, event.collection)
                except RoostError as refusal:
                    refusal.pointer = f"/events/{index}"
                    raise
        await self._door.told(caller, "import", command.user)
        return await self._writer.run(command)

    async def document(self, caller: Caller, ref: DocumentRef, moment: Moment = NOW) -> Point:
        """One document; see `Reader.document`."""
        masked = self._door.read(caller, ref.user, ref.collection)
        point = await self._reader.document(ref, moment)
        if point.document is not None and (masked or ref.collection == INBOX):
            point = point._replace(document=self._door.view(caller, ref.user).document(point.document))
        if self._door.records(caller, ref.collection):
            await self._told_one(caller, ref, [point.document] if point.document else [])
        return point

    async def _told_one(self, caller: Caller, ref: DocumentRef, shown: Iterable[Document | Event]) -> None:
        """Put on record that `caller` is told of one document, or of the conflict that it is."""
        if ref.collection == INBOX:
            await self._door.told(caller, "read", ref.user, told_of(shown) | {INBOX})
        else:
            await self._door.told(caller, "read", ref.user, ref.collection, ref.key)

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
        self._door.read(caller, user, collection)
        while True:
            page = await self._reader.page(user, collection, prefix, after, limit, moment)
            shown = self._door.view(caller, user).documents(page.documents)
            if shown or not page.more:
                break
            # The next page begins after the last document that is shown, so there has to be one.
            after = page.documents[-1].key
        await self._door.told(caller, "read", user, told_of(shown) | {collection})
        return page._replace(head=_shown(page.head), documents=shown)

    async def snapshot(self, caller: Caller, user: str, moment: Moment = NOW) -> Snapshot:
        """All documents that the caller sees; see `Reader.snapshot`."""
        view = self._door.view(caller, user)
        snapshot = await self._reader.snapshot(user, moment)
        shown = view.documents(snapshot.documents)
        await self._door.told(caller, "read", user, told_of(shown))
        return snapshot._replace(head=_shown(snapshot.head), documents=shown)

    async def history(self, caller: Caller, ref: DocumentRef, before: int | None, limit: int) -> History:
        """A document's versions; see `Reader.history`."""
        self._door.read(caller, ref.user, ref.collection)
        history = await self._reader.history(ref, before, limit)
        shown = self._door.view(caller, ref.user).events(history.events)
        await self._told_one(caller, ref, shown)
        return History(_shown(history.head), shown, history.more and bool(shown))

    async def log(
        self,
        caller: Caller,
        user: str,
        after: int,
        limit: int,
        collections: list[str] | None,
        wait_s: float = 0,
    ) -> Log:
        """Events after a cursor, as far as the caller sees them; the cursor moves over those that are not seen.

        With `wait_s` (seconds), an empty answer is held until there is one.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        self._door.enter(caller, "see", user)
        # Following begins before the log is read, so a commit between the two is not missed.
        with self._hub.follow(user) if wait_s else nullcontext() as follower:
            while True:
                view = self._door.view(caller, user)
                narrowed = None if collections is None else view.narrowed(collections)
                log = await self._reader.log(user, after, limit, narrowed)
                shown = view.events(log.events)
                left_s = deadline - loop.time()
                after = log.reached
                if shown or follower is None or left_s <= 0:
                    break
                if after >= log.head.seq and not await follower.wait(log.head.seq, left_s):
                    break
        await self._door.told(caller, "read", user, told_of(shown))
        return log._replace(head=_shown(log.head), events=shown)

    async def follow(
        self, caller: Caller, user: str, after: int, collections: list[str] | None
    ) -> AsyncGenerator[Stretch, None]:
        """A user's log from a cursor on, as far as the caller sees it, until this node stops or the caller does.

        It comes stretch by stretch. The first with `live` comes as soon as the log was read to its end, with events or
        without: from then on events come as they are committed. Raises what `log` raises, also later: `FORBIDDEN` once
        the policies do not let the caller see the log any more.
        """
        self._door.enter(caller, "see", user)
        with self._hub.follow(user) as follower:
            live = confirmed = False
            grown = True
            while not follower.released:
                view = self._door.view(caller, user)
                events = follower.take(after) if live else []
                reached = events[-1].seq if events else after
                if events and collections is not None:
                    events = [event for event in events if event.collection in collections or not event.collection]
                if reached == after and grown:
                    narrowed = None if collections is None else view.narrowed(collections)
                    log = await self._reader.log(user, after, STRETCH_EVENTS_MAX, narrowed)
                    events, reached = log.events, log.reached
                    live = reached >= log.head.seq
                    del log
                if reached > after or (live and not confirmed):
                    events = view.events(events)
                    if events:
                        await self._door.told(caller, "read", user, told_of(events))
                    yield Stretch(events, reached, live)
                    if events and events[-1].kind == "erase":
                        raise user_erased(user)
                after, confirmed = reached, live
                if live:
                    del view, events  # who waits, perhaps for hours, holds on to nothing
                    grown = await follower.wait(after, None)

    async def stay(self, caller: Caller, user: str) -> None:
        """Be counted among those who follow this user's log, without following; returns when this node stops."""
        self._door.enter(caller, "see", user)
        with self._hub.follow(user) as follower:
            while not follower.released:
                await follower.wait(NUMBER_MAX, None)
                self._door.enter(caller, "see", user)
                await self._still_there(user)

    @contextmanager
    def connect(self, caller: Caller, user: str, device: str, cursor: int) -> Iterator[Connection]:
        """The device is connected, inside; see `Presence.connect`."""
        self._door.enter(_on(caller, device), "see", user)
        with self._presence.connect(user, device, cursor) as connection:
            yield connection

    @contextmanager
    def watch(self, caller: Caller, user: str) -> Iterator[Watch]:
        """Be told who is connected, inside; see `Presence.watch`."""
        self._door.enter(caller, "see", user)
        with self._presence.watch(user) as watch:
            yield watch

    async def devices(self, caller: Caller, user: str) -> list[Device]:
        """A user's devices; see `Presence.devices`."""
        self._door.enter(caller, "see", user)
        await self._door.told(caller, "see", user)
        return await self._presence.devices(user)

    async def head(self, caller: Caller, user: str) -> Head:
        """Where a user's log stands."""
        self._door.enter(caller, "see", user)
        await self._door.told(caller, "see", user)
        return _shown(await self._reader.head(user))

    async def erase(self, caller: Caller, user: str) -> Proof:
        """Erase a user for good; see `Departures.erase`."""
        self._door.enter(caller, "erase", user)
        await self._door.told(caller, "erase", user)
        return await self._leaving.erase(user, caller.actor)

    async def erasure(self, caller: Caller, user: str) -> Proof:
        """What proves that a user was erased; see `Departures.proof`."""
        self._door.enter(caller, "erase", user)
        return await self._leaving.proof(user)

    async def export(self, caller: Caller, user: str, after: str | None) -> AsyncGenerator[Told, None]:
        """Everything about a user, as far as the caller sees it, from a place on; see `Departures.export`."""
        self._door.enter(caller, "export", user)
        # Made anew for each piece: an export may take long.
        seeing = partial(self._door.view, caller, user)
        seeing()
        await self._door.told(caller, "export", user)
        sessions = partial(self._door.may, caller, "sessions", user)
        async with aclosing(self._leaving.export(user, seeing, sessions, after)) as pieces:
            async for piece in pieces:
                yield piece

    async def users(self, caller: Caller, after: str | None, limit: int) -> list[Head]:
        """All users, in pages."""
        self._door.enter(caller, "list")
        await self._door.told(caller, "list", None)
        return [_shown(head) for head in await self._reader.users(after, limit)]

    async def define(self, caller: Caller, op: Op, idempotency: Idempotency | None) -> Accepted:
        """Put or delete the definition of a collection (`op.key`); in force here once this returns."""
        self._door.enter(caller, "define")
        self._door.writable(caller, "define", op.key)
        await self._door.told(caller, "define", None, op.key)
        change = Change(SYSTEM_USER, (op,), caller.actor, idempotency)
        accepted = await self._writer.run(change)
        await self._definitions.until(accepted.seq)
        return accepted

    async def definition(self, caller: Caller, collection: str) -> Point:
        """The definition of a collection, as a document of the system user. Raises `NOT_FOUND` if none ever was."""
        self._door.enter(caller, "definitions")
        return await self._reader.document(DocumentRef(SYSTEM_USER, DEFINITIONS, collection), NOW)

    async def definitions(self, caller: Caller, after: str | None, limit: int) -> Page:
        """A page of all definitions. Raises `NOT_FOUND` if there never was one."""
        self._door.enter(caller, "definitions")
        return await self._reader.page(SYSTEM_USER, DEFINITIONS, "", after, limit, NOW)

    @property
    def _leaving(self) -> Departures:
        if self._departures is None:
            raise RoostError(Code.UNAVAILABLE, "Nobody is erased or exported here.")
        return self._departures

    async def _still_there(self, user: str) -> None:
        """Raise `USER_ERASED` where that happened. Whoever is not there yet may come."""
        try:
            await self._reader.head(user)
        except RoostError as refusal:
            if refusal.code is Code.USER_ERASED:
                raise

    async def audit(
        self, caller: Caller, selection: Selection, cursor: Cursor, limit: int, wait_s: float = 0
    ) -> Excerpt:
        """A page of the audit trail; with `wait_s` (seconds), an empty one is held until there is something in it."""
        self._door.enter(caller, "audit")
        await self._door.told(caller, "audit", selection.user)
        if not wait_s:
            return await self._reader.audit(selection, cursor, limit)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        with self._hub.follow(AUDIT) as follower:
            while True:
                found = await self._reader.audit(selection, cursor, limit)
                left_s = deadline - loop.time()
                if found.entries or left_s <= 0 or follower.released:
                    return found
                cursor = found.cursor
                if found.live:
                    await follower.wait(found.end, min(left_s, AUDIT_LOOK_S))
                self._door.enter(caller, "audit")

    async def follow_audit(
        self, caller: Caller, selection: Selection, cursor: Cursor, limit: int
    ) -> AsyncGenerator[Excerpt, None]:
        """The audit trail from a cursor on, page by page, until this node stops or the caller does.

        The first page may be empty, no other is. Raises `FORBIDDEN`, also later.
        """
        self._door.enter(caller, "audit")
        await self._door.told(caller, "audit", selection.user)
        begun = False
        with self._hub.follow(AUDIT) as follower:
            while not follower.released:
                found = await self._reader.audit(selection, cursor, limit)
                cursor = found.cursor
                if found.entries or not begun:
                    begun = True
                    yield found
                if found.live:
                    await follower.wait(found.end, AUDIT_LOOK_S)
                self._door.enter(caller, "audit")

    async def ready(self) -> None:
        """Whether this node can serve. Raises `UNAVAILABLE`. Nothing of anybody's state is told, so no principal."""
        await self._reader.ready()
        self._definitions.check()


def _seeing(view: View) -> Sees:
    return lambda document: view.document(document) is not None


def _on(caller: Caller, device: str) -> Caller:
    """The caller as one on this device."""
    return msgspec.structs.replace(caller, origin=msgspec.structs.replace(caller.origin, device=device))


def _flawed(mutation: Mutation, flaws: Mapping[str, Flaw | None]) -> Mutation:
    """The mutation with the flaw of the first of its ops that has one."""
    for index, op in enumerate(mutation.ops):
        if flaw := flaws[op.collection]:
            return msgspec.structs.replace(mutation, flaw=msgspec.structs.replace(flaw, pointer=f"/ops/{index}"))
    return mutation


def _shown(head: Head) -> Head:
    """A head that does not count what is hidden."""
    if HIDDEN.isdisjoint(head.counts):
        return head
    counts = {collection: count for collection, count in head.counts.items() if collection not in HIDDEN}
    return msgspec.structs.replace(head, counts=counts)
