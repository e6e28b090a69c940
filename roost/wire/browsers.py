"""What browsers are told with each answer, and which pages of other origins may call Roost from one.

Nothing here authenticates by a cookie or by anything else that a browser adds on its own: a request has what the page
put into it. So there is nothing for a forged request to use, and credentials are never allowed across origins.
"""

from __future__ import annotations

import base64
import hashlib
import re

from roost.core.errors import Code, RoostError
from roost.settings import Settings
from roost.wire.answer import Answer, Header

PREFLIGHT_AGE_S = 600
_TAKEN = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer, Roost-At-Least, "
    "Roost-Purpose"
)
_SHOWN = (
    "ETag, Idempotent-Replayed, Preference-Applied, Retry-After, Roost-Request-Id, Roost-Seq, Roost-Siblings, "
    "WWW-Authenticate"
)
_VARY: Header = (b"vary", b"Origin")
_POLICY = b"content-security-policy"
_NO_PAGE: Header = (_POLICY, b"default-src 'none'; frame-ancestors 'none'")
_inline = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL).findall


class Browsers:
    """The headers of every answer, by the settings."""

    def __init__(self, settings: Settings) -> None:
        self.origins = frozenset(settings.cors_origins)
        """The origins whose pages may call, beside Roost's own."""
        self._always: list[Header] = [
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
        ]
        if settings.tls_cert is not None and settings.hsts_s:
            self._always.append((b"strict-transport-security", b"max-age=%d" % settings.hsts_s))
        if self.origins:
            self._always.append(_VARY)

    def complete(self, headers: list[Header], origin: str | None) -> None:
        """Add to the headers of an answer; `origin` is the one that asks, if a browser says so."""
        headers += self._always
        for name, _ in headers:
            if name == _POLICY:
                break
        else:
            headers.append(_NO_PAGE)
        if origin is not None and origin in self.origins:
            headers.append((b"access-control-allow-origin", origin.encode("latin-1")))
            headers.append((b"access-control-expose-headers", _SHOWN.encode()))

    def preflight(self, origin: str | None, asked: str | None, allow: Header) -> Answer:
        """The answer to OPTIONS: what a path has, and what a page of another origin may do there."""
        headers = [allow]
        if origin is not None and asked is not None and origin in self.origins:
            headers += [
                (b"access-control-allow-methods", allow[1]),
                (b"access-control-allow-headers", _TAKEN.encode()),
                (b"access-control-max-age", b"%d" % PREFLIGHT_AGE_S),
            ]
        return Answer(204, headers)

    def check_socket(self, origin: str | None, host: str | None) -> None:
        """See that a WebSocket is one of Roost's own pages, of an allowed origin, or of no browser. Raises `FORBIDDEN`.

        Browsers let every page open WebSockets to everywhere.
        """
        if origin is None or origin in self.origins or origin.partition("://")[2] == host:
            return
        raise RoostError(Code.FORBIDDEN, "Pages of this origin may open no WebSockets here (ROOST_CORS_ORIGINS).")


def page_headers(media_type: bytes, body: bytes) -> list[Header]:
    """What a page of Roost's own is served with: it runs what it came with, and speaks to where it came from."""
    headers: list[Header] = [
        (b"content-type", media_type),
        (b"cache-control", b"no-cache"),
        (b"cross-origin-opener-policy", b"same-origin"),
    ]
    if media_type.startswith(b"text/html"):
        headers += [(_POLICY, content_policy(body)), (b"x-frame-options", b"DENY")]
    return headers


def content_policy(body: bytes) -> bytes:
    """The content security policy of a page: its own files, and its inline scripts and styles, by their hash."""
    allowed: dict[bytes, list[bytes]] = {b"script": [b"'self'"], b"style": [b"'self'"]}
    for kind, text in _inline(body):
        digest = base64.b64encode(hashlib.sha256(text).digest())
        allowed[kind].append(b"'sha256-" + digest + b"'")
    sources = b"; ".join(kind + b"-src " + b" ".join(allowed[kind]) for kind in allowed)
    return (
        b"default-src 'none'; " + sources + b"; connect-src 'self'; img-src 'self' data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
