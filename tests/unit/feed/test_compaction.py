"""Which floor a log may have: nothing that is young goes, and nothing that a device that may come back has to read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from roost.core.errors import Code, RoostError
from roost.core.events import Device, Head
from roost.core.ids import lane_of
from roost.core.limits import Limits
from roost.engines.memory import Memory
from roost.feed import compaction
from roost.feed.compaction import Tally, compact, floor_of, horizon, keep_compact
from roost.settings import Settings
from tests.contract.writing import START, Write, write

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SETTINGS = Settings()


def head(floor: int = 3) -> Head:
    return Head("ada", 20, floor, START, START, {})


def device(cursor: int, days_away: float) -> Device:
    return Device(f"device-{cursor}", 0, cursor, NOW - days_away * DAY)


@pytest.mark.parametrize(
    ("devices", "old", "floor"),
    [
        ([], 10, 10),
        ([], 20, 20),
        ([], 3, 3),
        ([], 0, 3),
        ([device(7, 1), device(12, 0)], 10, 7),
        ([device(12, 1)], 10, 10),
        ([device(7, 30)], 10, 7),
        ([device(7, 30.001)], 10, 10),
        ([device(7, 31), device(8, 29)], 10, 8),
        ([device(1, 0)], 10, 3),
        ([device(20, 0)], 20, 20),
    ],
)
def test_a_floor_is_as_high_as_age_and_devices_allow(devices: list[Device], old: int, floor: int) -> None:
    assert floor_of(head(), devices, old, NOW, SETTINGS) == floor


def test_what_an_answer_may_refer_to_is_kept() -> None:
    assert horizon(NOW, SETTINGS) == NOW - 30 * DAY
    assert horizon(NOW, Settings(history_keep_s=0)) == NOW - DAY
    assert horizon(NOW, Settings(history_keep_s=0, limits=Limits(idempotency_hours=0))) == NOW


async def filled(engine: Memory) -> None:
    """Three users, each with ten events on one document, one a day up to now."""
    await engine.open()
    for day in range(10):
        at = NOW - (9 - day) * DAY
        await write(engine, *(Write(user, "notes", "a", b"%d" % day, at) for user in ("ada", "bob", "cyd")))


async def kept(engine: Memory, user: str) -> list[int]:
    log = await engine.log(user, 0, 100, None)
    assert log is not None
    return [event.seq for event in log.events]


SHORT = Settings(history_keep_s=5 * 24 * 3600)


def test_every_log_is_folded_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PAGE_USERS", 2)
    monkeypatch.setattr(compaction, "STEP_EVENTS", 2)

    async def run() -> None:
        engine = Memory()
        await filled(engine)
        await engine.touch([("bob", Device("phone", 0, 2, NOW)), ("cyd", Device("phone", 0, 0, NOW))], 10)
        assert await compact(engine, SHORT, NOW, dry_run=True) == Tally(users=3, folded=2, events=7)
        assert await kept(engine, "ada") == list(range(1, 11))
        assert await compact(engine, SHORT, NOW) == Tally(users=3, folded=2, events=5)
        assert await kept(engine, "ada") == list(range(5, 11))
        assert await kept(engine, "bob") == list(range(2, 11))
        assert await kept(engine, "cyd") == list(range(1, 11))
        assert await compact(engine, SHORT, NOW) == Tally(users=3)
        assert (await engine.floors())[lane_of("ada")] > 0

    asyncio.run(run())


def test_one_log_is_folded_alone() -> None:
    async def run() -> None:
        engine = Memory()
        await filled(engine)
        assert await compact(engine, SHORT, NOW, user="ada") == Tally(users=1, folded=1, events=4)
        assert len(await kept(engine, "bob")) == 10
        with pytest.raises(RoostError) as raised:
            await compact(engine, SHORT, NOW, user="nobody")
        assert raised.value.code is Code.NOT_FOUND

    asyncio.run(run())


class Watched(Memory):
    """Tells when a pass is over, and fails the first ones."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.passed = asyncio.Event()

    async def users(self, after: str | None, limit: int) -> list[Head]:
        if self.failures:
            self.failures -= 1
            raise RuntimeError
        return await super().users(after, limit)

    async def forget_devices(self, before: datetime, limit: int) -> int:
        forgotten = await super().forget_devices(before, limit)
        self.passed.set()
        return forgotten


def test_it_goes_on_by_itself_whatever_happens_and_forgets_devices() -> None:
    async def run() -> None:
        engine = Watched(failures=2)
        await filled(engine)
        away = [Device("gone", 3, 2, NOW - 366 * DAY), Device("away", 4, 2, NOW - 364 * DAY)]
        await engine.touch([("ada", device) for device in away], 10)
        settings = Settings(history_keep_s=SHORT.history_keep_s, compact_interval_s=0.001)
        task = asyncio.create_task(keep_compact(engine, settings, lambda: NOW))
        async with asyncio.timeout(30):
            await engine.passed.wait()
        task.cancel()
        assert [device.device for device in await engine.devices("ada") or ()] == ["away"]
        assert await kept(engine, "ada") == list(range(5, 11))

    asyncio.run(run())


def test_it_does_nothing_where_it_is_not_wanted() -> None:
    asyncio.run(asyncio.wait_for(keep_compact(Memory(), Settings(compact_interval_s=0), lambda: NOW), 30))
