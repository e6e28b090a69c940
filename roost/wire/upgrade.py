"""From an HTTP request to a WebSocket: the handshake (RFC 6455, 4.2), and the connection, taken from the HTTP server.

Granian has WebSockets of its own, which cost 150 kB each, take messages of 64 MB from anybody, send no pings, and hang
on a reader that stopped. So it does not get to see one: the request is answered with 101, whereupon Granian lets go of
the connection, of which a duplicate was taken before. That is no race: the client is silent until it has the answer,
and once Granian has sent that, it reads no more (`docs/decisions/0017-websockets.md`). Where TLS ends in
Roost, it does so before Granian (`roost.wire.front`), so that there too the connection is plain.
"""

from __future__ import annotations

import base64
import binascii
import os
import resource
import socket
from collections.abc import Container, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from starlette.types import Scope
from websockets.utils import accept_key

from roost.core.errors import Code, RoostError
from roost.sync.frames import SUBPROTOCOL
from roost.wire.answer import Header
from roost.wire.request import Request

_KEY_BYTES = 16
_VERSION = "13"
STATUS = Path("/proc/self/status")


def is_asked(request: Request) -> bool:
    """Whether the request is one for a WebSocket."""
    return "upgrade" in _tokens(request, b"connection") and "websocket" in _tokens(request, b"upgrade")


def headers(request: Request) -> list[Header]:
    """The headers of the answer 101. Raises `INVALID_REQUEST`."""
    key = request.header(b"sec-websocket-key") or ""
    if request.header(b"sec-websocket-version") != _VERSION or not _is_key(key):
        raise RoostError(Code.INVALID_REQUEST, "That is no handshake of a WebSocket (RFC 6455, version 13).")
    answer: list[Header] = [
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-accept", accept_key(key).encode()),
    ]
    offered = [one.strip() for one in (request.header(b"sec-websocket-protocol") or "").split(",") if one.strip()]
    if offered and SUBPROTOCOL not in offered:
        raise RoostError(Code.INVALID_REQUEST, f"The subprotocol here is {SUBPROTOCOL}.")
    if offered:
        answer.append((b"sec-websocket-protocol", SUBPROTOCOL.encode()))
    return answer


def take(scope: Scope, known: Container[int]) -> socket.socket:
    """A duplicate of the request's connection. `known` are files that it is not.

    Raises `INVALID_REQUEST` where there is none to take, or its bytes are not what the client sent.
    """
    if scope.get("http_version") == "1.1" and scope.get("client"):
        client, server = scope.get("ends") or (scope["client"], scope["server"])
        taken = _find((_end(client), _end(server)), known)
        if taken is not None:
            return taken
    raise RoostError(Code.INVALID_REQUEST, "A WebSocket here is a connection of its own, over HTTP/1.1.")


def _find(ends: tuple[tuple[str, int], tuple[str, int]], known: Container[int]) -> socket.socket | None:
    for file in range(_files_end()):
        if file in known:
            continue
        found = _socket(file)
        if found is None:
            continue
        with suppress(OSError):  # it is not connected
            peer, own = found.getpeername(), found.getsockname()
            if isinstance(peer, tuple) and (_end(peer), _end(own)) == ends:
                found.settimeout(0)
                return found
        found.close()
    return None


def _files_end() -> int:
    """A number that no file of this process reaches.

    The limit for it may be a million, and a request whose connection is gone already would have each of them tried.
    """
    with suppress(OSError), STATUS.open("rb") as status:
        for line in status:
            if line.startswith(b"FDSize:"):
                return int(line.split()[1])
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _socket(file: int) -> socket.socket | None:
    try:
        duplicate = os.dup(file)
    except OSError:
        return None
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None


def _end(address: Sequence[str | int]) -> tuple[str, int]:
    """Host and port in one way of writing them."""
    host = ip_address(str(address[0]).partition("%")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return str(mapped or host), int(address[1])


def _tokens(request: Request, name: bytes) -> list[str]:
    return [token.strip().lower() for token in (request.header(name) or "").split(",")]


def _is_key(text: str) -> bool:
    with suppress(binascii.Error, ValueError):
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    return False
