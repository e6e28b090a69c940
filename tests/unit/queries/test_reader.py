"""Reads of an engine that has trouble: asked again until time is over, and never more at once than there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

import pytest

from roost.core.errors import Code, RoostError
from roost.core.events import Head
from roost.core.ports import Engine, EngineUnavailable
from roost.queries.reader import Reader
from roost.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = Head("ada", 1, 0, START, START, {})


class Slow:
    """An engine that answers about heads when `answer` does."""

    def __init__(self, answer: Callable[[], Awaitable[Head | None]]) -> None:
        self._answer = answer

    async def head(self, user: str) -> Head | None:
        return await self._answer()

    async def ping(self) -> None:
        await self._answer()


def reader(answer: Callable[[], Awaitable[Head | None]], timeout_s: float) -> Reader:
    return Reader(cast("Engine", Slow(answer)), Settings(pages_max=1, engine_timeout_s=timeout_s))


async def code_of(asked: Awaitable[object]) -> Code:
    with pytest.raises(RoostError) as raised:
        await asked
    return raised.value.code


def test_an_engine_that_is_away_for_a_moment_is_asked_again() -> None:
    attempts = iter([EngineUnavailable("It is away."), EngineUnavailable("It still is."), None])

    async def answer() -> Head:
        if (trouble := next(attempts)) is not None:
            raise trouble
        return HEAD

    assert asyncio.run(reader(answer, timeout_s=10).head("ada")) == HEAD


def test_an_engine_that_stays_away_is_unavailable() -> None:
    async def answer() -> Head:
        raise EngineUnavailable("It is away.")

    assert asyncio.run(code_of(reader(answer, timeout_s=0.1).head("ada"))) is Code.UNAVAILABLE


def test_an_engine_that_says_nothing_keeps_nobody_waiting() -> None:
    """Its place is taken until it has let go of the read; then others come in."""

    async def run() -> None:
        moves = asyncio.Event()

        async def answer() -> Head:
            with suppress(asyncio.CancelledError):
                await moves.wait()
            await moves.wait()  # a driver cleans up before it lets go
            return HEAD

        reads = reader(answer, timeout_s=0.05)
        assert await code_of(reads.head("ada")) is Code.UNAVAILABLE
        assert await code_of(reads.head("ada")) is Code.OVERLOADED
        assert await code_of(reads.ready()) is Code.UNAVAILABLE
        moves.set()
        while True:
            with suppress(RoostError):
                assert await reads.head("ada") == HEAD
                return
            await asyncio.sleep(0)

    asyncio.run(run())


def test_a_read_whose_caller_has_gone_is_given_up() -> None:
    async def run() -> None:
        gone = asyncio.Event()

        async def answer() -> Head:
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()
            return HEAD

        read = asyncio.create_task(reader(answer, timeout_s=60).head("ada"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        read.cancel()
        await gone.wait()
        with pytest.raises(asyncio.CancelledError):
            await read

    asyncio.run(run())
