"""Presence: which devices of a user are connected, told to whoever wants to know, and to compaction.

A device that is connected has a row that says until when it counts as such. Each worker keeps the rows of its own
sockets fresh, many in one statement, and looks about each second at those of the users that are watched here. Nothing
of this is in the log: rows run out by themselves when a worker dies, and an engine that is away only makes them late.

A device may be connected twice, to two workers, most often because it came back before its old connection was found
dead. So a worker that takes leave clears only a row that nobody has written later, and each worker looks in turn
whether the rows of its own devices still stand, and restores those that do not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

import structlog
from msgspec.structs import replace

from roost.core.errors import Code, RoostError, user_erased
from roost.core.events import Device
from roost.core.ports import Engine, EngineUnavailable, TransactionLost

GATHER_S = 0.05
"""What comes and goes within this time is written together."""
LOOK_S = 1.0
"""How often the engine is asked who is connected."""
WATCHED_MAX = 2_000
"""Watched users that one look is for; where there are more, they take turns."""
CHECKED_MAX = 500
"""Users of this worker's own devices that one look is for besides."""
ROWS_MAX = 1_000
"""Rows, or users, in one statement."""
GONE_MAX = 20_000
"""Devices that left and are not written yet; the rows of more than that just run out."""
RUNS_OUT = 2.5
"""How long a row counts, in refreshes."""
CLOSE_S = 2.0
"""How long the rows of this worker may take to be cleared at its end."""

log = structlog.get_logger(__name__)


class Connection:
    """A device that is connected to this worker, by one socket or more. What it holds is for `Presence` alone."""

    __slots__ = ("cursor", "device", "due", "seen_at", "sockets", "until", "user", "written")

    def __init__(self, user: str, device: str, seen_at: datetime) -> None:
        self.user = user
        self.device = device
        self.cursor = 0
        self.seen_at = seen_at
        self.sockets = 0
        self.until: datetime | None = None  # as far as this worker may have written it
        self.written = self.due = 0.0  # by the event loop's time

    def read(self, seq: int) -> None:
        """The device has read and kept the log up to `seq`. Written with the next refresh, or when it leaves."""
        self.cursor = max(self.cursor, seq)

    @property
    def row(self) -> tuple[str, Device]:
        """What the engine is to know of it."""
        return self.user, Device(self.device, 0, self.cursor, self.seen_at, self.until)


class Watch:
    """Somebody who wants to know who is connected."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._devices: list[Device] = []
        self._told: list[str] | None = None

    def tell(self, devices: list[Device]) -> None:
        """These are connected now."""
        self._devices = devices
        if [device.device for device in devices] != self._told:
            self._news.set()
        else:
            self._news.clear()

    async def changed(self) -> list[Device]:
        """The connected devices of the user, by name, once they are others than this told before.

        The first time that is as soon as they are known. Only the newest list is kept. It may be cancelled, and called
        again.
        """
        await self._news.wait()
        self._news.clear()
        self._told = [device.device for device in self._devices]
        return self._devices


class Presence:
    """The connected devices of one worker. `refresh_s` is how often a row is written again."""

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime], refresh_s: float, devices_max: int) -> None:
        self._engine = engine
        self._clock = clock
        self._refresh_s = refresh_s
        self._devices_max = devices_max
        self._here: dict[str, dict[str, Connection]] = {}
        self._fresh: set[Connection] = set()  # those here whose rows are to be written
        self._gone: dict[tuple[str, str], Connection] = {}  # those whose rows are to be cleared
        self._watches: dict[str, set[Watch]] = {}
        self._known: dict[str, list[Device]] = {}  # what the engine said last of those who are watched
        self._wake = asyncio.Event()
        self._unknown: set[str] = set()  # those of them of whom it was not asked yet
        self._watched = _Turns(self._watches)
        self._checked = _Turns(self._here)

    @contextmanager
    def connect(self, user: str, device: str, cursor: int = 0) -> Iterator[Connection]:
        """The device is connected here, inside. `cursor` is how far it has read. Neither waits nor raises."""
        devices = self._here.setdefault(user, {})
        connection = devices.get(device)
        if connection is None:
            connection = Connection(user, device, self._clock())
            devices[device] = connection
            self._fresh.add(connection)
            self._changed(user)
        connection.sockets += 1
        connection.read(cursor)
        try:
            yield connection
        finally:
            connection.sockets -= 1
            if not connection.sockets:
                self._leave(connection)

    @contextmanager
    def watch(self, user: str) -> Iterator[Watch]:
        """Be told of the user's connected devices, inside."""
        watch = Watch()
        self._watches.setdefault(user, set()).add(watch)
        if user in self._known:
            watch.tell(self._connected(user))
        else:
            self._unknown.add(user)
            self._wake.set()
        try:
            yield watch
        finally:
            self._watches[user].discard(watch)
            if not self._watches[user]:
                del self._watches[user]
                self._known.pop(user, None)

    async def devices(self, user: str) -> list[Device]:
        """All devices of a user, by name; `until` is None for those that are not connected.

        Raises `NOT_FOUND`, `USER_ERASED`.
        """
        rows = await self._engine.devices(user)
        if rows is None:
            raise RoostError(Code.NOT_FOUND, f"There is no user {user!r}.")
        if not rows and (head := await self._engine.head(user)) and head.erased_at is not None:
            raise user_erased(user)
        now = self._clock()
        found = {}
        for device in rows:
            connected = device.until is not None and device.until > now and (user, device.device) not in self._gone
            found[device.device] = device if connected else replace(device, until=None)
        return self._with_own(user, found)

    async def run(self) -> None:
        """Keep the rows fresh, and tell those who watch, until cancelled. An engine that is away is waited for."""
        time = asyncio.get_running_loop().time
        looked = -LOOK_S
        away = False
        while True:
            now = time()
            due = now - looked >= LOOK_S
            try:
                await self._write(now, due=due)
                looked = now if due else looked
                await self._look(now, due=due)
                away = False
            except (EngineUnavailable, TransactionLost):
                if not away:  # once, however long it lasts
                    log.warning("presence waits for the engine")
                away = True
                await asyncio.sleep(LOOK_S)
            except Exception:
                log.exception("presence failed")
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(GATHER_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, looked + LOOK_S - time())):
                    await self._wake.wait()
            self._wake.clear()

    async def close(self) -> None:
        """All devices of this worker are gone. Never raises."""
        for devices in list(self._here.values()):
            for connection in list(devices.values()):
                self._leave(connection)
        rows = [connection.row for connection in self._gone.values()]
        with suppress(EngineUnavailable, TransactionLost, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._engine.leave(rows)

    def _leave(self, connection: Connection) -> None:
        user, device = connection.user, connection.device
        if not self._is_here(connection):
            return  # `close` was before
        del self._here[user][device]
        if not self._here[user]:
            del self._here[user]
        self._fresh.discard(connection)
        connection.seen_at = self._clock()
        if connection.until is not None and len(self._gone) < GONE_MAX:
            self._gone[user, device] = connection
        if user in self._known:
            self._known[user] = [known for known in self._known[user] if known.device != device]
        self._changed(user)

    def _changed(self, user: str) -> None:
        self._wake.set()
        self._tell(user)

    def _tell(self, user: str) -> None:
        if user in self._known:
            devices = self._connected(user)
            for watch in self._watches[user]:
                watch.tell(devices)

    def _connected(self, user: str) -> list[Device]:
        return self._with_own(user, {device.device: device for device in self._known[user]})

    def _with_own(self, user: str, found: dict[str, Device]) -> list[Device]:
        """What the engine knows of a user's devices, and what this worker knows better."""
        for name, connection in self._here.get(user, {}).items():
            device = found.get(name)
            device = found.get(name) or Device(name, 0, 0, connection.seen_at)
            found[name] = replace(
                device,
                cursor=max(device.cursor, connection.cursor),
                seen_at=max(device.seen_at, connection.seen_at),
                until=connection.until or connection.seen_at,
            )
        return [device for _, device in sorted(found.items())]

    async def _write(self, now: float, *, due: bool) -> None:
        """Write what has changed, and if a look is due what is to be refreshed."""
        if due:
            for devices in self._here.values():
                self._fresh.update(connection for connection in devices.values() if connection.due <= now)
        await self._clear()
        while self._fresh:
            some = [self._fresh.pop() for _ in range(min(ROWS_MAX, len(self._fresh)))]
            at = self._clock()
            for connection in some:
                connection.seen_at = at
                connection.until = at + timedelta(seconds=RUNS_OUT * self._refresh_s)
            await self._engine.touch([connection.row for connection in some], self._devices_max)
            for connection in some:
                connection.written = now
                # What came together is not to be refreshed together for ever.
                connection.due = now + self._refresh_s * random.uniform(0.75, 1.0)  # noqa: S311

    async def _clear(self) -> None:
        """Clear the rows of those who left. Where that fails, they are left to run out."""
        gone = list(self._gone.values())
        try:
            for start in range(0, len(gone), ROWS_MAX):
                await self._engine.leave([connection.row for connection in gone[start : start + ROWS_MAX]])
        finally:
            for connection in gone:
                if self._gone.get((connection.user, connection.device)) is connection:
                    del self._gone[connection.user, connection.device]

    async def _look(self, now: float, *, due: bool) -> None:
        """Ask who is connected: of the users that are watched anew, and if a look is due of the others too."""
        users, self._unknown = self._unknown, set()
        if due:
            users.update(self._watched.take(WATCHED_MAX), self._checked.take(CHECKED_MAX))
        asked = list(users)
        for start in range(0, len(asked), ROWS_MAX):
            some = asked[start : start + ROWS_MAX]
            for user, devices in (await self._engine.connected(some, self._clock())).items():
                self._hear(user, devices, now)

    def _hear(self, user: str, devices: list[Device], now: float) -> None:
        """The engine says that these are connected."""
        names = {device.device for device in devices}
        for name, connection in self._here.get(user, {}).items():
            if name not in names and now - connection.written >= LOOK_S:
                self._fresh.add(connection)
        if user in self._watches:
            self._known[user] = [device for device in devices if (user, device.device) not in self._gone]
            self._tell(user)

    def _is_here(self, connection: Connection) -> bool:
        return self._here.get(connection.user, {}).get(connection.device) is connection


class _Turns:
    """Users that take turns in being looked at."""

    def __init__(self, users: Mapping[str, object]) -> None:
        self._users = users
        self._waiting: list[str] = []

    def take(self, count: int) -> list[str]:
        """The next `count`; fewer at the end of a round."""
        if not self._waiting:
            self._waiting = list(self._users)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken
