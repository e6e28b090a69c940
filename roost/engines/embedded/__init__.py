"""A PostgreSQL of Roost's own, for a laptop, a test or one machine.

It lives in the data directory and listens on a socket in a private folder only. Nobody but the operating system
user who runs Roost may connect. It is started, watched, started again when it dies, and stopped from here, with
full durability: what a commit acknowledged is on disk.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

import structlog

from roost import files
from roost.core.ports import EngineUnavailable
from roost.engines import statements
from roost.engines.embedded.binaries import Binaries, find
from roost.engines.embedded.postmaster import (
    STOP_FAST_S,
    STOP_IMMEDIATE_S,
    Account,
    Runner,
    account_for,
    end_left_behind,
    trace,
    until,
)
from roost.engines.embedded.resources import shared_buffers

ROLE = DATABASE = "roost"
PORT = 5432
"""Not a port of the network: it only names the socket."""
SOCKET_PATH_BYTES_MAX = 103
"""The least that any system allows."""
READY_S = 1_800.0
"""How long recovery after a crash may take."""
INITDB_S = 120.0
WATCH_S = 0.2
"""How often it is looked whether PostgreSQL still runs."""
STEADY_S = 30.0
"""How long it must have run for a new death to be a new trouble."""
TRIES = 4
"""Of the first start; after that it is tried for ever."""
RESTART_S = (0.05, 5.0)
"""First and longest pause before it is started again."""
LOG_BYTES_MAX = 8 << 20
DRAFT = "postgres.new-"
"""How the names of data directories begin that are not whole yet."""
DRAFT_S = 5.0
PLACE = "roost-"
"""How the names of private places begin."""
FULL_BYTES = 32 << 20
"""Less free space than two WAL segments is taken for the reason of a failure."""

log = structlog.get_logger("roost.embedded")

# What Roost stands on. The command line beats every file, so nothing can switch these off by accident.
FIXED = {"listen_addresses": "", "fsync": "on", "full_page_writes": "on", "restart_after_crash": "on"}
# What may be tuned with ALTER SYSTEM.
TUNABLE = {
    "max_connections": "100",
    "shared_buffers": shared_buffers(),
    "synchronous_commit": "on",
    # Checkpoints are rare, so few commits carry whole pages; recovery still takes seconds.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Roost's statements are short: workers of a query would cost more than they bring, as would compiling.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    # Whoever vanishes in the middle of a transaction must not keep its locks.
    "client_connection_check_interval": "1s",
    "idle_in_transaction_session_timeout": "60s",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "datestyle": "iso, ymd",
    "lc_messages": "C",
    "cluster_name": "roost",
}


class Embedded:
    """The PostgreSQL of a data directory. Whoever makes one owns that directory: `roost.node.directory` sees to it.

    A thread of its own starts, watches and stops PostgreSQL, which the kernel stops when that thread is gone: a
    process that is killed leaves no PostgreSQL behind (where `setpriv` is there; elsewhere the next start ends it).
    """

    _runner: Runner

    def __init__(self, data: Path) -> None:
        self._folder = data.resolve()
        self._data = self._folder / "postgres"
        self._log = self._folder / "postgres.log"
        self._last_place = self._folder / "postgres.place"
        self._place: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._started: Future[str] = Future()
        self._thread = threading.Thread(target=self._own, name="postgres", daemon=True)

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Start PostgreSQL, the first time with a new database; returns its URL. Raises `EngineUnavailable`."""
        self._thread.start()
        try:
            return self._started.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop PostgreSQL: transactions are rolled back, and everything is on disk. Never raises."""
        self._stopping.set()
        self._thread.join()

    def _own(self) -> None:
        """Everything that happens to PostgreSQL, from its start to its end."""
        try:
            try:
                self._prepare()
                self._launch_at_last()
            except OSError as error:
                self._started.set_exception(EngineUnavailable(self._why(f"{error.strerror}: {error.filename}")))
            except Exception as error:  # noqa: BLE001  # raised where `start` waits
                self._started.set_exception(error)
            else:
                where = quote(str(self._place), safe="/")
                self._started.set_result(f"postgresql://{ROLE}@/{DATABASE}?host={where}&port={PORT}")
                self._watch()
        finally:
            self._end()

    def _prepare(self) -> None:
        if self._last_place.exists():  # whoever was here before was killed
            end_left_behind(self._data)
            _clear(Path(self._last_place.read_text()))
        for draft in self._folder.glob(f"{DRAFT}*"):
            until(lambda draft=draft: _removed(draft), DRAFT_S)  # type: ignore[misc]  # mypy knows no such defaults
        account = account_for(self._data)
        self._place = _private_place(account)
        self._last_place.write_text(str(self._place))
        version = self._data / "PG_VERSION"
        binaries = find(int(version.read_text()) if version.exists() else None)
        self._runner = Runner(binaries, account, self._place)
        if not self._data.exists():
            self._initialise(binaries, account)

    def _initialise(self, binaries: Binaries, account: Account | None) -> None:
        """Make the data directory under another name first, so that it is there as a whole or not at all."""
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self._folder))
        try:
            if account is not None:
                os.chown(draft, account.uid, account.gid)
            locale = ("--locale-provider=builtin", "--locale=C.UTF-8") if binaries.major >= 17 else ("--locale=C",)  # noqa: PLR2004  # the release that brought it
            self._run(
                *("initdb", draft, "-D", draft, "--username", ROLE, "--auth", "peer", "--encoding", "UTF8"),
                *("--data-checksums", "--no-instructions", *locale),
            )
            create = statements.load("embedded")["create_database"]
            self._run(
                *("postgres", draft, "--single", "-D", draft, "-c", "exit_on_error=true", "postgres"),
                typed=f"{create};\n".encode(),
            )
            draft.rename(self._data)
            files.sync(self._folder)
        finally:
            until(lambda: _removed(draft), DRAFT_S)

    def _run(self, program: str, data: Path, *arguments: str | Path, typed: bytes = b"") -> None:
        """Run a program to its end. Raises `EngineUnavailable` if it fails, or has to stop first."""
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as text:
            text.write(typed)
            text.seek(0)
            process = self._runner.start(program, data, *arguments, stdin=text, output=said)
            until(lambda: process.poll() is not None or self._stopping.is_set(), INITDB_S)
            process.kill()
            if process.wait():
                said.seek(0)
                raise EngineUnavailable(self._why(_reason(said.read())))

    def _launch_at_last(self) -> None:
        """Launch; children of a postmaster that was killed may need a moment to be gone."""
        for again in reversed(range(TRIES)):
            try:
                self._launch()
            except EngineUnavailable:
                if not again or self._stopping.wait(0.5):
                    raise
            else:
                return

    def _launch(self) -> None:
        """Start the postmaster and wait until it takes connections. Raises `EngineUnavailable`."""
        end_left_behind(self._data)
        self._limit_log()
        with self._log.open("ab") as output:
            begin = output.tell()
            process = self._process = self._postmaster(output)
        until(lambda: process.poll() is not None or self._ready() or self._stopping.is_set(), READY_S)
        if process.poll() is not None:
            raise EngineUnavailable(self._why(_reason(self._log.read_bytes()[begin:])))
        if not self._ready():
            raise EngineUnavailable(self._why(f"it did not get ready within {READY_S:.0f} s"))

    def _end(self) -> None:
        for stop, patience_s in ((signal.SIGINT, STOP_FAST_S), (signal.SIGQUIT, STOP_IMMEDIATE_S), (signal.SIGKILL, 5)):
            if self._process is None or self._process.poll() is not None:
                break
            self._process.send_signal(stop)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        if self._place is not None:
            _clear(self._place)
            with suppress(OSError):
                self._last_place.unlink()

    def _postmaster(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError as error:
            raise EngineUnavailable(
                f"User {os.geteuid()} has no name on this machine: add it to /etc/passwd."
            ) from error
        quoted = user.replace('"', '""')
        texts = {
            "config_file": "".join(f"{name} = '{value}'\n" for name, value in TUNABLE.items()),
            "hba_file": f"local all {ROLE} peer map=roost\nlocal replication {ROLE} peer map=roost\n",
            "ident_file": f'roost "{quoted}" {ROLE}\n',
        }
        options: list[str | Path] = []
        for name, text in texts.items():
            file = self._runner.place / name
            file.write_text(text)
            file.chmod(0o644)  # the folder is private; the account reads what root wrote
            options += ["-c", f"{name}={file}"]
        for name, value in {**FIXED, "unix_socket_directories": self._runner.place, "port": PORT}.items():
            options += ["-c", f"{name}={value}"]
        return self._runner.start("postgres", self._data, "-D", self._data, *options, output=output)

    def _ready(self) -> bool:
        found = trace(self._data)
        return found is not None and self._process is not None and found.pid == self._process.pid and found.ready

    def _watch(self) -> None:
        """Start PostgreSQL again whenever it ends, until it is stopped."""
        pause_s, since = RESTART_S[0], time.monotonic()
        while not self._stopping.wait(WATCH_S):
            if self._process is not None and self._process.poll() is None:
                self._limit_log()
                continue
            if time.monotonic() - since > STEADY_S:
                pause_s = RESTART_S[0]
            log.warning("PostgreSQL ended; starting it again", code=self._process and self._process.returncode)
            while not self._stopping.wait(pause_s):
                pause_s = min(2 * pause_s, RESTART_S[1])
                try:
                    self._launch()
                except (EngineUnavailable, OSError) as error:
                    log.error("PostgreSQL does not start yet", error=str(error))  # noqa: TRY400  # the reason is PostgreSQL's
                else:
                    log.info("PostgreSQL runs again")
                    since = time.monotonic()
                    break

    def _limit_log(self) -> None:
        """Keep the log from growing: when it is long, it becomes the old one, and goes on empty."""
        with suppress(OSError):
            if self._log.stat().st_size > LOG_BYTES_MAX:
                with suppress(OSError):  # a full disk: better no old log
                    shutil.copyfile(self._log, self._log.with_suffix(".log.old"))
                os.truncate(self._log, 0)

    def _why(self, reason: str) -> str:
        if shutil.disk_usage(self._folder).free < FULL_BYTES:
            return f"The disk that holds {self._folder} is full ({reason}): make room, then start again."
        return f"PostgreSQL does not start: {reason} (more in {self._log})."


def _private_place(account: Account | None) -> Path:
    """A new folder for the socket and the configuration, which only the account (and root) may enter."""
    parent = tempfile.gettempdir()
    longest = len(os.fsencode(parent)) + len("/roost-12345678/.s.PGSQL.5432")
    if account is not None or longest > SOCKET_PATH_BYTES_MAX:
        parent = "/tmp"  # noqa: S108  # mkdtemp makes it private; a path that is short, and that any account may pass
    place = Path(tempfile.mkdtemp(prefix=PLACE, dir=parent))
    if account is not None:
        os.chown(place, account.uid, account.gid)
    return place


def _removed(folder: Path) -> bool:
    """Remove a folder; fails as long as a program that was killed with its starter still writes to it."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _clear(place: Path) -> None:
    """Remove a private place: what Roost and PostgreSQL put there, and empty folders.

    Never what is in its folders: a data directory may be bound to one of them.
    """
    if not place.name.startswith(PLACE):
        return
    with suppress(OSError):
        for entry in place.iterdir():
            if not entry.is_dir():
                entry.unlink()
        for folder, _, _ in os.walk(place, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()


def _reason(output: bytes) -> str:
    """The line that says best why PostgreSQL gave up."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    for mark in ("PANIC:", "FATAL:", "error:", "ERROR:"):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2].strip()
    return lines[-1] if lines else "it gave no reason"
