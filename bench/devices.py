"""The devices of the live scenes: WebSockets of `roost.v1`, with as little of the machine's time as can be.

What they cost, the server has not got: both share the machine. So a device is a protocol on a bare socket, which masks
with zeros (the same bytes, nothing to compute), decodes of a frame only what is measured, and answers pings.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from bench.postgres import BenchFailed

ADDRESSES = 16
"""Local addresses (127.0.0.1 and on) that connections come from: each has some 28,000 ports."""
PATIENCE_S = 60.0
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_numbers = count()


class Seen(msgspec.Struct, gc=False):
    """Of an event: where it stands, and which mutation of which device it came from."""

    seq: int
    device: str | None = None
    mutation: int | None = None


class Answer(msgspec.Struct, gc=False):
    """Of a mutation's answer: what became of it."""

    status: str


class Frame(msgspec.Struct):
    """Of a server's frame: what the bench looks at."""

    type: str
    seq: int = 0
    number: int = 0
    live: bool = False
    events: list[Seen] = []
    results: list[Answer] = []
    code: str = ""


class Page(msgspec.Struct):
    """Of a page of events."""

    events: list[Seen]
    seq: int


Heard = Callable[["Device", Frame, float], None]
encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Frame).decode


class Device(asyncio.Protocol):
    """One WebSocket. `heard` is called with each frame and the time (`perf_counter`) at which its bytes arrived."""

    __slots__ = ("_buffer", "_open", "_transport", "_wanted", "closed", "cursor", "heard", "name", "number", "user")

    def __init__(self, user: str, name: str, heard: Heard | None = None) -> None:
        self.user = user
        self.name = name
        self.heard = heard
        self.cursor = 0
        self.number = 0
        """Of the last mutation that was pushed."""
        self.closed: str | None = None
        """How the server ended it; None while it has not."""
        self._buffer = b""
        self._open = False
        self._transport: asyncio.Transport | None = None
        self._wanted: tuple[Callable[[Frame], bool], asyncio.Future[Frame]] | None = None

    async def connect(self, url: str, token: str, *, after: int | None) -> Frame:
        """Connect and say hello; with `after`, read the log from there until live. Returns the last frame of it."""
        where = urlsplit(url)
        local = (f"127.0.0.{1 + next(_numbers) % ADDRESSES}", 0)
        await asyncio.get_running_loop().create_connection(
            lambda: self, str(where.hostname), int(where.port or 80), local_addr=local
        )
        opened = self._want(lambda frame: frame.type == "open")
        assert self._transport
        self._transport.write(
            f"GET /v1/users/{self.user}/sync HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: roost.v1\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        await self._patiently(opened)
        hello: dict[str, Any] = {"type": "hello", "device": self.name}
        if after is None:
            return await self.ask(hello, lambda frame: frame.type == "welcome")
        return await self.ask({**hello, "after": after}, lambda frame: frame.live)

    async def ask(self, frame: dict[str, Any], answer: Callable[[Frame], bool]) -> Frame:
        """Send a frame and wait for the one that `answer` accepts."""
        wanted = self._want(answer)
        self.send(frame)
        return await self._patiently(wanted)

    async def push(self, operations: Iterable[list[dict[str, Any]]]) -> Frame:
        """Push mutations, each of some operations, and wait for the answer to all."""
        frame = await self.ask(self.draft(operations), lambda frame: frame.type in ("pushed", "refused"))
        if frame.type == "refused":
            raise BenchFailed(f"A push was refused: {frame.code}.")
        return frame

    def draft(self, operations: Iterable[list[dict[str, Any]]]) -> dict[str, Any]:
        """The frame that pushes mutations which are made now."""
        clock = time.time_ns() // 1000
        mutations = []
        for ops in operations:
            self.number += 1
            mutations.append({"number": self.number, "base": self.cursor, "clock": clock, "ops": ops})
        return {"type": "push", "mutations": mutations}

    def send(self, frame: dict[str, Any]) -> None:
        """Send a frame."""
        self._write(_TEXT, encode(frame))

    def close(self) -> None:
        """Be gone, at once."""
        if self._transport:
            self._transport.abort()

    @property
    def port(self) -> tuple[str, int]:
        """This end's address."""
        assert self._transport
        return cast("tuple[str, int]", self._transport.get_extra_info("sockname"))

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        """It is over; whoever waits for a frame hears of it."""
        self._transport = None
        self.closed = self.closed or f"the connection ended ({error})"
        if self._wanted is not None and not self._wanted[1].done():
            self._wanted[1].set_exception(BenchFailed(f"A device was let go: {self.closed}"))

    def data_received(self, data: bytes) -> None:
        """Take whole frames; keep the rest."""
        now = time.perf_counter()
        buffer = self._buffer + data if self._buffer else data
        if not self._open:
            head, found, buffer = buffer.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.closed = head.split(b"\r\n", 1)[0].decode(errors="replace")
                self.close()
                return
            self._open = True
            self._take(Frame("open"), now)
        at = 0
        while (end := _end(buffer, at)) is not None:
            start, stop = end
            self._message(buffer[at] & 0x0F, buffer[start:stop], now)
            at = stop
        self._buffer = buffer[at:]

    # Parts

    def _message(self, opcode: int, payload: bytes, now: float) -> None:
        if opcode == _TEXT:
            self._take(_decode(payload), now)
        elif opcode == _PING:
            self._write(_PONG, payload)
        elif opcode == _CLOSE:
            self.closed = f"{int.from_bytes(payload[:2], 'big')} {payload[2:].decode(errors='replace')}"
            self.close()

    def _take(self, frame: Frame, now: float) -> None:
        if frame.type == "events" and frame.seq > self.cursor:
            self.cursor = frame.seq
        elif frame.type == "welcome":
            self.number = frame.number
        if self.heard is not None:
            self.heard(self, frame, now)
        if self._wanted is not None and self._wanted[0](frame) and not self._wanted[1].done():
            self._wanted[1].set_result(frame)

    def _want(self, wanted: Callable[[Frame], bool]) -> asyncio.Future[Frame]:
        future = asyncio.get_running_loop().create_future()
        self._wanted = (wanted, future)
        return future

    async def _patiently(self, wanted: asyncio.Future[Frame]) -> Frame:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await wanted
        except TimeoutError:
            raise BenchFailed(f"Device {self.name} of {self.user} waited for {PATIENCE_S:.0f} s.") from None
        finally:
            self._wanted = None

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._transport is None:
            raise BenchFailed(f"A device was let go: {self.closed}")
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size < 1 << 16:
            head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
        else:
            head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
        self._transport.write(head + b"\0\0\0\0" + payload)


def _end(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at `at` begins and ends; None where it is not all there. No server masks."""
    if len(buffer) < at + 2:
        return None
    size, start = buffer[at + 1], at + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size, start = int.from_bytes(buffer[start : start + width], "big"), start + width
        if len(buffer) < start:
            return None
    stop = start + size
    return (start, stop) if stop <= len(buffer) else None
