"""What is set of an issuer of tokens other than Roost itself: an OpenID provider, and what its claims mean here."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from roost.core.errors import RoostError
from roost.core.ids import check_user

Kind = Literal["user", "service", "support", "analyst", "admin"]
"""The roles. A user has a log of their own; the others act for the company, each with what its role needs."""

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]  # fmt: skip
"""What may sign a token: with a public key to check it by, each of them. HMAC and `none` have no name here."""

Url = Annotated[
    str,
    Meta(
        pattern=r"^(https://[^\s/?#@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?)(/[^\s?#]*)?$",
        max_length=500,
    ),
]
"""Where keys may come from: over TLS, or from this machine."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Claim = Name | Annotated[tuple[Name, ...], Meta(min_length=1, max_length=8)]
"""A claim by its name, or by the names of the objects on the way to it, outermost first, and then its own."""

LEEWAY_S_MAX = 300
REFRESH_S_MIN = 1


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which tokens of an issuer are taken, and who their bearers are."""

    audience: Name | Annotated[tuple[Name, ...], Meta(min_length=1)]
    """What tokens for Roost have in `aud`; of several names, one."""
    clients: Annotated[tuple[Name, ...], Meta(min_length=1)] | None = None
    """The OAuth clients (`azp`, `client_id`) whose tokens are taken; None: any, for tokens of one audience only."""
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ("RS256", "ES256", "EdDSA")
    id_tokens: bool = False
    """Whether ID tokens are taken, which tell a client who logged in, and were not meant to open anything."""
    leeway_s: Annotated[int, Meta(ge=0, le=LEEWAY_S_MAX)] = 30
    """How far the issuer's clock and ours may be apart."""
    jwks_uri: Url | None = None
    """Where the issuer's keys are; None: where its discovery document says."""
    refresh_s: Annotated[float, Meta(ge=REFRESH_S_MIN)] = 300.0
    """How often they are fetched, so how long a key that the issuer has withdrawn is good for at most."""

    user: Claim = "sub"
    """The claim that names the bearer."""
    prefix: str = ""
    """What is set before that name, so that it is nobody else's: two issuers with one prefix name the same users."""
    kind: Kind | None = "user"
    """What bearers are whose roles say nothing else; None: they are refused."""
    roles: Claim = "roles"
    """The claim that holds the bearer's roles: a list of texts, or one."""
    kinds: dict[str, Kind] = {}
    """What a role makes of its bearer; of several roles, the one that is named first here decides."""
    scope: Claim = "scope"
    """The claim that holds the scopes: a list, or texts between spaces."""
    scopes: dict[str, tuple[Name, ...]] | None = None
    """What a scope lets a service do here; None: scopes say nothing. Once they do, a service without any is refused."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a prefix with which no user's name could begin."""
        try:
            check_user(f"{self.prefix}x")
        except RoostError as refusal:
            msg = f"prefix {self.prefix!r}: {refusal.detail}"
            raise ValueError(msg) from None

    @property
    def audiences(self) -> frozenset[str]:
        """What `aud` must name one of."""
        return frozenset((self.audience,) if isinstance(self.audience, str) else self.audience)
