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
from typing import NamedTuple, Self

from bench.postgres import BenchFailed

READY_S = 60
STOP_S = 40
ROOST = (sys.executable, "-c", "import sys; from roost.cli import main; sys.exit(main())")


class Memory(NamedTuple):
    """Of one process, in MB. `pss` counts a page shared by n processes as 1/n."""

    rss: float
    pss: float


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A running `roost serve`; leaving the context stops it and all that it started."""

    def __init__(self, data: Path, workers: int) -> None:
        self.workers = workers
        self.data = data
        self.url = ""
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log = data.parent / f"serve-{workers}.log"

    def __enter__(self) -> Self:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [*ROOST, "serve", "--data", str(self.data), "--port", str(port), "--workers", str(self.workers)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            self._await_ready()
            token = subprocess.run(
                [*ROOST, "token", "--admin", "--data", str(self.data)], check=True, capture_output=True, text=True
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

    def memory(self) -> list[Memory]:
        """Of each worker: the largest of the processes under `roost serve` that are not PostgreSQL's."""
        assert self._process is not None
        under = [pid for pid in descendants(self._process.pid) if "postgres" not in command_of(pid)]
        return sorted((memory_of(pid) for pid in under or [self._process.pid]), reverse=True)[: self.workers]


def descendants(pid: int) -> list[int]:
    """Every process under `pid`, from /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for each in found:
        found.extend(children.get(each, []))
    return found


def command_of(pid: int) -> str:
    """The command line of a process; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def memory_of(pid: int) -> Memory:
    """What a process holds now; zeros where /proc does not tell."""
    sizes = {"Rss": 0.0, "Pss": 0.0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) / 1024
    return Memory(sizes["Rss"], sizes["Pss"])
