"""The database that all nodes share: the reference engine, with transactions that wait, break and end late.

At every await of a transaction others have a turn, and the node may die there. A commit may be carried out and not
answered, answered with an error, or carried out only after the node was told that the connection had broken. What is
committed is told to the ledger, which so knows all there ever was, whatever is folded away later.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from roost.core.events import Event, Head
from roost.core.limits import Limits
from roost.core.ports import (
    AnswerRef,
    Appendix,
    DeviceRef,
    DocumentRef,
    EngineUnavailable,
    EventRef,
    Loaded,
    StoredAnswer,
    TransactionLost,
    Unseen,
)
from roost.engines.memory import Memory, MemoryTransaction
from tests.simulation.world import MS, World, finished, pause


class _RolledBack(Exception):
    """Nothing of it has happened."""


class Database:
    """The engine. `faults` is the probability of one at each await; `committed` hears of what is written."""

    def __init__(self, world: World, limits: Limits, faults: float) -> None:
        self.world = world
        self.faults = faults
        self.memory = Memory(limits)
        self.holder: _Transaction | None = None
        self.committed: list[Callable[[list[tuple[str, Event]], list[StoredAnswer]], None]] = []
        finished(self.memory.open())

    def transaction(self) -> _Transaction:
        """See `roost.core.ports.Engine`."""
        return _Transaction(self)


class _Transaction:
    """See `roost.core.ports.Transaction`. All users are locked at once: there is one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._world = database.world
        self._inner: Any = None
        self._tx: MemoryTransaction | None = None
        self._events: list[tuple[str, Event]] = []
        self._answers: list[StoredAnswer] = []

    async def __aenter__(self) -> Self:
        await pause()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._tx is None:
            return
        if kind is not None:
            self._end(commit=False)
            return
        try:
            await pause()
        except GeneratorExit:
            self._end(commit=False)
            raise
        if self._world.chance(self._database.faults):
            self._break()
        self._end(commit=True)
        await pause()

    async def lock(self, users: list[str], at: datetime) -> tuple[dict[str, Head], set[str]]:
        while self._database.holder is not None:
            await pause()
        self._database.holder = self
        self._inner = self._database.memory.transaction()
        self._tx = await self._inner.__aenter__()
        return await (await self._ready()).lock(users, at)

    async def load(
        self,
        documents: list[DocumentRef],
        answers: list[AnswerRef],
        events: list[EventRef],
        devices: list[DeviceRef],
        unread: AbstractSet[DocumentRef] = frozenset(),
    ) -> Loaded:
        return await (await self._ready()).load(documents, answers, events, devices, unread)

    async def unseen(self, bases: dict[DocumentRef, int], limit: int) -> dict[DocumentRef, Unseen]:
        return await (await self._ready()).unseen(bases, limit)

    async def append(self, appendix: Appendix, abandoned: list[str]) -> None:
        await (await self._ready()).append(appendix, abandoned)
        self._events += appendix.events
        self._answers += appendix.answers

    async def _ready(self) -> MemoryTransaction:
        await pause()
        if self._world.chance(self._database.faults):
            self._world.say("the database breaks off a transaction")
            raise EngineUnavailable("simulated") if self._world.chance(0.5) else TransactionLost
        assert self._tx is not None
        return self._tx

    def _break(self) -> None:
        """The connection breaks around the commit, whose outcome nobody hears."""
        fate = self._world.random.choice(["before", "after", "late"])
        self._world.say(f"the database breaks off a commit: {fate}")
        if fate == "late":
            commit = self._world.chance(0.7)
            self._world.after(self._world.about(100 * MS), lambda: self._end(commit=commit))
        else:
            self._end(commit=fate == "after")
        raise EngineUnavailable("simulated")

    def _end(self, *, commit: bool) -> None:
        if commit:
            finished(self._inner.__aexit__(None, None, None))
        else:
            with suppress(_RolledBack):
                finished(self._inner.__aexit__(_RolledBack, _RolledBack(), None))
        self._database.holder = None
        if commit:
            for listener in self._database.committed:
                listener(self._events, self._answers)
