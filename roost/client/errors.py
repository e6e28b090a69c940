"""Every way in which a call can end other than well, as one tree.

    RoostError                      the server refused; `code` says why
    ├── InvalidRequest              400 invalid_request: the request is not what the contract describes
    │   ├── InvalidName             400 invalid_name: of a user, a collection or a key
    │   └── InvalidJson             400 invalid_json: the value is not JSON that Roost keeps
    ├── Unauthenticated             401 unauthenticated: no token, or one that is forged or has expired
    │   └── SessionEnded            what was logged in is so no longer: log in again
    ├── Forbidden                   403 forbidden: this token does not reach that
    ├── NotFound                    404 not_found
    ├── Conflict                    409, the log or the document is not as the request takes it to be
    │   ├── PatchFailed             409 patch_failed: a JSON Patch's path or `test`
    │   ├── CursorAhead             409 cursor_ahead: the log does not reach that seq
    │   ├── HomeConflict            409 home_conflict: the user lives in another region
    │   ├── LogConflict             409 log_conflict: an appended event contradicts the log
    │   ├── UserExists              409 user_exists: somebody else has signed up under that name
    │   └── MutationGap             409 mutation_gap: a push goes on from `expected`
    ├── CursorCompacted             410 cursor_compacted: start again from a snapshot
    ├── UserErased                  410 user_erased: there was such a user, and never will be again
    ├── VersionConflict             412 version_conflict: `current` is what stands there
    ├── PreconditionRequired        428 precondition_required: say which version you replace
    ├── TooLarge                    413 too_large
    ├── Unprocessable               422, understood but not accepted
    │   ├── IdempotencyKeyReused    422 idempotency_key_reused
    │   └── LimitReached            422 limit_reached: as many documents as there may be
    ├── Corrupt                     500 corrupt: what is stored there was changed behind Roost's back
    └── Unavailable                 no answer that counts, after every retry that the limits allow
        ├── RateLimited             429 rate_limited
        ├── Overloaded              503 overloaded
        └── Unreachable             no answer at all: connection refused or lost, or out of time

`Unavailable` is the only one that is retried, and the only one that leaves a write unknown: it was applied
once or not at all. Repeat the call with the same `idempotency_key` to find out which.

The table from codes to classes stands here and nowhere else; a code that this release does not know gives
the class of its status, or `RoostError`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from roost.client.models import Versioned


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a body, and where: `pointer` is a JSON Pointer into it."""

    message: str
    pointer: str | None = None


class RoostError(Exception):
    """The server refused, or could not be asked.

    `code` is stable and made for branching, `detail` is a sentence for a person. `status` is the HTTP status, 0
    where there was no answer. `request_id` finds the request in the server's log. `errors` point into the body.
    `idempotency_key` is what a write was sent under; repeating the call with it never applies it twice.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str = "internal",
        status: int = 0,
        request_id: str | None = None,
        errors: tuple[Fault, ...] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.request_id = request_id
        self.errors = errors
        self.idempotency_key: str | None = None
        self.retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class InvalidRequest(RoostError):
    """The request is not what the contract describes."""


class InvalidName(InvalidRequest):
    """The name of a user, a collection or a key is not one."""


class InvalidJson(InvalidRequest):
    """The value is not JSON that Roost keeps: NaN, numbers beyond ±2^53, lone surrogates, too deep."""


class Unauthenticated(RoostError):
    """No token, or one that is forged or has expired."""


class SessionEnded(Unauthenticated):
    """The session of a `Login` was ended, here or from another device, or has not been used for too long."""


class Forbidden(RoostError):
    """The token does not reach that."""


class NotFound(RoostError):
    """There is nothing there."""


class Conflict(RoostError):
    """The log or the document is not as the request takes it to be."""


class PatchFailed(Conflict):
    """A JSON Patch's path does not exist, or its `test` did not hold."""


class CursorAhead(Conflict):
    """The log does not reach that seq: it belongs to another server, or the log was restored from a backup."""


class HomeConflict(Conflict):
    """The user lives in another region."""


class LogConflict(Conflict):
    """An appended event contradicts the log, or leaves a hole in it."""


class UserExists(Conflict):
    """There is such a user already: nobody signs up under that name any more."""


class MutationGap(Conflict):
    """A push began beyond the device's next mutation, whose number is `expected`."""

    expected: int | None = None


class CursorCompacted(RoostError):
    """Events up to that seq were folded away: start again from a snapshot."""


class UserErased(RoostError):
    """The user was erased, for good: forget what is kept of one."""


class VersionConflict(RoostError):
    """The document is not at the version that the write was for.

    `current` is the document as it stands, None where there is none.
    """

    current: Versioned | None = None


class PreconditionRequired(RoostError):
    """The collection's policy is `cas`: say which version you replace."""


class TooLarge(RoostError):
    """The body or the value is over its limit."""


class Unprocessable(RoostError):
    """Understood, but not accepted."""


class IdempotencyKeyReused(Unprocessable):
    """The idempotency key was given with another request before."""


class LimitReached(Unprocessable):
    """There are as many documents or collections as there may be."""


class Corrupt(RoostError):
    """What is stored cannot be opened, by a fault of the disk's or by somebody's hand. Nothing wrong is given back."""


class Unavailable(RoostError):
    """No answer that counts, after every retry that the limits allow. A write may have been applied, once."""


class RateLimited(Unavailable):
    """Too many requests."""


class Overloaded(Unavailable):
    """The server has more work than it takes on."""


class Unreachable(Unavailable):
    """No answer at all: the connection was refused or lost, or the time ran out."""


_BY_CODE: dict[str, type[RoostError]] = {
    "invalid_request": InvalidRequest,
    "invalid_name": InvalidName,
    "invalid_json": InvalidJson,
    "unauthenticated": Unauthenticated,
    "forbidden": Forbidden,
    "not_found": NotFound,
    "patch_failed": PatchFailed,
    "cursor_ahead": CursorAhead,
    "home_conflict": HomeConflict,
    "log_conflict": LogConflict,
    "mutation_gap": MutationGap,
    "user_exists": UserExists,
    "cursor_compacted": CursorCompacted,
    "user_erased": UserErased,
    "version_conflict": VersionConflict,
    "precondition_required": PreconditionRequired,
    "too_large": TooLarge,
    "idempotency_key_reused": IdempotencyKeyReused,
    "limit_reached": LimitReached,
    "corrupt": Corrupt,
    "unavailable": Unavailable,
    "rate_limited": RateLimited,
    "overloaded": Overloaded,
}

# 502 and 504 come from what stands between: a proxy that found no server.
_BY_STATUS: dict[int, type[RoostError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: CursorCompacted,
    412: VersionConflict,
    413: TooLarge,
    422: Unprocessable,
    428: PreconditionRequired,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


class _Problem(msgspec.Struct):
    """An `application/problem+json` body (RFC 9457) as far as it is needed here, or one of OAuth's (RFC 6749)."""

    code: str | None = None
    title: str | None = None
    detail: str | None = None
    request_id: str | None = None
    errors: tuple[Fault, ...] = ()
    current: Versioned | None = None
    expected: int | None = None
    error: str | None = None
    error_description: str | None = None


_problem = msgspec.json.Decoder(_Problem)


def error_of(status: int, body: bytes, *, request_id: str | None, retry_after_s: float | None) -> RoostError:
    """The exception that an answer's status and body stand for. Never raises, whatever the body is."""
    try:
        problem = _problem.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = _Problem()
    if problem.error == "invalid_grant":
        problem.code = "unauthenticated"
        kind: type[RoostError] = SessionEnded
    else:
        kind = _BY_CODE.get(problem.code or "") or _BY_STATUS.get(status, RoostError)
    detail = problem.detail or problem.error_description or problem.title
    error = kind(
        detail or f"HTTP {status} without a problem document.",
        code=problem.code or problem.error or ("unavailable" if issubclass(kind, Unavailable) else "internal"),
        status=status,
        request_id=problem.request_id or request_id,
        errors=problem.errors,
    )
    error.retry_after_s = retry_after_s
    if isinstance(error, VersionConflict):
        error.current = problem.current
    if isinstance(error, MutationGap):
        error.expected = problem.expected
    return error


def refused_here(code: str, detail: str, **more: Any) -> RoostError:
    """The exception for what is refused before anything is sent."""
    return _BY_CODE[code](detail, code=code, **more)
