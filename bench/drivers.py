"""The two load generators: wrk against Roost's HTTP, pgbench against the PostgreSQL under it.

Both give the same `Measure`, so that the table can put them side by side.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from bench.postgres import BenchFailed, Postgres
from bench.processes import cpu_s

CONNECTIONS = 128
THREADS = 2
CLIENTS = 16
Action = Literal["put", "get", "fill"]
SPARE_S = 30
"""How much longer than its load a generator may take before it is given up."""


class Measure(NamedTuple):
    """What one run of a load generator saw: `refused` are answers of 400 and above, `broken` failed connections."""

    rate: float
    """Requests or transactions a second."""
    p50_ms: float
    p99_ms: float
    requests: int
    refused: int = 0
    broken: int = 0
    server_us: float = 0
    """Processor time a request of Roost's processes, then of PostgreSQL's, then of the load generator."""
    postgres_us: float = 0
    load_us: float = 0

    @property
    def cost_us(self) -> float:
        """Processor time of a request without the load generator's."""
        return self.server_us + self.postgres_us


class Meter:
    """Processor time that a run costs, by who spends it."""

    def __init__(self, server: Callable[[], list[int]], postgres: Callable[[], list[int]]) -> None:
        self._who = (server, postgres)
        self._before = self._now()

    def _now(self) -> list[float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return [*(cpu_s(processes()) for processes in self._who), children.ru_utime + children.ru_stime]

    def read(self, measure: Measure) -> Measure:
        """The measure of what ran since this was made, with what a request of it cost."""
        server, postgres, load = (
            1e6 * (now - before) / max(1, measure.requests)
            for now, before in zip(self._now(), self._before, strict=True)
        )
        return measure._replace(server_us=server, postgres_us=postgres, load_us=load)


def find_wrk() -> str:
    """Where wrk is, or `BenchFailed`."""
    path = shutil.which("wrk")
    if path is None:
        raise BenchFailed("The bench needs wrk: on Debian, apt-get install wrk; on a Mac, brew install wrk.")
    return path


def wrk(url: str, token: str, action: Action, *, users: int, seed: int, seconds: int) -> Measure:
    """Load Roost for `seconds` (`fill`: until every user is written)."""
    command = [
        *(find_wrk(), f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"),
        *("-s", str(Path(__file__).with_name("requests.lua")), url, "--", action, str(users), str(seed)),
    ]
    env = dict(os.environ, BENCH_TOKEN=token, BENCH_THREADS=str(THREADS))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        giving_up = threading.Timer(seconds + SPARE_S, process.kill)
        giving_up.start()
        lines = []
        try:
            for line in process.stdout or ():
                lines.append(line)
                if lines.count("filled\n") == THREADS and line == "filled\n":
                    process.send_signal(signal.SIGINT)  # else wrk would sit out its time
        except BaseException:
            process.kill()
            raise
        finally:
            giving_up.cancel()
    output = "".join(lines)
    found = re.search(r"^measure (.*)$", output, re.MULTILINE)
    if process.returncode or not found:
        raise BenchFailed(f"wrk failed: {output.strip()[-400:]}")
    seen = json.loads(found[1])
    return Measure(
        seen["requests"] / seen["seconds"],
        seen["p50_ms"],
        seen["p99_ms"],
        seen["requests"],
        seen["refused"],
        seen["broken"],
    )


class Pgbench:
    """pgbench's own tables in a database of their own, on the PostgreSQL that Roost runs on.

    `postgres` is where that listens now: another place each time that Roost starts.
    """

    def __init__(self, postgres: Postgres, rows: int) -> None:
        """Make `rows` accounts, a multiple of 100,000: pgbench's own unit."""
        self.postgres = postgres
        self._folder = Path(tempfile.mkdtemp(prefix="roost-pgbench-"))
        postgres.query("CREATE DATABASE pgbench")
        self._pgbench("-i", "-q", "-s", str(max(1, rows // 100_000)), timeout_s=120)

    def _pgbench(self, *arguments: str, timeout_s: float) -> str:
        return self.postgres.run("pgbench", *arguments, database="pgbench", folder=self._folder, timeout_s=timeout_s)

    def measure(self, kind: Literal["-N", "-S"], *, seconds: int) -> Measure:
        """16 clients, prepared statements, no vacuum before; times are sampled from pgbench's log."""
        out = self._pgbench(
            kind, "-n", "-M", "prepared", f"-c{CLIENTS}", f"-j{THREADS}", f"-T{seconds}", "-l", "--sampling-rate=0.1",
            timeout_s=seconds + SPARE_S,
        )  # fmt: skip
        logs = list(self._folder.glob("pgbench_log.*"))
        times_us = [int(line.split()[2]) for log in logs for line in log.read_text().splitlines()]
        for log in logs:
            log.unlink()
        rate = re.search(r"tps = ([\d.]+)", out)
        count = re.search(r"number of transactions actually processed: (\d+)", out)
        if not rate or not count or len(times_us) < 2:
            raise BenchFailed(f"pgbench gave no figures: {out.strip()[-400:]}")
        cuts = statistics.quantiles(times_us, n=100, method="inclusive")
        return Measure(float(rate[1]), cuts[49] / 1000, cuts[98] / 1000, int(count[1]))

    def close(self) -> None:
        """Forget the logs; the database goes with the data directory."""
        shutil.rmtree(self._folder, ignore_errors=True)
