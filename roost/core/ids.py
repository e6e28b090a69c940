"""Names of users, collections and keys, and the lane that a user belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

from roost.core.errors import Code, RoostError
from roost.core.limits import (
    COLLECTION_CHARS_MAX,
    DEVICE_CHARS_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX,
    KEY_BYTES_MAX,
    USER_CHARS_MAX,
)

LANES = 64
"""Lanes of a region. Fixed when a database is first migrated; changing it would move users between lanes."""

USER_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.:@|~-]{0,%d}" % (USER_CHARS_MAX - 1)
COLLECTION_PATTERN = r"[a-z][a-z0-9_]{0,%d}" % (COLLECTION_CHARS_MAX - 1)

POLICY_PATTERN = r"[a-z][a-z0-9_-]{0,%d}" % (COLLECTION_CHARS_MAX - 1)
DEVICE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.:@~-]{0,%d}" % (DEVICE_CHARS_MAX - 1)

SYSTEM_USER = "$roost"
"""Whose log holds what belongs to nobody: the definitions of collections. No name that the API takes."""
DEFINITIONS = "roost_definitions"
"""The collection of the system user's documents: key, the name of a collection; value, its definition."""
INBOX = "roost_conflicts"
"""The collection of every user that holds what conflicts have set aside. Only Roost writes it; anybody may delete."""
ERASURES = "roost_erasures"
"""The collection of the system user's documents that tell who was erased: see `roost.core.erasure`."""
SHREDDINGS = "roost_shreddings"
"""The collection of the system user's documents that tell from when on copies of erased users are unreadable."""
CREDENTIALS = "roost_credentials"
SESSIONS = "roost_sessions"
GRANTS = "roost_grants"
HIDDEN = frozenset({CREDENTIALS, SESSIONS, GRANTS})
"""The collections of a user that hold how the user logs in: no route shows them as they are, to anybody."""
CLIENTS = "roost_clients"
"""The collection of the system user's documents that tell which applications may ask for tokens."""
REVOCATIONS = "roost_revocations"
"""The collection of the system user's documents that name the sessions whose tokens are refused before their end."""
POLICIES = "roost_policies"
"""The collection of the system user's documents that say who may do what: see `roost.authz.policy`."""
RESERVED_PREFIX = "roost_"

SESSION_PATTERN = "[0-9a-f]{32}"
CLIENT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"

PLAIN_KEY_PATTERN = r"[A-Za-z0-9_.:@|~-]{1,%d}" % KEY_BYTES_MAX
"""Of most keys: those that are written in a path as they are."""

_idempotency_key = re.compile(r"[\x21-\x7e]{1,%d}" % IDEMPOTENCY_KEY_CHARS_MAX).fullmatch
# C0 and C1 controls, DEL, the slash that separates path segments, and surrogates, which UTF-8 cannot hold.
_not_in_key = re.compile("[\x00-\x1f\x7f-\x9f/\ud800-\udfff]").search


def _checked(what: str, pattern: str) -> Callable[[str], str]:
    """Return a function that returns a name of this pattern, and raises `INVALID_NAME` for any other."""
    matches = re.compile(pattern).fullmatch
    detail = f"{what} is {pattern}."

    def check(name: str) -> str:
        if not matches(name):
            raise RoostError(Code.INVALID_NAME, detail)
        return name

    return check


check_user = _checked("A user", USER_PATTERN)
check_collection = _checked("A collection", COLLECTION_PATTERN)
check_session = _checked("A session", SESSION_PATTERN)
check_client = _checked("A client", CLIENT_PATTERN)
check_device = _checked("A device", DEVICE_PATTERN)
check_policy = _checked("The name of policies", POLICY_PATTERN)


def check_writable(collection: str, *, deletes: bool) -> str:
    """Return `collection` if callers may write there, or raise `FORBIDDEN`."""
    if collection.startswith(RESERVED_PREFIX) and not (deletes and collection == INBOX):
        raise RoostError(Code.FORBIDDEN, f"Collections named {RESERVED_PREFIX}… are written by Roost alone.")
    return collection


def check_key(key: str) -> str:
    """Return `key`, or raise `INVALID_NAME`."""
    if not key or _not_in_key(key) or (len(key) * 4 > KEY_BYTES_MAX and len(key.encode()) > KEY_BYTES_MAX):
        raise RoostError(
            Code.INVALID_NAME, f"A key is 1 to {KEY_BYTES_MAX} bytes of UTF-8 without control characters or '/'."
        )
    return key


def check_idempotency_key(key: str) -> str:
    """Return `key`, or raise `INVALID_REQUEST`."""
    if not _idempotency_key(key):
        raise RoostError(
            Code.INVALID_REQUEST,
            f"An Idempotency-Key is 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters.",
        )
    return key


@lru_cache(maxsize=1 << 16)
def lane_of(user: str) -> int:
    """The lane of a user: BLAKE2b-64 of the UTF-8 id, modulo `LANES`.

    The same on every node and release, unlike Python's `hash`.
    """
    return int.from_bytes(blake2b(user.encode(), digest_size=8).digest(), "big") % LANES
