"""The shapes of changes: what a JSON Patch and a batch may say. See `roost.wire.shapes`, which they are made of."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from roost.wire.shapes import AT_MOST, CollectionName, Edits, JsonValue, Key, Seq, Shape

Pointer = Annotated[str, Meta(pattern="^(/([^/~]|~[01])*)*$", description="A JSON Pointer (RFC 6901).")]


class PatchOperation(msgspec.Struct, frozen=True, tag_field="op"):
    """An operation of a JSON Patch (RFC 6902); members that it does not have are ignored."""

    path: Pointer


class AddOperation(PatchOperation, frozen=True, tag="add"):
    """Put a value where there is none, or into an array."""

    value: JsonValue


class RemoveOperation(PatchOperation, frozen=True, tag="remove"):
    """Take a value away."""


class ReplaceOperation(PatchOperation, frozen=True, tag="replace"):
    """Put a value in place of another."""

    value: JsonValue


class MoveOperation(PatchOperation, frozen=True, tag="move", rename={"from_": "from"}):
    """Take a value away, and put it elsewhere."""

    from_: Pointer


class CopyOperation(PatchOperation, frozen=True, tag="copy", rename={"from_": "from"}):
    """Put a value elsewhere too."""

    from_: Pointer


class TestOperation(PatchOperation, frozen=True, tag="test"):
    """See that a value is this one."""

    value: JsonValue


JsonPatch = Annotated[
    list[AddOperation | RemoveOperation | ReplaceOperation | MoveOperation | CopyOperation | TestOperation],
    Meta(extra_json_schema={AT_MOST: "batch_ops_max"}),
]


IfVersion: TypeAlias = (
    Annotated[Seq, Meta(description="The version the document must be at; 0: it must not exist.")] | UnsetType
)


class PutOp(Shape, frozen=True, tag_field="op", tag="put"):
    """Write a value."""

    collection: CollectionName
    key: Key
    value: JsonValue
    if_version: IfVersion = UNSET


class MergeOp(Shape, frozen=True, tag_field="op", tag="merge"):
    """Change by a JSON Merge Patch (RFC 7396)."""

    collection: CollectionName
    key: Key
    patch: JsonValue
    if_version: IfVersion = UNSET


class PatchOp(Shape, frozen=True, tag_field="op", tag="patch"):
    """Change by a JSON Patch (RFC 6902)."""

    collection: CollectionName
    key: Key
    patch: JsonPatch
    if_version: IfVersion = UNSET


class EditOp(Shape, frozen=True, tag_field="op", tag="edit"):
    """Change field by field."""

    collection: CollectionName
    key: Key
    edits: Edits
    if_version: IfVersion = UNSET


class DeleteOp(Shape, frozen=True, tag_field="op", tag="delete"):
    """Delete the document."""

    collection: CollectionName
    key: Key
    if_version: IfVersion = UNSET


AnyOp: TypeAlias = PutOp | MergeOp | PatchOp | EditOp | DeleteOp


class Batch(Shape, frozen=True):
    """Ops on one user's documents: all or none."""

    ops: Annotated[list[AnyOp], Meta(min_length=1, extra_json_schema={AT_MOST: "batch_ops_max"})]
