"""What an operation of the contract is, as data.

One frozen table (`roost.wire.contract`) holds them all. The routes, what is refused with 405, how queries are
decoded and the OpenAPI document come from it, so nothing is served that is not documented, and the reverse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from roost.core.errors import Code
from roost.core.limits import IDEMPOTENCY_KEY_CHARS_MAX
from roost.wire.answer import Answer
from roost.wire.request import PURPOSE_PATTERN, Request
from roost.wire.shapes import NoQuery, Shape

Handler = Callable[[Request], Awaitable[Answer]]

_EVERYWHERE = (Code.INVALID_REQUEST, Code.RATE_LIMITED, Code.INTERNAL)
_WITH_TOKEN = (
    *(Code.INVALID_NAME, Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.CORRUPT, Code.UNAVAILABLE, Code.OVERLOADED),
)


class HeaderField(msgspec.Struct, frozen=True):
    """A header of a request or an answer, with its JSON Schema. `optional` ones are not in every answer."""

    name: str
    description: str
    schema: dict[str, Any]
    optional: bool = False


_TEXT = {"type": "string"}
_NUMBER = {"type": "string", "pattern": "^(0|[1-9][0-9]{0,15})$"}
_KEY = {"type": "string", "pattern": f"^[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}$"}

IF_MATCH = HeaderField(
    "If-Match", 'Only if the document is at one of these versions (`"7", "8"`), or exists (`*`).', _TEXT
)
IF_ABSENT = HeaderField("If-None-Match", "Only if the document does not exist.", {"const": "*"})
IF_CHANGED = HeaderField("If-None-Match", "Versions that the caller has: 304 if it is still at one of them.", _TEXT)
IDEMPOTENCY_KEY = HeaderField(
    "Idempotency-Key", "The same key with the same request gives the first answer again.", _KEY
)
PREFER = HeaderField("Prefer", "`return=minimal`: 204 without the value.", _TEXT)
PURPOSE = HeaderField(
    "Roost-Purpose",
    "What the caller needs it for. Support staff have to say; it is put on record.",
    {"type": "string", "pattern": f"^{PURPOSE_PATTERN}$"},
)
LAST_EVENT_ID = HeaderField("Last-Event-ID", "The cursor of a stream that goes on, in place of `after`.", _NUMBER)
AT_LEAST = HeaderField("Roost-At-Least", "A `Roost-Seq` that the read must have reached.", _NUMBER)

ETAG = HeaderField("ETag", "The version, in quotes.", {"type": "string", "pattern": '^"[0-9]+"$'})
LAST_MODIFIED = HeaderField("Last-Modified", "When that version was written.", _TEXT)
SEQ = HeaderField("Roost-Seq", "Where the user's log stands.", _NUMBER)
SIBLINGS = HeaderField(
    "Roost-Siblings", "How many values stand side by side, where there are several.", _NUMBER, optional=True
)
REPLAYED = HeaderField(
    "Idempotent-Replayed",
    "The answer was given before, to a request with the same key.",
    {"const": "true"},
    optional=True,
)
PREFERENCE_APPLIED = HeaderField("Preference-Applied", "The preference that was followed.", _TEXT)


class Reply(msgspec.Struct, frozen=True):
    """An answer that is no refusal: `body` is the type it has, None if it has none.

    `also` are media types that it is given in when they are asked for.
    """

    status: int
    description: str
    body: Any = None
    headers: tuple[HeaderField, ...] = ()
    media_type: str = "application/json"
    also: tuple[str, ...] = ()


class Body(msgspec.Struct, frozen=True):
    """Which media types a body may have, and the type of each. The first is meant where none is named, if JSON."""

    content: dict[str, Any]
    required: bool = True


class Operation(msgspec.Struct, frozen=True):
    """One method of one path.

    `errors` are the refusals of its own; those that every operation has are added. `public` operations need
    no token.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    replies: tuple[Reply, ...]
    tag: str
    errors: tuple[Code, ...] = ()
    query: type[Shape] = NoQuery
    headers: tuple[HeaderField, ...] = ()
    body: Body | None = None
    public: bool = False
    description: str = ""
    frames: dict[str, Any] = {}
    """What the messages of a WebSocket are, by the side that sends them."""

    @property
    def every_error(self) -> tuple[Code, ...]:
        """Every code that it may refuse with."""
        of_a_user = (Code.USER_ERASED,) if "/{user}" in self.path else ()
        return (*_EVERYWHERE, *(() if self.public else _WITH_TOKEN), *of_a_user, *self.errors)
