"""One WebSocket of the server's: whole text messages in and out, in bounded memory, whatever the other side does.

The protocol itself is that of the `websockets` library, as a value without I/O; here are the socket and the bounds.
What arrives is parsed piece by piece, and no further while a message waits to be taken or an answer waits to be
written, so a flood is held back by TCP. What is sent waits while the other side does not read. How long ago it gave a
sign of life, and how long it has not read, is there to be asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple, cast

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import CLOSED, OPEN, SERVER, Protocol

PIECE_BYTES = 2_048
"""So much is parsed at a time; messages in it are all that can wait."""
FRAMES_MAX = 500
"""Frames of one WebSocket that are taken in a second, whatever they are; more are left to wait in TCP."""
UNSENT_BYTES_MAX = 64 << 10
"""What is sent waits once this much is not on its way."""
CLOSE_S = 5.0
"""How long the other side may take to close, once it was told to."""
REASON_BYTES_MAX = 123

_silent = logging.getLogger("roost.websocket")
_silent.setLevel(logging.ERROR)


class Message(NamedTuple):
    """A message as it came."""

    data: bytes
    text: bool


class Closed(Exception):
    """The WebSocket is closed, or about to be."""


class Channel(asyncio.Protocol):
    """A WebSocket after its handshake. `receive` is for one task, `send` for several.

    `code` tells how it was closed: by this side's code, or by the other's (1006 where there was none). `lost` is called
    when its connection is gone, just before the file is closed.
    """

    __slots__ = (
        "_at",
        "_ending",
        "_frames",
        "_inbox",
        "_loop",
        "_lost",
        "_partial",
        "_pausing",
        "_protocol",
        "_raw",
        "_reader",
        "_transport",
        "_window",
        "_writers",
        "code",
        "heard",
        "sent",
        "stuck_since",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, message_bytes_max: int, lost: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = loop
        self._lost = lost
        self._protocol = Protocol(SERVER, state=OPEN, max_size=message_bytes_max, logger=_silent)
        self._transport: asyncio.Transport | None = None
        self._raw = b""
        self._at = 0
        self._partial: tuple[bytearray, bool] | None = None
        self._inbox: list[Message] = []
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._ending: asyncio.TimerHandle | None = None
        self._pausing: asyncio.TimerHandle | None = None
        self._frames = 0
        self._window = 0.0
        self.code: int | None = None
        self.heard = self.sent = loop.time()
        self.stuck_since: float | None = None
        """Since when the other side has not read what waits to be sent; None while nothing waits."""

    async def receive(self) -> Message:
        """The next message. Raises `Closed`."""
        while not self._inbox:
            if self.code is not None:
                raise Closed
            self._reader = self._loop.create_future()
            await self._reader
        message = self._inbox.pop(0)
        if not self._inbox:
            self._feed()
        return message

    async def send(self, text: bytes) -> None:
        """Send a text message, as soon as there is room. Raises `Closed`."""
        while self.stuck_since is not None and self.code is None:
            writer = self._loop.create_future()
            self._writers.append(writer)
            await writer
        self._send(text)

    def send_at_once(self, text: bytes) -> None:
        """Send a text message unless others wait. Raises `Closed`."""
        if self.stuck_since is None:
            self._send(text)

    def ping(self) -> None:
        """Make the other side give a sign of life, unless much else waits to be sent."""
        if self.stuck_since is None and self.code is None:
            self._protocol.send_ping(b"")
            self._flush()

    def allow(self, message_bytes_max: int) -> None:
        """Messages may have this size from here on."""
        self._protocol.max_message_size = message_bytes_max

    def close(self, code: int, reason: str = "") -> None:
        """Close it. What was sent before still arrives, if the other side reads it soon."""
        if self.code is None:
            self._protocol.send_close(code, reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore"))
            self._flush()
            self._end(code)

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(UNSENT_BYTES_MAX)

    def data_received(self, data: bytes) -> None:
        """Something arrived."""
        self.heard = self._loop.time()
        self._raw, self._at = (self._raw[self._at :] + data, 0) if self._raw else (data, 0)
        self._feed()

    def eof_received(self) -> bool:
        """Nothing more arrives."""
        return False

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # it is gone, however
        """It is over."""
        self._transport = None
        if self._protocol.state is not CLOSED:
            self._protocol.receive_eof()
        self._end(self._protocol.close_code or 0)
        for timer in (self._ending, self._pausing):
            if timer is not None:
                timer.cancel()
        self._lost()

    def pause_writing(self) -> None:
        """The other side does not read."""
        self.stuck_since = self._loop.time()

    def resume_writing(self) -> None:
        """It does again."""
        self.stuck_since = None
        self._wake()
        self._feed()

    # Parts

    def _send(self, text: bytes) -> None:
        try:
            self._protocol.send_text(text)
        except InvalidState:
            raise Closed from None
        self.sent = self._loop.time()
        self._flush()

    def _feed(self) -> None:
        """Parse what has arrived, until there is a message to be taken."""
        while self._raw and self._transport is not None and self._ready:
            piece = self._raw[self._at : self._at + PIECE_BYTES]
            self._at += PIECE_BYTES
            if self._at >= len(self._raw):
                self._raw, self._at = b"", 0
            self._protocol.receive_data(piece)
            events = self._protocol.events_received()
            self._frames += len(events)
            for frame in events:
                if self.code is None and isinstance(frame, Frame):
                    self._take(frame)
            self._flush()
            if self.code is None and self._protocol.state is not OPEN:
                close = self._protocol.close_sent
                self._end(close.code if close else 0)
        if self._transport is not None:
            if self._raw:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    @property
    def _ready(self) -> bool:
        # Once it is closed nothing is taken any more, and only the other side's own close is looked for.
        if self.code is None and (self._inbox or self.stuck_since is not None):
            return False
        if self._pausing is not None:
            return False
        now = self._loop.time()
        if now >= self._window + 1:
            self._window, self._frames = now, 0
        if self._frames < FRAMES_MAX:
            return True
        self._pausing = self._loop.call_later(self._window + 1 - now, self._go_on)
        return False

    def _go_on(self) -> None:
        self._pausing = None
        self._feed()

    def _take(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        text = frame.opcode is Opcode.TEXT
        if frame.fin and frame.opcode is not Opcode.CONT:
            self._arrived(Message(bytes(frame.data), text))
        elif self._partial is None:
            self._partial = bytearray(frame.data), text
        else:
            self._partial[0].extend(frame.data)
            if frame.fin:
                self._arrived(Message(bytes(self._partial[0]), self._partial[1]))
                self._partial = None

    def _arrived(self, message: Message) -> None:
        self._inbox.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _flush(self) -> None:
        for piece in self._protocol.data_to_send():
            if self._transport is None:
                return
            if piece:
                self._transport.write(piece)
            elif self._transport.can_write_eof():
                # Not closed: what is still arriving would be answered by a reset, which overtakes the close frame.
                self._transport.write_eof()

    def _end(self, code: int) -> None:
        """It is closed, or will be soon; nobody may wait any longer."""
        if self.code is None:
            self.code = code
            self._inbox.clear()
            self._wake()
            if self._transport is not None:
                self._ending = self._loop.call_later(CLOSE_S, self._transport.abort)
                # Only its end is of interest any more.
                self._feed()

    def _wake(self) -> None:
        writers, self._writers = self._writers, []
        if self.code is not None and self._reader is not None:
            writers.append(self._reader)
        for future in writers:
            if not future.done():
                future.set_result(None)
