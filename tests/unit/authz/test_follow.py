"""`Gate.follow`: every event once and in order, whatever the hub was told and however slow the reader is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.authz.door import Door
from roost.authz.gate import Gate
from roost.authz.policy.policies import Policies
from roost.authz.principal import Caller, Principal
from roost.commands.writer import Writer
from roost.core.commands import Change, Op
from roost.core.errors import Code, RoostError
from roost.core.events import Event
from roost.engines.memory import Memory
from roost.feed.bulletin import Bulletin
from roost.feed.definitions import Definitions
from roost.feed.hub import BUFFER_EVENTS_MAX, Hub
from roost.feed.presence import Presence
from roost.queries.reader import Reader
from roost.settings import Settings

ADA = Caller(Principal("user", "ada"))


class Told:
    """A hub's news on the way from the writer, which may be kept back, doubled, or told without the events."""

    def __init__(self, hub: Hub, how: list[str]) -> None:
        self._hub = hub
        self._how = iter(how)
        self._kept: list[tuple[str, int, Sequence[Event]]] = []

    def __call__(self, user: str, seq: int, events: Sequence[Event]) -> None:
        match next(self._how, "told"):
            case "kept":
                self._kept.append((user, seq, events))
            case "bare":
                self._hub.publish(user, seq)
            case "twice":
                self._hub.publish(user, seq, events)
                self._hub.publish(user, seq, events)
            case _:
                self._hub.publish(user, seq, events)

    def rest(self) -> None:
        for news in self._kept:
            self._hub.publish(*news)


async def node(how: list[str]) -> tuple[Gate, Hub, Told]:
    engine, configuration, hub = Memory(), Settings(), Hub(10)
    await engine.open()
    told = Told(hub, how)
    writer = Writer(engine, configuration, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), committed=told)
    bulletin = Bulletin(engine, hub, timeout_s=configuration.engine_timeout_s)
    definitions = Definitions(bulletin, configuration)
    await bulletin.read()
    presence = Presence(engine, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), refresh_s=60, devices_max=10)
    door = Door(Policies("local", lambda: datetime(2026, 1, 1, tzinfo=UTC)), definitions)
    return Gate(writer, Reader(engine, configuration), hub, definitions, presence, door), hub, told


async def put(gate: Gate, number: int) -> None:
    await gate.change(ADA, Change("ada", (Op("put", "ab"[number % 2], "k", b"%d" % number),), "test"))


async def collect(gate: Gate, after: int, until: int, collections: list[str] | None, seen: list[int]) -> None:
    async for stretch in gate.follow(ADA, "ada", after, collections):
        seen += [event.seq for event in stretch.events]
        if stretch.seq >= until:
            return


@given(
    how=st.lists(st.sampled_from(["told", "kept", "bare", "twice"]), max_size=20),
    pauses=st.lists(st.integers(0, 3), max_size=20),
    after=st.integers(0, 3),
    narrow=st.booleans(),
)
@settings(max_examples=100)
def test_every_event_once_and_in_order(how: list[str], pauses: list[int], after: int, narrow: bool) -> None:
    async def go() -> None:
        gate, _, told = await node(["told"] * 3 + how)
        for number in range(3):
            await put(gate, number)
        seen: list[int] = []
        following = asyncio.ensure_future(collect(gate, after, 20, ["a"] if narrow else None, seen))
        for number in range(3, 20):
            for _ in range(pauses[number % len(pauses)] if pauses else 0):
                await asyncio.sleep(0)
            await put(gate, number)
        told.rest()
        async with asyncio.timeout(60):
            await following
        assert seen == [seq for seq in range(after + 1, 21) if not narrow or (seq - 1) % 2 == 0]

    asyncio.run(go())


def test_a_slow_reader_is_bounded_and_misses_nothing() -> None:
    async def go() -> None:
        gate, hub, _ = await node([])
        await put(gate, 0)
        stream = gate.follow(ADA, "ada", 0, None)
        assert (await anext(stream)).live
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        (follower,) = hub._followers["ada"]
        total = 3 * BUFFER_EVENTS_MAX
        for number in range(1, total):
            await put(gate, number)
            assert len(follower._events) <= BUFFER_EVENTS_MAX
        seen = [event.seq for event in (await waiting).events]
        while seen[-1] < total:
            seen += [event.seq for event in (await anext(stream)).events]
        assert seen == list(range(2, total + 1))
        await stream.aclose()

    asyncio.run(go())


def test_live_is_told_once_the_log_is_read_even_if_it_is_empty() -> None:
    async def go() -> None:
        gate, hub, _ = await node([])
        await gate.create_user(ADA, "ada")
        stream = gate.follow(ADA, "ada", 0, None)
        assert await anext(stream) == ([], 0, True)
        assert hub.following == 1
        await stream.aclose()
        assert hub.following == 0

    asyncio.run(go())


def test_draining_ends_a_stream() -> None:
    async def go() -> None:
        gate, hub, _ = await node([])
        await put(gate, 0)
        stream = gate.follow(ADA, "ada", 1, None)
        assert (await anext(stream)).live
        ending = asyncio.ensure_future(anext(stream, None))
        await asyncio.sleep(0)
        hub.drain()
        assert await ending is None

    asyncio.run(go())


def test_a_cursor_ahead_of_the_log_is_refused() -> None:
    async def go() -> None:
        gate, _, _ = await node([])
        await put(gate, 0)
        with pytest.raises(RoostError) as refusal:
            await anext(gate.follow(ADA, "ada", 2, None))
        assert refusal.value.code is Code.CURSOR_AHEAD

    asyncio.run(go())
