"""What the client asks of a server, as calls: which request each operation is, and how its answer reads.

Everything of API.md that this client speaks is here, once, without I/O; `aio` and `sync` give these calls to their
carriers and add nothing but `await`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Self

import msgspec

from roost.client.asking import (
    JSON_BODY,
    Condition,
    checked,
    decoded,
    encode,
    idempotency,
    query_of,
    segment,
    seq_of,
    unexpected,
    updated_at_of,
    version_of,
)
from roost.client.errors import NotFound, Unavailable, Unreachable, VersionConflict
from roost.client.exchange import Answer, Ask, Call, Pause, Session, exchange, new_key
from roost.client.models import (
    Committed,
    Document,
    Erasure,
    Event,
    ExportPage,
    InboxConflict,
    Json,
    Log,
    Page,
    PastVersion,
    Sibling,
    Snapshot,
    UserInfo,
    Versioned,
)
from roost.core import ids

_MERGE = {"content-type": "application/merge-patch+json"}
_PATCH = {"content-type": "application/json-patch+json"}
_EDITS = {"content-type": "application/vnd.roost.edits+json"}
_MINIMAL = {"prefer": "return=minimal"}


class Docs:
    """Calls on the documents of one collection of one user."""

    def __init__(self, session: Session, user: str, collection: str) -> None:
        self._session = session
        self._user = user
        self._collection = checked(ids.check_collection, collection)
        self._base = f"/v1/users/{segment(user)}/docs/{collection}"

    def get(self, key: str, at_seq: int | None, at: datetime | None) -> Call[Document | None]:
        """The document, None where there is none."""
        try:
            answer = yield from self._ask("GET", self._path(key) + query_of(at_seq=at_seq, at=at))
        except NotFound:
            return None
        return self._document(key, answer, decoded(answer, Any))

    def refresh(self, document: Document) -> Call[Document | None]:
        """The document as it is now; the same object where it has not changed."""
        headers = {"if-none-match": f'"{document.version}"'}
        try:
            answer = yield from self._ask("GET", self._path(document.key), headers)
        except NotFound:
            return None
        if answer.status == 304:  # noqa: PLR2004  # Not Modified
            return document
        return self._document(document.key, answer, decoded(answer, Any))

    def version(self, key: str) -> Call[int | None]:
        """The document's version, None where there is none."""
        try:
            answer = yield from self._ask("HEAD", self._path(key))
        except NotFound:
            return None
        return version_of(answer)

    def put(self, key: str, value: Json, condition: Condition, idempotency_key: str | None) -> Call[Document]:
        """Write a value."""
        headers = {**JSON_BODY, **_MINIMAL, **condition.headers(), **idempotency(idempotency_key)}
        body = encode(value)
        answer = yield from self._ask("PUT", self._path(key), headers, body)
        return self._document(key, answer, msgspec.json.decode(body))

    def merge(self, key: str, patch: Json, condition: Condition, idempotency_key: str | None) -> Call[Document]:
        """Apply a JSON Merge Patch."""
        return (yield from self._patch(key, {**_MERGE, **condition.headers()}, patch, idempotency_key))

    def patch(
        self, key: str, operations: Sequence[Json], condition: Condition, idempotency_key: str | None
    ) -> Call[Document]:
        """Apply a JSON Patch."""
        return (yield from self._patch(key, {**_PATCH, **condition.headers()}, list(operations), idempotency_key))

    def edit(
        self, key: str, edits: Sequence[Json], condition: Condition, idempotency_key: str | None
    ) -> Call[Document]:
        """Change field by field."""
        return (yield from self._patch(key, {**_EDITS, **condition.headers()}, list(edits), idempotency_key))

    def siblings(self, key: str) -> Call[tuple[Sibling, ...]]:
        """All values that stand, none where there is no document."""
        try:
            answer = yield from self._ask("GET", self._path(key) + "/siblings")
        except NotFound:
            return ()
        return decoded(answer, _Siblings).siblings

    def delete(self, key: str, condition: Condition, idempotency_key: str | None) -> Call[int]:
        """Delete; the result is the tombstone's version."""
        headers = {**condition.headers(), **idempotency(idempotency_key)}
        return version_of((yield from self._ask("DELETE", self._path(key), headers)))

    def restore(self, key: str, version: int, condition: Condition, idempotency_key: str | None) -> Call[Document]:
        """Write the value of an earlier version again."""
        headers = {**JSON_BODY, **condition.headers(), **idempotency(idempotency_key)}
        answer = yield from self._ask("POST", self._path(key) + "/restore", headers, encode({"version": version}))
        return self._document(key, answer, decoded(answer, Any))

    def update(self, key: str, change: Callable[[Json], Json]) -> Call[Document]:
        """Read, change and write, again whenever somebody else wrote in between."""
        document = yield from self.get(key, None, None)
        current = document and Versioned(document.version, document.value)
        limits = self._session.limits
        attempt = 0
        while True:
            value = change(current.value if current else None)
            try:
                return (yield from self.put(key, value, Condition(version=current.version if current else 0), None))
            except VersionConflict as conflict:
                attempt += 1
                if attempt >= limits.conflicts:
                    raise
                current = conflict.current
                # Those who collided would collide again if all came back at once: spread out until one gets through.
                yield Pause(self._session.chance() * min(limits.conflict_s_max, 0.01 * 1.5**attempt))

    def page(self, prefix: str, after: str | None, limit: int | None) -> Call[Page[Document]]:
        """One page of the collection, by key."""
        answer = yield from self._ask("GET", self._base + query_of(prefix=prefix or None, limit=limit, after=after))
        page = decoded(answer, Page[_Item])
        seq = seq_of(answer)
        documents = (
            Document(
                self._collection,
                item.key,
                item.value,
                item.version,
                seq,
                item.updated_at,
                len(item.siblings) or 1,
            )
            for item in page.items
        )
        return Page(tuple(documents), page.next)

    def history_page(self, key: str, before: str | None, limit: int | None) -> Call[Page[PastVersion]]:
        """One page of the document's versions, newest first."""
        answer = yield from self._ask("GET", self._path(key) + "/history" + query_of(limit=limit, before=before))
        return decoded(answer, Page[PastVersion])

    def _patch(self, key: str, headers: dict[str, str], patch: Json, idempotency_key: str | None) -> Call[Document]:
        answer = yield from self._ask(
            "PATCH", self._path(key), {**headers, **idempotency(idempotency_key)}, encode(patch)
        )
        return self._document(key, answer, decoded(answer, Any))

    def _ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, content: bytes | None = None
    ) -> Call[Answer]:
        return exchange(self._session, Ask(method, target, headers or {}, content, self._user))

    def _path(self, key: str) -> str:
        return f"{self._base}/{segment(checked(ids.check_key, key))}"

    def _document(self, key: str, answer: Answer, value: Json) -> Document:
        count = answer.headers.get("roost-siblings", "")
        standing = int(count) if count.isdecimal() else 1
        seq, updated_at = seq_of(answer), updated_at_of(answer)
        return Document(self._collection, key, value, version_of(answer), seq, updated_at, standing)


class User:
    """Calls on one user's log as a whole."""

    def __init__(self, session: Session, user: str) -> None:
        self._session = session
        self.user = checked(ids.check_user, user)
        self._base = f"/v1/users/{segment(user)}"

    def create(self, home: str | None) -> Call[UserInfo]:
        """Bring the user into being, if need be."""
        content = encode({} if home is None else {"home": home})
        answer = yield from self._ask("PUT", self._base, JSON_BODY, content)
        return decoded(answer, UserInfo)

    def get(self) -> Call[UserInfo]:
        """Where the user's log stands."""
        return decoded((yield from self._ask("GET", self._base)), UserInfo)

    def erase(self) -> Call[Erasure]:
        """Erase the user."""
        return decoded((yield from self._ask("DELETE", self._base)), Erasure)

    def erasure(self) -> Call[Erasure]:
        """The receipt of the user's erasure."""
        return decoded((yield from self._ask("GET", self._base + "/erasure")), Erasure)

    def export_page(self, after: str | None, limit: int) -> Call[ExportPage]:
        """A part of everything about the user."""
        return _part((yield from self._ask("GET", self._base + "/export" + query_of(after=after, limit=limit))))

    def snapshot(self, at_seq: int | None, at: datetime | None) -> Call[Snapshot]:
        """All documents at one moment."""
        answer = yield from self._ask("GET", self._base + "/docs" + query_of(at_seq=at_seq, at=at))
        return decoded(answer, Snapshot)

    def commit(self, batch: Ops) -> Call[Committed]:
        """Carry out all ops of a batch, or none."""
        headers = {**JSON_BODY, **idempotency(batch.idempotency_key)}
        answer = yield from self._ask("POST", self._base + "/batch", headers, encode({"ops": batch.ops}))
        committed = decoded(answer, Committed)
        self._session.wrote(self.user, committed.seq)
        return committed

    def events(self, after: int, limit: int | None, wait_s: float, collections: Sequence[str] | None) -> Call[Log]:
        """Some events after a seq; held by the server until there is one, at most for `wait_s`."""
        names = (collections,) if isinstance(collections, str) else collections or ()
        narrowed = ",".join(checked(ids.check_collection, name) for name in names) or None
        query = query_of(after=after, limit=limit, wait=f"{wait_s:g}" if wait_s else None, collections=narrowed)
        answer = yield from self._ask("GET", self._base + "/events" + query, wait_s=wait_s)
        return decoded(answer, Log)

    def next_events(self, after: int, wait_s: float, collections: Sequence[str] | None) -> Call[Log]:
        """The next events, however long they take; goes on through an outage of at most `outage_s`."""
        limits, clock = self._session.limits, self._session.clock
        answered = clock()
        while True:
            try:
                log = yield from self.events(after, None, wait_s, collections)
            except Unavailable:
                if clock() - answered >= limits.outage_s:
                    raise
                yield Pause(self._session.chance() * limits.backoff_s_max)
            else:
                if log.seq > after:
                    return log
                answered = clock()

    def conflicts_page(self, after: str | None, limit: int | None) -> Call[Page[InboxConflict]]:
        """One page of the inbox, oldest first."""
        answer = yield from self._ask("GET", self._base + "/conflicts" + query_of(limit=limit, after=after))
        return decoded(answer, Page[InboxConflict])

    def dismiss(self, conflict: str) -> Call[None]:
        """Take a conflict out of the inbox."""
        target = f"{self._base}/conflicts/{segment(checked(ids.check_key, conflict))}"
        yield from self._ask("DELETE", target, idempotency(None))

    def append_events(self, events: Iterable[Event]) -> Call[int]:
        """Append events that another Roost exported."""
        content = msgspec.json.encode({"events": list(events)})
        seq = decoded((yield from self._ask("POST", self._base + "/events", JSON_BODY, content)), _LogSeq).seq
        self._session.wrote(self.user, seq)
        return seq

    def _ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        wait_s: float = 0.0,
    ) -> Call[Answer]:
        return exchange(self._session, Ask(method, target, headers or {}, content, self.user, wait_s))


class Ops:
    """A batch in the making: up to 500 ops on one user's documents, carried out all or none.

    It has one idempotency key, so committing the same batch again never applies it twice.
    """

    def __init__(self, idempotency_key: str | None) -> None:
        self.idempotency_key = idempotency_key or new_key()
        self.ops: list[dict[str, Json]] = []

    def __len__(self) -> int:
        return len(self.ops)

    def put(self, collection: str, key: str, value: Json, *, if_version: int | None = None) -> Self:
        """Write `value`. With `if_version`, only over that version; 0: only where there is no document."""
        return self._op("put", collection, key, if_version, value=value)

    def merge(self, collection: str, key: str, patch: Json, *, if_version: int | None = None) -> Self:
        """Apply a JSON Merge Patch (RFC 7396)."""
        return self._op("merge", collection, key, if_version, patch=patch)

    def patch(self, collection: str, key: str, operations: Sequence[Json], *, if_version: int | None = None) -> Self:
        """Apply a JSON Patch (RFC 6902)."""
        return self._op("patch", collection, key, if_version, patch=list(operations))

    def edit(self, collection: str, key: str, edits: Sequence[Json], *, if_version: int | None = None) -> Self:
        """Change field by field: `Edit`s, or objects like them."""
        return self._op("edit", collection, key, if_version, edits=list(edits))

    def delete(self, collection: str, key: str, *, if_version: int | None = None) -> Self:
        """Delete a document that exists."""
        return self._op("delete", collection, key, if_version)

    def _op(self, op: str, collection: str, key: str, if_version: int | None, **more: Json) -> Self:
        checked(ids.check_collection, collection)
        checked(ids.check_key, key)
        condition = {} if if_version is None else {"if_version": if_version}
        self.ops.append({"op": op, "collection": collection, "key": key, **more, **condition})
        return self


def _part(answer: Answer) -> ExportPage:
    """A part of an export, which ends with a line `cursor` or `end`. Raises `Unreachable` where it broke off."""
    _, _, last = answer.body.rstrip(b"\n").rpartition(b"\n")
    try:
        ended = msgspec.json.decode(last, type=_LastLine)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unexpected(answer, str(error)) from error
    if ended.type not in ("cursor", "end"):
        raise Unreachable("The export broke off.", code="unavailable")
    return ExportPage(answer.body, answer.body.count(b"\n"), ended.after)


def users_page(session: Session, after: str | None, limit: int | None) -> Call[Page[UserInfo]]:
    """One page of all users (for admins and services)."""
    answer = yield from exchange(session, Ask("GET", "/v1/users" + query_of(after=after, limit=limit)))
    return decoded(answer, Page[UserInfo])


def ready(session: Session) -> Call[None]:
    """Return once the server says that it can serve."""
    yield from exchange(session, Ask("GET", "/readyz", public=True))


class _Item(msgspec.Struct):
    key: str
    version: int
    value: Json
    updated_at: datetime
    siblings: tuple[Sibling, ...] = ()


class _Siblings(msgspec.Struct):
    siblings: tuple[Sibling, ...]


class _LastLine(msgspec.Struct):
    type: str
    after: str | None = None


class _LogSeq(msgspec.Struct):
    seq: int
