"""The shapes of what goes over the wire: query parameters, request bodies and answers.

Handlers decode with these types and encode with them, and the OpenAPI document is generated from them, so none of
the three can say something else than the others. A bound that settings can change stands under `AT_MOST`, as the
name of its limit, because a type is made before settings are read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from roost.core.ids import COLLECTION_PATTERN, USER_PATTERN
from roost.core.limits import KEY_BYTES_MAX, NUMBER_MAX

AT_MOST = "x-at-most"
KEY_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f/]+$"
PREFIX_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f/]*$"

Seq = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
Version = Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
UserName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{USER_PATTERN}$"})]
CollectionName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{COLLECTION_PATTERN}$"})]
# Patterns and lengths of names are told here and checked in `core.ids`, so that a bad name is `invalid_name`.
Key = Annotated[
    str,
    Meta(
        description=f"1 to {KEY_BYTES_MAX} bytes of UTF-8 without control characters or `/`.",
        extra_json_schema={"pattern": KEY_PATTERN, "minLength": 1, "maxLength": KEY_BYTES_MAX},
    ),
]
JsonValue = Annotated[Any, Meta(description="Any JSON value.")]

PageSize = Annotated[
    int,
    Meta(
        ge=1, description="How many at most; the server has a default.", extra_json_schema={AT_MOST: "page_items_max"}
    ),
]
Cursor = Annotated[
    str, Meta(description="`next` of the page before.", extra_json_schema={"pattern": "^[A-Za-z0-9_-]+$"})
]


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller sends: a name that is not known is refused, not ignored."""


# Query parameters


class NoQuery(Shape, frozen=True):
    """An operation without query parameters."""


class AtQuery(Shape, frozen=True):
    """A moment of the past; at most one of the two."""

    at_seq: Annotated[Seq, Meta(description="As it was when the user's log stood here.")] | UnsetType = UNSET
    at: Annotated[Instant, Meta(description="As it was at this time (RFC 3339, with an offset).")] | UnsetType = UNSET


class PageQuery(Shape, frozen=True):
    """A page of a collection."""

    prefix: Annotated[
        str,
        Meta(
            description="Only keys that start with this.",
            extra_json_schema={"pattern": PREFIX_PATTERN, "maxLength": KEY_BYTES_MAX},
        ),
    ] = ""
    limit: PageSize | UnsetType = UNSET
    after: Cursor | UnsetType = UNSET


class UsersQuery(Shape, frozen=True):
    """A page of the list of users."""

    limit: PageSize | UnsetType = UNSET
    after: Cursor | UnsetType = UNSET


class HistoryQuery(Shape, frozen=True):
    """A page of a document's versions."""

    limit: PageSize | UnsetType = UNSET
    before: (
        Annotated[Version, Meta(description="Only versions before this one; `next` of the page before.")] | UnsetType
    ) = UNSET


class LogQuery(Shape, frozen=True):
    """A piece of a user's log."""

    after: Annotated[Seq, Meta(description="The cursor: `seq` of the answer before, 0 to begin.")] = 0
    limit: PageSize | UnsetType = UNSET
    wait: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds to hold an empty answer until there is an event.",
            extra_json_schema={AT_MOST: "wait_s_max"},
        ),
    ] = 0
    collections: (
        Annotated[
            str,
            Meta(
                description="Only events of these collections, separated by commas.",
                extra_json_schema={"pattern": f"^{COLLECTION_PATTERN}(,{COLLECTION_PATTERN})*$"},
            ),
        ]
        | UnsetType
    ) = UNSET


# Request bodies


class Restore(Shape, frozen=True):
    """Which version's value to write again."""

    version: Version


class NewUser(Shape, frozen=True):
    """A user to bring into being. `home` is the region of this server unless given."""

    home: str | UnsetType = UNSET


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


class DeleteOp(Shape, frozen=True, tag_field="op", tag="delete"):
    """Delete the document."""

    collection: CollectionName
    key: Key
    if_version: IfVersion = UNSET


class Batch(Shape, frozen=True):
    """Ops on one user's documents: all or none."""

    ops: Annotated[
        list[PutOp | MergeOp | PatchOp | DeleteOp], Meta(min_length=1, extra_json_schema={AT_MOST: "batch_ops_max"})
    ]


# Answers, and bodies of the same shape


class Event(Shape, frozen=True):
    """What happened to a document, with its value afterwards: null for `delete`."""

    seq: Version
    kind: Literal["put", "delete"]
    collection: CollectionName
    key: Key
    value: JsonValue
    at: Instant
    actor: Annotated[str, Meta(pattern=r"^[!-~]{1,160}$", description="Who did it.")]
    device: Annotated[str, Meta(pattern=r"^[!-~]{1,128}$", description="On which device.")] | None = None
    mutation: Annotated[Seq, Meta(description="The device's number for the edit.")] | UnsetType = UNSET


class Log(Shape, frozen=True):
    """A piece of a log, in `seq` order. `seq` is the cursor to go on from; up to `floor` events may be gone."""

    events: list[Event]
    seq: Seq
    floor: Seq


class NewEvents(Shape, frozen=True):
    """Events of an exported log, in `seq` order; `Log` has the same ones."""

    events: Annotated[list[Event], Meta(min_length=1, extra_json_schema={AT_MOST: "page_items_max"})]


class LogSeq(msgspec.Struct, frozen=True):
    """Where the log stands."""

    seq: Seq


class ListedDocument(msgspec.Struct, frozen=True):
    """A document in a list."""

    key: Key
    version: Version
    value: JsonValue
    updated_at: Instant


class DocumentPage(msgspec.Struct, frozen=True):
    """Documents by key (bytes). `next` is the cursor of the page that follows, null at the end."""

    items: list[ListedDocument]
    next: str | None


class VersionedValue(msgspec.Struct, frozen=True):
    """A value and the version that wrote it."""

    version: Version
    value: JsonValue


class Snapshot(msgspec.Struct, frozen=True):
    """All documents of a user at one `seq`, by collection and key."""

    user: UserName
    seq: Seq
    docs: dict[str, dict[str, VersionedValue]]


class PastVersion(msgspec.Struct, frozen=True):
    """A version of a document: its value (null for `delete`), when, and by whom."""

    version: Version
    kind: Literal["put", "delete"]
    value: JsonValue
    at: Instant
    actor: str
    device: str | None


class HistoryPage(msgspec.Struct, frozen=True):
    """Versions, newest first. `next` goes into `before` for the page that follows, null at the end."""

    items: list[PastVersion]
    next: str | None


class Result(msgspec.Struct, frozen=True):
    """What became of an op."""

    collection: CollectionName
    key: Key
    version: Version


class BatchResult(msgspec.Struct, frozen=True):
    """Where the log stands after the batch, and a result for each op, in order."""

    seq: Seq
    results: list[Result]


class User(msgspec.Struct, frozen=True):
    """Where a user's log stands, and how many documents each collection holds."""

    user: UserName
    home: str
    seq: Seq
    floor: Seq
    created_at: Instant
    collections: dict[str, int]


class UserPage(msgspec.Struct, frozen=True):
    """Users, in an order of the server's own. `next` is the cursor of the page that follows, null at the end."""

    items: list[User]
    next: str | None


class Health(msgspec.Struct, frozen=True):
    """The process lives, or can serve."""

    status: Literal["ok"]
