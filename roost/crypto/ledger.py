"""The shred ledger: who was erased, on record outside of the database.

A database that is restored from a backup has everybody again who was erased since. So each erasure is written here
first, in a file beside the keyring, and after a restore all of them are carried out once more. One JSON object a
line, only ever added to; a line is on disk before the erasure begins, so one that is interrupted is finished later.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from roost import files
from roost.core.errors import Code, RoostError
from roost.core.ids import check_user

FILE_NAME = "shredded.jsonl"
_NEWLINE = b"\n"

log = structlog.get_logger(__name__)


class LedgerError(RoostError):
    """The ledger cannot be used; the message is one line, with a next step."""

    def __init__(self, path: Path, error: OSError) -> None:
        detail = f"The shred ledger {path} cannot be used ({error.strerror}): without it nobody is erased."
        super().__init__(Code.UNAVAILABLE, detail, retry_after_s=5)


class Entry(msgspec.Struct, frozen=True):
    """Somebody who is erased, and when that was begun."""

    user: str
    at: datetime


_decode = msgspec.json.Decoder(Entry).decode


class Ledger:
    """The ledger in the file `path`, which comes into being with the first entry. Methods block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, entries: Iterable[Entry]) -> None:
        """Write entries; they are on disk when this returns. Raises `LedgerError`."""
        lines = b"".join(msgspec.json.encode(entry) + _NEWLINE for entry in entries)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Of the open file, not of the process: processes and threads keep each other out.
                fcntl.flock(file, fcntl.LOCK_EX)
                size = os.fstat(file).st_size
                if size and os.pread(file, 1, size - 1) != _NEWLINE:
                    lines = _NEWLINE + lines  # a line that was cut short stays one of its own
                _write(file, lines)
                os.fsync(file)
            finally:
                os.close(file)
            if new:
                files.sync(self.path.parent)
        except OSError as error:
            raise LedgerError(self.path, error) from error

    def entries(self) -> Iterator[Entry]:
        """All entries, in order; somebody may be there twice. A line that is none is passed over, with a warning."""
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        entry = _decode(line)
                        check_user(entry.user)
                    except (msgspec.DecodeError, UnicodeDecodeError, RoostError):
                        # Cut short before the erasure began; or the file was written to by somebody else.
                        log.warning("a line of the shred ledger is no entry", path=str(self.path), line=number)
                    else:
                        yield entry
        except FileNotFoundError:
            return
        except OSError as error:
            raise LedgerError(self.path, error) from error


def _write(file: int, lines: bytes) -> None:
    while lines:
        lines = lines[os.write(file, lines) :]
