"""The WebSocket `roost.v1`: a device's end of the log, over one connection (`docs/guides/sync.md`).

One task takes the device's frames, one at a time, so that a flood is held back; another tells it what happens, and
waits while the device does not read; a timer sees to heartbeats, to the token and to signs of life. Whichever of them
finds a reason closes the channel, and that ends the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack, aclosing, nullcontext
from time import perf_counter
from typing import Any

import msgspec
import structlog

from roost.authz.gate import Stretch
from roost.authz.principal import Caller, Origin, Principal
from roost.core.commands import Push
from roost.core.errors import Code, RoostError
from roost.core.events import Head
from roost.core.ids import check_collection, check_device
from roost.sync import frames
from roost.wire import metrics, push, upgrade
from roost.wire.answer import Answer, encode_event
from roost.wire.channel import Channel, Closed
from roost.wire.operations import Operation, Reply
from roost.wire.request import Context, Request

HELLO_BYTES_MAX = 32 << 10
"""A message of somebody who has not said yet who that is."""
FRAME_BYTES = 256 << 10
"""A frame of events ends with the event that reaches this size."""
PRESENCE_S = 0.01
"""How long to wait after telling of a device that is connected, before telling of all of them again."""
SIGNS_OF_LIFE = 3
"""After so many heartbeats without one, the other side is taken for dead."""

CLOSES: dict[Code, int] = {
    Code.INVALID_REQUEST: 4400,
    Code.INVALID_NAME: 4400,
    Code.INVALID_JSON: 4400,
    Code.UNAUTHENTICATED: 4401,
    Code.FORBIDDEN: 4403,
    Code.NOT_FOUND: 4404,
    Code.CURSOR_AHEAD: 4409,
    Code.CURSOR_COMPACTED: 4410,
    Code.USER_ERASED: 4410,
    Code.OVERLOADED: 4429,
    Code.UNAVAILABLE: 4503,
}
GOING_AWAY = 1001
INTERNAL = 1011
SILENT = 4408
NOT_READING = 4429

log = structlog.get_logger(__name__)


async def open_socket(request: Request) -> Answer:
    """Make a WebSocket of the request's connection; the conversation over it goes on by itself."""
    user = request.user
    if request.scope["method"] != "GET" or not upgrade.is_asked(request):
        raise RoostError(Code.INVALID_REQUEST, "This is a WebSocket: it is opened by a GET with `Upgrade: websocket`.")
    request.context.browsers.check_socket(request.header(b"origin"), request.header(b"host"))
    headers = upgrade.headers(request)
    token = request.token if request.header(b"authorization") is not None else None
    context = request.context
    if len(context.sockets) >= context.settings.waiters_max:
        detail = f"{context.settings.waiters_max} WebSockets are held here."
        raise RoostError(Code.OVERLOADED, detail, retry_after_s=5)
    taken = upgrade.take(request.scope, context.files)
    file = taken.fileno()
    loop = asyncio.get_running_loop()
    channel = Channel(loop, HELLO_BYTES_MAX, lost=lambda: context.files.discard(file))
    context.files.add(file)
    try:
        await loop.connect_accepted_socket(lambda: channel, taken)
    except BaseException:
        context.files.discard(file)
        raise
    conversation = Conversation(context, channel, user, token, request.origin, request.certificate)
    task = loop.create_task(conversation.run())
    # The request goes on as long as the conversation.
    held, request.held = request.held, ""
    context.sockets.add(task)
    metrics.sockets.inc()

    def over(task: asyncio.Task[None]) -> None:
        metrics.sockets.dec()
        metrics.socket_closed(channel.code)
        context.sockets.discard(task)
        context.limiter.release(held)

    task.add_done_callback(over)
    return Answer(101, headers)


class Conversation:
    """One WebSocket, from its first frame to its end."""

    __slots__ = (
        "_attending",
        "_caller",
        "_certificate",
        "_channel",
        "_context",
        "_device",
        "_end",
        "_following",
        "_kept",
        "_live",
        "_loop",
        "_origin",
        "_reached",
        "_timer",
        "_token",
        "_user",
    )

    def __init__(
        self,
        context: Context,
        channel: Channel,
        user: str,
        token: str | None,
        origin: Origin,
        certificate: frozenset[str],
    ) -> None:
        self._context = context
        self._certificate = certificate
        self._channel = channel
        self._user = user
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._origin = origin
        self._attending: AbstractContextManager[object] = nullcontext()
        self._caller: Caller | None = None
        self._device: str | None = None
        self._kept: Callable[[int], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._following = self._live = False
        self._reached = self._end = 0

    async def run(self) -> None:
        """Talk until it is over. Never raises."""
        tasks: list[asyncio.Task[None]] = []
        try:
            with ExitStack() as stack:
                await self._guarded(self._talk(stack, tasks))
        finally:
            self._attending.__exit__(None, None, None)
            if self._timer is not None:
                self._timer.cancel()
            for task in tasks:
                task.cancel()
            # Not before the last of its news is told or dropped: a follower is counted until then.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do a part of the conversation, and close the channel for whatever it fails with."""
        try:
            await work
        except Closed:
            pass
        except RoostError as refusal:
            self._refuse(refusal)
        except Exception:
            log.exception("websocket failed", request_id=self._origin.request_id)
            self._channel.close(INTERNAL, f"The server's log has more under the request id {self._origin.request_id}.")

    async def _talk(self, stack: ExitStack, tasks: list[asyncio.Task[None]]) -> None:
        hello = await self._hello()
        if hello is None:
            return
        token = hello.token if hello.token is not None else self._token
        if token is None:
            raise RoostError(Code.UNAUTHENTICATED, "Send a token: in `hello`, or as `Authorization: Bearer <JWT>`.")
        caller = await self._authenticate(token)
        collections = self._collections(hello)
        after = hello.after if isinstance(hello.after, int) else None
        await self._welcome(caller, follows=after is not None)
        if self._device is not None:
            gate = self._context.gate
            # A device that does not follow has no need of old events, which compaction would keep for it.
            cursor = self._end if after is None else after
            self._kept = stack.enter_context(gate.connect(caller, self._user, self._device, cursor)).read
        self._channel.allow(self._context.limits.body_bytes_max)
        work = self._stay(caller) if after is None else self._follow(caller, after, collections)
        tasks.append(self._loop.create_task(self._guarded(work)))
        if hello.presence:
            tasks.append(self._loop.create_task(self._guarded(self._watch(caller))))
        self._beat()
        while True:
            frame = await self._receive()
            # Many frames may have arrived together, and others want their turn; who sends too many waits longer.
            await asyncio.sleep(self._context.limiter.frame(caller.principal, perf_counter()))
            await self._answer(caller, frame)

    async def _hello(self) -> frames.Hello | None:
        try:
            async with asyncio.timeout(self._context.settings.hello_timeout_s):
                frame = await self._receive()
        except TimeoutError:
            self._channel.close(SILENT, "There was no `hello`.")
            return None
        if not isinstance(frame, frames.Hello):
            raise RoostError(Code.INVALID_REQUEST, "The first frame is `hello`.")
        if frame.device is not None:
            self._device = check_device(frame.device)
            self._origin = msgspec.structs.replace(self._origin, device=self._device)
        return frame

    async def _authenticate(self, token: str) -> Caller:
        principal = await self._context.recognise(token, self._certificate, lambda: self._origin)
        self._caller = Caller(principal, self._origin)
        # It is told at once when the token's session is ended, and not first at the next beat.
        self._attending.__exit__(None, None, None)
        self._attending = self._context.logins.watch(principal, self._beat)
        self._attending.__enter__()
        return self._caller

    def _collections(self, hello: frames.Hello) -> list[str] | None:
        if hello.collections is None:
            return None
        most = self._context.limits.collections_max
        if len(hello.collections) > most:
            raise RoostError(Code.INVALID_REQUEST, f"At most {most} collections.")
        return sorted({check_collection(name) for name in hello.collections})

    async def _welcome(self, caller: Caller, *, follows: bool) -> None:
        gate = self._context.gate
        head: Head | None = None
        number = 0
        try:
            head = await gate.head(caller, self._user)
            if self._device is not None:
                known = await gate.devices(caller, self._user)
                number = next((each.number for each in known if each.device == self._device), 0)
        except RoostError as refusal:
            if follows or refusal.code is not Code.NOT_FOUND:
                raise
        self._end = head.seq if head else 0
        floor = head.floor if head else 0
        heartbeat_s = self._context.settings.heartbeat_s
        await self._send(frames.Welcome(self._end, floor, number, _expires_at(caller.principal), heartbeat_s))

    # What the device says

    async def _receive(self) -> frames.ClientFrame:
        message = await self._channel.receive()
        if not message.text:
            raise RoostError(Code.INVALID_REQUEST, "Frames are text messages.")
        frame: frames.ClientFrame = push.frame(message.data, frames.client_frame, self._context.limits)
        metrics.frame_received(str(frame.__struct_config__.tag))
        return frame

    async def _answer(self, caller: Caller, frame: frames.ClientFrame) -> None:
        match frame:
            case frames.Push():
                await self._send(await self._push(caller, frame))
            case frames.Token():
                await self._renew(frame.token)
            case frames.Read():
                if self._kept is None:
                    raise RoostError(Code.INVALID_REQUEST, "`hello` named no device that could have read.")
                self._kept(min(frame.seq, self._end))
            case frames.Ping():
                await self._send(frames.Pong())
            case frames.Hello():
                raise RoostError(Code.INVALID_REQUEST, "`hello` was said.")

    async def _push(self, caller: Caller, frame: frames.Push) -> frames.Pushed | frames.Refused:
        if self._device is None:
            raise RoostError(Code.INVALID_REQUEST, "`hello` named no device that could push.")
        try:
            mutations = push.mutations(frame.mutations, self._context.limits)
            accepted = await self._context.gate.push(caller, Push(self._user, self._device, mutations, caller.actor))
        except RoostError as refusal:
            expected = getattr(refusal, "expected", None)
            return frames.Refused(refusal.code.value, refusal.detail, expected, refusal.retry_after_s)
        self._end = max(self._end, accepted.seq)
        if not self._following and self._kept is not None:
            self._kept(self._end)
        return frames.Pushed(accepted.results)

    async def _renew(self, token: str) -> None:
        before = self._caller
        caller = await self._authenticate(token)
        fresh = caller.principal
        wrong = None
        if before is None or (fresh.kind, fresh.id) != (before.principal.kind, before.principal.id):
            wrong = "The fresh token is another principal's."
        elif fresh.scopes != before.principal.scopes:
            wrong = "The fresh token has other scopes: connect again with it."
        if wrong is not None:
            self._context.logins.refused(caller, wrong)
            raise RoostError(Code.FORBIDDEN, wrong)
        self._beat()
        await self._send(frames.Renewed(_expires_at(fresh)))

    # What the device is told

    async def _stay(self, caller: Caller) -> None:
        await self._context.gate.stay(caller, self._user)
        self._channel.close(GOING_AWAY, "The server stops: connect again.")

    async def _follow(self, caller: Caller, after: int, collections: list[str] | None) -> None:
        self._following, self._reached = True, after
        async with aclosing(self._context.gate.follow(caller, self._user, after, collections)) as stretches:
            async for stretch in stretches:
                await self._tell(stretch)
        self._channel.close(GOING_AWAY, "The server stops: connect again.")

    async def _tell(self, stretch: Stretch) -> None:
        part: list[bytes] = []
        size = 0
        for event in stretch.events:
            if size >= FRAME_BYTES:
                await self._send_events(part, event.seq - 1, live=False)
                part, size = [], 0
            part.append(encode_event(event))
            size += len(part[-1])
        await self._send_events(part, stretch.seq, live=stretch.live)

    async def _send_events(self, events: list[bytes], seq: int, *, live: bool) -> None:
        await self._channel.send(_events(self._reached, events, seq, live=live))
        metrics.frame_sent("events")
        self._reached, self._live = seq, live
        self._end = max(self._end, seq)

    async def _watch(self, caller: Caller) -> None:
        with self._context.gate.watch(caller, self._user) as watch:
            while True:
                devices = await watch.changed()
                present = tuple(frames.Present(device.device, device.seen_at) for device in devices)
                await self._send(frames.Presence(present))
                # Everybody is told of everybody: where many come at once, not of each of them alone.
                await asyncio.sleep(PRESENCE_S * len(devices))

    async def _send(self, frame: frames.ServerFrame) -> None:
        await self._channel.send(frames.encode(frame))
        metrics.frame_sent(str(frame.__struct_config__.tag))

    # What time brings

    def _beat(self) -> None:
        """See whether everything is as it should be, say so, and come again."""
        if self._timer is not None:
            self._timer.cancel()
        channel, beat_s = self._channel, self._context.settings.heartbeat_s
        if channel.code is not None or self._caller is None:
            return
        principal = self._caller.principal
        try:
            # Again each time: a token may be revoked before its end.
            self._context.identity.check(principal)
        except RoostError as refusal:
            self._refuse(refusal)
            return
        now = self._loop.time()
        stuck_s = 0.0 if channel.stuck_since is None else now - channel.stuck_since
        if stuck_s > SIGNS_OF_LIFE * beat_s:
            channel.close(NOT_READING, "What is sent is not read: resume from your cursor.")
        elif now - channel.heard > SIGNS_OF_LIFE * beat_s:
            channel.close(SILENT, "There was no sign of life: resume from your cursor.")
        else:
            # A little early rather than a whole beat late.
            due = now - 0.9 * beat_s
            if channel.heard <= due:
                channel.ping()
            if self._following and channel.sent <= due:
                channel.send_at_once(_events(self._reached, [], self._reached, live=self._live))
            next_s = min(max(channel.sent + beat_s - now, 0.1 * beat_s), beat_s) if self._following else beat_s
            left_s = principal.expires_at - self._context.clock().timestamp()
            self._timer = self._loop.call_later(min(next_s, max(left_s, 0.0)), self._beat)

    def _refuse(self, refusal: RoostError) -> None:
        self._channel.close(CLOSES.get(refusal.code, INTERNAL), refusal.detail)


def _events(after: int, events: list[bytes], seq: int, *, live: bool) -> bytes:
    """A frame of events that are encoded already."""
    told = b"true" if live else b"false"
    return b'{"type":"events","after":%d,"events":[%b],"seq":%d,"live":%b}' % (after, b",".join(events), seq, told)


def _expires_at(principal: Principal) -> int | None:
    return None if principal.expires_at == float("inf") else int(principal.expires_at)


OPERATIONS = (
    Operation(
        "GET",
        "/v1/users/{user}/sync",
        open_socket,
        "Follow and push over a WebSocket.",
        (
            Reply(
                101,
                "A WebSocket. Each message is a frame, as `x-websocket` tells for both sides.",
            ),
        ),
        tag="Devices",
        errors=(Code.INVALID_NAME, Code.UNAUTHENTICATED, Code.OVERLOADED),
        public=True,
        description="A WebSocket handshake (RFC 6455) with the subprotocol `roost.v1`. The token is in the first "
        "frame, `hello`, or in an `Authorization` header.",
        frames={"client": frames.ClientFrame, "server": frames.ServerFrame},
    ),
)
