"""The two lines between a replica and its server: a WebSocket, and HTTP where a WebSocket cannot be had.

Both give the server's frames as they come and take pushes, so nothing above them knows which one it is. What
ends a line is raised as one of a few exceptions, each of which says what the device has to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from roost.client.carry import AsyncCarrier
from roost.client.errors import (
    CursorAhead,
    CursorCompacted,
    Forbidden,
    InvalidRequest,
    NotFound,
    RoostError,
    Unauthenticated,
    Unavailable,
    Unreachable,
    error_of,
)
from roost.client.exchange import Session
from roost.client.replica.calls import Calls
from roost.core.commands import Mutation
from roost.sync import frames
from roost.sync.frames import Events, Hello, Pushed, Refused, ServerFrame, Welcome, mutation_frame

MESSAGE_BYTES_MAX = 64 << 20
"""A page of events ends early at 8 MiB, but a server's settings may say otherwise."""
SILENT_BEATS = 3
"""A line on which that many heartbeats are missing is dead."""
POLL_S = 25.0


class Refetch(Exception):
    """The log does not go on from the cursor: read a snapshot."""


class NoUser(Exception):
    """There is no such user yet."""


class NoWebSocket(Exception):
    """Something on the way does not let WebSockets through."""


class HandshakeLost(Unreachable):
    """The connection was taken, and the upgrade not answered: an outage, or something that knows no WebSockets."""


class Line(Protocol):
    """An open line. Whatever ends it is raised by `frames` and by `push`. `token` is the one that it is open with."""

    token: str | None

    def frames(self) -> AsyncGenerator[ServerFrame, None]:
        """What the server says, but for answers to pushes."""

    async def push(self, mutations: Sequence[Mutation]) -> Pushed | Refused:
        """Push, and wait for the answer; one push at a time."""

    async def read(self, seq: int) -> None:
        """Tell how far the log was read and kept."""

    async def renew(self, token: str) -> None:
        """Hand in a fresh token."""

    async def close(self) -> None:
        """End the line."""


class SocketLine:
    """A WebSocket that speaks `roost.v1`."""

    def __init__(self, connection: ClientConnection, answer_s: float, token: str | None) -> None:
        self.token = token
        self._connection = connection
        self._answer_s = answer_s
        self._silence_s = answer_s
        self._answer: asyncio.Future[Pushed | Refused] | None = None

    @classmethod
    async def open(cls, session: Session, calls: Calls, hello: Hello, token: str | None) -> SocketLine:
        """Connect and say hello. Raises `NoWebSocket`, `RoostError`."""
        url = "ws" + session.url.removeprefix("http") + calls.base + "/sync"
        try:
            connection = await connect(
                url,
                additional_headers={"Authorization": f"Bearer {token}"} if token else {},
                subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
                open_timeout=session.limits.attempt_s,
                close_timeout=1,
                compression=None,
                max_size=MESSAGE_BYTES_MAX,
                proxy=None,
            )
        except InvalidStatus as refusal:
            raise _not_upgraded(refusal) from refusal
        except (InvalidHandshake, TimeoutError, EOFError, ConnectionResetError) as error:
            raise HandshakeLost(f"The upgrade was not answered: {error}.", code="unavailable") from error
        except OSError as error:
            raise _unreachable(error) from error
        if connection.subprotocol != frames.SUBPROTOCOL:
            await connection.close()
            raise NoWebSocket("what answers does not speak roost.v1")
        line = cls(connection, session.limits.attempt_s, token)
        await line._send(hello)
        return line

    async def frames(self) -> AsyncGenerator[ServerFrame, None]:
        """See `Line`."""
        try:
            while True:
                async with asyncio.timeout(self._silence_s):
                    text = await self._connection.recv()
                frame = frames.server_frame(text)
                if isinstance(frame, Pushed | Refused):
                    if self._answer is not None and not self._answer.done():
                        self._answer.set_result(frame)
                    continue
                if isinstance(frame, Welcome):
                    self._silence_s = max(frame.heartbeat_s * SILENT_BEATS, 1.0)
                yield frame
        except ConnectionClosed as closed:
            raise _closed(closed) from closed
        except TimeoutError as silence:
            raise Unreachable("The server has fallen silent.", code="unavailable") from silence
        except msgspec.DecodeError as error:
            raise RoostError(f"This does not answer like a Roost server: {error}.") from error

    async def push(self, mutations: Sequence[Mutation]) -> Pushed | Refused:
        """See `Line`."""
        self._answer = asyncio.get_running_loop().create_future()
        await self._send(frames.Push(tuple(map(mutation_frame, mutations))))
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._answer
        except TimeoutError as silence:
            raise Unreachable("A push was not answered.", code="unavailable") from silence

    async def read(self, seq: int) -> None:
        """See `Line`."""
        await self._send(frames.Read(seq))

    async def renew(self, token: str) -> None:
        """See `Line`."""
        await self._send(frames.Token(token))
        self.token = token

    async def close(self) -> None:
        """See `Line`."""
        with suppress(OSError):
            await self._connection.close()

    async def _send(self, frame: Any) -> None:
        try:
            await self._connection.send(frames.encode(frame), text=True)
        except ConnectionClosed as closed:
            raise _closed(closed) from closed


class PollLine:
    """Long polls for events, and a request for each push."""

    def __init__(self, carry: AsyncCarrier, calls: Calls, hello: Hello) -> None:
        self.token: str | None = None
        self._carry = carry
        self._calls = calls
        self._device = hello.device or ""
        self._after = hello.after if isinstance(hello.after, int) else 0
        self._collections = hello.collections

    async def frames(self) -> AsyncGenerator[ServerFrame, None]:
        """See `Line`."""
        wait_s = 0.0
        while True:
            try:
                stretch = await self._carry(self._calls.events(self._after, wait_s, self._collections))
            except (CursorAhead, CursorCompacted) as refusal:
                raise Refetch from refusal
            except NotFound as refusal:
                raise NoUser from refusal
            after, self._after = self._after, stretch.seq
            live = stretch.seq >= stretch.end
            yield Events(stretch.events, stretch.seq, live, after)
            wait_s = POLL_S if live else 0.0

    async def push(self, mutations: Sequence[Mutation]) -> Pushed | Refused:
        """See `Line`."""
        return await self._carry(self._calls.push(self._device, mutations))

    async def read(self, seq: int) -> None:
        """There is no way to say so by HTTP; what the device pushes says it."""

    async def renew(self, token: str) -> None:
        """Each request asks for its token."""

    async def close(self) -> None:
        """Nothing is held between requests."""


def _not_upgraded(refusal: InvalidStatus) -> Exception:
    response = refusal.response
    status = response.status_code
    if status in (401, 429, 500, 502, 503, 504):
        retry_after = response.headers.get("retry-after", "")
        return error_of(
            status,
            bytes(response.body or b""),
            request_id=response.headers.get("roost-request-id"),
            retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
        )
    return NoWebSocket(f"the upgrade was answered with {status}")


def _unreachable(error: OSError) -> Unreachable:
    return Unreachable(f"No answer from the server: {str(error).rstrip('.')}.", code="unavailable")


_CLOSED: dict[int, type[RoostError]] = {
    4400: InvalidRequest,
    4401: Unauthenticated,
    4403: Forbidden,
    4429: Unavailable,
    4503: Unavailable,
}


def _closed(closed: ConnectionClosed) -> Exception:
    """What a close code asks of the device."""
    code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
    if code in (4409, 4410):
        return Refetch()
    if code == 4404:  # noqa: PLR2004  # the protocol's page lists them
        return NoUser()
    kind = _CLOSED.get(code, Unreachable)
    detail = reason or f"The connection was closed ({code})."
    return kind(detail, code="unavailable" if issubclass(kind, Unavailable) else _CODES[code], status=code)


_CODES = {4400: "invalid_request", 4401: "unauthenticated", 4403: "forbidden"}
