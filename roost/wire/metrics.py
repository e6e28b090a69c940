"""What Prometheus is told about requests.

Labels are routes as the contract writes them, never paths: a path names a user. Where several workers share
`PROMETHEUS_MULTIPROC_DIR`, whichever of them is asked answers for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN_ROUTE = "unknown"
_OWN_CODES = range(1000, 1016)
_CODES_FROM, _CODES_TO = 4400, 4504

_requests = Counter("roost_http_requests", "Requests answered.", ["method", "route", "status"])
_seconds = Histogram(
    "roost_http_request_seconds",
    "Seconds from a request's first byte in Python to its answer's last; long polls include their wait.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


sockets = Gauge("roost_websockets", "WebSockets that are open.", multiprocess_mode="livesum")
_frames = Counter("roost_websocket_frames", "Frames of WebSockets.", ["direction", "type"])
_closes = Counter("roost_websocket_closes", "WebSockets that were closed, by the code of whoever did it.", ["code"])
_limited = Counter("roost_limited", "Requests and connections refused because of a caller's limit.", ["limit"])


class RouteMetrics:
    """The metrics of one route and method, looked up once: labels cost more than the count."""

    def __init__(self, method: str, route: str) -> None:
        self._method = method
        self._route = route
        self._observe: Callable[[float], None] = _seconds.labels(method, route).observe
        self._count: dict[int, Callable[[], None]] = {}

    def record(self, status: int, seconds: float) -> None:
        """One request was answered."""
        count = self._count.get(status)
        if count is None:
            count = self._count[status] = _requests.labels(self._method, self._route, str(status)).inc
        count()
        self._observe(seconds)


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
