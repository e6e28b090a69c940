"""Who a token says that its bearer is.

Roost's own tokens are JWTs that this node's keys signed, with the claims `iss` ("roost"), `sub`, `kind`, `iat`, `exp`
and `jti`, and where they are of a session or limited, `sid` and `scope`. Those of other issuers are `authz.oidc`'s.
Checking a signature costs more than a read of a document, so a token that was good is remembered until it expires.
A failure is `UNAUTHENTICATED`, and tells the bearer no more than what to do about it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from secrets import token_urlsafe
from typing import Any, Protocol

import msgspec

from roost.authz.oidc import Fetch, Provider, fetch
from roost.authz.principal import Kind, Principal
from roost.core.errors import Code, RoostError
from roost.core.ids import check_user
from roost.core.issuers import Issuer
from roost.crypto.jwks import Token
from roost.crypto.signing import BadSignature

ISSUER = "roost"
TOKEN_CHARS_MAX = 8_192
CACHED_TOKENS_MAX = 10_000
SKEW_S = 30
"""How far ahead of ours the clock of whoever issued a token may be."""
_TOKEN_ID_BYTES = 16
_UNKNOWN = "The token is not one that this server issued, nor is it of an issuer that the settings name."


class Keys(Protocol):
    """The keys of this node: what signs its tokens, and knows them again."""

    def sign(self, claims: dict[str, Any]) -> str:
        """`claims` as a compact JWS."""

    @property
    def generation(self) -> int:
        """Another number after the keys have changed: what one of them signed may be good no longer."""

    def open(self, token: str) -> bytes:
        """The payload of a compact JWS that one of the keys signed. Raises `BadSignature`."""


class _Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    iss: str
    sub: str
    kind: Kind
    iat: int
    exp: int
    nbf: int = 0
    jti: str | None = None
    sid: str | None = None
    scope: str = ""


class _Origin(msgspec.Struct, frozen=True):
    iss: str


_decode_claims = msgspec.json.Decoder(_Claims).decode
_decode_origin = msgspec.json.Decoder(_Origin).decode


class Identity:
    """Issues tokens and recognises them again, and those of other issuers (by URL), whose keys come by `fetch`.

    `now` tells the time in seconds since 1970: it is asked at each use of a token.

    `revoked` tells of a principal whether its session (`Principal.session`) was ended; it is asked at each use. A token
    of a session is good for `session_s` seconds at most, whatever it says: so long is the end of one remembered.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        now: Callable[[], float] = time.time,
        issuers: Mapping[str, Issuer] | None = None,
        fetch: Fetch = fetch,
        revoked: Callable[[Principal], bool] = lambda _: False,
        session_s: float = float("inf"),
    ) -> None:
        self._keys = keys
        self._now = now
        self._generation = keys.generation
        self._revoked = revoked
        self._session_s = session_s
        self._known: dict[str, Principal] = {}
        self._providers = {
            url: Provider(url, issuer, now=now, fetch=fetch, withdrawn=self._known.clear)
            for url, issuer in (issuers or {}).items()
        }

    def issue(
        self,
        kind: Kind,
        id: str,  # noqa: A002  # the field's name
        ttl_s: int,
        *,
        session: str | None = None,
        scopes: Iterable[str] = (),
    ) -> str:
        """A token for `id`, good for `ttl_s` seconds from now. Raises `INVALID_NAME`.

        It is revoked by its session, or if it has none, by an id of its own (`Principal.session` is either).
        """
        now = int(self._now())
        claims = _Claims(
            iss=ISSUER,
            sub=check_user(id),
            kind=kind,
            iat=now,
            exp=now + ttl_s,
            jti=token_urlsafe(_TOKEN_ID_BYTES),
            sid=session,
            scope=" ".join(sorted(scopes)),
        )
        return self._keys.sign(msgspec.to_builtins(claims))

    async def authenticate(self, token: str) -> Principal:
        """The principal that `token` stands for, or raise `UNAUTHENTICATED`.

        Raises `UNAVAILABLE` for a token that cannot be judged without asking an issuer that does not answer.
        """
        if (generation := self._keys.generation) != self._generation:
            self._known.clear()
            self._generation = generation
        principal = self._known.get(token)
        if principal is None:
            principal = await self._recognise(token)
            if len(self._known) >= CACHED_TOKENS_MAX:
                del self._known[next(iter(self._known))]
            self._known[token] = principal
        try:
            self.check(principal)
        except RoostError:
            self._known.pop(token, None)
            raise
        return principal

    def check(self, principal: Principal) -> None:
        """Raise `UNAUTHENTICATED` if the principal's token is good no longer."""
        if self._now() >= principal.expires_at:
            raise RoostError(Code.UNAUTHENTICATED, "The token has expired; ask for a new one.")
        if self._revoked(principal):
            raise RoostError(Code.UNAUTHENTICATED, "The session of this token was ended; log in again.")

    async def keep(self) -> None:
        """Know the keys of other issuers as they change, for ever."""
        await asyncio.gather(*(provider.keep() for provider in self._providers.values()))

    async def _recognise(self, token: str) -> Principal:
        if len(token) > TOKEN_CHARS_MAX:
            raise RoostError(Code.UNAUTHENTICATED, f"A token is at most {TOKEN_CHARS_MAX} characters long.")
        if self._providers:
            with suppress(BadSignature, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                # Whose keys are to be tried is the token's to say; that they fit is not.
                read = Token.read(token)
                provider = self._providers.get(_decode_origin(read.payload).iss)
                if provider is not None:
                    return await provider.recognise(read)
        return self._verify(token)

    def _verify(self, token: str) -> Principal:
        try:
            claims = _decode_claims(self._keys.open(token))
            subject = check_user(claims.sub)
        except (BadSignature, msgspec.DecodeError, UnicodeDecodeError, RecursionError, RoostError):
            raise RoostError(Code.UNAUTHENTICATED, _UNKNOWN) from None
        if claims.iss != ISSUER:
            raise RoostError(Code.UNAUTHENTICATED, _UNKNOWN)
        if max(claims.nbf, claims.iat) > self._now() + SKEW_S:
            raise RoostError(Code.UNAUTHENTICATED, "The token is not valid yet; is a clock wrong?")
        session = claims.sid or claims.jti or fingerprint(token)
        expires_at = claims.exp if claims.sid is None else min(claims.exp, claims.iat + self._session_s)
        return Principal(claims.kind, subject, expires_at, session, frozenset(claims.scope.split()))


def fingerprint(token: str) -> str:
    """An id for a JWT that has none: of what is signed, because a signature can be written in several ways."""
    return blake2b(token.rpartition(".")[0].encode(), digest_size=16).hexdigest()
