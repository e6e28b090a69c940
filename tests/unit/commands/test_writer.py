"""The writer's habits when the engine has trouble: who is told what, and how long it is tried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import cast

import pytest

from roost.commands.writer import Writer
from roost.core.commands import Accepted, Change, Command, Op
from roost.core.errors import Code, RoostError
from roost.core.ports import Appendix, Engine, EngineFull, EngineUnavailable, Transaction, TransactionLost
from roost.engines.memory import Memory
from roost.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)


class Troubled:
    """An engine that raises what `trouble` raises, whenever something is appended."""

    def __init__(self, trouble: Callable[[Appendix], Awaitable[None]]) -> None:
        self.memory = Memory()
        self._trouble = trouble
        self.appended = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self.memory.transaction() as transaction:
            append = transaction.append

            async def troubled(appendix: Appendix, abandoned: list[str]) -> None:
                self.appended += 1
                await self._trouble(appendix)
                await append(appendix, abandoned)

            transaction.append = troubled  # type: ignore[method-assign]
            yield transaction


def put(user: str) -> Change:
    return Change(user, (Op("put", "notes", "k", b"1"),), "admin")


async def outcomes(engine: Troubled, commands: list[Command], timeout_s: float = 10) -> list[Accepted | BaseException]:
    """What becomes of commands that arrive together."""
    await engine.memory.open()
    settings = Settings(writers=1, engine_timeout_s=timeout_s)
    told: list[str] = []
    writer = Writer(cast("Engine", engine), settings, clock=lambda: START, committed=lambda user, *_: told.append(user))
    results = await asyncio.gather(*map(writer.run, commands), return_exceptions=True)
    await writer.close()
    accepted = [command.user for command, result in zip(commands, results, strict=True) if isinstance(result, Accepted)]
    assert told == accepted
    return results


def codes(results: list[Accepted | BaseException]) -> list[str]:
    return [result.code if isinstance(result, RoostError) else type(result).__name__ for result in results]


def test_a_command_that_the_engine_chokes_on_harms_nobody_else() -> None:
    async def trouble(appendix: Appendix) -> None:
        if any(user == "eve" for user, _ in appendix.events):
            raise ZeroDivisionError

    engine = Troubled(trouble)
    results = asyncio.run(outcomes(engine, [put("ada"), put("eve"), put("bob")]))
    assert codes(results) == ["Accepted", Code.INTERNAL, "Accepted"]
    assert engine.appended == 4


def test_a_lost_race_is_run_again() -> None:
    attempts: Iterator[int] = count()

    async def trouble(_: Appendix) -> None:
        if next(attempts) < 3:
            raise TransactionLost

    engine = Troubled(trouble)
    assert codes(asyncio.run(outcomes(engine, [put("ada"), put("bob")]))) == ["Accepted", "Accepted"]
    assert engine.appended == 4


def test_a_full_engine_is_not_asked_again() -> None:
    async def trouble(_: Appendix) -> None:
        raise EngineFull

    engine = Troubled(trouble)
    results = asyncio.run(outcomes(engine, [put("ada"), put("bob")]))
    assert codes(results) == [Code.UNAVAILABLE] * 2
    assert all(isinstance(result, RoostError) and result.retry_after_s for result in results)
    assert engine.appended == 1


def test_an_engine_that_stays_away_is_asked_until_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: Iterator[int] = count(1)

    async def trouble(_: Appendix) -> None:
        if next(attempts) == 3:  # from here on time is over
            loop = asyncio.get_running_loop()
            now = loop.time
            monkeypatch.setattr(loop, "time", lambda: now() + 60)
        raise EngineUnavailable("It is away.")

    engine = Troubled(trouble)
    assert codes(asyncio.run(outcomes(engine, [put("ada"), put("bob")], timeout_s=60))) == [Code.UNAVAILABLE] * 2
    assert engine.appended == 3


def test_an_engine_that_says_nothing_keeps_nobody_waiting() -> None:
    """What was under way is carried out yet, once the engine moves again."""
    moves = asyncio.Event()

    async def trouble(_: Appendix) -> None:
        await moves.wait()

    async def run() -> None:
        engine = Troubled(trouble)
        await engine.memory.open()
        settings = Settings(writers=1, batch_commands_max=1, engine_timeout_s=0.05)
        writer = Writer(cast("Engine", engine), settings, clock=lambda: START, committed=lambda *_: None)
        results = await asyncio.gather(*(writer.run(put(user)) for user in ("ada", "bob")), return_exceptions=True)
        assert codes(results) == [Code.UNAVAILABLE] * 2
        moves.set()
        assert isinstance(await writer.run(put("eve")), Accepted)
        await writer.close()
        assert {head.user for head in await engine.memory.users(None, 10)} == {"ada", "eve"}

    asyncio.run(run())
