"""The applications that may ask for tokens by OAuth 2.0: documents of the system user, which admins write.

A `public` one runs where it can keep no secret (a browser, a phone), a `confidential` one on a server; both log users
in. A `service` logs in as itself, and reaches what its scopes say: there is none without, as a token without any is not
limited. Secrets are made here, shown once, stored hashed.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from secrets import token_hex, token_urlsafe
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from roost.authz import records
from roost.authz.identity import SKEW_S
from roost.authz.policy.model import ALL, is_scope
from roost.authz.principal import Caller
from roost.authz.records import Means, Record, Records
from roost.authz.revocations import Revocations
from roost.core.commands import ABSENT, Op, Versions
from roost.core.errors import Code, RoostError
from roost.core.ids import CLIENTS, SYSTEM_USER

Kind = Literal["public", "confidential", "service"]
SCOPE_PATTERN = r"[a-z][a-z0-9_]{0,47}:[a-z]{1,32}"
REDIRECTS_MAX = 20
SCOPES_MAX = 100
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_scope = re.compile(SCOPE_PATTERN).fullmatch
_private_scheme = re.compile(r"[a-z][a-z0-9+-]*\.[a-z0-9.+-]*").fullmatch


class Client(msgspec.Struct, frozen=True, omit_defaults=True):
    """An application, as it is stored."""

    kind: Kind
    name: str
    redirect_uris: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    secret: str | None = None
    """The hash of its secret, in hexadecimal."""
    registration: str = ""
    """What tells it from another that had the same id before."""


class Registered(NamedTuple):
    """An application as it stands; `secret` is told when it was made just now."""

    id: str
    client: Client
    created: bool
    secret: str | None


class Clients:
    """The applications. Who may change them is for its callers to see to."""

    def __init__(self, means: Means, revocations: Revocations) -> None:
        self._records = Records(means.reader, CLIENTS, Client)
        self._revocations = revocations
        self._means = means

    async def find(self, name: str) -> Record[Client] | None:
        """An application by its id."""
        return await self._records.find(SYSTEM_USER, name)

    async def all(self) -> list[Record[Client]]:
        """All applications, by id."""
        return await self._records.all(SYSTEM_USER)

    async def register(self, caller: Caller, name: str, client: Client, *, new_secret: bool) -> Registered:
        """Write an application; its secret stays, unless it has none and needs one, or `new_secret`.

        A service's tokens from before are refused from now on. Raises `INVALID_REQUEST`, and `VERSION_CONFLICT` where
        somebody else changes it at the same time.
        """
        check(client)
        found = await self.find(name)
        stored = found.value.secret if found else None
        secret = None
        if client.kind == "public":
            stored = None
        elif stored is None or new_secret:
            secret = token_urlsafe(32)
            stored = _hash(secret)
        registration = found.value.registration if found else token_hex(8)
        client = msgspec.structs.replace(client, secret=stored, registration=registration)
        await self._write(caller, found, records.put(CLIENTS, name, client))
        self._means.note(caller, "client", key=name, detail="registered" if found is None else "changed")
        return Registered(name, client, found is None, secret)

    async def remove(self, caller: Caller, name: str) -> None:
        """Delete an application. Raises `NOT_FOUND`."""
        found = await self.find(name)
        if found is None:
            raise RoostError(Code.NOT_FOUND, "There is no such client.")
        await self._write(caller, found, Op("delete", CLIENTS, name))
        self._means.note(caller, "client", key=name, detail="removed")

    async def _write(self, caller: Caller, found: Record[Client] | None, op: Op) -> None:
        """Write an application unless it has changed since it was found, and refuse what it got for itself till now.

        All or none: a crash in between would leave tokens that nobody knows to refuse any more.
        """
        condition = ABSENT if found is None else Versions(frozenset({found.version}))
        ended = {}
        if found is not None and found.value.kind == "service":
            ended[session_of(found)] = int(self._means.now) + self._means.settings.access_ttl_s + SKEW_S
        await self._revocations.revoke(ended, caller.actor, (msgspec.structs.replace(op, condition=condition),))


def session_of(found: Record[Client]) -> str:
    """What all tokens that a service gets for itself can be revoked by, each with a part of its own behind a colon.

    It is another one after each change.
    """
    return f"client:{found.key}:{found.version}"


def proves(client: Client, secret: str) -> bool:
    """Whether this is the application's secret."""
    return client.secret is not None and hmac.compare_digest(_hash(secret), client.secret)


def check(client: Client) -> None:
    """Raise `INVALID_REQUEST`, with a pointer, for an application that makes no sense."""
    for index, uri in enumerate(client.redirect_uris):
        if not _is_redirect(uri):
            detail = (
                "A redirect URI is an https:// URL, http:// on loopback, or of a private scheme such as "
                "com.example.app:/done; whole, and without a fragment."
            )
            raise RoostError(Code.INVALID_REQUEST, detail, pointer=f"/redirect_uris/{index}")
    for index, scope in enumerate(client.scopes):
        if not _scope(scope) or not is_scope(scope):
            detail = f"A scope is as `preferences:read`, `documents:write`, `roost:export`; `{ALL}` is everything."
            raise RoostError(Code.INVALID_REQUEST, detail, pointer=f"/scopes/{index}")
    if (client.kind == "service") == bool(client.redirect_uris):
        detail = "Where users are sent back to is named for a public or confidential client, and for those only."
        raise RoostError(Code.INVALID_REQUEST, detail, pointer="/redirect_uris")
    if (client.kind == "service") != bool(client.scopes):
        detail = f"A service names its scopes, or `{ALL}` for everything; other clients have none, they act for a user."
        raise RoostError(Code.INVALID_REQUEST, detail, pointer="/scopes")


def _is_redirect(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        host = parts.hostname
        _ = parts.port  # that it is one
    except ValueError:
        return False
    if not uri.isascii() or not uri.isprintable() or any(char in uri for char in " \"<>\\^`{|};,'") or "#" in uri:
        return False
    if parts.scheme == "https":
        return bool(host) and parts.username is None
    if parts.scheme == "http":
        return host in LOOPBACK and parts.username is None
    return _private_scheme(parts.scheme) is not None


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
