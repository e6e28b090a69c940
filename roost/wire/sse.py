"""Server-sent events: a user's log as a response that does not end (WHATWG HTML, 9.2).

Each event of the log is a message with `id:` its seq, so a browser that reconnects sends `Last-Event-ID` and goes
on behind it. A message `live` follows once the log was read to its end. While nothing happens a heartbeat
moves the client's cursor over what the stream leaves out, and shows both sides that the other is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from roost.authz.gate import Stretch
from roost.core.errors import Code, RoostError
from roost.wire.answer import NO_STORE, Answer, Header, encode_event, seq_header
from roost.wire.request import Request

MEDIA_TYPE = "text/event-stream"
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


async def answer(request: Request, after: int, collections: list[str] | None) -> Answer:
    """The stream of a user's log after a cursor. Raises what `Gate.follow` raises."""
    context = request.context
    stretches = context.gate.follow(request.caller, request.user, after, collections)
    # The first stretch is read before the answer begins, so that a refusal is one.
    first = await anext(stretches, None)
    if first is None:
        raise RoostError(Code.UNAVAILABLE, "This node is about to stop: connect again.", retry_after_s=1)
    left_s = request.principal.expires_at - context.clock().timestamp()
    heartbeat_s = context.settings.heartbeat_s
    return Answer(200, [*_HEADERS, seq_header(first.seq)], chunks=_messages(first, stretches, left_s, heartbeat_s))


async def _messages(
    first: Stretch, stretches: AsyncGenerator[Stretch, None], left_s: float, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    ends = loop.time() + left_s
    live = False
    stretch: Stretch | None = first
    async with aclosing(stretches):
        while stretch is not None:
            message = b"".join(b"id: %d\ndata: %s\n\n" % (event.seq, encode_event(event)) for event in stretch.events)
            if stretch.live and not live:
                live = True
                message += b'event: live\nid: %d\ndata: {"seq":%d}\n\n' % (stretch.seq, stretch.seq)
            if message:
                yield message
            reached = stretch.seq
            following = asyncio.ensure_future(anext(stretches, None))
            try:
                while not following.done():
                    await asyncio.wait((following,), timeout=min(heartbeat_s, ends - loop.time()))
                    if following.done():
                        break
                    if loop.time() >= ends:
                        yield b'event: end\ndata: {"code":"unauthenticated"}\n\n'
                        return
                    # A message without data is not shown to anybody, but its id is remembered.
                    yield b": still here\nid: %d\n\n" % reached
                stretch = following.result()
            finally:
                if not following.done():
                    following.cancel()
                    await asyncio.wait((following,))
