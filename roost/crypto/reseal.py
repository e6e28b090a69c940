"""Sealing anew: what is stored in clear from before, or under an older key, is sealed by its user's newest.

It goes through one user's rows in short transactions that hold the lock of that user's writers, so that nothing is
written by an old key meanwhile, and nobody waits long. Once it has seen every row, nothing uses the older keys, and
they are deleted. What is written meanwhile is sealed by the newest key already. Broken off, it is begun again from the
user's first row.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Protocol

import structlog

from roost.core.errors import Code, RoostError
from roost.core.keys import CLEAR, SHARED, Corrupt, Keys, KeyStore, Kind, Passage, SealedRow, TransactionKeys
from roost.crypto.keks import Progress, no_progress
from roost.crypto.seal import NotSealed, Seal, Slot, generation_of

BATCH_ROWS = 50
"""Rows that one transaction seals anew: each may be half a megabyte, and the user's writers wait for it."""
PAGE_USERS = 1_000
SLOTS: dict[Kind, tuple[Slot, Slot]] = {
    "documents": (Slot.VALUE, Slot.SIBLINGS),
    "events": (Slot.VALUE, Slot.EDITS),
    "answers": (Slot.ANSWER, Slot.FINGERPRINT),
}
NO_EDITS = b"[]"
"""Edits that say nothing, and stay in clear: SQL asks for them."""

log = structlog.get_logger(__name__)


class Sealing(Protocol):
    """What it needs of the vault: see `roost.crypto.vault.Vault`."""

    async def seals(self, wanted: AbstractSet[tuple[str, int]], rows: Keys) -> dict[tuple[str, int], Seal | None]:
        """Those of the wanted keys that there are."""

    async def newest(self, users: Iterable[str], keys: TransactionKeys) -> tuple[dict[str, Seal], dict[str, Seal]]:
        """What users' values are to be sealed with."""

    async def add(self, users: list[str], generation: int, keys: TransactionKeys) -> dict[str, Seal]:
        """Make keys."""

    def evict(self, user: str) -> None:
        """Forget a user's keys."""


async def renew(vault: Sealing, store: KeyStore, user: str) -> int:
    """Give a user a new key; returns its generation. Raises `NOT_FOUND`."""
    async with store.passage(user) as passage:
        if passage is None:
            raise RoostError(Code.NOT_FOUND, f"There is no user {user!r}.")
        generation = passage.keys.generations[user] + 1
        await vault.add([user], generation, passage.keys)
    vault.evict(user)
    return generation


async def reseal(vault: Sealing, store: KeyStore, user: str, progress: Progress) -> None:
    """Seal a user's values by the newest key, and delete the older keys. Raises `Corrupt`, with those kept."""
    async with store.passage(user) as passage:
        if passage is None:
            return
        generation, until = passage.keys.generations[user], passage.seq
        if generation == CLEAR:
            generation = 1
            await vault.add([user], generation, passage.keys)
    done = 0
    for kind in SLOTS:
        after: SealedRow | None = None
        while True:
            async with store.passage(user) as passage:
                if passage is None or passage.keys.generations[user] != generation:
                    return  # whoever changed the key meanwhile reseals everything
                rows = await passage.rows(kind, after, until, BATCH_ROWS)
                if not rows:
                    break
                await _rewrite(vault, passage, user, kind, rows)
            after, done = rows[-1], done + len(rows)
            progress(done, None)
    async with store.passage(user) as passage:
        if passage is not None and passage.keys.generations[user] == generation:
            await passage.forget(generation)
    vault.evict(user)


async def reseal_all(vault: Sealing, store: KeyStore, progress: Progress) -> int:
    """`reseal` for everybody who has older keys; returns how many of them there were."""
    after, done = None, 0
    while users := await store.outdated(after, PAGE_USERS):
        for user in users:
            try:
                await reseal(vault, store, user, no_progress)
            except Corrupt as corrupt:
                log.error("not sealed anew", user=user, detail=corrupt.detail)  # noqa: TRY400 (it says what it is)
            done += 1
            progress(done, None)
        after = users[-1]
    return done


async def _rewrite(vault: Sealing, passage: Passage, user: str, kind: Kind, rows: list[SealedRow]) -> None:
    """Seal rows by the newest key, where they are not."""
    newest, _ = await vault.newest([user], passage.keys)
    seal, slots = newest[user], SLOTS[kind]
    generation = passage.keys.generations[user]
    stale = [row for row in rows if not {generation, SHARED}.issuperset(_generations(row, slots).values())]
    refs = {(user, by) for row in stale for by in _generations(row, slots).values()}
    opened = await vault.seals(refs, passage.keys)

    def anew(row: SealedRow, stored: bytes | None, slot: Slot) -> bytes | None:
        by = _generations(row, slots).get(slot)
        if stored is None or by is None:
            return stored
        place = row.collection, row.key, row.seq, slot
        try:
            old = opened[user, by]
            value = stored if old is None else old.open(stored, *place)
        except (KeyError, NotSealed):
            raise Corrupt(user, f"{kind} {row.collection}/{row.key} at {row.seq}") from None
        return seal.seal(value, *place)

    if stale:
        renewed = [(anew(row, row.first, slots[0]), anew(row, row.second, slots[1])) for row in stale]
        await passage.write(kind, [SealedRow(*row[:3], *sealed) for row, sealed in zip(stale, renewed, strict=True)])


def _generations(row: SealedRow, slots: tuple[Slot, Slot]) -> dict[Slot, int]:
    """Under which generation of the key each value of a row is sealed, of those that are to be."""
    found = {
        slot: generation_of(stored)
        for slot, stored in zip(slots, (row.first, row.second), strict=True)
        if stored is not None and not (slot is Slot.EDITS and stored == NO_EDITS)
    }
    if found.get(Slot.ANSWER) == CLEAR:
        # What was stored in clear was so as a whole: a fingerprint may begin with any byte.
        found[Slot.FINGERPRINT] = CLEAR
    return found
