"""The door to logging in: whatever the network asks of accounts, sessions and clients comes through here.

Everybody may try to prove who they are. For what is done to somebody's sessions, or to the clients, a caller is let in
by the policies, as at the gate.
"""

from __future__ import annotations

from collections.abc import Callable

from roost.authz.accounts import Accounts
from roost.authz.clients import Client, Clients, Registered
from roost.authz.door import Door
from roost.authz.identity import Identity
from roost.authz.oauth import OAuth
from roost.authz.policy.model import Action
from roost.authz.principal import Caller, Origin, Principal
from roost.authz.records import Means, Record
from roost.authz.revocations import Revocations, Watch
from roost.authz.sessions import About, Session, Sessions, Tokens
from roost.core.errors import Code, RoostError
from roost.crypto.passwords import Passwords
from roost.crypto.signing import SigningKeys


class Logins:
    """What a node offers for logging in."""

    def __init__(
        self, means: Means, keys: SigningKeys, identity: Identity, revocations: Revocations, door: Door
    ) -> None:
        self.keys = keys
        """What tokens are signed with."""
        self._door = door
        self._revocations = revocations
        self._means = means
        self._passwords = Passwords(means.settings.password_hash, means.settings.password_threads)
        self._sessions = Sessions(means, identity, revocations)
        self._accounts = Accounts(means, self._sessions, self._passwords)
        self._clients = Clients(means, revocations)
        self.oauth = OAuth(means, self._accounts, self._sessions, self._clients, identity, revocations)

    async def sign_up(self, who: Caller | Origin, user: str, password: str, about: About) -> Tokens:
        """See `Accounts.sign_up`; a caller has to be one that may create the user, and is no user."""
        if isinstance(who, Caller):
            if who.principal.kind == "user":
                self._means.note(who, "signup", outcome="denied", user=user, detail="somebody who is a user already")
                raise RoostError(Code.FORBIDDEN, "Whoever signs up has no token yet; for others, an admin does it.")
            await self._enter(who, "create", user)
            await self._enter(who, "sessions", user)
        return await self._accounts.sign_up(user, password, about, who)

    async def log_in(self, origin: Origin, user: str, password: str, about: About) -> Tokens:
        """See `Accounts.log_in`."""
        return await self._accounts.log_in(user, password, about, origin)

    async def change_password(self, caller: Caller, user: str, password: str, current: str | None) -> None:
        """See `Accounts.change_password`."""
        await self._enter(caller, "sessions", user)
        await self._accounts.change_password(caller, user, password, current)

    async def log_out(self, caller: Caller) -> None:
        """End the session of the caller's own token, or where it has none, the token."""
        principal = caller.principal
        if principal.session is None:
            raise RoostError(Code.INVALID_REQUEST, "This token belongs to no session.")
        await self.oauth.end(principal, caller.origin)

    async def sessions(self, caller: Caller, user: str) -> list[Record[Session]]:
        """A user's sessions, the one that was used last first."""
        await self._enter(caller, "sessions", user)
        return await self._sessions.of(user)

    async def rename(self, caller: Caller, user: str, session: str, name: str | None) -> Record[Session]:
        """Give a session another name. Raises `NOT_FOUND`."""
        await self._enter(caller, "sessions", user)
        return await self._sessions.rename(user, session, name, caller.actor)

    async def end(self, caller: Caller, user: str, session: str) -> None:
        """End one session. Raises `NOT_FOUND`."""
        await self._enter(caller, "sessions", user)
        await self._sessions.end(user, [session], caller.actor)

    async def end_all(self, caller: Caller, user: str, *, but_current: bool) -> int:
        """End all sessions of a user, or all but the caller's own; returns how many."""
        await self._enter(caller, "sessions", user)
        own = caller.principal.session if but_current else None
        return await self._sessions.end_all(user, caller.actor, but=own)

    async def clients(self, caller: Caller) -> list[Record[Client]]:
        """All applications."""
        await self._enter(caller, "clients")
        return await self._clients.all()

    async def client(self, caller: Caller, name: str) -> Record[Client]:
        """One application. Raises `NOT_FOUND`."""
        await self._enter(caller, "clients")
        found = await self._clients.find(name)
        if found is None:
            raise RoostError(Code.NOT_FOUND, "There is no such client.")
        return found

    async def register(self, caller: Caller, name: str, client: Client, *, new_secret: bool) -> Registered:
        """See `Clients.register`."""
        await self._enter(caller, "clients")
        return await self._clients.register(caller, name, client, new_secret=new_secret)

    async def remove(self, caller: Caller, name: str) -> None:
        """See `Clients.remove`."""
        await self._enter(caller, "clients")
        await self._clients.remove(caller, name)

    def watch(self, principal: Principal, ended: Callable[[], None]) -> Watch:
        """See `Revocations.watch`."""
        return self._revocations.watch(principal, ended)

    def refused(self, caller: Caller, detail: str) -> None:
        """Put on record that a token was good, and its bearer was turned away all the same."""
        self._means.note(caller, "login", outcome="denied", detail=detail)

    def close(self) -> None:
        """Let go of the threads that hash passwords."""
        self._passwords.close()

    async def _enter(self, caller: Caller, action: Action, user: str | None = None) -> None:
        """Let a caller in, and put it on record. Raises `FORBIDDEN`, `UNAVAILABLE`."""
        self._door.enter(caller, action, user)
        await self._door.told(caller, action, user)
