"""A small HTTP client that tells exactly what happened to a request.

Tests of concurrency and faults send thousands of requests beside a server on the same few cores, over connections
that they chose, and have to know of each whether it was answered, or lost with its outcome unknown. A request that
gets no answer at all in good time is neither: it fails the test, because nothing may ever hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from tests.support.server import Server

PATIENCE_S = 60.0
_NOTHING = object()


class Lost(Exception):
    """The connection broke before the answer: the request may have been carried out, or not."""


class NotSent(Lost):
    """There was no connection: the request has not been carried out, and never will be."""


class Reply(NamedTuple):
    """An answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def seq(self) -> int:
        """The user's seq."""
        return int(self.headers["roost-seq"])

    @property
    def version(self) -> int:
        """The document's version."""
        return int(self.headers["etag"].strip('"'))

    @property
    def code(self) -> str:
        """The code of a problem document."""
        return str(self.json["code"])


class Connection:
    """One connection that stays open; one request at a time. It is made again after it was lost."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f"HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    async def open(self) -> None:
        """Connect. Raises `NotSent`."""
        self.close()
        try:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            raise NotSent from error

    @property
    def own_port(self) -> int:
        """The port of this end."""
        assert self._streams is not None
        port: int = self._streams[1].get_extra_info("sockname")[1]
        return port

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def ask(self, method: str, path: str, value: Any = _NOTHING, **headers: str) -> Reply:
        """Send a request, with `value` as its JSON body, and return the answer. Raises `Lost`.

        `headers` are written with underscores: `if_match='"7"'`.
        """
        body = b"" if value is _NOTHING else msgspec.json.encode(value)
        lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        head = f"{method} {path} {self._head}content-length: {len(body)}\r\n{lines}\r\n"
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._streams is None:
                    await self.open()
                assert self._streams is not None
                reader, writer = self._streams
                writer.write(head.encode() + body)
                await writer.drain()
                return await _read(reader)
        except TimeoutError:
            self.close()
            raise AssertionError(f"{method} {path} hangs") from None
        except (OSError, EOFError) as error:
            self.close()
            raise Lost from error
        except BaseException:
            self.close()  # an answer may be on its way that the next request would take for its own
            raise


async def _read(reader: asyncio.StreamReader) -> Reply:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Reply(int(status.split(" ")[1]), headers, body)


@asynccontextmanager
async def connected(server: Server, token: str, count: int) -> AsyncIterator[list[Connection]]:
    """`count` connections, spread evenly over the server's workers: one to each in turn"""
    async with AsyncExitStack() as stack:
        opened: list[Connection] = []
        while True:
            for _ in range(count):
                opened.append(await stack.enter_async_context(Connection(server.port, token)))
                # A worker has taken a connection at the latest when it has answered on it.
                await opened[-1].ask("GET", "/healthz")
            workers = [
                [connection for connection in opened if connection.own_port in ports]
                for ports in server.clients().values()
            ]
            if min(map(len, workers)) * len(workers) >= count:
                break
        yield [connection for row in zip(*workers, strict=False) for connection in row][:count]


async def read_log(connection: Connection, user: str) -> list[dict[str, Any]]:
    """A user's whole log; empty where there is no such user."""
    events: list[dict[str, Any]] = []
    while True:
        reply = await connection.ask("GET", f"/v1/users/{user}/events?after={len(events)}&limit=1000")
        if reply.status == 404:
            return []
        assert reply.status == 200, reply
        page = reply.json["events"]
        events += page
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1)), f"{user}'s log has a gap"
        if not page:
            return events


async def read_logs(connection: Connection, users: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """The whole logs of users."""
    return {user: await read_log(connection, user) for user in users}
