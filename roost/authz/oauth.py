"""OAuth 2.0 for applications of one's own, as RFC 9700 would have it today.

Users log in on a page of Roost's, which sends them back to the application with a code; the code is good once, for a
minute, and only together with what the application kept to itself (PKCE, RFC 7636). What it is exchanged for is a
session like any other. Services get tokens for their secret. What is refused here is refused in the words of RFC 6749.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from secrets import token_bytes, token_hex
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec

from roost.authz import clients, records
from roost.authz.accounts import Accounts, Proof
from roost.authz.clients import Client, Clients
from roost.authz.identity import Identity
from roost.authz.principal import Origin, Principal
from roost.authz.records import Means, Record, Records
from roost.authz.revocations import Revocations
from roost.authz.sessions import About, App, Sessions, Tokens
from roost.core.commands import ABSENT, Op, Versions
from roost.core.errors import Code, RoostError
from roost.core.ids import GRANTS, check_client, check_user

STATE_CHARS_MAX = 1_024
_PREFIX = "rc1"
_CODE_BYTES = 32
_S256_CHARS = 43
_VERIFIER_CHARS = range(43, 129)


class OAuthRefusal(Exception):
    """A refusal as RFC 6749 has them: a code of its own, a sentence, and the status of the answer."""

    def __init__(self, error: str, detail: str, status: int = 400) -> None:
        super().__init__(error, detail)
        self.error = error
        self.detail = detail
        self.status = status


class Redirected(OAuthRefusal):
    """A refusal that the application is told, by way of the user's browser: `location` says where that is sent."""

    def __init__(self, error: str, detail: str, ask: Ask) -> None:
        super().__init__(error, detail)
        self.location = ask.back({"error": error, "error_description": detail})


class Ask(NamedTuple):
    """What an application asks of a user: to log in, and to be sent back with a code."""

    client_id: str
    redirect_uri: str
    challenge: str
    state: str | None
    issuer: str

    def back(self, answer: Mapping[str, str]) -> str:
        """The URL that takes an answer back to the application (RFC 6749; `iss`: RFC 9207)."""
        told = {**answer, "iss": self.issuer}
        if self.state is not None:
            told["state"] = self.state
        return f"{self.redirect_uri}{'&' if '?' in self.redirect_uri else '?'}{urlencode(told)}"


class Granted(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens, as the token endpoint answers with them (RFC 6749): an access token, and of a session what renews it."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str | None = None
    scope: str | None = None
    user: str | None = None
    session: str | None = None


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """An authorization code as it is stored, under its hash. `session`: what it was exchanged for."""

    client: str
    redirect_uri: str
    challenge: str
    expires_at: int
    password: int
    """The version of the password by which it was given."""
    session: str | None = None


class OAuth:
    """The endpoints of RFC 6749 and 7009, without HTTP."""

    def __init__(
        self,
        means: Means,
        accounts: Accounts,
        sessions: Sessions,
        clients: Clients,
        identity: Identity,
        revocations: Revocations,
    ) -> None:
        self._grants = Records(means.reader, GRANTS, Grant)
        self._accounts = accounts
        self._sessions = sessions
        self._clients = clients
        self._identity = identity
        self._revocations = revocations
        self._means = means

    async def asked(self, form: Mapping[str, str], issuer: str) -> tuple[Ask, Client]:
        """What the login page is to be shown for. Raises `Redirected` for what the application is to be told of.

        Raises `OAuthRefusal` where there is nobody to be told, because nothing says that the address is the
        application's: nobody is to be sent there.
        """
        found = await self._known(form.get("client_id", ""))
        if found is None or found.value.kind == "service":
            raise OAuthRefusal("invalid_request", "There is no such application.")
        if form.get("redirect_uri", "") not in found.value.redirect_uris:
            raise OAuthRefusal("invalid_request", "The application does not say that it is at this redirect_uri.")
        state = form.get("state")
        ask = Ask(found.key, form["redirect_uri"], form.get("code_challenge", ""), state, issuer)
        if state is not None and len(state) > STATE_CHARS_MAX:
            raise OAuthRefusal("invalid_request", f"A state is at most {STATE_CHARS_MAX} characters long.")
        if form.get("response_type") != "code":
            raise Redirected("unsupported_response_type", "The response_type is `code`.", ask)
        if form.get("code_challenge_method") != "S256" or not _is_base64url(ask.challenge, _S256_CHARS):
            raise Redirected("invalid_request", "A code_challenge by the code_challenge_method S256 is needed.", ask)
        if form.get("scope"):
            raise Redirected("invalid_scope", "A user's token has no scopes: leave them out.", ask)
        return ask, found.value

    async def authorize(self, ask: Ask, user: str, password: str, origin: Origin) -> str:
        """Where to send somebody who has logged in: back to the application, with a code. Raises as `log_in` does."""
        proof = await self._accounts.prove(check_user(user), password, origin)
        secret = token_bytes(_CODE_BYTES)
        grant = Grant(
            ask.client_id, ask.redirect_uri, ask.challenge, self._now() + self._means.settings.code_ttl_s, proof.version
        )
        op = msgspec.structs.replace(records.put(GRANTS, _hash(secret), grant), condition=ABSENT)
        await records.write(self._means.writer, user, (op, *await self._over(user)), f"user:{user}")
        self._means.note(origin, "login", user=user, detail=f"for the client {ask.client_id}")
        return ask.back({"code": _code(user, secret)})

    async def token(self, form: Mapping[str, str], basic: tuple[str, str] | None, origin: Origin) -> Granted:
        """The token endpoint. Raises `OAuthRefusal`."""
        client = await self._client(form, basic, origin)
        match form.get("grant_type"):
            case "refresh_token":
                return await self._refreshed(form, client, origin)
            case "authorization_code":
                return await self._exchanged(form, client, origin)
            case "client_credentials":
                return self._service(form, client, origin)
            case _:
                detail = "The grant_type is `authorization_code`, `refresh_token` or `client_credentials`."
                raise OAuthRefusal("unsupported_grant_type", detail)

    async def revoke(self, form: Mapping[str, str], basic: tuple[str, str] | None, origin: Origin) -> None:
        """End what a token stands for (RFC 7009). One that is none is no error. Raises `OAuthRefusal`."""
        client = await self._client(form, basic, origin)
        token = form.get("token")
        if not token:
            raise OAuthRefusal("invalid_request", "Say which token.")
        if await self._sessions.end_by(token, _app(client), origin):
            return
        try:
            principal = await self._identity.authenticate(token)
        except RoostError as refusal:
            if refusal.code is Code.UNAUTHENTICATED:
                return
            raise
        await self.end(principal, origin)

    async def end(self, principal: Principal, origin: Origin) -> None:
        """End the session that a token belongs to, or the token itself where it belongs to none."""
        if principal.session is None:
            return
        if principal.kind == "user" and await self._sessions.find(principal.id, principal.session) is not None:
            await self._sessions.end(principal.id, [principal.session], principal.actor)
        else:
            await self._revocations.revoke({principal.session: int(principal.expires_at) + 1}, principal.actor)
        user = principal.id if principal.kind == "user" else None
        self._means.note(origin, "logout", user=user, detail=f"{principal.actor}: {principal.session}")

    async def _client(
        self, form: Mapping[str, str], basic: tuple[str, str] | None, origin: Origin
    ) -> Record[Client] | None:
        """The application that asks, if it says so; it has proved to be it, if it can. Raises `OAuthRefusal`."""
        name, secret = basic or (form.get("client_id"), form.get("client_secret"))
        if basic is not None and form.get("client_id", name) != name:
            raise OAuthRefusal("invalid_request", "Two applications are named.")
        if basic is not None and "client_secret" in form:
            raise OAuthRefusal("invalid_request", "The secret is sent in one way, not in two.")
        if name is None:
            return None
        found = await self._known(name)
        if found is not None and found.value.kind == "public" and secret:
            refusal = "The application is registered as one without a secret."
        elif found is None or (found.value.kind != "public" and not clients.proves(found.value, secret or "")):
            refusal = "The application is not known, or its secret is wrong."
        else:
            return found
        # A name that is none may be a secret in the wrong place.
        self._means.note(origin, "login", outcome="denied", key=found.key if found else None, detail=refusal)
        raise OAuthRefusal("invalid_client", refusal, 401)

    async def _refreshed(self, form: Mapping[str, str], client: Record[Client] | None, origin: Origin) -> Granted:
        with _invalid_grant():
            tokens = await self._sessions.refresh(form.get("refresh_token", ""), _app(client), origin)
        return granted(tokens)

    async def _exchanged(self, form: Mapping[str, str], client: Record[Client] | None, origin: Origin) -> Granted:
        if client is None or client.value.kind == "service":
            raise OAuthRefusal("unauthorized_client", "Codes are given to applications that log users in.")
        user, key = _parse(form.get("code", ""))
        found = await self._grants.find(user, key)
        if found is None or found.value.client != client.key:
            raise _no_grant()
        grant = found.value
        if grant.session is not None:
            # The code has leaked, and nobody knows to whom: what was given for it is taken back (RFC 6749, 4.1.2).
            await self._sessions.end(user, [grant.session], f"user:{user}")
            self._means.note(
                origin, "token", outcome="denied", user=user, detail="a code came again: its session is ended"
            )
            raise _no_grant()
        if (
            grant.expires_at <= self._now()
            or form.get("redirect_uri") != grant.redirect_uri
            or not _solves(form.get("code_verifier", ""), grant.challenge)
        ):
            raise _no_grant()
        proof = Proof(user, grant.password)
        if not await self._accounts.holds(proof):
            raise _no_grant()

        def used(session: str) -> tuple[Op]:
            op = records.put(GRANTS, key, msgspec.structs.replace(grant, session=session))
            return (msgspec.structs.replace(op, condition=Versions(frozenset({found.version}))),)

        try:
            with _invalid_grant():
                tokens = await self._sessions.start(user, About(client=_app(client)), origin, used)
                await self._accounts.confirm(proof, tokens.session)
        except RoostError as refusal:
            if refusal.code is Code.VERSION_CONFLICT:
                return await self._exchanged(form, client, origin)  # somebody else has used the code meanwhile
            raise
        return granted(tokens)

    def _service(self, form: Mapping[str, str], client: Record[Client] | None, origin: Origin) -> Granted:
        if client is None:
            raise OAuthRefusal("invalid_client", "A service proves who it is with its secret.", 401)
        if client.value.kind != "service":
            raise OAuthRefusal("unauthorized_client", "This is not a service: it logs users in.")
        asked = form.get("scope", "").split()
        scopes = asked or client.value.scopes
        # A token without any would not be limited.
        if not scopes or not set(scopes) <= set(client.value.scopes):
            raise OAuthRefusal("invalid_scope", f"This service has the scopes {' '.join(client.value.scopes)}.")
        ttl_s = self._means.settings.access_ttl_s
        session = f"{clients.session_of(client)}:{token_hex(8)}"
        token = self._identity.issue("service", client.key, ttl_s, session=session, scopes=scopes)
        self._means.note(origin, "login", key=client.key, detail="a service")
        return Granted(token, "Bearer", ttl_s, scope=" ".join(scopes))

    async def _known(self, name: str) -> Record[Client] | None:
        try:
            return await self._clients.find(check_client(name))
        except RoostError as refusal:
            if refusal.code is Code.INVALID_NAME:
                return None
            raise

    async def _over(self, user: str) -> list[Op]:
        """What deletes the codes that are good no longer."""
        now = self._now()
        return [
            Op("delete", GRANTS, each.key, condition=Versions(frozenset({each.version})))
            for each in await self._grants.all(user)
            if each.value.expires_at + self._means.settings.access_ttl_s <= now
        ]

    def _now(self) -> int:
        return int(self._means.now)


def granted(tokens: Tokens) -> Granted:
    """What a session's tokens are as an answer."""
    return Granted(
        access_token=tokens.access_token,
        token_type="Bearer",  # noqa: S106  # a word of RFC 6750
        expires_in=tokens.expires_in,
        refresh_token=tokens.refresh_token,
        user=tokens.user,
        session=tokens.session,
    )


@contextmanager
def _invalid_grant() -> Iterator[None]:
    """Refuse in the words of RFC 6749 what is no (more) valid proof."""
    try:
        yield
    except RoostError as refusal:
        if refusal.code is Code.UNAUTHENTICATED:
            raise OAuthRefusal("invalid_grant", refusal.detail) from None
        raise


def _app(client: Record[Client] | None) -> App | None:
    return None if client is None else App(client.key, client.value.registration)


def _no_grant() -> OAuthRefusal:
    return OAuthRefusal("invalid_grant", "The code is not good, or not any more: ask the user again.")


def _code(user: str, secret: bytes) -> str:
    return ".".join((_PREFIX, *(urlsafe_b64encode(part).decode().rstrip("=") for part in (user.encode(), secret))))


def _parse(code: str) -> tuple[str, str]:
    """Whose code it is, and the key that it is stored under. Raises `OAuthRefusal`."""
    try:
        prefix, *parts = code.split(".")
        user, secret = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
        name = check_user(user.decode())
    except (ValueError, RoostError):
        raise _no_grant() from None
    if prefix != _PREFIX:
        raise _no_grant()
    return name, _hash(secret)


def _solves(verifier: str, challenge: str) -> bool:
    """Whether the verifier is the one that the challenge was made of (RFC 7636)."""
    if len(verifier) not in _VERIFIER_CHARS or not verifier.isascii():
        return False
    made = urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")
    return hmac.compare_digest(made, challenge)


def _is_base64url(text: str, chars: int) -> bool:
    return len(text) == chars and text.isascii() and text.replace("-", "a").replace("_", "a").isalnum()


def _hash(secret: bytes) -> str:
    return sha256(secret).hexdigest()
