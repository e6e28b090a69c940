"""Wake-ups between the processes on one PostgreSQL: who committed says so, and who waits for news hears it.

One connection of its own does both, by LISTEN and NOTIFY. A NOTIFY inside of the commit's transaction would make all
commits of the database queue for one lock; so it is sent behind the commit, alone, and without a wait for the disk. It
carries nothing, because it may be lost: whoever is woken looks at the positions, and looks now and then without it.
Where LISTEN is not to be had (CockroachDB, a pooler that gives a connection to somebody else after each
transaction), or the connection is away, waiting just takes its time.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import asyncpg
import structlog

from roost.engines import statements
from roost.engines.connections import Connection
from roost.engines.transit import tls_of

SQL = statements.load("news")
CHANNEL = "roost"
APPLICATION = "roost news"
PAUSE_S = (0.2, 30.0)
"""First and longest pause before the connection is tried again."""
PROBE_S = 20.0
"""How often a connection is asked whether it is still there: one whose other end vanished says nothing."""

log = structlog.get_logger(__name__)


class News:
    """What other processes have to tell. It connects when it is first used, and again whenever that is needed."""

    def __init__(self, url: str, *, timeout_s: float, enabled: bool = True) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._enabled = enabled
        self._arrived = asyncio.Event()
        self._connection: Connection | None = None
        self._busy = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, timeout_s: float) -> None:
        """Return when another process has announced something since the last call, or after `timeout_s`."""
        self._begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        self._arrived.clear()

    async def announce(self) -> None:
        """Wake the others. Where that fails they are none the worse."""
        self._begin()
        if self._connection is not None:
            await self._send(self._connection, "announce")

    async def close(self) -> None:
        """Let go of the connection."""
        self._enabled = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    def _begin(self) -> None:
        if self._task is None and self._enabled:
            self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Be connected, until cancelled."""
        least, most = PAUSE_S
        pause_s = least
        away = False
        while True:
            try:
                await self._listen()
                away, pause_s = False, least
            except Exception as error:  # noqa: BLE001 (whatever it is, polling goes on, and this is tried again)
                if not away:
                    log.warning("no wake-ups: commits of other processes are found by polling", error=repr(error))
                away = True
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # keeps processes apart
            pause_s = min(pause_s * 2, most)

    async def _listen(self) -> None:
        """Connect, and hear until the connection ends. Raises what the driver raises."""
        connection = await asyncpg.connect(
            self._url,
            ssl=tls_of(self._url),
            timeout=self._timeout_s,
            command_timeout=self._timeout_s,
            # Nothing is written here, yet a NOTIFY is a commit, which would wait for the disk.
            server_settings={"application_name": APPLICATION, "synchronous_commit": "off"},
        )
        try:
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, self._hear)
            self._connection = connection
            # Something may have been announced while nobody listened here, and nothing could be from here.
            self._arrived.set()
            await self._send(connection, "announce")
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_S):
                        await ended.wait()
                if not ended.is_set():
                    await self._send(connection, "probe")
        finally:
            self._connection = None
            connection.terminate()

    def _hear(self, connection: Connection, sender: int, _channel: str, _payload: str) -> None:
        if sender != connection.get_server_pid():
            self._arrived.set()

    async def _send(self, connection: Connection, statement: str) -> None:
        """One statement at a time; a connection on which one fails is given up, and another one made."""
        async with self._busy:
            try:
                await connection.execute(SQL[statement])
            except Exception:  # noqa: BLE001 (whatever it is, it is the connection's)
                connection.terminate()
