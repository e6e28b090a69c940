"""Reading the audit trail: in pages, beside the writes that a user's log has; and proving it whole."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from datetime import timedelta

import msgspec

from roost.core.audit import (
    BEGINNING,
    NO_KEY,
    AuditStore,
    Cursor,
    Draft,
    Entry,
    Excerpt,
    Record,
    Selection,
    mac_of,
    seal_of,
)
from roost.core.events import Event
from roost.core.ports import Engine

PAGE_RECORDS = 1_000
_ACTIONS = {"put": "write", "delete": "write", "erase": "erase"}
_TICK = timedelta(microseconds=1)


class Verdict(msgspec.Struct):
    """What proving a trail found: which records there are, how many faults, and how many records never got there."""

    first: int = 0
    last: int = 0
    faults: int = 0
    lost: int = 0


async def excerpt(engine: Engine, selection: Selection, cursor: Cursor, limit: int) -> Excerpt:
    """At most `limit` entries after a cursor; of one user, with what the user's log tells of writes."""
    found = await engine.audit.page(selection, cursor.n, limit)
    records = [_of_record(record) for record in found.records]
    if selection.user is None or not _of_writes(selection):
        return Excerpt(records, Cursor(found.reached, cursor.seq), found.reached >= found.end, found.end)
    writes, seq, log_ends = await _writes(engine, selection, cursor.seq, limit)
    return _merge(records, writes, limit, Excerpt([], Cursor(found.reached, seq), log_ends, found.end), cursor)


async def _writes(engine: Engine, selection: Selection, after: int, limit: int) -> tuple[list[Entry], int, bool]:
    """The writes in a user's log, the seq up to which it was read, and whether that is its end."""
    user = selection.user or ""
    if selection.since is not None:
        after = max(after, await engine.seq_at(user, selection.since - _TICK) or 0)
    log = await engine.log(user, after, limit, None)
    if log is None:
        return [], after, True
    writes = [_of_event(user, event) for event in log.events]
    return [one for one in writes if selection.has(one)], log.reached, log.reached >= log.head.seq


def _merge(records: list[Entry], writes: list[Entry], limit: int, read: Excerpt, begun: Cursor) -> Excerpt:
    """Both by time, as far as neither lacks what would come in between. `read` tells how far each was read."""
    entries: list[Entry] = []
    n, seq = begun
    of_n, of_seq = iter(records), iter(writes)
    record, write = next(of_n, None), next(of_seq, None)
    trail_ends = read.cursor.n >= read.end
    while len(entries) < limit:
        if record is not None and (write is None or record.at <= write.at):
            if write is None and not read.live:
                break
            entries.append(record)
            n, record = record.n or n, next(of_n, None)
        elif write is not None:
            if record is None and not trail_ends:
                break
            entries.append(write)
            seq, write = write.seq or seq, next(of_seq, None)
        else:
            break
    n = read.cursor.n if record is None else n
    seq = read.cursor.seq if write is None else seq
    return Excerpt(entries, Cursor(n, seq), record is None and write is None and trail_ends and read.live, read.end)


def _of_writes(selection: Selection) -> bool:
    """Whether a write may be among what is selected."""
    return selection.action in (None, *_ACTIONS.values()) and selection.outcome in (None, "allowed")


def _of_record(record: Record) -> Entry:
    return Entry(**{name: getattr(record, name) for name in Draft.__struct_fields__}, n=record.n)


def _of_event(user: str, event: Event) -> Entry:
    what = event.kind if event.device is None else f"{event.kind} from {event.device}"
    return Entry(
        at=event.at,
        actor=event.actor,
        kind=event.actor.partition(":")[0],
        action=_ACTIONS[event.kind],
        user=user,
        collection=event.collection or None,
        key=event.key or None,
        detail=what,
        seq=event.seq,
    )


async def verify(
    store: AuditStore, key: bytes, report: Callable[[str], None], heads: Mapping[int, bytes] | None = None
) -> Verdict:
    """Go along the whole chain; `report` gets a line for each fault.

    `heads` are sealed heads that were kept elsewhere, by number: up to there the trail must reach, unchanged. Records
    that are appended meanwhile are left out; records that are pruned meanwhile are no fault.
    """
    return await _Proof(store, key, report, dict(heads or {})).run()


class _Proof:
    """One walk along the chain. `_before` is the hash of the record before; None where that is missing."""

    def __init__(self, store: AuditStore, key: bytes, report: Callable[[str], None], heads: dict[int, bytes]) -> None:
        self._store = store
        self._key = key
        self._report = report
        self._heads = heads
        self._n = 0
        self._before: bytes | None = BEGINNING.mac
        self._keyed = False
        self.verdict = Verdict()

    async def run(self) -> Verdict:
        end = await self._store.end()
        await self._begin()
        self.verdict.first = self._n + 1
        while self._n < end.n:
            page = await self._store.page(Selection(), self._n, PAGE_RECORDS)
            found = [record for record in page.records if record.n <= end.n]
            if not found:
                break
            for record in found:
                await self._check(record)
        self.verdict.last = self._n
        if self._n < end.n:
            self._fault(f"{_range(self._n + 1, end.n)} missing at the end.")
        elif self._before is not None and not hmac.compare_digest(self._before, end.mac):
            self._fault("The end that is written down is not that of the last record.")
        if self._n >= self.verdict.first and not self._keyed:
            self._fault("No record was made with the key of this trail.")
        for n in sorted(self._heads):
            if n > end.n:
                self._fault(f"The trail had come to record {n}, and ends at {end.n}: its end was cut off.")
        return self.verdict

    async def _begin(self) -> None:
        """Go to the checkpoint, if there is one ahead."""
        base = await self._store.checkpoint()
        if base is None or base.n <= self._n:
            return
        if not hmac.compare_digest(base.seal, seal_of(self._key, base.n, base.mac)):
            self._fault(f"The checkpoint at record {base.n} is forged: records up to there were removed.")
        self._n, self._before, self._keyed = base.n, base.mac, True
        self._see(base.n, base.mac)

    async def _check(self, record: Record) -> None:
        if record.n > self._n + 1:
            await self._begin()
        if record.n <= self._n:
            return  # pruned meanwhile
        if record.n > self._n + 1:
            self._fault(f"{_range(self._n + 1, record.n - 1)} missing.")
            self._before = None
        if self._before is not None and not self._proves(record, self._before):
            self._fault(f"Record {record.n} is not what was written there: it was changed, moved or put in.")
        if record.action == "gap":
            self.verdict.lost += record.count
        self._see(record.n, record.mac)
        self._n, self._before = record.n, record.mac

    def _proves(self, record: Record, before: bytes) -> bool:
        """Whether a record's hash is by the key; or by none, before the first that is by the key.

        Those are of the time before anything was sealed. The first behind them holds them as they were then.
        """
        if hmac.compare_digest(mac_of(self._key, before, record.n, record), record.mac):
            self._keyed = True
            return True
        return not self._keyed and hmac.compare_digest(mac_of(NO_KEY, before, record.n, record), record.mac)

    def _see(self, n: int, mac: bytes) -> None:
        """Compare with what was kept elsewhere. A head that is older than the checkpoint tells nothing any more."""
        kept = self._heads.pop(n, None)
        if kept is not None and not hmac.compare_digest(kept, mac):
            self._fault(f"Record {n} is not the one that the trail had come to.")

    def _fault(self, line: str) -> None:
        self.verdict.faults += 1
        self._report(line)


def _range(first: int, last: int) -> str:
    return f"Record {first} is" if first == last else f"Records {first} to {last} are"
