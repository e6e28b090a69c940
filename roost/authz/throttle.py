"""How often somebody may fail: attempts at a login are counted by account and by address.

A bucket holds a number of attempts, and fills again over a time. It is taken from before an attempt is looked at, so
that many at once count too, and what succeeds is given back. There are so many buckets at most; the one that was used
least lately goes first, and it is nearly always a full one.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from roost.core.errors import Code, RoostError

BUCKETS_MAX = 50_000


class Throttle:
    """At most `most` attempts under one name in `window_s` seconds, on this worker."""

    def __init__(self, most: float, window_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        # With many workers the share of one may be less than a whole attempt: then it is one, a little less often.
        self._most = max(most, 1.0)
        self._rate = most / window_s
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> None:
        """Count an attempt, or raise `RATE_LIMITED` with the time after which the next is looked at."""
        left = self._left(name)
        if left < 1:
            retry_after_s = math.ceil((1 - left) / self._rate)
            raise RoostError(Code.RATE_LIMITED, "Too many attempts: wait a while.", retry_after_s=retry_after_s)
        self._put(name, left - 1)

    def give_back(self, name: str) -> None:
        """An attempt succeeded, and does not count."""
        self._put(name, min(self._left(name) + 1, self._most))

    def _left(self, name: str) -> float:
        left, at = self._buckets.get(name, (self._most, 0.0))
        return min(left + (self._monotonic() - at) * self._rate, self._most)

    def _put(self, name: str, left: float) -> None:
        self._buckets[name] = left, self._monotonic()
        self._buckets.move_to_end(name)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
