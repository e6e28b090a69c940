"""The shelf: the texts of policies that are put over HTTP, as documents of the system user.

Whoever changes them is held to the policies themselves, those in force now and those that would be.
"""

from __future__ import annotations

import asyncio

from roost.authz.door import Door
from roost.authz.policy.policies import StoredPolicy, encode
from roost.authz.principal import Caller
from roost.commands.writer import Writer
from roost.core.commands import Accepted, Change, Condition, Idempotency, Op
from roost.core.errors import Code, RoostError
from roost.core.ids import POLICIES, SYSTEM_USER
from roost.core.moment import NOW
from roost.core.ports import DocumentRef, Page, Point
from roost.feed.definitions import Definitions
from roost.queries.reader import Reader


class Shelf:
    """Every method raises `FORBIDDEN` for a caller that may not."""

    def __init__(self, door: Door, writer: Writer, reader: Reader, definitions: Definitions) -> None:
        self._door = door
        self._writer = writer
        self._reader = reader
        self._definitions = definitions

    async def put(
        self, caller: Caller, name: str, text: str | None, condition: Condition, idempotency: Idempotency | None
    ) -> Accepted:
        """Put a text in force under a name, or take it away (None); in force here once this returns.

        Raises `PolicyFaults` for a text with mistakes, `INVALID_REQUEST` for one that would shut the caller out.
        """
        self._door.enter(caller, "policies")
        trial = await asyncio.to_thread(self._door.policies.trial, name, text)
        if not trial.decide(caller, "policies", None, None, None).allowed:
            raise RoostError(Code.INVALID_REQUEST, "After this you could not change the policies any more.")
        value = None if text is None else encode(StoredPolicy(text))
        op = Op("delete" if text is None else "put", POLICIES, name, value, condition)
        await self._door.told(caller, "policies", None, key=name)
        accepted = await self._writer.run(Change(SYSTEM_USER, (op,), caller.actor, idempotency))
        await self._definitions.until(accepted.seq)
        return accepted

    async def get(self, caller: Caller, name: str) -> Point:
        """A text, as a document of the system user. Raises `NOT_FOUND` if there never was one."""
        self._door.enter(caller, "policies")
        return await self._reader.document(DocumentRef(SYSTEM_USER, POLICIES, name), NOW)

    async def page(self, caller: Caller, after: str | None, limit: int) -> Page:
        """A page of all texts. Raises `NOT_FOUND` if there never was one."""
        self._door.enter(caller, "policies")
        return await self._reader.page(SYSTEM_USER, POLICIES, "", after, limit, NOW)
