"""Checks what clients saw against the logs: the guarantees that hold under any concurrency and any fault.

Clients take down what they asked and were answered, with the times of both. Afterwards everything that they saw
must fit the logs as they are, in time linear in what was written down (but for sorting):

- each acknowledged write stands in its log at the seqs that it was told, whole, and nobody else claims them;
- each write of unknown outcome stands there once or not at all, and a refused one does not;
- nothing else stands there;
- what was answered before something else was asked comes before it: writes in seq, reads in what they see;
- each read shows exactly what the log up to its seq adds up to.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any, Literal, NamedTuple

NEVER = 2**63
DocumentId = tuple[str, str]
Logs = dict[str, list[dict[str, Any]]]


class Change(NamedTuple):
    """One op. `value` tells every put from every other; a delete has None."""

    collection: str
    key: str
    value: Any


class Write(NamedTuple):
    """A write, from the first attempt to the answer (times in nanoseconds; `ended` is NEVER without one).

    `seq` is the seq of its last event, 0 unless it was accepted.
    """

    user: str
    changes: tuple[Change, ...]
    outcome: Literal["accepted", "refused", "unknown"]
    began: int
    ended: int = NEVER
    seq: int = 0


class Read(NamedTuple):
    """A read that was answered. `shown` are versions and values, None where there was no document.

    A `whole` read shows all of a user's documents. `seq` is None where the answer did not tell it.
    """

    user: str
    began: int
    ended: int
    seq: int | None
    shown: dict[DocumentId, tuple[int, Any] | None]
    whole: bool = False


def violations(writes: Iterable[Write], reads: Iterable[Read], logs: Logs) -> list[str]:
    """Everything that was seen and should not be; empty if all is well."""
    by_user: dict[str, tuple[list[Write], list[Read]]] = defaultdict(lambda: ([], []))
    for write in writes:
        by_user[write.user][0].append(write)
    for read in reads:
        by_user[read.user][1].append(read)
    found = []
    for user, (written, shown) in by_user.items():
        found += [f"{user}: {text}" for text in _User(logs.get(user, []), written, shown).check()]
    return found


class _User:
    """One user's log, and what was written and read of it."""

    def __init__(self, log: list[dict[str, Any]], writes: list[Write], reads: list[Read]) -> None:
        self._log = log
        self._writes = writes
        self._reads = reads
        self._found: list[str] = []
        self._placed: list[tuple[Write, int]] = []
        """The writes that are in the log, each with its last seq."""

    def check(self) -> list[str]:
        if [event["seq"] for event in self._log] != list(range(1, len(self._log) + 1)):
            return ["the log has a gap"]
        self._place_writes()
        self._check_order()
        self._check_reads()
        return self._found

    def _place_writes(self) -> None:
        """Find each write in the log, and each event's write."""
        seq_of = {repr(event["value"]): event["seq"] for event in self._log if event["value"] is not None}
        claims: dict[int, Write] = {}
        for write in self._writes:
            last = write.seq
            if write.outcome != "accepted":
                assert all(change.value is not None for change in write.changes), "such a delete cannot be told apart"
                last = seq_of.get(repr(write.changes[-1].value), 0)
                if not last and not any(repr(change.value) in seq_of for change in write.changes):
                    continue
            if write.outcome == "refused":
                self._found.append(f"was refused, and is there: {write}")
            seqs = range(last - len(write.changes) + 1, last + 1)
            if [self._event(seq) for seq in seqs] != list(write.changes):
                self._found.append(f"is not there as it was written: {write}")
                continue
            for seq in seqs:
                if seq in claims:
                    self._found.append(f"two writes claim {seq}: {claims[seq]} and {write}")
                claims[seq] = write
            self._placed.append((write, last))
        self._found += [f"nobody wrote {event}" for event in self._log if event["seq"] not in claims]

    def _event(self, seq: int) -> Change | None:
        if not 1 <= seq <= len(self._log):
            return None
        event = self._log[seq - 1]
        return Change(event["collection"], event["key"], event["value"])

    def _check_order(self) -> None:
        """See that nothing comes before what was known when it was asked for."""
        known_at = self._known()
        asked: list[tuple[int, int, Write | Read]] = [
            (write.began, seq - len(write.changes), write) for write, seq in self._placed
        ]
        asked += [(read.began, read.seq, read) for read in self._reads if read.seq is not None]
        for began, sees, operation in asked:
            if sees < (known := known_at(began)):
                self._found.append(f"the log was known to stand at {known} before this was asked: {operation}")

    def _check_reads(self) -> None:
        """See that each read shows the log up to its seq; if it does not tell that, up to one that is possible."""
        versions: dict[DocumentId, list[int]] = defaultdict(list)
        for event in self._log:
            versions[event["collection"], event["key"]].append(event["seq"])
        known_at, possible_at = self._known(), self._possible()
        for read in self._reads:
            seqs = range(known_at(read.began), possible_at(read.ended) + 1) if read.seq is None else (read.seq,)
            if not any(self._shows(read, seq, versions) for seq in seqs):
                self._found.append(f"is no prefix of the log: {read}")

    def _known(self) -> Callable[[int], int]:
        """Where the log stands at least for what is asked at a time: what was answered before has shown it."""
        ends = sorted(
            [(write.ended, seq) for write, seq in self._placed if write.ended != NEVER]
            + [(read.ended, read.seq) for read in self._reads if read.seq is not None]
        )
        times = [ended for ended, _ in ends]
        highest = list(accumulate((seq for _, seq in ends), max, initial=0))
        return lambda time: highest[bisect_left(times, time)]

    def _possible(self) -> Callable[[int], int]:
        """Where the log stands at most for what was answered at a time: what is asked later comes after it."""
        begins = sorted((write.began, seq - len(write.changes)) for write, seq in self._placed)
        times = [began for began, _ in begins]
        lowest = list(accumulate((before for _, before in reversed(begins)), min, initial=len(self._log)))[::-1]
        return lambda time: lowest[bisect_right(times, time)]

    def _shows(self, read: Read, seq: int, versions: dict[DocumentId, list[int]]) -> bool:
        if seq > len(self._log):
            return False
        wanted = set(versions) | set(read.shown) if read.whole else set(read.shown)
        return all(self._document(each, seq, versions) == read.shown.get(each) for each in wanted)

    def _document(
        self, document: DocumentId, seq: int, versions: dict[DocumentId, list[int]]
    ) -> tuple[int, Any] | None:
        earlier = bisect_right(versions.get(document, []), seq)
        if not earlier:
            return None
        event = self._log[versions[document][earlier - 1] - 1]
        return None if event["value"] is None else (event["seq"], event["value"])
