"""The trail: what goes on record, in which order, and what happens where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from roost.authz.principal import Caller, Kind, Origin, Principal
from roost.commands import floods, trail
from roost.commands.askers import ITSELF
from roost.commands.trail import Trail
from roost.core import audit
from roost.core.audit import BEGINNING, Draft, Link, Record, Selection, chain
from roost.core.definitions import Audit, Definition
from roost.core.errors import Code, RoostError
from roost.core.ports import EngineFull, EngineUnavailable
from roost.engines.audit import MemoryAudit, MemoryAuditTransaction
from roost.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = b"k" * 32
LEVELS: tuple[Audit, ...] = ("writes", "reads", "strict")


class Store(MemoryAudit):
    """A trail's store that can be away. `before` and `after` the commit it calls what a test gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.transactions = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryAuditTransaction]:
        self.before()
        self.transactions += 1
        async with super().transaction() as tx:
            yield tx
        self.after()


class Bench:
    """A trail, what it told of each commit, and the records that there are."""

    def __init__(self, **settings: Any) -> None:
        self.store = Store()
        self.now = START
        self.told: list[int] = []
        self.trail = Trail(
            self.store,
            Settings(**({"audit_flood_s": 0.01, "engine_timeout_s": 100.0} | settings)),
            clock=lambda: self.now,
            chain_key=self._key,
            definition_of=lambda name: Definition(conflict="lww", audit=name) if name in LEVELS else None,
            committed=self.told.append,
        )

    async def _key(self) -> bytes:
        return KEY

    async def records(self) -> list[Record]:
        await self.trail.close()
        found = (await self.store.page(Selection(), 0, 10_000)).records
        assert found == chain(KEY, BEGINNING, list(found))
        return found


def caller(kind: Kind = "user", name: str = "ada", address: str = "10.0.0.1") -> Caller:
    return Caller(Principal(kind, name), Origin(address, "ticket 7", "r-1"))


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def failing(error: Exception, times: int) -> Callable[[], None]:
    """What raises so many times, and then does nothing."""
    left = [error] * times

    def fail() -> None:
        if left:
            raise left.pop()

    return fail


@pytest.mark.parametrize("kind", ["user", "service", "support", "analyst", "admin"])
@pytest.mark.parametrize("collection", [*LEVELS, "undefined"])
def test_reads_are_on_record_where_the_collection_says_so_and_for_the_company_always(
    kind: Kind, collection: str
) -> None:
    async def work() -> None:
        bench = Bench()
        await bench.trail.read(caller(kind), "read", "bob", collection)
        found = await bench.records()
        wanted = collection in ("reads", "strict") or kind in ("support", "analyst", "admin")
        assert [(r.action, r.user, r.collection, r.outcome, r.purpose, r.address) for r in found] == [
            ("read", "bob", collection, "allowed", "ticket 7", "10.0.0.1")
        ] * wanted

    run(work())


def test_a_read_of_several_collections_is_a_record_for_each_that_wants_one() -> None:
    async def work() -> None:
        bench = Bench()
        await bench.trail.read(caller(), "read", "bob", ["writes", "strict", "reads", "undefined"])
        assert sorted(record.collection or "" for record in await bench.records()) == ["reads", "strict"]

    run(work())


@pytest.mark.parametrize("action", ["write", "see", "create", "definitions", "metrics"])
def test_writes_and_what_tells_nothing_of_anybody_are_not_put_on_record(action: str) -> None:
    async def work() -> None:
        bench = Bench()
        await bench.trail.read(caller("admin"), action, "bob", "strict")
        assert await bench.records() == []

    run(work())


@pytest.mark.parametrize("action", ["import", "export", "erase", "define", "policies", "clients", "revoke"])
def test_administrative_actions_are_on_record_before_they_are_carried_out(action: str) -> None:
    async def work() -> None:
        bench = Bench()
        await bench.trail.read(caller("service", "crm"), action, "bob")
        (record,) = (await bench.store.page(Selection(), 0, 10)).records
        assert (record.actor, record.action) == ("service:crm", action)

    run(work())


def test_what_must_be_on_record_first_is_refused_where_it_cannot_be() -> None:
    async def work() -> None:
        bench = Bench(engine_timeout_s=0.05)
        bench.store.before = failing(EngineUnavailable("away"), 10**6)
        for collection in ("strict", ["reads", "strict"]):
            with pytest.raises(RoostError) as refused:
                await bench.trail.read(caller(), "read", "bob", collection)
            assert refused.value.code is Code.UNAVAILABLE
        await bench.trail.read(caller(), "read", "bob", "reads")
        bench.store.before = failing(EngineUnavailable("away"), 0)
        assert {record.collection for record in await bench.records()} == {"reads"}

    run(work())


def test_a_full_disk_refuses_at_once() -> None:
    async def work() -> None:
        bench = Bench(engine_timeout_s=60.0)
        bench.store.before = failing(EngineFull(), 10**6)
        with pytest.raises(RoostError) as refused:
            await asyncio.wait_for(bench.trail.read(caller(), "define", None), 50)
        assert refused.value.code is Code.UNAVAILABLE

    run(work())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_may_have_been_is_found_out_and_nothing_is_there_twice(when: str) -> None:
    async def work() -> None:
        bench = Bench()
        setattr(bench.store, when, failing(EngineUnavailable("lost"), 2))
        await asyncio.gather(*(bench.trail.read(caller(), "define", None, key=str(n)) for n in range(5)))
        await bench.trail.read(caller(), "define", None)
        assert [r.key for r in await bench.records()] == [*"01234", None]

    run(work())


def test_records_that_arrive_together_are_one_commit() -> None:
    async def work() -> None:
        bench = Bench()
        for n in range(100):
            bench.trail.note(caller(), "login", key=str(n))
        assert [record.key for record in await bench.records()] == [str(n) for n in range(100)]
        assert bench.store.transactions == 1
        assert bench.told == [100]

    run(work())


def test_what_finds_no_room_is_counted_on_record() -> None:
    async def work() -> None:
        bench = Bench(audit_queue_max=10)
        with capture_logs() as said:
            for n in range(25):
                bench.trail.note(caller(), "login", key=str(n))
            with pytest.raises(RoostError, match="on record"):
                await bench.trail.read(caller(), "define", None)
            gap, *others = await bench.records()
        assert (gap.action, gap.outcome, gap.count, gap.actor) == ("gap", "failed", 15, "roost")
        assert [record.key for record in others] == [str(n) for n in range(10)]
        assert [line["log_level"] for line in said] == ["error"]

    run(work())


def test_a_record_that_the_engine_chokes_on_leaves_a_gap_and_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    append = audit.chain

    def choking(key: bytes, end: Link, drafts: list[Draft]) -> list[Record]:
        if any(draft.key == "bad" for draft in drafts):
            raise ValueError
        return append(key, end, drafts)

    monkeypatch.setattr(audit, "chain", choking)

    async def work() -> None:
        bench = Bench()
        for key in ("a", "bad"):
            bench.trail.note(caller(), "login", key=key)
        with capture_logs():
            await bench.trail.read(caller(), "define", None, key="b")
            bench.trail.note(caller(), "login", key="c")
            found = await bench.records()
        assert [(record.key, record.count) for record in found] == [("a", 1), (None, 1), ("b", 1), ("c", 1)]

    run(work())


def test_a_flood_of_denials_becomes_a_number() -> None:
    async def work() -> None:
        bench = Bench()
        for n in range(1_000):
            bench.trail.denied(caller(), "read", f"user-{n}", "notes")
            bench.trail.denied(caller(address="10.0.0.2"), "read", "bob", "notes")
        bench.trail.denied(caller(name="eve"), "read", "bob")
        found = await bench.records()
        assert len(found) == 2 * (floods.SINGLE_MAX + 1) + 1
        assert sum(record.count for record in found) == 2_001
        assert {record.outcome for record in found} == {"denied"}
        flood, same = (record for record in found if record.count > 1)
        assert (flood.user, flood.collection, flood.actor, flood.address) == (None, "notes", "user:ada", "10.0.0.1")
        assert (same.user, same.collection) == ("bob", "notes")

    run(work())


@pytest.mark.parametrize("action", ["export", "erase", "import", "sessions"])
def test_what_one_does_over_and_over_to_one_user_becomes_a_number_and_hides_nobody_else(action: str) -> None:
    async def work() -> None:
        bench = Bench(audit_flood_s=60.0)
        for _ in range(200):
            await bench.trail.read(caller(), action, "ada")
        for n in range(50):
            await bench.trail.read(caller(), action, f"user-{n}")
        found = await bench.records()
        assert [record.count for record in found if record.user == "ada"] == [1] * floods.SINGLE_MAX + [180]
        assert {record.user for record in found} == {"ada", *(f"user-{n}" for n in range(50))}

    run(work())


def test_a_search_of_the_trail_is_on_record_for_each_user_that_it_is_about() -> None:
    async def work() -> None:
        bench = Bench()
        for user in ("ada", "bob", "ada"):
            await bench.trail.read(caller("admin"), "audit", user)
        assert [(record.user, record.count) for record in await bench.records()] == [
            ("ada", 1),
            ("bob", 1),
            ("ada", 1),
        ]

    run(work())


def test_the_record_of_one_document_names_it() -> None:
    async def work() -> None:
        bench = Bench()
        await bench.trail.read(caller(), "read", "bob", ["strict"], "k")
        await bench.trail.read(caller("admin"), "policies", None, key="night")
        assert [record.key for record in await bench.records()] == ["k", "night"]

    run(work())


def test_a_flood_that_goes_on_is_told_of_again_and_ends() -> None:
    async def work() -> None:
        bench = Bench(audit_flood_s=3600)

        def window_over() -> None:
            kept = bench.trail._floods
            for kind, window in list(kept._windows.items()):
                kept._over(kind, window)

        for _ in range(3):
            for _ in range(100):
                bench.trail.denied(caller(), "read", "bob")
            window_over()
        window_over()  # one without any
        bench.trail.denied(caller(), "read", "bob")
        found = await bench.records()
        assert [record.count for record in found] == [1] * floods.SINGLE_MAX + [80, 100, 100] + [1]

    run(work())


def test_kinds_of_floods_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floods, "WINDOWS_MAX", 5)

    async def work() -> None:
        bench = Bench()
        for n in range(500):
            bench.trail.note(Origin(f"10.0.0.{n}"), "login", outcome="failed", user="ada")
        found = await bench.records()
        assert sum(record.count for record in found) == 500
        assert len(found) <= 5 + floods.SINGLE_MAX + 1
        assert (found[-1].address, found[-1].user, found[-1].action) == ("", "ada", "login")

    run(work())


def test_reading_the_trail_is_on_record_once_however_often_it_is_asked() -> None:
    async def work() -> None:
        bench = Bench(audit_flood_s=60.0)
        for _ in range(50):
            await bench.trail.read(caller("admin"), "audit", None)
        assert [record.count for record in await bench.records()] == [1, 49]

    run(work())


def test_what_is_told_of_a_record_is_bounded_and_storable() -> None:
    async def work() -> None:
        bench = Bench()
        bench.trail.note(Origin("x" * 1_000), "login", user="nul\0\ud800\n", key="ключ", detail="d" * 1_000)
        bench.trail.note(ITSELF, "prune")
        first, second = await bench.records()
        assert (first.actor, first.kind) == ("", "")
        assert (first.user, first.key) == ("nul\ufffd\ufffd\ufffd", "ключ")
        assert len(first.address) == len(first.detail or "") == trail.TEXT_CHARS_MAX
        assert (second.actor, second.kind, second.address) == ("roost", "roost", "")

    run(work())


def test_times_never_go_back_along_the_chain() -> None:
    async def work() -> None:
        bench = Bench()
        for seconds in (5, 0, 10):
            bench.now = START + timedelta(seconds=seconds)
            await bench.trail.read(caller(), "define", None)
        assert [(record.at - START).seconds for record in await bench.records()] == [5, 5, 10]

    run(work())


def test_closing_ends_while_the_engine_is_away_and_says_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "_CLOSE_S", 0.01)

    async def work() -> None:
        bench = Bench()
        bench.store.before = failing(EngineUnavailable("away"), 10**6)
        with capture_logs() as said:
            for _ in range(300):
                bench.trail.note(caller(), "login")
            await bench.trail.close()
        assert said[-1]["records"] == 300

    run(work())
