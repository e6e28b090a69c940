"""Accounts: users who prove by a password who they are.

Nobody learns here which users there are: a login fails in the same way, after the same work, and as often, for a user
who is none. (Sign-up has to say that a name is taken; where it is open, it is counted by address like a failed login.)
The password's hash is a document of the user's own, so that history and erasure cover it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from roost.authz import records
from roost.authz.principal import Caller, Origin
from roost.authz.records import Means, Record, Records
from roost.authz.sessions import About, Sessions, Tokens
from roost.authz.throttle import Throttle
from roost.core.addresses import subscriber
from roost.core.commands import ABSENT, ANYTHING, Op, Versions
from roost.core.errors import Code, RoostError
from roost.core.ids import CREDENTIALS
from roost.crypto.passwords import Passwords, prepared

PASSWORD = "password"  # noqa: S105  # the document's key


class Credential(msgspec.Struct, frozen=True):
    """A password as it is stored: hashed, and when that was, in seconds since 1970."""

    hash: str
    changed_at: int


class Proof(NamedTuple):
    """That somebody knew a user's password: of which version it was."""

    user: str
    version: int


class Accounts:
    """Sign-up, login and passwords. Who may do so for others is for its callers to see to."""

    def __init__(self, means: Means, sessions: Sessions, passwords: Passwords) -> None:
        self._reader = means.reader
        self._records = Records(means.reader, CREDENTIALS, Credential)
        self._sessions = sessions
        self._passwords = passwords
        self._means = means
        self._open = means.settings.signup == "open"
        share = means.settings.workers
        self._by_account = Throttle(means.settings.login_account_max / share, means.settings.login_window_s)
        self._by_address = Throttle(means.settings.login_address_max / share, means.settings.login_window_s)

    async def sign_up(self, user: str, password: str, about: About, who: Caller | Origin) -> Tokens:
        """Bring a user with a password into being, and log in. `who` is a caller that may do so for others, or anybody.

        Raises `FORBIDDEN` where sign-up is not open, `USER_EXISTS`, `INVALID_REQUEST`, `RATE_LIMITED`.
        """
        origin = who.origin if isinstance(who, Caller) else who
        if not isinstance(who, Caller):
            try:
                await self._admit(user, origin)
            except RoostError as refusal:
                self._means.note(origin, "signup", outcome="denied", user=user, detail=refusal.code.value)
                raise
        op = msgspec.structs.replace(await self._op(password), condition=ABSENT)
        tokens = await self._sessions.start(user, about, origin, lambda _: (op,), begins=True)
        self._means.note(who, "signup", user=user, detail=f"session {tokens.session}")
        return tokens

    async def _admit(self, user: str, origin: Origin) -> None:
        """Raise what keeps a stranger from signing up under a name."""
        if not self._open:
            raise RoostError(Code.FORBIDDEN, "Sign-up is not open here: an admin or a service has to do it.")
        if self._means.settings.named_elsewhere(user):
            raise RoostError(Code.FORBIDDEN, "Users of such a name log in at the issuer that names them so.")
        self._by_address.take(subscriber(origin.address))
        try:
            await self._reader.head(user)
        except RoostError as refusal:
            if refusal.code is Code.NOT_FOUND:
                return
            raise
        # Though nothing may be written there yet, it was brought into being for somebody else.
        raise RoostError(Code.USER_EXISTS, "There is such a user already.")

    async def log_in(self, user: str, password: str, about: About, origin: Origin) -> Tokens:
        """Begin a session. Raises `UNAUTHENTICATED` for a wrong user or password, and `RATE_LIMITED`."""
        proof = await self.prove(user, password, origin)
        tokens = await self._sessions.start(user, about, origin)
        await self.confirm(proof, tokens.session)
        self._means.note(origin, "login", user=user, detail=f"session {tokens.session}")
        return tokens

    async def prove(self, user: str, password: str, origin: Origin, action: str = "login") -> Proof:
        """See that this is the user's password. Raises as `log_in` does."""
        try:
            # An address that has failed too often is not to close other people's accounts as well.
            self._by_address.take(subscriber(origin.address))
            self._by_account.take(user)
        except RoostError:
            self._means.note(origin, action, outcome="denied", user=user, detail="too many attempts")
            raise
        try:
            found = await self._records.find(user, PASSWORD)
            right = await self._passwords.matches(password, found.value.hash if found else None)
        except RoostError:
            self._succeeded(user, origin)  # it was not looked at
            raise
        if found is None or not right:
            self._means.note(origin, action, outcome="denied", user=user, detail="wrong user or password")
            raise RoostError(Code.UNAUTHENTICATED, "The user or the password is wrong.")
        self._succeeded(user, origin)
        return Proof(user, await self._rehashed(user, password, found))

    async def confirm(self, proof: Proof, session: str) -> None:
        """End a session that was begun by a password which has been changed since; then raise `UNAUTHENTICATED`.

        Whoever changes a password ends the sessions that there are then, and this one might have come a moment later.
        """
        if not await self.holds(proof):
            await self._sessions.end(proof.user, [session], f"user:{proof.user}")
            raise RoostError(Code.UNAUTHENTICATED, "The user or the password is wrong.")

    async def holds(self, proof: Proof) -> bool:
        """Whether the password has not changed since it was proved."""
        found = await self._records.find(proof.user, PASSWORD)
        return found is not None and found.version == proof.version

    async def change_password(self, caller: Caller, user: str, password: str, current: str | None) -> None:
        """Replace a password, and end every other session of the user.

        Users give the `current` one, and keep the session that they do it in. Raises `FORBIDDEN` where that is wrong,
        and `NOT_FOUND` where there is no such user.
        """
        prepared(password)
        condition = None
        if caller.principal.kind == "user":
            try:
                proof = await self.prove(user, current or "", caller.origin, "password")
            except RoostError as refusal:
                if refusal.code is Code.UNAUTHENTICATED:
                    raise RoostError(Code.FORBIDDEN, "The current password is wrong.", pointer="/current") from None
                raise
            condition = Versions(frozenset({proof.version}))
        else:
            await self._reader.head(user)
        op = msgspec.structs.replace(await self._op(password), condition=condition or ANYTHING)
        own = caller.principal.session if caller.principal.kind == "user" else None
        await self._sessions.end_all(user, caller.actor, but=own, ops=(op,))
        # A login with the old password may have been under way.
        await self._sessions.end_all(user, caller.actor, but=own)
        self._means.note(caller, "password", user=user)

    async def _op(self, password: str) -> Op:
        hashed = await self._passwords.hash(password)
        return records.put(CREDENTIALS, PASSWORD, Credential(hashed, int(self._means.now)))

    async def _rehashed(self, user: str, password: str, found: Record[Credential]) -> int:
        """The version of a password that was right, hashed anew if that costs something else today."""
        if not self._passwords.outdated(found.value.hash):
            return found.version
        op = msgspec.structs.replace(await self._op(password), condition=Versions(frozenset({found.version})))
        try:
            accepted = await records.write(self._means.writer, user, (op,), f"user:{user}")
        except RoostError as refusal:
            if refusal.code is Code.VERSION_CONFLICT:
                return found.version  # changed meanwhile: what was proved holds no longer
            raise
        return accepted.written[0].event.seq

    def _succeeded(self, user: str, origin: Origin) -> None:
        self._by_account.give_back(user)
        self._by_address.give_back(subscriber(origin.address))
