"""The PostgreSQL that a running Roost started, reached by PostgreSQL's own programs through its socket."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from bench.processes import descendants
from roost.engines.embedded import DATABASE, ROLE
from roost.engines.embedded.binaries import find


class BenchFailed(Exception):
    """The bench cannot go on; one sentence says why."""


class Postgres(NamedTuple):
    """Where PostgreSQL's programs are, and where the server listens."""

    binaries: Path
    socket: Path
    port: int
    pid: int
    """Of the postmaster."""

    def run(self, program: str, *arguments: str, database: str = DATABASE, folder: Path, timeout_s: float) -> str:
        """Run one of PostgreSQL's programs in `folder`; its output, or `BenchFailed`."""
        env = dict(
            os.environ, PGHOST=str(self.socket), PGPORT=str(self.port), PGUSER=ROLE, PGDATABASE=database, LC_ALL="C"
        )
        command = [str(self.binaries / program), *arguments]
        try:
            done = subprocess.run(
                command, env=env, cwd=folder, check=False, capture_output=True, text=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"{program} did not end within {timeout_s:.0f} s.") from None
        if done.returncode:
            raise BenchFailed(f"{program} failed: {done.stderr.strip()[-400:]}")
        return done.stdout

    def processes(self) -> list[int]:
        """The postmaster and every process under it."""
        return [self.pid, *descendants(self.pid)]

    def query(self, sql: str) -> str:
        """What psql prints for one statement, unaligned."""
        return self.run("psql", "-XAtqc", sql, folder=Path("/"), timeout_s=120).strip()


def running_in(data: Path) -> Postgres:
    """The PostgreSQL of a data directory that is being served; its lock file says where it listens."""
    try:
        lock = (data / "postgres" / "postmaster.pid").read_text().splitlines()
        return Postgres(find().folder, Path(lock[4]), int(lock[3]), int(lock[0]))
    except (OSError, IndexError, ValueError) as error:
        raise BenchFailed(f"No PostgreSQL runs in {data}: {error}") from None
