"""Sealing, on every engine: nothing of a value is stored in clear, and what was tampered with is told, never shown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from roost.commands.writer import Writer
from roost.core.commands import ABSENT, PRESENT, Change, Op, Versions
from roost.core.errors import Code, RoostError
from roost.core.events import Document, Event
from roost.core.fold import document_of
from roost.core.ids import lane_of
from roost.core.keys import CLEAR, Corrupt, Kind, SealedRow, UserKey
from roost.core.ports import AnswerRef, Appendix, DocumentRef, Engine, StoredAnswer
from roost.crypto.seal import FORMAT, generation_of
from roost.crypto.vault import Vault
from roost.engines.sealed import Sealed
from roost.feed.hub import Hub
from roost.feed.tail import watch
from roost.queries.points import Points
from roost.queries.verify import verify
from roost.settings import Settings
from tests.contract.conftest import Store
from tests.contract.writing import START, Write, appendix_of, write

pytestmark = pytest.mark.parametrize("store", ["memory-sealed", "embedded-sealed"], indirect=True)

SECRET = b'"swordfish"'
KINDS: tuple[Kind, ...] = ("documents", "events", "answers")
PATIENCE_S = 20.0
NOTE = DocumentRef("ada", "notes", "a")
NEIGHBOUR = next(name for name in (f"user-{n}" for n in range(1000)) if lane_of(name) == lane_of("ada"))


def clock() -> datetime:
    return datetime.now(UTC)


async def rows_of(raw: Engine, user: str, kind: Kind) -> list[SealedRow]:
    """What is stored of a user, as it is stored."""
    async with raw.keys.passage(user) as passage:
        assert passage is not None
        return await passage.rows(kind, None, 100_000, 1000)


async def put_back(raw: Engine, user: str, kind: Kind, *rows: SealedRow) -> None:
    async with raw.keys.passage(user) as passage:
        assert passage is not None
        await passage.write(kind, list(rows))


async def write_everything(engine: Engine) -> None:
    """A user with a secret in everything that can hold one."""
    event = Event(1, "put", "notes", "a", SECRET, START, "user:ada", edits=b'[{"value":"swordfish"}]')
    beside = b'[{"version":1,"value":"swordfish","at":"2026-01-01T00:00:00Z"}]'
    document = Document("notes", "a", 1, SECRET, START, beside)
    answer = StoredAnswer(AnswerRef("ada", "key"), b"swordfish fingerprint", b'{"detail":"swordfish"}', START)
    async with engine.transaction() as tx:
        heads, _ = await tx.lock(["ada"], START)
        appendix = appendix_of("ada", heads["ada"], [event], [])
        await tx.append(appendix._replace(documents=[("ada", document)], answers=[answer]), [])


async def read_everything(engine: Engine) -> str:
    async with engine.transaction() as tx:
        await tx.lock(["ada"], START)
        answers = (await tx.load([], [AnswerRef("ada", "key")], [], [])).answers
        unseen = await tx.unseen({NOTE: 0}, 10)
    return repr((await engine.stored("ada"), await engine.log("ada", 0, 10, None), answers, unseen))


def test_nothing_of_a_value_is_stored_in_clear(store: Store) -> None:
    raw = store.raw()

    async def run() -> None:
        await write_everything(store.engine)
        assert (await read_everything(store.engine)).count("swordfish") == 7
        stored = [row for kind in KINDS for row in await rows_of(raw, "ada", kind)]
        assert len(stored) == 3
        for row in stored:
            for value in (row.first, row.second):
                assert value is not None
                assert generation_of(value) == 1
                assert b"swordfish" not in value

    store.run(run())


def test_a_sealed_engine_says_the_same_on_every_node(store: Store) -> None:
    one, other = store.engine, store.another()

    async def run() -> None:
        await write_everything(one)
        assert await read_everything(other) == await read_everything(one)

    store.run(run())


Tamper = Callable[[SealedRow, SealedRow], bytes]
TAMPERS: dict[str, Tamper] = {
    "another row's": lambda _, other: other.first or b"",
    "one bit": lambda row, _: (row.first or b"")[:-1] + bytes([(row.first or b"")[-1] ^ 1]),
    "cut short": lambda row, _: (row.first or b"")[:-1],
    "cut to the head": lambda row, _: (row.first or b"")[:5],
    "its first byte": lambda row, _: (row.first or b"")[:1],
    "empty": lambda *_: b"",
    "in clear": lambda *_: b'"forged"',
    "another generation": lambda row, _: FORMAT + (2).to_bytes(4, "big") + (row.first or b"")[5:],
    "generation 0": lambda row, _: FORMAT + bytes(4) + (row.first or b"")[5:],
}


@pytest.mark.parametrize("tamper", TAMPERS.values(), ids=TAMPERS)
def test_a_document_that_was_tampered_with_is_told_and_not_shown(store: Store, tamper: Tamper) -> None:
    raw, engine = store.raw(), store.engine

    async def run() -> None:
        await write(
            engine,
            *(Write("ada", "notes", key, b'"%s"' % key.encode()) for key in "abc"),
            Write("bob", "notes", "a", b"1"),
        )
        a, b, _ = await rows_of(raw, "ada", "documents")
        await put_back(raw, "ada", "documents", a._replace(first=tamper(a, b)))
        reads: list[Callable[[], Awaitable[object]]] = [
            lambda: engine.points([NOTE]),
            lambda: engine.page("ada", "notes", "", None, 10),
            lambda: engine.snapshot("ada", None),
            lambda: engine.stored("ada"),
        ]
        for read in reads:
            with pytest.raises(Corrupt, match="notes/a") as corrupt:
                await read()
            assert (corrupt.value.code, corrupt.value.user) == (Code.CORRUPT, "ada")
            assert "forged" not in corrupt.value.detail
        # Beside it everything is as it was.
        points = await engine.points([DocumentRef("ada", "notes", "b"), DocumentRef("bob", "notes", "a")])
        assert [point.document and point.document.value for point in points] == [b'"b"', b"1"]
        found: list[str] = []
        assert (await verify(engine, found.append)).differences == 1
        assert "cannot be opened" in found[0]

    store.run(run())


@pytest.mark.parametrize("tamper", TAMPERS.values(), ids=TAMPERS)
def test_an_event_that_was_tampered_with_is_told_and_holds_nobody_up(store: Store, tamper: Tamper) -> None:
    raw, engine = store.raw(), store.engine

    async def run() -> None:
        await write(engine, *(Write("ada", "notes", key, b'"%s"' % key.encode()) for key in "ab"))
        await write(engine, Write(NEIGHBOUR, "notes", "a", b"1"))
        a, b = await rows_of(raw, "ada", "events")
        await put_back(raw, "ada", "events", a._replace(first=tamper(a, b)))
        for read in (
            lambda: engine.log("ada", 0, 10, None),
            lambda: engine.history(NOTE, None, 10),
            lambda: engine.document_at(NOTE, 1),
            lambda: engine.snapshot("ada", 1),
        ):
            with pytest.raises(Corrupt, match="notes/a"):
                await read()
        for events in (await engine.lane(lane_of("ada"), 0, 10), (await engine.feed({lane_of("ada"): 0}, 10)).events):
            assert [(event.corrupt, event.event.value) for event in events] == [
                (True, None),
                (False, b'"b"'),
                (False, b"1"),
            ]
        found: list[str] = []
        await verify(engine, found.append)
        assert len(found) == 2
        assert "position 1: what event 1 of ada holds cannot be opened" in found[1]

    store.run(run())


def test_an_older_value_under_a_newer_version_is_told(store: Store) -> None:
    raw, engine = store.raw(), store.engine

    async def run() -> None:
        await write(engine, Write("ada", "notes", "a", b'"old"'))
        (old,) = await rows_of(raw, "ada", "documents")
        await write(engine, Write("ada", "notes", "a", b'"new"'))
        (new,) = await rows_of(raw, "ada", "documents")
        await put_back(raw, "ada", "documents", new._replace(first=old.first))
        with pytest.raises(Corrupt):
            await engine.points([NOTE])

    store.run(run())


def test_a_strangers_sealed_value_is_told(store: Store) -> None:
    raw, engine = store.raw(), store.engine

    async def run() -> None:
        await write(engine, Write("ada", "notes", "a", b'"hers"'), Write("bob", "notes", "a", b'"his"'))
        (hers,), (his,) = [await rows_of(raw, user, "documents") for user in ("ada", "bob")]
        await put_back(raw, "ada", "documents", hers._replace(first=his.first))
        with pytest.raises(Corrupt):
            await engine.points([NOTE])

    store.run(run())


def test_an_answer_that_was_tampered_with_is_told(store: Store) -> None:
    raw, engine = store.raw(), store.engine

    async def run() -> None:
        await write_everything(engine)
        (row,) = await rows_of(raw, "ada", "answers")
        for other in (row._replace(first=row.second), row._replace(second=row.first), row._replace(first=b"{}")):
            await put_back(raw, "ada", "answers", other)
            with pytest.raises(Corrupt):
                await read_everything(engine)

    store.run(run())


def test_one_that_cannot_be_opened_takes_nobody_along(store: Store) -> None:
    """Reads and writes of strangers share batches."""
    raw, engine = store.raw(), store.engine

    async def run() -> None:
        await write(engine, Write("ada", "notes", "a", b"1"), Write("bob", "notes", "a", b"1"))
        (row,) = await rows_of(raw, "ada", "documents")
        await put_back(raw, "ada", "documents", row._replace(first=b"2"))
        points = Points(engine, Settings())
        read = await asyncio.gather(
            *(points.get(DocumentRef(user, "notes", "a")) for user in ("ada", "bob", "ada")), return_exceptions=True
        )
        assert [isinstance(each, Corrupt) for each in read] == [True, False, True]
        writer = Writer(engine, Settings(), clock=clock, committed=lambda *_: None)
        changes = [Change(user, (Op("merge", "notes", "a", 3),), "user:x") for user in ("bob", "ada", "cyd")]
        written = await asyncio.gather(*map(writer.run, changes), return_exceptions=True)
        assert [isinstance(each, Corrupt) for each in written] == [False, True, False]
        assert [point.document is not None for point in await engine.points([DocumentRef("cyd", "notes", "a")])] == [
            True
        ]

    store.run(run())


def test_what_cannot_be_opened_can_be_replaced_and_is_shown_to_nobody(store: Store) -> None:
    raw, engine = store.raw(), store.engine
    policies = {"cas": "cas", "merge": "merge", "notes": "lww", "siblings": "siblings"}

    async def run() -> None:
        await write(engine, *(Write("ada", collection, "a", b"1") for collection in policies))
        for row in await rows_of(raw, "ada", "documents"):
            await put_back(raw, "ada", "documents", row._replace(first=b"2"))
        writer = Writer(engine, Settings(), clock=clock, committed=lambda *_: None, policy_of=policies.__getitem__)
        reading = [
            Op("patch", "notes", "a", []),
            Op("put", "notes", "a", b"3", Versions(frozenset({1}))),
            Op("put", "notes", "a", b"3", ABSENT),
            Op("delete", "notes", "a", None, PRESENT),
            Op("put", "merge", "a", b"3"),
            Op("put", "siblings", "a", b"3"),
            Op("delete", "siblings", "a", None),
        ]
        for op in reading:
            with pytest.raises(Corrupt):
                await writer.run(Change("ada", (op,), "user:x"))
        with pytest.raises(Corrupt):
            await writer.run(
                Change("ada", (Op("put", "notes", "a", b"3"), Op("merge", "notes", "a", {"b": 1})), "user:x")
            )
        with pytest.raises(RoostError, match="send If-Match"):
            await writer.run(Change("ada", (Op("put", "cas", "a", b"3"),), "user:x"))
        accepted = await writer.run(Change("ada", (Op("put", "notes", "a", b"3"),), "user:x"))
        assert [written.created for written in accepted.written] == [False]
        (point,) = await engine.points([DocumentRef("ada", "notes", "a")])
        assert point.document is not None
        assert point.document.value == b"3"

    store.run(run())


def sealed(store: Store, raw: Engine) -> tuple[Sealed, Vault]:
    """One more node, with its vault."""
    assert store.keyring is not None
    vault = Vault(raw.keys, store.keyring, clock)
    return Sealed(raw, vault), vault


def unsealed_before(store: Store) -> tuple[Engine, Sealed, Vault]:
    """A store that was written to in clear, and is sealed from now on."""
    raw = store.raw()

    async def written() -> None:
        await write_everything(raw)
        await write(raw, Write("bob", "notes", "a", b"1"))

    store.run(written())
    return raw, *sealed(store, raw)


def test_what_was_stored_in_clear_is_read_and_sealed_bit_by_bit(store: Store) -> None:
    raw, engine, vault = unsealed_before(store)

    async def run() -> None:
        told: list[int] = []
        await vault.unlock(lambda done, _: told.append(done))
        assert told == [2]
        assert await read_everything(engine) == await read_everything(raw)
        await write(engine, Write("ada", "notes", "b", b'"new"'))
        assert [generation_of(row.first or b"") for row in await rows_of(raw, "ada", "documents")] == [CLEAR, 1]
        before = await read_everything(engine)
        assert (await vault.status()).outdated == 2
        assert await vault.reseal() == 2
        assert (await vault.status()).outdated == 0
        assert await read_everything(engine) == before
        for user in ("ada", "bob"):
            rows = [row for kind in KINDS for row in await rows_of(raw, user, kind)]
            assert {generation_of(row.first or b"") for row in rows} == {1}
        assert await vault.reseal() == 0
        found: list[str] = []
        await verify(engine, found.append)
        # The siblings were not the log's from the beginning.
        assert found == ["ada: notes/a: version 1 is stored with other siblings than the log has"]

    store.run(run())


def test_an_answer_in_clear_is_sealed_whatever_its_fingerprint_begins_with(store: Store) -> None:
    raw = store.raw()
    fingerprints = [b"\x01" + bytes(15), b"\x01" + bytes(40), b""]
    stored = [StoredAnswer(AnswerRef("ada", str(n)), each, b"{}", START) for n, each in enumerate(fingerprints)]

    async def run() -> None:
        await write(raw, Write("ada", "notes", "a", b"1"), answers=stored)
        engine, vault = sealed(store, raw)
        await vault.unlock()
        await vault.reseal()
        assert (await vault.status()).outdated == 0
        async with engine.transaction() as tx:
            await tx.lock(["ada"], START)
            loaded = await tx.load([], [answer.ref for answer in stored], [], [])
        assert list(loaded.answers.values()) == stored
        assert {generation_of(row.second or b"") for row in await rows_of(raw, "ada", "answers")} == {1}

    store.run(run())


def test_once_all_is_sealed_nothing_in_clear_is_taken(store: Store) -> None:
    raw, engine, vault = unsealed_before(store)

    async def run() -> None:
        await vault.unlock()
        await vault.reseal()
        (row,) = await rows_of(raw, "bob", "documents")
        await put_back(raw, "bob", "documents", row._replace(first=b'"forged"'))
        with pytest.raises(Corrupt):
            await engine.points([DocumentRef("bob", "notes", "a")])

    store.run(run())


def test_nobody_vouches_for_a_user_but_the_keyring(store: Store) -> None:
    raw, engine, vault = unsealed_before(store)

    async def run() -> None:
        await vault.unlock()
        vouched = [key for key in await raw.keys.load(["ada"]) if key.generation == CLEAR]
        await write(engine, Write("eve", "notes", "a", b'"hers"'))
        (row,) = await rows_of(raw, "eve", "documents")
        await put_back(raw, "eve", "documents", row._replace(first=b'"forged"'))
        wrap = await vault.keks.current()
        for forged in (
            UserKey("eve", CLEAR, wrap.kek, bytes(29)),
            UserKey("eve", CLEAR, wrap.kek, vouched[0].wrapped),
            UserKey("eve", CLEAR, wrap.kek, (await raw.keys.load(["eve"]))[0].wrapped),
            UserKey("eve", CLEAR, "unknown", vouched[0].wrapped),
        ):
            async with raw.keys.passage("eve") as passage:
                assert passage is not None
                await passage.forget(1)
            await raw.keys.add([forged])
            with pytest.raises(Corrupt):
                await sealed(store, raw)[0].points([DocumentRef("eve", "notes", "a")])

    store.run(run())


def test_a_key_of_a_transaction_that_was_rolled_back_seals_nothing(store: Store) -> None:
    one, other, third = store.engine, store.another(), store.another()

    async def rolled_back() -> None:
        async with one.transaction() as tx:
            heads, _ = await tx.lock(["bob"], START)
            event = Event(1, "put", "notes", "a", b'"lost"', START, "user:bob")
            await tx.append(appendix_of("bob", heads["bob"], [event], []), [])
            raise LookupError

    async def run() -> None:
        with pytest.raises(LookupError):
            await rolled_back()
        await write(other, Write("bob", "notes", "a", b"1"))
        await write(one, Write("bob", "notes", "b", b"2"))
        for engine in (one, other, third):
            page = await engine.page("bob", "notes", "", None, 10)
            assert page is not None
            assert [document.value for document in page.documents] == [b"1", b"2"]

    store.run(run())


def test_answers_of_a_user_who_never_came_to_be_are_sealed_too(store: Store) -> None:
    engine, other, raw, ref = store.engine, store.another(), store.raw(), AnswerRef("nobody", "key")
    answer = StoredAnswer(ref, b"\x01swordfish", b'{"code":"swordfish"}', START)

    async def run() -> None:
        async with engine.transaction() as tx:
            await tx.lock(["nobody"], START)
            await tx.append(Appendix([], [], [], [answer], []), ["nobody"])
        await write(engine, Write("nobody", "notes", "a", b"1"))
        async with other.transaction() as tx:
            await tx.lock(["nobody"], START)
            assert (await tx.load([], [ref], [], [])).answers == {ref: answer}
        (row,) = await rows_of(raw, "nobody", "answers")
        assert b"swordfish" not in (row.first or b"") + (row.second or b"")

    store.run(run())


def test_siblings_survive_the_seal(store: Store) -> None:
    engine = store.engine

    async def run() -> None:
        first = Event(1, "put", "notes", "a", b'"one"', START, "user:ada")
        second = Event(2, "put", "notes", "a", b'"two"', START + timedelta(seconds=1), "user:ada", beside=(1,))
        async with engine.transaction() as tx:
            heads, _ = await tx.lock(["ada"], START)
            await tx.append(appendix_of("ada", heads["ada"], [first, second], []), [])
        (point,) = await engine.points([NOTE])
        assert point.document == document_of(second, document_of(first))
        assert point.document is not None
        assert b"one" in (point.document.siblings or b"")

    store.run(run())


def test_the_tail_wakes_whoever_follows_what_cannot_be_opened_and_shows_it_to_nobody(store: Store) -> None:
    """A follower without events reads the log, and is told there; others of the lane get theirs as ever."""
    raw, engine, hub = store.raw(), store.engine, Hub(10)

    async def run() -> None:
        await write(engine, Write("ada", "notes", "a", b"1"), Write(NEIGHBOUR, "notes", "a", b"1"))
        watching = asyncio.create_task(watch(engine, hub, 0.01))
        with hub.follow("ada") as hers, hub.follow(NEIGHBOUR) as theirs:
            # It has begun, and so everybody is to read their log once.
            assert await hers.wait(1, PATIENCE_S)
            assert await theirs.wait(1, PATIENCE_S)
            async with raw.transaction() as tx:
                heads, _ = await tx.lock(["ada"], START)
                forged = Event(2, "put", "notes", "b", b'"forged"', START, "user:eve")
                await tx.append(appendix_of("ada", heads["ada"], [forged], []), [])
            await write(engine, Write(NEIGHBOUR, "notes", "b", b"2"))
            assert await hers.wait(1, PATIENCE_S)
            assert await theirs.wait(1, PATIENCE_S)
            assert (hers.take(1), [event.value for event in theirs.take(1)]) == ([], [b"2"])
        watching.cancel()
        with pytest.raises(Corrupt, match="notes/b"):
            await engine.log("ada", 1, 10, None)

    store.run(run())
