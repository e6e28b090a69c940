"""What a node knows of the collections: it follows what is defined here and elsewhere, whatever becomes of the news."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from roost.commands.writer import Writer
from roost.core.commands import Accepted, Change, Op
from roost.core.errors import Code, RoostError
from roost.core.ids import DEFINITIONS, INBOX, SYSTEM_USER
from roost.core.ports import EngineUnavailable, Log
from roost.engines.memory import Memory
from roost.feed.definitions import PAGE_EVENTS, Definitions
from roost.feed.hub import Hub
from roost.settings import Settings

SETTINGS = Settings(policies={"payments": "cas"}, default_policy="merge", engine_timeout_s=5)


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


class Node:
    """Definitions that are kept, and a writer beside them; one of another node tells this one's hub nothing."""

    def __init__(self, engine: Memory, settings: Settings = SETTINGS) -> None:
        self.engine = engine
        self.hub = Hub(1)
        self.definitions = Definitions(engine, self.hub, settings)
        self.here = self._writer(settings, self.hub)
        self.elsewhere = self._writer(settings, Hub(1))

    def _writer(self, settings: Settings, hub: Hub) -> Writer:
        clock = datetime(2026, 1, 1, tzinfo=UTC)
        return Writer(self.engine, settings, clock=lambda: clock, committed=hub.publish)

    def policy_of(self, collection: str) -> str:
        return self.definitions.policy_of(collection)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@asynccontextmanager
async def kept(engine: Memory) -> AsyncIterator[Node]:
    await engine.open()
    node = Node(engine)
    keeping = asyncio.ensure_future(node.definitions.keep())
    try:
        yield node
    finally:
        keeping.cancel()


async def define(writer: Writer, collection: str, value: bytes | None) -> Accepted:
    op = Op("delete" if value is None else "put", DEFINITIONS, collection, value)
    return await writer.run(Change(SYSTEM_USER, (op,), "admin"))


def test_the_settings_say_what_is_not_defined() -> None:
    async def go() -> None:
        async with kept(Memory()) as node:
            await node.definitions.until(0)
            assert [node.policy_of(name) for name in ("payments", "anything")] == ["cas", "merge"]
            assert node.policy_of(INBOX) == "lww"

    run(go())


def test_what_is_defined_here_is_in_force_once_its_seq_is_reached() -> None:
    async def go() -> None:
        async with kept(engine := Away()) as node:
            await node.definitions.until(0)
            reads = engine.reads
            done = await define(node.here, "payments", b'{"conflict":"siblings"}')
            await node.definitions.until(done.seq)
            assert node.policy_of("payments") == "siblings"
            done = await define(node.here, "payments", None)
            await node.definitions.until(done.seq)
            assert node.policy_of("payments") == "cas"
            assert engine.reads == reads  # the news was enough

    run(go())


def test_what_is_defined_elsewhere_is_read_when_the_tail_tells_of_it() -> None:
    async def go() -> None:
        async with kept(Memory()) as node:
            await node.definitions.until(0)
            await define(node.elsewhere, "carts", b'{"conflict":"cas"}')
            done = await define(node.elsewhere, "notes", b'{"conflict":"siblings"}')
            node.hub.publish(SYSTEM_USER, done.seq)
            await node.definitions.until(done.seq)
            assert (node.policy_of("carts"), node.policy_of("notes")) == ("cas", "siblings")

    run(go())


def test_a_node_that_starts_late_reads_all_of_them() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        early = Node(engine)
        for number in range(PAGE_EVENTS + 10):
            await define(early.elsewhere, f"c{number % 20}", b'{"conflict":"cas"}')
        done = await define(early.elsewhere, "c3", None)
        async with kept(engine) as node:
            await node.definitions.until(done.seq)
            assert [node.policy_of(f"c{number}") for number in (2, 3, 4)] == ["cas", "merge", "cas"]

    run(go())


def test_nothing_is_decided_while_the_engine_keeps_the_definitions_away() -> None:
    async def go() -> None:
        async with kept(Away(2)) as node:
            with pytest.raises(RoostError) as refusal:
                node.definitions.check()
            assert refusal.value.code is Code.UNAVAILABLE
            await node.definitions.until(0)
            node.definitions.check()

    run(go())


def test_a_seq_that_does_not_come_is_not_waited_for_for_ever() -> None:
    async def go() -> None:
        engine = Memory()
        await engine.open()
        definitions = Definitions(engine, Hub(1), Settings(engine_timeout_s=0.01))
        with pytest.raises(RoostError) as refusal:
            await definitions.until(1)
        assert refusal.value.code is Code.UNAVAILABLE

    run(go())


def test_definitions_of_a_newer_release_are_understood_as_far_as_possible() -> None:
    async def go() -> None:
        async with kept(Memory()) as node:
            await define(node.here, "carts", b'{"conflict":"cas","retention":"P1Y"}')
            done = await define(node.here, "payments", b'{"conflict":"consensus"}')
            await node.definitions.until(done.seq)
            assert (node.policy_of("carts"), node.policy_of("payments")) == ("cas", "cas")

    run(go())


def test_a_node_that_is_about_to_stop_still_learns() -> None:
    async def go() -> None:
        async with kept(Memory()) as node:
            await node.definitions.until(0)
            node.hub.drain()
            done = await define(node.elsewhere, "carts", b'{"conflict":"cas"}')
            await node.definitions.until(done.seq)
            assert node.policy_of("carts") == "cas"

    run(go())


def test_a_log_that_was_compacted_meanwhile_is_read_from_its_beginning() -> None:
    async def go() -> None:
        async with kept(engine := Memory()) as node:
            await define(node.here, "carts", b'{"conflict":"cas"}')
            await define(node.here, "notes", b'{"conflict":"cas"}')
            await node.definitions.until(2)
            await define(node.elsewhere, "carts", None)
            await define(node.elsewhere, "notes", b'{"conflict":"siblings"}')
            done = await define(node.elsewhere, "wishes", b'{"conflict":"lww"}')
            await engine.compact(SYSTEM_USER, 4)
            node.hub.publish(SYSTEM_USER, done.seq)
            await node.definitions.until(done.seq)
            assert [node.policy_of(name) for name in ("carts", "notes", "wishes")] == ["merge", "siblings", "lww"]

    run(go())
