"""Server-sent events: a user's log as a response that does not end (WHATWG HTML, 9.2).

Each event of the log is a message with `id:` its seq, so a browser that reconnects sends `Last-Event-ID` and goes
on behind it. A message `live` follows once the log was read to its end. While nothing happens a heartbeat
moves the client's cursor over what the stream leaves out, and shows both sides that the other is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from typing import NamedTuple

from roost.authz.gate import Stretch
from roost.core.errors import Code, RoostError
from roost.wire.answer import NO_STORE, Answer, Header, encode_event, seq_header
from roost.wire.request import Request

MEDIA_TYPE = "text/event-stream"
_FINAL = frozenset({Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.USER_ERASED})
"""After these it would be in vain to take the stream up again."""
# A reverse proxy that buffers would keep events back (nginx knows the header).
_HEADERS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    NO_STORE,
    (b"x-accel-buffering", b"no"),
]


def wanted(request: Request) -> bool:
    """Whether the request asks for a stream."""
    accepted = (request.header(b"accept") or "").split(",")
    return any(part.partition(";")[0].strip().lower() == MEDIA_TYPE for part in accepted)


class Piece(NamedTuple):
    """What a stream sends next: whole messages, or none; and the id from which to go on behind them."""

    messages: bytes
    id: bytes


async def answer(request: Request, after: int, collections: list[str] | None) -> Answer:
    """The stream of a user's log after a cursor. Raises what `Gate.follow` raises."""
    stretches = request.context.gate.follow(request.caller, request.user, after, collections)
    first, told = await stream(request, _pieces(stretches))
    told.headers.append(seq_header(int(first.id)))
    return told


async def stream(request: Request, pieces: AsyncGenerator[Piece, None]) -> tuple[Piece, Answer]:
    """The first piece, and the answer that begins with it. Raises what making the first one raises."""
    context = request.context
    # The first piece is read before the answer begins, so that a refusal is one.
    first = await anext(pieces, None)
    if first is None:
        raise RoostError(Code.UNAVAILABLE, "This node is about to stop: connect again.", retry_after_s=1)
    left_s = request.principal.expires_at - context.clock().timestamp()
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    chunks = _chunks(first, pieces, over, left_s, context.settings.heartbeat_s)

    def ended() -> None:
        if not over.done():
            over.set_result(None)

    watch = context.logins.watch(request.principal, ended)
    return first, Answer(200, list(_HEADERS), chunks=_while(watch, chunks))


async def _pieces(stretches: AsyncGenerator[Stretch, None]) -> AsyncGenerator[Piece, None]:
    live = False
    async with aclosing(stretches):
        async for stretch in stretches:
            text = b"".join(b"id: %d\ndata: %s\n\n" % (event.seq, encode_event(event)) for event in stretch.events)
            if stretch.live and not live:
                live = True
                text += b'event: live\nid: %d\ndata: {"seq":%d}\n\n' % (stretch.seq, stretch.seq)
            yield Piece(text, b"%d" % stretch.seq)


async def _while(
    watch: AbstractContextManager[None], chunks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The chunks, with the end of the token's session watched meanwhile."""
    with watch:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk


async def _chunks(
    first: Piece, pieces: AsyncGenerator[Piece, None], over: asyncio.Future[None], left_s: float, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    ends = loop.time() + left_s
    piece: Piece | None = first
    async with aclosing(pieces):
        while piece is not None:
            if piece.messages:
                yield piece.messages
            following = asyncio.ensure_future(anext(pieces, None))
            try:
                while not following.done():
                    timeout_s = min(heartbeat_s, ends - loop.time())
                    await asyncio.wait((following, over), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                    if following.done():
                        break
                    if over.done() or loop.time() >= ends:
                        yield b'event: end\ndata: {"code":"unauthenticated"}\n\n'
                        return
                    # A message without data is not shown to anybody, but its id is remembered.
                    yield b": still here\nid: %s\n\n" % piece.id
                try:
                    piece = following.result()
                except RoostError as refusal:
                    if refusal.code not in _FINAL:
                        raise
                    # The status is sent, so the stream has to tell.
                    yield b'event: end\ndata: {"code":"%s"}\n\n' % refusal.code.value.encode()
                    return
            finally:
                if not following.done():
                    following.cancel()
                    await asyncio.wait((following,))
