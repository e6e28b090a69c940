"""Every way in which Roost says no.

One exception type carries a stable code and a sentence for a person. What the network makes of a code
(its HTTP status, its headers) is decided in `wire`, in one table; nothing here knows about HTTP.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roost.core.events import Document


class Code(StrEnum):
    """The stable codes of the public contract. Clients branch on these, so they never change meaning."""

    INVALID_REQUEST = "invalid_request"
    INVALID_NAME = "invalid_name"
    INVALID_JSON = "invalid_json"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    PATCH_FAILED = "patch_failed"
    CURSOR_AHEAD = "cursor_ahead"
    HOME_CONFLICT = "home_conflict"
    LOG_CONFLICT = "log_conflict"
    MUTATION_GAP = "mutation_gap"
    CURSOR_COMPACTED = "cursor_compacted"
    USER_ERASED = "user_erased"
    USER_EXISTS = "user_exists"
    VERSION_CONFLICT = "version_conflict"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    LIMIT_REACHED = "limit_reached"
    PRECONDITION_REQUIRED = "precondition_required"
    RATE_LIMITED = "rate_limited"
    CORRUPT = "corrupt"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"


class RoostError(Exception):
    """A refusal.

    `detail` is one sentence for a person and holds no stored value. `pointer` is a JSON Pointer into the
    request body, where the body is what is wrong. `current` is the document as it stands (None where there
    is none), and only means something for `VERSION_CONFLICT`. `retry_after_s` is in seconds. `replayed` tells
    that an earlier request was refused so, and this is its answer again.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        pointer: str | None = None,
        current: Document | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.pointer = pointer
        self.current = current
        self.retry_after_s = retry_after_s
        self.replayed = False

    def __str__(self) -> str:
        return f"{self.code.value}: {self.detail}"


def user_erased(user: str) -> RoostError:
    """The refusal of whatever asks for a user who was erased."""
    return RoostError(Code.USER_ERASED, f"The user {user!r} was erased, for good.")
