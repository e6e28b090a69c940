"""The shapes of what goes over the wire: query parameters, request bodies and answers.

Handlers decode with these types and encode with them, and the OpenAPI document is generated from them, so none of
the three can say something else than the others. A bound that settings can change stands under `AT_MOST`, as the
name of its limit, because a type is made before settings are read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from roost.core import definitions
from roost.core.errors import Code
from roost.core.ids import (
    CLIENT_PATTERN,
    COLLECTION_PATTERN,
    DEVICE_PATTERN,
    POLICY_PATTERN,
    SESSION_PATTERN,
    USER_PATTERN,
)
from roost.core.limits import KEY_BYTES_MAX, NUMBER_MAX

AT_MOST = "x-at-most"
KEY_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f/]+$"
PREFIX_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f/]*$"

Seq = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
Version = Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
UserName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{USER_PATTERN}$"})]
PolicyName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{POLICY_PATTERN}$"})]
CollectionName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{COLLECTION_PATTERN}$"})]
SessionId = Annotated[str, Meta(extra_json_schema={"pattern": f"^{SESSION_PATTERN}$"})]
ClientName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{CLIENT_PATTERN}$"})]
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


class ListQuery(Shape, frozen=True):
    """A page of a list."""

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


Place = Annotated[
    str,
    Meta(
        pattern="^(/([^/~]|~[01])*)*$",
        description="A JSON Pointer (RFC 6901) through names of members; empty for the whole value.",
    ),
]


class SetEdit(Shape, frozen=True, tag_field="op", tag="set"):
    """The value at `path` is now `value`; objects on the way are made."""

    path: Place
    value: JsonValue


class UnsetEdit(Shape, frozen=True, tag_field="op", tag="unset"):
    """The member at `path` goes."""

    path: Annotated[Place, Meta(min_length=1)]


class IncEdit(Shape, frozen=True, tag_field="op", tag="inc"):
    """The counter at `path` goes up by `value`."""

    path: Place
    value: Annotated[int, Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)]


class AddEdit(Shape, frozen=True, tag_field="op", tag="add"):
    """`value` is in the set at `path`."""

    path: Place
    value: JsonValue


class RemoveEdit(Shape, frozen=True, tag_field="op", tag="remove"):
    """`value` is not in the set at `path`."""

    path: Place
    value: JsonValue


Edit: TypeAlias = SetEdit | UnsetEdit | IncEdit | AddEdit | RemoveEdit
Edits = Annotated[list[Edit], Meta(min_length=1, extra_json_schema={AT_MOST: "batch_ops_max"})]


# Answers, and bodies of the same shape


class Definition(Shape, definitions.Definition, frozen=True):
    """What a collection is.

    `conflict`: what happens to a write that has not seen the last one. `privacy`: how much harm it does if the
    wrong person sees it. `audit`: which accesses are put on record besides writes. `queryable`: members that are kept
    in clear for SQL. `masked`: members that support staff do not see. `ttl_s`: how long after its last write a
    document is deleted. `history_s`: how long the history of logs with such documents is kept at most.
    """


class Event(Shape, frozen=True):
    """What happened to a document, with its value afterwards: null for `delete`.

    `erase` ends a log: the user is gone, and the event belongs to no document.
    """

    seq: Version
    kind: Literal["put", "delete", "erase"]
    collection: CollectionName
    key: Key
    value: JsonValue
    at: Instant
    actor: Annotated[str, Meta(pattern=r"^[!-~]{1,160}$", description="Who did it.")]
    device: Annotated[str, Meta(pattern=r"^[!-~]{1,128}$", description="On which device.")] | None = None
    mutation: Annotated[Seq, Meta(description="The device's number for the edit.")] | UnsetType = UNSET
    clock: (
        Annotated[Seq, Meta(description="When it was made: a hybrid logical clock in µs, where that is not just `at`.")]
        | UnsetType
    ) = UNSET
    beside: (
        Annotated[list[Version], Meta(description="The versions that stand on beside this one, as siblings.")]
        | UnsetType
    ) = UNSET
    edits: (
        Annotated[list[Edit], Meta(description="What was done, where that was less than to replace the whole value.")]
        | UnsetType
    ) = UNSET


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


class Sibling(msgspec.Struct, frozen=True):
    """One of several values of a document that stand side by side."""

    version: Version
    value: JsonValue
    at: Instant


SomeSiblings: TypeAlias = (
    Annotated[list[Sibling], Meta(description="All values, the newest last; only where there are several.")] | UnsetType
)


class Siblings(msgspec.Struct, frozen=True):
    """All values of a document that stand, the newest last; `version` is that one's, and the document's."""

    version: Version
    siblings: Annotated[list[Sibling], Meta(min_length=1)]


class ListedDocument(msgspec.Struct, frozen=True):
    """A document in a list."""

    key: Key
    version: Version
    value: JsonValue
    updated_at: Instant
    siblings: SomeSiblings = UNSET


class DocumentPage(msgspec.Struct, frozen=True):
    """Documents by key (bytes). `next` is the cursor of the page that follows, null at the end."""

    items: list[ListedDocument]
    next: str | None


class VersionedValue(msgspec.Struct, frozen=True):
    """A value and the version that wrote it."""

    version: Version
    value: JsonValue
    siblings: SomeSiblings = UNSET


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


class OpResult(msgspec.Struct, frozen=True):
    """What became of an op."""

    collection: CollectionName
    key: Key
    version: Version


class BatchResult(msgspec.Struct, frozen=True):
    """Where the log stands after the batch, and a result for each op, in order."""

    seq: Seq
    results: list[OpResult]


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


class ListedDefinition(definitions.Definition, frozen=True, kw_only=True):
    """A collection, its definition, and the definition's version."""

    name: CollectionName
    version: Version


class DefinitionPage(msgspec.Struct, frozen=True):
    """Collections that are defined, by name. `next` is the cursor of the page that follows, null at the end."""

    items: list[ListedDefinition]
    next: str | None


class Kept(msgspec.Struct, frozen=True):
    """The document as it stands after the decision; the value is null where there is none.

    Where much was set aside at once, the value is left out.
    """

    version: Version | None
    value: JsonValue | UnsetType = UNSET


class Given(msgspec.Struct, frozen=True):
    """What did not make it: a value (null for a deletion), or edits; with a version where it was in the log."""

    version: Version | UnsetType = UNSET
    value: JsonValue | UnsetType = UNSET
    edits: list[Edit] | UnsetType = UNSET


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision set aside, for the user to see. `policy` decided; `outcome` is the mutation's status."""

    id: Key
    at: Instant
    policy: definitions.Policy
    outcome: Literal["merged", "refused"]
    code: Code | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    # As the device sent them, which may be why it was refused.
    collection: str
    key: str
    device: Annotated[str, Meta(extra_json_schema={"pattern": f"^{DEVICE_PATTERN}$"})]
    mutation: Version
    base: Seq
    kept: Kept
    lost: Given


class ConflictPage(msgspec.Struct, frozen=True):
    """Conflicts, oldest first. `next` is the cursor of the page that follows, null at the end."""

    items: list[Conflict]
    next: str | None


class Health(msgspec.Struct, frozen=True):
    """The process lives, or can serve."""

    status: Literal["ok"]
