"""Cursors of lists: opaque to clients, and good only for the list that gave them.

A cursor is base64url of a format byte, a hash of the list it belongs to, and the last name of its page. The hash
is no secret and proves nothing about rights (the gate sees to those): it finds honest mistakes.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b

from msgspec import UNSET, UnsetType

from roost.core.errors import Code, RoostError

_FORMAT = b"\x01"
_LIST_BYTES = 6


def make(of: tuple[str, ...], last: str) -> str:
    """The cursor that goes on after `last` in the list that `of` names."""
    return urlsafe_b64encode(_prefix(of) + last.encode()).decode().rstrip("=")


def read(of: tuple[str, ...], cursor: str | UnsetType, check: Callable[[str], str]) -> str | None:
    """The name after which the list goes on, None to begin it, or raise `INVALID_REQUEST`.

    `check` raises for what is no such name.
    """
    if cursor is UNSET:
        return None
    with suppress(ValueError, RoostError):
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        last = check(raw.removeprefix(_prefix(of)).decode())
        # The decoder takes more than was ever given, and another list has another prefix.
        if make(of, last) == cursor:
            return last
    raise RoostError(Code.INVALID_REQUEST, "`after` is not a cursor that this list gave.")


def _prefix(of: tuple[str, ...]) -> bytes:
    return _FORMAT + blake2b("\0".join(of).encode(), digest_size=_LIST_BYTES).digest()
