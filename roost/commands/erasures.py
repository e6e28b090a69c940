"""Erasing users for good: in the database, in the ledger beside the keyring, and in every older copy.

Each step may be cut off anywhere, and is finished by `reconcile`, which runs at start-up and now and then: whom the
ledger has and the database has not is erased, and whom the database has is written into the ledger. The copies are
the last step (`shred`): once the key-encryption key is another one, what an older copy of the database holds of an
erased user cannot be opened any more, because nobody has wrapped that user's key anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from itertools import islice

import structlog

from roost.commands.writer import Writer
from roost.core import erasure
from roost.core.commands import Accepted, Change, Erase, Op
from roost.core.erasure import Record, Shredding
from roost.core.errors import Code, RoostError
from roost.core.ids import ERASURES, SHREDDINGS, SYSTEM_USER
from roost.core.ports import DocumentRef, Engine
from roost.crypto.acts import Recorder, on_record, unrecorded
from roost.crypto.ledger import Entry, Ledger

ACTOR = "roost"
PAGE_ITEMS = 500

log = structlog.get_logger(__name__)


class Erasures:
    """Erases users. `rotate` puts another key-encryption key in the place of the present one; None without sealing.

    `record` puts on record what is done to keys, and who is erased again, before it is done.
    """

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        ledger: Ledger,
        clock: Callable[[], datetime],
        rotate: Callable[[], Awaitable[str]] | None,
        record: Recorder = unrecorded,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._ledger = ledger
        self._clock = clock
        self._rotate = rotate
        self._record = record

    async def erase(self, user: str, actor: str) -> None:
        """Erase a user; to repeat it changes nothing. Raises `NOT_FOUND`.

        After `UNAVAILABLE` it was done, or is finished within the interval in which `reconcile` runs.
        """
        head = await self._engine.head(user)
        if head is None:
            raise RoostError(Code.NOT_FOUND, f"There is no user {user!r}.")
        if head.erased_at is None:
            await asyncio.to_thread(self._ledger.add, [Entry(user, self._clock())])
        await self._erase(Erase(user, actor))

    async def reconcile(self) -> int:
        """Make database and ledger agree on who was erased; returns how many were erased for that."""
        known = {entry.user for entry in await asyncio.to_thread(lambda: list(self._ledger.entries()))}
        async for records in self._records(0):
            missing = [Entry(user, record.erased_at) for user, _, record in records if user not in known]
            if missing:
                await asyncio.to_thread(self._ledger.add, missing)
            for user in await self._engine.retention.leftovers([user for user, _, _ in records]):
                await self._sweep(user)
        return await self._replay(known)

    async def replay(self, ledger: Ledger) -> int:
        """Erase everybody whom another ledger has, and write them into this one; returns how many there were new."""
        entries = await asyncio.to_thread(lambda: list(ledger.entries()))

        async def work() -> int:
            await asyncio.to_thread(self._ledger.add, entries)
            return await self._replay({entry.user for entry in entries})

        return await on_record(self._record, "replay", work)

    async def shred(self, not_since: datetime | None = None) -> Shredding | None:
        """Make unreadable what older copies hold of those who were erased; None where there is nobody to do it for.

        With `not_since`, neither where that was done at or after this time. Raises `UNAVAILABLE`, also without sealing.
        """
        head = await self._engine.head(SYSTEM_USER)
        seq, last = await self._last_shredding()
        if head is None or (not_since is not None and last is not None and last.shredded_at >= not_since):
            return None
        count = 0
        async for records in self._records(seq):
            for user, _, _ in records:
                await self._sweep(user)
            count += len(records)
        if not count:
            return None
        if self._rotate is None:
            raise RoostError(Code.UNAVAILABLE, "Nothing is sealed here, so older copies cannot be made unreadable.")
        shredding = Shredding(kek=await on_record(self._record, "shred", self._rotate), shredded_at=self._clock())
        key = erasure.shredding_key(head.seq)
        await self._writer.run(
            Change(SYSTEM_USER, (Op("put", SHREDDINGS, key, erasure.encode(shredding)),), ACTOR),
        )
        log.info("older copies of erased users cannot be read any more", users=count)
        return shredding

    async def _replay(self, users: set[str]) -> int:
        waiting, count = iter(sorted(users)), 0
        while some := list(islice(waiting, PAGE_ITEMS)):
            points = await self._engine.points([DocumentRef(user, ERASURES, "") for user in some])
            back = [user for user, point in zip(some, points, strict=True) if not point.erased]
            if back:
                await self._record(f"erase {len(back)} users again")
            for user in back:
                await self._erase(Erase(user, ACTOR, unknown=True))
            count += len(back)
        return count

    async def _erase(self, command: Erase) -> Accepted:
        accepted = await self._writer.run(command)
        await self._sweep(command.user)
        return accepted

    async def _sweep(self, user: str) -> None:
        while await self._engine.retention.sweep(user):
            pass

    async def _records(self, after: int) -> AsyncIterator[list[tuple[str, int, Record]]]:
        """Who was erased, from a seq of the system user's log on, as (user, seq, record)."""
        while (read := await self._engine.log(SYSTEM_USER, after, PAGE_ITEMS, [ERASURES])) is not None:
            yield [(event.key, event.seq, erasure.decode_record(event.value or b"")) for event in read.events]
            after = read.reached
            if after >= read.head.seq:
                return

    async def _last_shredding(self) -> tuple[int, Shredding | None]:
        """Up to which seq of the system user's log everybody's copies are unreadable, and since when."""
        last, after = None, None
        while (page := await self._engine.page(SYSTEM_USER, SHREDDINGS, "", after, PAGE_ITEMS)) is not None:
            if page.documents:
                last = page.documents[-1]
                after = last.key
            if not page.more:
                break
        if last is None:
            return 0, None
        return int(last.key), erasure.decode_shredding(last.value or b"")
