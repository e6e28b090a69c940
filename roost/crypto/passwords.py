"""Passwords: hashed with argon2id (RFC 9106), a few at a time and beside the event loop.

To look up a password costs the same whether there is one or not, so that nobody learns from the time which users
there are. Hashing is meant to be slow and large: as many as there are threads run at once, a bounded number waits.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from roost.core.errors import Code, RoostError
from roost.settings import PasswordHash

T = TypeVar("T")
CHARS_MIN = 8
CHARS_MAX = 1_024
WAITING_MAX = 100
"""Passwords of a worker that wait for a thread; one more is answered `overloaded`."""
_NOBODYS = "a password that is never asked for"


class Passwords:
    """Hashes passwords, and compares them with hashes; `threads` at once."""

    def __init__(self, cost: PasswordHash, threads: int) -> None:
        self._hasher = PasswordHasher(time_cost=cost.iterations, memory_cost=cost.memory_kib, parallelism=cost.lanes)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "passwords")
        self._admitted = 0
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """The password as it is stored, with a salt of its own. Raises `INVALID_REQUEST` for one that is none."""
        given = prepared(password)
        return await self._run(lambda: self._hasher.hash(given))

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether this is the password that was stored. That takes as long where none was (None)."""
        try:
            given = prepared(password)
        except RoostError:
            given = _NOBODYS[::-1]  # too short to be anybody's, and no reason to be faster
        return await self._run(lambda: self._matches(given, stored))

    def outdated(self, stored: str) -> bool:
        """Whether the password was hashed at another cost than now."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _matches(self, given: str, stored: str | None) -> bool:
        if self._nobodys is None:
            self._nobodys = self._hasher.hash(_NOBODYS)
        try:
            self._hasher.verify(self._nobodys if stored is None else stored, given)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    async def _run(self, work: Callable[[], T]) -> T:
        if self._admitted >= self._threads + WAITING_MAX:
            raise RoostError(Code.OVERLOADED, f"{WAITING_MAX} passwords are waiting here.", retry_after_s=2)
        self._admitted += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._admitted -= 1


def prepared(password: str) -> str:
    """A password as it is hashed: NFKC, so that the same one typed on another keyboard is the same.

    Raises `INVALID_REQUEST` where it is too short or too long.
    """
    given = unicodedata.normalize("NFKC", password) if len(password) <= CHARS_MAX else password
    if not CHARS_MIN <= len(given) <= CHARS_MAX:
        detail = f"A password is {CHARS_MIN} to {CHARS_MAX} characters long."
        raise RoostError(Code.INVALID_REQUEST, detail, pointer="/password")
    return given
