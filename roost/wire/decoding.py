"""From query strings and JSON bodies to shapes, or to a refusal that says what is wrong, and where.

Strict throughout: a parameter or member that is unknown, or given twice, is refused, because a client that is
misunderstood loses more than one that is told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, inspect

from roost.core import edits as core
from roost.core import jsonvalue
from roost.core.errors import Code, RoostError
from roost.core.limits import Limits
from roost.wire.shapes import AT_MOST, Edit, Shape

S = TypeVar("S", bound=Shape)
QUERY_PARAMETERS_MAX = 16
# A value inside a body (`{"ops":[{"value":…}]}`) may be as deep as a body that is a value.
_ENVELOPE_DEPTH = 3

_Instant = Annotated[datetime, Meta(tz=True)]
_step = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+)\]")


def query(text: bytes, shape: type[S], limits: Limits) -> S:
    """The query parameters as `shape`, or raise `INVALID_REQUEST` naming the parameter."""
    if not text:
        return shape()
    try:
        pairs = parse_qsl(
            text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_PARAMETERS_MAX
        )
    except ValueError:
        detail = f"The query is not UTF-8, percent-encoded, with at most {QUERY_PARAMETERS_MAX} parameters."
        raise RoostError(Code.INVALID_REQUEST, detail) from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in shape.__struct_encode_fields__:
            if not shape.__struct_config__.forbid_unknown_fields:
                continue  # OAuth has it so
            raise RoostError(Code.INVALID_REQUEST, f"There is no query parameter {name!r} here.")
        if name in given:
            raise RoostError(Code.INVALID_REQUEST, f"The query parameter {name!r} is given twice.")
        given[name] = value
    try:
        decoded = msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        raise RoostError(Code.INVALID_REQUEST, f"Query parameter `{place.rstrip('`')}`: {reason}.") from None
    for name, limit in _bounds(shape):
        value = getattr(decoded, name)
        at_most = getattr(limits, limit)
        if value is not UNSET and value > at_most:
            raise RoostError(Code.INVALID_REQUEST, f"Query parameter `{name}`: at most {at_most}.")
    return decoded


def body(data: bytes, shape: type[S], limits: Limits) -> S:
    """A JSON body as `shape`, or raise `INVALID_JSON`, `INVALID_REQUEST` or `TOO_LARGE`, with a pointer."""
    deeper = msgspec.structs.replace(limits, depth_max=limits.depth_max + _ENVELOPE_DEPTH)
    decoded: S = convert(jsonvalue.decode(data, deeper), shape)
    for name, limit in _bounds(shape):
        at_most = getattr(limits, limit)
        if len(getattr(decoded, name)) > at_most:
            raise RoostError(Code.TOO_LARGE, f"At most {at_most} {name} in one request.", pointer=f"/{name}")
    return decoded


def convert(value: Any, shape: Any) -> Any:
    """Decoded JSON as `shape`, or raise `INVALID_REQUEST` with a pointer."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise misfit(error) from None


def misfit(error: msgspec.ValidationError) -> RoostError:
    """The refusal, with a pointer, of JSON that does not have the shape that it should have."""
    reason, _, place = str(error).partition(" - at `$")
    pointer = jsonvalue.pointer_of(name or index for name, index in _step.findall(place))
    return RoostError(Code.INVALID_REQUEST, f"{reason}.", pointer=pointer)


def edits(given: Sequence[Edit], limits: Limits, pointer: str = "") -> tuple[core.Edit, ...]:
    """Edits that stood at `pointer` in a body, or raise `INVALID_REQUEST` or `TOO_LARGE`."""
    found: list[core.Edit] = msgspec.convert(msgspec.to_builtins(given), list[core.Edit])
    try:
        core.check(found, limits)
    except RoostError as error:
        error.pointer = f"{pointer}{error.pointer or ''}"
        raise
    return tuple(found)


def instant(text: str, name: str, pointer: str | None = None) -> datetime:
    """A time in UTC, or raise `INVALID_REQUEST`."""
    try:
        # UTC here, because further in a time that UTC cannot hold would be an error of the server's.
        at: datetime = msgspec.convert(text, _Instant).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        detail = f"`{name}` is a time as RFC 3339 writes it, with an offset: 2026-01-31T12:00:00Z (in a URL, + is %2B)."
        raise RoostError(Code.INVALID_REQUEST, detail, pointer=pointer) from None
    return at


@cache
def _bounds(shape: type[Any]) -> tuple[tuple[str, str], ...]:
    """The fields of a shape that a limit bounds, and the names of the limits."""
    found = []
    info = inspect.type_info(shape)
    for field in info.fields if isinstance(info, inspect.StructType) else ():
        extra = field.type.extra_json_schema if isinstance(field.type, inspect.Metadata) else None
        if extra and AT_MOST in extra:
            found.append((field.name, extra[AT_MOST]))
    return tuple(found)
