"""A real `roost serve` for tests: its own data directory, a free port, and nothing left behind.

Whatever is tested against a server meets the processes that a user would start: the command line, the embedded
PostgreSQL, the workers. A server can be stopped, killed and started again on the same data and the same port, and
everything that it started is ended by its process id, whatever became of the test.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from roost.authz.identity import Identity
from roost.authz.principal import Kind
from roost.crypto.signing import SigningKeys
from roost.node import directory

START_S = 60.0
STOP_S = 60.0
POLL_S = 0.02
TOKEN_TTL_S = 3600


def until(condition: Callable[[], bool], patience_s: float = 30.0, what: str = "") -> None:
    """Wait for something that another process does; fails after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what or condition}"
        time.sleep(POLL_S)


class Server:
    """`roost serve` on `data`; as a context, it is up inside and gone after.

    `settings` are `ROOST_*` variables without the prefix, in lower case: `Server(data, queue_commands_max="8")`.
    """

    def __init__(self, data: Path, *, workers: int = 1, engine: str | None = None, **settings: str) -> None:
        self.data = data
        self.workers = workers
        self._engine = engine
        self._settings = settings
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started: dict[int, psutil.Process] = {}
        self._keeper: socket.socket | None = None
        self.log = data.parent / f"{data.name}.log"

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        """The process that `roost serve` itself is."""
        assert self._process is not None
        return self._process.pid

    @property
    def engine_url(self) -> str:
        """Where its engine is reached."""
        return directory.running(self.data).engine

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ROOST_", "PG"))}
        return inherited | {f"ROOST_{name.upper()}": value for name, value in self._settings.items()}

    def command(self, *arguments: str) -> list[str]:
        """A `roost` command line, run by this interpreter."""
        return [sys.executable, "-m", "roost", *arguments]

    def launch(self) -> None:
        """Start it, and do not wait."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        arguments = ["serve", "--data", str(self.data), "--port", str(self._port), "--workers", str(self.workers)]
        if self._engine is not None:
            arguments += ["--engine", self._engine]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        self._started[self.pid] = psutil.Process(self.pid)

    def start(self) -> Self:
        """Start it, and wait until it can serve."""
        self.launch()
        self.await_ready()
        return self

    def await_ready(self, patience_s: float = START_S) -> None:
        """Wait until `/readyz` says so, and every worker is there. Afterwards the port is known."""

        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"roost serve ended: {self.log.read_text()}"
            with suppress(httpx.HTTPError, directory.CannotStart):
                self._port = self._port or httpx.URL(directory.running(self.data).address).port or 0
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return len(self.listening()) == self.workers
            return False

        until(ready, patience_s, f"{self.url} is ready")
        self._remember()
        self._keep_port()

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, wait until it has; returns its exit status."""
        assert self._process is not None
        self._remember()
        with suppress(ProcessLookupError):
            os.kill(self.pid, by)
        return self._process.wait(STOP_S)

    def kill(self) -> None:
        """SIGKILL `roost serve` itself; what it started is left to notice."""
        assert self._process is not None
        self._remember()
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Stop it in order if it still runs, then see to it that nothing of it is left."""
        if self._process is None:
            return
        self._remember()
        if self._process.poll() is None:
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        _, alive = psutil.wait_procs(list(self._started.values()), timeout=STOP_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(STOP_S)
        self._started.clear()
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        self._process = None
        assert not alive, f"left behind: {alive}"

    def listening(self) -> list[int]:
        """The process ids of the workers that serve now."""
        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children() if (self._port, 0) in _ports(child)]
        return []

    def clients(self) -> dict[int, set[int]]:
        """The connections that each worker has taken, by the client's own port."""
        return {
            pid: {there for here, there in _ports(psutil.Process(pid)) if here == self._port and there}
            for pid in self.listening()
        }

    def postmaster(self) -> int:
        """The process id of the embedded PostgreSQL."""
        return int((self.data / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])

    def backends(self) -> list[int]:
        """The process ids of the PostgreSQL processes that serve one connection each."""
        return [child.pid for child in psutil.Process(self.postmaster()).children() if "roost roost" in _title(child)]

    def token(self, user: str, ttl_s: int = TOKEN_TTL_S) -> str:
        """A token that reaches one user's state."""
        return self.issue("user", user, ttl_s)

    def admin(self) -> str:
        """A token that reaches everything."""
        return self.issue("admin", "admin")

    def service(self, name: str) -> str:
        """A service's token, which reaches everything."""
        return self.issue("service", name)

    def client(self, token: str | None = None) -> httpx.Client:
        """An HTTP client with a token (an admin's, where none is given)."""
        headers = {"authorization": f"Bearer {self.admin() if token is None else token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `roost` command in this server's environment, to its end."""
        return subprocess.run(
            self.command(*arguments), env=self.environment(), capture_output=True, text=True, timeout=120, check=False
        )

    def verify(self) -> None:
        """See that `roost verify` finds nothing."""
        verified = self.run("verify", "--data", str(self.data))
        assert verified.returncode == 0, verified.stdout + verified.stderr

    def issue(self, kind: Kind, name: str, ttl_s: int = TOKEN_TTL_S, scopes: Iterable[str] = ()) -> str:
        """A token of any role, limited to `scopes` if there are any."""
        return Identity(SigningKeys.load_or_create(self.data)).issue(kind, name, ttl_s, scopes=scopes)

    def _keep_port(self) -> None:
        """Let no other test's server have the port while this one is down. It minds this one as little as its own."""
        if self._keeper is None:
            self._keeper = socket.socket()
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                self._keeper.setsockopt(socket.SOL_SOCKET, option, 1)
            with suppress(OSError):  # a server of another user's shares it with nobody
                self._keeper.bind(("127.0.0.1", self._port))

    def _remember(self) -> None:
        """Take down everything that was started, while it still can be found."""
        with suppress(psutil.NoSuchProcess):
            self._started |= {child.pid: child for child in psutil.Process(self.pid).children(recursive=True)}


def _ports(process: psutil.Process) -> set[tuple[int, int]]:
    """The local and the remote port of each TCP socket of a process; 0 where it listens."""
    with suppress(psutil.NoSuchProcess):
        sockets = process.net_connections("tcp")
        listening = {(socket.laddr.port, 0) for socket in sockets if socket.status == psutil.CONN_LISTEN}
        return listening | {
            (socket.laddr.port, socket.raddr.port) for socket in sockets if socket.status == psutil.CONN_ESTABLISHED
        }
    return set()


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""
