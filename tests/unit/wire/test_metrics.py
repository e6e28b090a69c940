"""Metrics: routes, never paths, from one worker and from several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RECORD = "from roost.wire.metrics import RouteMetrics; RouteMetrics('GET', '/a').record(200, 0.003)"
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
