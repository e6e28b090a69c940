"""A connection that breaks around a commit: nothing is lost, and nothing is carried out twice, with a key or without.

First every way in which up to three attempts may break, on the reference engine; then a PostgreSQL behind a proxy
that cuts the connection before a COMMIT reaches the server, after it, in the middle, or delivers it late.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count, product
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from roost.commands.transaction import GroupCommit, Outcome
from roost.commands.writer import Writer
from roost.core.commands import (
    Accepted,
    AppendLog,
    Change,
    Command,
    CreateUser,
    Idempotency,
    Mutation,
    Op,
    Push,
    Versions,
)
from roost.core.decide import Rules
from roost.core.errors import Code, RoostError
from roost.core.events import Event, Head
from roost.core.limits import Limits
from roost.core.ports import (
    Appendix,
    DocumentRef,
    Engine,
    EngineUnavailable,
    Loaded,
    Transaction,
    TransactionLost,
    Unseen,
)
from roost.engines.embedded import Embedded
from roost.engines.memory import Memory
from roost.engines.migrate import migrate
from roost.queries.verify import verify
from roost.settings import Settings
from tests.support.follower import opened
from tests.support.proxy import Cut, Proxy

START = datetime(2026, 1, 1, tzinfo=UTC)
RULES = Rules(Limits(), lambda collection: "lww")
BREAKS = ("none", "begin", "lock", "load", "append", "race", "commit", "answer")
"""After which step of a transaction its connection breaks; `commit`: before the engine got it; `answer`: after."""


class Breaking:
    """An engine whose transactions break as told, one after the other; then they do not."""

    def __init__(self, engine: Memory, breaks: tuple[str, ...]) -> None:
        self._engine = engine
        self._breaks = iter(breaks)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        at = next(self._breaks, "none")
        _break(at, "begin")
        async with self._engine.transaction() as transaction:
            yield BreakingTransaction(transaction, at)
            _break(at, "commit")
        _break(at, "answer")


class BreakingTransaction:
    def __init__(self, transaction: Transaction, at: str) -> None:
        self._transaction = transaction
        self._at = at
        self.keys = transaction.keys

    async def lock(self, users: list[str], at: datetime) -> tuple[dict[str, Head], set[str]]:
        locked = await self._transaction.lock(users, at)
        _break(self._at, "lock")
        return locked

    async def load(self, *refs: Any) -> Loaded:
        loaded = await self._transaction.load(*refs)
        _break(self._at, "load")
        return loaded

    async def unseen(self, bases: dict[DocumentRef, int], limit: int) -> dict[DocumentRef, Unseen]:
        return await self._transaction.unseen(bases, limit)

    async def append(self, appendix: Appendix, abandoned: list[str]) -> None:
        await self._transaction.append(appendix, abandoned)
        _break(self._at, "append")
        if self._at == "race":
            raise TransactionLost


def _break(at: str, here: str) -> None:
    if at == here:
        raise EngineUnavailable("The connection broke.")


def grow(user: str, value: str, key: str | None = None) -> Change:
    """Add `value` to a list: who does it twice can be seen."""
    idempotency = None if key is None else Idempotency(key, value.encode())
    return Change(user, (Op("merge", "notes", value, {"of": value}),), "admin", idempotency)


def pushed(number: int, key: str, kind: Literal["put", "delete"] = "put") -> Mutation:
    return Mutation(number, 0, 1, (Op(kind, "pushed", key, None if kind == "delete" else b"1"),))


COMMANDS: list[Command] = [
    grow("ada", "one"),
    grow("ada", "two", key="k2"),
    grow("bob", "three", key="k3"),
    # Refused, one of them on a user who must not come into being by that.
    Change("ada", (Op("put", "notes", "x", b"1", Versions(frozenset({9}))),), "admin", Idempotency("k4", b"")),
    Change("nobody", (Op("delete", "notes", "x"),), "admin"),
    CreateUser("eve", "admin"),
    # A repeat finds the answers of what was committed, or the events; and one that wrote nothing has only its answer.
    Push("ada", "phone", (pushed(1, "one"), pushed(2, "two")), "user:ada"),
    Push("gil", "phone", (pushed(1, "nothing there to delete", "delete"),), "user:gil"),
    AppendLog("dan", (Event(1, "put", "notes", "a", b"1", START, "admin"),), "admin"),
]


async def insist(engine: Engine, commands: list[Command], between: list[Command]) -> list[Outcome]:
    """Run a group commit until it does not break; another node writes `between` after each break."""
    group, clock = GroupCommit(engine, commands, RULES), count()
    memory = cast("Breaking", engine)._engine
    while True:
        try:
            return await group.run(START + timedelta(seconds=next(clock)))
        except (EngineUnavailable, TransactionLost):
            if between:
                await GroupCommit(memory, between, RULES).run(START + timedelta(seconds=next(clock)))


async def logs_of(engine: Engine) -> dict[str, list[tuple[int, str, bytes | None]]]:
    """(seq, key, value) of each user's events."""
    logs = {}
    for head in await engine.users(None, 100):
        log = await engine.log(head.user, 0, 1000, None)
        assert log is not None
        logs[head.user] = [(event.seq, event.key, event.value) for event in log.events]
    return logs


def told(outcome: Outcome) -> object:
    """What an outcome says, times aside; whether a refusal is told for the first time is left open."""
    if isinstance(outcome, RoostError):
        return outcome.code, outcome.detail
    if outcome.results:
        return outcome.results
    return outcome.seq, [(written.event.seq, written.event.value, written.created) for written in outcome.written]


@pytest.mark.parametrize(
    "commands", [COMMANDS, COMMANDS[:1], COMMANDS[3:5], COMMANDS[6:8]], ids=["many", "one", "refused", "pushes"]
)
def test_however_three_attempts_break_all_is_carried_out_once(commands: list[Command]) -> None:
    async def run(breaks: tuple[str, ...]) -> tuple[object, object]:
        memory = Memory()
        await memory.open()
        outcomes = await insist(cast("Engine", Breaking(memory, breaks)), commands, [])
        differences: list[str] = []
        await verify(memory, differences.append)
        assert not differences
        return await logs_of(memory), list(map(told, outcomes))

    async def run_all() -> None:
        expected = await run(())
        for breaks in product(BREAKS[1:], repeat=3):
            assert await run(breaks) == expected, breaks

    asyncio.run(run_all())


def test_however_two_attempts_break_beside_another_node_all_is_carried_out_once() -> None:
    """The other node writes to the same log, so an event at the seq that was meant may be somebody else's."""

    async def run(breaks: tuple[str, ...]) -> None:
        memory = Memory()
        await memory.open()
        turns = iter("xyz")
        commands: list[Command] = [grow("ada", "one"), grow("ada", "two")]
        engine = cast("Engine", Breaking(memory, breaks))
        outcomes = await insist(engine, commands, [grow("ada", "other"), grow("ada", next(turns))])
        log = (await logs_of(memory))["ada"]
        for command, outcome in zip(("one", "two"), outcomes, strict=True):
            assert isinstance(outcome, Accepted)
            assert [seq for seq, key, _ in log if key == command] == [outcome.written[0].event.seq], (breaks, log)

    async def run_all() -> None:
        for breaks in product(BREAKS[1:], repeat=2):
            await run(breaks)

    asyncio.run(run_all())


def test_a_writer_gives_a_batch_that_may_be_committed_to_nobody_else() -> None:
    """An error that nobody foresaw, after a commit of unknown outcome: nothing is tried again command by command."""

    class Strange(Breaking):
        @asynccontextmanager
        async def transaction(self) -> AsyncIterator[Transaction]:
            broke = False
            with suppress(EngineUnavailable):
                async with super().transaction() as transaction:
                    yield transaction
                broke = True
            if not broke:
                raise ZeroDivisionError

    async def run() -> None:
        memory = Memory()
        await memory.open()
        writer = Writer(
            cast("Engine", Strange(memory, ("answer",))),
            Settings(writers=1),
            clock=lambda: START,
            committed=lambda *_: None,
        )
        with pytest.raises(RoostError) as raised:
            await writer.run(grow("ada", "one"))
        assert raised.value.code is Code.UNAVAILABLE
        assert len((await logs_of(memory))["ada"]) == 1
        await writer.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a migrated PostgreSQL."""
    with Embedded(tmp_path_factory.mktemp("ambiguous")) as url:
        asyncio.run(migrate(url, region="local"))
        yield url


async def cut_and_check(postgres: str, folder: Path, cuts: list[Cut], users: list[str], writes: int) -> None:
    """Write to users, one write after the other and the users at once, through a proxy that cuts."""
    proxy = Proxy(folder, postgres, iter(cuts))
    clock = count()
    async with proxy.running(), opened(proxy.url) as engine, opened(postgres) as direct:
        writer = Writer(
            engine,
            Settings(writers=1, engine_timeout_s=30),
            clock=lambda: START + timedelta(microseconds=next(clock)),
            committed=lambda *_: None,
        )

        async def one(user: str) -> list[tuple[int, str, bytes | None]]:
            told = []
            for number in range(writes):
                # Every other one has a key.
                accepted = await writer.run(grow(user, f"w{number}", key=f"w{number}" if number % 2 else None))
                (written,) = accepted.written
                told.append((written.event.seq, written.event.key, written.event.value))
            return told

        told = await asyncio.gather(*map(one, users))
        await writer.close()
        assert proxy.met[: len(cuts)] == cuts
        logs = await logs_of(direct)
        assert [logs[user] for user in users] == told
        assert [[seq for seq, *_ in log] for log in told] == [list(range(1, writes + 1))] * len(users)
        differences: list[str] = []
        await verify(direct, differences.append)
        assert not differences


@pytest.mark.parametrize("cut", ["before", "after", "amid", "late"])
def test_a_connection_cut_at_a_commit(postgres: str, tmp_path: Path, cut: Cut) -> None:
    """The first commit of a user, where the user comes into being, and a later one."""
    asyncio.run(cut_and_check(postgres, tmp_path, [cut, "no", cut], [f"{cut}-user"], writes=4))


@pytest.mark.parametrize("first", ["before", "after", "late"])
@pytest.mark.parametrize("second", ["before", "after", "late"])
def test_the_attempt_that_settles_is_cut_too(postgres: str, tmp_path: Path, first: Cut, second: Cut) -> None:
    asyncio.run(cut_and_check(postgres, tmp_path, [first, second], [f"{first}-{second}"], writes=3))


def test_connections_cut_at_random_commits(postgres: str, tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    kinds: list[Cut] = ["no", "before", "after", "amid"]
    cuts = random.Random(seed).choices(kinds, k=20)
    asyncio.run(cut_and_check(postgres, tmp_path, cuts, [f"random-{number}" for number in range(5)], writes=20))
