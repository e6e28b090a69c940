"""Sessions: what a login begins, a refresh token carries on, and anybody who may can end.

A session is a document of its user. Access tokens name it and live for minutes; to get the next, its one refresh token
is used up for another. What is stored of a refresh token are hashes: of its secret, and of a second secret that stays
the same as long as the session (`family`), by which an old token of the session is told from a guess. An old one that
comes again means that somebody has a copy: the session is ended, for both. The exception is a client that lost the
answer: for some seconds the token before gives the same answer again, which only that token and the stored `salt`
together make.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from secrets import token_bytes, token_hex
from typing import NamedTuple

import msgspec

from roost.authz import records
from roost.authz.identity import SKEW_S, Identity
from roost.authz.principal import Origin
from roost.authz.records import Means, Record, Records
from roost.authz.revocations import Revocations
from roost.core.commands import ABSENT, Op, Versions
from roost.core.errors import Code, RoostError
from roost.core.ids import SESSIONS, check_session, check_user

NAME_CHARS_MAX = 100
_PREFIX = "rr1"
_FAMILY_BYTES = 16
_SECRET_BYTES = 32
_ATTEMPTS = 5


OpsOf = Callable[[str], Iterable[Op]]


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session as it is stored; times in seconds since 1970, hashes in hexadecimal."""

    created_at: int
    used_at: int
    expires_at: int
    family: str
    secret: str
    name: str | None = None
    device: str | None = None
    client: str | None = None
    """The application that it was begun for, where that was one of several (OAuth 2.0)."""
    registration: str = ""
    """Of that application: see `App`."""
    address: str = ""
    before: str | None = None
    """The hash of the secret that was used up last, and with what and when it made the present one."""
    salt: str | None = None
    rotated_at: float = 0.0


class App(NamedTuple):
    """An application by one registration: its id may be another's, once it was removed."""

    id: str
    registration: str


class About(NamedTuple):
    """What is remembered of a session for whoever looks at a list of them."""

    name: str | None = None
    device: str | None = None
    client: App | None = None


class Tokens(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a login gives, and each refresh again. The names are those of OAuth 2.0."""

    access_token: str
    expires_in: int
    """How long the access token is good, in seconds."""
    refresh_token: str
    user: str
    session: str


class _Refresh(NamedTuple):
    """A refresh token, taken apart."""

    user: str
    session: str
    family: bytes
    secret: bytes

    def __str__(self) -> str:
        parts = (self.user.encode(), self.session.encode(), self.family, self.secret)
        return ".".join((_PREFIX, *(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)))


class Sessions:
    """The sessions of all users. Who may look at whose is for its callers to see to."""

    def __init__(self, means: Means, identity: Identity, revocations: Revocations) -> None:
        self._records = Records(means.reader, SESSIONS, Session)
        self._identity = identity
        self._revocations = revocations
        self._means = means

    async def start(
        self,
        user: str,
        about: About,
        origin: Origin,
        ops: OpsOf | None = None,
        *,
        begins: bool = False,
    ) -> Tokens:
        """Begin a session, together with the `ops` for its id, all or none; `begins` as in `Change`.

        Raises what the writer raises.
        """
        now = self._now()
        token = _Refresh(user, token_hex(16), token_bytes(_FAMILY_BYTES), token_bytes(_SECRET_BYTES))
        session = Session(
            created_at=now,
            used_at=now,
            expires_at=now + self._means.settings.refresh_ttl_s,
            family=_hash(token.family),
            secret=_hash(token.secret),
            name=about.name,
            device=about.device,
            client=about.client.id if about.client else None,
            registration=about.client.registration if about.client else "",
            address=origin.address,
        )
        op = msgspec.structs.replace(records.put(SESSIONS, token.session, session), condition=ABSENT)
        if not begins:
            await self._make_room(user)
        more = ops(token.session) if ops else ()
        await records.write(self._means.writer, user, (*more, op), f"user:{user}", begins=begins)
        return self._tokens(token)

    async def refresh(self, token: str, client: App | None, origin: Origin) -> Tokens:
        """Use a refresh token up for the next. Raises `UNAUTHENTICATED` for one that is good no longer.

        `client` is the application that proved to be it, if any did: the session has to be its own.
        """
        presented = _parse(token)
        for _ in range(_ATTEMPTS):
            found = await self._records.find(presented.user, presented.session)
            now = self._means.now
            if found is None or found.value.expires_at <= now or not _is_of(found.value, client):
                raise _over()
            session = found.value
            if not _same(presented.family, session.family):
                raise _over()  # a guess, by somebody who knows the session's id: no reason to end it
            if _same(presented.secret, session.secret):
                fresh = await self._rotate(presented, found, origin)
                if fresh is None:
                    continue  # the same token is being used up at the same moment
                return self._tokens(fresh)
            if (
                session.salt is not None
                and _same(presented.secret, session.before or "")
                and now - session.rotated_at <= self._means.settings.refresh_grace_s
            ):
                return self._tokens(presented._replace(secret=_next(session.salt, presented.secret)))
            await self.end(presented.user, [presented.session], f"user:{presented.user}")
            detail = f"a refresh token came again: session {presented.session} is ended"
            self._means.note(origin, "refresh", outcome="denied", user=presented.user, detail=detail)
            raise _over()
        raise _busy()

    async def of(self, user: str) -> list[Record[Session]]:
        """A user's sessions, the one that was used last first."""
        now = self._now()
        found = [each for each in await self._records.all(user) if each.value.expires_at > now]
        return sorted(found, key=lambda each: (-each.value.used_at, each.key))

    async def rename(self, user: str, session: str, name: str | None, actor: str) -> Record[Session]:
        """Give a session another name. Raises `NOT_FOUND`, `USER_ERASED`."""
        for _ in range(_ATTEMPTS):
            found = await self._records.find(user, session)
            if found is None or found.value.expires_at <= self._now():
                break
            renamed = msgspec.structs.replace(found.value, name=name)
            if await self._replace(user, found, renamed, actor):
                return Record(session, renamed, found.version)
        await self._means.reader.head(user)
        raise RoostError(Code.NOT_FOUND, "There is no such session.")

    async def end(self, user: str, sessions: Sequence[str], actor: str, ops: Iterable[Op] = ()) -> None:
        """End sessions; together with `ops`, all or none. It may be repeated. Raises `NOT_FOUND` for what never was.

        Refresh tokens are good no longer then, and every node refuses what is left of the access tokens.
        """
        ops = list(ops)
        for _ in range(_ATTEMPTS):
            known = {each.key for each in await self._records.all(user)}
            standing = [each for each in sessions if each in known]
            deletes = [Op("delete", SESSIONS, each) for each in standing]
            try:
                if ops or deletes:
                    await records.write(self._means.writer, user, (*ops, *deletes), actor)
                break
            except RoostError as refusal:
                if refusal.code is not Code.NOT_FOUND:
                    raise
            # Somebody else has ended one of them meanwhile.
        else:
            raise _busy()
        for each in sessions:
            if each not in standing and not await self._records.was(user, each):
                raise RoostError(Code.NOT_FOUND, "There is no such session.")
        # What was deleted before, but not told to everybody, is told now: once, because all nodes have to hear it.
        until = self._now() + self._means.settings.access_ttl_s + SKEW_S
        untold = [each for each in sessions if each in standing or not self._revocations.ended(each)]
        await self._revocations.revoke(dict.fromkeys(untold, until), actor)

    async def end_all(self, user: str, actor: str, *, but: str | None = None, ops: Iterable[Op] = ()) -> int:
        """End all sessions of a user `but` one; returns how many. `ops` as in `end`."""
        sessions = [each.key for each in await self._records.all(user) if each.key != but]
        await self.end(user, sessions, actor, ops)
        return len(sessions)

    async def end_by(self, token: str, client: App | None, origin: Origin) -> bool:
        """End the session that a refresh token carries on; False if it is none, or another application's."""
        try:
            presented = _parse(token)
        except RoostError:
            return False
        found = await self._records.find(presented.user, presented.session)
        if found is None or not _same(presented.family, found.value.family) or not _is_of(found.value, client):
            return False
        await self.end(presented.user, [presented.session], f"user:{presented.user}")
        self._means.note(origin, "logout", user=presented.user, detail=f"session {presented.session}")
        return True

    async def find(self, user: str, session: str) -> Session | None:
        """A session that stands."""
        found = await self._records.find(user, session)
        return found.value if found else None

    async def _make_room(self, user: str) -> None:
        """Forget sessions that are over, and end those beyond what a user may have."""
        standing = await self._records.all(user)
        now = self._now()
        over = [each.key for each in standing if each.value.expires_at <= now]
        alive = sorted((each for each in standing if each.key not in over), key=lambda each: each.value.used_at)
        most = self._means.settings.sessions_max - 1
        if over or len(alive) > most:
            await self.end(user, [*over, *(each.key for each in alive[: max(len(alive) - most, 0)])], f"user:{user}")

    async def _rotate(self, presented: _Refresh, found: Record[Session], origin: Origin) -> _Refresh | None:
        now = self._means.now
        salt = token_hex(_SECRET_BYTES)
        fresh = presented._replace(secret=_next(salt, presented.secret))
        session = msgspec.structs.replace(
            found.value,
            used_at=int(now),
            expires_at=int(now) + self._means.settings.refresh_ttl_s,
            address=origin.address,
            secret=_hash(fresh.secret),
            before=_hash(presented.secret),
            salt=salt,
            rotated_at=now,
        )
        return fresh if await self._replace(presented.user, found, session, f"user:{presented.user}") else None

    async def _replace(self, user: str, found: Record[Session], session: Session, actor: str) -> bool:
        """Write a session unless it has changed since; whether that was so."""
        op = records.put(SESSIONS, found.key, session)
        op = msgspec.structs.replace(op, condition=Versions(frozenset({found.version})))
        try:
            await records.write(self._means.writer, user, (op,), actor)
        except RoostError as refusal:
            if refusal.code is Code.VERSION_CONFLICT:
                return False
            raise
        return True

    def _tokens(self, refresh: _Refresh) -> Tokens:
        ttl_s = self._means.settings.access_ttl_s
        access = self._identity.issue("user", refresh.user, ttl_s, session=refresh.session)
        return Tokens(access, ttl_s, str(refresh), refresh.user, refresh.session)

    def _now(self) -> int:
        return int(self._means.now)


def _parse(token: str) -> _Refresh:
    """A refresh token, taken apart. Raises `UNAUTHENTICATED`."""
    try:
        prefix, *parts = token.split(".")
        user, session, family, secret = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
        parsed = _Refresh(check_user(user.decode()), check_session(session.decode()), family, secret)
    except (ValueError, RoostError):
        raise _over() from None
    if prefix != _PREFIX:
        raise _over()
    return parsed


def _hash(secret: bytes) -> str:
    # Of 128 and of 256 random bits: nothing is gained by a slow one.
    return sha256(secret).hexdigest()


def _is_of(session: Session, client: App | None) -> bool:
    """Whether a session was begun for this application, or for none where that is None."""
    return (session.client, session.registration) == (client or (None, ""))


def _same(secret: bytes, stored: str) -> bool:
    return hmac.compare_digest(_hash(secret), stored)


def _next(salt: str, secret: bytes) -> bytes:
    return hmac.digest(bytes.fromhex(salt), secret, "sha256")


def _busy() -> RoostError:
    return RoostError(Code.UNAVAILABLE, "The session is in use: try again.", retry_after_s=1)


def _over() -> RoostError:
    return RoostError(Code.UNAUTHENTICATED, "The session is over: log in again.")
