"""The tail: every event of every lane once, in order, and a gap is never stepped over."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from roost.commands.writer import Writer
from roost.core.commands import Change, Op
from roost.core.ids import lane_of
from roost.engines.memory import Memory
from roost.feed.tail import Gap, Tail
from roost.settings import Settings


def clock() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


async def put(writer: Writer, user: str, value: bytes) -> None:
    await writer.run(Change(user, (Op("put", "notes", "a", value),), "test"))


def test_a_tail_sees_each_lane_in_order_and_resumes() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        writer = Writer(engine, Settings(), clock=clock, committed=lambda *_: None)
        users = [f"user{number}" for number in range(30)]
        tail = Tail(engine, {})
        seen = []
        for round_ in range(3):
            await asyncio.gather(*(put(writer, user, b"%d" % round_) for user in users))
            seen += [event async for event in tail.advance()]
            tail = Tail(engine, tail.cursor)
        assert len(seen) == len(set(seen)) == 90
        for lane in {lane_of(user) for user in users}:
            positions = [event.pos for event in seen if event.lane == lane]
            assert positions == list(range(1, len(positions) + 1))
        for user in users:
            assert [event.event.seq for event in seen if event.user == user] == [1, 2, 3]

    asyncio.run(go())


def test_a_gap_is_an_alarm() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        writer = Writer(engine, Settings(), clock=clock, committed=lambda *_: None)
        for value in (b"1", b"2", b"3"):
            await put(writer, "ada", value)
        whole = engine.lane

        async def holed(lane: int, after: int, limit: int) -> object:
            return [event for event in await whole(lane, after, limit) if event.pos != 2]

        engine.lane = holed  # type: ignore[method-assign, assignment]
        tail = Tail(engine, {})
        seen: list[int] = []
        with pytest.raises(Gap):
            await _follow(tail, seen)
        assert seen == [1]
        assert tail.cursor[lane_of("ada")] == 1

    asyncio.run(go())


async def _follow(tail: Tail, seen: list[int]) -> None:
    async for event in tail.advance():
        seen.append(event.pos)  # noqa: PERF401  # what came before an error counts
