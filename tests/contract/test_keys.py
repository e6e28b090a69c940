"""Keys: which wraps which, and changing them while everybody writes, broken off anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from roost.core.errors import RoostError
from roost.core.events import Event
from roost.core.keys import CLEAR, Corrupt, Kek, KeyStore, UserKey
from roost.core.ports import DocumentRef, Engine, TransactionLost
from roost.crypto.keyring import Keyring, KeyringError, MemoryKeyring
from roost.crypto.seal import generation_of
from roost.crypto.vault import Vault
from roost.engines.sealed import Sealed
from tests.contract.conftest import Store
from tests.contract.writing import START, Write, appendix_of, write, write_again

SEALED = pytest.mark.parametrize("store", ["memory-sealed", "embedded-sealed"], indirect=True)
UNSEALED = pytest.mark.parametrize("store", ["memory", "embedded"], indirect=True)
ROUNDS = 3
WAITED_S = 0.3
"""What does not have to wait takes a few milliseconds."""


def clock() -> datetime:
    return datetime.now(UTC)


def kek(name: str, state: Any = "current") -> Kek:
    return Kek(name, state, name.encode(), START + timedelta(seconds=len(name)))


def node(store: Store, keyring: Keyring | None = None) -> tuple[Sealed, Vault, Engine]:
    """One more node: sealed, its vault, and the engine under the seal."""
    raw = store.raw()
    vault = Vault(raw.keys, keyring or store.keyring or MemoryKeyring(), clock)
    return Sealed(raw, vault), vault, raw


@UNSEALED
def test_one_key_is_current_and_only_that_wraps_new_ones(store: Store) -> None:
    keys = store.engine.keys

    async def run() -> None:
        assert await keys.keks() == []
        assert not await keys.add([UserKey("ada", 1, "a", b"1")])
        assert await keys.begin(kek("a", "adopting"), None)
        assert not await keys.begin(kek("b"), None)
        assert not await keys.begin(kek("b"), "a")
        await keys.adopted("a")
        assert await keys.add([UserKey("ada", 1, "a", b"1"), UserKey("bob", 1, "a", b"2")])
        assert await keys.add([UserKey("ada", 1, "a", b"another")])
        assert await keys.begin(kek("bb"), "a")
        assert not await keys.begin(kek("c"), "a")
        assert [(each.kek, each.state) for each in await keys.keks()] == [("a", "retiring"), ("bb", "current")]
        assert not await keys.add([UserKey("cyd", 1, "a", b"3")])
        assert sorted(await keys.load(["ada", "bob", "cyd"])) == [
            UserKey("ada", 1, "a", b"1"),
            UserKey("bob", 1, "a", b"2"),
        ]
        assert not await keys.rewrap([UserKey("ada", 1, "a", b"x")], "a")
        await keys.end("a")
        assert await keys.count("a") == len(await keys.wrapped_by("a", 10)) == 2
        assert len(await keys.wrapped_by("a", 1)) == 1
        assert await keys.rewrap([UserKey("ada", 1, "bb", b"x"), UserKey("bob", 1, "bb", b"y")], "a")
        assert await keys.rewrap([UserKey("ada", 1, "bb", b"late")], "a")
        assert sorted(await keys.load(["ada", "bob"])) == [UserKey("ada", 1, "bb", b"x"), UserKey("bob", 1, "bb", b"y")]
        await keys.end("bb")
        await keys.end("a")
        assert [each.kek for each in await keys.keks()] == ["bb"]

    store.run(run())


@UNSEALED
def test_of_many_who_begin_at_once_one_does(store: Store) -> None:
    stores = [store.raw().keys for _ in range(6)]

    async def run() -> None:
        first = await asyncio.gather(*(keys.begin(kek(f"k{n}"), None) for n, keys in enumerate(stores)))
        assert first.count(True) == 1
        (current,) = await stores[0].keks()
        after = await asyncio.gather(*(keys.begin(kek(f"n{n}"), current.kek) for n, keys in enumerate(stores)))
        assert after.count(True) == 1
        assert [each.state for each in await stores[0].keks()].count("current") == 1

    store.run(run())


@SEALED
def test_a_key_does_not_retire_while_somebody_adds_what_it_wraps(store: Store) -> None:
    engine, vault, raw = node(store)

    async def run() -> None:
        await vault.unlock()
        (before,) = await raw.keys.keks()
        async with engine.transaction() as tx:
            heads, _ = await tx.lock(["ada"], START)
            event = Event(1, "put", "notes", "a", b"1", START, "user:ada")
            await tx.append(appendix_of("ada", heads["ada"], [event], []), [])
            retiring = asyncio.create_task(raw.keys.begin(kek("next"), before.kek))
            await asyncio.wait((retiring,), timeout=WAITED_S)
            assert not retiring.done()
        assert await retiring
        assert [key.kek for key in await raw.keys.wrapped_by(before.kek, 10)] == [before.kek]

    store.run(run())


@UNSEALED
def test_keys_without_what_wraps_them_are_not_begun_over(store: Store) -> None:
    """Somebody deleted the table: who adopted everybody anew would take whatever stands there in clear."""
    keys = store.engine.keys

    async def run() -> None:
        await keys.begin(kek("a"), None)
        await keys.add([UserKey("ada", 1, "a", b"1")])
        await keys.begin(kek("b"), "a")
        assert not await keys.begin(kek("c"), None)

    store.run(run())


@UNSEALED
def test_users_are_listed_once_by_what_they_lack(store: Store) -> None:
    engine = store.engine
    users = [f"user-{n}" for n in range(7)]

    async def all_of(page: Callable[[str | None, int], Awaitable[list[str]]]) -> list[str]:
        found: list[str] = []
        while users := await page(found[-1] if found else None, 2):
            found += users
        return found

    async def run() -> None:
        await write(engine, *(Write(user, "notes", "a", b"1") for user in users))
        order = [head.user for head in await engine.users(None, 100)]
        keys = engine.keys
        assert await all_of(keys.unvouched) == order
        await keys.begin(kek("a"), None)
        await keys.vouch([UserKey(user, CLEAR, "a", b"") for user in users[:3]])
        assert await all_of(keys.unvouched) == [user for user in order if user not in users[:3]]
        assert await all_of(keys.outdated) == [user for user in order if user in users[:3]]
        async with keys.passage(users[0]) as passage:
            assert passage is not None
            assert passage.keys.generations == {users[0]: CLEAR}
            assert await passage.keys.add([UserKey(users[0], 1, "a", b"1")])
        async with keys.passage(users[0]) as passage:
            assert passage is not None
            assert passage.keys.generations == {users[0]: 1}
            with pytest.raises(Corrupt):
                await passage.keys.add([UserKey(users[0], 1, "a", b"2")])
            await passage.forget(1)
        assert await all_of(keys.outdated) == [user for user in order if user in users[1:3]]
        async with keys.passage("nobody") as passage:
            assert passage is None

    store.run(run())


@SEALED
def test_keys_change_while_everybody_writes_and_reads(store: Store) -> None:
    """Several nodes bring users into being and write to old ones, while two others rotate at the same time."""
    nodes = [node(store) for _ in range(3)]
    numbers = count()
    stop = asyncio.Event()
    keyring = store.keyring
    assert keyring is not None

    async def use(engine: Engine) -> int:
        written = 0
        while not stop.is_set():
            user = f"user-{next(numbers)}"
            value = b'"%s"' % user.encode()
            await write_again(engine, Write(user, "notes", "a", value), Write("ada", "notes", user, value))
            (point,) = await engine.points([DocumentRef(user, "notes", "a")])
            assert point.document is not None
            assert point.document.value == value
            written += 1
            await asyncio.sleep(0)  # in memory, nothing else would give others a turn
        return written

    async def run() -> None:
        await write(nodes[0][0], Write("ada", "notes", "first", b"1"))
        using = [asyncio.create_task(use(engine)) for engine, _, _ in nodes]
        for _ in range(ROUNDS):
            await asyncio.gather(nodes[0][1].rotate_kek(), nodes[1][1].rotate_kek())
            await again(lambda: nodes[2][1].rotate_user("ada"))
        stop.set()
        total = sum(await asyncio.gather(*using))
        assert total > ROUNDS
        fresh = Sealed(nodes[0][2], Vault(nodes[0][2].keys, keyring, clock))
        for user in [f"user-{n}" for n in range(total)]:
            (point,) = await fresh.points([DocumentRef(user, "notes", "a")])
            assert point.document is not None
        log = await fresh.log("ada", 0, 10_000, None)
        assert log is not None
        assert len(log.events) == total + 1
        (current,) = await nodes[0][2].keys.keks()
        assert keyring.ids == [current.kek]
        assert {key.generation for key in await nodes[0][2].keys.load(["ada"])} == {1 + ROUNDS}

    store.run(run())


async def again(work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
        except TransactionLost:
            continue
        return


class _Died(Exception):
    pass


class _Mortal:
    """A store or a keyring whose process dies before or after one of its calls."""

    def __init__(self, held: Any, left: list[int]) -> None:
        self._held = held
        self._left = left

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._held, name)
        if name not in ("begin", "rewrap", "end", "add", "destroy", "adopted", "vouch"):
            return method
        if not asyncio.iscoroutinefunction(method):

            def step(*arguments: Any) -> Any:
                self._die()
                result = method(*arguments)
                self._die()
                return result

            return step

        async def awaited(*arguments: Any) -> Any:
            self._die()
            result = await method(*arguments)
            self._die()
            return result

        return awaited

    def _die(self) -> None:
        self._left[0] -= 1
        if not self._left[0]:
            raise _Died


@SEALED
def test_a_rotation_that_dies_anywhere_is_finished_by_the_next(store: Store) -> None:
    raw, keyring = store.raw(), store.keyring
    assert keyring is not None

    async def run() -> None:
        await write(store.engine, *(Write(f"user-{n}", "notes", "a", b"1") for n in range(5)))
        deaths = 0
        for steps in count(1):
            keys: Any = _Mortal(raw.keys, left := [steps])
            try:
                await Vault(keys, _Mortal(keyring, left), clock).rotate_kek()
            except _Died:
                deaths += 1
            else:
                break
            await opens_everything(raw, keyring)
            vault = Vault(raw.keys, keyring, clock)
            await vault.unlock()
            if await vault.keks.finish():
                assert len(await raw.keys.keks()) == 1
            await opens_everything(raw, keyring)
        assert deaths >= 8

    store.run(run())


async def opens_everything(raw: Engine, keyring: Keyring) -> None:
    engine = Sealed(raw, Vault(raw.keys, keyring, clock))
    points = await engine.points([DocumentRef(f"user-{n}", "notes", "a") for n in range(5)])
    assert [point.document and point.document.value for point in points] == [b"1"] * 5


@UNSEALED
def test_an_adoption_that_dies_anywhere_is_finished_by_the_next(store: Store) -> None:
    raw, keyring = store.engine, MemoryKeyring()

    async def run() -> None:
        await write(raw, *(Write(f"user-{n}", "notes", "a", b"1") for n in range(5)))
        for steps in count(1):
            keys: Any = _Mortal(raw.keys, left := [steps])
            ring: Any = _Mortal(keyring, left)
            try:
                await Vault(keys, ring, clock).unlock()
            except _Died:
                continue
            break
        assert steps >= 5
        await opens_everything(raw, keyring)
        assert [each.state for each in await raw.keys.keks()] == ["current"]

    store.run(run())


@SEALED
def test_a_copy_from_before_a_rotation_opens_nothing(store: Store) -> None:
    engine, vault, raw = node(store)

    async def run() -> None:
        await write(engine, Write("ada", "notes", "a", b"1"))
        old_keks, old_keys = await raw.keys.keks(), await raw.keys.load(["ada"])
        await vault.rotate_kek()
        (new,) = await raw.keys.keks()
        # As in a copy: the old keys, and the old account of what wraps them.
        await raw.keys.rewrap([old_keys[0]._replace(kek=new.kek)], new.kek)
        fresh, _, _ = restored
        with pytest.raises(Corrupt):
            await fresh.points([DocumentRef("ada", "notes", "a")])
        assert old_keks[0].kek not in (store.keyring.ids if store.keyring else ())

    restored = node(store)
    store.run(run())


@SEALED
def test_a_keyring_that_lacks_the_key_is_told_before_anything_is_served(store: Store) -> None:
    _, vault, raw = node(store)

    async def run() -> None:
        await vault.unlock()
        empty = MemoryKeyring()
        with pytest.raises(KeyringError, match=r"sealed with the key.*does not hold.*restore"):
            await Vault(raw.keys, empty, clock).unlock()
        assert empty.ids == []

        class Impostor(MemoryKeyring):
            def get(self, kek: str) -> bytes | None:
                return bytes(32)

        with pytest.raises(KeyringError, match="another key under the name"):
            await Vault(raw.keys, Impostor(), clock).unlock()

    store.run(run())


@SEALED
def test_a_node_that_held_the_key_before_goes_on_with_the_one_after(store: Store) -> None:
    (_, other, raw), keyring = node(store), store.keyring
    assert keyring is not None
    engine = Sealed(raw, Vault(raw.keys, keyring, clock, keep_s=0))

    async def run() -> None:
        await write(engine, Write("ada", "notes", "a", b"1"))
        await other.rotate_kek()
        await write(engine, Write("bob", "notes", "a", b"1"))

    store.run(run())


@SEALED
def test_a_node_may_start_while_another_changes_the_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, other, raw), keyring = node(store), store.keyring
    assert keyring is not None
    asked = raw.keys.keks
    meanwhile: list[Callable[[], Awaitable[object]]] = []

    async def keks() -> list[Kek]:
        found = await asked()
        if meanwhile:
            await meanwhile.pop()()
        return found

    async def run() -> None:
        await write(store.engine, Write("ada", "notes", "a", b"1"))
        monkeypatch.setattr(raw.keys, "keks", keks)
        meanwhile.append(other.rotate_kek)
        await Vault(raw.keys, keyring, clock).unlock()
        assert not meanwhile

    store.run(run())


@SEALED
def test_a_users_new_key_seals_at_once_and_the_old_one_goes(store: Store) -> None:
    engine, vault, raw = node(store)
    other, _, _ = node(store)

    async def run() -> None:
        await write(engine, *(Write("ada", "notes", key, b"1") for key in "abc"))
        await write(other, Write("ada", "notes", "d", b"1"))
        assert await vault.rotate_user("ada") == 2
        # The other node holds the older key in memory, and still writes by the new one.
        await write(other, Write("ada", "notes", "e", b"1"))
        async with raw.keys.passage("ada") as passage:
            assert passage is not None
            rows = [
                *await passage.rows("documents", None, 100_000, 100),
                *await passage.rows("events", None, 100_000, 100),
            ]
        assert [generation_of(row.first or b"") for row in rows] == [2] * 10
        assert [key.generation for key in await raw.keys.load(["ada"])] == [2]
        for reader in (engine, other):
            snapshot = await reader.snapshot("ada", None)
            assert snapshot is not None
            assert len(snapshot.documents) == 5
        with pytest.raises(RoostError, match="no user"):
            await vault.rotate_user("nobody")

    store.run(run())


@SEALED
def test_what_is_derived_outlives_rotations_and_is_the_same_everywhere(store: Store) -> None:
    (_, one, raw), (_, other, _) = node(store), node(store)

    async def run() -> None:
        keys = await asyncio.gather(*(vault.derive("$audit", b"audit") for vault in (one, other)))
        await one.rotate_kek()
        keys += [await vault.derive("$audit", b"audit") for vault in (one, other)]
        assert len(set(keys)) == 1
        assert len(keys[0]) == 32
        assert await other.derive("$audit", b"else") != keys[0]
        for name in ("ada", "$roost"):
            with pytest.raises(ValueError, match="log"):
                await one.derive(name, b"audit")
        assert await raw.keys.outdated(None, 10) == []

    store.run(run())


@UNSEALED
def test_the_vault_is_bounded_and_forgets(store: Store) -> None:
    keys: Any = _Counting(store.engine.keys)
    vault = Vault(keys, MemoryKeyring(), clock, users_max=3)

    async def run() -> None:
        await write(Sealed(store.engine, vault), *(Write(user, "notes", "a", b"1") for user in "abcde"))
        assert [list(vault._entries), keys.loads] == [["c", "d", "e"], []]
        await vault.seals({(user, 1) for user in "abcde"}, keys)
        assert keys.loads == [["a", "b"]]
        await vault.seals({(user, 1) for user in "ab"}, keys)
        assert keys.loads == [["a", "b"]]
        vault.evict("b")
        await vault.seals({("b", 1)}, keys)
        assert keys.loads == [["a", "b"], ["b"]]
        # What is evicted while it is being loaded is not kept either.
        vault.evict("b")
        keys.meanwhile = lambda: vault.evict("b")
        assert set(await vault.seals({("b", 1)}, keys)) == {("b", 1)}
        assert "b" not in vault._entries

    store.run(run())


@UNSEALED
def test_opened_keys_are_not_kept_for_long(store: Store) -> None:
    keys: Any = _Counting(store.engine.keys)
    vault = Vault(keys, MemoryKeyring(), clock, keep_s=0)

    async def run() -> None:
        await write(Sealed(store.engine, vault), Write("ada", "notes", "a", b"1"))
        for _ in range(2):
            assert set(await vault.seals({("ada", 1)}, keys)) == {("ada", 1)}
        assert keys.loads == [["ada"], ["ada"]]
        await vault.rotate_kek()
        await write(Sealed(store.engine, vault), Write("bob", "notes", "a", b"1"))
        assert "ada" not in vault._entries
        assert len(vault.keks._opened) == 1

    store.run(run())


class _Counting:
    """A store of keys that takes down who was asked for, and lets something happen meanwhile."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self.loads: list[list[str]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._keys, name)

    async def load(self, users: list[str]) -> list[UserKey]:
        self.loads.append(users)
        found = await self._keys.load(users)
        self.meanwhile()
        return found
