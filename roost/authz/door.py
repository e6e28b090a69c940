"""The door: every access to state is decided here, and what must be on record is put on record here.

`enter` asks the policies, and refuses with a sentence that tells what is missing; it never tells whether something
exists, because nothing is read before. `view` is for reads of several collections: see `roost.authz.view`. What no
policy opens: the hidden collections, which hold credentials, and the log of the system user.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Protocol

from roost.authz.policy import words
from roost.authz.policy.compiled import Decision
from roost.authz.policy.model import Action
from roost.authz.policy.policies import Policies
from roost.authz.principal import Caller
from roost.authz.view import Sight, View
from roost.core.commands import Op
from roost.core.definitions import Privacy
from roost.core.errors import Code, RoostError
from roost.core.ids import HIDDEN, INBOX, check_writable
from roost.feed.definitions import Definitions

DEFAULT_PRIVACY: Privacy = "personal"
"""Of a collection that is not defined."""
_NOTHING: frozenset[str] = frozenset()


class Trail(Protocol):
    """Puts on record who was let in, and who was not."""

    def wants(self, caller: Caller, collection: str) -> bool:
        """Whether `read` would put anything on record, were `caller` told what is in this collection."""

    async def read(
        self,
        caller: Caller,
        action: str,
        user: str | None,
        collections: str | Iterable[str] | None = None,
        key: str | None = None,
    ) -> None:
        """`caller` is about to be told this. Raises `UNAVAILABLE` where that must be on record and cannot be."""

    def denied(self, caller: Caller, action: str, user: str | None = None, collection: str | None = None) -> None:
        """`caller` was refused."""


class NoTrail:
    """Nothing is put on record."""

    def wants(self, caller: Caller, collection: str) -> bool:  # noqa: ARG002  # it is the same for all
        """Nothing."""
        return False

    async def read(
        self,
        caller: Caller,
        action: str,
        user: str | None,
        collections: str | Iterable[str] | None = None,
        key: str | None = None,
    ) -> None:
        """Pass over it."""

    def denied(self, caller: Caller, action: str, user: str | None = None, collection: str | None = None) -> None:
        """Pass over it."""


class Door:
    """Every method raises `UNAVAILABLE` while this node does not know its policies yet."""

    def __init__(self, policies: Policies, definitions: Definitions, trail: Trail | None = None) -> None:
        self.policies = policies
        self._definitions = definitions
        self._trail: Trail = trail or NoTrail()

    def enter(self, caller: Caller, action: Action, user: str | None = None, collection: str | None = None) -> None:
        """Return if `caller` may do `action`, or raise `FORBIDDEN`.

        Who writes is told what stands there (by a merge, by a precondition that fails), so it takes full sight of the
        collection to write to it.
        """
        if action == "write" and collection is not None:
            self._write(caller, user, collection)
            return
        decision = self._decide(caller, action, user, collection)
        if decision is None or not decision.allowed:
            self._refuse(caller, action, user, collection)

    def change(self, caller: Caller, user: str, op: Op) -> None:
        """Return if `caller` may carry out `op`, or raise `FORBIDDEN`: nobody writes what Roost alone does."""
        self.enter(caller, "write", user, op.collection)
        self.writable(caller, "write", op.collection, user, deletes=op.kind == "delete")

    def writable(
        self, caller: Caller, action: Action, collection: str, user: str | None = None, *, deletes: bool = False
    ) -> None:
        """Return if anybody but Roost itself writes to a collection, or raise `FORBIDDEN`."""
        try:
            check_writable(collection, deletes=deletes)
        except RoostError:
            self._trail.denied(caller, action, user, collection)
            raise

    def read(self, caller: Caller, user: str, collection: str) -> frozenset[str]:
        """The members of the collection's documents that are masked for `caller`. Raises `FORBIDDEN`."""
        masked = self.sight(caller, user, collection)
        if masked is None:
            self._refuse(caller, "read", user, collection)
            raise AssertionError
        return masked

    def sight(self, caller: Caller, user: str, collection: str) -> Sight:
        """What `caller` sees of a collection. Looking is not put on record."""
        decision = self._decide(caller, "read", user, collection)
        if decision is None or not decision.allowed:
            return None
        definition = self._definitions.of(collection)
        if definition is None or not definition.masked:
            return _NOTHING
        unmask = self._decide(caller, "unmask", user, collection)
        return _NOTHING if unmask is not None and unmask.allowed else frozenset(definition.masked)

    def view(self, caller: Caller, user: str) -> View:
        """What `caller` sees of a user's documents. Raises `FORBIDDEN` where that is not even that they exist."""
        self.enter(caller, "see", user)
        return self.sights(caller, user)

    def sights(self, caller: Caller, user: str) -> View:
        """The same for somebody who was let in already."""
        return View(partial(self.sight, caller, user))

    def may(self, caller: Caller, action: Action, user: str | None = None) -> bool:
        """Whether `enter` would return. To ask is not put on record."""
        decision = self._decide(caller, action, user, None)
        return decision is not None and decision.allowed

    def records(self, caller: Caller, collection: str) -> bool:
        """Whether `told` has anything to do, once `caller` is told of this collection's documents."""
        return collection == INBOX or self._trail.wants(caller, collection)

    async def told(
        self,
        caller: Caller,
        action: Action,
        user: str | None,
        collections: str | Iterable[str] | None = None,
        key: str | None = None,
    ) -> None:
        """`caller` is about to be told this: put it on record, where that is wanted. Raises `UNAVAILABLE`."""
        await self._trail.read(caller, action, user, collections, key)

    def _write(self, caller: Caller, user: str | None, collection: str) -> None:
        decision = self._decide(caller, "write", user, collection)
        if decision is None or not decision.allowed:
            self._refuse(caller, "write", user, collection)
        masked = None if user is None else self.sight(caller, user, collection)
        if masked != _NOTHING:
            self._trail.denied(caller, "write", user, collection)
            detail = "Whoever writes to a collection is told what stands there, so it takes leave to read all of it."
            raise RoostError(Code.FORBIDDEN, detail)

    def _decide(self, caller: Caller, action: Action, user: str | None, collection: str | None) -> Decision | None:
        """What the policies say; None for what none of them opens."""
        self._definitions.check()
        privacy: Privacy | None = None
        if collection is not None:
            if collection in HIDDEN:
                return None
            definition = self._definitions.of(collection)
            privacy = DEFAULT_PRIVACY if definition is None else definition.privacy
        if user is not None and user[:1] == "$":
            return None
        return self.policies.decide(caller, action, user, collection, privacy)

    def _refuse(self, caller: Caller, action: Action, user: str | None, collection: str | None) -> None:
        self._trail.denied(caller, action, user, collection)
        if collection in HIDDEN:
            raise RoostError(Code.FORBIDDEN, f"The collection {collection!r} is shown to nobody.")
        definition = None if collection is None else self._definitions.of(collection)
        privacy = DEFAULT_PRIVACY if definition is None else definition.privacy
        raise RoostError(Code.FORBIDDEN, words.refusal(self.policies, caller, action, user, collection, privacy))
