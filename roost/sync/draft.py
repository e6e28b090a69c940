"""A mutation in the making: what a person does in one step, as the ops that will be pushed.

A draft sees its own ops, and refuses at once what the server would refuse for good, so that a device learns of
it while the person is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from roost.core import edits as editing
from roost.core import jsonvalue, patch
from roost.core.commands import Mutation, Op
from roost.core.edits import ABSENT, Edit
from roost.core.errors import Code, RoostError
from roost.core.events import DocumentId
from roost.core.ids import check_collection, check_key, check_writable
from roost.core.limits import Limits
from roost.sync.frames import encode, mutation_frame

MUTATION_BYTES_MAX = 900 << 10
"""A mutation as JSON; it has to fit into a frame and into the body of a push."""


class Draft:
    """Ops in order, on documents as they are now. Each method raises `RoostError` and then has done nothing.

    `value_of` gives a document's value or `ABSENT`; `has_siblings` says whether values stand beside it, `is_pending`
    whether the value that shows is one that the server has not seen. `cursor` is where the replica stood when the
    draft was begun: what it reads later, the draft's maker has not seen.
    """

    def __init__(
        self,
        value_of: Callable[[DocumentId], Any],
        has_siblings: Callable[[DocumentId], bool],
        is_pending: Callable[[DocumentId], bool],
        collections: frozenset[str] | None,
        limits: Limits,
        cursor: int,
    ) -> None:
        self.cursor = cursor
        self.ops: list[Op] = []
        self.values: dict[DocumentId, Any] = {}
        self._value_of = value_of
        self._has_siblings = has_siblings
        self._is_pending = is_pending
        self._collections = collections
        self._limits = limits

    def value(self, collection: str, key: str) -> Any:
        """The document's value with this draft; `ABSENT` where there is none. Not to be changed in place."""
        name = collection, key
        return self.values[name] if name in self.values else self._value_of(name)

    def put(self, collection: str, key: str, value: Any) -> None:
        """The document's value is now `value`; nothing, if it is that already."""
        name = self._name(collection, key)
        jsonvalue.check(value, self._limits)
        value = msgspec.json.decode(jsonvalue.encode_value(value, self._limits))
        edits = editing.difference(self.value(*name), value)
        if not edits and not self._has_siblings(name):
            return
        self._put(name, value, edits)

    def edit(self, collection: str, key: str, edits: list[Edit]) -> None:
        """Change the document field by field; every edit must fit what is there. Where there is none, one is made."""
        name = self._name(collection, key)
        for index, each in enumerate(edits):
            if each.value is not ABSENT:
                jsonvalue.check(each.value, self._limits, f"/{index}/value")
        if edits:
            self._edit(name, editing.decode(editing.encode(edits)))

    def merge(self, collection: str, key: str, changes: Any) -> None:
        """Change the document by a JSON Merge Patch (RFC 7396); nothing, if that leaves it as it is."""
        name = self._name(collection, key)
        jsonvalue.check(changes, self._limits)
        before = self.value(*name)
        changes = msgspec.json.decode(jsonvalue.encode(changes))
        after = patch.merge(None if before is ABSENT else before, changes)
        edits = editing.difference(before, after)
        if len(edits) > self._limits.batch_ops_max:
            self._put(name, after, edits)
        elif edits:
            self._edit(name, edits)

    def delete(self, collection: str, key: str) -> None:
        """The document goes; nothing, where there is none."""
        name = self._name(collection, key, deletes=True)
        if self.value(*name) is not ABSENT:
            self._add(Op("delete", *name), ABSENT)

    def check_size(self, mutation: Mutation) -> None:
        """Raise `TOO_LARGE` for a mutation that no push can hold."""
        if len(encode(mutation_frame(mutation))) > MUTATION_BYTES_MAX:
            raise RoostError(Code.TOO_LARGE, f"What is done in one step is at most {MUTATION_BYTES_MAX} bytes of JSON.")

    def _put(self, name: DocumentId, value: Any, edits: list[Edit]) -> None:
        encoded = jsonvalue.encode_value(value, self._limits)
        # Edits that are no less than the value say nothing that it does not.
        told = edits and edits[0].path and len(edits) <= self._limits.batch_ops_max
        self._add(Op("put", *name, encoded, edits=tuple(edits) if told else None), value)

    def _edit(self, name: DocumentId, edits: list[Edit]) -> None:
        editing.check(edits, self._limits)
        before = self.value(*name)
        value = editing.fitted(before, edits)
        if value is not ABSENT:
            jsonvalue.encode_value(value, self._limits)
            if before is ABSENT and (name in self.values or self._is_pending(name)):
                # Deleted here, and made anew: edits would be put among those that the deletion is to end.
                self._put(name, value, [])
                return
        self._add(Op("edit", *name, edits=tuple(edits)), value)

    def _add(self, op: Op, value: Any) -> None:
        if len(self.ops) == self._limits.batch_ops_max:
            raise RoostError(Code.TOO_LARGE, f"At most {self._limits.batch_ops_max} ops in one step.")
        self.ops.append(op)
        self.values[op.collection, op.key] = value

    def _name(self, collection: str, key: str, *, deletes: bool = False) -> DocumentId:
        check_writable(check_collection(collection), deletes=deletes)
        if self._collections is not None and collection not in self._collections:
            raise RoostError(Code.INVALID_REQUEST, f"This replica does not hold the collection {collection!r}.")
        return collection, check_key(key)
