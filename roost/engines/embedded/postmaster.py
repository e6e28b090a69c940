"""How PostgreSQL's programs are run: as whom, seeing which files, and how one that was left behind is ended.

PostgreSQL refuses to run as root. So root runs it as an account without rights, and where that account may not
pass a parent folder of the data directory or of the programs, gives it both at a place of its own in a private
mount namespace. Permissions of parent folders are never touched.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from roost.core.ports import EngineUnavailable
from roost.engines.embedded.binaries import Binaries

ACCOUNTS = ("roost", "postgres", "nobody")
"""Whom root runs PostgreSQL as: the first that the machine has."""
STOP_FAST_S = 30.0
STOP_IMMEDIATE_S = 10.0
POLL_S = 0.02

# Binds pairs of folders up to `--`, then becomes the program, which so keeps this process's id.
_IN_NAMESPACE = 'while [ "$1" != -- ]; do mount -n --bind -- "$1" "$2"; shift 2; done; shift; exec "$@"'

# The kernel stops the program (for PostgreSQL a fast shutdown) when the thread that started it is gone.
_LEASH: list[str | Path] = ["setpriv", "--pdeathsig", "INT", "--"]


class Account(NamedTuple):
    """An operating system user."""

    name: str
    uid: int
    gid: int


def account_for(data: Path) -> Account | None:
    """Whom to run PostgreSQL as; None means as who runs this.

    A data directory that is there already goes on with its owner. Raises `EngineUnavailable`.
    """
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    if owner:
        with suppress(KeyError):
            return _account(pwd.getpwuid(owner))
        raise EngineUnavailable(f"{data} belongs to user {owner}, which this machine does not know: chown it to one.")
    for name in ACCOUNTS:
        with suppress(KeyError):
            return _account(pwd.getpwnam(name))
    raise EngineUnavailable(
        f"PostgreSQL does not run as root, and no account is {' or '.join(ACCOUNTS)}: run `useradd --system roost`."
    )


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


class Runner:
    """Runs PostgreSQL's programs on a data directory.

    `place` is a folder of the account's own that nobody else may enter.
    """

    def __init__(self, binaries: Binaries, account: Account | None, place: Path) -> None:
        self._binaries = binaries
        self._account = account
        self.place = place

    def start(
        self,
        program: str,
        data: Path,
        *arguments: str | Path,
        output: IO[bytes],
        stdin: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start `program`, with its output and errors to `output`; an argument that is `data` is given as it sees it.

        The process stands apart from the terminal's, so Ctrl-C does not reach it. Raises `EngineUnavailable`.
        """
        prefix, folder, seen = self._route(data)
        return subprocess.Popen(
            [*prefix, folder / program, *(seen if argument is data else argument for argument in arguments)],
            cwd="/",  # an account that may not enter the current folder would be told so at each start
            env=os.environ | {"LC_ALL": "C"},
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )

    def _route(self, data: Path) -> tuple[list[str | Path], Path, Path]:
        """What stands before a program, the programs' folder and the data directory as the program sees them."""
        folder = self._binaries.folder
        if self._account is None:
            return (_LEASH if _holds([*_LEASH, "true"]) else []), folder, data
        as_account: list[str | Path] = [
            *(*_LEASH[:-1], "--reuid", str(self._account.uid), "--regid", str(self._account.gid)),
            *("--clear-groups", "--no-new-privs", "--"),
        ]
        if not _holds([*as_account, "true"]):
            raise EngineUnavailable("As root, Roost needs setpriv: install util-linux, or run it as an ordinary user.")
        binds: dict[Path, Path] = {}
        if not _holds([*as_account, "test", "-x", folder / "postgres"]):
            base = self._binaries.base
            binds |= {tree: self.place / "programs" / tree.relative_to(base) for tree in self._binaries.trees}
            folder = self.place / "programs" / folder.relative_to(base)
        seen = data
        if not _holds([*as_account, "test", "-w", data]):
            seen = binds[data] = self.place / "data"
        if not binds:
            return as_account, folder, data
        for target in binds.values():
            _make_enterable(target, self.place)
        prefix: list[str | Path] = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _IN_NAMESPACE, "sh"]
        prefix += [*(path for bind in binds.items() for path in bind), "--", *as_account]
        if not (_holds([*prefix, "test", "-x", folder / "postgres"]) and _holds([*prefix, "test", "-w", seen])):
            raise EngineUnavailable(
                f"PostgreSQL runs as {self._account.name}, who may not reach {' or '.join(map(str, binds))}: keep both "
                "where everybody may pass (--data /var/lib/roost), or run Roost as an ordinary user."
            )
        return prefix, folder, seen


def _holds(command: list[str | Path]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, cwd="/", check=False).returncode == 0
    except FileNotFoundError:
        return False


def _make_enterable(folder: Path, below: Path) -> None:
    """Make `folder` and its parents up to `below` so that the account may pass them, whatever the umask."""
    for part in (*reversed(folder.parents), folder):
        if part.is_relative_to(below) and part != below:
            part.mkdir(exist_ok=True)
            part.chmod(0o711)


class Trace(NamedTuple):
    """What a postmaster wrote to its `postmaster.pid`."""

    pid: int
    data: str
    """The data directory as it sees it."""
    ready: bool


def trace(data: Path) -> Trace | None:
    """The trace of the postmaster of a data directory; None where there is none, or not all of it yet."""
    try:
        lines = (data / "postmaster.pid").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    try:
        return Trace(int(lines[0]), lines[1], len(lines) > 7 and lines[7].strip() == "ready")  # noqa: PLR2004  # as PostgreSQL numbers them
    except (IndexError, ValueError):
        return None


def end_left_behind(data: Path) -> None:
    """End the postmaster that a killed server left on `data`, if there is one.

    Whoever calls owns the data directory. Raises `EngineUnavailable` if it does not end.
    """
    file = data / "postmaster.pid"
    left = trace(data)
    if left is None and file.exists() and not until(lambda: trace(data) is not None or not file.exists(), 1.0):
        # Cut short by a kill or a full disk as it was made, before there was anything to protect.
        file.unlink(missing_ok=True)
    left = trace(data)
    if left is None:
        return
    for stop, patience_s in ((signal.SIGINT, STOP_FAST_S), (signal.SIGQUIT, STOP_IMMEDIATE_S), (signal.SIGKILL, 5.0)):
        if not _is_postmaster(left):
            break
        with suppress(ProcessLookupError):
            os.kill(left.pid, stop)
        until(lambda: not _is_postmaster(left), patience_s)
    else:
        if _is_postmaster(left):
            raise EngineUnavailable(f"PostgreSQL (process {left.pid}) still runs on {data}: stop it, then start again.")
    _disown(file, left.pid)


def _is_postmaster(left: Trace) -> bool:
    """Whether the process still is the one that left this trace, and not another that got its number later."""
    return f"postgres -D {left.data} " in f"{_command(left.pid)} "


def _command(pid: int) -> str:
    """What a process was started with; empty for one that has ended."""
    if Path("/proc/self").exists():
        with suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return ""
    answer = subprocess.run(
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def _disown(file: Path, pid: int) -> None:
    """Keep a process that got the dead postmaster's number from being taken for it.

    PostgreSQL would refuse to start. The rest of the file must stay: it leads to the shared memory by which
    PostgreSQL knows that a dead postmaster's children are still there. Its parent's number it takes for a stale one.
    """
    if not file.exists() or not _command(pid):
        return
    _, newline, rest = file.read_text().partition("\n")
    with file.open("r+") as opened:
        opened.write(f"{os.getpid()}{newline}{rest}")
        opened.truncate()


def until(condition: Callable[[], bool], patience_s: float) -> bool:
    """Wait for `condition`, at most `patience_s`; returns whether it came true."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
