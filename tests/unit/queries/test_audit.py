"""Reading the trail beside a user's writes, and proving it whole: whatever is done to it is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from roost.commands import upkeep
from roost.core import audit as core
from roost.core.audit import BEGINNING, NO_KEY, Checkpoint, Cursor, Draft, Entry, Found, Link, Record, Selection, chain
from roost.engines.audit import MemoryAudit
from roost.engines.memory import Memory
from roost.queries import audit
from tests.contract.writing import Write, write

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY, OTHER = b"k" * 32, b"o" * 32
COUNT = 12
Tampering = Callable[[MemoryAudit], None]


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def draft(n: int, **more: Any) -> Draft:
    fields: dict[str, Any] = {"at": later(n), "actor": "user:ada", "kind": "user", "action": "read", "key": str(n)}
    return Draft(**(fields | more))


async def filled(store: MemoryAudit, drafts: list[Draft], key: bytes = KEY) -> list[Record]:
    async with store.transaction() as tx:
        records = chain(key, await tx.lock(), drafts)
        await tx.append(records)
    return records


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def trail(count: int = COUNT) -> MemoryAudit:
    store = MemoryAudit()
    run(filled(store, [draft(n) for n in range(1, count + 1)]))
    return store


def faults(store: MemoryAudit, heads: dict[int, bytes] | None = None) -> list[str]:
    said: list[str] = []
    verdict = run(audit.verify(store, KEY, said.append, heads))
    assert verdict.faults == len(said)
    return said


def at(store: MemoryAudit, n: int) -> int:
    return next(index for index, record in enumerate(store._records) if record.n == n)


def changed(n: int, **fields: Any) -> Tampering:
    def tamper(store: MemoryAudit) -> None:
        index = at(store, n)
        store._records[index] = replace(store._records[index], **fields)

    return tamper


def removed(*numbers: int) -> Tampering:
    def tamper(store: MemoryAudit) -> None:
        store._records = [record for record in store._records if record.n not in numbers]

    return tamper


def closed_up(n: int) -> Tampering:
    """Removed, and those behind it moved up."""

    def tamper(store: MemoryAudit) -> None:
        kept = [record for record in store._records if record.n != n]
        store._records = [replace(record, n=nr) for nr, record in enumerate(kept, 1)]
        store._end = Link(len(kept), kept[-1].mac, kept[-1].at)

    return tamper


def swapped(one: int, other: int) -> Tampering:
    def tamper(store: MemoryAudit) -> None:
        first, second = store._records[at(store, one)], store._records[at(store, other)]
        store._records[at(store, one)] = replace(second, n=one)
        store._records[at(store, other)] = replace(first, n=other)

    return tamper


def put_in(after: int) -> Tampering:
    def tamper(store: MemoryAudit) -> None:
        records = store._records
        records.insert(after, replace(records[after - 1], key="forged"))
        store._records = [replace(record, n=nr) for nr, record in enumerate(records, 1)]
        store._end = Link(len(records), records[-1].mac, records[-1].at)

    return tamper


def rehashed(n: int) -> Tampering:
    """Changed, and everything from there on hashed again, without the key."""

    def tamper(store: MemoryAudit) -> None:
        before = store._records[: n - 1]
        end = Link(n - 1, before[-1].mac, before[-1].at)
        drafts = [replace(record, actor="user:eve") for record in store._records[n - 1 :]]
        store._records = before + chain(OTHER, end, list(drafts))
        store._end = Link(COUNT, store._records[-1].mac, store._records[-1].at)

    return tamper


def forged_checkpoint(n: int) -> Tampering:
    def tamper(store: MemoryAudit) -> None:
        mac = store._records[at(store, n)].mac
        removed(*range(1, n + 1))(store)
        store._base = Checkpoint(n, mac, core.seal_of(OTHER, n, mac))

    return tamper


TAMPERED = {
    "changed": (changed(5, actor="user:eve"), "Record 5 is not"),
    "outcome": (changed(1, outcome="denied"), "Record 1 is not"),
    "last changed": (changed(COUNT, user="bob"), f"Record {COUNT} is not"),
    "time": (changed(3, at=later(2.5)), "Record 3 is not"),
    "none for empty": (changed(4, detail=""), "Record 4 is not"),
    "count": (changed(4, count=2), "Record 4 is not"),
    "hash": (changed(4, mac=b"x" * 32), "Record 4 is not"),
    "removed": (removed(6), "Record 6 is missing."),
    "several removed": (removed(6, 7, 8), "Records 6 to 8 are missing."),
    "first removed": (removed(1), "Record 1 is missing."),
    "last removed": (removed(COUNT), f"Record {COUNT} is missing at the end."),
    "all removed": (removed(*range(1, COUNT + 1)), f"Records 1 to {COUNT} are missing at the end."),
    "closed up": (closed_up(4), "Record 4 is not"),
    "swapped": (swapped(3, 9), "Record 3 is not"),
    "neighbours swapped": (swapped(3, 4), "Record 3 is not"),
    "put in": (put_in(5), "Record 6 is not"),
    "hashed again": (rehashed(7), "Record 7 is not"),
    "checkpoint": (forged_checkpoint(4), "The checkpoint at record 4 is forged"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_found(name: str) -> None:
    tamper, expected = TAMPERED[name]
    store = trail()
    assert faults(store) == []
    tamper(store)
    assert faults(store)[0].startswith(expected)


def test_a_genuine_record_of_another_past_is_found() -> None:
    """Of a trail that went on twice from one place, as after a restore, nothing of one can stand in for the other."""
    store, other = trail(6), trail(6)
    run(filled(store, [draft(n, actor="user:ada") for n in range(7, 10)]))
    run(filled(other, [draft(n, actor="user:eve") for n in range(7, 10)]))
    store._records[7] = other._records[7]
    assert faults(store)[0].startswith("Record 8 is not")


@settings(max_examples=150)
@given(st.data())
def test_no_change_of_any_record_goes_unnoticed(data: st.DataObject) -> None:
    store = trail(5)
    before = [*store._records]
    n = data.draw(st.integers(1, 5))
    field = data.draw(st.sampled_from(Record.__struct_fields__))
    text = st.text(max_size=5)
    values = {
        "at": st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        "n": st.integers(0, 7),
        "count": st.integers(0, 5),
        "mac": st.binary(min_size=32, max_size=32),
        "outcome": st.sampled_from(["allowed", "denied", "failed"]),
    }
    value = data.draw(
        values.get(field, text if field in ("actor", "kind", "action", "address", "request_id") else st.none() | text)
    )
    store._records[n - 1] = replace(store._records[n - 1], **{field: value})
    assert bool(faults(store)) == (store._records != before)


def test_a_trail_whose_end_was_cut_off_is_found_by_a_head_kept_elsewhere() -> None:
    store = trail()
    heads = {n: store._records[n - 1].mac for n in (4, 9, COUNT)}
    assert faults(store, heads) == []
    store._records = store._records[:7]
    store._end = Link(7, store._records[-1].mac, store._records[-1].at)
    assert faults(store) == []
    assert faults(store, {4: heads[4]}) == []
    assert faults(store, heads) == [
        f"The trail had come to record {n}, and ends at 7: its end was cut off." for n in (9, COUNT)
    ]
    run(filled(store, [draft(n) for n in range(100, 110)]))
    assert faults(store) == []
    assert len(faults(store, heads)) == 2


def test_a_sealed_head_is_good_for_its_key_alone() -> None:
    end = Link(7, b"m" * 32, START)
    text = core.seal_head(KEY, end)
    assert core.open_head(KEY, text) == (7, end.mac)
    assert core.open_head(OTHER, text) is None
    for wrong in (
        "",
        "x",
        text[:-1],
        text[:-2] + "AA",
        text.replace("1.", "2.", 1),
        text + "A" * 300,
        "roost-audit-1.é",
    ):
        assert core.open_head(KEY, wrong) is None


def test_pruning_keeps_the_chain_provable() -> None:
    store = trail()
    heads = {4: store._records[3].mac, 5: store._records[4].mac, 9: store._records[8].mac}
    assert run(upkeep.prune(store, KEY, later(6))) == 5
    assert faults(store, heads) == []
    assert [record.n for record in store._records] == list(range(6, COUNT + 1))
    assert run(upkeep.prune(store, KEY, later(6))) == 0
    removed(6)(store)
    assert faults(store) == ["Record 6 is missing."]


def test_all_of_it_may_be_pruned_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "STEP_RECORDS", 5)
    store = trail()
    assert run(upkeep.prune(store, KEY, later(1000))) == COUNT
    assert faults(store) == []
    run(filled(store, [draft(50)]))
    assert faults(store) == []
    assert store._records[0].n == COUNT + 1


def test_what_is_pruned_while_it_is_proved_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE_RECORDS", 2)
    store = trail()
    page, pruned = store.page, [later(6), later(9)]

    async def pruning(selection: Selection, after: int, limit: int) -> Any:
        if after in (2, 7) and pruned:
            await upkeep.prune(store, KEY, pruned.pop(0))
        return await page(selection, after, limit)

    monkeypatch.setattr(store, "page", pruning)
    assert faults(store) == []
    assert not pruned


def test_gaps_that_the_trail_tells_of_are_counted() -> None:
    store = trail()
    run(filled(store, [draft(20, action="gap", count=7)]))
    assert run(audit.verify(store, KEY, pytest.fail)).lost == 7


def before_sealing() -> MemoryAudit:
    """A trail of which records 1 to 4 are of the time before anything was sealed."""
    store = MemoryAudit()
    run(filled(store, [draft(n) for n in range(1, 5)], NO_KEY))
    run(filled(store, [draft(n) for n in range(5, 9)]))
    return store


def test_records_from_before_anything_was_sealed_are_held_by_the_first_one_after() -> None:
    assert faults(before_sealing()) == []
    store = before_sealing()
    changed(2, actor="user:eve")(store)
    assert faults(store)[0].startswith("Record 2 is not")
    # Whoever knows how the chain is made makes it anew, which takes no key so far.
    anew = chain(NO_KEY, BEGINNING, [draft(n, actor="user:eve") for n in range(1, 5)])
    store._records[:4] = anew
    assert faults(store)[0].startswith("Record 5 is not")


def test_no_record_without_the_key_is_taken_once_there_is_one() -> None:
    store = before_sealing()
    run(filled(store, [draft(9)], NO_KEY))
    assert faults(store)[0].startswith("Record 9 is not")
    store = MemoryAudit()
    run(filled(store, [draft(n) for n in range(1, 5)], NO_KEY))
    assert faults(store) == ["No record was made with the key of this trail."]
    # Nor to begin with, where older records were pruned.
    store = trail(6)
    run(upkeep.prune(store, KEY, later(6)))
    base = run(store.checkpoint())
    store._records = chain(NO_KEY, Link(base.n, base.mac, START), [draft(6)])
    assert faults(store)[0].startswith("Record 6 is not")


class TestHeadFile:
    """The data directory's own note of how far the trail had come."""

    def test_it_goes_along_with_the_trail(self, tmp_path: Path) -> None:
        store = trail()
        assert upkeep.read_head(KEY, tmp_path) is None
        text = run(upkeep.write_head(store, KEY, tmp_path))
        file = tmp_path / upkeep.HEAD_FILE
        assert file.read_text().strip() == text
        assert file.stat().st_mode & 0o077 == 0
        run(filled(store, [draft(50)]))
        run(upkeep.write_head(store, KEY, tmp_path))
        assert upkeep.read_head(KEY, tmp_path) == (COUNT + 1, store._end.mac)
        assert [path.name for path in tmp_path.iterdir()] == [upkeep.HEAD_FILE]

    def test_it_stays_where_the_trail_was_cut_off(self, tmp_path: Path) -> None:
        store = trail()
        run(upkeep.write_head(store, KEY, tmp_path))
        whole = (tmp_path / upkeep.HEAD_FILE).read_text()
        store._records = store._records[:5]
        store._end = Link(5, store._records[-1].mac, store._records[-1].at)
        with pytest.raises(upkeep.CutOff, match="12"):
            run(upkeep.write_head(store, KEY, tmp_path))
        assert (tmp_path / upkeep.HEAD_FILE).read_text() == whole
        assert faults(store, dict(upkeep.known_heads(KEY, tmp_path, [], pytest.fail)))

    def test_what_is_no_head_is_no_head(self, tmp_path: Path) -> None:
        said: list[str] = []
        (tmp_path / upkeep.HEAD_FILE).write_bytes(b"\xff")
        given_ = [core.seal_head(OTHER, Link(3, b"m" * 32, START)), core.seal_head(KEY, Link(4, b"m" * 32, START))]
        assert dict(upkeep.known_heads(KEY, tmp_path, given_, said.append)) == {4: b"m" * 32}
        assert len(said) == 1


async def everything(engine: Memory, selection: Selection, limit: int) -> list[Entry]:
    cursor, found, live = Cursor(), [], False
    while not live:
        page = await audit.excerpt(engine, selection, cursor, limit)
        assert len(page.entries) <= limit
        assert page.cursor != cursor or page.live
        cursor, live = page.cursor, page.live
        found += page.entries
    return found


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["ada", "bob"]), st.booleans()), max_size=25),
    st.sampled_from([None, "ada"]),
    st.sampled_from([None, "read", "write"]),
    st.sampled_from([None, 3, 10]),
    st.sampled_from([None, 7, 20]),
    st.integers(1, 7),
    st.booleans(),
)
@example([("ada", True)] * 5, "ada", None, 3, None, 7, False)
@example([("ada", False), ("ada", False), ("ada", True)], "ada", None, None, None, 7, True)
def test_of_one_user_the_writes_are_among_the_records_in_order(
    steps: list[tuple[str, bool]],
    user: str | None,
    action: str | None,
    since: int | None,
    until: int | None,
    limit: int,
    short: bool,
) -> None:
    async def work() -> None:
        engine = Memory()
        await engine.open()
        page = engine.audit.page
        if short:  # as where few of many records are selected: a page ends before it is full

            async def shorter(selection: Selection, after: int, limit: int) -> Found:
                return await page(selection, after, min(limit, 1))

            engine.audit.page = shorter  # type: ignore[method-assign]
        expected: list[tuple[datetime, str]] = []
        for second, (who, writes) in enumerate(steps):
            if writes:
                await write(engine, Write(who, "notes", "n", b"%d" % second, later(second)))
            else:
                await filled(engine.audit, [draft(second, user=who)])  # type: ignore[arg-type]
            wanted = (user in (None, who)) and (not writes or user is not None)
            wanted &= action in (None, "write" if writes else "read")
            wanted &= (since is None or second >= since) and (until is None or second < until)
            expected += [(later(second), "write" if writes else "read")] * wanted
        selection = Selection(
            user=user,
            action=action,
            since=None if since is None else later(since),
            until=None if until is None else later(until),
        )
        assert [(entry.at, entry.action) for entry in await everything(engine, selection, limit)] == expected

    run(work())


def test_a_write_tells_who_and_which_and_no_value() -> None:
    async def work() -> None:
        engine = Memory()
        await engine.open()
        await write(engine, Write("ada", "notes", "n", b'"secret"', START))
        (entry,) = await everything(engine, Selection(user="ada"), 10)
        assert (entry.n, entry.seq, entry.actor, entry.kind) == (None, 1, "user:test", "user")
        assert (entry.user, entry.collection, entry.key, entry.detail) == ("ada", "notes", "n", "put")
        assert "secret" not in repr(entry)

    run(work())
