"""What an operator asks: does the process live, can it serve, what does it count."""

from __future__ import annotations

import asyncio

from roost.core.errors import Code
from roost.wire import metrics, shapes
from roost.wire.answer import JSON, NO_STORE, Answer
from roost.wire.operations import Operation, Reply
from roost.wire.request import Request

_OK = b'{"status":"ok"}'


async def get_health(_: Request) -> Answer:
    """The process lives."""
    return Answer(200, [JSON, NO_STORE], _OK)


async def get_readiness(request: Request) -> Answer:
    """The process can serve: the engine answers, and its schema is the one that is needed."""
    await request.context.gate.ready()
    return Answer(200, [JSON, NO_STORE], _OK)


async def get_metrics(request: Request) -> Answer:
    """Counts and times. They tell of no user, and still are nothing for users."""
    request.context.gate.enter(request.caller, "metrics")
    metrics.hand_over()
    # With several workers this reads their files.
    body = await asyncio.to_thread(metrics.exposition)
    return Answer(200, [(b"content-type", metrics.MEDIA_TYPE.encode()), NO_STORE], body)


OPERATIONS = (
    Operation(
        "GET",
        "/healthz",
        get_health,
        "See that the process lives.",
        (Reply(200, "It lives.", shapes.Health),),
        tag="Operations",
        public=True,
    ),
    Operation(
        "GET",
        "/readyz",
        get_readiness,
        "See that the server can serve.",
        (Reply(200, "It can.", shapes.Health),),
        tag="Operations",
        errors=(Code.UNAVAILABLE, Code.OVERLOADED),
        public=True,
    ),
    Operation(
        "GET",
        "/metrics",
        get_metrics,
        "Read the metrics, for Prometheus.",
        (Reply(200, "Metrics in Prometheus' text format.", str, media_type="text/plain"),),
        tag="Operations",
        description="For admins and services.",
    ),
)
