"""Between an engine and its PostgreSQL: a proxy that cuts connections where it hurts most, at a COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import asyncpg

Cut = Literal["no", "before", "after", "amid", "late"]
"""When a connection is cut: `before` its COMMIT reaches the server; `after` the server has answered it, and before
the answer is passed on; `amid`, as soon as the server may have it; `late`: before, and the server gets it once another
transaction waits for the locks that are still held."""

CHUNK = 1 << 16


class _Connection(NamedTuple):
    client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    server: asyncio.StreamReader
    to_server: asyncio.StreamWriter


class Proxy:
    """Passes on what goes to the embedded PostgreSQL at `server`, and does to each COMMIT the next of `cuts`.

    `url` is where to connect instead; `met` is what was done so far.
    """

    def __init__(self, folder: Path, server: str, cuts: Iterator[Cut]) -> None:
        self._path = folder / ".s.PGSQL.5432"
        self._server = server
        self._cuts = cuts
        self._handlers: set[asyncio.Future[None]] = set()
        self.url = f"postgresql://roost@/roost?host={folder}&port=5432"
        self.met: list[Cut] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It runs inside; whoever uses it has closed all connections before the end."""
        async with await asyncio.start_unix_server(self._serve, self._path):
            yield
            await asyncio.gather(*self._handlers)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        done = asyncio.get_running_loop().create_future()
        self._handlers.add(done)
        socket = self._server.partition("host=")[2].partition("&")[0] + "/.s.PGSQL.5432"
        server, to_server = await asyncio.open_unix_connection(socket)
        try:
            with suppress(OSError):
                await self._pass(_Connection(client, to_client, server, to_server))
        finally:
            to_client.close()
            to_server.close()
            done.set_result(None)

    async def _pass(self, connection: _Connection) -> None:
        back = asyncio.create_task(_pass_back(connection))
        try:
            while data := await connection.client.read(CHUNK):
                cut: Cut = "no"
                if b"COMMIT;" in data:
                    cut = next(self._cuts, "no")
                    self.met.append(cut)
                if cut != "no":
                    await _cancelled(back)
                    await self._cut(cut, data, connection)
                    return
                connection.to_server.write(data)
                await connection.to_server.drain()
        finally:
            await _cancelled(back)

    async def _cut(self, cut: Cut, data: bytes, connection: _Connection) -> None:
        if cut == "late":
            connection.to_client.close()
            await _somebody_waits(self._server)
        if cut != "before":
            connection.to_server.write(data)
            await connection.to_server.drain()
        if cut in {"after", "late"}:
            assert b"COMMIT" in await connection.server.read(CHUNK)


async def _pass_back(connection: _Connection) -> None:
    with suppress(OSError):
        while data := await connection.server.read(CHUNK):
            connection.to_client.write(data)
            await connection.to_client.drain()
        connection.to_client.close()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _somebody_waits(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        while not await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            pass
    finally:
        await connection.close()
