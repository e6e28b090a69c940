"""The tail: every event of every lane once, in order, and a gap is never stepped over."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from roost.commands.writer import Writer
from roost.core.commands import Change, Op
from roost.core.ids import LANES, lane_of
from roost.core.ports import Feed
from roost.engines.memory import Memory
from roost.feed.tail import Compacted, Gap, Tail
from roost.settings import Settings

ALL_LANES = dict.fromkeys(range(LANES), 0)


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
        tail = Tail(engine, ALL_LANES)
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


class Holed(Memory):
    """Some positions of each lane are not there."""

    def __init__(self, holes: set[int], floor: int) -> None:
        super().__init__()
        self._holes = holes
        self._floor = floor

    async def feed(self, cursor: dict[int, int], limit: int) -> Feed:
        heads, events, more = await super().feed(cursor, limit)
        return Feed(heads, [event for event in events if event.pos not in self._holes], more)

    async def floors(self) -> dict[int, int]:
        return dict.fromkeys(range(LANES), self._floor)


async def seen_of(engine: Memory) -> tuple[list[int], dict[int, int]]:
    """The positions that a tail gives after three writes, and its cursor."""
    await engine.open()
    writer = Writer(engine, Settings(), clock=clock, committed=lambda *_: None)
    for value in (b"1", b"2", b"3"):
        await put(writer, "ada", value)
    tail = Tail(engine, {lane_of("ada"): 0})
    seen: list[int] = []
    with suppress(Gap):
        await _follow(tail, seen)
        seen.append(0)
    return seen, tail.cursor


@pytest.mark.parametrize(
    ("holes", "floor", "seen", "reached"),
    [
        pytest.param({2}, 0, [1], 1, id="within"),
        pytest.param({1}, 0, [], 0, id="first"),
        pytest.param({3}, 0, [1, 2], 2, id="last"),
        pytest.param({1, 2, 3}, 0, [], 0, id="all"),
        pytest.param({2}, 1, [1], 1, id="above the floor"),
        pytest.param({1, 2}, 1, [], 0, id="partly above the floor"),
    ],
)
def test_a_gap_is_an_alarm(holes: set[int], floor: int, seen: list[int], reached: int) -> None:
    found, cursor = asyncio.run(seen_of(Holed(holes, floor)))
    assert found == seen, "it did not raise, or not there"
    assert cursor == {lane_of("ada"): reached}


@pytest.mark.parametrize(("holes", "floor"), [({2}, 2), ({1, 2}, 2), ({1, 3}, 3), ({1, 2, 3}, 3)])
def test_below_the_floor_a_tail_cannot_go_on(holes: set[int], floor: int) -> None:
    with pytest.raises(Compacted):
        asyncio.run(seen_of(Holed(holes, floor)))


def test_from_the_floor_on_nothing_is_missing() -> None:
    async def go() -> None:
        engine = Holed({1, 2}, 2)
        with pytest.raises(Compacted):
            await seen_of(engine)
        tail = Tail(engine, {lane_of("ada"): 2})
        assert [event.pos async for event in tail.advance()] == [3]

    asyncio.run(go())


def test_a_tail_reads_page_after_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost.feed.tail.PAGE_EVENTS", 2)
    found, cursor = asyncio.run(seen_of(Memory()))
    assert found == [1, 2, 3, 0]
    assert cursor == {lane_of("ada"): 3}


def test_a_tail_reads_no_lane_but_those_of_its_cursor() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        writer = Writer(engine, Settings(), clock=clock, committed=lambda *_: None)
        users = ["ada", *(f"user{number}" for number in range(30))]
        await asyncio.gather(*(put(writer, user, b"1") for user in users))
        tail = Tail(engine, {lane_of("ada"): 0})
        assert {event.lane async for event in tail.advance()} == {lane_of("ada")}

    asyncio.run(go())


async def _follow(tail: Tail, seen: list[int]) -> None:
    async for event in tail.advance():
        seen.append(event.pos)  # noqa: PERF401  # what came before an error counts
