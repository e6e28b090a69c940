"""What the server needs of an engine to let go of things: leftovers of erased users, documents past their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

ERASED_ROWS = 50_000
"""Rows of one table that one transaction deletes of an erased user; a user with more is rid of them in several."""


class Expired(NamedTuple):
    """A document whose time is over, and the version at which that is so."""

    user: str
    collection: str
    key: str
    version: int


class RetentionStore(Protocol):
    """The `retention` of an engine. Errors are those of `roost.core.ports`."""

    async def sweep(self, user: str) -> int:
        """Delete what is left of an erased user besides the tombstone, in part; returns how many rows that were.

        0: nothing is left. Of a user who was not erased nothing is deleted.
        """

    async def leftovers(self, users: Sequence[str]) -> list[str]:
        """Of which of these erased users there is something to `sweep`."""

    async def holders(self, users: Sequence[str], collections: Sequence[str]) -> set[tuple[str, str]]:
        """Which of these users have, or had, a document of which collection, as (user, collection)."""

    async def expired(self, users: Sequence[str], before: Mapping[str, datetime], limit: int) -> list[Expired]:
        """At most `limit` documents of these users that were written last before a time, by collection."""
