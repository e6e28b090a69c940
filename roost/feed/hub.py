"""Who follows which log: hands commits to the long polls and streams that wait for them.

A hub delivers at most what it was given, and forgets it when a follower is slow: events are a short cut, the
log is the truth. Whoever misses one here (another worker committed it, the buffer was full) hears that the log
has grown, and reads it. So news that is lost or doubled can delay an answer, but never make it wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from roost.core.errors import Code, RoostError
from roost.core.events import Event

BUFFER_EVENTS_MAX = 256
"""Events kept for one follower; one that is further behind reads the log instead."""


class Follower:
    """One long poll or stream, waiting for a user's log to grow."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._seq = 0
        self._events: dict[int, Event] = {}
        self._doubted = False
        self.released = False

    def publish(self, seq: int, events: Sequence[Event]) -> None:
        """The log stands at `seq` now, at least; `events` are some of its latest."""
        self._seq = max(self._seq, seq)
        if len(self._events) + len(events) > BUFFER_EVENTS_MAX:
            self._events.clear()
        else:
            self._events.update((event.seq, event) for event in events)
        self._news.set()

    def doubt(self) -> None:
        """The log may have grown, unseen."""
        self._doubted = True
        self._news.set()

    def release(self) -> None:
        """Wait no longer, whatever the log."""
        self.released = True
        self._news.set()

    async def wait(self, seen: int, timeout_s: float | None) -> bool:
        """Whether the log is past `seen`, or may be; waits at most `timeout_s` (None: for ever) for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._seq <= seen and not self._doubted and not self.released:
                    self._news.clear()
                    await self._news.wait()
        doubted, self._doubted = self._doubted, False
        return self._seq > seen or doubted

    def take(self, after: int) -> list[Event]:
        """The events that follow `after` without a hole, as far as they are at hand; they are then forgotten."""
        taken = []
        while (event := self._events.pop(after + 1, None)) is not None:
            taken.append(event)
            after += 1
        # What is left is old, or lies behind a hole that only the log can fill.
        self._events.clear()
        return taken


class Hub:
    """The followers of one node, by user; at most `followers_max`."""

    def __init__(self, followers_max: int) -> None:
        self._followers_max = followers_max
        self._followers: dict[str, set[Follower]] = {}
        self._count = 0
        self._draining = False

    @property
    def following(self) -> int:
        """How many there are."""
        return self._count

    def publish(self, user: str, seq: int, events: Sequence[Event] = ()) -> None:
        """Tell those who follow this user's log that it stands at `seq`, and by which events it got there."""
        for follower in self._followers.get(user, ()):
            follower.publish(seq, events)

    def doubt(self) -> None:
        """Make everybody read their log again: news may have been lost."""
        for followers in self._followers.values():
            for follower in followers:
                follower.doubt()

    def drain(self) -> None:
        """Let everybody go, now and from now on: this node is about to stop."""
        self._draining = True
        for followers in self._followers.values():
            for follower in followers:
                follower.release()

    @contextmanager
    def follow(self, user: str) -> Iterator[Follower]:
        """Follow a user's log from here on. Raises `OVERLOADED` where too many do so already."""
        if self._count >= self._followers_max:
            detail = f"{self._followers_max} long polls and streams are held here."
            raise RoostError(Code.OVERLOADED, detail, retry_after_s=5)
        follower = Follower()
        if self._draining:
            follower.release()
        self._followers.setdefault(user, set()).add(follower)
        self._count += 1
        try:
            yield follower
        finally:
            self._count -= 1
            self._followers[user].discard(follower)
            if not self._followers[user]:
                del self._followers[user]
