"""The world that a simulation runs in: one clock, one source of chance, one list of what is to happen.

Everything that happens is an action at a moment, drawn from one seed; there is no other time and no other chance, so
the seed is the run. What happens is told (`say`), and the digest of the telling shows whether two runs are the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from random import Random
from types import coroutine
from typing import Any, TypeVar

MS = 1_000
S = 1_000_000
HOUR = 3_600 * S
"""Times are in microseconds."""

START = datetime(2026, 1, 1, tzinfo=UTC)
ACTIONS_MAX = 200_000

T = TypeVar("T")


class Violation(AssertionError):
    """A promise that was not kept."""


class World:
    """Whatever happens, in order. Once it is `calm`, nothing goes wrong any more."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0
        self.leapt = 0
        self.calm = False
        self.lines: list[str] = []
        self._digest = blake2b(digest_size=16)
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    @property
    def wall(self) -> int:
        """The right time, in microseconds since the start. It may leap, as when everybody sleeps for a day."""
        return self.now + self.leapt

    @property
    def digest(self) -> str:
        """The same for two runs in which the same happened."""
        return self._digest.hexdigest()

    def say(self, line: str) -> None:
        """Tell what happens."""
        line = f"{self.now / S:9.4f} {line}"
        self.lines.append(line)
        self._digest.update(line.encode())

    def chance(self, probability: float) -> bool:
        """Whether something goes wrong."""
        return not self.calm and self.random.random() < probability

    def about(self, mean: int) -> int:
        """A time to wait, mostly short, now and then long."""
        return min(int(self.random.expovariate(1 / mean)), 20 * mean) + 1

    def after(self, delay: int, act: Callable[[], None]) -> None:
        """Let something happen."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now + delay, self._count, act))

    def run(self, until: int, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass, until it is so late or all is `done`; whether that is so."""
        while self._agenda and self._agenda[0][0] <= until:
            if done is not None and done():
                return True
            self.now, _, act = heapq.heappop(self._agenda)
            act()
            if self._count > ACTIONS_MAX:
                raise Violation("it never comes to rest")
        self.now = until
        return done is not None and done()


def moment(microseconds: int) -> datetime:
    """A time of the world as a date."""
    return START + timedelta(microseconds=microseconds)


@coroutine
def pause() -> Generator[None, None, None]:
    """A point at which somebody else may have a turn, and at which a process may die."""
    yield


def finished(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits for something")
