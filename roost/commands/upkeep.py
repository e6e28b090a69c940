"""What is done for the audit trail once in a while: old records are let go of, and its end is written down elsewhere.

The end goes into a file of the data directory, sealed with the chain's key: who can change the database, and not that
directory, cannot cut the trail's end off unnoticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from roost import files
from roost.chores import now_and_then
from roost.commands.askers import ITSELF
from roost.commands.trail import Trail
from roost.core.audit import AuditStore, Checkpoint, open_head, seal_head, seal_of
from roost.settings import Settings

HEAD_FILE = "audit_head"
STEP_RECORDS = 2_000
"""How many records one transaction deletes: whoever must be on record first waits for it."""

log = structlog.get_logger(__name__)


class CutOff(Exception):
    """The trail ends before a place that it had come to: records at its end are gone, or it is an older copy."""


async def prune(store: AuditStore, key: bytes, before: datetime) -> int:
    """Delete the records older than `before`, and seal where the chain begins from then on; returns how many."""
    pruned = 0
    while True:
        async with store.transaction() as tx:
            await tx.lock()
            last = await tx.last_before(before, STEP_RECORDS)
            if last is None:
                return pruned
            pruned += await tx.prune(Checkpoint(last.n, last.mac, seal_of(key, last.n, last.mac)))


async def write_head(store: AuditStore, key: bytes, data: Path) -> str:
    """Seal the trail's end, and write it to the data directory's file; returns it.

    Raises `CutOff` where that file tells of more than there is, and leaves it as it is; `OSError`.
    """
    end = await store.end()
    text = seal_head(key, end)
    known = await asyncio.to_thread(read_head, key, data)
    if known is not None and known[0] > end.n:
        raise CutOff(f"the trail had come to record {known[0]}, and ends at {end.n}")
    if known is None or known[0] < end.n:
        await asyncio.to_thread(files.replace, data / HEAD_FILE, f"{text}\n".encode())
    return text


def read_head(key: bytes, data: Path) -> tuple[int, bytes] | None:
    """The number and hash in the data directory's file; None where there is none, or another trail's."""
    try:
        return open_head(key, (data / HEAD_FILE).read_text().strip())
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def known_heads(
    key: bytes, data: Path, given: Iterable[str], report: Callable[[str], None]
) -> Iterator[tuple[int, bytes]]:
    """What is known of how far the trail had come: by the data directory's file, and by heads that are given.

    `report` gets a line for each that tells nothing, because it was not made with this key.
    """
    kept = read_head(key, data)
    if kept is not None:
        yield kept
    for text in given:
        found = open_head(key, text.strip())
        if found is None:
            report("A head that was given is not one of this trail.")
        else:
            yield found


async def keep(trail: Trail, store: AuditStore, settings: Settings, clock: Callable[[], datetime]) -> None:
    """Do all of this once in a while, until cancelled. Workers do so at random times, each its share of them."""
    told = False

    async def audit_upkeep() -> None:
        nonlocal told
        key = await trail.key()
        if settings.audit_keep_s:
            before = clock() - timedelta(seconds=settings.audit_keep_s)
            if pruned := await prune(store, key, before):
                trail.note(ITSELF, "prune", detail=f"{pruned} records from before {before:%Y-%m-%d}")
        try:
            await write_head(store, key, settings.data)
        except CutOff as error:
            if not told:  # once: it stays so until somebody has looked
                log.error("audit records are gone: run `roost audit verify`", found=str(error))  # noqa: TRY400
            told = True

    await now_and_then(settings.audit_interval_s * settings.workers, [audit_upkeep])
