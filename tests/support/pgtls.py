"""A PostgreSQL as it is met over a network: speaks `SSLRequest`, and passes on what is inside to a real one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.listener import Listener

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class TlsPostgres:
    """In front of the PostgreSQL at a unix socket. Without files of a certificate it says that it speaks no TLS.

    `sealed` counts the connections that came by TLS, `open` those that did not.
    """

    def __init__(self, path: Path, files: tuple[Path, Path] | None) -> None:
        self._path = path
        self._tls: ssl.SSLContext | None = None
        if files is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*files)
        self.port = 0
        self.sealed = self.open = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TlsPostgres]:
        async with Listener(self._talk) as listener:
            self.port = listener.port
            yield self

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        if first == SSL_REQUEST:
            writer.write(b"S" if self._tls else b"N")
            await writer.drain()
            if self._tls:
                await writer.start_tls(self._tls)
                self.sealed += 1
            first = b""
        if not self._tls or first:
            self.open += 1
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._path)
        try:
            inner_writer.write(first)
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, inner_writer))
                both.create_task(_copy(inner_reader, writer))
        finally:
            inner_writer.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        target.write(data)
        await target.drain()
    raise EOFError
