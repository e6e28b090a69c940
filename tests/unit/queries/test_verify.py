"""`roost verify` finds whatever is broken on purpose, and nothing where all is well or only being written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from roost.core.events import Document, Head
from roost.core.ids import lane_of
from roost.core.ports import LaneEvent, Log
from roost.engines.memory import Memory
from roost.queries import verify
from roost.queries.verify import Tally
from tests.contract.writing import START, Write, write

replace = msgspec.structs.replace
USERS = [f"user-{number}" for number in range(70)]
ADA = USERS[0]
LANE = lane_of(ADA)
NEIGHBOUR = next(user for user in USERS[1:] if lane_of(user) == LANE)
STRANGER = next(user for user in USERS[1:] if lane_of(user) != LANE)


async def filled(engine: Memory) -> None:
    await engine.open()
    for user in USERS:
        await write(engine, *(Write(user, "notes", key, b"1") for key in "abc"), Write(user, "notes", "b", None))
    await write(engine, Write(ADA, "notes", "a", b"2"), Write(NEIGHBOUR, "notes", "a", b"2"))


async def findings(engine: Memory) -> tuple[list[str], Tally]:
    found: list[str] = []
    return found, await verify.verify(engine, found.append)


def test_a_sound_store_is_found_sound() -> None:
    async def run() -> None:
        engine = Memory()
        await filled(engine)
        steps: list[Tally] = []
        found: list[str] = []
        tally = await verify.verify(engine, found.append, lambda tally: steps.append(replace(tally)))
        assert found == []
        assert tally == Tally(lanes=64, users=70, events=282, documents=210, differences=0) == steps[-1]
        assert [step.users for step in steps] == sorted(step.users for step in steps)
        assert len(steps) == 64 + 70

    asyncio.run(run())


def test_pages_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAGE_ITEMS", 3)

    async def run() -> None:
        engine = Memory()
        await filled(engine)
        assert await findings(engine) == ([], Tally(lanes=64, users=70, events=282, documents=210))

    asyncio.run(run())


def set_head(user: str, **members: object) -> Callable[[Memory], None]:
    def change(engine: Memory) -> None:
        engine._users[user].head = replace(engine._users[user].head, **members)

    return change


def set_document(key: str, document: Document | None) -> Callable[[Memory], None]:
    def change(engine: Memory) -> None:
        if document is None:
            del engine._users[ADA].documents["notes", key]
        else:
            engine._users[ADA].documents["notes", key] = document

    return change


def drop_from_lane(index: int) -> Callable[[Memory], None]:
    return lambda engine: engine._lanes[LANE].__delitem__(index)


def swap_in_lane(one: int, other: int) -> Callable[[Memory], None]:
    def change(engine: Memory) -> None:
        lane = engine._lanes[LANE]
        lane[one], lane[other] = lane[other], lane[one]

    return change


def add_to_lane(user: str, seq: int) -> Callable[[Memory], None]:
    def change(engine: Memory) -> None:
        event = engine._users[ADA].events[seq - 1]
        assert event is not None
        engine._lanes[LANE].append((user, event))

    return change


def drop_from_log(engine: Memory) -> None:
    # Event 2 is gone, and what follows keeps its number.
    del engine._users[ADA].events[1]


def rewrite_log(engine: Memory) -> None:
    event = engine._users[ADA].events[0]
    assert event is not None
    engine._users[ADA].events[0] = replace(event, actor="user:eve")


def fold_away_more(seq: int) -> Callable[[Memory], None]:
    """An event is gone, from the log and its lane, that something needs."""

    def change(engine: Memory) -> None:
        engine._users[ADA].events[seq - 1] = None
        lane = engine._lanes[LANE]
        lane[:] = [None if place and (place[0], place[1].seq) == (ADA, seq) else place for place in lane]

    return change


def change_in_lane_at(index: int) -> Callable[[Memory], None]:
    def change(engine: Memory) -> None:
        place = engine._lanes[LANE][index]
        assert place is not None
        engine._lanes[LANE][index] = place[0], replace(place[1], value=b'"other"')

    return change


def drop_user(engine: Memory) -> None:
    del engine._users[ADA]


ADAS = 0
"""Where the events of the first user begin in its lane."""


@pytest.mark.parametrize(
    ("damage", "difference"),
    [
        (set_head(ADA, seq=4), f"lane {LANE}: {ADA}: the lane shows event 5, the head stands at 4"),
        (set_head(ADA, seq=6), f"{ADA}: the head stands at 6, the log ends at 5"),
        (set_head(ADA, counts={"notes": 3}), f"{ADA}: the head counts 3 notes, the log adds up to 2 notes"),
        (set_head(ADA, updated_at=START.replace(year=2027)), f"{ADA}: the head was updated at 2027"),
        (set_document("a", None), f"{ADA}: notes/a: in the log, but not stored"),
        (set_document("b", None), f"{ADA}: notes/b: in the log, but not stored"),
        (set_document("d", Document("notes", "d", 1, b"1", START)), f"{ADA}: notes/d: stored, but not in the log"),
        (set_document("a", Document("notes", "a", 1, b"1", START)), f"{ADA}: notes/a: stored at version 1, 5 in the"),
        (
            set_document("c", Document("notes", "c", 3, b"2", START)),
            f"{ADA}: notes/c: version 3 is stored with another",
        ),
        (drop_from_log, f"{ADA}: event 3 follows event 1"),
        (rewrite_log, f"lane {LANE}: {ADA}: the lane shows other events than the log has"),
        (drop_user, f"lane {LANE}: {ADA}: the lane shows events of a user that does not exist"),
        (drop_from_lane(ADAS + 1), f"lane {LANE}: position {ADAS + 2} is event 3 of {ADA}, after event 1"),
        (drop_from_lane(-2), f"lane {LANE}: {ADA}: the log stands at 5, the lane shows it up to 4"),
        (drop_from_lane(-1), f"lane {LANE}: {NEIGHBOUR}: the log stands at 5, the lane shows it up to 4"),
        (swap_in_lane(ADAS, ADAS + 1), f"lane {LANE}: position {ADAS + 1} is event 2 of {ADA}, after event 0"),
        (add_to_lane(ADA, 3), f"event 3 of {ADA}, after event 5"),
        (add_to_lane(ADA, 5), f"event 5 of {ADA}, after event 5"),
        (add_to_lane(STRANGER, 1), f"is of {STRANGER}, who belongs to lane {lane_of(STRANGER)}"),
        (add_to_lane("nobody", 1), f"lane {LANE}: nobody: the lane shows events of a user that does not exist"),
        (change_in_lane_at(1), f"lane {LANE}: {ADA}: the lane shows other events than the log has"),
    ],
)
def test_what_is_broken_is_found(damage: Callable[[Memory], None], difference: str) -> None:
    async def run() -> None:
        engine = Memory()
        await filled(engine)
        damage(engine)
        found, tally = await findings(engine)
        assert [sentence for sentence in found if difference in sentence], found
        assert tally.differences == len(found)

    asyncio.run(run())


def test_a_folded_store_is_found_sound_and_damage_to_it_is_found() -> None:
    async def run() -> None:
        engine = Memory()
        await filled(engine)
        for user in USERS:
            await engine.compact(user, 4)
        events = sum(place is not None for lane in engine._lanes for place in lane)
        assert events < 282
        assert await findings(engine) == ([], Tally(lanes=64, users=70, events=events, documents=210))
        # Of the first user only event 2 is gone: a is at 5, c at 3, and the deletion of b at 4, where the floor is.
        for damage, difference in (
            (fold_away_more(3), f"{ADA}: notes/c: stored, but not in the log"),
            (fold_away_more(5), f"{ADA}: the head stands at 5, the log ends at 4"),
            (drop_from_lane(-2), f"{ADA}: the log stands at 5, the lane shows it up to 4"),
            (change_in_lane_at(ADAS + 2), f"{ADA}: the lane shows other events than the log has"),
            (swap_in_lane(ADAS + 2, ADAS + 3), f"event 3 of {ADA}, after event 4"),
        ):
            damaged = Memory()
            await filled(damaged)
            await damaged.compact(ADA, 4)
            damage(damaged)
            found, _ = await findings(damaged)
            assert [sentence for sentence in found if difference in sentence], found

    asyncio.run(run())


def test_a_hole_above_a_lanes_floor_is_found() -> None:
    async def run() -> None:
        engine = Memory()
        await filled(engine)
        await engine.compact(ADA, 4)
        floor = (await engine.floors())[LANE]
        engine.floors = lambda: asyncio.sleep(0, {LANE: floor - 1})  # type: ignore[method-assign]
        found, _ = await findings(engine)
        assert found == [f"lane {LANE}: position {floor + 1} follows position {floor - 1}"]

    asyncio.run(run())


class Positioned(Memory):
    """Positions other than the lanes' lengths: `moved` maps a position to the one that is shown in its place."""

    moved: Callable[[int], int]
    ahead = 0

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        whole = await super().lane(lane, 0, 1_000_000)
        moved = [place._replace(pos=self.moved(place.pos)) for place in whole] if lane == LANE else whole
        return [place for place in moved if place.pos > after][:limit]

    async def positions(self) -> dict[int, int]:
        positions = await super().positions()
        return positions | {LANE: positions[LANE] + self.ahead}


@pytest.mark.parametrize(
    ("moved", "ahead", "difference"),
    [
        (lambda pos: pos + (pos > 3), 0, f"lane {LANE}: position 5 follows position 3"),
        (lambda pos: pos + 1, 0, f"lane {LANE}: position 2 follows position 0"),
        (lambda pos: pos - (pos > 3), 0, f"lane {LANE}: position 3 follows position 3"),
        (lambda pos: pos, 1, f"lane {LANE}: the lane stands at 11, its last event is at 10"),
        (lambda pos: pos, -1, f"lane {LANE}: the lane stands at 9, its last event is at 10"),
        (lambda pos: pos, -10, f"lane {LANE}: the lane stands at 0, its last event is at 10"),
    ],
)
def test_positions_that_are_not_dense_are_found(moved: Callable[[int], int], ahead: int, difference: str) -> None:
    async def run() -> None:
        engine = Positioned()
        await filled(engine)
        assert len(engine._lanes[LANE]) == 10
        engine.moved, engine.ahead = moved, ahead
        found, _ = await findings(engine)
        assert difference in found

    asyncio.run(run())


class Busy(Memory):
    """Between any two reads somebody commits: to a user that was read, to one that will be, and to a new one.

    Now and then somebody folds these logs, too.
    """

    is_busy = False
    number = 0
    folded = 0

    async def stir(self) -> None:
        if self.is_busy:
            self.is_busy = False
            self.number += 1
            for user in (ADA, USERS[-1], USERS[self.number % len(USERS)], f"new-{self.number // 2}"):
                await write(self, Write(user, "notes", f"k{self.number % 3}", b"%d" % self.number))
                if self.number % 5 == 0:
                    self.folded += await self.compact(user, self._users[user].head.seq)
            self.is_busy = True

    async def stored(self, user: str) -> tuple[Head, list[Document]] | None:
        await self.stir()
        return await super().stored(user)

    async def log(self, user: str, after: int, limit: int, collections: list[str] | None) -> Log | None:
        await self.stir()
        return await super().log(user, after, limit, collections)

    async def lane(self, lane: int, after: int, limit: int) -> list[LaneEvent]:
        await self.stir()
        return await super().lane(lane, after, limit)

    async def users(self, after: str | None, limit: int) -> list[Head]:
        await self.stir()
        return await super().users(after, limit)

    async def positions(self) -> dict[int, int]:
        await self.stir()
        return await super().positions()


@pytest.mark.parametrize("page", [7, 1_000])
def test_writes_that_go_on_are_no_differences(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAGE_ITEMS", page)

    async def run() -> None:
        engine = Busy()
        await filled(engine)
        engine.is_busy = True
        found, tally = await findings(engine)
        assert found == []
        assert engine.number > 200
        assert engine.folded > 200
        assert tally.users >= len(USERS)

    asyncio.run(run())


def test_one_lane_of_users_is_held_at_a_time() -> None:
    async def run() -> None:
        engine = Memory()
        await filled(engine)
        sizes = [len(users) async for _, users in verify._users_by_lane(engine)]
        assert sum(sizes) == len(USERS)
        assert max(sizes) < 8

    asyncio.run(run())
