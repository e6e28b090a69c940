"""The client for asyncio: `roost.client.protocol` and an `AsyncCarrier`.

`roost/client/sync.py` is this file without the waiting; it is made from this one, and a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack

import httpx

from roost.client import logins, protocol, trail
from roost.client.asking import Condition
from roost.client.carry import AsyncCarrier
from roost.client.definitions import Collections
from roost.client.exchange import Limits, Session, Token
from roost.client.login import Login
from roost.client.logins import About, Logins
from roost.client.models import (
    AuditFilter,
    AuditPage,
    Collection,
    Committed,
    Document,
    Erasure,
    Event,
    ExportPage,
    InboxConflict,
    Json,
    Log,
    LoginSession,
    Members,
    Page,
    PastVersion,
    Sibling,
    Snapshot,
    UserInfo,
)


class Client:
    """A Roost server: `async with Client(url, token) as c: await c.user("ada").docs("preferences").put("ui", {})`.

    `token` is a string, a function that returns one (it is asked for each call, so a fresh one can be given), or a
    `Login`. A client without any may `log_in`, and is logged in from then on. `purpose` is what its calls are for, as
    support staff have to say; it goes on record.
    Calls are tried again within `limits` while that can help; writes are never applied twice. Reads see what this
    client wrote. Every call may raise `RoostError`; the tree is in `roost.client.errors`. With `http`, that
    httpx client carries the requests, with its own certificates and proxies, and is yours to close.
    """

    def __init__(
        self,
        url: str,
        token: Token = None,
        *,
        purpose: str | None = None,
        limits: Limits | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        limits = limits or Limits()
        self._session = Session(url, token, limits, purpose=purpose)
        self._carry = AsyncCarrier(url, limits, http)

    def user(self, user: str, *, at_least: int = 0) -> User:
        """One user's log and documents. Nothing is asked of the server yet.

        With `at_least`, a `seq` that some write returned, perhaps in another process, reads see that write.
        """
        return User(self._session, self._carry, user, at_least)

    async def sign_up(self, user: str, password: str, *, device: str | None = None, name: str | None = None) -> Login:
        """Bring a user with a password into being, and log in. See `log_in`.

        For everybody where sign-up is open, else with the token of an admin or a service. Raises `UserExists`, also
        where the user came into being by a first attempt whose answer was lost.
        """
        return await self._carry(logins.sign_up(self._session, user, password, About(device, name)))

    async def log_in(self, user: str, password: str, *, device: str | None = None, name: str | None = None) -> Login:
        """Begin a session. `device` and `name` tell it in lists of them. Raises `Unauthenticated`, `RateLimited`.

        If this client has a `Login`, or no token at all, its calls carry the session from then on; it is renewed by
        itself. For other clients and replicas, hand the login on as their token.
        """
        return await self._carry(logins.log_in(self._session, user, password, About(device, name)))

    async def log_out(self) -> None:
        """End the session, on every node within a second. Of a `Login`, nothing is kept then; it may be repeated."""
        await self._carry(logins.log_out(self._session))

    async def change_password(self, password: str, *, current: str | None = None, user: str | None = None) -> None:
        """Replace a password, and end all other sessions. Users give the `current` one; for others, admins may."""
        await self._carry(logins.change_password(self._session, password, current, user))

    async def users(self, *, page_size: int | None = None) -> AsyncIterator[UserInfo]:
        """All users, in an order of the server's own; for admins and services."""
        after = None
        while True:
            page = await self.users_page(after, limit=page_size)
            for user in page.items:
                yield user
            if (after := page.next) is None:
                return

    async def users_page(self, after: str | None = None, *, limit: int | None = None) -> Page[UserInfo]:
        """One page of `users`: go on with `after=page.next`, perhaps another day."""
        return await self._carry(protocol.users_page(self._session, after, limit))

    async def audit_page(
        self,
        after: str | None = None,
        *,
        limit: int | None = None,
        wait_s: float = 0,
        **narrowed: Unpack[AuditFilter],
    ) -> AuditPage:
        """A page of the audit trail, as far as it is not narrowed away; for admins. Go on with `after=page.next`.

        Of one `user`, the writes in the user's log are among the records. With `wait_s` (seconds), an empty page is
        held until there is a record.
        """
        return await self._carry(trail.page(self._session, after, limit, wait_s, narrowed))

    async def collections(self, *, page_size: int | None = None) -> AsyncIterator[Collection]:
        """All collections that are defined, by name, page after page."""
        calls = Collections(self._session)
        after = None
        while True:
            page = await self._carry(calls.page(after, page_size))
            for collection in page.items:
                yield collection
            if (after := page.next) is None:
                return

    async def collection(self, name: str) -> Collection | None:
        """What is defined of a collection; None if nothing is, and the server's settings say what happens there."""
        return await self._carry(Collections(self._session).get(name))

    async def define(
        self,
        name: str,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        idempotency_key: str | None = None,
        **members: Unpack[Members],
    ) -> Collection:
        """Define a collection: `define("notes", conflict="merge", privacy="sensitive")`. For admins.

        What is not told stays as it is defined; `conflict`, the conflict policy, has to be told the first time.
        Raises `VersionConflict` where a condition is given that does not hold.
        """
        condition = Condition(version=if_version, absent=if_absent)
        return await self._carry(Collections(self._session).define(name, members, condition, idempotency_key))

    async def undefine(self, name: str, *, if_version: int | None = None, idempotency_key: str | None = None) -> None:
        """Take a collection's definition away; its documents stay. For admins. Raises `NotFound`, `VersionConflict`."""
        calls = Collections(self._session)
        await self._carry(calls.undefine(name, Condition(version=if_version), idempotency_key))

    async def bearer(self) -> str | None:
        """The token that calls carry now, renewed if need be: for what speaks to the server beside this client."""
        return await self._carry(self._session.bearer())

    async def revoke(self, token: str) -> None:
        """End what a token stands for: its session, or where it is of none, the token."""
        await self._carry(logins.revoke(self._session, token))

    async def ready(self) -> None:
        """Wait until the server can serve; raises `Unavailable` if the limits are reached first."""
        await self._carry(protocol.ready(self._session))

    async def close(self) -> None:
        """Let go of every connection."""
        await self._carry.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class User:
    """One user: an ordered log, and the documents that it adds up to. Made by `Client.user`."""

    def __init__(self, session: Session, carry: AsyncCarrier, user: str, at_least: int) -> None:
        self._session = session
        self._carry = carry
        self._calls = protocol.User(session, user)
        if at_least:
            session.wrote(user, at_least)

    @property
    def seq(self) -> int:
        """The highest `seq` this client has written or was told of: hand it on as `at_least`."""
        return self._session.at_least(self._calls.user)

    def docs(self, collection: str) -> Docs:
        """The documents of a collection."""
        return Docs(self._session, self._carry, self._calls.user, collection)

    def batch(self, *, idempotency_key: str | None = None) -> Batch:
        """An empty batch: add ops to it, then `commit`."""
        return Batch(self._calls, self._carry, idempotency_key)

    async def create(self, home: str | None = None) -> UserInfo:
        """Bring the user into being, in the region `home`. A first write does so too. Raises `HomeConflict`."""
        return await self._carry(self._calls.create(home))

    async def get(self) -> UserInfo:
        """Where the log stands. Raises `NotFound`."""
        return await self._carry(self._calls.get())

    async def sessions(self) -> tuple[LoginSession, ...]:
        """Where the user is logged in, the session that was used last first."""
        return await self._carry(Logins(self._session, self._calls.user).list())

    async def name_session(self, session: str, name: str | None) -> LoginSession:
        """Give a session another name, or none. Raises `NotFound`."""
        return await self._carry(Logins(self._session, self._calls.user).rename(session, name))

    async def end_session(self, session: str) -> None:
        """End a session: its tokens are refused on every node within a second. Raises `NotFound`."""
        await self._carry(Logins(self._session, self._calls.user).end(session))

    async def end_sessions(self, *, but_current: bool = False) -> None:
        """End all sessions, or all but the one of this client's own token."""
        await self._carry(Logins(self._session, self._calls.user).end_all(but_current=but_current))

    async def erase(self) -> Erasure:
        """Erase the user, for good; to repeat it gives the same receipt. Raises `NotFound`."""
        return await self._carry(self._calls.erase())

    async def erasure(self) -> Erasure:
        """The receipt of the user's erasure. Raises `NotFound` where there was none."""
        return await self._carry(self._calls.erasure())

    async def export_page(self, after: str | None = None, *, limit: int = 1_000) -> ExportPage:
        """Everything about the user, about `limit` lines at a time; `page.next` is `after` of the next."""
        return await self._carry(self._calls.export_page(after, limit))

    async def snapshot(self, *, at_seq: int | None = None, at: datetime | None = None) -> Snapshot:
        """All documents at one moment: now, or as they were. Raises `NotFound`, `CursorAhead`, `CursorCompacted`."""
        return await self._carry(self._calls.snapshot(at_seq, at))

    async def events(
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
        return await self._carry(self._calls.events(after, limit, wait_s, collections))

    async def follow(
        self, after: int = 0, *, collections: Sequence[str] | None = None, wait_s: float = 25.0
    ) -> AsyncIterator[Event]:
        """Every event after the seq `after`, then each new one as it happens, for ever.

        It outlasts restarts of the server (up to `Limits.outage_s`), without missing or repeating an event. To
        go on in another process, keep the last `event.seq` as `after`. It holds a connection while it waits.
        """
        while True:
            log = await self._carry(self._calls.next_events(after, wait_s, collections))
            for event in log.events:
                yield event
            after = log.seq

    async def conflicts(self, *, page_size: int | None = None) -> AsyncIterator[InboxConflict]:
        """The inbox: what conflicts between devices have set aside, oldest first, page after page."""
        after = None
        while True:
            page = await self._carry(self._calls.conflicts_page(after, page_size))
            for conflict in page.items:
                yield conflict
            if (after := page.next) is None:
                return

    async def dismiss(self, conflict: str) -> None:
        """Take a conflict, by its id, out of the inbox. Raises `NotFound`."""
        await self._carry(self._calls.dismiss(conflict))

    async def append_events(self, events: Iterable[Event]) -> int:
        """Append up to 1,000 events of an exported log; those already there are compared and skipped.

        Returns where the log stands then. Raises `LogConflict`.
        """
        return await self._carry(self._calls.append_events(events))


class Docs:
    """The documents of one collection of one user. Made by `User.docs`.

    A write takes at most one condition: `if_version`, the version it replaces (0: there must be none), `if_absent`
    or `if_present`. Where it does not hold, `VersionConflict` is raised, with what is `current`. With an
    `idempotency_key` of your own (one is made otherwise), a repeated write is applied once, for 24 hours.
    """

    def __init__(self, session: Session, carry: AsyncCarrier, user: str, collection: str) -> None:
        self._carry = carry
        self._calls = protocol.Docs(session, user, collection)

    async def get(self, key: str, *, at_seq: int | None = None, at: datetime | None = None) -> Document | None:
        """The document, now or as it was; None where there is none."""
        return await self._carry(self._calls.get(key, at_seq, at))

    async def refresh(self, document: Document) -> Document | None:
        """The document as it is now: the same object, and no value sent, if it has not changed."""
        return await self._carry(self._calls.refresh(document))

    async def version(self, key: str) -> int | None:
        """The document's version without its value; None where there is none."""
        return await self._carry(self._calls.version(key))

    async def put(
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
        return await self._carry(self._calls.put(key, value, condition, idempotency_key))

    async def merge(
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
        return await self._carry(self._calls.merge(key, patch, condition, idempotency_key))

    async def patch(
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
        return await self._carry(self._calls.patch(key, operations, condition, idempotency_key))

    async def edit(
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
        return await self._carry(self._calls.edit(key, edits, condition, idempotency_key))

    async def siblings(self, key: str) -> tuple[Sibling, ...]:
        """All values of the document that stand side by side, the newest last; nearly always one.

        A write with the last one's version as `if_version` has seen them all, and replaces them.
        """
        return await self._carry(self._calls.siblings(key))

    async def delete(self, key: str, *, if_version: int | None = None, idempotency_key: str | None = None) -> int:
        """Delete the document; returns the tombstone's version. Raises `NotFound`, `VersionConflict`."""
        return await self._carry(self._calls.delete(key, Condition(version=if_version), idempotency_key))

    async def restore(
        self, key: str, version: int, *, if_version: int | None = None, idempotency_key: str | None = None
    ) -> Document:
        """Write the value of an earlier version again, as a new event. Raises `NotFound`, `VersionConflict`."""
        return await self._carry(self._calls.restore(key, version, Condition(version=if_version), idempotency_key))

    async def update(self, key: str, change: Callable[[Json], Json]) -> Document:
        """Read, `change(value)` (None where there is no document) and write what it returns.

        Nobody's edit is lost: if somebody wrote in between, `change` is called again with their value, so it may
        run more than once. Raises `VersionConflict` after `Limits.conflicts` times.
        """
        return await self._carry(self._calls.update(key, change))

    async def list(self, prefix: str = "", *, page_size: int | None = None) -> AsyncIterator[Document]:
        """The documents whose key starts with `prefix`, by key, page after page."""
        after = None
        while True:
            page = await self.page(prefix, after=after, limit=page_size)
            for document in page.items:
                yield document
            if (after := page.next) is None:
                return

    async def page(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> Page[Document]:
        """One page of `list`: go on with `after=page.next`."""
        return await self._carry(self._calls.page(prefix, after, limit))

    async def history(self, key: str, *, page_size: int | None = None) -> AsyncIterator[PastVersion]:
        """The document's versions, newest first, page after page. Raises `NotFound`."""
        before = None
        while True:
            page = await self._carry(self._calls.history_page(key, before, page_size))
            for version in page.items:
                yield version
            if (before := page.next) is None:
                return


class Batch(protocol.Ops):
    """A batch in the making: `await user.batch().put("carts", "main", {}).delete("wishes", "3").commit()`.

    Up to 500 ops on one user's documents, carried out all or none. It has one idempotency key, so committing the
    same batch again (after `Unavailable`, say) never applies it twice.
    """

    def __init__(self, calls: protocol.User, carry: AsyncCarrier, idempotency_key: str | None) -> None:
        super().__init__(idempotency_key)
        self._calls = calls
        self._carry = carry

    async def commit(self) -> Committed:
        """Carry out all ops, or none. A refusal's `errors[0].pointer` names the op: `/ops/3`."""
        return await self._carry(self._calls.commit(self))
