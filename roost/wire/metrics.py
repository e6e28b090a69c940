"""What Prometheus is told about requests.

Labels are routes as the contract writes them, never paths: a path names a user. Where several workers share
`PROMETHEUS_MULTIPROC_DIR`, whichever of them is asked answers for all: exactly of itself, and of the others as they
were `HAND_OVER_S` ago.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN_ROUTE = "unknown"
_OWN_CODES = range(1000, 1016)
_CODES_FROM, _CODES_TO = 4400, 4504

HAND_OVER_S = 0.25
"""How long what is counted of requests may wait until the library has it."""
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_NONE = [0] * (len(_BOUNDS) + 1)


class _Seconds(Histogram):
    """A histogram that takes many observations at once."""

    def take(self, counts: Sequence[int], total: float) -> None:
        """Add observations: how many belong to each bucket, the one without an end last, and their sum."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


_requests = Counter("roost_http_requests", "Requests answered.", ["method", "route", "status"])
_seconds = _Seconds(
    "roost_http_request_seconds",
    "Seconds from a request's first byte in Python to its answer's last; long polls include their wait.",
    ["method", "route"],
    buckets=_BOUNDS,
)

sockets = Gauge("roost_websockets", "WebSockets that are open.", multiprocess_mode="livesum")
_frames = Counter("roost_websocket_frames", "Frames of WebSockets.", ["direction", "type"])
_closes = Counter("roost_websocket_closes", "WebSockets that were closed, by the code of whoever did it.", ["code"])
_limited = Counter("roost_limited", "Requests and connections refused because of a caller's limit.", ["limit"])


class RouteMetrics:
    """The metrics of one route and method.

    The library's own counts are files that workers share: one at a time, they took a tenth of a point read. So requests
    are counted here, and handed over together.
    """

    def __init__(self, method: str, route: str) -> None:
        self._method = method
        self._route = route
        self._seconds = _seconds.labels(method, route)
        self._by_status: dict[int, int] = {}
        self._by_seconds = list(_NONE)
        self._total = 0.0

    def record(self, status: int, seconds: float) -> None:
        """One request was answered."""
        if not self._by_status:
            _await_hand_over(self)
        self._by_status[status] = self._by_status.get(status, 0) + 1
        self._by_seconds[bisect_left(_BOUNDS, seconds)] += 1
        self._total += seconds

    def hand_over(self) -> None:
        """Give the library what was counted since the last time."""
        for status, count in self._by_status.items():
            _requests.labels(self._method, self._route, str(status)).inc(count)
        self._seconds.take(self._by_seconds, self._total)
        self._by_status.clear()
        self._by_seconds[:] = _NONE
        self._total = 0.0


_counted: set[RouteMetrics] = set()
"""Those that have something to hand over."""


def _await_hand_over(route: RouteMetrics) -> None:
    if not _counted:
        asyncio.get_running_loop().call_later(HAND_OVER_S, hand_over)
    _counted.add(route)


def hand_over() -> None:
    """Give the library what was counted; `exposition` tells of nothing else."""
    while _counted:
        _counted.pop().hand_over()


@cache
def _frame_counter(direction: str, kind: str) -> Callable[[], None]:
    return _frames.labels(direction, kind).inc


def frame_received(kind: str) -> None:
    """A frame of a type that there is was received."""
    _frame_counter("received", kind)()


def frame_sent(kind: str) -> None:
    """A frame was sent."""
    _frame_counter("sent", kind)()


def socket_closed(code: int | None) -> None:
    """A WebSocket is closed; whatever the other side's code was, few are counted apart."""
    known = code is not None and (code in _OWN_CODES or _CODES_FROM <= code < _CODES_TO)
    _closes.labels(str(code) if known else "other").inc()


def limited(limit: str) -> None:
    """A caller had reached a limit."""
    _limited.labels(limit).inc()


def exposition() -> bytes:
    """All metrics of this process, or of all workers, in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library has no types here
    return generate_latest(registry)
