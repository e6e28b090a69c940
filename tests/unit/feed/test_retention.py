"""Retention: documents and history go when their definitions say so, by a clock that the test moves, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from roost.chores import now_and_then
from roost.commands.writer import Writer
from roost.core.commands import Change, Erase, Op
from roost.core.definitions import Definition
from roost.core.errors import Code, RoostError
from roost.core.events import Device
from roost.core.ports import EngineUnavailable
from roost.engines.memory import Memory
from roost.feed import retention
from roost.feed.retention import Tally, let_go
from roost.queries.verify import verify
from roost.settings import Settings

T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SETTINGS = Settings(history_keep_s=30 * DAY.total_seconds(), device_away_s=10 * DAY.total_seconds())


class Node:
    def __init__(self) -> None:
        self.memory = Memory()
        self.now = START
        self.writer = Writer(self.memory, SETTINGS, clock=lambda: self.now, committed=lambda *_: None)

    async def put(self, user: str, key: str, collection: str = "visits", value: bytes = b"1") -> None:
        await self.writer.run(Change(user, (Op("put", collection, key, value),), f"user:{user}"))

    async def delete(self, user: str, key: str, collection: str = "visits") -> None:
        await self.writer.run(Change(user, (Op("delete", collection, key),), f"user:{user}"))

    async def let_go(self, definitions: Mapping[str, Definition]) -> Tally:
        return await let_go(self.memory, SETTINGS, self.now, definitions, self.writer.run)

    async def keys(self, user: str) -> list[str]:
        snapshot = await self.memory.snapshot(user, None)
        assert snapshot is not None
        return [document.key for document in snapshot.documents]

    async def floor(self, user: str) -> int:
        head = await self.memory.head(user)
        assert head is not None
        return head.floor

    async def verify(self) -> None:
        found: list[str] = []
        await verify(self.memory, found.append)
        assert found == []


def run(work: Callable[[Node], Awaitable[T]]) -> T:
    async def within() -> T:
        node = Node()
        await node.memory.open()
        found = await work(node)
        await node.verify()
        return found

    return asyncio.run(within())


def lives(ttl: timedelta | None = None, history: timedelta | None = None) -> dict[str, Definition]:
    ttl_s = None if ttl is None else int(ttl.total_seconds())
    history_s = None if history is None else int(history.total_seconds())
    return {"visits": Definition(conflict="lww", ttl_s=ttl_s, history_s=history_s)}


def test_a_document_goes_that_long_after_its_last_write() -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "old")
        await node.put("ada", "renewed")
        await node.put("ada", "kept", "notes")
        node.now += HOUR
        await node.put("ada", "renewed")
        assert await node.let_go(lives(HOUR)) == Tally(users=1)
        node.now += timedelta(seconds=1)
        assert await node.let_go(lives(HOUR)) == Tally(users=1, expired=1)
        assert await node.keys("ada") == ["kept", "renewed"]
        log = await node.memory.log("ada", 4, 10, None)
        assert log is not None
        assert [(event.kind, event.key, event.actor) for event in log.events] == [("delete", "old", "roost")]
        node.now += HOUR
        assert (await node.let_go(lives(HOUR))).expired == 1
        assert await node.keys("ada") == ["kept"]

    run(work)


def test_a_document_that_is_written_meanwhile_stays() -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "k")
        node.now += 2 * HOUR
        written = node.writer.run

        async def late(change: Change) -> object:
            await node.put("ada", "k", value=b"2")
            return await written(change)

        tally = await let_go(node.memory, SETTINGS, node.now, lives(HOUR), late)
        assert tally == Tally(users=1)
        assert await node.keys("ada") == ["k"]

    run(work)


def test_however_many_there_are_they_all_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAGE_DOCUMENTS", 3)
    monkeypatch.setattr(retention, "PAGE_USERS", 2)

    async def work(node: Node) -> None:
        for user in ("ada", "bob", "eve"):
            for number in range(4):
                await node.put(user, f"{number}")
        node.now += 2 * HOUR
        assert await node.let_go(lives(HOUR)) == Tally(users=3, expired=12)

    run(work)


def test_what_refuses_every_time_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAGE_DOCUMENTS", 1)

    async def refuse(_: Change) -> object:
        raise RoostError(Code.LIMIT_REACHED, "No.")

    async def work(node: Node) -> None:
        await node.put("ada", "k")
        node.now += 2 * HOUR
        assert await let_go(node.memory, SETTINGS, node.now, lives(HOUR), refuse) == Tally(users=1)

    run(work)


def test_an_engine_that_is_away_is_no_refusal() -> None:
    async def away(_: Change) -> object:
        raise EngineUnavailable("Away.")

    async def work(node: Node) -> None:
        await node.put("ada", "k")
        node.now += 2 * HOUR
        with pytest.raises(EngineUnavailable):
            await let_go(node.memory, SETTINGS, node.now, lives(HOUR), away)

    run(work)


def test_history_is_folded_to_the_age_that_a_collection_says() -> None:
    async def work(node: Node) -> None:
        for _ in range(3):
            await node.put("ada", "k")
            await node.put("bob", "k", "notes")
            node.now += DAY
        node.now += DAY
        definitions = lives(history=timedelta(days=3))
        tally = await node.let_go(definitions)
        assert (tally.folded, tally.events, tally.expired) == (1, 1, 0)
        assert await node.floor("ada") == 2
        node.now += 5 * DAY
        assert (await node.let_go(definitions)).events == 1
        assert await node.floor("ada") == 3
        assert await node.keys("ada") == ["k"]
        assert await node.floor("bob") == 0  # the settings keep it for 30 days

    run(work)


def test_a_document_that_was_deleted_makes_its_log_such_a_log_too() -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "k")
        await node.delete("ada", "k")
        node.now += 5 * DAY
        await node.put("ada", "k", "notes")
        assert (await node.let_go(lives(history=DAY))).folded == 1
        log = await node.memory.log("ada", 0, 10, None)
        assert log is not None
        assert all(event.value != b"1" for event in log.events if event.collection == "visits")

    run(work)


def test_history_is_never_shorter_than_what_compaction_keeps() -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "k")
        node.now += 2 * HOUR
        await node.put("ada", "k")
        await node.memory.touch([("ada", Device("phone", 0, 0, node.now))], 10)
        second = lives(history=timedelta(seconds=1))
        assert (await node.let_go(second)).folded == 0  # answers to repeated requests refer to it, for a day
        node.now += 2 * DAY
        assert (await node.let_go(second)).folded == 0  # the phone has not read it
        node.now += 20 * DAY
        assert (await node.let_go(second)).folded == 1  # it has been away for too long

    run(work)


def test_a_definition_that_keeps_longer_than_the_settings_changes_nothing() -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "k")
        node.now += 40 * DAY
        assert (await node.let_go(lives(history=35 * DAY))).folded == 0

    run(work)


def test_who_was_erased_is_passed_over() -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "k")
        await node.writer.run(Erase("ada", "admin"))
        node.now += 40 * DAY
        assert await node.let_go(lives(HOUR, HOUR)) == Tally()

    run(work)


def test_a_chore_that_fails_keeps_no_other_from_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)
    done = asyncio.Event()

    async def fails() -> None:
        raise ZeroDivisionError

    async def waits() -> None:
        raise EngineUnavailable("Away.")

    async def works() -> None:
        done.set()

    async def within() -> None:
        task = asyncio.create_task(now_and_then(1, [fails, waits, works]))
        for _ in range(2):
            await asyncio.wait_for(done.wait(), 60)
            done.clear()
        task.cancel()
        await asyncio.wait_for(now_and_then(0, [works]), 60)

    asyncio.run(within())
