"""The read side: documents, pages, snapshots, history and logs, at the moment that was asked for.

Everything but point reads goes to the engine directly, a bounded number at a time; reads change nothing, so
one that meets an engine that does not answer is repeated until its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from roost.core.audit import Cursor, Excerpt, Selection
from roost.core.errors import Code, RoostError, user_erased
from roost.core.events import Head
from roost.core.ids import SYSTEM_USER
from roost.core.moment import Moment
from roost.core.ports import (
    DocumentRef,
    Engine,
    EngineUnavailable,
    History,
    Log,
    Page,
    Point,
    Snapshot,
    TransactionLost,
)
from roost.queries.audit import excerpt
from roost.queries.points import Points
from roost.settings import Settings

Result = TypeVar("Result")
_PAUSE_S = 0.05


class Reader:
    """Reads of one node. Every method raises `NOT_FOUND` where there is no such user, `USER_ERASED` where one was."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._points = Points(engine, settings)
        self._timeout_s = settings.engine_timeout_s
        self._room = settings.pages_max
        self._free = settings.pages_max

    async def document(self, ref: DocumentRef, moment: Moment) -> Point:
        """One document (None, or a tombstone, where there is none) and the user's seq, at a moment."""
        if moment.seq is None and moment.at is None:
            point = await self._points.get(ref)
            if point.seq is None:
                raise _no_user(ref.user)
            if point.erased:
                raise user_erased(ref.user)
            _reaches(point.seq, moment.at_least)
            return point
        seq = await self._seq(ref.user, moment)
        head, document = await self._ask(lambda: self._engine.document_at(ref, seq))
        return Point(_within(head, ref.user, seq, moment).seq, document)

    async def page(
        self, user: str, collection: str, prefix: str, after: str | None, limit: int, moment: Moment
    ) -> Page:
        """A page of a collection, as it is now."""
        page = await self._ask(lambda: self._engine.page(user, collection, prefix, after, limit))
        if page is None:
            raise _no_user(user)
        _alive(page.head)
        _reaches(page.head.seq, moment.at_least)
        return page

    async def snapshot(self, user: str, moment: Moment) -> Snapshot:
        """All documents of a user, at a moment."""
        past = moment.seq is not None or moment.at is not None
        seq = await self._seq(user, moment) if past else None
        snapshot = await self._ask(lambda: self._engine.snapshot(user, seq))
        if snapshot is None:
            raise _no_user(user)
        _within(snapshot.head, user, snapshot.seq if seq is None else seq, moment)
        return snapshot

    async def history(self, ref: DocumentRef, before: int | None, limit: int) -> History:
        """A document's events, newest first. Raises `NOT_FOUND` where there never was such a document."""
        history = await self._ask(lambda: self._engine.history(ref, before, limit))
        if history is None:
            raise _no_user(ref.user)
        _alive(history.head)
        if not history.events and before is None:
            kept = (
                "There is no such document in what is kept."
                if history.head.floor
                else "There never was such a document."
            )
            raise RoostError(Code.NOT_FOUND, kept)
        return history

    async def log(self, user: str, after: int, limit: int, collections: list[str] | None, *, kept: bool = False) -> Log:
        """A user's events after a cursor; what is `kept` of those up to the floor only where that is asked for."""
        log = await self._ask(lambda: self._engine.log(user, after, limit, collections))
        if log is None:
            raise _no_user(user)
        _alive(log.head)
        if after < log.head.floor and not kept:
            detail = f"Events up to {log.head.floor} are no longer kept: start again from a snapshot."
            raise RoostError(Code.CURSOR_COMPACTED, detail)
        if after > log.head.seq:
            raise RoostError(Code.CURSOR_AHEAD, f"The log stands at {log.head.seq}, the cursor is ahead of it.")
        return log

    async def head(self, user: str) -> Head:
        """Where a user's log stands."""
        head = await self._ask(lambda: self._engine.head(user))
        if head is None:
            raise _no_user(user)
        return _alive(head)

    async def users(self, after: str | None, limit: int) -> list[Head]:
        """Users in the engine's order, without those who were erased and the system user, who is nobody's."""
        found: list[Head] = []
        while len(found) < limit:
            heads = await self._ask(partial(self._engine.users, after, limit + 1))
            found += [head for head in heads if head.user != SYSTEM_USER and head.erased_at is None]
            if len(heads) <= limit:
                break
            after = heads[-1].user
        return found[:limit]

    async def audit(self, selection: Selection, cursor: Cursor, limit: int) -> Excerpt:
        """A page of the audit trail."""
        return await self._ask(lambda: excerpt(self._engine, selection, cursor, limit))

    async def ready(self) -> None:
        """Return if the engine answers now. Raises `EngineUnavailable`."""
        await self._in_time(self._engine.ping())

    async def _seq(self, user: str, moment: Moment) -> int:
        """The seq that a moment of the past means."""
        at = moment.at
        if at is None:
            return moment.seq or 0
        seq = await self._ask(lambda: self._engine.seq_at(user, at))
        if seq is None:
            raise _no_user(user)
        return seq

    async def _ask(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask until there is an answer, or time is over."""
        return await self._in_time(self._insist(ask))

    async def _in_time(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`. If that takes too long it is cancelled, and left behind while it still cleans up."""
        working = asyncio.ensure_future(work)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(working)
        except TimeoutError as error:
            raise EngineUnavailable("The engine did not answer in time.") from error
        finally:
            working.cancel()

    async def _insist(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        async with self._admitted():
            while True:
                with suppress(EngineUnavailable, TransactionLost):
                    return await ask()
                await asyncio.sleep(_PAUSE_S)

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        if not self._free:
            raise RoostError(Code.OVERLOADED, f"{self._room} reads are waiting for the engine.", retry_after_s=1)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def _no_user(user: str) -> RoostError:
    return RoostError(Code.NOT_FOUND, f"There is no user {user!r}.")


def _alive(head: Head) -> Head:
    if head.erased_at is not None:
        raise user_erased(head.user)
    return head


def _reaches(seq: int, at_least: int | None) -> None:
    if at_least is not None and seq < at_least:
        raise RoostError(Code.CURSOR_AHEAD, f"The log stands at {seq}, short of the {at_least} that was asked for.")


def _within(head: Head | None, user: str, seq: int, moment: Moment) -> Head:
    """Refuse a moment that the log has not reached, or no longer knows."""
    if head is None:
        raise _no_user(user)
    _alive(head)
    _reaches(head.seq, moment.at_least)
    if seq > head.seq:
        raise RoostError(Code.CURSOR_AHEAD, f"The log stands at {head.seq}, the moment is ahead of it.")
    if seq < head.floor:
        raise RoostError(Code.CURSOR_COMPACTED, f"The past up to {head.floor} is no longer kept.")
    return head
