"""The client without asyncio: `roost.client.protocol` and a `SyncCarrier`.

This file is made from `roost/client/aio.py` (`python tests/unit/client/twin.py`): change that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import httpx

from roost.client import protocol
from roost.client.carry import SyncCarrier
from roost.client.exchange import Limits, Session
from roost.client.models import (
    Collection,
    Committed,
    Document,
    Event,
    InboxConflict,
    Json,
    Log,
    Page,
    PastVersion,
    Sibling,
    Snapshot,
    UserInfo,
)
from roost.client.protocol import Condition
from roost.core.definitions import Policy


class SyncClient:
    """A Roost server: `with SyncClient(url, token) as c: c.user("ada").docs("preferences").put("ui", {})`.

    `token` is a string, or a function that returns one (it is asked for each call, so a fresh one can be given).
    Calls are tried again within `limits` while that can help; writes are never applied twice. Reads see what this
    client wrote. Every call may raise `RoostError`; the tree is in `roost.client.errors`. With `http`, that
    httpx client carries the requests, with its own certificates and proxies, and is yours to close.
    """

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str] | None = None,
        *,
        limits: Limits | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        limits = limits or Limits()
        self._session = Session(url, token, limits)
        self._carry = SyncCarrier(url, limits, http)

    def user(self, user: str, *, at_least: int = 0) -> SyncUser:
        """One user's log and documents. Nothing is asked of the server yet.

        With `at_least`, a `seq` that some write returned, perhaps in another process, reads see that write.
        """
        return SyncUser(self._session, self._carry, user, at_least)

    def users(self, *, page_size: int | None = None) -> Iterator[UserInfo]:
        """All users, in an order of the server's own; for admins and services."""
        after = None
        while True:
            page = self.users_page(after, limit=page_size)
            yield from page.items
            if (after := page.next) is None:
                return

    def users_page(self, after: str | None = None, *, limit: int | None = None) -> Page[UserInfo]:
        """One page of `users`: go on with `after=page.next`, perhaps another day."""
        return self._carry(protocol.users_page(self._session, after, limit))

    def collections(self, *, page_size: int | None = None) -> Iterator[Collection]:
        """All collections that are defined, by name, page after page."""
        calls = protocol.Collections(self._session)
        after = None
        while True:
            page = self._carry(calls.page(after, page_size))
            yield from page.items
            if (after := page.next) is None:
                return

    def collection(self, name: str) -> Collection | None:
        """What is defined of a collection; None if nothing is, and the server's settings say what happens there."""
        return self._carry(protocol.Collections(self._session).get(name))

    def define(
        self,
        name: str,
        *,
        conflict: Policy,
        if_version: int | None = None,
        if_absent: bool = False,
        idempotency_key: str | None = None,
    ) -> Collection:
        """Define a collection: `conflict` is its conflict policy. For admins. Raises `VersionConflict`."""
        condition = Condition(version=if_version, absent=if_absent)
        return self._carry(protocol.Collections(self._session).define(name, conflict, condition, idempotency_key))

    def undefine(self, name: str, *, if_version: int | None = None, idempotency_key: str | None = None) -> None:
        """Take a collection's definition away; its documents stay. For admins. Raises `NotFound`, `VersionConflict`."""
        calls = protocol.Collections(self._session)
        self._carry(calls.undefine(name, Condition(version=if_version), idempotency_key))

    def ready(self) -> None:
        """Wait until the server can serve; raises `Unavailable` if the limits are reached first."""
        self._carry(protocol.ready(self._session))

    def close(self) -> None:
        """Let go of every connection."""
        self._carry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncUser:
    """One user: an ordered log, and the documents that it adds up to. Made by `SyncClient.user`."""

    def __init__(self, session: Session, carry: SyncCarrier, user: str, at_least: int) -> None:
        self._session = session
        self._carry = carry
        self._calls = protocol.User(session, user)
        if at_least:
            session.wrote(user, at_least)

    @property
    def seq(self) -> int:
        """The highest `seq` this client has written or was told of: hand it on as `at_least`."""
        return self._session.at_least(self._calls.user)

    def docs(self, collection: str) -> SyncDocs:
        """The documents of a collection."""
        return SyncDocs(self._session, self._carry, self._calls.user, collection)

    def batch(self, *, idempotency_key: str | None = None) -> SyncBatch:
        """An empty batch: add ops to it, then `commit`."""
        return SyncBatch(self._calls, self._carry, idempotency_key)

    def create(self, home: str | None = None) -> UserInfo:
        """Bring the user into being, in the region `home`. A first write does so too. Raises `HomeConflict`."""
        return self._carry(self._calls.create(home))

    def get(self) -> UserInfo:
        """Where the log stands. Raises `NotFound`."""
        return self._carry(self._calls.get())

    def snapshot(self, *, at_seq: int | None = None, at: datetime | None = None) -> Snapshot:
        """All documents at one moment: now, or as they were. Raises `NotFound`, `CursorAhead`, `CursorCompacted`."""
        return self._carry(self._calls.snapshot(at_seq, at))

    def events(
        self,
        after: int = 0,
        *,
        limit: int | None = None,
        wait_s: float = 0.0,
        collections: Sequence[str] | None = None,
    ) -> Log:
        """Some events after the seq `after`; `log.seq` is the cursor for the next call.

        With `wait_s` (up to 30), the server holds an empty answer until there is an event. `collections` narrows;
        the cursor still moves over what was left out. Raises `NotFound`, `CursorAhead`, `CursorCompacted`.
        """
        return self._carry(self._calls.events(after, limit, wait_s, collections))

    def follow(
        self, after: int = 0, *, collections: Sequence[str] | None = None, wait_s: float = 25.0
    ) -> Iterator[Event]:
        """Every event after the seq `after`, then each new one as it happens, for ever.

        It outlasts restarts of the server (up to `Limits.outage_s`), without missing or repeating an event. To
        go on in another process, keep the last `event.seq` as `after`. It holds a connection while it waits.
        """
        while True:
            log = self._carry(self._calls.next_events(after, wait_s, collections))
            yield from log.events
            after = log.seq

    def conflicts(self, *, page_size: int | None = None) -> Iterator[InboxConflict]:
        """The inbox: what conflicts between devices have set aside, oldest first, page after page."""
        after = None
        while True:
            page = self._carry(self._calls.conflicts_page(after, page_size))
            yield from page.items
            if (after := page.next) is None:
                return

    def dismiss(self, conflict: str) -> None:
        """Take a conflict, by its id, out of the inbox. Raises `NotFound`."""
        self._carry(self._calls.dismiss(conflict))

    def append_events(self, events: Iterable[Event]) -> int:
        """Append up to 1,000 events of an exported log; those already there are compared and skipped.

        Returns where the log stands then. Raises `LogConflict`.
        """
        return self._carry(self._calls.append_events(events))


class SyncDocs:
    """The documents of one collection of one user. Made by `SyncUser.docs`.

    A write takes at most one condition: `if_version`, the version it replaces (0: there must be none), `if_absent`
    or `if_present`. Where it does not hold, `VersionConflict` is raised, with what is `current`. With an
    `idempotency_key` of your own (one is made otherwise), a repeated write is applied once, for 24 hours.
    """

    def __init__(self, session: Session, carry: SyncCarrier, user: str, collection: str) -> None:
        self._carry = carry
        self._calls = protocol.Docs(session, user, collection)

    def get(self, key: str, *, at_seq: int | None = None, at: datetime | None = None) -> Document | None:
        """The document, now or as it was; None where there is none."""
        return self._carry(self._calls.get(key, at_seq, at))

    def refresh(self, document: Document) -> Document | None:
        """The document as it is now: the same object, and no value sent, if it has not changed."""
        return self._carry(self._calls.refresh(document))

    def version(self, key: str) -> int | None:
        """The document's version without its value; None where there is none."""
        return self._carry(self._calls.version(key))

    def put(
        self,
        key: str,
        value: Json,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        idempotency_key: str | None = None,
    ) -> Document:
        """Write a value. Raises `VersionConflict`, `PreconditionRequired`, `InvalidJson`, `TooLarge`."""
        condition = Condition(version=if_version, absent=if_absent, present=if_present)
        return self._carry(self._calls.put(key, value, condition, idempotency_key))

    def merge(
        self,
        key: str,
        patch: Json,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        idempotency_key: str | None = None,
    ) -> Document:
        """Apply a JSON Merge Patch (RFC 7396): members replace members, None removes one."""
        condition = Condition(version=if_version, absent=if_absent, present=if_present)
        return self._carry(self._calls.merge(key, patch, condition, idempotency_key))

    def patch(
        self,
        key: str,
        operations: Sequence[Json],
        *,
        if_version: int | None = None,
        if_present: bool = False,
        idempotency_key: str | None = None,
    ) -> Document:
        """Apply a JSON Patch (RFC 6902), a list of operations. Raises `NotFound`, `PatchFailed`."""
        condition = Condition(version=if_version, present=if_present)
        return self._carry(self._calls.patch(key, operations, condition, idempotency_key))

    def edit(
        self,
        key: str,
        edits: Sequence[Json],
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        idempotency_key: str | None = None,
    ) -> Document:
        """Change field by field, whatever the value is by now: `Edit("inc", "/apples", 2)`, or objects like it.

        A document that is not there is made. Raises `PatchFailed` where an edit does not fit what is there.
        """
        condition = Condition(version=if_version, absent=if_absent, present=if_present)
        return self._carry(self._calls.edit(key, edits, condition, idempotency_key))

    def siblings(self, key: str) -> tuple[Sibling, ...]:
        """All values of the document that stand side by side, the newest last; nearly always one.

        A write with the last one's version as `if_version` has seen them all, and replaces them.
        """
        return self._carry(self._calls.siblings(key))

    def delete(self, key: str, *, if_version: int | None = None, idempotency_key: str | None = None) -> int:
        """Delete the document; returns the tombstone's version. Raises `NotFound`, `VersionConflict`."""
        return self._carry(self._calls.delete(key, Condition(version=if_version), idempotency_key))

    def restore(
        self, key: str, version: int, *, if_version: int | None = None, idempotency_key: str | None = None
    ) -> Document:
        """Write the value of an earlier version again, as a new event. Raises `NotFound`, `VersionConflict`."""
        return self._carry(self._calls.restore(key, version, Condition(version=if_version), idempotency_key))

    def update(self, key: str, change: Callable[[Json], Json]) -> Document:
        """Read, `change(value)` (None where there is no document) and write what it returns.

        Nobody's edit is lost: if somebody wrote in between, `change` is called again with their value, so it may
        run more than once. Raises `VersionConflict` after `Limits.conflicts` times.
        """
        return self._carry(self._calls.update(key, change))

    def list(self, prefix: str = "", *, page_size: int | None = None) -> Iterator[Document]:
        """The documents whose key starts with `prefix`, by key, page after page."""
        after = None
        while True:
            page = self.page(prefix, after=after, limit=page_size)
            yield from page.items
            if (after := page.next) is None:
                return

    def page(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> Page[Document]:
        """One page of `list`: go on with `after=page.next`."""
        return self._carry(self._calls.page(prefix, after, limit))

    def history(self, key: str, *, page_size: int | None = None) -> Iterator[PastVersion]:
        """The document's versions, newest first, page after page. Raises `NotFound`."""
        before = None
        while True:
            page = self._carry(self._calls.history_page(key, before, page_size))
            yield from page.items
            if (before := page.next) is None:
                return


class SyncBatch(protocol.Ops):
    """A batch in the making: `user.batch().put("carts", "main", {}).delete("wishes", "3").commit()`.

    Up to 500 ops on one user's documents, carried out all or none. It has one idempotency key, so committing the
    same batch again (after `Unavailable`, say) never applies it twice.
    """

    def __init__(self, calls: protocol.User, carry: SyncCarrier, idempotency_key: str | None) -> None:
        super().__init__(idempotency_key)
        self._calls = calls
        self._carry = carry

    def commit(self) -> Committed:
        """Carry out all ops, or none. A refusal's `errors[0].pointer` names the op: `/ops/3`."""
        return self._carry(self._calls.commit(self))
