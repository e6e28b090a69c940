"""`roost verify`: whether everything that is stored follows from the logs.

Each user's log is folded and compared with the head and the documents; each lane is read from its first position
to its last and compared with the logs of its users. It runs beside a working server: a lane is read after the logs
of its users, so it holds at least their events, and what was committed since is told apart by its seq; where a log is
folded away meanwhile, it is read again. Users come lane by lane, so one user's documents and one lane's users are in
memory at a time, however many there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import msgspec

from roost.core.events import Event, Head
from roost.core.fold import Findings, Fold, chained, differences
from roost.core.ids import lane_of
from roost.core.keys import Corrupt
from roost.core.ports import Engine, LaneEvent

PAGE_ITEMS = 1_000


class Tally(msgspec.Struct):
    """How much was verified so far, and how many differences were found."""

    lanes: int = 0
    users: int = 0
    events: int = 0
    documents: int = 0
    differences: int = 0


def _no_progress(_: Tally) -> None:
    pass


async def verify(
    engine: Engine, report: Callable[[str], None], progress: Callable[[Tally], None] = _no_progress
) -> Tally:
    """Verify everything that `engine` holds.

    `report` gets each difference, a sentence for a person that holds no value; `progress` gets the tally so far,
    after each user and each lane.
    """
    verification = _Verification(engine, report, progress)
    lanes = set(await engine.positions())
    async for lane, users in _users_by_lane(engine):
        logs = {user: await verification.user(user) for user in users}
        await verification.lane(lane, logs)
        lanes.discard(lane)
    for lane in sorted(lanes):
        await verification.lane(lane, {})
    return verification.tally


class _SeenLog:
    """A log by its length, digest and floor; or as much of it as a lane has shown.

    `digest` is None where something in it cannot be opened: then nobody can compare what it holds.
    """

    def __init__(self, seq: int = 0, digest: bytes | None = b"", floor: int = 0) -> None:
        self.seq = seq
        self.digest = digest
        self.floor = floor

    def add(self, event: Event, *, corrupt: bool) -> None:
        self.seq = event.seq
        self.digest = None if corrupt or self.digest is None else chained(self.digest, event)


class _Verification:
    def __init__(self, engine: Engine, report: Callable[[str], None], progress: Callable[[Tally], None]) -> None:
        self._engine = engine
        self._report = report
        self._progress = progress
        self._floors: dict[int, int] = {}
        self.tally = Tally()

    async def user(self, user: str) -> _SeenLog:
        """Verify a user's head and documents; returns the log up to the head."""
        try:
            seen = await self._verified(user)
        except Corrupt as corrupt:
            self._found(corrupt.detail)
            head = await self._engine.head(user)
            seen = _SeenLog(head.seq, None, head.floor) if head else _SeenLog()
        self.tally.users += 1
        self._progress(self.tally)
        return seen

    async def _verified(self, user: str) -> _SeenLog:
        while True:
            stored = await self._engine.stored(user)
            if stored is None:
                self._found(f"{user}: listed, but not there")
                return _SeenLog()
            head, documents = stored
            folded = await self._fold(head)
            if folded is not None:
                break
        for difference in differences(head, documents, folded):
            self._found(f"{user}: {difference}")
        self.tally.documents += len(documents)
        return _SeenLog(folded.seq, folded.digest, folded.floor)

    async def _fold(self, head: Head) -> Fold | None:
        """A log up to its head, added up; None where its floor has been raised meanwhile."""
        folded, reached = Fold(head.floor), 0
        while reached < head.seq:
            log = await self._engine.log(head.user, reached, PAGE_ITEMS, None)
            if log is None or log.reached <= reached:
                break
            if log.head.floor != head.floor:
                return None
            for event in log.events:
                if event.seq <= head.seq:
                    folded.add(event)
            reached = log.reached
        return folded

    async def lane(self, lane: int, logs: dict[str, _SeenLog]) -> None:
        """Verify that a lane's positions are dense, and that it holds each event of these logs once, in order."""
        findings = Findings()
        shown: dict[str, _SeenLog] = {}
        last = 0
        async for place in self._lane_events(lane):
            if place.pos != last + 1 and not await self._is_hole(lane, last, place.pos):
                findings.add(f"position {place.pos} follows position {last}")
            last = place.pos
            for difference in self._show(place, logs, shown):
                if not await self._folded_away(place.user, logs):
                    findings.add(difference)
            self.tally.events += 1
        head = (await self._engine.positions()).get(lane, 0)
        # What is committed meanwhile moves the head ahead of what was read, never behind it.
        if head < last or (head > last and not await self._engine.lane(lane, last, 1)):
            findings.add(f"the lane stands at {head}, its last event is at {last}")
        for user, log in logs.items():
            seq = shown[user].seq if user in shown else 0
            if seq < log.seq:
                findings.add(f"{user}: the log stands at {log.seq}, the lane shows it up to {seq}")
        for user, log in shown.items():
            if user not in logs or log.seq > logs[user].seq:
                await self._check_newer(user, log, findings)
        for difference in findings.sentences():
            self._found(f"lane {lane}: {difference}")
        self.tally.lanes += 1
        self._progress(self.tally)

    def _show(self, place: LaneEvent, logs: dict[str, _SeenLog], shown: dict[str, _SeenLog]) -> Iterator[str]:
        """Compare the next event of a lane with the log that it belongs to."""
        user, event = place.user, place.event
        if lane_of(user) != place.lane:
            yield f"position {place.pos} is of {user}, who belongs to lane {lane_of(user)}"
        seen, log = shown.setdefault(user, _SeenLog()), logs.get(user, _SeenLog())
        if event.seq != seen.seq + 1 and not seen.seq < event.seq <= log.floor:
            yield f"position {place.pos} is event {event.seq} of {user}, after event {seen.seq}"
        if place.corrupt:
            yield f"position {place.pos}: what event {event.seq} of {user} holds cannot be opened"
        seen.add(event, corrupt=place.corrupt)
        if event.seq == log.seq and None not in (seen.digest, log.digest) and seen.digest != log.digest:
            yield f"{user}: the lane shows other events than the log has"

    async def _is_hole(self, lane: int, last: int, pos: int) -> bool:
        """Whether the positions between two were folded away: up to a lane's floor they may have been."""
        if pos - 1 > self._floors.get(lane, 0):
            self._floors = await self._engine.floors()
        return last < pos - 1 <= self._floors.get(lane, 0)

    async def _folded_away(self, user: str, logs: dict[str, _SeenLog]) -> bool:
        """Whether events of a log are gone since it was read: then the lane, read later, rightly lacks them."""
        head = await self._engine.head(user)
        return head is not None and head.floor > logs.get(user, _SeenLog()).floor

    async def _check_newer(self, user: str, shown: _SeenLog, findings: Findings) -> None:
        """An event that the log did not have when it was read has to be there now."""
        head = await self._engine.head(user)
        if head is None:
            findings.add(f"{user}: the lane shows events of a user that does not exist")
        elif head.seq < shown.seq:
            findings.add(f"{user}: the lane shows event {shown.seq}, the head stands at {head.seq}")

    async def _lane_events(self, lane: int) -> AsyncIterator[LaneEvent]:
        """A lane's events up to where it stands when this begins, and the rest of their page."""
        end = (await self._engine.positions()).get(lane, 0)
        after = 0
        while page := await self._engine.lane(lane, after, PAGE_ITEMS):
            for place in page:
                yield place
            after = page[-1].pos
            if after >= end:
                # One more page tells an event beyond the head from the end of the lane.
                for place in await self._engine.lane(lane, after, PAGE_ITEMS):
                    yield place
                return

    def _found(self, difference: str) -> None:
        self.tally.differences += 1
        self._report(difference)


async def _users_by_lane(engine: Engine) -> AsyncIterator[tuple[int, list[str]]]:
    """All users, one lane after the other."""
    users: list[str] = []
    after = None
    while page := await engine.users(after, PAGE_ITEMS):
        for head in page:
            if users and lane_of(users[0]) != lane_of(head.user):
                yield lane_of(users[0]), users
                users = []
            users.append(head.user)
        after = page[-1].user
    if users:
        yield lane_of(users[0]), users
