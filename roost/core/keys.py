"""What is kept of keys beside what they seal: each user's own keys, wrapped, and which key-encryption key wraps them.

A key-encryption key (KEK) itself is never here: the keyring has it (`roost.crypto.keyring`), outside of the database.
A user's keys are counted from generation 1. Generation 0 is no key: it vouches that a user was there before anything
was sealed, so that what was stored in clear then may be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from roost.core.errors import Code, RoostError

SHARED_USER = "$answers"
"""Under whose key answers are sealed that belong to nobody, because the user never came to be."""
SHARED = 2**31 - 1
"""The generation that says so."""

CLEAR = 0
"""The generation of what is not sealed."""

KekState = Literal["adopting", "current", "retiring"]
"""`adopting`: the first one, until all users of before are vouched for. Just one is `current`: it wraps new keys."""

Kind = Literal["documents", "events", "answers"]
"""Where there are sealed values."""


class Corrupt(RoostError):
    """What is stored cannot be opened: it is not what Roost wrote there, or its key is gone. Nothing of it is told.

    `user` is whose it is.
    """

    def __init__(self, user: str, what: str) -> None:
        super().__init__(Code.CORRUPT, f"What is stored of {user!r} cannot be opened: {what}.")
        self.user = user


class UserKey(NamedTuple):
    """One generation of a user's key, wrapped by the KEK named `kek`."""

    user: str
    generation: int
    kek: str
    wrapped: bytes


class Kek(NamedTuple):
    """A KEK that the database uses. `check` opens with its secret, and with no other."""

    kek: str
    state: KekState
    check: bytes
    created_at: datetime


class SealedRow(NamedTuple):
    """What is sealed in one row.

    Of a document and an event, `first` is the value, `second` the siblings or edits, and `seq` says when it was
    written; of an answer they are the answer and the fingerprint, the user is in the place of a collection, and `seq`
    is its time in microseconds.
    """

    collection: str
    key: str
    seq: int
    first: bytes | None
    second: bytes | None


class Keys(Protocol):
    """Users' keys, as everybody or as one transaction sees them."""

    async def load(self, users: list[str]) -> list[UserKey]:
        """All generations of these users' keys."""

    async def add(self, keys: list[UserKey]) -> bool:
        """Add keys, all wrapped by one KEK; those that are there already stay.

        False, with nothing done, where that KEK is not current any more. Until the transaction ends, it stays current.
        """


class TransactionKeys(Keys, Protocol):
    """The keys of users whose heads a transaction has locked.

    What it adds becomes their generation from then on; where it was there already, `add` raises `Corrupt`.
    """

    @property
    def generations(self) -> Mapping[str, int]:
        """Which generation is each locked user's newest; `CLEAR` where there is none yet."""


class Passage(Protocol):
    """One user's sealed rows, under the lock that writers take."""

    @property
    def keys(self) -> TransactionKeys:
        """This user's keys."""

    @property
    def seq(self) -> int:
        """Where the log stands."""

    async def rows(self, kind: Kind, after: SealedRow | None, until: int, limit: int) -> list[SealedRow]:
        """The rows of a kind after one of them, in an order of the engine's own; `[]` ends them.

        Of documents and events, those that were written up to the seq `until`.
        """

    async def write(self, kind: Kind, rows: list[SealedRow]) -> None:
        """Replace what is sealed in rows that are there."""

    async def forget(self, below: int) -> None:
        """Delete the user's keys of generations below this one."""


class KeyStore(Keys, Protocol):
    """Where an engine keeps keys. Errors are those of `roost.core.ports`."""

    async def keks(self) -> list[Kek]:
        """All KEKs that are in use, the oldest first."""

    async def begin(self, kek: Kek, before: str | None) -> bool:
        """Add a KEK in place of `before` (None: the first one), which becomes `retiring`.

        False, with nothing done, where `before` is not the current one.
        """

    async def adopted(self, kek: str) -> None:
        """An `adopting` KEK becomes current."""

    async def unvouched(self, after: str | None, limit: int) -> list[str]:
        """Users without any key who are not erased, in the engine's order of users."""

    async def vouch(self, keys: list[UserKey]) -> None:
        """Add keys of generation `CLEAR`."""

    async def wrapped_by(self, kek: str, limit: int) -> list[UserKey]:
        """Some of the keys that this KEK wraps."""

    async def count(self, kek: str) -> int:
        """How many keys this KEK wraps."""

    async def rewrap(self, keys: list[UserKey], before: str) -> bool:
        """Replace keys that `before` wraps by the same, wrapped by another. False as in `add`."""

    async def end(self, kek: str) -> None:
        """Forget a retiring KEK that wraps nothing any more."""

    async def outdated(self, after: str | None, limit: int) -> list[str]:
        """Users who have keys older than their newest, in the engine's order of users."""

    def passage(self, user: str) -> AbstractAsyncContextManager[Passage | None]:
        """A transaction in which nobody else writes to `user`; None if there is no such user, or not any more."""
