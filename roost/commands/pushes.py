"""Pushes: the mutations of a device, each answered once.

A device's mutations are numbered without holes, and the last number that was answered is kept with the device, so
each is decided once however often it arrives. Its answer is kept like that of an idempotent request, in the same
transaction, for as long as those are; after that a repeat is told that it is `known`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import blake2b

import msgspec

from roost.core.commands import Accepted, Mutation, Push, Result, Written
from roost.core.decide import OpenLog, Rules
from roost.core.errors import Code, RoostError
from roost.core.events import Device
from roost.core.limits import Limits
from roost.core.mutate import InboxFull, Origin, mutate
from roost.core.ports import AnswerRef, DocumentRef, StoredAnswer

_decode = msgspec.json.Decoder(Result).decode


class MutationGap(RoostError):
    """Mutations are missing before the first of a push; the server waits for `expected`."""

    def __init__(self, expected: int) -> None:
        super().__init__(Code.MUTATION_GAP, f"The next mutation of this device is number {expected}.")
        self.expected = expected


def answer_ref(push: Push, mutation: Mutation) -> AnswerRef:
    """Under which name the answer of a mutation is kept: an idempotency key of a caller's has no space."""
    return AnswerRef(push.user, f"{push.device} {mutation.number}")


def is_of_push(ref: AnswerRef) -> bool:
    """Whether an answer is that of a mutation."""
    return " " in ref.key


def beginning(push: Push, limits: Limits) -> Push:
    """The first mutations of a push: as many as have no more ops than one may have, so that others get their turn."""
    last = ops = 0
    for mutation in push.mutations:
        ops += len(mutation.ops)
        if last and ops > limits.batch_ops_max:
            break
        last += 1
    return msgspec.structs.replace(push, mutations=push.mutations[:last])


def bases(push: Push, log: OpenLog) -> dict[DocumentRef, int]:
    """The documents that were written since the push's mutations were made, and the least `base` of these."""
    least: dict[DocumentRef, int] = {}
    for mutation in push.mutations:
        for op in mutation.ops:
            document = log.documents.get((op.collection, op.key))
            if document is not None and document.version > mutation.base:
                ref = DocumentRef(push.user, op.collection, op.key)
                least[ref] = min(mutation.base, least.get(ref, mutation.base))
    return least


def carry_out(
    push: Push,
    log: OpenLog,
    loaded: Mapping[AnswerRef, StoredAnswer],
    stored: dict[AnswerRef, StoredAnswer],
    at: datetime,
    rules: Rules,
) -> Accepted:
    """Answer the mutations in order; the answers go to `stored`, the device to the log.

    Where the inbox is full, or this was enough for one transaction, the answers end early. Raises `MutationGap`,
    `CURSOR_AHEAD`, `IDEMPOTENCY_KEY_REUSED` (a number that was another mutation) and `InboxFull`, with nothing done.
    """
    known = log.devices.get(push.device) or Device(push.device, 0, 0, at)
    _check(push, known.number, log.head.seq)
    if push.device not in log.devices:
        if log.device_count >= rules.limits.devices_max:
            raise RoostError(Code.LIMIT_REACHED, f"A user has at most {rules.limits.devices_max} devices.")
        log.device_count += 1
    oldest = at - timedelta(hours=rules.limits.idempotency_hours)
    origin = Origin(push.device, push.actor, push.sees)
    results: list[Result] = []
    written: list[Written] = []
    most = log.spent + rules.limits.change_bytes_max
    for mutation in push.mutations:
        ref = answer_ref(push, mutation)
        fingerprint = _fingerprint(mutation)
        if mutation.number <= known.number:
            earlier = stored.get(ref) or loaded.get(ref)
            results.append(_again(mutation, earlier, fingerprint, oldest, log.head.seq))
            continue
        try:
            result, events = mutate(log, origin, mutation, at, rules)
        except InboxFull:
            if not results:
                raise
            break
        stored[ref] = StoredAnswer(ref, fingerprint, msgspec.json.encode(result), at)
        cursor = max(known.cursor, mutation.base)
        known = log.devices[push.device] = Device(push.device, mutation.number, cursor, at, known.until)
        log.pushed.add(push.device)
        results.append(result)
        written += events
        if log.spent > most:
            break
    return Accepted(log.head.seq, tuple(written), results=tuple(results))


def _fingerprint(mutation: Mutation) -> bytes:
    """What tells a repeat from another mutation: all but its flaw, which hangs on policies and limits of the moment."""
    if mutation.flaw is not None:
        mutation = msgspec.structs.replace(mutation, flaw=None)
    return blake2b(msgspec.msgpack.encode(mutation), digest_size=16).digest()


def _check(push: Push, number: int, seq: int) -> None:
    """Raise unless the push goes on where the device's last one ended, or before."""
    first = push.mutations[0].number
    if first > number + 1:
        raise MutationGap(number + 1)
    for place, mutation in enumerate(push.mutations):
        if mutation.number != first + place:
            detail = f"Mutation {first + place} is missing: numbers have no holes."
            raise RoostError(Code.INVALID_REQUEST, detail, pointer=f"/mutations/{place}/number")
        if mutation.base > seq and mutation.number > number:
            raise RoostError(Code.CURSOR_AHEAD, f"The log stands at {seq}.", pointer=f"/mutations/{place}/base")


def _again(mutation: Mutation, earlier: StoredAnswer | None, fingerprint: bytes, oldest: datetime, seq: int) -> Result:
    """The answer of a mutation that was answered before."""
    if earlier is None or earlier.at <= oldest:
        return Result(mutation.number, "known", seq)
    if earlier.fingerprint != fingerprint:
        detail = f"Number {mutation.number} of this device was another mutation: take a new name for the device."
        raise RoostError(Code.IDEMPOTENCY_KEY_REUSED, detail)
    return _decode(earlier.answer)
