"""What every node has to know: it follows what is written here and elsewhere, whatever becomes of the news."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from roost.commands.writer import Writer
from roost.core.commands import Accepted, Change, Op
from roost.core.errors import Code, RoostError
from roost.core.ids import SYSTEM_USER
from roost.core.ports import EngineUnavailable, Log
from roost.engines.memory import Memory
from roost.feed.bulletin import PAGE_EVENTS, Bulletin
from roost.feed.hub import Hub
from roost.settings import Settings

COLLECTION = "roost_notices"
OTHER = "roost_others"


class Away(Memory):
    """An engine that is away for so many reads of the log, and counts them."""

    def __init__(self, times: int = 0) -> None:
        super().__init__()
        self.times = times
        self.reads = 0

    async def log(self, user: str, after: int, limit: int, collections: list[str] | None) -> Log | None:
        self.reads += 1
        if self.times:
            self.times -= 1
            raise EngineUnavailable("Away.")
        return await super().log(user, after, limit, collections)


class Board:
    """What a subscriber knows, and how often it had to begin anew."""

    def __init__(self, bulletin: Bulletin, collection: str = COLLECTION) -> None:
        self.known: dict[str, bytes] = {}
        self.anew = 0
        bulletin.subscribe(collection, self._learn)

    def _learn(self, changed: Mapping[str, bytes | None], *, anew: bool) -> None:
        if anew:
            self.known.clear()
            self.anew += 1
        for key, value in changed.items():
            if value is None:
                self.known.pop(key, None)
            else:
                self.known[key] = value


class Node:
    """A bulletin that is kept, and writers: one beside it, and one of another node, which tells this hub nothing."""

    def __init__(self, engine: Memory) -> None:
        self.engine = engine
        self.hub = Hub(1)
        self.bulletin = Bulletin(engine, self.hub, timeout_s=5)
        self.board = Board(self.bulletin)
        self.here = self._writer(self.hub)
        self.elsewhere = self._writer(Hub(1))

    def _writer(self, hub: Hub) -> Writer:
        clock = datetime(2026, 1, 1, tzinfo=UTC)
        return Writer(self.engine, Settings(), clock=lambda: clock, committed=hub.publish)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@asynccontextmanager
async def kept(engine: Memory) -> AsyncIterator[Node]:
    await engine.open()
    node = Node(engine)
    keeping = asyncio.ensure_future(node.bulletin.keep())
    try:
        yield node
    finally:
        keeping.cancel()


async def put(writer: Writer, key: str, value: bytes | None, collection: str = COLLECTION) -> Accepted:
    op = Op("delete" if value is None else "put", collection, key, value)
    return await writer.run(Change(SYSTEM_USER, (op,), "admin"))


def test_what_is_written_here_is_known_once_its_seq_is_reached() -> None:
    async def go() -> None:
        async with kept(engine := Away()) as node:
            await node.bulletin.until(0)
            reads = engine.reads
            done = await put(node.here, "a", b"1")
            await node.bulletin.until(done.seq)
            assert node.board.known == {"a": b"1"}
            done = await put(node.here, "a", None)
            await node.bulletin.until(done.seq)
            assert node.board.known == {}
            assert engine.reads == reads  # the news was enough

    run(go())


def test_what_is_written_elsewhere_is_read_when_the_tail_tells_of_it() -> None:
    async def go() -> None:
        async with kept(Memory()) as node:
            await node.bulletin.until(0)
            await put(node.elsewhere, "a", b"1")
            done = await put(node.elsewhere, "b", b"2")
            node.hub.publish(SYSTEM_USER, done.seq)
            await node.bulletin.until(done.seq)
            assert node.board.known == {"a": b"1", "b": b"2"}

    run(go())


def test_a_node_that_starts_late_reads_all_that_stands() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        early = Node(engine)
        for number in range(PAGE_EVENTS + 10):
            await put(early.elsewhere, f"k{number % 20}", b"%d" % number)
        done = await put(early.elsewhere, "k3", None)
        async with kept(engine) as node:
            await node.bulletin.until(done.seq)
            assert sorted(node.board.known) == sorted(f"k{number}" for number in range(20) if number != 3)
            assert node.board.anew == 1

    run(go())


def test_nothing_is_decided_while_the_engine_keeps_the_bulletin_away() -> None:
    async def go() -> None:
        async with kept(Away(2)) as node:
            with pytest.raises(RoostError) as refusal:
                node.bulletin.check()
            assert refusal.value.code is Code.UNAVAILABLE
            await node.bulletin.until(0)
            node.bulletin.check()

    run(go())


def test_a_seq_that_does_not_come_is_not_waited_for_for_ever() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        bulletin = Bulletin(engine, Hub(1), timeout_s=0.01)
        with pytest.raises(RoostError) as refusal:
            await bulletin.until(1)
        assert refusal.value.code is Code.UNAVAILABLE

    run(go())


def test_a_node_that_is_about_to_stop_still_learns() -> None:
    async def go() -> None:
        async with kept(Memory()) as node:
            await node.bulletin.until(0)
            node.hub.drain()
            done = await put(node.elsewhere, "a", b"1")
            await node.bulletin.until(done.seq)
            assert node.board.known == {"a": b"1"}

    run(go())


def test_a_log_that_was_compacted_meanwhile_is_read_from_its_beginning() -> None:
    async def go() -> None:
        async with kept(engine := Memory()) as node:
            await put(node.here, "a", b"1")
            await put(node.here, "b", b"1")
            await node.bulletin.until(2)
            await put(node.elsewhere, "a", None)
            await put(node.elsewhere, "b", b"2")
            done = await put(node.elsewhere, "c", b"3")
            await engine.compact(SYSTEM_USER, 4)
            node.hub.publish(SYSTEM_USER, done.seq)
            await node.bulletin.until(done.seq)
            assert node.board.known == {"b": b"2", "c": b"3"}

    run(go())


def test_more_than_a_page_of_what_was_left_by_compaction_is_read_to_its_end() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        early = Node(engine)
        for number in range(PAGE_EVENTS + 10):
            await put(early.elsewhere, f"k{number}", b"1")
        await engine.compact(SYSTEM_USER, PAGE_EVENTS + 10)
        async with kept(engine) as node:
            await node.bulletin.until(PAGE_EVENTS + 10)
            assert len(node.board.known) == PAGE_EVENTS + 10

    run(go())


def test_each_subscriber_is_told_of_its_collection_alone_whatever_becomes_of_others() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        node = Node(engine)

        def stumble(changed: Mapping[str, bytes | None], *, anew: bool) -> None:
            raise ValueError

        node.bulletin.subscribe(OTHER, stumble)
        other = Board(node.bulletin, OTHER)
        await put(node.here, "a", b"1")
        await put(node.here, "b", b"2", OTHER)
        await put(node.here, "c", b"3", "roost_unheard_of")
        assert await node.bulletin.read() == 3
        assert (node.board.known, other.known) == ({"a": b"1"}, {"b": b"2"})

    run(go())
