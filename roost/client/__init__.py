"""The Python client: `Client` for asyncio, `SyncClient` for everything else, with the same surface.

    async with Client("https://roost.example", token) as c:
        await c.user("ada").docs("preferences").put("ui", {"theme": "dark"})

`protocol` says what each operation asks and how its answer reads, `exchange` what is tried again and when; both
without I/O. `carry` is the I/O, `aio` and `sync` the surface, `models` and `errors` what comes back.
"""

from roost.client.aio import Batch, Client, Docs, User
from roost.client.errors import (
    Conflict,
    CursorAhead,
    CursorCompacted,
    Fault,
    Forbidden,
    HomeConflict,
    IdempotencyKeyReused,
    InvalidJson,
    InvalidName,
    InvalidRequest,
    LimitReached,
    LogConflict,
    NotFound,
    Overloaded,
    PatchFailed,
    PreconditionRequired,
    RateLimited,
    RoostError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unprocessable,
    Unreachable,
    VersionConflict,
)
from roost.client.exchange import Limits
from roost.client.models import (
    Committed,
    Document,
    Event,
    Json,
    Log,
    Page,
    PastVersion,
    Result,
    Snapshot,
    UserInfo,
    Versioned,
)
from roost.client.sync import SyncBatch, SyncClient, SyncDocs, SyncUser

__all__ = [
    "Batch",
    "Client",
    "Committed",
    "Conflict",
    "CursorAhead",
    "CursorCompacted",
    "Docs",
    "Document",
    "Event",
    "Fault",
    "Forbidden",
    "HomeConflict",
    "IdempotencyKeyReused",
    "InvalidJson",
    "InvalidName",
    "InvalidRequest",
    "Json",
    "LimitReached",
    "Limits",
    "Log",
    "LogConflict",
    "NotFound",
    "Overloaded",
    "Page",
    "PastVersion",
    "PatchFailed",
    "PreconditionRequired",
    "RateLimited",
    "Result",
    "RoostError",
    "Snapshot",
    "SyncBatch",
    "SyncClient",
    "SyncDocs",
    "SyncUser",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unprocessable",
    "Unreachable",
    "User",
    "UserInfo",
    "VersionConflict",
    "Versioned",
]
