"""Between rows and what they mean: the one place that knows the order of columns in `sql/`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from roost.core.events import Event, Head
from roost.core.ids import lane_of
from roost.engines.connections import Record

_counts = msgspec.json.Decoder(dict[str, int])


def head_of(row: Record) -> Head:
    """A head from `user_id, seq, floor, created_at, updated_at, counts, clock, erased_at`."""
    user, seq, floor, created_at, updated_at, counts, clock, erased_at = row
    return Head(user, seq, floor, created_at, updated_at, _counts.decode(counts), clock, erased_at)


def event_of(row: Record) -> Event:
    """An event from `user_id, seq, kind, collection, key, value, at, actor, device, mutation, clock, beside, edits`."""
    _, seq, kind, collection, key, value, at, actor, device, mutation, clock, beside, edits = row
    return Event(seq, kind, collection, key, value, at, actor, device, mutation, clock, tuple(beside or ()), edits)


def columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Rows, one at least, as the arrays that `unnest` takes, one a column."""
    return [list(column) for column in zip(*rows, strict=True)]


def refs_columns(refs: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Refs, one at least, as arrays, the lanes of their users first."""
    return [[lane_of(ref[0]) for ref in refs], *columns(refs)]


def sparse(column: list[Any]) -> list[Any]:
    """A column; an empty one where it holds nothing but None. `unnest` fills up what is short with NULL."""
    return column if any(item is not None for item in column) else []
