"""The client without asyncio: `roost.client.protocol` and a `SyncCarrier`.

This file is made from `roost/client/aio.py` (`python tests/unit/client/twin.py`): change that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack

import httpx

from roost.client import logins, protocol, trail
from roost.client.asking import Condition
from roost.client.carry import SyncCarrier
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


class SyncClient:
    """A Roost server: `with SyncClient(url, token) as c: c.user("ada").docs("preferences").put("ui", {})`.

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
        http: httpx.Client | None = None,
    ) -> None:
        limits = limits or Limits()
        self._session = Session(url, token, limits, purpose=purpose)
        self._carry = SyncCarrier(url, limits, http)

    def user(self, user: str, *, at_least: int = 0) -> SyncUser:
        """One user's log and documents. Nothing is asked of the server yet.

        With `at_least`, a `seq` that some write returned, perhaps in another process, reads see that write.
        """
        return SyncUser(self._session, self._carry, user, at_least)

    def sign_up(self, user: str, password: str, *, device: str | None = None, name: str | None = None) -> Login:
        """Bring a user with a password into being, and log in. See `log_in`.

        For everybody where sign-up is open, else with the token of an admin or a service. Raises `UserExists`, also
        where the user came into being by a first attempt whose answer was lost.
        """
        return self._carry(logins.sign_up(self._session, user, password, About(device, name)))

    def log_in(self, user: str, password: str, *, device: str | None = None, name: str | None = None) -> Login:
        """Begin a session. `device` and `name` tell it in lists of them. Raises `Unauthenticated`, `RateLimited`.

        If this client has a `Login`, or no token at all, its calls carry the session from then on; it is renewed by
        itself. For other clients and replicas, hand the login on as their token.
        """
        return self._carry(logins.log_in(self._session, user, password, About(device, name)))

    def log_out(self) -> None:
        """End the session, on every node within a second. Of a `Login`, nothing is kept then; it may be repeated."""
        self._carry(logins.log_out(self._session))

    def change_password(self, password: str, *, current: str | None = None, user: str | None = None) -> None:
        """Replace a password, and end all other sessions. Users give the `current` one; for others, admins may."""
        self._carry(logins.change_password(self._session, password, current, user))

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

    def audit_page(
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
        return self._carry(trail.page(self._session, after, limit, wait_s, narrowed))

    def collections(self, *, page_size: int | None = None) -> Iterator[Collection]:
        """All collections that are defined, by name, page after page."""
        calls = Collections(self._session)
        after = None
        while True:
            page = self._carry(calls.page(after, page_size))
            yield from page.items
            if (after := page.next) is None:
                return

    def collection(self, name: str) -> Collection | None:
        """What is defined of a collection; None if nothing is, and the server's settings say what happens there."""
        return self._carry(Collections(self._session).get(name))

    def define(
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
        return self._carry(Collections(self._session).define(name, members, condition, idempotency_key))

    def undefine(self, name: str, *, if_version: int | None = None, idempotency_key: str | None = None) -> None:
        """Take a collection's definition away; its documents stay. For admins. Raises `NotFound`, `VersionConflict`."""
        calls = Collections(self._session)
        self._carry(calls.undefine(name, Condition(version=if_version), idempotency_key))

    def bearer(self) -> str | None:
        """The token that calls carry now, renewed if need be: for what speaks to the server beside this client."""
        return self._carry(self._session.bearer())

    def revoke(self, token: str) -> None:
        """End what a token stands for: its session, or where it is of none, the token."""
        self._carry(logins.revoke(self._session, token))

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

    def sessions(self) -> tuple[LoginSession, ...]:
        """Where the user is logged in, the session that was used last first."""
        return self._carry(Logins(self._session, self._calls.user).list())

    def name_session(self, session: str, name: str | None) -> LoginSession:
        """Give a session another name, or none. Raises `NotFound`."""
        return self._carry(Logins(self._session, self._calls.user).rename(session, name))

    def end_session(self, session: str) -> None:
        """End a session: its tokens are refused on every node within a second. Raises `NotFound`."""
        self._carry(Logins(self._session, self._calls.user).end(session))

    def end_sessions(self, *, but_current: bool = False) -> None:
        """End all sessions, or all but the one of this client's own token."""
        self._carry(Logins(self._session, self._calls.user).end_all(but_current=but_current))

    def erase(self) -> Erasure:
        """Erase the user, for good; to repeat it gives the same receipt. Raises `NotFound`."""
        return self._carry(self._calls.erase())

    def erasure(self) -> Erasure:
        """The receipt of the user's erasure. Raises `NotFound` where there was none."""
        return self._carry(self._calls.erasure())

    def export_page(self, after: str | None = None, *, limit: int = 1_000) -> ExportPage:
        """Everything about the user, about `limit` lines at a time; `page.next` is `after` of the next."""
        return self._carry(self._calls.export_page(after, limit))

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
