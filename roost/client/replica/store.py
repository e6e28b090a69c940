"""What a replica keeps on its device: one SQLite file, held by one process at a time.

Each outcome of a step is one transaction, on disk before anything is done about it, so a process may be killed at
any moment. A snapshot is read into the next edition of the documents, which takes the place of the present one all
at once; what is left of old editions is swept away bit by bit.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from roost.client.errors import RoostError
from roost.core.commands import Result
from roost.core.events import Document
from roost.core.limits import Limits
from roost.sync.frames import WireMutation, mutation_frame, mutation_of
from roost.sync.replica import Outcome, Pending, Replica, Saved

SCHEMA_VERSION = 1
SWEEP_ROWS = 2_000

_named = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_mutation = msgspec.json.Decoder(WireMutation)
_result = msgspec.json.Decoder(Result)
_numbers = msgspec.json.Decoder(tuple[int, ...])
_names = msgspec.json.Decoder(list[str])
_encode = msgspec.json.Encoder().encode


class ReplicaInUse(RoostError):
    """Another process, or another part of this one, holds the replica's file."""


class ReplicaUnusable(RoostError):
    """The file is no replica of this user, or of a later release, or cannot be written."""


class Store:
    """The replica's file at `path`, of `user`; made, with the name `device`, where there is none.

    `stale` tells that a snapshot has to be read before the log is followed. Raises `ReplicaInUse`, `ReplicaUnusable`.
    """

    def __init__(self, path: Path, user: str, device: str, collections: list[str] | None) -> None:
        self._sql = _statements()
        self._path = path
        self._collections = None if collections is None else sorted(set(collections))
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            raise ReplicaUnusable(f"{path} cannot be opened: {error}.", code="unavailable") from error
        try:
            self._open(path, user, device)
        except sqlite3.OperationalError as error:
            self._db.close()
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise ReplicaInUse(f"{path} is in use: one process at a time.", code="unavailable") from error
            raise ReplicaUnusable(f"{path} cannot be used: {error}.", code="unavailable") from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ReplicaUnusable(f"{path} is no replica: {error}.", code="unavailable") from error
        except RoostError:
            self._db.close()
            raise

    def load(self, limits: Limits) -> Replica:
        """The replica as it was persisted last."""
        documents = [
            Document(collection, key, version, value, datetime.fromisoformat(at), siblings)
            for collection, key, version, value, at, siblings in self._run("documents", self._edition)
        ]
        queue = [
            Pending(
                mutation_of(_mutation.decode(mutation)),
                None if result is None else _result.decode(result),
                _numbers.decode(seen),
            )
            for mutation, result, seen in self._run("mutations")
        ]
        _, device, cursor, number, clock, *_ = self._row()
        saved = Saved(device, cursor, number, clock)
        return Replica(saved, documents, queue, collections=self._collections, limits=limits)

    def keep(self, replica: Replica, outcome: Outcome) -> None:
        """Persist what came of a step."""
        with self._transaction():
            self._keep_queue(replica, outcome)
            put, gone = [], []
            for name in outcome.documents:
                document = replica.documents.get(name)
                if document is None:
                    gone.append((self._edition, *name))
                else:
                    put.append(_row(self._edition, document))
            self._db.executemany(self._sql["put_document"], put)
            self._db.executemany(self._sql["delete_document"], gone)

    def begin_edition(self) -> None:
        """Begin to read a snapshot. What an earlier attempt has left is swept away first."""
        with self._transaction():
            self._run("stale")
        self.stale = True
        while not self.sweep():
            pass

    def add(self, documents: Iterable[Document]) -> None:
        """A page of the snapshot."""
        with self._transaction():
            self._db.executemany(self._sql["put_document"], [_row(self._edition + 1, each) for each in documents])

    def turn(self, replica: Replica, outcome: Outcome) -> None:
        """The snapshot, now that all pages were added, is what counts; `outcome` is that of the replacement."""
        with self._transaction():
            self._keep_queue(replica, outcome)
            self._run("turn", self._edition + 1)
        self._edition += 1
        self.stale = False

    def sweep(self) -> bool:
        """Delete some documents of other editions; true once there are none."""
        with self._transaction():
            return self._db.execute(self._sql["sweep"], (self._edition, SWEEP_ROWS)).rowcount < SWEEP_ROWS

    def destroy(self) -> None:
        """Delete everything, and the file with it; the store is closed then."""
        try:
            self._run("shred")
            with self._transaction():
                for table in ("wipe_documents", "wipe_mutations", "wipe_replica"):
                    self._run(table)
        finally:
            # The last connection that closes takes the log of what was written along.
            self._db.close()
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _open(self, path: Path, user: str, device: str) -> None:
        self._run("exclusive")
        self._run("journal")
        self._run("durable")
        version = self._run("version")[0][0]
        if version > SCHEMA_VERSION:
            raise ReplicaUnusable(f"{path} was written by a later release of Roost.", code="unavailable")
        # The first write takes the lock, which is held until the end.
        with self._transaction():
            if version == 0:
                for statement in self._sql["schema"].split(";"):
                    self._db.execute(statement)
                self._run("create", user, device, self._narrowing())
        owner, _, _, _, _, self._edition, narrowing, stale = self._row()
        self.stale = bool(stale)
        if owner != user:
            raise ReplicaUnusable(f"{path} is a replica of another user.", code="unavailable")
        if narrowing != self._narrowing():
            held = None if narrowing is None else set(_names.decode(narrowing))
            # The cursor tells what was seen, and of a collection that was not held nothing was.
            widened = held is not None and (self._collections is None or not held.issuperset(self._collections))
            with self._transaction():
                self._run("narrow", self._narrowing(), widened)
            self.stale = True

    def _narrowing(self) -> str | None:
        return None if self._collections is None else _encode(self._collections).decode()

    def _keep_queue(self, replica: Replica, outcome: Outcome) -> None:
        saved = replica.saved
        self._run("save", saved.device, saved.cursor, saved.number, saved.clock)
        for number in outcome.pending:
            pending = replica.queue.get(number)
            if pending is None:
                self._run("delete_mutation", number)
            else:
                result = None if pending.result is None else _encode(pending.result)
                mutation = _encode(mutation_frame(pending.mutation))
                self._run("put_mutation", number, mutation, result, _encode(pending.seen).decode())

    def _row(self) -> tuple[Any, ...]:
        return self._run("load")[0]

    def _run(self, name: str, *values: object) -> list[tuple[Any, ...]]:
        return self._db.execute(self._sql[name], values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("begin")
        try:
            yield
            self._run("commit")
        except BaseException:
            if self._db.in_transaction:
                self._run("rollback")
            raise


def _row(edition: int, document: Document) -> tuple[object, ...]:
    at = document.updated_at.isoformat()
    return edition, document.collection, document.key, document.version, document.value, at, document.siblings


def _statements() -> dict[str, str]:
    _, *parts = _named.split(files("roost.client.replica").joinpath("replica.sql").read_text())
    return {name: text.strip().removesuffix(";") for name, text in zip(parts[::2], parts[1::2], strict=True)}
