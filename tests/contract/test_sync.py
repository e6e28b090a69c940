"""What synchronisation needs of an engine: what events say of edits, siblings, what a device has not seen, devices."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from roost.core.events import Device, Document, Event, Head, Kind
from roost.core.fold import document_of, fold
from roost.core.ids import lane_of
from roost.core.limits import Limits
from roost.core.ports import UNSEEN_BYTES_MAX, Appendix, DeviceRef, DocumentRef, Engine, EventRef, Unseen
from tests.contract.conftest import Store
from tests.contract.writing import START, Step, Write, log_of, write, write_log

HELD_STORE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
SECOND = timedelta(seconds=1)
REF = DocumentRef("ada", "notes", "k")
EDITS = b'[{"op":"inc","path":"/n","value":1}]'
MANY = 1_000
numbers = count()


def put(seq: int, value: bytes | None = b"1", key: str = "k", **more: object) -> Event:
    kind: Kind = "delete" if value is None else "put"
    return replace(Event(seq, kind, "notes", key, value, START + seq * SECOND, "user:ada"), **more)


# Two that have not seen each other, one that has seen both, one more beside it, and an edit of another document.
LOG = [
    put(1, b"1", device="phone", mutation=1, clock=2**53 - 1),
    put(2, b"2", device="laptop", mutation=1, clock=1, beside=(1,)),
    put(3, b"3", device="tablet", mutation=7, clock=2**53, beside=(1, 2)),
    put(4, b"4", beside=(3,)),
    put(5, b'{"n":1}', "other", edits=EDITS),
]


async def unseen(engine: Engine, bases: dict[DocumentRef, int], limit: int = MANY) -> dict[DocumentRef, Unseen]:
    async with engine.transaction() as tx:
        await tx.lock(sorted({ref.user for ref in bases}, key=lambda user: (lane_of(user), user)), START)
        return await tx.unseen(bases, limit)


async def append_devices(engine: Engine, *devices: Device, user: str = "ada") -> None:
    async with engine.transaction() as tx:
        await tx.lock([user], START)
        await tx.append(Appendix([], [], [], [], [(user, device) for device in devices]), [])


async def loaded(engine: Engine, *devices: str, user: str = "ada") -> dict[DeviceRef, Device]:
    async with engine.transaction() as tx:
        await tx.lock([user], START)
        return (await tx.load([], [], [], [DeviceRef(user, device) for device in devices])).devices


def named(devices: Iterable[Device]) -> list[str]:
    return [device.device for device in devices]


def test_every_read_tells_what_events_say_of_edits(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write_log(engine, "ada", LOG)
        log, history = await engine.log("ada", 0, 10, None), await engine.history(REF, None, 10)
        assert log is not None
        assert log.events == LOG
        assert history is not None
        assert history.events == LOG[3::-1]
        lane = lane_of("ada")
        assert [place.event for place in await engine.lane(lane, 0, 10)] == LOG
        assert [place.event for place in (await engine.feed({lane: 0}, 10)).events] == LOG
        async with engine.transaction() as tx:
            await tx.lock(["ada"], START)
            events = (await tx.load([], [], [event_ref(seq) for seq in range(1, 6)], [])).events
            assert [events[event_ref(seq)] for seq in range(1, 6)] == LOG

    store.run(run())


@pytest.mark.parametrize("at_once", [True, False])
def test_every_read_of_now_shows_siblings_and_none_of_the_past(store: Store, at_once: bool) -> None:
    async def run() -> None:
        engine = store.engine
        if at_once:
            await write_log(engine, "ada", LOG)
        else:
            for event in LOG:
                await append(engine, event)
        expected = fold(LOG).documents["notes", "k"]
        assert expected.siblings is not None
        assert b'"version":3' in expected.siblings
        assert [point.document for point in await engine.points([REF])] == [expected]
        page, now, then = (
            await engine.page("ada", "notes", "", None, 10),
            await engine.snapshot("ada", None),
            await engine.snapshot("ada", 4),
        )
        assert page is not None
        assert now is not None
        assert then is not None
        assert page.documents == now.documents == [expected, document_of(LOG[4])]
        assert then.documents == [replace(expected, siblings=None)]
        assert (await engine.document_at(REF, 5)).document == replace(expected, siblings=None)
        stored = await engine.stored("ada")
        assert stored is not None
        assert expected in stored[1]
        async with engine.transaction() as tx:
            await tx.lock(["ada"], START)
            assert (await tx.load([REF], [], [], [])).documents == {REF: expected}

    store.run(run())


def event_ref(seq: int) -> EventRef:
    return EventRef("ada", seq)


async def append(engine: Engine, event: Event) -> None:
    """One event more, as the writer of commands would."""
    ref = DocumentRef("ada", event.collection, event.key)
    async with engine.transaction() as tx:
        heads, _ = await tx.lock(["ada"], START)
        before = (await tx.load([ref], [], [], [])).documents.get(ref)
        head = replace(
            heads["ada"], seq=event.seq, updated_at=event.at, clock=max(heads["ada"].clock, event.clock or 0)
        )
        await tx.append(Appendix([head], [("ada", document_of(event, before))], [("ada", event)], [], []), [])


def test_siblings_go_when_a_write_has_seen_them(store: Store) -> None:
    async def run() -> None:
        for event in [*LOG, put(6, b"6")]:
            await append(store.engine, event)
        expected = Document("notes", "k", 6, b"6", START + 6 * SECOND)
        assert [point.document for point in await store.engine.points([REF])] == [expected]

    store.run(run())


def test_a_page_that_siblings_fill_ends_early(store: Store) -> None:
    engine = store.another(Limits(page_bytes_max=100))

    async def run() -> None:
        events = [put(1, b'"%s"' % (b"x" * 90)), put(2, b"2", beside=(1,)), put(3, b"3", "l"), put(4, b"4", "m")]
        await write_log(engine, "ada", events)
        page = await engine.page("ada", "notes", "", None, 10)
        assert page is not None
        assert ([document.key for document in page.documents], page.more) == (["k"], True)

    store.run(run())


def test_a_heads_clock_is_kept(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        for event in LOG[:3]:
            await append(engine, event)
            head = await engine.head("ada")
            assert head is not None
            assert head.clock == max(before.clock or 0 for before in LOG[: event.seq])
            assert [head] == await engine.users(None, 10)
            async with engine.transaction() as tx:
                assert (await tx.lock(["ada"], START))[0] == {"ada": head}

    store.run(run())


@HELD_STORE
@given(
    st.lists(st.tuples(st.sampled_from("aab"), st.sampled_from([b"1", b"2", None]), st.booleans()), max_size=20),
    st.data(),
)
def test_what_was_not_seen_is_the_newest_behind_the_base(
    store: Store, steps: list[tuple[str, bytes | None, bool]], data: st.DataObject
) -> None:
    log = log_of([Step("notes", key, value, SECOND) for key, value, _ in steps])
    events = [replace(e, edits=EDITS if edited else None) for e, (_, _, edited) in zip(log, steps, strict=False)]
    user = f"user-{next(numbers)}"

    async def run() -> None:
        await write_log(store.engine, user, events)
        names = [*sorted({(event.collection, event.key) for event in events}), ("notes", "never")]
        bases = {DocumentRef(user, *name): data.draw(st.integers(0, len(events) + 1)) for name in names}
        limit = data.draw(st.integers(1, 5))
        found = await unseen(store.engine, bases, limit)
        assert found.keys() == bases.keys()
        for ref, base in bases.items():
            own = [event for event in events if (event.collection, event.key) == ref[1:]]
            later = [event if event.edits is None else replace(event, value=None) for event in own if event.seq > base]
            assert found[ref] == Unseen(later[-limit:], more=len(later) > limit)

    store.run(run())


def test_devices_are_counted_where_one_is_new(store: Store) -> None:
    async def run() -> None:
        await write(store.engine, Write("ada", "notes", "k", b"1"), Write("bob", "notes", "k", b"1"))
        await append_devices(store.engine, Device("phone", 3, 7, START), Device("laptop", 1, 1, START))
        for device, counts in (("phone", {"bob": 0}), ("watch", {"ada": 2, "bob": 0})):
            async with store.engine.transaction() as tx:
                await tx.lock(["ada", "bob"], START)
                found = await tx.load([], [], [], [DeviceRef("ada", device), DeviceRef("bob", device)])
            assert found.device_counts == counts

    store.run(run())


def test_what_was_not_seen_is_told_up_to_a_size(store: Store) -> None:
    async def run() -> None:
        large = b'"' + b"x" * (UNSEEN_BYTES_MAX // 4) + b'"'
        await write(store.engine, *(Write("ada", "notes", "k", large) for _ in range(5)))
        await write(store.engine, Write("ada", "notes", "l", b"1"), Write("bob", "notes", "k", large))
        refs = [REF, DocumentRef("ada", "notes", "l"), DocumentRef("bob", "notes", "k")]
        first, second, bobs = (await unseen(store.engine, dict.fromkeys(refs, 0))).values()
        assert [event.value for event in first.events] == [None, None, large, large, large]
        assert (first.cut, first.more) == (True, False)
        # What is left of the size is nothing to another document of the same user, however small.
        assert ([event.value for event in second.events], second.cut) == ([None], True)
        assert ([event.value for event in bobs.events], bobs.cut) == ([large], False)

    store.run(run())


def test_what_was_not_seen_is_each_users_own_and_nothing_of_a_log_that_is_new(store: Store) -> None:
    async def run() -> None:
        await write(store.engine, Write("ada", "notes", "k", b"1"), Write("bob", "notes", "k", b"2"))
        refs = [DocumentRef(user, "notes", "k") for user in ("ada", "bob", "cyd")]
        found = await unseen(store.engine, dict.fromkeys(refs, 0))
        assert [[event.value for event in found[ref].events] for ref in refs] == [[b"1"], [b"2"], []]
        assert await unseen(store.engine, {REF: 1}) == {REF: Unseen([], more=False)}
        async with store.engine.transaction() as tx:
            assert await tx.unseen({}, 1) == {}

    store.run(run())


def test_what_was_folded_away_is_not_told_of(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *(Write("ada", "notes", "k", value) for value in (b"1", b"2", None)))
        await write(engine, Write("ada", "notes", "l", b"1"))
        assert await engine.compact("ada", 4) == 3
        assert await unseen(engine, {REF: 0}) == {REF: Unseen([], more=False)}

    store.run(run())


def test_a_transaction_writes_number_and_signs_of_life_of_devices(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, Write("ada", "notes", "k", b"1"), Write("bob", "notes", "k", b"1"))
        phone = Device("phone", 3, 7, START, START + SECOND)
        await append_devices(engine, phone, Device("laptop", 1, 1, START))
        assert await loaded(engine, "phone", "laptop", "watch") == {
            DeviceRef("ada", "phone"): replace(phone, until=None),
            DeviceRef("ada", "laptop"): Device("laptop", 1, 1, START),
        }
        assert await loaded(engine, "phone", user="bob") == {}
        await engine.touch([("ada", replace(phone, cursor=8))], MANY)
        await append_devices(engine, Device("phone", 4, 5, START + SECOND))
        assert await engine.devices("ada") == [
            Device("laptop", 1, 1, START),
            Device("phone", 4, 8, START + SECOND, START + SECOND),
        ]
        assert await engine.devices("bob") == []
        assert await engine.devices("nobody") is None

    store.run(run())


def test_devices_of_a_transaction_that_fails_are_as_they_were(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await append_devices(engine, Device("phone", 1, 1, START))

        async def fail() -> None:
            async with engine.transaction() as tx:
                await tx.lock(["ada"], START)
                await tx.append(Appendix([], [], [], [], [("ada", Device("phone", 2, 2, START + SECOND))]), [])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await engine.devices("ada") == [Device("phone", 1, 1, START)]

    store.run(run())


def test_a_sign_of_life_makes_a_device_and_leaves_its_number(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await append_devices(engine, Device("phone", 5, 9, START))
        later = START + SECOND
        touched = [
            ("ada", Device("watch", 77, 2, later, later + SECOND)),
            ("nobody", Device("phone", 1, 1, later, later + SECOND)),
            ("ada", Device("phone", 77, 3, later, later + SECOND)),
        ]
        await engine.touch(touched, MANY)
        assert await engine.devices("ada") == [
            Device("phone", 5, 9, later, later + SECOND),
            Device("watch", 0, 2, later, later + SECOND),
        ]
        assert await engine.head("nobody") is None
        await engine.touch([("ada", Device("phone", 0, 10, later))], MANY)
        assert (await engine.devices("ada") or [])[0] == Device("phone", 5, 10, later)
        await engine.touch([], MANY)

    store.run(run())


def test_there_are_so_many_devices_and_no_more(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await append_devices(engine, *(Device(f"device-{number}", 0, 0, START) for number in range(3)))
        await engine.touch([("ada", Device("device-0", 0, 5, START)), ("ada", Device("device-x", 0, 5, START))], 3)
        assert [(device.device, device.cursor) for device in await engine.devices("ada") or ()] == [
            ("device-0", 5),
            ("device-1", 0),
            ("device-2", 0),
        ]

    store.run(run())


def test_connected_are_those_whose_time_is_not_over(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, *(Write(user, "notes", "k", b"1") for user in ("ada", "bob", "cyd")))
        untils = {"phone": START + SECOND, "laptop": START + 2 * SECOND, "old": None}
        await engine.touch([("ada", Device(name, 0, 0, START, until)) for name, until in untils.items()], MANY)
        await engine.touch([("bob", Device("phone", 0, 0, START, START + SECOND))], MANY)
        found = await engine.connected(["bob", "ada", "cyd", "nobody"], START)
        assert {user: named(devices) for user, devices in found.items()} == {
            "ada": ["laptop", "phone"], "bob": ["phone"], "cyd": [], "nobody": [],
        }  # fmt: skip
        found = await engine.connected(["ada", "bob"], START + SECOND)
        assert found == {"ada": [Device("laptop", 0, 0, START, START + 2 * SECOND)], "bob": []}
        assert await engine.connected([], START) == {}

    store.run(run())


def test_a_device_that_leaves_is_gone_unless_it_came_back_elsewhere(store: Store) -> None:
    async def run() -> None:
        engine, later = store.engine, START + SECOND
        await write(engine, Write("ada", "notes", "k", b"1"))
        phone, laptop = Device("phone", 0, 5, later, START + 5 * SECOND), Device("laptop", 0, 5, later, later)
        await engine.touch([("ada", phone), ("ada", laptop)], MANY)
        leaving = [
            ("ada", Device("phone", 0, 7, START, START + 4 * SECOND)),
            ("ada", Device("laptop", 0, 3, later + SECOND, later)),
            ("ada", Device("never", 0, 3, START, START)),
            ("nobody", Device("phone", 0, 3, START, START)),
        ]
        await engine.leave(leaving)
        assert await engine.devices("ada") == [
            Device("laptop", 0, 5, later + SECOND),
            replace(phone, cursor=7),
        ]
        await engine.leave([])

    store.run(run())


def test_devices_that_were_away_for_long_are_forgotten_the_longest_first(store: Store) -> None:
    async def run() -> None:
        engine = store.engine
        await write(engine, Write("ada", "notes", "k", b"1"), Write("bob", "notes", "k", b"1"))
        ages = {("ada", "phone"): 3, ("ada", "laptop"): 0, ("bob", "phone"): 1, ("bob", "laptop"): 2}
        await engine.touch([(user, Device(name, 0, 0, START + age * SECOND)) for (user, name), age in ages.items()], 9)
        assert await engine.forget_devices(START, 10) == 0
        assert await engine.forget_devices(START + 3 * SECOND, 2) == 2
        assert (named(await engine.devices("ada") or ()), named(await engine.devices("bob") or ())) == (
            ["phone"],
            ["laptop"],
        )
        assert await engine.forget_devices(START + 3 * SECOND, 10) == 1
        assert await engine.devices("bob") == []
        assert await engine.head("bob") == Head("bob", 1, 0, START, START, {"notes": 1})

    store.run(run())
