"""What is defined of a collection. A definition is stored like any document: see `roost.core.ids.DEFINITIONS`.

It is decoded leniently, because a newer node may have written more into it than this one knows; what callers send
is held to the members that there are, at the door.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Policy = Literal["cas", "lww", "merge", "siblings"]
"""What happens to a write that has not seen the last one; see docs/guides/sync.md."""

RESERVED_POLICY: Final = "lww"
"""The policy of Roost's own collections, whatever the default: what it writes there is never in anybody's way."""


FieldName = Annotated[str, Meta(min_length=1, max_length=100)]
"""A member of a document, by its name at the top."""

Privacy = Literal["public", "internal", "personal", "sensitive"]
"""How much harm it does if the wrong person sees a collection's documents; policies decide by it."""

Audit = Literal["writes", "reads", "strict"]
"""What is put on record: writes are by themselves, in the log; `reads` too; `strict`: before the answer is given."""

SECONDS_MAX = 100 * 366 * 24 * 3600
FIELDS_MAX = 32


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a collection is: how it merges, who it is for, what may be seen of it in the database, and for how long."""

    conflict: Policy
    privacy: Privacy = "personal"
    audit: Audit = "writes"
    queryable: Annotated[tuple[FieldName, ...], Meta(max_length=FIELDS_MAX)] = ()
    """The members of a document that are kept in clear beside the sealed value, for SQL."""
    masked: Annotated[tuple[FieldName, ...], Meta(max_length=FIELDS_MAX)] = ()
    """The members of a document that support staff do not see."""
    ttl_s: Annotated[int, Meta(ge=1, le=SECONDS_MAX)] | None = None
    """How long after its last write a document is deleted, in seconds."""
    history_s: Annotated[int, Meta(ge=1, le=SECONDS_MAX)] | None = None
    """How long the history of logs with such documents is kept at most, in seconds."""


def encode(definition: Definition) -> bytes:
    """A definition as it is stored."""
    return msgspec.json.encode(definition)


decode = msgspec.json.Decoder(Definition).decode
"""The reverse of `encode`. Raises `msgspec.DecodeError`."""
