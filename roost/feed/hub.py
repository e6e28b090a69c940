"""Who follows which log: hands commits to the long polls and streams that wait for them.

A hub delivers at most what it was given, and forgets it when a follower is slow: events are a short cut, the
log is the truth. Whoever misses one here (another worker committed it, the buffer was full) hears that the log
has grown, and reads it. So news that is lost or doubled can delay an answer, but never make it wrong.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress

from roost.core.errors import Code, RoostError
from roost.core.events import Event
from roost.core.ids import lane_of

BUFFER_EVENTS_MAX = 256
"""Events kept for one follower; one that is further behind reads the log instead."""
BUFFER_BYTES_MAX = 1 << 20
"""The same in bytes of values: a follower whose reader has stopped costs no more."""


class Follower:
    """One long poll or stream, waiting for a user's log to grow."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._seq = 0
        self._events: dict[int, Event] = {}
        self._bytes = 0
        self._doubted = self._called = False
        self.released = False

    def publish(self, seq: int, events: Sequence[Event]) -> None:
        """The log stands at `seq` now, at least; `events` are some of its latest."""
        if seq <= self._seq:
            return  # what this node itself has committed comes again by the tail
        self._seq = seq
        if any(event.kind == "erase" for event in events):
            self._doubted = True  # told to those too who wait for no event
        self._bytes += sum(len(event.value or b"") for event in events)
        if len(self._events) + len(events) > BUFFER_EVENTS_MAX or self._bytes > BUFFER_BYTES_MAX:
            self._forget()
        else:
            self._events.update((event.seq, event) for event in events)
        self._news.set()

    def doubt(self) -> None:
        """The log may have grown, unseen."""
        self._doubted = True
        self._news.set()

    def call(self) -> None:
        """Something else has changed that may matter to whoever waits."""
        self._called = True
        self._news.set()

    def release(self) -> None:
        """Wait no longer, whatever the log."""
        self.released = True
        self._news.set()

    async def wait(self, seen: int, timeout_s: float | None) -> bool:
        """Whether the log is past `seen`, or may be; waits for that or a call, at most `timeout_s` (None: for ever)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._seq <= seen and not self._doubted and not self._called and not self.released:
                    self._news.clear()
                    await self._news.wait()
        doubted, self._doubted = self._doubted, False
        self._called = False
        return self._seq > seen or doubted

    def take(self, after: int) -> list[Event]:
        """The events that follow `after` without a hole, as far as they are at hand; they are then forgotten."""
        taken = []
        while (event := self._events.pop(after + 1, None)) is not None:
            taken.append(event)
            after += 1
        # What is left is old, or lies behind a hole that only the log can fill.
        self._forget()
        return taken

    def _forget(self) -> None:
        self._events.clear()
        self._bytes = 0


class Hub:
    """The followers of one node, by user; at most `followers_max` besides the node's own.

    `tailed` are the lanes of which the tail brings what others commit. `look` tells it to look at once, as it must
    where somebody begins to follow in another lane.
    """

    def __init__(self, followers_max: int) -> None:
        self._followers_max = followers_max
        self._followers: dict[str, set[Follower]] = {}
        self._lanes: Counter[int] = Counter()
        self._count = 0
        self._draining = False
        self.tailed: Container[int] = ()
        self.look = asyncio.Event()

    @property
    def following(self) -> int:
        """How many there are, without the node's own."""
        return self._count

    @property
    def lanes(self) -> set[int]:
        """The lanes of the users that are followed."""
        return set(self._lanes)

    def publish(self, user: str, seq: int, events: Sequence[Event] = ()) -> None:
        """Tell those who follow this user's log that it stands at `seq`, and by which events it got there."""
        for follower in self._followers.get(user, ()):
            follower.publish(seq, events)

    def doubt(self, lanes: Container[int]) -> None:
        """Make everybody who follows a user of these lanes read their log again: news may have been lost."""
        for user, followers in self._followers.items():
            if lane_of(user) in lanes:
                for follower in followers:
                    follower.doubt()

    def call(self) -> None:
        """Make everybody see whether they may still be told: other policies are in force."""
        for followers in self._followers.values():
            for follower in followers:
                follower.call()

    def drain(self) -> None:
        """Let everybody go, now and from now on: this node is about to stop."""
        self._draining = True
        for followers in self._followers.values():
            for follower in followers:
                follower.release()

    @contextmanager
    def follow(self, user: str, *, own: bool = False) -> Iterator[Follower]:
        """Follow a user's log from here on. Raises `OVERLOADED` where too many do so already.

        `own` is what the node follows for itself, always: it does not count, and for its sake alone the tail does not
        look whenever it is woken, only at its interval.
        """
        if not own and self._count >= self._followers_max:
            detail = f"{self._followers_max} long polls and streams are held here."
            raise RoostError(Code.OVERLOADED, detail, retry_after_s=5)
        follower = Follower()
        if self._draining:
            follower.release()
        self._add(user, follower)
        self._count += not own
        try:
            yield follower
        finally:
            self._count -= not own
            self._remove(user, follower)

    def _add(self, user: str, follower: Follower) -> None:
        followers = self._followers.get(user)
        if followers is None:
            followers = self._followers[user] = set()
            lane = lane_of(user)
            self._lanes[lane] += 1
            if lane not in self.tailed:
                self.look.set()
        followers.add(follower)

    def _remove(self, user: str, follower: Follower) -> None:
        followers = self._followers[user]
        followers.discard(follower)
        if not followers:
            del self._followers[user]
            lane = lane_of(user)
            self._lanes[lane] -= 1
            if not self._lanes[lane]:
                del self._lanes[lane]
