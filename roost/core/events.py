"""What is stored: events, and the heads and documents that they add up to.

A value is opaque here: JSON already encoded as compact UTF-8 bytes, or None for a deleted document.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Kind = Literal["put", "delete"]
DocumentId = tuple[str, str]
"""(collection, key)"""


class Event(msgspec.Struct, frozen=True):
    """One change of one document, with the document's value after it.

    `seq` is its number in the user's log, dense from 1. `at` never goes back within a log.
    """

    seq: int
    kind: Kind
    collection: str
    key: str
    value: bytes | None
    at: datetime
    actor: str
    device: str | None = None
    mutation: int | None = None


class Document(msgspec.Struct, frozen=True):
    """A document, or with `value` None the tombstone of a deleted one. `version` is the `seq` that wrote it."""

    collection: str
    key: str
    version: int
    value: bytes | None
    updated_at: datetime


class Head(msgspec.Struct, frozen=True):
    """Where a user's log stands.

    `seq` is the last event's, 0 for an empty log. Events up to `floor` may have been folded away.
    `counts` holds the number of documents (not tombstones) of each collection that has any.
    """

    user: str
    seq: int
    floor: int
    created_at: datetime
    updated_at: datetime
    counts: dict[str, int]
