"""Erasing for good: what is written first, what is finished later, and what happens to older copies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from roost.commands.erasures import Erasures
from roost.commands.transaction import GroupCommit
from roost.commands.writer import Writer
from roost.core.commands import Accepted, Change, CreateUser, Op
from roost.core.decide import Rules
from roost.core.errors import Code, RoostError
from roost.core.ids import ERASURES, SHREDDINGS, SYSTEM_USER
from roost.core.limits import Limits
from roost.core.moment import NOW
from roost.core.ports import DocumentRef
from roost.crypto.ledger import Entry, Ledger
from roost.engines.memory import Memory
from roost.queries.reader import Reader
from roost.queries.receipts import Receipt, receipt
from roost.settings import Settings

T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Settings(engine_timeout_s=0.2)


class Node:
    """Erasures of one node, on an engine that may be another's too, with a clock of its own."""

    def __init__(self, folder: Path, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self.ledger = Ledger(folder / "shredded.jsonl")
        self.now = START
        self.rotations = 0
        self.during: Callable[[], Awaitable[object]] | None = None
        self.writer = Writer(self.memory, SETTINGS, clock=self.clock, committed=lambda *_: None)
        self.reader = Reader(self.memory, SETTINGS)
        self.erasures = Erasures(self.memory, self.writer, self.ledger, self.clock, self.rotate)

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    async def rotate(self) -> str:
        if self.during is not None:
            await self.during()
        self.rotations += 1
        return f"kek-{self.rotations}"

    async def put(self, *users: str) -> None:
        for user in users:
            await self.writer.run(Change(user, (Op("put", "notes", "k", b"1"),), f"user:{user}"))

    async def receipt(self, user: str) -> Receipt:
        return await receipt(self.reader, user)

    def listed(self) -> list[str]:
        return [entry.user for entry in self.ledger.entries()]

    async def is_erased(self, user: str) -> bool:
        head = await self.memory.head(user)
        return head is not None and head.erased_at is not None


def run(folder: Path, work: Callable[[Node], Awaitable[T]]) -> T:
    async def within() -> T:
        node = Node(folder)
        await node.memory.open()
        return await work(node)

    return asyncio.run(within())


def test_the_ledger_has_it_before_the_database(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.put("ada")
        await node.memory.close()
        with pytest.raises(RoostError) as refusal:
            await node.erasures.erase("ada", "admin")
        assert refusal.value.code is Code.UNAVAILABLE
        await node.memory.open()
        assert node.listed() == ["ada"]
        assert not await node.is_erased("ada")
        assert await node.erasures.reconcile() == 1
        assert await node.is_erased("ada")
        assert (await node.receipt("ada")).documents == 1
        assert await node.erasures.reconcile() == 0

    run(tmp_path, work)


def test_a_receipt_is_the_same_each_time(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "ada", "bob")
        await node.erasures.erase("ada", "admin")
        first = await node.receipt("ada")
        assert first == Receipt("ada", first.erased_at, 3, 2, 1, None)
        await node.put("bob")
        await node.erasures.erase("ada", "user:ada")
        assert await node.receipt("ada") == first
        assert node.listed() == ["ada"]
        for user in ("bob", "nobody"):
            with pytest.raises(RoostError, match="not erased") as refusal:
                await node.receipt(user)
            assert refusal.value.code is Code.NOT_FOUND
        with pytest.raises(RoostError, match="no user") as refusal:
            await node.erasures.erase("nobody", "admin")
        assert refusal.value.code is Code.NOT_FOUND
        assert node.listed() == ["ada"]

    run(tmp_path, work)


def test_a_restored_database_is_rid_again_of_everybody_in_the_ledger(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "bob")
        for user in ("ada", "bob"):
            await node.erasures.erase(user, "admin")
        # From a backup in which one of them is there again, and the other was not there yet.
        restored = Node(tmp_path)
        await restored.memory.open()
        await restored.put("ada", "eve")
        assert await restored.erasures.reconcile() == 2
        assert await restored.is_erased("ada")
        with pytest.raises(RoostError) as refusal:
            await restored.put("bob")  # a device that was offline
        assert refusal.value.code is Code.USER_ERASED
        assert not await restored.is_erased("eve")
        assert sorted(restored.listed()) == ["ada", "bob"]

    run(tmp_path, work)


def test_a_ledger_that_was_lost_is_written_anew(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        users = [f"user-{number}" for number in range(3)]
        await node.put(*users)
        for user in users:
            await node.erasures.erase(user, "admin")
        node.ledger.path.unlink()
        assert await node.erasures.reconcile() == 0
        assert sorted(node.listed()) == users
        await node.erasures.reconcile()
        assert len(node.listed()) == len(users)

    run(tmp_path, work)


def test_another_ledger_is_replayed_and_taken_over(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        other = Ledger(tmp_path / "other.jsonl")
        other.add([Entry("ada", START), Entry("bob", START), Entry("ada", START)])
        await node.put("ada", "eve")
        assert await node.erasures.replay(other) == 2
        assert set(node.listed()) == {"ada", "bob"}
        assert await node.is_erased("ada")
        assert not await node.is_erased("eve")

    run(tmp_path, work)


def test_copies_are_shredded_once_for_all_who_were_erased_before(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "bob", "eve")
        assert await node.erasures.shred() is None
        assert node.rotations == 0
        await node.erasures.erase("ada", "admin")
        await node.erasures.erase("bob", "admin")
        assert (await node.receipt("ada")).shredded_at is None
        done = await node.erasures.shred()
        assert done is not None
        assert node.rotations == 1
        assert {(await node.receipt(user)).shredded_at for user in ("ada", "bob")} == {done.shredded_at}
        assert await node.erasures.shred() is None
        await node.erasures.erase("eve", "admin")
        assert (await node.receipt("eve")).shredded_at is None
        later = await node.erasures.shred()
        assert later is not None
        assert later.shredded_at > done.shredded_at
        assert (await node.receipt("eve")).shredded_at == later.shredded_at
        assert (await node.receipt("ada")).shredded_at == done.shredded_at

    run(tmp_path, work)


def test_who_is_erased_while_the_keys_change_waits_for_the_next_time(tmp_path: Path) -> None:
    """That user's key may have been wrapped anew already, and be in a copy."""

    async def work(node: Node) -> None:
        await node.put("ada", "bob")
        await node.erasures.erase("ada", "admin")
        node.during = lambda: node.erasures.erase("bob", "admin")
        await node.erasures.shred()
        node.during = None
        assert (await node.receipt("ada")).shredded_at is not None
        assert (await node.receipt("bob")).shredded_at is None
        await node.erasures.shred()
        assert (await node.receipt("bob")).shredded_at is not None

    run(tmp_path, work)


def test_keys_do_not_change_more_often_than_that(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.put("ada", "bob")
        await node.erasures.erase("ada", "admin")
        first = await node.erasures.shred(node.now - timedelta(days=7))
        assert first is not None
        await node.erasures.erase("bob", "admin")
        assert await node.erasures.shred(first.shredded_at) is None
        assert (await node.receipt("bob")).shredded_at is None
        assert await node.erasures.shred(first.shredded_at + timedelta(microseconds=1)) is not None

    run(tmp_path, work)


def test_without_sealing_no_copy_can_be_shredded(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        erasures = Erasures(node.memory, node.writer, node.ledger, node.clock, None)
        await node.put("ada")
        await erasures.erase("ada", "admin")
        with pytest.raises(RoostError, match="Nothing is sealed") as refusal:
            await erasures.shred()
        assert refusal.value.code is Code.UNAVAILABLE
        assert (await node.receipt("ada")).shredded_at is None

    run(tmp_path, work)


def test_what_is_on_record_can_be_read_as_documents(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        await node.put("ada")
        await node.erasures.erase("ada", "admin")
        await node.erasures.shred()
        for ref in (DocumentRef(SYSTEM_USER, ERASURES, "ada"), DocumentRef(SYSTEM_USER, SHREDDINGS, f"{1:020}")):
            assert (await node.reader.document(ref, NOW)).document is not None

    run(tmp_path, work)


@pytest.mark.parametrize("committed", [True, False])
def test_an_unknown_commit_is_settled_where_one_of_its_users_was_erased_meanwhile(
    tmp_path: Path, *, committed: bool
) -> None:
    """The event that would tell is gone with the user: another one has to, or strangers' writes are made twice."""

    async def work(node: Node) -> None:
        rules = Rules(Limits(), lambda _: "lww")
        await node.writer.run(CreateUser("bob", "admin"))
        merges = [Change(user, (Op("put", "notes", "n", b"1"),), "admin") for user in ("ada", "bob")]
        group = GroupCommit(node.memory, [*merges], rules)
        transaction = node.memory.transaction

        class Lost(Exception):
            pass

        async def attempt() -> None:
            async with transaction() as tx:
                node.memory.transaction = lambda: _Given(tx)  # type: ignore[assignment, method-assign, return-value]
                await group.run(START)
                node.memory.transaction = transaction  # type: ignore[method-assign]
                if not committed:
                    raise Lost

        try:
            await attempt()
        except Lost:
            await node.put("ada")
        await node.erasures.erase("ada", "admin")
        assert group.unknown
        outcomes = await group.run(START)
        bob = await node.memory.log("bob", 0, 10, None)
        assert bob is not None
        assert [event.key for event in bob.events] == ["n"]
        assert isinstance(outcomes[1], Accepted)
        if not committed:
            assert isinstance(outcomes[0], RoostError)
            assert outcomes[0].code is Code.USER_ERASED

    run(tmp_path, work)


class _Given:
    """A transaction that somebody else commits."""

    def __init__(self, tx: object) -> None:
        self._tx = tx

    async def __aenter__(self) -> object:
        return self._tx

    async def __aexit__(self, *_: object) -> None:
        pass
