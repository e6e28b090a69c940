"""What requests and answers are made of: names, conditions and JSON on their way out and back, each checked here."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlencode

import msgspec

from roost.client.errors import RoostError, refused_here
from roost.client.exchange import Answer, T, new_key
from roost.client.models import Json
from roost.core import jsonvalue
from roost.core.errors import RoostError as CoreError
from roost.core.limits import Limits as CoreLimits

JSON_BODY = {"content-type": "application/json"}
# The depth is the server's to judge: its limit may have been raised. This one only keeps the check finite.
_ANY_DEPTH = CoreLimits(depth_max=500)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold for a write: at most one of these. `version` 0 is the same as `absent`."""

    version: int | None = None
    absent: bool = False
    present: bool = False

    def headers(self) -> dict[str, str]:
        """The HTTP precondition."""
        if (self.version is not None) + self.absent + self.present > 1:
            raise refused_here("invalid_request", "Give one of if_version, if_absent and if_present.")
        if self.absent or self.version == 0:
            return {"if-none-match": "*"}
        if self.present:
            return {"if-match": "*"}
        return {} if self.version is None else {"if-match": f'"{self.version}"'}


def encode(value: Json) -> bytes:
    """`value` as a body. Raises `InvalidJson` for what the server would refuse, or JSON cannot say.

    Dataclasses, msgspec Structs, tuples, datetimes and the like become what msgspec makes of them.
    """
    try:
        # Not msgspec's encoder: it writes NaN as null.
        text = json.dumps(msgspec.to_builtins(value, str_keys=True), ensure_ascii=False, separators=(",", ":"))
        jsonvalue.decode(body := text.encode(), _ANY_DEPTH)
    except CoreError as error:
        raise refused_here("invalid_json", error.detail) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise refused_here("invalid_json", f"This is not a JSON value: {error}.") from error
    return body


def checked(check: Callable[[str], str], name: str) -> str:
    """`name`, or raise `InvalidName`."""
    try:
        return check(name)
    except CoreError as error:
        raise refused_here("invalid_name", error.detail) from error


def idempotency(key: str | None) -> dict[str, str]:
    """The header under which a write is applied once; a key is made where none is given."""
    return {"idempotency-key": key or new_key()}


def segment(name: str) -> str:
    """A path segment. A key may be `.` or `..`, which readers of URLs take for steps unless the dots are encoded."""
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def query_of(*, at: datetime | None = None, **given: str | int | None) -> str:
    """The query, with its `?`, of what is given. Raises `InvalidRequest` for a time without a zone."""
    fields = {name: value for name, value in given.items() if value is not None}
    if at is not None:
        if at.tzinfo is None:
            raise refused_here("invalid_request", "`at` needs a time zone, or nobody knows which moment is meant.")
        fields["at"] = at.isoformat()
    return "?" + urlencode(fields) if fields else ""


def decoded(answer: Answer, kind: type[T]) -> T:
    """What an answer says. Raises `RoostError` where that is not what a Roost server would."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unexpected(answer, str(error)) from error


def version_of(answer: Answer) -> int:
    """The version in an answer's ETag. Raises `RoostError` as `decoded` does."""
    text = answer.headers.get("etag", "").removeprefix("W/").strip('"')
    if not text.isdecimal():
        raise unexpected(answer, "there is no version in its ETag")
    return int(text)


def seq_of(answer: Answer) -> int:
    """Where the user's log stood. Raises `RoostError` as `decoded` does."""
    text = answer.headers.get("roost-seq", "")
    if not text.isdecimal():
        raise unexpected(answer, "it has no Roost-Seq")
    return int(text)


def updated_at_of(answer: Answer) -> datetime:
    """When the document was written. Raises `RoostError` as `decoded` does."""
    try:
        return parsedate_to_datetime(answer.headers.get("last-modified", ""))
    except ValueError as error:
        raise unexpected(answer, "it has no Last-Modified") from error


def unexpected(answer: Answer, why: str) -> RoostError:
    """The exception for an answer that no Roost server gives."""
    return RoostError(
        f"This does not answer like a Roost server: {why}.",
        status=answer.status,
        request_id=answer.headers.get("roost-request-id"),
    )
