"""Who a token says that its bearer is.

A token is a JWT that this node's data directory signed (EdDSA), with the claims `iss` ("roost"), `sub`, `kind`,
`iat` and `exp`. Checking a signature costs more than a read of a document, so a token that was good is remembered
until it expires. Every failure is `UNAUTHENTICATED`, and tells the bearer no more than what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import msgspec

from roost.authz.principal import Principal
from roost.core.errors import Code, RoostError
from roost.core.ids import check_user
from roost.crypto.signing import BadSignature, SigningKey

ISSUER = "roost"
TOKEN_CHARS_MAX = 8_192
CACHED_TOKENS_MAX = 10_000
SKEW_S = 30
"""How far ahead of ours the clock of whoever issued a token may be."""


class _Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    iss: str
    sub: str
    kind: Literal["user", "service", "admin"]
    iat: int
    exp: int
    nbf: int = 0


_decode_claims = msgspec.json.Decoder(_Claims).decode


class Identity:
    """Issues tokens and recognises them again."""

    def __init__(self, key: SigningKey, clock: Callable[[], datetime]) -> None:
        self._key = key
        self._clock = clock
        self._known: dict[str, Principal] = {}

    def issue(self, kind: Literal["user", "service", "admin"], id: str, ttl_s: int) -> str:  # noqa: A002  # the field's name
        """A token for `id`, good for `ttl_s` seconds from now. Raises `INVALID_NAME`."""
        now = int(self._clock().timestamp())
        claims = _Claims(iss=ISSUER, sub=check_user(id), kind=kind, iat=now, exp=now + ttl_s)
        return self._key.sign(msgspec.to_builtins(claims))

    async def authenticate(self, token: str) -> Principal:
        """The principal that `token` stands for, or raise `UNAUTHENTICATED`."""
        principal = self._known.get(token)
        if principal is None:
            principal = self._verify(token)
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
        if self._clock().timestamp() >= principal.expires_at:
            raise RoostError(Code.UNAUTHENTICATED, "The token has expired; ask for a new one.")

    def _verify(self, token: str) -> Principal:
        if len(token) > TOKEN_CHARS_MAX:
            raise RoostError(Code.UNAUTHENTICATED, f"A token is at most {TOKEN_CHARS_MAX} characters long.")
        try:
            claims = _decode_claims(self._key.open(token))
            subject = check_user(claims.sub)
        except (BadSignature, msgspec.DecodeError, UnicodeDecodeError, RecursionError, RoostError):
            raise RoostError(Code.UNAUTHENTICATED, "The token is not one that this server issued.") from None
        if claims.iss != ISSUER:
            raise RoostError(Code.UNAUTHENTICATED, "The token is not one that this server issued.")
        if max(claims.nbf, claims.iat) > self._clock().timestamp() + SKEW_S:
            raise RoostError(Code.UNAUTHENTICATED, "The token is not valid yet; is a clock wrong?")
        return Principal(claims.kind, subject, claims.exp)
