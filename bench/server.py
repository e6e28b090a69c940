"""A Roost of the bench's own: `roost serve` on a throw-away data directory, its memory, and its clean end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

from bench.postgres import BenchFailed
from bench.processes import Memory, command_of, descendants, memory_of
from roost.authz.identity import Identity
from roost.crypto.signing import SigningKeys

READY_S = 60
STOP_S = 40
TOKEN_TTL_S = 3600
ROOST = (sys.executable, "-c", "import sys; from roost.cli import main; sys.exit(main())")


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A running `roost serve`; leaving the context stops it and all that it started.

    `settings` are `ROOST_*` variables without the prefix, in lower case. `tree` is where the Roost that runs is, if
    it is not this one.
    """

    def __init__(self, data: Path, workers: int, *, tree: Path | None = None, **settings: str) -> None:
        self.workers = workers
        self._tree = tree
        self.data = data
        self._env = os.environ | {f"ROOST_{name.upper()}": value for name, value in settings.items()}
        self.url = ""
        self.token = ""
        self._identity: Identity | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = data.parent / f"serve-{workers}.log"

    def __enter__(self) -> Self:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [*ROOST, "serve", "--data", str(self.data), "--port", str(port), "--workers", str(self.workers)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._env, cwd=self._tree, start_new_session=True
            )
        try:
            self._await_ready()
            token = subprocess.run(
                [*ROOST, "token", "--service", "bench", "--data", str(self.data)],
                check=True,
                capture_output=True,
                text=True,
                cwd=self._tree,
            )
        except BaseException:
            self.__exit__()
            raise
        self.token = token.stdout.split()[-1]
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        # What is left now did not stop by itself; the group is the server's alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def _await_ready(self) -> None:
        assert self._process is not None
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=2):
                return
            time.sleep(0.1)
        raise BenchFailed(f"roost serve did not become ready: {self._log.read_text(errors='replace').strip()[-600:]}")

    def token_of(self, user: str) -> str:
        """A token that reaches one user's state."""
        if self._identity is None:
            self._identity = Identity(SigningKeys.load_or_create(self.data))
        return self._identity.issue("user", user, TOKEN_TTL_S)

    def processes(self) -> list[int]:
        """The server's own: not PostgreSQL's."""
        assert self._process is not None
        under = [pid for pid in descendants(self._process.pid) if "postgres" not in command_of(pid)]
        return [self._process.pid, *under]

    def worker_processes(self) -> list[int]:
        """Of the processes under `roost serve`, the largest: the workers."""
        first, *under = self.processes()
        return sorted(under or [first], key=memory_of, reverse=True)[: self.workers]

    def memory(self) -> list[Memory]:
        """Of each worker."""
        return [memory_of(pid) for pid in self.worker_processes()]
