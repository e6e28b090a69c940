"""TLS, where it ends in Roost itself: connections are taken here, and what is in them is passed on to the HTTP server.

Each worker listens on the public port, and its HTTP server on a port of this machine that nobody else is answered on.
So a renewed certificate is in force for the next connection while the open ones live on, a client's certificate is
known to the requests that come with it, one address cannot take every place, and a WebSocket is the same as without
TLS (`wire.upgrade` takes plain connections). TLS itself is OpenSSL's, as a value without I/O (`ssl.SSLObject`).
`docs/decisions/0025-edge.md` has what was weighed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any, NamedTuple, cast

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from roost.core.addresses import subscriber
from roost.wire import metrics
from roost.wire.tls import Certificates, names_of

INSIDE = "127.0.0.1"
PIECE_BYTES = 16 << 10
"""A TLS record; so much is en- or decrypted at a time."""
UNSENT_BYTES_MAX = 64 << 10
"""What one side sends waits once this much is not on its way to the other."""
HANDSHAKE_S = 10.0
CLOSE_S = 5.0
"""How long a client may take to close, once it was told to."""
FLUSH_S, FLUSH_POLL_S = 1.0, 0.01
"""How long, at the end of a worker, its last words may take, and how often that is looked at."""
DIAL_S = 10.0
DIAL_AGAIN_S = 0.02

log = structlog.get_logger(__name__)


class Peer(NamedTuple):
    """Who is at the other end of a connection: its address and port, and what ASGI calls the extension `tls`."""

    client: tuple[str, int]
    server: tuple[str, int]
    extensions: dict[str, Any]


class Front:
    """The TLS side of a worker. `inside` is the port of its HTTP server.

    At most `connections_max` connections in all, and `connections_address` of one address; `admit` may refuse one more
    of an address.
    """

    def __init__(
        self,
        certificates: Certificates,
        inside: int,
        *,
        connections_max: int,
        connections_address: int,
        admit: Callable[[str, float], bool] = lambda _address, _now: True,
    ) -> None:
        self.certificates = certificates
        self.inside = inside
        self.peers: dict[int, Peer] = {}
        """Who is behind each connection to the HTTP server, by the port of this end."""
        self._connections_max = connections_max
        self._connections_address = connections_address
        self._admit = admit
        self._open: set[Outside] = set()
        self._by_address: Counter[str] = Counter()
        self.files: set[int] = set()
        """The numbers of the files that are connections of either side's."""
        self._listening: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Take connections from here on."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            lambda: Outside(self, loop), host, port, backlog=1024, reuse_port=True
        )

    def drain(self) -> None:
        """Take no more connections; the open ones live on."""
        if self._listening is not None:
            self._listening.close()

    async def close(self) -> None:
        """End everything; what was said before still goes out, to whoever takes it soon."""
        self.drain()
        loop = asyncio.get_running_loop()
        until = loop.time() + FLUSH_S
        while not all(each.said_all for each in self._open) and loop.time() < until:  # noqa: ASYNC110  # it is bounded
            await asyncio.sleep(FLUSH_POLL_S)
        for each in list(self._open):
            each.abort()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """`app`, told of each request where it really comes from; whoever did not come through here is refused."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                host, port = scope["client"]
                # Another address of this machine may have the same port.
                peer = self.peers.get(int(port)) if host == INSIDE else None
                if peer is None:
                    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
                    await send({"type": "http.response.body", "body": b""})
                    return
                scope["ends"] = scope["client"], scope["server"]
                scope["client"], scope["server"], scope["extensions"] = peer
                scope["scheme"] = "https"
            await app(scope, receive, send)

        return wrapped

    def enter(self, connection: Outside, address: str) -> bool:
        """Whether one more connection may be taken."""
        name = subscriber(address)
        if (
            len(self._open) >= self._connections_max
            or self._by_address[name] >= self._connections_address
            or not self._admit(address, perf_counter())
        ):
            return False
        self._open.add(connection)
        self._by_address[name] += 1
        return True

    def leave(self, connection: Outside, address: str) -> None:
        """A connection is gone."""
        if connection in self._open:
            self._open.remove(connection)
            name = subscriber(address)
            self._by_address[name] -= 1
            if not self._by_address[name]:
                del self._by_address[name]


class _Side(asyncio.Protocol):
    """One of the two connections that belong together: what is the same about both."""

    __slots__ = ("_file", "_front", "_transport")

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport | None = None
        self._file = -1

    @property
    def _other(self) -> _Side | None:
        """The connection that this one belongs to, once there is one."""
        raise NotImplementedError

    def _begin(self, transport: asyncio.Transport) -> None:
        """Bound what waits to be sent, and tell whose the file is."""
        transport.set_write_buffer_limits(UNSENT_BYTES_MAX)
        self._file = transport.get_extra_info("socket").fileno()
        self._front.files.add(self._file)

    def _end(self) -> None:
        """The connection is gone."""
        self._transport = None
        self._front.files.discard(self._file)

    def pause_writing(self) -> None:
        """Whoever is at this end does not read."""
        if self._other is not None:
            self._other.pause()

    def resume_writing(self) -> None:
        """They do again."""
        if self._other is not None:
            self._other.resume()

    def pause(self) -> None:
        """Take nothing more for the while."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.resume_reading()


class Outside(_Side):
    """A client's connection."""

    __slots__ = (
        "_broken", "_client", "_closing", "_in", "_inside", "_loop", "_out", "_server", "_task", "_timer", "_tls",
    )  # fmt: skip

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(front)
        self._loop = loop
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = front.certificates.context.wrap_bio(self._in, self._out, server_side=True)
        self._inside: Inside | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._broken = self._closing = False
        self._client = self._server = ("", 0)

    @property
    def _other(self) -> Inside | None:
        return self._inside

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._client = self._transport.get_extra_info("peername")[:2]
        self._server = self._transport.get_extra_info("sockname")[:2]
        if not self._front.enter(self, self._client[0]):
            metrics.limited("connections")
            self._transport.abort()
            return
        self._begin(self._transport)
        self._timer = self._loop.call_later(HANDSHAKE_S, self.abort)

    def data_received(self, data: bytes) -> None:
        """Something arrived."""
        for at in range(0, len(data), PIECE_BYTES):
            if self._broken:
                return
            self._in.write(data[at : at + PIECE_BYTES])
            if self._task is None:
                self._shake()
            else:
                self._decrypt()

    def eof_received(self) -> bool:
        """Nothing more arrives, and nobody waits for an answer."""
        return False

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # it is gone, however
        """It is over."""
        self._end()
        self._front.leave(self, self._client[0])
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._inside is not None:
            self._inside.close()

    # What the other side says

    def send(self, data: bytes) -> None:
        """Send something to the client."""
        if self._transport is None or self._closing:
            return
        pieces: list[bytes] = []
        try:
            for at in range(0, len(data), PIECE_BYTES):
                self._tls.write(data[at : at + PIECE_BYTES])
                pieces.append(self._out.read())
        except ssl.SSLError:
            self._break()
        else:
            self._transport.writelines(pieces)

    def finish(self) -> None:
        """There is nothing more to send. For a while what still arrives is taken: a reset would overtake it all."""
        if not self._closing:
            with suppress(ssl.SSLError):
                self._tls.unwrap()
            self._close()

    @property
    def said_all(self) -> bool:
        """Whether everything that there was to send is sent."""
        return self._transport is None or (self._closing and not self._transport.get_write_buffer_size())

    def abort(self) -> None:
        """End it, at once."""
        if self._transport is not None:
            self._transport.abort()

    # Parts

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError:
            self._break()
            return
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.pause()
        self._task = self._loop.create_task(self._dial())

    async def _dial(self) -> None:
        """Reach the HTTP server, which may be a moment behind this side as the worker starts."""
        peer = Peer(self._client, self._server, {"tls": {"client_cert_names": names_of(self._tls.getpeercert())}})
        inside = Inside(self, self._front, peer)
        until = self._loop.time() + DIAL_S
        while True:
            try:
                await self._loop.create_connection(lambda: inside, INSIDE, self._front.inside)
            except OSError:
                if self._loop.time() > until:
                    log.warning("the HTTP server of this worker does not answer")
                    self.abort()
                    return
                await asyncio.sleep(DIAL_AGAIN_S)
            else:
                break
        if self._transport is None:
            inside.close()
            return
        self._inside = inside
        self.resume()
        self._decrypt()

    def _decrypt(self) -> None:
        if self._inside is None:
            return
        try:
            while data := self._tls.read(PIECE_BYTES):
                self._inside.send(data)
            self._inside.finish()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._inside.finish()
        except ssl.SSLError:
            self._break()
        self._flush()

    def _flush(self) -> None:
        if self._out.pending and self._transport is not None and not self._closing:
            self._transport.write(self._out.read())

    def _break(self) -> None:
        """What the client sends is no TLS, or not this connection's."""
        self._broken = True
        self._close()

    def _close(self) -> None:
        """Say what there is to say, and leave the client a while to hear it."""
        self._flush()
        if self._transport is not None and not self._closing:
            self._closing = True
            with suppress(OSError, RuntimeError):
                self._transport.write_eof()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(CLOSE_S, self.abort)


class Inside(_Side):
    """The connection to the HTTP server that belongs to a client's."""

    __slots__ = ("_outside", "_peer", "_port")

    def __init__(self, outside: Outside, front: Front, peer: Peer) -> None:
        super().__init__(front)
        self._outside = outside
        self._peer = peer
        self._port = 0

    @property
    def _other(self) -> Outside:
        return self._outside

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who this is, before anything is sent."""
        self._transport = cast("asyncio.Transport", transport)
        self._begin(self._transport)
        self._port = self._transport.get_extra_info("sockname")[1]
        self._front.peers[self._port] = self._peer

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        self._outside.send(data)

    def eof_received(self) -> bool:
        """The HTTP server has said everything; it may still listen."""
        self._outside.finish()
        return True

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # it is gone, however
        """It is over."""
        self._end()
        if self._front.peers.get(self._port) is self._peer:
            del self._front.peers[self._port]
        self._outside.finish()

    # What the other side says

    def send(self, data: bytes) -> None:
        """Pass on what the client sent."""
        if self._transport is not None:
            self._transport.write(data)

    def finish(self) -> None:
        """The client sends nothing more."""
        if self._transport is not None:
            with suppress(OSError, RuntimeError):
                self._transport.write_eof()

    def close(self) -> None:
        """The client is gone."""
        if self._transport is not None:
            self._transport.close()
