"""What erasing and retention need of an engine: nothing of a user is left, in no table, and nobody else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from roost.commands.erasures import Erasures
from roost.commands.writer import Writer
from roost.core.commands import Accepted, Change, Command, Erase, Idempotency, Mutation, Op, Push
from roost.core.errors import Code, RoostError
from roost.core.events import Device, Event
from roost.core.ids import ERASURES, SYSTEM_USER, lane_of
from roost.core.ports import DocumentRef, Engine
from roost.core.retention import ERASED_ROWS, Expired
from roost.crypto.keyring import MemoryKeyring
from roost.crypto.ledger import Ledger
from roost.crypto.vault import Vault
from roost.engines import retention
from roost.feed.tail import Compacted, Tail
from roost.queries.verify import verify
from roost.settings import Settings
from tests.contract.conftest import TABLES, Store
from tests.contract.writing import START

DAY = timedelta(days=1)
# In the lane of `ada`, so that their positions are in each other's way.
NEIGHBOUR = next(f"user-{number}" for number in count() if lane_of(f"user-{number}") == lane_of("ada"))


class Node:
    """A writer on an engine, whose clock goes on by a second a step."""

    def __init__(self, engine: Engine, start: datetime = START) -> None:
        self.engine = engine
        self.now = start
        self.writer = Writer(
            engine, Settings(writers=4, readers=1, pool=4), clock=self._clock, committed=lambda *_: None
        )

    def _clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    async def run(self, *commands: Command) -> list[Accepted | str]:
        """What becomes of commands that arrive together: accepted, or the code of a refusal."""
        found = await asyncio.gather(*map(self.writer.run, commands), return_exceptions=True)
        return [one.code if isinstance(one, RoostError) else _accepted(one) for one in found]

    async def close(self) -> None:
        await self.writer.close()


def _accepted(outcome: Any) -> Accepted:
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, Accepted)
    return outcome


def put(user: str, key: str = "k", value: bytes = b'{"secret":1}', collection: str = "notes") -> Change:
    return Change(user, (Op("put", collection, key, value),), f"user:{user}", Idempotency(f"{key}{value!r}", b"f"))


def push(user: str, number: int = 1) -> Push:
    op = Op("put", "notes", "pushed", b'"pushed"')
    return Push(user, "phone", (Mutation(number, 0, number, (op,)),), f"user:{user}")


async def lived(engine: Engine, *users: str) -> Node:
    """Users with documents, history, answers and devices."""
    node = Node(engine)
    for user in users:
        await node.run(put(user), put(user, value=b"2"), put(user, "other"), push(user))
        await engine.touch([(user, Device("laptop", 0, 1, START, START + DAY))], 10)
    return node


async def problems(engine: Engine) -> list[str]:
    found: list[str] = []
    await verify(engine, found.append)
    return found


def erasing(user: str, **more: bool) -> Erase:
    return Erase(user, "admin", **more)


def test_nothing_of_the_user_is_left_but_a_tombstone(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        node = await lived(engine, "ada", NEIGHBOUR)
        kept = await engine.stored(NEIGHBOUR)
        before = await engine.head("ada")
        assert before is not None
        (outcome,) = await node.run(erasing("ada"))
        assert isinstance(outcome, Accepted)
        assert outcome.seq == before.seq + 1
        head = await engine.head("ada")
        assert head is not None
        assert (head.seq, head.floor, head.counts) == (outcome.seq, outcome.seq, {})
        assert head.erased_at == head.updated_at == head.created_at > before.updated_at
        log = await engine.log("ada", 0, 100, None)
        assert log is not None
        (event,) = log.events
        assert event == Event(outcome.seq, "erase", "", "", None, head.erased_at, "admin")
        assert await engine.stored("ada") == (head, [])
        assert await engine.devices("ada") == []
        point = (await engine.points([DocumentRef("ada", "notes", "k")]))[0]
        assert (point.seq, point.document, point.erased) == (outcome.seq, None, True)
        assert await engine.stored(NEIGHBOUR) == kept
        assert len(await engine.devices(NEIGHBOUR) or ()) == 2
        assert not (await engine.points([DocumentRef(NEIGHBOUR, "notes", "k")]))[0].erased
        assert await problems(engine) == []
        await node.close()

    store.run(run())


def test_no_table_names_the_user_but_the_tombstone(store: Store) -> None:
    async def run() -> None:
        assert store.url is not None
        node = await lived(store.engine, "ada", NEIGHBOUR)
        await node.run(erasing("ada"))
        connection = await asyncpg.connect(store.url)
        left = {}
        for table in TABLES:
            rows = await connection.fetch(f"SELECT * FROM roost.{table}")
            left[table] = sum("ada" in row.values() and row.get("user_id") == "ada" for row in rows)
        await connection.close()
        assert left == dict.fromkeys(TABLES, 0) | {"users": 1, "events": 1}
        await node.close()

    if store.url is not None:
        store.run(run())


def test_whatever_is_asked_of_the_user_from_then_on_is_refused(store: Store) -> None:
    async def run() -> None:
        node = await lived(store.engine, "ada")
        (first,) = await node.run(erasing("ada"))
        assert await node.run(put("ada"), put("ada", "new"), push("ada", 2)) == [Code.USER_ERASED] * 3
        (again,) = await node.run(erasing("ada"))
        assert isinstance(first, Accepted)
        assert again == Accepted(first.seq, replayed=True)
        await store.engine.touch([("ada", Device("laptop", 0, 1, START, START + DAY))], 10)
        assert await store.engine.devices("ada") == []
        assert await problems(store.engine) == []
        await node.close()

    store.run(run())


def test_one_transaction_may_write_to_a_user_and_erase_the_user(store: Store) -> None:
    async def run() -> None:
        node = await lived(store.engine, "ada")
        outcomes = await node.run(put("ada", "a"), push("ada", 2), erasing("ada"), put("ada", "b"), put(NEIGHBOUR))
        assert [outcome if isinstance(outcome, str) else "accepted" for outcome in outcomes] == [
            *("accepted", "accepted", "accepted", Code.USER_ERASED, "accepted"),
        ]
        assert await store.engine.devices("ada") == []
        log = await store.engine.log("ada", 0, 100, None)
        assert log is not None
        assert [event.kind for event in log.events] == ["erase"]
        assert await problems(store.engine) == []
        await node.close()

    store.run(run())


def test_a_user_who_never_was_is_erased_only_if_that_is_wanted(store: Store) -> None:
    async def run() -> None:
        node = Node(store.engine)
        assert await node.run(erasing("nobody")) == [Code.NOT_FOUND]
        assert await store.engine.head("nobody") is None
        assert await store.engine.head(SYSTEM_USER) is None
        (outcome,) = await node.run(erasing("nobody", unknown=True))
        assert isinstance(outcome, Accepted)
        assert outcome.seq == 1
        assert await node.run(put("nobody")) == [Code.USER_ERASED]
        assert await problems(store.engine) == []
        await node.close()

    store.run(run())


def test_every_erasure_is_on_record_however_many_there_are(store: Store) -> None:
    async def run() -> None:
        node = Node(store.engine)
        users = [f"user-{number}" for number in range(30)]
        await node.run(*(put(user) for user in users))
        await node.run(*(erasing(user) for user in users))
        snapshot = await store.engine.snapshot(SYSTEM_USER, None)
        assert snapshot is not None
        assert sorted(document.key for document in snapshot.documents) == sorted(users)
        assert snapshot.head.counts == {ERASURES: len(users)}
        assert await problems(store.engine) == []
        await node.close()

    store.run(run())


def test_writers_of_several_nodes_and_an_erasure_meet(store: Store) -> None:
    others = [store.another() for _ in range(2)]

    async def run() -> None:
        nodes = [await lived(store.engine, "ada"), *map(Node, others)]

        async def write(node: Node, number: int) -> list[Accepted | str]:
            outcomes = []
            for step in range(12):
                users = ["ada", NEIGHBOUR, f"user-{step}"]
                outcomes += await node.run(*(put(user, f"{number}-{step}") for user in users))
            return outcomes

        async def erase(node: Node) -> list[Accepted | str]:
            await asyncio.sleep(0)
            return await node.run(erasing("ada"))

        written = await asyncio.gather(*(write(node, place) for place, node in enumerate(nodes)), *map(erase, nodes))
        refused = {outcome for outcomes in written for outcome in outcomes if isinstance(outcome, str)}
        assert refused <= {Code.USER_ERASED}
        log = await store.engine.log("ada", 0, 100, None)
        assert log is not None
        assert [event.kind for event in log.events] == ["erase"]
        assert (await store.engine.stored("ada") or (None, None))[1] == []
        neighbours = await store.engine.stored(NEIGHBOUR)
        assert neighbours is not None
        assert len(neighbours[1]) == 36
        assert await problems(store.engine) == []
        for node in nodes:
            await node.close()

    store.run(run())


def test_a_reader_of_the_feed_is_told_or_told_to_begin_anew(store: Store) -> None:
    async def run() -> None:
        lane = lane_of("ada")
        node = await lived(store.engine, "ada", NEIGHBOUR)
        here, behind = Tail(store.engine, await store.engine.positions()), Tail(store.engine, {lane: 0})
        await node.run(erasing("ada"))
        told = [place.event.kind async for place in here.advance() if place.user == "ada"]
        assert told == ["erase"]
        with pytest.raises(Compacted):
            [place async for place in behind.advance()]
        await node.close()

    store.run(run())


def test_who_is_erased_is_vouched_for_by_nobody_and_given_no_key(store: Store) -> None:
    async def run() -> None:
        node = await lived(store.engine, "ada", "bob")
        await node.run(erasing("ada"))
        keyring = store.keyring or MemoryKeyring()
        vault = Vault(store.engine.keys, keyring, lambda: START)
        await vault.unlock()
        await vault.reseal()
        with pytest.raises(RoostError, match="no user"):
            await vault.rotate_user("ada")
        assert {key.user for key in await store.engine.keys.load(["ada", "bob"])} == {"bob"}
        await node.close()

    store.run(run())


def test_who_has_much_is_erased_at_once_and_rid_of_the_rest_in_parts(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(retention, "ERASED_ROWS", 2)
    assert ERASED_ROWS > 1_000

    async def run() -> None:
        node = await lived(store.engine, "ada", NEIGHBOUR)
        await node.run(*(put("ada", f"{number}") for number in range(7)))
        await node.run(erasing("ada"))
        assert await node.run(put("ada")) == [Code.USER_ERASED]
        if store.keyring is not None:
            assert await store.engine.keys.load(["ada"]) == []
        # Where that was cut off, whoever comes by goes on with it.
        retained = store.engine.retention
        assert await retained.leftovers(["nobody", "ada"]) == ([] if store.engine.name == "memory" else ["ada"])
        erasures = Erasures(store.engine, node.writer, Ledger(tmp_path / "ledger"), lambda: START, None)
        assert await erasures.reconcile() == 0
        assert await retained.leftovers(["ada"]) == []
        assert await retained.sweep("ada") == 0
        assert await store.engine.stored("ada") == (await store.engine.head("ada"), [])
        assert await problems(store.engine) == []
        assert await store.engine.retention.sweep(NEIGHBOUR) == 0
        assert len((await store.engine.stored(NEIGHBOUR) or ((), ()))[1]) == 3
        await node.close()

    store.run(run())


def test_what_has_expired_and_who_ever_had_such_a_document(store: Store) -> None:
    async def run() -> None:
        node = Node(store.engine)
        await node.run(put("ada", "old"), put("ada", "gone"), put("bob", "old", collection="carts"))
        await node.run(Change("ada", (Op("delete", "notes", "gone"),), "admin"))
        node.now += DAY
        await node.run(put("ada", "new"), put("eve", "new"))
        users: Sequence[str] = ["ada", "bob", "eve", "nobody"]
        store_of = store.engine.retention
        before = {"notes": START + DAY, "carts": START}
        expired = await store_of.expired(users, before, 10)
        assert [each[:3] for each in expired] == [("ada", "notes", "old")]
        point = (await store.engine.points([DocumentRef(*expired[0][:3])]))[0]
        assert point.document is not None
        assert expired == [Expired("ada", "notes", "old", point.document.version)]
        everything = {"notes": START + 2 * DAY, "carts": START + DAY}
        assert len(await store_of.expired(users, everything, 10)) == 4
        assert len(await store_of.expired(users, everything, 3)) == 3
        await node.run(Change("ada", (Op("delete", "notes", "old"), Op("delete", "notes", "new")), "admin"))
        assert await store_of.holders(users, ["notes", "carts", "none"]) == {
            *(("ada", "notes"), ("bob", "carts"), ("eve", "notes")),
        }
        await node.close()

    store.run(run())


def test_who_has_as_much_as_a_collection_holds_is_erased_in_a_moment(store: Store) -> None:
    """With a plan that takes the square of it, the engine would not answer in time."""

    async def run() -> None:
        node = Node(store.engine)
        for page in range(20):
            ops = tuple(Op("put", "notes", f"{page}-{number}", b"1") for number in range(500))
            await node.run(Change("ada", ops, "user:ada"))
        (outcome,) = await node.run(erasing("ada"))
        assert isinstance(outcome, Accepted)
        assert outcome.seq == 10_001
        assert await store.engine.stored("ada") == (await store.engine.head("ada"), [])
        await node.close()

    if store.url is not None:
        store.run(run())
