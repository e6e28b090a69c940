"""What an operation of the contract is, as data.

One frozen table (`roost.wire.contract`) holds them all. The routes, what is refused with 405, how queries are
decoded and the OpenAPI document come from it, so nothing is served that is not documented, and the reverse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from roost.core.errors import Code
from roost.wire.answer import Answer
from roost.wire.request import Request
from roost.wire.shapes import NoQuery, Shape

Handler = Callable[[Request], Awaitable[Answer]]

_EVERYWHERE = (Code.INVALID_REQUEST, Code.INTERNAL)
_WITH_TOKEN = (Code.INVALID_NAME, Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.UNAVAILABLE, Code.OVERLOADED)


class Reply(msgspec.Struct, frozen=True):
    """An answer that is no refusal: `body` is the type it has, None if it has none."""

    status: int
    description: str
    body: Any = None
    headers: tuple[str, ...] = ()
    media_type: str = "application/json"


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
    headers: tuple[str, ...] = ()
    body: Body | None = None
    public: bool = False
    description: str = ""

    @property
    def every_error(self) -> tuple[Code, ...]:
        """Every code that it may refuse with."""
        return (*_EVERYWHERE, *(() if self.public else _WITH_TOKEN), *self.errors)
