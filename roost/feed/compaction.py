"""Compaction: which events are folded away, and when.

A log's old events go up to a floor that nobody needs them below: not people, who may look back for some time
(`history_keep_s`), and not devices, unless they have been away for too long (`device_away_s`). Which floor that is, is
decided here, in pure code; the engine raises it. Several workers may do so at once: a floor only ever goes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import msgspec
import structlog

from roost.chores import now_and_then
from roost.core.errors import Code, RoostError
from roost.core.events import Device, Head
from roost.core.ports import Engine
from roost.settings import Settings

PAGE_USERS = 1_000
STEP_EVENTS = 1_000
"""How far one transaction raises a floor: a log's writers wait for it."""
FORGET_DEVICES = 1_000

log = structlog.get_logger(__name__)


class Tally(msgspec.Struct):
    """How many logs were looked at and folded, and how many events that made superfluous.

    Where nothing was done (`dry_run`), `events` are those at or below the new floors, of which some would stay.
    """

    users: int = 0
    folded: int = 0
    events: int = 0


def horizon(now: datetime, settings: Settings) -> datetime:
    """The time from which on events are kept."""
    return now - timedelta(seconds=max(settings.history_keep_s, settings.limits.idempotency_hours * 3600))


def floor_of(head: Head, devices: Iterable[Device], old: int, now: datetime, settings: Settings) -> int:
    """The floor that a log may have. `old` is the last seq before the `horizon`."""
    present = now - timedelta(seconds=settings.device_away_s)
    cursors = [device.cursor for device in devices if device.seen_at >= present]
    return max(head.floor, min([old, *cursors]))


async def compact(
    engine: Engine, settings: Settings, now: datetime, *, user: str | None = None, dry_run: bool = False
) -> Tally:
    """Fold every log, or that of one user, as far as may be. Raises `NOT_FOUND`, and `EngineUnavailable`."""
    tally = Tally()
    if user is not None:
        head = await engine.head(user)
        if head is None:
            raise RoostError(Code.NOT_FOUND, f"There is no user {user!r}.")
        await _fold(engine, settings, now, head, tally, dry_run=dry_run)
        return tally
    after = None
    while page := await engine.users(after, PAGE_USERS):
        for head in page:
            await _fold(engine, settings, now, head, tally, dry_run=dry_run)
        after = page[-1].user
    return tally


async def keep_compact(engine: Engine, settings: Settings, clock: Callable[[], datetime]) -> None:
    """Fold logs and forget devices once in a while, until cancelled.

    Each of a node's workers does it once in as many intervals as there are workers, and so they share the work.
    """

    async def compaction() -> None:
        tally = await compact(engine, settings, clock())
        before = clock() - timedelta(seconds=settings.device_forget_s)
        while await engine.forget_devices(before, FORGET_DEVICES) == FORGET_DEVICES:
            pass
        if tally.folded:
            log.info("folded old events away", **msgspec.structs.asdict(tally))

    await now_and_then(settings.compact_interval_s * settings.workers, [compaction])


async def _fold(engine: Engine, settings: Settings, now: datetime, head: Head, tally: Tally, *, dry_run: bool) -> None:
    tally.users += 1
    if head.floor == head.seq:
        return
    old = await engine.seq_at(head.user, horizon(now, settings)) or 0
    if old <= head.floor:
        return
    floor = floor_of(head, await engine.devices(head.user) or (), old, now, settings)
    if floor == head.floor:
        return
    tally.folded += 1
    if dry_run:
        tally.events += floor - head.floor
        return
    step = head.floor
    while step < floor:
        step = min(step + STEP_EVENTS, floor)
        tally.events += await engine.compact(head.user, step)
