"""Metrics: routes, never paths, from one worker and from several."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from roost.wire import metrics
from roost.wire.metrics import RouteMetrics

# It is handed over some time after, with nobody asking.
RECORD = """
import asyncio
from roost.wire import metrics
async def work():
    metrics.RouteMetrics('GET', '/a').record(200, 0.003)
    while metrics._counted:
        await asyncio.sleep(0.01)
asyncio.run(work())
"""
SHOW = "import sys; from roost.wire import metrics; sys.stdout.buffer.write(metrics.exposition())"


def test_whichever_worker_is_asked_answers_for_all(tmp_path: Path) -> None:
    def worker(program: str) -> str:
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True
        ).stdout

    worker(RECORD)
    worker(RECORD)
    text = worker(SHOW)
    assert 'roost_http_requests_total{method="GET",route="/a",status="200"} 2.0' in text
    assert 'roost_http_request_seconds_bucket{le="0.005",method="GET",route="/a"} 2.0' in text


numbers = count()


@given(st.lists(st.tuples(st.sampled_from([200, 304, 412]), st.sampled_from(metrics._BOUNDS) | st.floats(0, 100))))
def test_what_is_handed_over_is_what_the_library_would_have_counted(requests: list[tuple[int, float]]) -> None:
    route = f"/{next(numbers)}"
    mine = RouteMetrics("GET", route)
    theirs = Histogram("theirs", "", registry=(registry := CollectorRegistry()), buckets=metrics._BOUNDS)

    async def work() -> None:
        for index, (status, seconds) in enumerate(requests):
            mine.record(status, seconds)
            theirs.observe(seconds)
            if index % 3 == 2:
                metrics.hand_over()
        metrics.hand_over()
        metrics.hand_over()

    asyncio.run(work())
    for status in (200, 304, 412):
        counted = REGISTRY.get_sample_value(
            "roost_http_requests_total", {"method": "GET", "route": route, "status": str(status)}
        )
        assert (counted or 0) == sum(each == status for each, _ in requests)
    for le in [*map(str, map(float, metrics._BOUNDS)), "+Inf"]:
        labels = {"method": "GET", "route": route, "le": le}
        counted = REGISTRY.get_sample_value("roost_http_request_seconds_bucket", labels)
        assert counted == registry.get_sample_value("theirs_bucket", {"le": le})
    total = REGISTRY.get_sample_value("roost_http_request_seconds_sum", {"method": "GET", "route": route})
    assert abs((total or 0) - sum(seconds for _, seconds in requests)) < 1e-6
