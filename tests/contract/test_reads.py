"""Reading what is: points, pages, logs, users and lanes, and where each of them ends."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roost.core.events import Document
from roost.core.fold import fold
from roost.core.ids import lane_of
from roost.core.limits import Limits
from roost.core.ports import DocumentRef, Engine, Page, Point, Reading, SnapshotTooLarge
from tests.contract.conftest import Store
from tests.contract.writing import START, Write, head_of, write, write_log

HELD_STORE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40
)
# The order of UTF-8's bytes, which UTF-16 and every locale would change.
KEYS = ["%", "B", "_", "a", "a%", "a_", "a_b", "ab", "b", "é", "\ud7ff", "\ue000", "\uffff", "𐀀", "\U0010ffff"]
KEY = st.text(st.sampled_from("%_\\*.aAbé\ud7ff\ue000\U0010ffff'\" "), min_size=1, max_size=4)


def puts(user: str, *keys: str, collection: str = "notes", value: bytes | None = b"1") -> list[Write]:
    return [Write(user, collection, key, value) for key in keys]


def keys_of(page: Page | None) -> tuple[list[str], bool]:
    assert page is not None
    return [document.key for document in page.documents], page.more


def test_nobody_knows_a_user_that_does_not_exist(store: Store) -> None:
    async def run() -> None:
        engine, ref = store.engine, DocumentRef("nobody", "notes", "k")
        await write(engine, *puts("ada", "k"))
        assert await engine.points([ref]) == [Point(None, None)]
        assert await engine.document_at(ref, 1) == Reading(None, None)
        assert await engine.head("nobody") is None
        assert await engine.page("nobody", "notes", "", None, 10) is None
        assert await engine.snapshot("nobody", None) is None
        assert await engine.snapshot("nobody", 1) is None
        assert await engine.history(ref, None, 10) is None
        assert await engine.log("nobody", 0, 10, None) is None
        assert await engine.seq_at("nobody", START) is None
        assert await engine.stored("nobody") is None

    store.run(run())


def test_a_user_without_events_has_an_empty_everything(store: Store) -> None:
    async def run() -> None:
        engine, ref = store.engine, DocumentRef("ada", "notes", "k")
        await write_log(engine, "ada", [])
        head = head_of("ada", [])
        assert await engine.points([ref]) == [Point(0, None)]
        assert await engine.document_at(ref, 0) == Reading(head, None)
        assert await engine.page("ada", "notes", "", None, 10) == (head, [], False)
        assert await engine.snapshot("ada", None) == await engine.snapshot("ada", 0) == (head, 0, [])
        assert await engine.history(ref, None, 10) == (head, [], False)
        assert await engine.log("ada", 0, 10, None) == (head, [], 0)
        assert await engine.seq_at("ada", START) == 0
        assert await engine.stored("ada") == (head, [])

    store.run(run())


def test_points_answer_in_the_order_asked_whatever_is_missing(store: Store) -> None:
    async def run() -> None:
        await write(store.engine, *puts("ada", "a", "b"), *puts("bob", "a"), *puts("ada", "b", value=None))
        refs = [DocumentRef("bob", "notes", "a"), DocumentRef("nobody", "notes", "a")]
        refs += [DocumentRef("ada", "notes", key) for key in "bxa"]
        refs += [DocumentRef("ada", "carts", "a"), refs[0]]
        expected = [
            Point(1, Document("notes", "a", 1, b"1", START)),
            Point(None, None),
            Point(3, Document("notes", "b", 3, None, START)),
            Point(3, None),
            Point(3, Document("notes", "a", 1, b"1", START)),
            Point(3, None),
            Point(1, Document("notes", "a", 1, b"1", START)),
        ]
        assert await store.engine.points(refs) == expected
        assert await store.engine.points(refs[::-1]) == expected[::-1]
        assert await store.engine.points(refs * 100) == expected * 100

    store.run(run())


def test_no_points_are_no_trouble(store: Store) -> None:
    assert store.run(store.engine.points([])) == []


def test_a_page_is_in_the_order_of_bytes_and_holds_its_collection_only(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(
            engine, *puts("ada", *reversed(KEYS)), *puts("ada", "a", "x", collection="carts"), *puts("bob", "c")
        )
        assert sorted(KEYS, key=str.encode) == KEYS
        assert keys_of(await engine.page("ada", "notes", "", None, 100)) == (KEYS, False)
        assert keys_of(await engine.page("ada", "carts", "", None, 100)) == (["a", "x"], False)
        assert keys_of(await engine.page("ada", "cart", "", None, 100)) == ([], False)
        for limit in (1, 2, 7):
            after, seen, more = None, list[str](), True
            while more:
                keys, more = keys_of(await engine.page("ada", "notes", "", after, limit))
                assert len(keys) == limit or not more
                seen += keys
                after = keys[-1]
            assert seen == KEYS

    store.run(run())


def test_a_page_shows_documents_as_they_are_and_no_tombstones(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *puts("ada", "a", "b", "c", "d"), *puts("ada", "b", "d", value=None), *puts("ada", "a"))
        page = await engine.page("ada", "notes", "", None, 2)
        assert page is not None
        assert page.documents == [Document("notes", "a", 7, b"1", START), Document("notes", "c", 3, b"1", START)]
        assert page.head == await engine.head("ada")
        assert not page.more

    store.run(run())


@pytest.mark.parametrize(
    "prefix", ["", "a", "a_", "a%", "%", "_", "é", "\ud7ff", "\U0010ffff", "\U0010ffff\U0010ffff", "zz"]
)
def test_a_prefix_is_plain_text(store: Store, prefix: str) -> None:
    async def run() -> None:
        await write(store.engine, *puts("ada", *KEYS))
        expected = [key for key in KEYS if key.startswith(prefix)]
        assert keys_of(await store.engine.page("ada", "notes", prefix, None, 100)) == (expected, False)

    store.run(run())


@HELD_STORE
@given(
    st.sets(KEY, max_size=12), st.lists(st.tuples(KEY | st.just(""), st.none() | KEY, st.integers(1, 5)), max_size=8)
)
def test_any_page_is_a_slice_of_the_sorted_keys(
    store: Store, keys: set[str], asked: list[tuple[str, str | None, int]]
) -> None:
    user = f"user-{hash(frozenset(keys)) & 0xFFFFFFFF}"

    async def run() -> None:
        if keys and await store.engine.head(user) is None:
            await write(store.engine, *puts(user, *keys))
        for prefix, after, limit in asked if keys else ():
            expected = sorted(
                (key for key in keys if key.startswith(prefix) and (after is None or key.encode() > after.encode())),
                key=str.encode,
            )
            page = await store.engine.page(user, "notes", prefix, after, limit)
            assert keys_of(page) == (expected[:limit], len(expected) > limit)

    store.run(run())


async def sized(store: Store, engine: Engine) -> None:
    """Ten documents of a hundred bytes each."""
    await write(engine, *puts("ada", *"abcdefghij", value=store.value(100)))


@pytest.mark.parametrize(("bytes_max", "items"), [(1, 1), (100, 1), (101, 2), (500, 5), (999, 10), (10_000, 10)])
def test_a_page_ends_early_once_its_values_are_many_bytes(store: Store, bytes_max: int, items: int) -> None:
    engine = store.another(Limits(page_bytes_max=bytes_max))

    async def run() -> None:
        await sized(store, engine)
        assert keys_of(await engine.page("ada", "notes", "", None, 20)) == (list("abcdefghij")[:items], items < 10)
        assert keys_of(await engine.page("ada", "notes", "", "i", 20)) == (["j"], False)
        log = await engine.log("ada", 0, 20, None)
        assert log is not None
        assert ([event.seq for event in log.events], log.reached) == (list(range(1, items + 1)), items)
        history = await engine.history(DocumentRef("ada", "notes", "a"), None, 20)
        assert history is not None
        assert (len(history.events), history.more) == (1, False)
        await write(engine, *puts("ada", *["a"] * 9, value=store.value(100)))
        history = await engine.history(DocumentRef("ada", "notes", "a"), None, 20)
        assert history is not None
        assert (len(history.events), history.more) == (items, items < 10)
        assert len(await engine.lane(lane_of("ada"), 0, 10)) == items

    store.run(run())


def test_a_snapshot_is_ordered_and_has_a_largest_size(store: Store) -> None:
    small = store.another(Limits(snapshot_bytes_max=999))
    enough = store.another(Limits(snapshot_bytes_max=1000))

    async def run() -> None:
        await sized(store, enough)
        await write(enough, *puts("bob", *reversed(KEYS)), *puts("bob", "z", collection="carts"))
        for seq in (None, 10):
            with pytest.raises(SnapshotTooLarge):
                await small.snapshot("ada", seq)
            whole = await enough.snapshot("ada", seq)
            assert whole is not None
            assert len(whole.documents) == 10
        assert await small.snapshot("ada", 9) is not None
        snapshot = await small.snapshot("bob", None)
        assert snapshot is not None
        expected = [("carts", "z"), *(("notes", key) for key in KEYS)]
        assert [(document.collection, document.key) for document in snapshot.documents] == expected

    store.run(run())


def test_users_come_once_each_lane_by_lane(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        users = [f"{letter}{number}" for number in range(30) for letter in "aZ~_:.@|"]
        users = [user for user in users if user[0].isalnum()]
        await write(engine, *(Write(user, "notes", "k", b"1") for user in users))
        for limit in (1, 7, 60, 61):
            seen, after = [], None
            while page := await engine.users(after, limit):
                assert len(page) <= limit
                seen += page
                after = page[-1].user
            assert sorted(head.user for head in seen) == sorted(users)
            lanes = [lane_of(head.user) for head in seen]
            assert lanes == sorted(lanes)
            assert all([head == await engine.head(head.user) for head in seen])
        assert await engine.users("nobody", 1000) == [
            head
            for head in await engine.users(None, 1000)
            if (lane_of(head.user), head.user) > (lane_of("nobody"), "nobody")
        ]

    store.run(run())


def test_a_log_goes_on_after_what_was_seen(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *puts("ada", *"abcde"), *puts("ada", "b", value=None))
        whole = await engine.log("ada", 0, 100, None)
        assert whole is not None
        assert [event.seq for event in whole.events] == [1, 2, 3, 4, 5, 6]
        assert whole.reached == whole.head.seq == 6
        for after in range(7):
            for limit in (1, 2, 10):
                log = await engine.log("ada", after, limit, None)
                assert log is not None
                assert log.events == whole.events[after : after + limit]
                assert log.reached == min(after + limit, 6)

    store.run(run())


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_narrowed_log_moves_over_what_was_left_out(store: Store, limit: int) -> None:
    async def run() -> None:
        engine = store.engine
        kinds = ["carts", "notes", "notes", "carts", "cards", "notes", "cards", "cards"]
        await write(engine, *(Write("ada", kind, "k", b"1") for kind in kinds))
        for narrowed in (["carts"], ["notes", "cards"], ["nothing"], []):
            expected = [seq for seq, kind in enumerate(kinds, 1) if kind in narrowed]
            seen, reached = [], 0
            while reached < 8:
                log = await engine.log("ada", reached, limit, narrowed)
                assert log is not None
                assert len(log.events) <= limit
                assert all(reached < event.seq <= log.reached for event in log.events)
                assert log.reached > reached
                seen += [event.seq for event in log.events]
                reached = log.reached
            assert seen == expected
            assert reached == 8

    store.run(run())


def test_a_lane_goes_on_after_what_was_seen(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *puts("ada", *"abcde"))
        lane = lane_of("ada")
        for after in range(6):
            for limit in (1, 2, 10):
                places = await engine.lane(lane, after, limit)
                assert [place.pos for place in places] == list(range(after + 1, 6))[:limit]
        assert await engine.lane((lane + 1) % 64, 0, 10) == []
        assert await engine.positions() == {number: 5 * (number == lane) for number in range(64)}

    store.run(run())


def test_what_is_stored_includes_tombstones(store: Store) -> None:
    async def run() -> None:
        await write(store.engine, *puts("ada", "a", "b"), *puts("ada", "a", value=None))
        stored = await store.engine.stored("ada")
        assert stored is not None
        log = await store.engine.log("ada", 0, 10, None)
        assert log is not None
        folded = fold(log.events)
        assert stored[0] == head_of("ada", log.events)
        assert sorted(stored[1], key=lambda document: document.key) == [
            folded.documents["notes", "a"],
            folded.documents["notes", "b"],
        ]
        assert folded.documents["notes", "a"].value is None

    store.run(run())


def test_a_time_between_events_is_the_one_before(store: Store) -> None:
    async def run() -> None:
        seconds = [0, 0, 1, 5, 5, 5, 9]
        writes = [Write("ada", "notes", "k", b"1", START + timedelta(seconds=second)) for second in seconds]
        for one in writes:
            await write(store.engine, one)
        microsecond = timedelta(microseconds=1)
        for second in range(-1, 11):
            at = START + timedelta(seconds=second)
            assert await store.engine.seq_at("ada", at) == sum(happened <= second for happened in seconds)
            assert await store.engine.seq_at("ada", at - microsecond) == sum(happened < second for happened in seconds)
            assert await store.engine.seq_at("ada", at + microsecond) == sum(happened <= second for happened in seconds)

    store.run(run())
