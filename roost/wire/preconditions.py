"""`If-Match` and `If-None-Match` (RFC 9110, 13.1), read into the conditions that the write is decided with.

Nothing is compared here: a condition is checked in the transaction that writes. A document's ETag is its version
in quotes, so every other tag, weak ones included, is one that no document has.
"""

from __future__ import annotations

import re

from roost.core.commands import ABSENT, ANYTHING, PRESENT, Condition, Versions
from roost.core.errors import Code, RoostError

_strong = re.compile(r'"([1-9][0-9]{0,15})"').fullmatch
_either = re.compile(r'(?:W/)?"(0|[1-9][0-9]{0,15})"').fullmatch


def condition(if_match: str | None, if_none_match: str | None) -> Condition:
    """The condition of a write with these headers. Raises `INVALID_REQUEST`."""
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise RoostError(Code.INVALID_REQUEST, "On a write, If-None-Match takes nothing but `*`.")
        if if_match is not None:
            raise RoostError(Code.INVALID_REQUEST, "If-Match and If-None-Match together can never hold.")
        return ABSENT
    if if_match is None:
        return ANYTHING
    if if_match.strip() == "*":
        return PRESENT
    found = [_strong(tag.strip()) for tag in if_match.split(",")]
    return Versions(frozenset(int(match[1]) for match in found if match))


def is_known(if_none_match: str, version: int) -> bool:
    """True if a reader with this `If-None-Match` has `version` already. Weak tags count: proxies weaken ours."""
    if if_none_match.strip() == "*":
        return True
    found = [_either(tag.strip()) for tag in if_none_match.split(",")]
    return any(match and int(match[1]) == version for match in found)
