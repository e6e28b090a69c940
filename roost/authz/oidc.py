"""Tokens of other issuers: any OpenID provider that the settings name (`Issuer`).

A provider's keys are fetched now and then, and once more when a token names a key that is not among them, though not
at every such token. Whatever becomes of the provider, the keys that are known go on being good; only a token by
another key cannot be judged while it is away (`UNAVAILABLE`, because its bearer need not log in again).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache
from hashlib import blake2b
from ssl import SSLContext
from typing import Annotated, Any, NoReturn

import httpx
import msgspec
import structlog
from msgspec import Meta

from roost.authz.principal import Kind, Principal
from roost.core.errors import Code, RoostError
from roost.core.ids import check_user
from roost.core.issuers import Claim, Issuer, Url
from roost.core.limits import NUMBER_MAX
from roost.crypto.jwks import KeySet, Token, UnknownKey
from roost.crypto.signing import BadSignature

DISCOVERY = "/.well-known/openid-configuration"
FETCH_S = 5.0
"""How long fetching a provider's keys may take in all."""
FETCH_BYTES_MAX = 256 << 10
PAUSE_S = 5.0
"""How long after one fetch tokens may cause the next."""
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""What a token may say that it is; not a logout token, a proof of possession, or a security event."""
ID_TOKEN_CLAIMS = ("nonce", "at_hash", "c_hash")
"""What only ID tokens have."""

_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}

Fetch = Callable[[str], Awaitable[bytes]]

log = structlog.get_logger(__name__)


class CannotFetch(Exception):
    """A document of a provider cannot be had; the message says in a few words why."""


class _Claims(msgspec.Struct, frozen=True):
    aud: str | tuple[str, ...]
    exp: Annotated[float, Meta(le=NUMBER_MAX)]
    iat: float
    nbf: float = 0
    azp: str | None = None
    client_id: str | None = None
    sid: str | None = None
    jti: str | None = None


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: Url


class Provider:
    """One issuer: its keys as far as they are known, and who the bearers of its tokens are.

    `withdrawn` is called once a key that was known is published no longer; `monotonic` is in seconds.
    """

    def __init__(
        self,
        url: str,
        issuer: Issuer,
        *,
        now: Callable[[], float],
        fetch: Fetch,
        withdrawn: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._issuer = issuer
        self._now = now
        self._fetch = fetch
        self._withdrawn = withdrawn
        self._monotonic = monotonic
        self._keys = KeySet({})
        self._away = False
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def recognise(self, token: Token) -> Principal:
        """The principal that a token of this issuer stands for.

        Raises `UNAUTHENTICATED`, and `UNAVAILABLE` for a token that cannot be judged while the issuer is away.
        """
        try:
            return self._principal(token, await self._opened(token))
        except BadSignature:
            _refuse("The token is not one that its issuer signed.")

    async def keep(self) -> None:
        """Know the issuer's keys as they change, for ever."""
        while True:
            await self._ask()
            await asyncio.sleep(PAUSE_S if self._away else self._issuer.refresh_s)

    async def _opened(self, token: Token) -> Mapping[str, Any]:
        try:
            payload = self._keys.open(token, self._issuer.algorithms)
        except UnknownKey:
            if self._asking or self._monotonic() >= self._asked_at + PAUSE_S:
                await self._ask()
            try:
                payload = self._keys.open(token, self._issuer.algorithms)
            except UnknownKey:
                if self._away:
                    raise RoostError(
                        Code.UNAVAILABLE,
                        "The issuer of the token cannot be reached, and its key is not known here; try again.",
                        retry_after_s=int(PAUSE_S),
                    ) from None
                _refuse("The token was signed with a key that its issuer does not publish.")
        try:
            return msgspec.json.decode(payload, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadSignature from None

    async def _ask(self) -> None:
        """Fetch the keys, unless that is under way: then wait for it. Never raises; whoever asks may give up."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._refresh())
        await asyncio.shield(self._asking)

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                keys = KeySet.decode(await self._fetch(self._issuer.jwks_uri or await self._discover()))
        except Exception as error:  # noqa: BLE001  # whatever it is, known keys stay, and this is tried again
            if not self._away:
                log.warning("the keys of an issuer cannot be had; known ones stay", issuer=self._url, why=repr(error))
            self._away = True
        else:
            if self._away:
                log.info("the keys of an issuer can be had again", issuer=self._url)
            had, self._keys, self._away = self._keys, keys, False
            if not keys.holds_all_of(had):
                log.info("an issuer has withdrawn a key", issuer=self._url)
                self._withdrawn()
        finally:
            self._asked_at = self._monotonic()
            self._asking = None

    async def _discover(self) -> str:
        try:
            found = msgspec.json.decode(await self._fetch(self._url.removesuffix("/") + DISCOVERY), type=_Discovery)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CannotFetch(f"the discovery document: {error}") from error
        if found.issuer != self._url:
            raise CannotFetch(f"the discovery document is of another issuer: {found.issuer[:200]}")
        return found.jwks_uri

    def _principal(self, token: Token, members: Mapping[str, Any]) -> Principal:
        """What the claims of a token that the issuer signed say. Raises `UNAUTHENTICATED`."""
        try:
            claims = msgspec.convert(members, _Claims)
        except msgspec.ValidationError as error:
            _refuse(f"A claim of the token is missing or wrong: {error}.")
        self._check_use(token, claims, members)
        expires_at = claims.exp + self._issuer.leeway_s
        if max(claims.nbf, claims.iat) > self._now() + self._issuer.leeway_s:
            _refuse("The token is not valid yet; is a clock wrong?")
        kind = self._kind(members)
        scopes = self._scopes(members) if kind == "service" else frozenset[str]()
        return Principal(kind, self._name(members), expires_at, self._session(token, claims), scopes)

    def _check_use(self, token: Token, claims: _Claims, members: Mapping[str, Any]) -> None:
        """Raise `UNAUTHENTICATED` for a token that is not meant for Roost, or not to be shown by itself."""
        issuer = self._issuer
        if token.typ.lower() not in TYPES:
            _refuse("The token is no access token (`typ`).")
        if not issuer.id_tokens and any(name in members for name in ID_TOKEN_CLAIMS):
            _refuse("The token is an ID token; send an access token.")
        if "cnf" in members:
            _refuse("The token is bound to a key of its bearer (`cnf`), which is not supported.")
        audiences = {claims.aud} if isinstance(claims.aud, str) else set(claims.aud)
        if not audiences & issuer.audiences:
            _refuse("The token is for another audience (`aud`).")
        clients = {client for client in (claims.azp, claims.client_id) if client is not None}
        if issuer.clients is not None:
            if not clients or not clients <= set(issuer.clients):
                _refuse("The token was given to a client that is not accepted here (`azp`, `client_id`).")
        elif not audiences <= issuer.audiences:
            # Any of the others could have been sent this token, and could send it on.
            _refuse("The token is for other audiences too; that takes a list of accepted clients in the settings.")

    def _name(self, members: Mapping[str, Any]) -> str:
        claim = self._issuer.user
        name = _at(members, claim)
        if claim == "email" and members.get("email_verified") is not True:
            _refuse("The issuer has not verified the bearer's address (`email_verified`).")
        try:
            # An empty name would make the same user of all who have none.
            return check_user(self._issuer.prefix + name) if isinstance(name, str) and name else _nobody(claim)
        except RoostError:
            _nobody(claim)

    def _kind(self, members: Mapping[str, Any]) -> Kind:
        roles = _texts(_at(members, self._issuer.roles))
        for role, kind in self._issuer.kinds.items():
            if role in roles:
                return kind
        if self._issuer.kind is None:
            _refuse("The token has no role that means anything here.")
        return self._issuer.kind

    def _scopes(self, members: Mapping[str, Any]) -> frozenset[str]:
        allowed = self._issuer.scopes
        if allowed is None:
            return frozenset()
        value = _at(members, self._issuer.scope)
        granted = value.split() if isinstance(value, str) else _texts(value)
        scopes = frozenset(here for scope in granted for here in allowed.get(scope, ()))
        if not scopes:
            # A principal without scopes may do whatever its role may: the opposite of what this token says.
            _refuse("The token has no scope that lets it do anything here.")
        return scopes

    def _session(self, token: Token, claims: _Claims) -> str:
        """What the token is revoked by here. Of what the issuer says a hash: it may be long, or look like ours."""
        said = claims.sid or claims.jti
        hashed = blake2b(digest_size=16)
        hashed.update(f"{self._url}\0{said}".encode() if said else token.signed)
        return hashed.hexdigest()


async def fetch(url: str) -> bytes:
    """The body at `url`. Raises `CannotFetch`."""
    loopback = url.startswith("http://")
    try:
        async with (
            # A proxy that the environment names is for what is elsewhere.
            httpx.AsyncClient(verify=await asyncio.to_thread(_tls), timeout=FETCH_S, trust_env=not loopback) as client,
            client.stream("GET", url, headers=_HEADERS) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise CannotFetch(f"{url} answers {answer.status_code}")
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > FETCH_BYTES_MAX:
                    raise CannotFetch(f"{url} answers with more than {FETCH_BYTES_MAX} bytes")
            return bytes(body)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise CannotFetch(f"{url}: {str(error) or type(error).__name__}") from error


@cache
def _tls() -> SSLContext:
    return httpx.create_ssl_context()


def _at(members: Mapping[str, Any], claim: Claim) -> Any:
    """The value of a claim; None where there is none."""
    names: Iterable[str] = (claim,) if isinstance(claim, str) else claim
    value: Any = members
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _texts(value: Any) -> frozenset[str]:
    """A claim that is a text or a list of texts, as a set; nothing else counts."""
    listed = value if isinstance(value, list) else [value]
    return frozenset(item for item in listed if isinstance(item, str))


def _nobody(claim: Claim) -> NoReturn:
    shown = claim if isinstance(claim, str) else ".".join(claim)
    _refuse(f"The token's `{shown}` names no user as users can be called here.")


def _refuse(detail: str) -> NoReturn:
    raise RoostError(Code.UNAUTHENTICATED, detail) from None
