"""Siblings: values of one document that were written without having seen each other, and stand side by side.

A log of one user is serial, so a seq is exact causal context: a write that had seen the log up to its base
replaces what was written up to there, and what its own device wrote; it leaves the rest beside it. This is a dotted
version vector set with a single dot for each value (Preguiça et al., "Dotted Version Vectors", 2010). Which
versions an event leaves is decided once, and written in the event (`beside`), so adding up a log takes no judgement.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from roost.core.events import Document, Event


class Sibling(msgspec.Struct, frozen=True):
    """One of the values: `version` is the seq that wrote it."""

    version: int
    value: msgspec.Raw
    at: datetime


_decoder = msgspec.json.Decoder(list[Sibling])


def beside(document: Document | None) -> list[Sibling]:
    """The values beside a document's own, oldest first."""
    return _decoder.decode(document.siblings) if document is not None and document.siblings else []


def values(document: Document | None) -> list[Sibling]:
    """All values of a document, its own last; none of a tombstone."""
    if document is None or document.value is None:
        return []
    own = Sibling(document.version, msgspec.Raw(document.value), document.updated_at)
    return [*beside(document), own]


def after(document: Document | None, event: Event) -> bytes | None:
    """What stands beside the value of `event`, once it has happened to `document`."""
    if not event.beside:
        return None
    left = [sibling for sibling in values(document) if sibling.version in event.beside]
    return msgspec.json.encode(left) if left else None
