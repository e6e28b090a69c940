"""What the client asks of a server, as calls: which request each operation is, and how its answer reads.

Everything of API.md that this client speaks is here, once, without I/O; `aio` and `sync` give these calls to their
carriers and add nothing but `await`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import quote, urlencode

import msgspec

from roost.client.errors import NotFound, RoostError, Unavailable, VersionConflict, refused_here
from roost.client.exchange import Answer, Ask, Call, Pause, Session, T, exchange, new_key
from roost.client.models import (
    Collection,
    Committed,
    Document,
    Event,
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
from roost.core import definitions, ids, jsonvalue
from roost.core.definitions import Definition, Policy
from roost.core.errors import RoostError as CoreError
from roost.core.limits import Limits as CoreLimits

_JSON = {"content-type": "application/json"}
_MERGE = {"content-type": "application/merge-patch+json"}
_PATCH = {"content-type": "application/json-patch+json"}
_EDITS = {"content-type": "application/vnd.roost.edits+json"}
_MINIMAL = {"prefer": "return=minimal"}
# The depth is the server's to judge: its limit may have been raised. This one only keeps the check finite.
_ANY_DEPTH = CoreLimits(depth_max=500)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold for a write: at most one of these. `version` 0 is the same as `absent`."""

    version: int | None = None
    absent: bool = False
    present: bool = False

    def headers(self) -> dict[str, str]:
        """The HTTP precondition."""
        if (self.version is not None) + self.absent + self.present > 1:
            raise refused_here("invalid_request", "Give one of if_version, if_absent and if_present.")
        if self.absent or self.version == 0:
            return {"if-none-match": "*"}
        if self.present:
            return {"if-match": "*"}
        return {} if self.version is None else {"if-match": f'"{self.version}"'}


class Docs:
    """Calls on the documents of one collection of one user."""

    def __init__(self, session: Session, user: str, collection: str) -> None:
        self._session = session
        self._user = user
        self._collection = checked(ids.check_collection, collection)
        self._base = f"/v1/users/{_segment(user)}/docs/{collection}"

    def get(self, key: str, at_seq: int | None, at: datetime | None) -> Call[Document | None]:
        """The document, None where there is none."""
        try:
            answer = yield from self._ask("GET", self._path(key) + _query(at_seq=at_seq, at=at))
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
        return _version(answer)

    def put(self, key: str, value: Json, condition: Condition, idempotency_key: str | None) -> Call[Document]:
        """Write a value."""
        headers = {**_JSON, **_MINIMAL, **condition.headers(), **_idempotency(idempotency_key)}
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
        headers = {**condition.headers(), **_idempotency(idempotency_key)}
        return _version((yield from self._ask("DELETE", self._path(key), headers)))

    def restore(self, key: str, version: int, condition: Condition, idempotency_key: str | None) -> Call[Document]:
        """Write the value of an earlier version again."""
        headers = {**_JSON, **condition.headers(), **_idempotency(idempotency_key)}
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
        answer = yield from self._ask("GET", self._base + _query(prefix=prefix or None, limit=limit, after=after))
        page = decoded(answer, Page[_Item])
        seq = _seq(answer)
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
        answer = yield from self._ask("GET", self._path(key) + "/history" + _query(limit=limit, before=before))
        return decoded(answer, Page[PastVersion])

    def _patch(self, key: str, headers: dict[str, str], patch: Json, idempotency_key: str | None) -> Call[Document]:
        answer = yield from self._ask(
            "PATCH", self._path(key), {**headers, **_idempotency(idempotency_key)}, encode(patch)
        )
        return self._document(key, answer, decoded(answer, Any))

    def _ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, content: bytes | None = None
    ) -> Call[Answer]:
        return exchange(self._session, Ask(method, target, headers or {}, content, self._user))

    def _path(self, key: str) -> str:
        return f"{self._base}/{_segment(checked(ids.check_key, key))}"

    def _document(self, key: str, answer: Answer, value: Json) -> Document:
        count = answer.headers.get("roost-siblings", "")
        standing = int(count) if count.isdecimal() else 1
        return Document(self._collection, key, value, _version(answer), _seq(answer), _updated_at(answer), standing)


class User:
    """Calls on one user's log as a whole."""

    def __init__(self, session: Session, user: str) -> None:
        self._session = session
        self.user = checked(ids.check_user, user)
        self._base = f"/v1/users/{_segment(user)}"

    def create(self, home: str | None) -> Call[UserInfo]:
        """Bring the user into being, if need be."""
        content = encode({} if home is None else {"home": home})
        answer = yield from self._ask("PUT", self._base, _JSON, content)
        return decoded(answer, UserInfo)

    def get(self) -> Call[UserInfo]:
        """Where the user's log stands."""
        return decoded((yield from self._ask("GET", self._base)), UserInfo)

    def snapshot(self, at_seq: int | None, at: datetime | None) -> Call[Snapshot]:
        """All documents at one moment."""
        answer = yield from self._ask("GET", self._base + "/docs" + _query(at_seq=at_seq, at=at))
        return decoded(answer, Snapshot)

    def commit(self, batch: Ops) -> Call[Committed]:
        """Carry out all ops of a batch, or none."""
        headers = {**_JSON, **_idempotency(batch.idempotency_key)}
        answer = yield from self._ask("POST", self._base + "/batch", headers, encode({"ops": batch.ops}))
        committed = decoded(answer, Committed)
        self._session.wrote(self.user, committed.seq)
        return committed

    def events(self, after: int, limit: int | None, wait_s: float, collections: Sequence[str] | None) -> Call[Log]:
        """Some events after a seq; held by the server until there is one, at most for `wait_s`."""
        names = (collections,) if isinstance(collections, str) else collections or ()
        narrowed = ",".join(checked(ids.check_collection, name) for name in names) or None
        query = _query(after=after, limit=limit, wait=f"{wait_s:g}" if wait_s else None, collections=narrowed)
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
        answer = yield from self._ask("GET", self._base + "/conflicts" + _query(limit=limit, after=after))
        return decoded(answer, Page[InboxConflict])

    def dismiss(self, conflict: str) -> Call[None]:
        """Take a conflict out of the inbox."""
        target = f"{self._base}/conflicts/{_segment(checked(ids.check_key, conflict))}"
        yield from self._ask("DELETE", target, _idempotency(None))

    def append_events(self, events: Iterable[Event]) -> Call[int]:
        """Append events that another Roost exported."""
        content = msgspec.json.encode({"events": list(events)})
        seq = decoded((yield from self._ask("POST", self._base + "/events", _JSON, content)), _LogSeq).seq
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


def users_page(session: Session, after: str | None, limit: int | None) -> Call[Page[UserInfo]]:
    """One page of all users (for admins and services)."""
    answer = yield from exchange(session, Ask("GET", "/v1/users" + _query(after=after, limit=limit)))
    return decoded(answer, Page[UserInfo])


class Collections:
    """Calls on what is defined of collections."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(self, after: str | None, limit: int | None) -> Call[Page[Collection]]:
        """One page of all that are defined, by name."""
        answer = yield from exchange(self._session, Ask("GET", "/v1/collections" + _query(after=after, limit=limit)))
        return decoded(answer, Page[Collection])

    def get(self, name: str) -> Call[Collection | None]:
        """A collection, None where it is not defined."""
        try:
            answer = yield from exchange(self._session, Ask("GET", _collection(name)))
        except NotFound:
            return None
        return Collection(name, _version(answer), decoded(answer, Definition).conflict)

    def define(
        self, name: str, conflict: Policy, condition: Condition, idempotency_key: str | None
    ) -> Call[Collection]:
        """Define a collection."""
        headers = {**_JSON, **condition.headers(), **_idempotency(idempotency_key)}
        content = definitions.encode(Definition(conflict=conflict))
        answer = yield from exchange(self._session, Ask("PUT", _collection(name), headers, content))
        return Collection(name, _version(answer), decoded(answer, Definition).conflict)

    def undefine(self, name: str, condition: Condition, idempotency_key: str | None) -> Call[None]:
        """Take a definition away."""
        headers = {**condition.headers(), **_idempotency(idempotency_key)}
        yield from exchange(self._session, Ask("DELETE", _collection(name), headers))


def ready(session: Session) -> Call[None]:
    """Return once the server says that it can serve."""
    yield from exchange(session, Ask("GET", "/readyz"))


def encode(value: Json) -> bytes:
    """`value` as a body. Raises `InvalidJson` for what the server would refuse, or JSON cannot say.

    Dataclasses, msgspec Structs, tuples, datetimes and the like become what msgspec makes of them.
    """
    try:
        # Not msgspec's encoder: it writes NaN as null.
        text = json.dumps(msgspec.to_builtins(value, str_keys=True), ensure_ascii=False, separators=(",", ":"))
        jsonvalue.decode(body := text.encode(), _ANY_DEPTH)
    except CoreError as error:
        raise refused_here("invalid_json", error.detail) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise refused_here("invalid_json", f"This is not a JSON value: {error}.") from error
    return body


def checked(check: Callable[[str], str], name: str) -> str:
    """`name`, or raise `InvalidName`."""
    try:
        return check(name)
    except CoreError as error:
        raise refused_here("invalid_name", error.detail) from error


class _Item(msgspec.Struct):
    key: str
    version: int
    value: Json
    updated_at: datetime
    siblings: tuple[Sibling, ...] = ()


class _Siblings(msgspec.Struct):
    siblings: tuple[Sibling, ...]


class _LogSeq(msgspec.Struct):
    seq: int


def _idempotency(key: str | None) -> dict[str, str]:
    return {"idempotency-key": key or new_key()}


def _collection(name: str) -> str:
    return f"/v1/collections/{checked(ids.check_collection, name)}"


def _segment(name: str) -> str:
    """A path segment. A key may be `.` or `..`, which readers of URLs take for steps unless the dots are encoded."""
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def _query(*, at: datetime | None = None, **given: str | int | None) -> str:
    fields = {name: value for name, value in given.items() if value is not None}
    if at is not None:
        if at.tzinfo is None:
            raise refused_here("invalid_request", "`at` needs a time zone, or nobody knows which moment is meant.")
        fields["at"] = at.isoformat()
    return "?" + urlencode(fields) if fields else ""


def decoded(answer: Answer, kind: type[T]) -> T:
    """What an answer says. Raises `RoostError` where that is not what a Roost server would."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unexpected(answer, str(error)) from error


def _version(answer: Answer) -> int:
    text = answer.headers.get("etag", "").removeprefix("W/").strip('"')
    if not text.isdecimal():
        raise _unexpected(answer, "there is no version in its ETag")
    return int(text)


def _seq(answer: Answer) -> int:
    text = answer.headers.get("roost-seq", "")
    if not text.isdecimal():
        raise _unexpected(answer, "it has no Roost-Seq")
    return int(text)


def _updated_at(answer: Answer) -> datetime:
    try:
        return parsedate_to_datetime(answer.headers.get("last-modified", ""))
    except ValueError as error:
        raise _unexpected(answer, "it has no Last-Modified") from error


def _unexpected(answer: Answer, why: str) -> RoostError:
    return RoostError(
        f"This does not answer like a Roost server: {why}.",
        status=answer.status,
        request_id=answer.headers.get("roost-request-id"),
    )
