"""Who waits for which log: wakes long polls when a user's log has grown.

The hub carries no events, only the news that there are some: whoever is woken reads the log again, so a
lost or doubled wake-up can delay an answer but never make it wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from roost.core.errors import Code, RoostError


class Waiter:
    """One long poll; `wait` returns when its user's log has grown past the seq that was last seen."""

    def __init__(self) -> None:
        self._grown = asyncio.Event()
        self._seq = 0
        self._released = False

    def wake(self, seq: int) -> None:
        """The log stands at `seq` now, at least."""
        self._seq = max(self._seq, seq)
        self._grown.set()

    def release(self) -> None:
        """Wait no longer, whatever the log."""
        self._released = True
        self._grown.set()

    async def wait(self, seen: int, timeout_s: float) -> bool:
        """Whether the log is known to be past `seen`, waiting at most `timeout_s` for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._seq <= seen and not self._released:
                    self._grown.clear()
                    await self._grown.wait()
        return self._seq > seen


class Hub:
    """The waiters of one node, by user; at most `waiters_max`."""

    def __init__(self, waiters_max: int) -> None:
        self._waiters_max = waiters_max
        self._waiters: dict[str, set[Waiter]] = {}
        self._count = 0
        self._draining = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._count

    def publish(self, user: str, seq: int) -> None:
        """Wake those who wait for this user's log."""
        for waiter in self._waiters.get(user, ()):
            waiter.wake(seq)

    def drain(self) -> None:
        """Let everybody go, now and from now on: this node is about to stop."""
        self._draining = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.release()

    @contextmanager
    def waiter(self, user: str) -> Iterator[Waiter]:
        """Wait for a user's log from here on. Raises `OVERLOADED` where too many wait already."""
        if self._count >= self._waiters_max:
            raise RoostError(Code.OVERLOADED, f"{self._waiters_max} long polls are waiting here.", retry_after_s=5)
        waiter = Waiter()
        if self._draining:
            waiter.release()
        self._waiters.setdefault(user, set()).add(waiter)
        self._count += 1
        try:
            yield waiter
        finally:
            self._count -= 1
            self._waiters[user].discard(waiter)
            if not self._waiters[user]:
                del self._waiters[user]
