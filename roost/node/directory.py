"""The data directory: who owns it, which format it has, and how to reach the server that runs on it.

One process owns it at a time. A newer format than this release knows is refused rather than guessed at.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from roost import files

FORMAT = 1
"""Of the data directory, engine aside. One more whenever an older release would misread it."""

MARK = "roost.json"
LOCK = "lock"
RUN = "run.json"
# What may stand in a directory that is to become a data directory: what a mount brings, and what a first start or
# `roost token` has left.
_HARMLESS = {LOCK, "lost+found", "signing_key.json", "keyring.json", "shredded.jsonl"}

Content = TypeVar("Content", bound=msgspec.Struct)


class CannotStart(Exception):
    """Why a node cannot start, or a command cannot work on its data; the message is one line, with a next step."""


class InUse(CannotStart):
    """Another process owns the data directory."""


class Mark(msgspec.Struct, frozen=True):
    """What makes a directory a data directory of Roost's."""

    format: int
    created_at: datetime


class Run(msgspec.Struct, frozen=True):
    """The server that runs on a data directory. `engine` is the URL of its engine, `metrics` what its workers share."""

    pid: int
    address: str
    engine: str
    metrics: str | None = None


class DataDirectory:
    """A data directory that this process owns, until it is closed or the process ends, however it ends."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, clock: Callable[[], datetime]) -> Self:
        """Own the data directory at `path`, which is made where there is none. Raises `CannotStart`."""
        path = path.resolve()
        try:
            if not path.exists():
                path.mkdir(parents=True)
                # The account that runs PostgreSQL for root passes it; every file in it guards itself.
                path.chmod(0o711)
            directory = cls(path, _own(path))
            try:
                directory._mark(clock)
            except BaseException:
                directory.close()
                raise
        except OSError as error:
            raise CannotStart(
                f"The data directory {path} cannot be used ({error.strerror}): choose another with --data."
            ) from error
        return directory

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others own it. Never raises."""
        with suppress(OSError):
            (self.path / RUN).unlink(missing_ok=True)
        os.close(self._lock)

    def announce(self, run: Run) -> None:
        """Tell the other commands how to reach the server."""
        files.replace(self.path / RUN, msgspec.json.encode(run))

    def _mark(self, clock: Callable[[], datetime]) -> None:
        mark = self.path / MARK
        if not mark.exists():
            strange = sorted(entry.name for entry in self.path.iterdir() if not _is_harmless(entry.name))
            if strange:
                raise CannotStart(
                    f"{self.path} holds {strange[0]} and no data of Roost's: name an empty directory with --data."
                )
            files.replace(mark, msgspec.json.format(msgspec.json.encode(Mark(FORMAT, clock()))))
        found = _read(mark, Mark).format
        if found > FORMAT:
            raise CannotStart(
                f"The data directory {self.path} has format {found}, and this Roost knows {FORMAT}: run a newer Roost."
            )


def running(path: Path) -> Run:
    """The server that runs on the data directory at `path`. Raises `CannotStart`."""
    try:
        return _read(path.resolve() / RUN, Run)
    except FileNotFoundError as error:
        raise CannotStart(f"The server on {path} is just starting or stopping: try again in a moment.") from error
    except OSError as error:
        raise CannotStart(
            f"{path / RUN} cannot be read ({error.strerror}): run this as the user who runs the server."
        ) from error


def exists(path: Path) -> bool:
    """Whether there is a data directory of Roost's at `path`."""
    return (path / MARK).exists()


def _own(path: Path) -> int:
    """Lock the directory; returns the lock's descriptor.

    A POSIX lock, because it belongs to this process alone: no worker or program that inherits the descriptor can
    hold it any longer than this process lives.
    """
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise InUse(
            f"The data directory {path} is in use by process {owner}: stop that one, or choose another with --data."
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith(".")


def _read(path: Path, kind: type[Content]) -> Content:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise CannotStart(f"{path} is not what Roost wrote ({error}): restore it from a backup.") from error
