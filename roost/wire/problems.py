"""What the network makes of a refusal: one table from codes to statuses, and the problem document (RFC 9457).

Everything that Roost refuses leaves through here, so a client can rely on one shape, and the OpenAPI document
on one list.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from roost.core.errors import Code, RoostError
from roost.core.events import Document
from roost.wire.answer import NO_STORE, Answer, Header, raw, several
from roost.wire.shapes import SomeSiblings

MEDIA_TYPE = "application/problem+json"

PROBLEMS: dict[Code, tuple[int, str]] = {
    Code.INVALID_REQUEST: (400, "The request is not well formed"),
    Code.INVALID_NAME: (400, "A name is not well formed"),
    Code.INVALID_JSON: (400, "The body is not JSON that Roost takes"),
    Code.UNAUTHENTICATED: (401, "A valid token is needed"),
    Code.FORBIDDEN: (403, "The token does not reach this"),
    Code.NOT_FOUND: (404, "There is no such thing"),
    Code.METHOD_NOT_ALLOWED: (405, "The method is not allowed here"),
    Code.PATCH_FAILED: (409, "The patch does not apply"),
    Code.CURSOR_AHEAD: (409, "The log does not reach that far"),
    Code.HOME_CONFLICT: (409, "The user's home is another region"),
    Code.LOG_CONFLICT: (409, "The log holds something else"),
    Code.MUTATION_GAP: (409, "Mutations are missing before these"),
    Code.CURSOR_COMPACTED: (410, "That part of the log is gone"),
    Code.USER_ERASED: (410, "The user was erased"),
    Code.USER_EXISTS: (409, "There is such a user already"),
    Code.VERSION_CONFLICT: (412, "The document is not at that version"),
    Code.TOO_LARGE: (413, "That is too large"),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "The body's media type is not taken here"),
    Code.IDEMPOTENCY_KEY_REUSED: (422, "The idempotency key belongs to another request"),
    Code.LIMIT_REACHED: (422, "A limit is reached"),
    Code.PRECONDITION_REQUIRED: (428, "A precondition is required"),
    Code.RATE_LIMITED: (429, "Too many requests"),
    Code.CORRUPT: (500, "What is stored cannot be opened"),
    Code.INTERNAL: (500, "Something went wrong in the server"),
    Code.UNAVAILABLE: (503, "The server cannot serve this now"),
    Code.OVERLOADED: (503, "The server has too much to do"),
}

_RETRY_AFTER_S = 1
WITH_RETRY_AFTER = frozenset({429, 503})


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong in the request body; `pointer` is a JSON Pointer (RFC 6901)."""

    pointer: str
    message: str


class Current(msgspec.Struct, frozen=True):
    """The document as it stands."""

    version: int
    value: msgspec.Raw
    siblings: SomeSiblings = UNSET


class Problem(msgspec.Struct, frozen=True):
    """A refusal (RFC 9457). Branch on `code`; `detail` is for people."""

    type: Annotated[str, Meta(extra_json_schema={"format": "uri-reference"})]
    title: str
    status: int
    code: Code
    detail: str
    request_id: str
    errors: Annotated[
        list[Fault] | UnsetType, Meta(description="Where the body is wrong; for a batch, the op that was refused.")
    ] = UNSET
    current: Annotated[
        Current | UnsetType | None, Meta(description="With `version_conflict`: the document, null if there is none.")
    ] = UNSET
    expected: (
        Annotated[int, Meta(ge=1, description="With `mutation_gap`: the number of the mutation to go on from.")]
        | UnsetType
    ) = UNSET


_encode = msgspec.json.Encoder().encode


def answer(error: RoostError, request_id: str) -> Answer:
    """The answer that tells of `error`."""
    status, title = PROBLEMS[error.code]
    problem = Problem(
        type=f"/docs#{error.code.value}",
        title=title,
        status=status,
        code=error.code,
        detail=error.detail,
        request_id=request_id,
        errors=UNSET if error.pointer is None else [Fault(error.pointer, error.detail)],
        current=_current(error.current) if error.code is Code.VERSION_CONFLICT else UNSET,
        expected=getattr(error, "expected", UNSET),
    )
    headers: list[Header] = [(b"content-type", MEDIA_TYPE.encode()), NO_STORE]
    if status in WITH_RETRY_AFTER:
        headers.append((b"retry-after", b"%d" % (error.retry_after_s or _RETRY_AFTER_S)))
    if error.code is Code.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return Answer(status, headers, _encode(problem))


def _current(document: Document | None) -> Current | None:
    if document is None or document.value is None:
        return None
    return Current(document.version, raw(document.value), several(document))
