"""What an application sees of a replica: reads and edits that return at once, and news of what changed.

Reading and editing are plain calls, without `await`: all is in memory, and an edit is on disk when the call
returns. They belong into the thread of the event loop that the replica was opened on.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

import msgspec

from roost.client.asking import checked
from roost.client.carry import AsyncCarrier
from roost.client.errors import RoostError, Unavailable, refused_here
from roost.client.exchange import Limits, Session, Token
from roost.client.models import InboxConflict, Json
from roost.client.replica.calls import Calls
from roost.client.replica.following import Following, Status
from roost.client.replica.store import ReplicaUnusable, Store
from roost.core import ids
from roost.core.commands import Result
from roost.core.edits import ABSENT, Edit
from roost.core.errors import RoostError as CoreError
from roost.core.events import DocumentId
from roost.core.ids import INBOX
from roost.core.limits import DEVICE_CHARS_MAX
from roost.core.limits import Limits as CoreLimits
from roost.sync.draft import Draft
from roost.sync.replica import Outcome, View

RESULTS_MAX = 1_000
"""Answers that wait for somebody who listens to changes; older ones are dropped (the inbox has what was refused)."""
NAME_BYTES = 6

T = TypeVar("T")


class Changes(msgspec.Struct, frozen=True):
    """What is new since the last time: documents that may look different, answers to mutations, and how it goes."""

    documents: frozenset[DocumentId]
    results: tuple[Result, ...]
    status: Status


class Transaction:
    """Edits of one step: all of them take effect, or none. Made by `Replica.transaction`."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def get(self, collection: str, key: str) -> Json | None:
        """The document's value with the edits so far; None where there is none."""
        value = self._draft.value(collection, key)
        return None if value is ABSENT else msgspec.json.decode(msgspec.json.encode(value))

    def put(self, collection: str, key: str, value: Json) -> None:
        """The document's value is now `value`. What differs from before is what is merged with edits of others."""
        _refusing(lambda: self._draft.put(collection, key, _plain(value)))

    def edit(self, collection: str, key: str, *edits: Edit) -> None:
        """Change the document field by field; where there is none, one is made."""
        _refusing(lambda: self._draft.edit(collection, key, [_plain_edit(edit) for edit in edits]))

    def set(self, collection: str, key: str, path: str, value: Json) -> None:
        """The place at `path` (a JSON Pointer, `/theme`) is now `value`."""
        self.edit(collection, key, Edit("set", path, value))

    def unset(self, collection: str, key: str, path: str) -> None:
        """The member at `path` goes."""
        self.edit(collection, key, Edit("unset", path))

    def inc(self, collection: str, key: str, path: str, by: int = 1) -> None:
        """The counter at `path` goes up by `by`, whatever others count meanwhile."""
        self.edit(collection, key, Edit("inc", path, by))

    def add(self, collection: str, key: str, path: str, element: Json) -> None:
        """`element` is in the set at `path`."""
        self.edit(collection, key, Edit("add", path, element))

    def remove(self, collection: str, key: str, path: str, element: Json) -> None:
        """`element` is no longer in the set at `path`."""
        self.edit(collection, key, Edit("remove", path, element))

    def merge(self, collection: str, key: str, patch: Json) -> None:
        """Apply a JSON Merge Patch (RFC 7396): members replace members, None removes one."""
        _refusing(lambda: self._draft.merge(collection, key, _plain(patch)))

    def delete(self, collection: str, key: str) -> None:
        """The document goes; where there is none, nothing happens."""
        _refusing(lambda: self._draft.delete(collection, key))


class Listening:
    """An iterator over changes, until the user is erased; those that come while nobody asks are put together."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._documents: set[DocumentId] = set()
        self._results: deque[Result] = deque(maxlen=RESULTS_MAX)
        self._news = asyncio.Event()
        self._over = status() == "erased"

    def hear(self, outcome: Outcome) -> None:
        """Something changed."""
        self._documents |= outcome.changed
        self._results.extend(outcome.results)
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changes:
        if self._over:
            raise StopAsyncIteration
        await self._news.wait()
        self._news.clear()
        self._over = self._status() == "erased"
        changes = Changes(frozenset(self._documents), tuple(self._results), self._status())
        self._documents.clear()
        self._results.clear()
        return changes


class Replica:
    """One user's state on this device, in the file `path`: `async with Replica(path, url, user, token) as replica:`.

    `token` is a string, a function that returns one, asked on each connection and before the old one ends, or a
    `Login`, which may be shared with clients and other replicas.
    `device` names a new replica (else a name is made up); an existing file knows its name. With `collections`, only
    these are held (and the inbox). One process at a time may hold a file: opening raises `ReplicaInUse`.

    Where the user is erased, so is everything here, the file too: `status` is `erased`, and edits raise `UserErased`.

    Edits show at once, and are on disk when the call returns. They are pushed in their order as soon as the server
    can be reached, each exactly once. What comes of them is decided by the collection's conflict policy; what is
    set aside is in `conflicts`.
    """

    def __init__(
        self,
        path: str | Path,
        url: str,
        user: str,
        token: Token = None,
        *,
        device: str | None = None,
        collections: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._session = Session(url, _heeded(token) if callable(token) else token, self._limits)
        self._calls = Calls(self._session, checked(ids.check_user, user))
        self._name = checked(ids.check_device, device or f"python-{secrets.token_hex(NAME_BYTES)}")
        names = None if collections is None else [checked(ids.check_collection, name) for name in collections]
        self._listeners: WeakSet[Listening] = WeakSet()
        self._task: asyncio.Task[None] | None = None
        self._status: Status = "offline"
        self._problem: RoostError | None = None
        self.work = asyncio.Event()
        self.store = Store(Path(path), user, self._name, names)
        self.core = self.store.load(CoreLimits())

    # Reading

    def get(self, collection: str, key: str) -> View | None:
        """The document as it is here: what was read, with this device's pending edits. None where there is none."""
        return self.core.view((collection, key))

    def list(self, collection: str, prefix: str = "") -> list[View]:
        """All documents of a collection whose key starts with `prefix`, by key."""
        names = [name for name in self.core.names(collection) if name[1].startswith(prefix)]
        return [view for name in names if (view := self.core.view(name)) is not None]

    def conflicts(self) -> Sequence[InboxConflict]:
        """What conflicts have set aside, oldest first; `dismiss` what was dealt with."""
        return [msgspec.convert({"id": view.key, **view.value}, InboxConflict) for view in self.list(INBOX)]

    @property
    def device(self) -> str:
        """The device's name. It changes if the server knows another one by it."""
        return self.core.saved.device

    @property
    def seq(self) -> int:
        """How far the user's log was read."""
        return self.core.saved.cursor or 0

    @property
    def pending(self) -> int:
        """How many mutations the server has not been seen to carry out."""
        return len(self.core.queue)

    @property
    def status(self) -> Status:
        """`live`: what happens on other devices shows here at once."""
        return self._status

    @property
    def problem(self) -> RoostError | None:
        """Why it is offline, where that is known."""
        return self._problem

    # Editing: each returns the number of the mutation, None where there was nothing to do

    def put(self, collection: str, key: str, value: Json) -> int | None:
        """The document's value is now `value`. What differs from before is what is merged with edits of others."""
        return self._do(lambda t: t.put(collection, key, value))

    def edit(self, collection: str, key: str, *edits: Edit) -> int | None:
        """Change the document field by field; where there is none, one is made. Raises `PatchFailed`."""
        return self._do(lambda t: t.edit(collection, key, *edits))

    def set(self, collection: str, key: str, path: str, value: Json) -> int | None:
        """The place at `path` (a JSON Pointer, `/theme`) is now `value`."""
        return self._do(lambda t: t.set(collection, key, path, value))

    def unset(self, collection: str, key: str, path: str) -> int | None:
        """The member at `path` goes."""
        return self._do(lambda t: t.unset(collection, key, path))

    def inc(self, collection: str, key: str, path: str, by: int = 1) -> int | None:
        """The counter at `path` goes up by `by`, whatever others count meanwhile."""
        return self._do(lambda t: t.inc(collection, key, path, by))

    def add(self, collection: str, key: str, path: str, element: Json) -> int | None:
        """`element` is in the set at `path`."""
        return self._do(lambda t: t.add(collection, key, path, element))

    def remove(self, collection: str, key: str, path: str, element: Json) -> int | None:
        """`element` is no longer in the set at `path`."""
        return self._do(lambda t: t.remove(collection, key, path, element))

    def merge(self, collection: str, key: str, patch: Json) -> int | None:
        """Apply a JSON Merge Patch (RFC 7396): members replace members, None removes one."""
        return self._do(lambda t: t.merge(collection, key, patch))

    def delete(self, collection: str, key: str) -> int | None:
        """The document goes; where there is none, nothing happens."""
        return self._do(lambda t: t.delete(collection, key))

    def dismiss(self, conflict: str) -> int | None:
        """Take a conflict out of the inbox, on all devices."""
        return self.delete(INBOX, conflict)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Several edits in one step, all or none: done when the block ends, not at all if it raises."""
        self._check()
        draft = self.core.draft()
        yield Transaction(draft)
        self._commit(draft)

    # Waiting

    async def synced(self) -> None:
        """Wait until everything that was done here is on the server, and everything there is here.

        Raises `UserErased`.
        """
        listening = self.changes()
        while not self._in_step:
            self._check()
            await anext(listening)

    def changes(self) -> Listening:
        """What changes from now on, whoever did it: `async for change in replica.changes()`."""
        listening = Listening(lambda: self._status)
        self._listeners.add(listening)
        return listening

    async def __aenter__(self) -> Self:
        self._carry = AsyncCarrier(self._session.url, self._limits, None)
        following = Following(self, self._session, self._carry, self._calls)
        self._task = asyncio.create_task(following.run())
        self._task.add_done_callback(lambda _: self.tell("offline", self._problem))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop, and let go of the file. Whatever is pending is pushed another time."""
        if self._task is not None:
            self._task.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await self._task
            finally:
                await self._carry.close()
                self.store.close()
        self.store.close()

    # For the task that keeps it in step

    def settle(self, outcome: Outcome) -> None:
        """Persist an outcome, then tell of it."""
        self._persist(lambda: self.store.keep(self.core, outcome))
        self._hear(outcome)

    def turn(self, outcome: Outcome) -> None:
        """The same, where a snapshot took the place of all documents."""
        self._persist(lambda: self.store.turn(self.core, outcome))
        self._hear(outcome)

    def tell(self, status: Status, problem: RoostError | None) -> None:
        """How it goes."""
        if self._status == "erased":
            return  # that is the last there is to tell
        if (status, problem) != (self._status, self._problem):
            self._status, self._problem = status, problem
            self._hear(Outcome())

    def erased(self, problem: RoostError) -> None:
        """The user was erased: forget everything, what was never pushed too, and delete the file."""
        outcome = self.core.forget()
        try:
            self.store.destroy()
        finally:
            self._status, self._problem = "erased", problem
            self._hear(outcome)

    def new_name(self) -> str:
        """Another name for this device."""
        stem = re.sub(r"~[0-9a-f]+$", "", self.device)[: DEVICE_CHARS_MAX - 1 - 2 * NAME_BYTES]
        return f"{stem}~{secrets.token_hex(NAME_BYTES)}"

    @property
    def _in_step(self) -> bool:
        return self._status == "live" and not self.core.queue

    def _do(self, act: Callable[[Transaction], None]) -> int | None:
        self._check()
        draft = self.core.draft()
        act(Transaction(draft))
        return self._commit(draft)

    def _check(self) -> None:
        if self._status == "erased" and self._problem is not None:
            raise self._problem

    def _commit(self, draft: Draft) -> int | None:
        self._check()
        outcome = _refusing(lambda: self.core.commit(draft, time.time_ns() // 1_000))
        if outcome.then is None:
            return None
        self.settle(outcome)
        self.work.set()
        return self.core.saved.number

    def _persist(self, write: Callable[[], None]) -> None:
        try:
            write()
        except sqlite3.Error as error:
            # What is not on disk has not happened.
            self.core = self.store.load(CoreLimits())
            raise ReplicaUnusable(f"The replica could not be written: {error}.", code="unavailable") from error

    def _hear(self, outcome: Outcome) -> None:
        for listening in list(self._listeners):
            listening.hear(outcome)


def _heeded(token: Callable[[], str]) -> Callable[[], str]:
    """An application's function; whatever it raises means that there is no token for now."""

    def bearer() -> str:
        try:
            return token()
        except RoostError:
            raise
        except Exception as error:
            raise Unavailable(f"There is no token: {error!r}.", code="unavailable") from error

    return bearer


def _refusing(act: Callable[[], T]) -> T:
    """The result of `act`, or the client's exception for core's."""
    try:
        return act()
    except CoreError as error:
        raise refused_here(error.code.value, error.detail) from error


def _plain(value: Json) -> Any:
    """JSON as plain data; dataclasses, Structs, tuples and the like become what msgspec makes of them."""
    try:
        return msgspec.to_builtins(value, str_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise refused_here("invalid_json", f"This is not a JSON value: {error}.") from error


def _plain_edit(edit: Edit) -> Edit:
    return edit if edit.value is ABSENT else Edit(edit.op, edit.path, _plain(edit.value))
