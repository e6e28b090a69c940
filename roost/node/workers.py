"""The worker processes that serve, and what happens when one of them, or this process, dies.

Granian's server, with three habits of our own. A worker that dies is started again for as long as the server
runs, with growing pauses (Granian ends the server when a worker dies twice in a few seconds). A worker whose
parent is gone ends at once, so a killed server leaves nothing behind. And a stop is bounded: held requests are
told to answer now, and whoever does not finish in time is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.net import SocketSpec  # type: ignore[attr-defined]  # here and below: Granian has no types inside
from granian.server.mp import MPServer, WorkerProcess
from prometheus_client import multiprocess

from roost.node import logs
from roost.node.directory import CannotStart
from roost.node.interrupt import Interrupt
from roost.node.port import Port
from roost.settings import Settings

TARGET = "roost.app:create"
DRAIN = signal.SIGUSR1
"""Tells a worker to answer the requests that it holds; its stop follows."""
STOP_S = 10
"""How long a worker may take to finish its requests."""
UP_POLL_S = 0.02
STEADY_S = 10.0
"""How long a worker must have lived for its death to be a new trouble."""
RESPAWN_S = (0.1, 5.0)
"""First and longest pause before a worker that died soon is started again."""
FILES_MAX = 65_536
"""Files that a worker may have open, where the system sets no lower limit."""
FIRST_DEATHS_MAX = 3
"""Deaths before any worker ever listened: then the server cannot start at all."""

log = structlog.get_logger("roost.workers")


class Workers(MPServer):
    """The workers of one server. `up` is called once, when the first of them listens.

    Where TLS ends in them, `inside` has a port for each one's HTTP server, and they listen on `port` themselves.
    """

    main_loop_interrupt: Interrupt  # type: ignore[assignment]  # stands in for the Event

    def __init__(
        self,
        port: Port,
        settings: Settings,
        *,
        up: Callable[[], None],
        inside: Sequence[Port] = (),
        target: str = TARGET,
    ) -> None:
        listening = inside[0] if inside else port
        super().__init__(
            target,
            address=listening.host,
            port=listening.number,
            interface=Interfaces.ASGI,
            loop=Loops.uvloop,
            workers=settings.workers,
            backpressure=settings.connections_max,
            # HTTP/2 would be told apart by a connection's first bytes, which may then take for ever to come.
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=int(settings.head_timeout_s * 1000)),
            factory=True,
            websockets=False,  # Roost's own, see `roost.wire.upgrade`
            log_level=LogLevels.error,
            respawn_failed_workers=True,
            workers_kill_timeout=STOP_S,
        )
        self.main_loop_interrupt = Interrupt()
        self._port = port
        self._inside = inside
        self._up = up
        self._listening = threading.Event()
        self._pauses = [0.0] * settings.workers
        self._first_deaths = 0

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP. Raises `CannotStart` if no worker ever gets to listen."""
        # Not fork: a worker must inherit no thread and no lock of this process.
        multiprocessing.set_start_method("spawn", force=True)
        _allow_connections()
        threading.Thread(target=self._await_first, daemon=True).start()
        try:
            with self.main_loop_interrupt:
                self.serve(spawn_target=_work)
        finally:
            for worker in self.wrks:
                worker.kill()  # type: ignore[no-untyped-call]
        if self._first_deaths >= FIRST_DEATHS_MAX:
            raise CannotStart("The workers end as they start: see the first error above.")

    def signal_handler_reload(self, *_: object) -> None:
        """A terminal that went away (SIGHUP) is a stop: there is nothing to load again."""
        self.signal_handler_interrupt()  # type: ignore[no-untyped-call]

    def startup(self, spawn_target: Any, target_loader: Any) -> None:
        """Start everything; `nohup`, which ignores SIGHUP, goes on doing so."""
        hangup = signal.getsignal(signal.SIGHUP)
        super().startup(spawn_target, target_loader)  # type: ignore[no-untyped-call]
        if hangup is signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> WorkerProcess:  # type: ignore[override]
        """A worker; where TLS ends in it, with a port of its own for what is inside."""
        if self._inside:
            inside = self._inside[idx]
            os.environ["ROOST_TLS_INSIDE"] = str(inside.number)
            if sys.platform == "linux":  # the parent process binds for all workers elsewhere
                self._ssp = SocketSpec(inside.host, inside.number, self.backlog)  # type: ignore[assignment]
        return super()._spawn_worker(idx, target, callback_loader)

    def _await_first(self) -> None:
        while not self.interrupt_signal:
            with suppress(OSError), socket.create_connection((self._port.reachable, self._port.number), timeout=1):
                break
            time.sleep(UP_POLL_S)
        else:
            return
        self._listening.set()
        self._up()

    def _serve_loop(self, spawn_target: Any, target_loader: Any) -> None:
        due: dict[int, float] = {}
        while not self.interrupt_signal:
            now = time.monotonic()
            self.main_loop_interrupt.wait(max(0.0, min(due.values()) - now) if due else None)
            self.main_loop_interrupt.clear()
            now = time.monotonic()
            while self.interrupt_children:
                index = self.interrupt_children.pop()
                due[index] = now + self._pause_s(index, now)
            if self._first_deaths >= FIRST_DEATHS_MAX:
                break
            for index in [index for index, at in due.items() if at <= now]:
                del due[index]
                self._respawn_workers([index], spawn_target, target_loader)
        # What ends from here on ends because it was told to.
        self.interrupt_children.clear()

    def _pause_s(self, index: int, now: float) -> float:
        """How long to wait before a dead worker's place is filled again."""
        worker = self.wrks[index]
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            multiprocess.mark_process_dead(worker.inner.pid)  # type: ignore[no-untyped-call]
        self._first_deaths += not self._listening.is_set()
        least, most = RESPAWN_S
        pause = 0.0 if now - worker.birth >= STEADY_S else min(most, max(least, 2 * self._pauses[index]))
        self._pauses[index] = pause
        log.warning("a worker ended and is started again", worker=index + 1, code=worker.inner.exitcode, pause_s=pause)
        return pause

    def _stop_workers(self) -> None:
        for worker in self.wrks:
            worker.interrupt_by_parent = True
            with suppress(ProcessLookupError):
                os.kill(worker.inner.pid, DRAIN)
        super()._stop_workers()  # type: ignore[no-untyped-call]


def _allow_connections() -> None:
    """Let this process and its workers open as many files as the system allows: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft < wanted:
        with suppress(ValueError, OSError):  # some systems have a limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _work(*arguments: Any) -> None:
    """A worker process."""
    # Ctrl-C is for the parent alone, which stops its workers in order.
    os.setpgrp()
    # The application may take it; by itself it would end the process.
    signal.signal(DRAIN, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logs.configure(os.environ.get("ROOST_LOG_LEVEL", ""))
    MPServer._spawn_asgi_lifespan_worker(*arguments)  # noqa: SLF001  # what Granian itself would have started


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
