"""A channel in bounded memory: what arrives waits, what is sent waits, and both end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from roost.wire.channel import CLOSE_S, FRAMES_MAX, PIECE_BYTES, Channel, Closed, Message

LARGE = 1 << 20


class Transport(asyncio.Transport):
    """Remembers what is written, and whether it is read from; it is over when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reading = True
        self.ended = self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


def frame(data: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    assert len(data) < 65_536
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([opcode | (0x80 if fin else 0)]) + size + b"\0\0\0\0" + data


def play(act: Callable[[Channel, Transport], Awaitable[None]], most: int = LARGE) -> None:
    async def whole() -> None:
        channel, transport = Channel(asyncio.get_running_loop(), most), Transport()
        channel.connection_made(transport)
        async with asyncio.timeout(30):
            await act(channel, transport)
        channel.connection_lost(None)

    asyncio.run(whole())


def test_messages_come_whole_and_in_order() -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        data = frame(b"one") + frame(b"tw", fin=False) + frame(b"p", 9) + frame(b"o", 0) + frame(b"three", 2)
        for byte in data:
            channel.data_received(bytes([byte]))
        assert [await channel.receive() for _ in range(3)] == [
            Message(b"one", text=True),
            Message(b"two", text=True),
            Message(b"three", text=False),
        ]
        assert transport.written == b"\x8a\x01p"

    play(act)


def test_what_is_not_taken_waits_unread() -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        channel.data_received(frame(b"x") * 10_000)
        assert not transport.reading
        assert len(channel._inbox) <= PIECE_BYTES // len(frame(b"x"))
        for _ in range(FRAMES_MAX):
            assert await channel.receive() == Message(b"x", text=True)

    play(act)


def test_more_frames_than_fit_into_a_second_wait_for_the_next() -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        channel.data_received(frame(b"", 10) * 2 * FRAMES_MAX + frame(b"x"))
        assert not transport.reading
        await channel.receive()
        assert 0.9 < loop.time() - started < 60
        assert transport.reading

    play(act)


def test_pings_are_not_answered_while_answers_are_not_read() -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        channel.pause_writing()
        channel.data_received(frame(b"p", 9) * 100)
        assert (bytes(transport.written), transport.reading) == (b"", False)
        channel.resume_writing()
        assert bytes(transport.written) == b"\x8a\x01p" * 100
        assert transport.reading

    play(act)


def test_sending_waits_while_nobody_reads_and_keeps_the_order() -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        await channel.send(b"a")
        channel.pause_writing()
        assert channel.stuck_since is not None
        sending = [asyncio.ensure_future(channel.send(text)) for text in (b"b", b"c")]
        await asyncio.sleep(0)
        channel.send_at_once(b"heartbeat")
        channel.ping()
        assert bytes(transport.written) == b"\x81\x01a"
        channel.resume_writing()
        await asyncio.gather(*sending)
        assert bytes(transport.written) == b"\x81\x01a\x81\x01b\x81\x01c"

    play(act)


@pytest.mark.parametrize("how", ["closed", "lost", "left"])
def test_whoever_waits_is_told_of_the_end(how: str) -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        channel.pause_writing()
        waiting = [asyncio.ensure_future(channel.receive()), asyncio.ensure_future(channel.send(b"x"))]
        await asyncio.sleep(0)
        if how == "closed":
            channel.close(4408, "é" * 200)
        elif how == "lost":
            channel.connection_lost(OSError())
        else:
            channel.resume_writing()
            await waiting.pop()
            channel.data_received(frame(b"\x03\xe8", 8))
        for each in waiting:
            with pytest.raises(Closed):
                await each
        assert channel.code == {"closed": 4408, "lost": 1006, "left": 1000}[how]
        with pytest.raises(Closed):
            await channel.receive()

    play(act)


def test_a_close_is_answered_and_one_that_is_not_ends_in_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        loop = asyncio.get_running_loop()
        timers: list[tuple[float, Callable[[], None]]] = []
        monkeypatch.setattr(loop, "call_later", lambda delay, call: timers.append((delay, call)), raising=True)
        channel.close(4401, "over")
        monkeypatch.undo()
        assert bytes(transport.written) == b"\x88\x06" + (4401).to_bytes(2, "big") + b"over"
        assert not transport.ended
        ((delay, call),) = timers
        assert delay == CLOSE_S
        channel._ending = None
        call()
        assert transport.aborted
        channel.data_received(frame(b"ignored") + frame(b"\x11\x31", 8))
        assert transport.ended

    play(act)


def test_too_large_a_message_is_told_without_reading_it() -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        channel.data_received(frame(b"x" * 101)[:4])
        assert channel.code == 1009
        assert transport.written[2:4] == (1009).to_bytes(2, "big")
        assert transport.reading  # until the other side has heard

    play(act, most=100)


def test_the_other_sides_life_shows() -> None:
    async def act(channel: Channel, transport: Transport) -> None:
        channel.heard = 0
        channel.ping()
        assert bytes(transport.written) == b"\x89\x00"
        channel.data_received(frame(b"", 10))
        assert channel.heard > 0

    play(act)


def test_it_tells_once_that_its_connection_is_gone() -> None:
    told: list[None] = []

    async def whole() -> None:
        channel = Channel(asyncio.get_running_loop(), LARGE, lost=lambda: told.append(None))
        channel.connection_made(Transport())
        channel.close(1001)
        assert not told, "the file is open for as long as the other side has not closed"
        channel.connection_lost(None)

    asyncio.run(whole())
    assert len(told) == 1
