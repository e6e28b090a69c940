"""What the audit trail needs of an engine: a chain in commit order, pages of it, a beginning that can be cut off."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from roost.core.audit import BEGINNING, Checkpoint, Draft, Found, Link, Record, Selection, chain
from roost.core.ports import Engine
from tests.contract.conftest import Store
from tests.contract.writing import START

KEY = b"k" * 32

# Sealing passes the trail on as it is.
pytestmark = pytest.mark.parametrize("store", ["memory", "embedded"], indirect=True)


def draft(actor: str = "user:ada", user: str | None = "ada", at: datetime = START, **more: str) -> Draft:
    return Draft(at=at, actor=actor, kind="user", action=more.pop("action", "read"), user=user, **more)  # type: ignore[arg-type]


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


async def append(engine: Engine, *drafts: Draft) -> list[Record]:
    async with engine.audit.transaction() as tx:
        records = chain(KEY, await tx.lock(), list(drafts))
        await tx.append(records)
    return records


def test_a_trail_begins_empty(store: Store) -> None:
    async def run() -> None:
        assert await store.engine.audit.end() == BEGINNING
        assert await store.engine.audit.checkpoint() is None
        assert await store.engine.audit.page(Selection(), 0, 10) == Found([], 0, 0)

    store.run(run())


def test_records_come_back_as_they_were_written(store: Store) -> None:
    whole = Draft(
        at=later(1.000001),
        actor="support:sam",
        kind="support",
        action="read",
        outcome="denied",
        address="2001:db8::1",
        request_id="r-1",
        purpose="ticket 7",
        user="bob",
        collection="notes",
        key="ключ",
        count=2**40,
        detail="why",
    )
    other = store.another()

    async def run() -> None:
        written = await append(store.engine, draft()) + await append(store.engine, whole, draft(user=None))
        assert [record.n for record in written] == [1, 2, 3]
        assert await other.audit.page(Selection(), 0, 10) == Found(written, 3, 3)
        assert await other.audit.end() == Link(3, written[-1].mac, written[-1].at)

    store.run(run())


def test_what_fails_leaves_nothing(store: Store) -> None:
    async def run() -> None:
        async def broken() -> None:
            async with store.engine.audit.transaction() as tx:
                await tx.append(chain(KEY, await tx.lock(), [draft()]))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await broken()
        assert await store.engine.audit.end() == BEGINNING
        assert (await store.engine.audit.page(Selection(), 0, 10)).records == []

    store.run(run())


def test_nodes_append_to_one_chain_without_holes(store: Store) -> None:
    engines = [store.engine, store.another(), store.another()]

    async def run() -> None:
        async def some(engine: Engine) -> None:
            for at in range(10):
                await append(engine, draft(at=later(-at)), draft(at=later(at)))

        await asyncio.gather(*map(some, engines))
        found = await store.engine.audit.page(Selection(), 0, 1000)
        assert [record.n for record in found.records] == list(range(1, 61))
        assert found.records == chain(KEY, BEGINNING, list(found.records))
        times = [record.at for record in found.records]
        assert times == sorted(times)

    store.run(run())


SOME = [
    draft("user:ada", "ada", later(0)),
    draft("support:sam", "ada", later(1), action="export"),
    draft("support:sam", "bob", later(2), outcome="denied"),
    draft("user:bob", "bob", later(3)),
    draft("", None, later(3), action="login", outcome="failed"),
    draft("user:ada", "ada", later(5), action="export"),
]


@pytest.mark.parametrize("window", [2, 50_000])
@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(user="ada"),
        Selection(actor="support:sam"),
        Selection(actor="support:sam", user="bob"),
        Selection(actor=""),
        Selection(action="export"),
        Selection(outcome="denied"),
        Selection(since=later(1), until=later(3)),
        Selection(since=later(3)),
        Selection(until=later(0)),
        Selection(since=later(9)),
        Selection(user="ada", since=later(1), action="export"),
        Selection(user="nobody"),
    ],
)
def test_pages_are_what_was_selected(
    store: Store, selection: Selection, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost.engines.audit.WINDOW", window)
    monkeypatch.setattr("roost.engines.audit.WINDOWS_MAX", 2)

    async def run() -> None:
        written = await append(store.engine, *SOME)
        for limit in (1, 2, 100):
            found: list[Record] = []
            after, end = 0, 1
            while after < end:
                page, reached, end = await store.engine.audit.page(selection, after, limit)
                assert len(page) <= limit
                assert after < reached <= end == len(SOME)
                after = reached
                found += page
            assert found == [record for record in written if selection.has(record)]

    store.run(run())


def test_old_records_are_pruned_up_to_a_checkpoint(store: Store) -> None:
    async def run() -> None:
        written = await append(store.engine, *SOME)
        async with store.engine.audit.transaction() as tx:
            await tx.lock()
            assert await tx.last_before(later(0), 100) is None
            assert await tx.last_before(later(3), 2) == Link(2, written[1].mac, written[1].at)
            last = await tx.last_before(later(3), 100)
            assert last == Link(3, written[2].mac, written[2].at)
            assert await tx.prune(Checkpoint(last.n, last.mac, b"sealed")) == 3
        assert await store.engine.audit.checkpoint() == Checkpoint(3, written[2].mac, b"sealed")
        assert await store.engine.audit.page(Selection(), 0, 100) == Found(written[3:], 6, 6)
        async with store.engine.audit.transaction() as tx:
            await tx.lock()
            await tx.prune(Checkpoint(6, written[5].mac, b"all"))
        end = await store.engine.audit.end()
        assert end == Link(6, written[5].mac, written[5].at)
        assert await append(store.engine, draft()) == chain(KEY, end, [draft()])

    store.run(run())


def test_the_hash_of_a_record_is_found_by_its_number(store: Store) -> None:
    async def run() -> None:
        written = await append(store.engine, *SOME)
        async with store.engine.audit.transaction() as tx:
            await tx.lock()
            assert await tx.mac(2) == written[1].mac
            assert await tx.mac(7) is None

    store.run(run())
