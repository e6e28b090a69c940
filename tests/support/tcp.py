"""Between a client and a server: a TCP proxy that is up or down, cuts connections, and may not know WebSockets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.support.listener import Listener

CHUNK = 1 << 14
_upgrade = re.compile(rb"^upgrade:\s*websocket", re.IGNORECASE | re.MULTILINE)


class TcpProxy:
    """Passes on what goes to `port` on this machine; runs inside `running()`, reached at `url`.

    While it is not `up`, connections are closed as they come. With `no_upgrades`, a request for a WebSocket is answered
    with that status; with 0, by a closed connection. `cut_after` is a number of bytes from the server after which a
    connection is cut, once. `upgrades` counts the WebSockets that it let through.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = Listener(self._pass)
        self._to_server: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.up = True
        self.no_upgrades: int | None = None
        self.cut_after: int | None = None
        self.upgrades = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TcpProxy]:
        async with self._listener:
            self.port = self._listener.port
            yield self

    def down(self) -> None:
        """Cut everything, and let nobody in."""
        self.up = False
        self.cut()

    def cut(self) -> None:
        """Cut every connection, as a lost network does: what is on its way is gone."""
        for writer in self._listener.writers | self._to_server:
            writer.transport.abort()

    async def _pass(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if not self.up:
            to_client.transport.abort()
            return
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:  # it is not there just now
            to_client.transport.abort()
            return
        self._to_server.add(to_server)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forth(client, to_client, to_server))
                tasks.create_task(self._back(server, to_client, to_server))
        finally:
            self._to_server.discard(to_server)
            to_server.transport.abort()

    async def _forth(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await client.read(CHUNK):
                if _upgrade.search(data):
                    if self.no_upgrades is not None:
                        if self.no_upgrades:
                            to_client.write(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % self.no_upgrades)
                        break
                    self.upgrades += 1
                to_server.write(data)
                await to_server.drain()
        to_server.close()

    async def _back(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await server.read(CHUNK):
                if self.cut_after is not None:
                    self.cut_after -= len(data)
                    if self.cut_after < 0:
                        self.cut_after = None
                        to_client.transport.abort()
                        to_server.transport.abort()
                        return
                to_client.write(data)
                await to_client.drain()
        to_client.close()
