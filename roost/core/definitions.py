"""What is defined of a collection. A definition is stored like any document: see `roost.core.ids.DEFINITIONS`.

It is decoded leniently, because a newer node may have written more into it than this one knows; what callers send
is held to the members that there are, at the door.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Policy = Literal["cas", "lww", "merge", "siblings"]
"""What happens to a write that has not seen the last one; see docs/guides/sync.md."""

RESERVED_POLICY: Final = "lww"
"""The policy of Roost's own collections, whatever the default: what it writes there is never in anybody's way."""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection is: `conflict` is its conflict policy."""

    conflict: Policy


def encode(definition: Definition) -> bytes:
    """A definition as it is stored."""
    return msgspec.json.encode(definition)


decode = msgspec.json.Decoder(Definition).decode
"""The reverse of `encode`. Raises `msgspec.DecodeError`."""
