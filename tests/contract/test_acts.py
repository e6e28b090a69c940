"""Changes of keys are on record before they are made, wherever they are cut off; what cannot be so is not done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from roost.commands.askers import ITSELF, operator
from roost.commands.erasures import Erasures
from roost.commands.trail import Acts, Trail
from roost.commands.writer import Writer
from roost.core.audit import AUDIT, AuditStore, Outcome, Record, Selection
from roost.core.errors import Code, RoostError
from roost.core.ports import EngineUnavailable, TransactionLost
from roost.crypto import reseal
from roost.crypto.keyring import MemoryKeyring
from roost.crypto.ledger import Entry, Ledger
from roost.crypto.vault import Vault
from roost.engines.audit import MemoryAudit, MemoryAuditTransaction
from roost.engines.sealed import Sealed
from roost.queries.audit import verify
from roost.settings import Settings
from tests.contract.conftest import Store
from tests.contract.test_keys import SEALED, UNSEALED, _Died, _Mortal, clock
from tests.contract.writing import START, Write, write

KEY = b"k" * 32
SETTINGS = Settings(engine_timeout_s=100.0)
USERS = ("ada", "bob", "cyd")


class State(NamedTuple):
    """All that acts change."""

    keks: list[tuple[str, str]]
    keyring: list[str]
    generations: dict[str, int]
    erased: list[str]
    ledger: list[str]


class Node:
    """A node whose acts are told to a list, with how things stood then; it can be `refused` to tell them."""

    def __init__(self, store: Store, folder: Path) -> None:
        assert isinstance(store.keyring, MemoryKeyring)
        self.raw, self.keyring = store.raw(), store.keyring
        self.told: list[tuple[str, str | None, Outcome]] = []
        self.stood: list[State] = []
        self.refused = False
        self.ledger = Ledger(folder / "shredded.jsonl")
        self.vault = Vault(self.raw.keys, self.keyring, clock, record=self.record)
        engine = Sealed(self.raw, self.vault)
        writer = Writer(engine, SETTINGS, clock=clock, committed=lambda *_: None)
        self.erasures = Erasures(engine, writer, self.ledger, clock, self.vault.rotate_kek, self.record)

    async def record(self, detail: str, /, *, user: str | None = None, outcome: Outcome = "allowed") -> None:
        if self.refused:
            raise EngineUnavailable("not now")
        self.told.append((detail, user, outcome))
        self.stood.append(await self.state())

    async def state(self) -> State:
        keys = await self.raw.keys.load(list(USERS))
        return State(
            [(kek.kek, kek.state) for kek in await self.raw.keys.keks()],
            list(self.keyring.ids),
            {user: max(key.generation for key in keys if key.user == user) for user in {key.user for key in keys}},
            sorted(head.user for head in await self.raw.users(None, 100) if head.erased_at),
            [entry.user for entry in self.ledger.entries()],
        )


@SEALED
def test_each_act_is_on_record_before_it_is_done(store: Store, tmp_path: Path) -> None:
    node = Node(store, tmp_path)
    other = Ledger(tmp_path / "other.jsonl")
    other.add([Entry("cyd", START)])

    async def run() -> None:
        await write(store.engine, *(Write(user, "notes", "a", b"1") for user in USERS))
        (first,) = node.keyring.ids
        second = await node.vault.rotate_kek()
        assert await node.vault.rotate_user("ada") == 2
        with pytest.raises(RoostError, match="no user"):
            await node.vault.rotate_user("nobody")
        await node.erasures.erase("bob", "admin")
        shredding = await node.erasures.shred()
        assert shredding is not None
        third = shredding.kek
        assert await node.erasures.replay(other) == 1
        node.ledger.add([Entry("dan", START)])
        assert await node.erasures.reconcile() == 1
        assert await node.erasures.reconcile() == 0
        assert await node.vault.reseal() == 0
        assert node.told == [
            (f"rotate {first} to {second}", None, "allowed"),
            (f"destroy {first}", None, "allowed"),
            ("rotate-user begun", "ada", "allowed"),
            ("rotate-user ended: 2", "ada", "allowed"),
            ("rotate-user begun", "nobody", "allowed"),
            ("rotate-user failed", "nobody", "failed"),
            ("shred begun", None, "allowed"),
            (f"rotate {second} to {third}", None, "allowed"),
            (f"destroy {second}", None, "allowed"),
            (f"shred ended: {third}", None, "allowed"),
            ("replay begun", None, "allowed"),
            ("erase 1 users again", None, "allowed"),
            ("replay ended: 1", None, "allowed"),
            ("erase 1 users again", None, "allowed"),
        ]
        rotate, destroy, begun, *_, replay, again, _, reconciled = node.stood
        assert rotate.keks == [(first, "current")]
        assert (destroy.keks, destroy.keyring) == ([(first, "retiring"), (second, "current")], [first, second])
        assert begun.generations == dict.fromkeys(USERS, 1)
        assert (node.stood[6].keks, node.stood[7].keks) == ([(second, "current")],) * 2
        assert (replay.ledger, again.erased, reconciled.erased) == (["bob"], ["bob"], ["bob", "cyd"])

    store.run(run())


@SEALED
def test_what_cannot_be_on_record_is_not_done(store: Store, tmp_path: Path) -> None:
    node = Node(store, tmp_path)
    other = Ledger(tmp_path / "other.jsonl")
    other.add([Entry("cyd", START)])

    async def run() -> None:
        await write(store.engine, *(Write(user, "notes", "a", b"1") for user in USERS))
        await node.erasures.erase("bob", "admin")
        await reseal.renew(node.vault, node.raw.keys, "ada")
        before, node.refused = await node.state(), True
        acts: list[Callable[[], Awaitable[object]]] = [
            node.vault.rotate_kek,
            partial(node.vault.rotate_user, "ada"),
            node.vault.reseal,
            node.erasures.shred,
            partial(node.erasures.replay, other),
        ]
        for act in acts:
            with pytest.raises(RoostError, match="not now"):
                await act()
            assert await node.state() == before
        node.ledger.add([Entry("cyd", START)])
        with pytest.raises(RoostError, match="not now"):
            await node.erasures.reconcile()
        assert (await node.state()).erased == ["bob"]

    store.run(run())


@SEALED
def test_a_rotation_that_dies_anywhere_has_no_step_without_its_record(store: Store) -> None:
    raw, keyring = store.raw(), store.keyring
    assert keyring is not None
    told: list[str] = []

    async def run() -> None:
        await write(store.engine, Write("ada", "notes", "a", b"1"))
        known = {kek.kek for kek in await raw.keys.keks()}
        for steps in count(1):
            left = [steps]
            keys: Any = _Mortal(raw.keys, left)

            async def record(detail: str, /, *, left: list[int] = left, **_: Any) -> None:
                left[0] -= 1
                told.append(detail)
                if not left[0]:
                    raise _Died

            died = False
            try:
                await Vault(keys, _Mortal(keyring, left), clock, record=record).rotate_kek()
            except _Died:
                died = True
            keks = {kek.kek for kek in await raw.keys.keks()}
            assert not [kek for kek in keks - known if not any(each.endswith(f"to {kek}") for each in told)]
            assert not [kek for kek in known - keks if f"destroy {kek}" not in told]
            known |= keks
            if not died:
                break
        assert len(known) >= 4

    store.run(run())


@SEALED
def test_who_was_not_the_first_to_rotate_says_so(store: Store, tmp_path: Path) -> None:
    node, rival = Node(store, tmp_path), Vault(store.raw().keys, store.keyring or MemoryKeyring(), clock)

    async def run() -> None:
        await node.vault.unlock()
        (first,) = node.keyring.ids
        between: list[Callable[[], Awaitable[str]]] = [rival.rotate_kek]
        told = node.record

        async def record(detail: str, /, **more: Any) -> None:
            await told(detail, **more)
            if between:
                await between.pop()()

        node.vault.keks._record = record
        last = await node.vault.rotate_kek()
        assert node.keyring.ids == [last]
        (lost, _, _), (failed, _, outcome), (won, _, _), (destroyed, _, _) = node.told[-4:]
        assert lost.startswith(f"rotate {first} to ")
        assert (failed, outcome) == (lost, "failed")
        assert won.endswith(f" to {last}")
        assert destroyed == f"destroy {won.split()[1]}"

    store.run(run())


def trail_of(store: AuditStore, key: Callable[[], Awaitable[bytes]]) -> Trail:
    return Trail(store, SETTINGS, clock=clock, chain_key=key, definition_of=lambda _: None)


async def records_of(store: AuditStore, key: bytes) -> list[Record]:
    """All records, which are one chain."""
    faults: list[str] = []
    verdict = await verify(store, key, faults.append)
    assert (faults, verdict.faults) == ([], 0)
    return (await store.page(Selection(), 0, 10_000)).records


async def key_of_all() -> bytes:
    return KEY


@UNSEALED
def test_workers_and_commands_append_to_one_chain(store: Store) -> None:
    stores = [store.raw().audit for _ in range(4)]
    who = operator("root", "db1")

    async def run() -> None:
        trails = [trail_of(each, key_of_all) for each in stores[:2]]
        acts = [Acts(each, who, clock, key_of_all) for each in stores[2:]]
        await asyncio.gather(
            *(trail.read(ITSELF, "define", None, key=f"{n}") for n in range(200) for trail in trails),
            *(act(f"{n}", user="ada") for n in range(50) for act in acts),
        )
        records = await records_of(stores[0], KEY)
        assert [record.n for record in records] == list(range(1, 501))
        (made,) = {(r.actor, r.kind, r.address, r.action, r.user) for r in records if r.action != "define"}
        assert made == ("operator:root", "operator", "db1", "keys", "ada")
        for trail in trails:
            await trail.close()

    store.run(run())


@pytest.mark.parametrize("after", [False, True])
def test_a_record_whose_commit_is_unknown_is_made_once(after: bool) -> None:
    class Shaky(MemoryAudit):
        """A store that loses one transaction, before or after its commit."""

        lost = True

        @asynccontextmanager
        async def transaction(self) -> AsyncIterator[MemoryAuditTransaction]:
            lost, self.lost = self.lost, False
            async with super().transaction() as tx:
                yield tx
                if lost and not after:
                    raise TransactionLost
            if lost:
                raise TransactionLost

    async def run() -> None:
        shaky = Shaky()
        await Acts(shaky, ITSELF, clock, key_of_all)("rotate a to b")
        assert [record.detail for record in await records_of(shaky, KEY)] == ["rotate a to b"]

    asyncio.run(run())


def test_an_engine_that_chokes_on_a_record_is_a_refusal() -> None:
    class Broken(MemoryAudit):
        def transaction(self) -> Any:
            raise ValueError

    async def run() -> None:
        with pytest.raises(RoostError, match="on record first") as refusal:
            await Acts(Broken(), ITSELF, clock, key_of_all)("rotate a to b")
        assert refusal.value.code is Code.UNAVAILABLE

    asyncio.run(run())


@UNSEALED
def test_an_adoption_is_the_first_link_of_the_chain_it_gives_a_key_to(store: Store) -> None:
    raw, keyring = store.engine, MemoryKeyring()

    async def run() -> None:
        await write(raw, *(Write(user, "notes", "a", b"1") for user in USERS))

        def vault() -> Vault:
            async def key() -> bytes:
                return await made.derive(AUDIT, b"audit")

            made = Vault(raw.keys, keyring, clock, record=Acts(raw.audit, ITSELF, clock, key))
            return made

        # The trail asks for its key before anybody has unlocked anything, as in a worker on the engine in memory.
        first = vault()
        trail = trail_of(raw.audit, partial(first.derive, AUDIT, b"audit"))
        await trail.read(ITSELF, "define", None)
        await trail.close()
        await vault().unlock()
        assert await first.reseal() == len(USERS)
        records = await records_of(raw.audit, await first.derive(AUDIT, b"audit"))
        assert [(record.action, record.actor, record.detail) for record in records] == [
            ("keys", "roost", f"adopt {keyring.current}"),
            ("define", "roost", None),
            ("keys", "roost", "reseal begun"),
            ("keys", "roost", "reseal ended: 3"),
        ]

    store.run(run())
