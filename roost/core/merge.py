"""What stands, and what is set aside, where an edit meets edits that its writer had not seen.

One pure function for each conflict policy. Edits are ordered by their stamps (hybrid logical clock, device, mutation),
which agree with what their writers knew; so the result does not depend on the order in which they arrive:
`merge` gives what doing all edits in the order of their stamps would give, but for two things. An `add` wins over a
`remove` that had not seen it. And edits of fields do not bring back a document that others have deleted, which
would be a document of those fields alone; only a whole new value does.

The register, the counter and the add-wins set are the ones of Shapiro et al., "A comprehensive study of Convergent and
Commutative Replicated Data Types" (2011), with a seq as the causal context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from roost.core import edits as editing
from roost.core import siblings
from roost.core.commands import Op
from roost.core.edits import ABSENT, Edit
from roost.core.errors import Code, RoostError
from roost.core.events import Document, Event, Stamp
from roost.core.jsonvalue import encode_value
from roost.core.limits import Limits
from roost.core.patch import equal


class Lost(NamedTuple):
    """Something that does not stand: a `value` (None for a deletion) or `edits`; `version` where it was in the log."""

    version: int | None
    value: bytes | None
    edits: tuple[Edit, ...] | None = None


class Standing(NamedTuple):
    """What an edit comes to.

    With `writes`, there is an event with this `value`, `edits` and `beside`; else everything stays as it is. `lost`
    is what goes to the inbox.
    """

    writes: bool
    value: bytes | None = None
    edits: bytes | None = None
    beside: tuple[int, ...] = ()
    lost: tuple[Lost, ...] = ()


class Conflict(NamedTuple):
    """An op of a device, the document as it is now, and its `events` after the base of the op, in order.

    At least one of these is somebody else's.
    """

    op: Op
    stamp: Stamp
    document: Document
    events: Sequence[Event]
    limits: Limits

    def is_own(self, event: Event) -> bool:
        """Whether the device wrote it, and so knew of it. What it left as others had written it, it need not know."""
        return event.mutation is not None and event.device == self.stamp.device and event.edits != NO_EDITS

    @property
    def unseen(self) -> list[Event]:
        """What the device did not know of."""
        return [event for event in self.events if not self.is_own(event)]

    @property
    def own(self) -> bool:
        """Whether the document's last event is the device's own."""
        return self.is_own(self.events[-1])

    @property
    def aside(self) -> tuple[Lost, ...]:
        """Values that stand beside the document's own from when the policy was another."""
        return tuple(Lost(each.version, bytes(each.value)) for each in siblings.beside(self.document))

    @property
    def gone_by_own(self) -> bool:
        """Whether the document is gone because the device itself has deleted it."""
        wholes = [event for event in self.events if event.edits is None]
        return self.document.value is None and bool(wholes) and self.is_own(wholes[-1])


def cas(conflict: Conflict) -> Standing:
    """Nothing is decided for anybody: the edit is refused."""
    document = conflict.document
    detail = f"The document is at version {document.version}, which this edit had not seen."
    raise RoostError(Code.VERSION_CONFLICT, detail, current=None if document.value is None else document)


def lww(conflict: Conflict) -> Standing:
    """The later of two whole values stands."""
    op, document = conflict.op, conflict.document
    if not conflict.own and conflict.stamp < conflict.unseen[-1].stamp:
        return Standing(writes=False, lost=(asked(op),))
    value = _value_of(op, document.value, conflict.limits)
    lost = conflict.aside if conflict.own else (*conflict.aside, Lost(document.version, document.value))
    # A deletion of what is deleted is written too: the document is deleted later now, and what counts is when.
    return Standing(writes=True, value=value, edits=_edits_of(op), lost=lost)


def keep_siblings(conflict: Conflict) -> Standing:
    """Both values stand, until a write that has seen both."""
    op, document = conflict.op, conflict.document
    unseen = {event.seq for event in conflict.unseen}
    standing = [sibling for sibling in siblings.values(document) if sibling.version in unseen]
    # Edits are made on what the device knew, its own last value above all: the others stand beside it anyway.
    known = [bytes(sibling.value) for sibling in siblings.values(document) if sibling.version not in unseen]
    value = _value_of(op, known[-1] if known else document.value, conflict.limits)
    if value is None:
        if not standing:
            return Standing(writes=document.value is not None)
        *beside, shown = standing
        replaced = len(standing) < len(siblings.values(document))
        versions = tuple(sibling.version for sibling in beside)
        return Standing(replaced, bytes(shown.value), NO_EDITS, versions, (asked(op),))
    others = tuple(sibling.version for sibling in standing)
    if len(others) >= conflict.limits.siblings_max:
        raise RoostError(Code.LIMIT_REACHED, f"At most {conflict.limits.siblings_max} values stand side by side.")
    deleted = () if document.value is not None or conflict.own else (Lost(document.version, None),)
    return Standing(writes=True, value=value, beside=others, lost=deleted)


def merge(conflict: Conflict) -> Standing:
    """Edits of several people all count, as far as they can."""
    document = conflict.document
    mine = edits_asked(conflict.op)
    if not mine:
        return Standing(writes=False)
    if conflict.gone_by_own and mine[0].path:
        # The device had deleted the document itself: these edits make a new one.
        anew = editing.apply(ABSENT, mine)
        if anew is ABSENT:
            return Standing(writes=False)
        mine = (editing.whole(anew),)
    merging = _Merging(mine, conflict)
    value = merging.run(decoded(document.value))
    if mine[0] == GONE:
        if merging.masked:
            return Standing(writes=False, lost=(asked(conflict.op),))
        lost = () if document.value is None else (Lost(document.version, document.value),)
        return Standing(writes=True, lost=(*conflict.aside, *lost))
    aside = [*conflict.aside, *merging.overridden]
    if merging.masked or value is ABSENT:
        aside.append(Lost(None, None, tuple(mine if value is ABSENT else merging.masked)))
    # Written even where nothing of it shows: edits that come later but were made earlier must find it.
    encoded = None if value is ABSENT else encode_value(value, conflict.limits)
    edits = editing.encode(merging.kept) if encoded is None else recorded(merging.kept)
    return Standing(writes=True, value=encoded, edits=edits, lost=tuple(aside))


GONE = Edit("unset", "")
"""The edit that a deletion is."""
NO_EDITS = editing.encode(())
"""What an event did that left the value as it was."""

POLICIES: dict[str, Callable[[Conflict], Standing]] = {
    "cas": cas,
    "lww": lww,
    "merge": merge,
    "siblings": keep_siblings,
}


def decoded(value: bytes | None) -> Any:
    """A document's value as data; `ABSENT` for a tombstone."""
    return ABSENT if value is None else msgspec.json.decode(value)


def recorded(edits: Sequence[Edit]) -> bytes | None:
    """Edits as an event keeps them: None where they replace the whole value, which it keeps anyway."""
    if len(edits) == 1 and edits[0].op == "set" and not edits[0].path:
        return None
    return editing.encode(edits)


def edits_asked(op: Op) -> Sequence[Edit]:
    """What an op of a device does: a `put` that does not say more replaces everything, as a deletion does."""
    if op.kind == "delete":
        return (GONE,)
    return (editing.whole(decoded(op.argument)),) if op.edits is None else op.edits


def edits_of(event: Event) -> Sequence[Edit]:
    """What an event did."""
    if event.edits is not None:
        return editing.decode(event.edits)
    return (GONE if event.value is None else editing.whole(decoded(event.value)),)


class _Merging:
    """My edits, put among those of others where their stamp belongs."""

    def __init__(self, mine: Sequence[Edit], conflict: Conflict) -> None:
        self._mine = mine
        self._stamp = conflict.stamp
        events = [(event, edits_of(event)) for event in conflict.events]
        self._theirs = [(event, edits) for event, edits in events if not conflict.is_own(event)]
        self._replaced = [(event.stamp, edit) for event, edits in events for edit in edits if edit.replaces]
        self._added = [(event.stamp, edit) for event, edits in self._theirs for edit in edits if edit.op == "add"]
        self.kept: list[Edit] = []
        self._later = self._in_order([(event, edits) for event, edits in self._theirs if event.stamp > self._stamp])
        self.masked: list[Edit] = []
        self.overridden: list[Lost] = []

    def run(self, value: Any) -> Any:
        """`value` with those of my edits that count. A document that is gone stays so unless it is put anew."""
        before = value
        for edit in self._mine:
            if self._is_masked(edit) or not _counts(value, edit):
                self.masked.append(edit)
                continue
            self.kept.append(edit)
            value = _unless_gone(value, edit)
            if edit.replaces:
                # What was done later, further down, goes on top again.
                for event, later in self._later:
                    if editing.covers(edit.tokens, later.tokens):
                        if not _counts(value, later):
                            self.overridden.append(Lost(event.seq, None, (later,)))
                        value = _unless_gone(value, later)
                        self.masked += _parts(edit, later)
        for event, edits in self._theirs:
            overridden = tuple(lost for edit in edits for lost in self._overridden(event, edit, before))
            if overridden:
                whole = not overridden[0].path and overridden[0].replaces
                self.overridden.append(Lost(event.seq, event.value) if whole else Lost(event.seq, None, overridden))
        return value

    def _is_masked(self, edit: Edit) -> bool:
        """Whether somebody replaced the place later, or added, unseen, what I take away."""
        place = edit.tokens
        if any(later.replaces and editing.covers(later.tokens, place) for _, later in self._later):
            return True
        return edit.op == "remove" and any(
            _same_element(added, edit) and self._stands(stamp, added) for stamp, added in self._added
        )

    def _stands(self, stamp: Stamp, edit: Edit) -> bool:
        """Whether the place of an edit was not replaced after it was made."""
        replaced = [*self._replaced, *((self._stamp, mine) for mine in self.kept if mine.replaces)]
        return not any(when > stamp and editing.covers(other.tokens, edit.tokens) for when, other in replaced)

    def _in_order(self, theirs: Sequence[tuple[Event, Sequence[Edit]]]) -> list[tuple[Event, Edit]]:
        """Edits as if each had come when it was made, from events in the order of the log.

        Where the log has a `remove` before an `add` of the same element, the one did not know of the other, and is
        void.
        """
        effective: list[tuple[Event, Edit]] = []
        for event, edits in theirs:
            for edit in edits:
                if edit.op == "add" and self._stands(event.stamp, edit):
                    effective = [
                        (earlier, other)
                        for earlier, other in effective
                        if not (other.op == "remove" and _same_element(other, edit))
                    ]
                effective.append((event, edit))
        return sorted(effective, key=lambda pair: pair[0].stamp)

    def _overridden(self, event: Event, theirs: Edit, before: Any) -> Sequence[Edit]:
        """What is gone, because of mine, of an edit of somebody else's; `before` is the value without mine."""
        if theirs.op == "remove":
            adds = [mine for mine in self.kept if mine.op == "add" and mine.path == theirs.path]
            if any(equal(mine.value, theirs.value) and editing.apply(before, [mine]) is not before for mine in adds):
                return (theirs,)
        if event.stamp > self._stamp:
            return ()
        replacing = [mine for mine in self.kept if mine.replaces]
        if any(editing.covers(mine.tokens, theirs.tokens) and not _same(mine, theirs) for mine in replacing):
            return (theirs,)
        parts = [part for mine in self.kept for part in _parts(theirs, mine)]
        # Where there is nothing any more it has gone before, and been told of then.
        return [part for part in parts if not equal(editing.apply(before, [Edit("unset", part.path)]), before)]


def _counts(value: Any, edit: Edit) -> bool:
    """Whether there is something to be seen of an edit that adds to what is there."""
    return edit.op not in ("inc", "add") or editing.fits(value, edit)


def _same_element(one: Edit, other: Edit) -> bool:
    return one.path == other.path and equal(one.value, other.value)


def _same(one: Edit, other: Edit) -> bool:
    return one.path == other.path and one.op == other.op and equal(one.value, other.value)


def _parts(whole: Edit, part: Edit) -> list[Edit]:
    """What a later edit further down takes away of a value that an earlier one has set, as the edits that bring it."""
    if whole.op != "set" or not editing.covers(whole.tokens, part.tokens):
        return []
    if part.op == "remove":
        value = editing.apply(ABSENT, [whole])
        return [] if editing.apply(value, [part]) is value else [Edit("add", part.path, part.value)]
    if not part.replaces or whole.path == part.path:
        return []
    value, depth = whole.value, len(whole.tokens)
    while isinstance(value, dict) and depth < len(part.tokens):
        value = value.get(part.tokens[depth], ABSENT)
        depth += 1
    stays = value is ABSENT or (depth == len(part.tokens) and part.op == "set" and equal(value, part.value))
    return [] if stays else [Edit("set", editing.path_of(part.tokens[:depth]), value)]


def _unless_gone(value: Any, edit: Edit) -> Any:
    return value if value is ABSENT and edit.path else editing.apply(value, [edit])


def asked(op: Op) -> Lost:
    """All of an op, as something lost."""
    if op.edits is not None and op.kind == "edit":
        return Lost(None, None, op.edits)
    return Lost(None, op.argument if op.kind == "put" else None)


def _edits_of(op: Op) -> bytes | None:
    return editing.encode(op.edits or ()) if op.kind == "edit" else None


def _value_of(op: Op, value: bytes | None, limits: Limits) -> bytes | None:
    """What an op that knows nothing of others makes of a value. Raises `PATCH_FAILED`: an edit may not fit any more."""
    if op.kind == "edit":
        after = editing.fitted(decoded(value), op.edits or ())
        return None if after is ABSENT else encode_value(after, limits)
    written: bytes | None = op.argument if op.kind == "put" else None
    return written
