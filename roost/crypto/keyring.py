"""The keyring: the key-encryption keys, outside of the database, so that a copy of the database alone opens nothing.

One file holds them, that its owner alone may read; or whose secrets a key management service has sealed besides
(`roost.crypto.kms`). Nodes of one database share it. It changes seldom, and always as a whole: under a lock, by a new
file in the place of the old one, on disk before anybody relies on it. It is read anew each time, so what one process
changes every other one finds.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from roost import files
from roost.core.errors import Code, RoostError
from roost.crypto.seal import KEY_BYTES

FILE_NAME = "keyring.json"
FORMAT = 1


class KeyringError(RoostError):
    """The keyring cannot be used; the message is one line, with a next step."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.UNAVAILABLE, detail, retry_after_s=5)


class Keyring(Protocol):
    """Where key-encryption keys are, by their ids. Every method may block, and raises `KeyringError`."""

    @property
    def place(self) -> str:
        """Where that is, for a person."""

    @property
    def ids(self) -> list[str]:
        """The keys that are there, the oldest first."""

    @property
    def current(self) -> str | None:
        """The newest key."""

    def get(self, kek: str) -> bytes | None:
        """The secret of a key, or None where it is not there."""

    def add(self) -> str:
        """Make a key, and return its id once it rests safely."""

    def destroy(self, kek: str) -> None:
        """Remove a key for good; one that is not there is none the worse."""


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key. `secret` is base64 of the key itself, or of what `sealed_by` made of it."""

    id: str
    created_at: datetime
    secret: str
    sealed_by: str | None = None


class _Content(msgspec.Struct, frozen=True):
    format: int
    keys: list[_Entry]


class FileKeyring:
    """A keyring in the file `path`."""

    sealed_by: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def place(self) -> str:
        """The file's path."""
        return str(self.path)

    @property
    def ids(self) -> list[str]:
        """The keys of the file, the oldest first."""
        return [entry.id for entry in self._read()]

    @property
    def current(self) -> str | None:
        """The newest key."""
        ids = self.ids
        return ids[-1] if ids else None

    def get(self, kek: str) -> bytes | None:
        """The secret of a key, read from the file as it is now."""
        for entry in self._read():
            if entry.id == kek:
                if entry.sealed_by not in (None, self.sealed_by):
                    by = entry.sealed_by
                    raise KeyringError(f"The key {kek} in {self.path} is sealed by {by}: set ROOST_KEYRING to match.")
                try:
                    secret = b64decode(entry.secret, validate=True)
                    # One from before the keyring was sealed stays as it is, until it is rotated away.
                    return secret if entry.sealed_by is None else self._open(kek, secret)
                except ValueError as error:
                    raise KeyringError(f"The key {kek} in {self.path} is damaged: restore the keyring.") from error
        return None

    def add(self) -> str:
        """Make a key of 256 bits."""
        kek = secrets.token_hex(8)
        secret = b64encode(self._seal(kek, secrets.token_bytes(KEY_BYTES))).decode()
        with self._locked():
            entry = _Entry(kek, datetime.now(UTC).replace(microsecond=0), secret, self.sealed_by)
            self._write([*self._read(), entry])
        return kek

    def destroy(self, kek: str) -> None:
        """Write the file without a key."""
        with self._locked():
            entries = self._read()
            left = [entry for entry in entries if entry.id != kek]
            if len(left) < len(entries):
                self._write(left)

    def _seal(self, kek: str, secret: bytes) -> bytes:  # noqa: ARG002 (see `roost.crypto.kms`)
        return secret

    def _open(self, kek: str, sealed: bytes) -> bytes:  # noqa: ARG002
        return sealed

    def _read(self) -> list[_Entry]:
        try:
            with self.path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    others = f"The keyring {self.path} is open to other users (mode {mode:04o})"
                    raise KeyringError(f"{others}: run `chmod 600 {self.path}`.")
                content = msgspec.json.decode(file.read(), type=_Content)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeyringError(f"The keyring {self.path} cannot be read: {error.strerror}.") from error
        except msgspec.DecodeError as error:
            raise KeyringError(f"{self.path} is not a keyring: restore it from its backup.") from error
        if content.format != FORMAT:
            raise KeyringError(f"The keyring {self.path} has format {content.format}: run a newer Roost.")
        return content.keys

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep every other process from changing the file. Its reader needs no lock."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Of the open file, not of the process: threads of one process keep each other out too.
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise KeyringError(f"The keyring {self.path} cannot be changed: {error.strerror}.") from error

    def _write(self, entries: list[_Entry]) -> None:
        """Put a new file in the place of the old one."""
        content = msgspec.json.format(msgspec.json.encode(_Content(FORMAT, entries))) + b"\n"
        files.replace(self.path, content, locked=True)


class MemoryKeyring:
    """A keyring that ends with its process, for an engine that does too."""

    place = "memory"

    def __init__(self) -> None:
        self._secrets: dict[str, bytes] = {}

    @property
    def ids(self) -> list[str]:
        """The keys, the oldest first."""
        return list(self._secrets)

    @property
    def current(self) -> str | None:
        """The newest key."""
        return next(reversed(self._secrets), None)

    def get(self, kek: str) -> bytes | None:
        """The secret of a key."""
        return self._secrets.get(kek)

    def add(self) -> str:
        """Make a key."""
        kek = secrets.token_hex(8)
        self._secrets[kek] = secrets.token_bytes(KEY_BYTES)
        return kek

    def destroy(self, kek: str) -> None:
        """Forget a key."""
        self._secrets.pop(kek, None)
