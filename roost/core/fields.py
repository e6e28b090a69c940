"""Queryable fields: what of a document is kept in clear beside the sealed value, because its definition says so.

They are for SQL and its indexes. An index row holds less than 2,704 bytes in PostgreSQL, so a member that is longer
than `FIELD_BYTES_MAX` as JSON is left out; it is found nowhere, and writing it works.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

FIELD_BYTES_MAX = 1024
"""The longest JSON of one member, in bytes."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def fields_of(value: bytes | None, queryable: Sequence[str]) -> bytes | None:
    """The queryable members of an encoded value, as an encoded object; None if it is no object, or has none of them."""
    if not queryable or value is None or not value.startswith(b"{"):
        return None
    members = _members.decode(value)
    kept = {name: members[name] for name in queryable if name in members and len(members[name]) <= FIELD_BYTES_MAX}
    return msgspec.json.encode(kept) if kept else None
