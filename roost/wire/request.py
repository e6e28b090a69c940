"""A request as handlers see it: a thin, lazy view on what the ASGI server gives.

Nothing is read or decoded before somebody asks: a point read needs two headers and three path segments, and
those are all it pays for. The path is taken as it was sent, still percent-encoded, so a `%2F` in a key never
splits a segment, and every segment is decoded strictly.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.types import Receive, Scope

from roost.authz.gate import Gate
from roost.authz.identity import Identity
from roost.authz.logins import Logins
from roost.authz.principal import Caller, Origin, Principal
from roost.core.commands import Condition, Idempotency
from roost.core.errors import Code, RoostError
from roost.core.ids import (
    check_client,
    check_collection,
    check_idempotency_key,
    check_key,
    check_policy,
    check_session,
    check_user,
)
from roost.core.limits import Limits
from roost.core.ports import DocumentRef
from roost.settings import Settings
from roost.wire import preconditions
from roost.wire.browsers import Browsers
from roost.wire.limiter import Limiter
from roost.wire.patience import Patience
from roost.wire.proxies import Proxies
from roost.wire.tls import check_certificate

if TYPE_CHECKING:
    from roost.wire.operations import Operation

T = TypeVar("T")

# A proxy and the server behind it must not choose differently between two of these.
_SINGLE = frozenset(
    {
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"host",
        b"idempotency-key",
        b"roost-at-least",
        b"roost-purpose",
        b"transfer-encoding",
    }
)
_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})").search
PURPOSE_PATTERN = r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?"
_purpose = re.compile(PURPOSE_PATTERN).fullmatch
_number = re.compile(r"0|[1-9][0-9]{0,15}").fullmatch


class ClientGone(Exception):
    """Nobody is left to answer."""


class Context(msgspec.Struct, frozen=True):
    """What handlers work with."""

    gate: Gate
    identity: Identity
    logins: Logins
    settings: Settings
    limits: Limits
    clock: Callable[[], datetime]
    proxies: Proxies
    limiter: Limiter
    browsers: Browsers
    patience: Patience
    """With bodies."""
    files: set[int]
    """The numbers of files in which no request is to be looked for: WebSockets, and connections of the TLS front."""
    sockets: set[asyncio.Task[None]] = set()
    """The conversations over WebSockets."""

    async def recognise(self, token: str, certificate: frozenset[str], origin: Callable[[], Origin]) -> Principal:
        """Who a token stands for. Raises `UNAUTHENTICATED`, `UNAVAILABLE`; `FORBIDDEN` without the certificate."""
        principal = await self.identity.authenticate(token)
        try:
            check_certificate(self.settings.tls_clients, principal, certificate)
        except RoostError:
            self.logins.refused(Caller(principal, origin()), "a token came without the certificate of its service")
            raise
        return principal

    @classmethod
    def of(
        cls,
        gate: Gate,
        identity: Identity,
        logins: Logins,
        settings: Settings,
        clock: Callable[[], datetime],
        files: set[int],
    ) -> Self:
        """What the settings make of these. `clock` tells when tokens end."""
        return cls(
            gate,
            identity,
            logins,
            settings,
            settings.limits,
            clock,
            Proxies(settings.trusted_proxies, forwarded=settings.forwarded_header == "forwarded"),
            Limiter(settings),
            Browsers(settings),
            Patience(settings.body_timeout_s),
            files,
        )


class Request:
    """One request. `segments` are the path parameters, still encoded; `query` is of the operation's query type."""

    __slots__ = (
        "_address",
        "_headers",
        "_receive",
        "context",
        "held",
        "id",
        "operation",
        "principal",
        "query",
        "scope",
        "segments",
    )

    operation: Operation
    principal: Principal
    query: Any

    def __init__(self, scope: Scope, receive: Receive, context: Context, id: str) -> None:  # noqa: A002  # its name
        self.scope = scope
        self.context = context
        self.id = id
        self.segments: dict[str, str] = scope.get("path_params", {})
        self.held = ""
        """By which name `Limiter.release` is owed."""
        self._receive = receive
        self._headers: dict[bytes, bytes] | None = None
        self._address: str | None = None

    def header(self, name: bytes) -> str | None:
        """A header by its name in lower case; one that was sent twice is joined by commas, or refused."""
        if self._headers is None:
            self._headers = _collect(self.scope["headers"])
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def token(self) -> str:
        """The bearer token, or raise `UNAUTHENTICATED`."""
        value = self.header(b"authorization")
        if value is None:
            raise RoostError(Code.UNAUTHENTICATED, "Send a token: `Authorization: Bearer <JWT>`.")
        if value[:7].lower() != "bearer ":
            raise RoostError(Code.UNAUTHENTICATED, "The Authorization header is not `Bearer <JWT>`.")
        return value[7:].strip()

    @property
    def caller(self) -> Caller:
        """Who asks, from where, and for what purpose. Raises `INVALID_REQUEST`."""
        return Caller(self.principal, self.origin)

    @property
    def origin(self) -> Origin:
        """Where the request comes from, and for what purpose. Raises `INVALID_REQUEST`."""
        return Origin(self.address, self.purpose, self.id)

    def whence(self) -> Origin:
        """Where it comes from, as far as nothing in it can be wrong."""
        return Origin(self.address, request_id=self.id)

    @property
    def address(self) -> str:
        """The caller's network address, as far as trusted proxies tell it; empty where there is none."""
        if self._address is None:
            client, proxies = self.scope.get("client"), self.context.proxies
            told = None
            if proxies.trusted:
                # Not by `header`, which may refuse the request: it counts before that.
                told = b", ".join(value for name, value in self.scope["headers"] if name == proxies.header)
            self._address = proxies.address(client[0], told.decode("latin-1") if told else None) if client else ""
        return self._address

    @property
    def page(self) -> str | None:
        """The origin of the page that asks, where a browser says so."""
        try:
            return self.header(b"origin")
        except RoostError:
            return None

    @property
    def certificate(self) -> frozenset[str]:
        """The names in the certificate that the client showed and that was verified; none if it showed none."""
        names: frozenset[str] = self.scope.get("extensions", {}).get("tls", {}).get("client_cert_names", frozenset())
        return names

    @property
    def purpose(self) -> str | None:
        """What the caller says that it asks for. Raises `INVALID_REQUEST`."""
        purpose = self.header(b"roost-purpose")
        if purpose is not None and not _purpose(purpose):
            raise RoostError(Code.INVALID_REQUEST, f"Roost-Purpose is {PURPOSE_PATTERN}.")
        return purpose

    @property
    def user(self) -> str:
        """The path's user. Raises `INVALID_NAME`."""
        return check_user(_decode(self.segments["user"]))

    @property
    def collection(self) -> str:
        """The path's collection. Raises `INVALID_NAME`."""
        return check_collection(_decode(self.segments["collection"]))

    @property
    def ref(self) -> DocumentRef:
        """The path's document. Raises `INVALID_NAME`."""
        plain: DocumentRef | None = self.scope.get("document")
        return plain or DocumentRef(self.user, self.collection, check_key(_decode(self.segments["key"])))

    @property
    def policy(self) -> str:
        """The path's policies. Raises `INVALID_NAME`."""
        return check_policy(_decode(self.segments["policy"]))

    @property
    def session(self) -> str:
        """The path's session. Raises `INVALID_NAME`."""
        return check_session(_decode(self.segments["session"]))

    @property
    def client(self) -> str:
        """The path's client. Raises `INVALID_NAME`."""
        return check_client(_decode(self.segments["client"]))

    @property
    def conflict(self) -> str:
        """The path's conflict. Raises `INVALID_NAME`."""
        return check_key(_decode(self.segments["conflict"]))

    @property
    def at_least(self) -> int | None:
        """The seq that a read must see. Raises `INVALID_REQUEST`."""
        value = self.header(b"roost-at-least")
        return None if value is None else whole_number("Roost-At-Least", value)

    @property
    def condition(self) -> Condition:
        """The precondition of a write. Raises `INVALID_REQUEST`."""
        return preconditions.condition(self.header(b"if-match"), self.header(b"if-none-match"))

    @property
    def minimal(self) -> bool:
        """True if the caller prefers an answer without a body (RFC 7240)."""
        prefer = self.header(b"prefer")
        return prefer is not None and any(
            part.partition(";")[0].replace(" ", "").lower() == "return=minimal" for part in prefer.split(",")
        )

    def idempotency(self, body: bytes) -> Idempotency | None:
        """The caller's key for this request, with a hash of user, route, media type and body."""
        key = self.header(b"idempotency-key")
        if key is None:
            return None
        route = [self.operation.method, self.operation.path, self.media_type, *map(_decode, self.segments.values())]
        hashed = blake2b("\0".join(route).encode(), digest_size=16)
        hashed.update(b"\0")
        hashed.update(body)
        return Idempotency(check_idempotency_key(key), hashed.digest())

    @property
    def media_type(self) -> str:
        """The body's media type; JSON where none is named."""
        return (self.header(b"content-type") or "application/json").partition(";")[0].strip().lower()

    async def body(self) -> bytes:
        """The whole body. Raises `UNSUPPORTED_MEDIA_TYPE`, `TOO_LARGE`, `INVALID_REQUEST` where its end never came."""
        expected = self.operation.body
        length = self.header(b"content-length")
        if expected is not None and (expected.required or length not in (None, "0")):
            if self.media_type not in expected.content:
                detail = f"The body should be {' or '.join(expected.content)}."
                raise RoostError(Code.UNSUPPORTED_MEDIA_TYPE, detail)
            if (self.header(b"content-encoding") or "identity").lower() != "identity":
                raise RoostError(Code.UNSUPPORTED_MEDIA_TYPE, "The body should not be compressed.")
        most = self.context.limits.body_bytes_max
        if length is not None and (len(length) > len(str(most)) or int(length) > most):
            _refuse_size(most)
        patience = self.context.patience
        try:
            with patience.wait():
                body = await self._receive_all(most)
        except TimeoutError:
            detail = f"The body did not arrive within {patience.seconds:g} seconds."
            raise RoostError(Code.INVALID_REQUEST, detail) from None
        if length is not None and len(body) != int(length):
            _refuse_unfinished()
        return body

    async def _receive_all(self, most: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                _refuse_unfinished()
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                _refuse_size(most)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled, and `ClientGone` raised, once the client has gone."""
        working = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ClientGone
        finally:
            watching.cancel()
            if not working.done():
                # What it works with may be let go of only once it has ended.
                working.cancel()
                await asyncio.wait((working,))

    async def _gone(self) -> None:
        while (await self._receive())["type"] == "http.request":
            pass


def whole_number(name: str, value: str) -> int:
    """The seq that a header gives. Raises `INVALID_REQUEST`."""
    if not _number(value):
        raise RoostError(Code.INVALID_REQUEST, f"{name} is a seq: a whole number.")
    return int(value)


def _collect(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers = dict(pairs)
    if len(headers) < len(pairs):
        headers.clear()
        for name, value in pairs:
            if name not in headers:
                headers[name] = value
            elif name in _SINGLE:
                raise RoostError(Code.INVALID_REQUEST, f"The header {name.decode('latin-1')} is given twice.")
            else:
                headers[name] += b", " + value
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        # What was sent in another coding too is taken as it came by the server below, and would be stored so.
        raise RoostError(Code.INVALID_REQUEST, "The body's transfer coding should be `chunked` alone, or none.")
    return headers


def _decode(segment: str) -> str:
    """A path segment as text, or raise `INVALID_NAME`."""
    if segment.isascii() and "%" not in segment:
        return segment
    with suppress(UnicodeDecodeError):
        if not _bad_escape(segment):
            return unquote_to_bytes(segment.encode("latin-1")).decode()
    raise RoostError(Code.INVALID_NAME, "The path is not UTF-8, percent-encoded.")


def _refuse_unfinished() -> NoReturn:
    # The sender may have closed its own side only, and still be reading.
    raise RoostError(Code.INVALID_REQUEST, "The body ended before it was complete.")


def _refuse_size(most: int) -> NoReturn:
    raise RoostError(Code.TOO_LARGE, f"A body is at most {most} bytes.")
