"""Documents over HTTP: read, write, edit, list, look back, restore, change many at once."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from roost.core import jsonvalue
from roost.core.commands import ABSENT, ANYTHING, Accepted, Change, Condition, Op, Versions
from roost.core.errors import Code, RoostError
from roost.core.events import Event
from roost.core.ids import check_collection, check_key
from roost.core.limits import Limits
from roost.core.moment import NOW, Moment
from roost.core.ports import DocumentRef
from roost.wire import changes, cursors, decoding, shapes
from roost.wire.answer import (
    JSON,
    PRIVATE,
    Answer,
    Header,
    all_values,
    etag,
    last_modified,
    raw,
    seq_header,
    several,
    siblings_header,
    stamp,
)
from roost.wire.operations import (
    AT_LEAST,
    ETAG,
    IDEMPOTENCY_KEY,
    IF_ABSENT,
    IF_CHANGED,
    IF_MATCH,
    LAST_MODIFIED,
    PREFER,
    PREFERENCE_APPLIED,
    REPLAYED,
    SEQ,
    SIBLINGS,
    Body,
    Operation,
    Reply,
)
from roost.wire.preconditions import is_known
from roost.wire.request import Request

_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
_EDITS = "application/vnd.roost.edits+json"
_encode = msgspec.json.Encoder().encode


async def get_document(request: Request) -> Answer:
    """Answer with the bare value."""
    point = await request.context.gate.document(request.caller, request.ref, moment_of(request))
    document = point.document
    if document is None or document.value is None:
        raise RoostError(Code.NOT_FOUND, "There is no such document.")
    headers = [
        JSON,
        etag(document.version),
        last_modified(document.updated_at),
        seq_header(point.seq or 0),
        PRIVATE,
    ]
    if document.siblings is not None:
        headers.append(siblings_header(len(all_values(document))))
    return unless_known(request, document.version, Answer(200, headers, document.value))


async def get_siblings(request: Request) -> Answer:
    """All values that stand, the document's own last."""
    moment = Moment(at_least=request.at_least)
    point = await request.context.gate.document(request.caller, request.ref, moment)
    document = point.document
    if document is None or document.value is None:
        raise RoostError(Code.NOT_FOUND, "There is no such document.")
    headers = [JSON, etag(document.version), seq_header(point.seq or 0), PRIVATE]
    body = _encode(shapes.Siblings(document.version, all_values(document)))
    return unless_known(request, document.version, Answer(200, headers, body))


async def put_document(request: Request) -> Answer:
    """Write a value."""
    ref = request.ref
    body = await request.body()
    limits = request.context.limits
    value = jsonvalue.encode_value(jsonvalue.decode(body, limits), limits)
    return await _write(request, Op("put", ref.collection, ref.key, value, request.condition), ref, body)


async def patch_document(request: Request) -> Answer:
    """Change a value by one of the two patches, or by edits."""
    ref = request.ref
    body = await request.body()
    limits = request.context.limits
    patch = jsonvalue.decode(body, limits)
    if request.media_type == _MERGE_PATCH:
        op = Op("merge", ref.collection, ref.key, patch, request.condition)
    elif request.media_type == _EDITS:
        edits = decoding.edits(decoding.convert(patch, shapes.Edits), limits)
        op = Op("edit", ref.collection, ref.key, None, request.condition, edits)
    else:
        decoding.convert(patch, changes.JsonPatch)
        _check_length(patch, limits, "")
        op = Op("patch", ref.collection, ref.key, patch, request.condition)
    return await _write(request, op, ref, body)


async def delete_document(request: Request) -> Answer:
    """Leave a tombstone."""
    ref = request.ref
    body = await request.body()
    accepted = await _change(request, ref.user, (Op("delete", ref.collection, ref.key, None, request.condition),), body)
    return Answer(204, written_headers(accepted))


async def restore_document(request: Request) -> Answer:
    """Write the value of an older version again."""
    ref = request.ref
    body = await request.body()
    version = decoding.body(body, shapes.Restore, request.context.limits).version
    return await _write(request, Op("restore", ref.collection, ref.key, version, request.condition), ref, body)


async def list_documents(request: Request) -> Answer:
    """A page of a collection."""
    query: shapes.PageQuery = request.query
    user, collection = request.user, request.collection
    if query.prefix:
        check_key(query.prefix)
    of = ("documents", user, collection, query.prefix)
    after = cursors.read(of, query.after, check_key)
    page = await request.context.gate.page(
        request.caller,
        user,
        collection,
        query.prefix,
        after,
        page_size(request),
        Moment(at_least=request.at_least),
    )
    answer = shapes.DocumentPage(
        [
            shapes.ListedDocument(d.key, d.version, raw(d.value), stamp(d.updated_at), several(d))
            for d in page.documents
        ],
        cursors.make(of, page.documents[-1].key) if page.more else None,
    )
    return Answer(200, [JSON, seq_header(page.head.seq), PRIVATE], _encode(answer))


async def get_snapshot(request: Request) -> Answer:
    """All documents of a user at one moment."""
    user = request.user
    snapshot = await request.context.gate.snapshot(request.caller, user, moment_of(request))
    docs: dict[str, dict[str, shapes.VersionedValue]] = {}
    for document in snapshot.documents:
        value = shapes.VersionedValue(document.version, raw(document.value), several(document))
        docs.setdefault(document.collection, {})[document.key] = value
    headers = [JSON, etag(snapshot.seq), seq_header(snapshot.head.seq), PRIVATE]
    body = _encode(shapes.Snapshot(user, snapshot.seq, docs))
    return unless_known(request, snapshot.seq, Answer(200, headers, body))


async def get_history(request: Request) -> Answer:
    """Versions of a document, newest first."""
    query: shapes.HistoryQuery = request.query
    before = None if query.before is UNSET else query.before
    history = await request.context.gate.history(request.caller, request.ref, before, page_size(request))
    answer = shapes.HistoryPage(
        [_past_version(event) for event in history.events],
        str(history.events[-1].seq) if history.more else None,
    )
    return Answer(200, [JSON, seq_header(history.head.seq), PRIVATE], _encode(answer))


def _past_version(event: Event) -> shapes.PastVersion:
    kind: Literal["put", "delete"] = "delete" if event.value is None else "put"
    return shapes.PastVersion(event.seq, kind, raw(event.value), stamp(event.at), event.actor, event.device)


async def change_batch(request: Request) -> Answer:
    """Several ops on one user's documents: all or none."""
    user = request.user
    body = await request.body()
    limits = request.context.limits
    batch = decoding.body(body, changes.Batch, limits)
    ops = tuple(_op(op, limits, f"/ops/{index}") for index, op in enumerate(batch.ops))
    accepted = await _change(request, user, ops, body, batch=True)
    results = [shapes.OpResult(w.event.collection, w.event.key, w.event.seq) for w in accepted.written]
    headers = [JSON, seq_header(accepted.seq), PRIVATE, *replayed(accepted)]
    return Answer(200, headers, _encode(shapes.BatchResult(accepted.seq, results)))


def moment_of(request: Request) -> Moment:
    """The moment that a read asks for. Raises `INVALID_REQUEST`."""
    query: shapes.AtQuery = request.query
    at_least = request.at_least
    if query.at_seq is not UNSET:
        if query.at is not UNSET:
            raise RoostError(Code.INVALID_REQUEST, "`at` and `at_seq` name two moments; send one of them.")
        return Moment(seq=query.at_seq, at_least=at_least)
    if query.at is not UNSET:
        return Moment(at=decoding.instant(query.at, "at"), at_least=at_least)
    return NOW if at_least is None else Moment(at_least=at_least)


def page_size(request: Request) -> int:
    """How many items a page has at most."""
    limit: int | msgspec.UnsetType = request.query.limit
    return request.context.limits.page_items if limit is UNSET else limit


def stored_value(value: Any, limits: Limits, pointer: str) -> bytes:
    """A value that stood inside a body, as it is stored. Raises `TOO_LARGE`."""
    try:
        return jsonvalue.encode_value(value, limits)
    except RoostError as error:
        error.pointer = pointer
        raise


def _op(op: changes.AnyOp, limits: Limits, pointer: str) -> Op:
    try:
        check_collection(op.collection)
        check_key(op.key)
    except RoostError as error:
        error.pointer = pointer
        raise
    condition: Condition = ANYTHING
    if op.if_version is not UNSET:
        condition = Versions(frozenset({op.if_version})) if op.if_version else ABSENT
    match op:
        case changes.PutOp():
            return Op("put", op.collection, op.key, stored_value(op.value, limits, pointer), condition)
        case changes.MergeOp():
            return Op("merge", op.collection, op.key, op.patch, condition)
        case changes.PatchOp():
            _check_length(op.patch, limits, f"{pointer}/patch")
            return Op("patch", op.collection, op.key, msgspec.to_builtins(op.patch), condition)
        case changes.EditOp():
            edits = decoding.edits(op.edits, limits, f"{pointer}/edits")
            return Op("edit", op.collection, op.key, None, condition, edits)
        case changes.DeleteOp():
            return Op("delete", op.collection, op.key, None, condition)


def _check_length(patch: Sized, limits: Limits, pointer: str) -> None:
    """Refuse a JSON Patch of too many operations, before anything is asked of the state."""
    if len(patch) > limits.batch_ops_max:
        detail = f"A JSON Patch has at most {limits.batch_ops_max} operations."
        raise RoostError(Code.TOO_LARGE, detail, pointer=pointer)


async def _write(request: Request, op: Op, ref: DocumentRef, body: bytes) -> Answer:
    """Carry out an op that leaves a value, and answer with it."""
    accepted = await _change(request, ref.user, (op,), body)
    written = accepted.written[0]
    headers = written_headers(accepted)
    headers.append(last_modified(written.event.at))
    if request.minimal:
        headers.append((b"preference-applied", b"return=minimal"))
        return Answer(204, headers)
    headers.append(JSON)
    return Answer(201 if written.created else 200, headers, written.event.value or b"null")


async def _change(request: Request, user: str, ops: tuple[Op, ...], body: bytes, *, batch: bool = False) -> Accepted:
    change = Change(user, ops, request.principal.actor, request.idempotency(body), batch=batch)
    return await request.context.gate.change(request.caller, change)


def written_headers(accepted: Accepted) -> list[Header]:
    """What the answer to a write of one document says of it."""
    event = accepted.written[0].event
    headers = [etag(event.seq), seq_header(accepted.seq), PRIVATE, *replayed(accepted)]
    if event.beside:
        headers.append(siblings_header(len(event.beside) + 1))
    return headers


def replayed(accepted: Accepted) -> list[Header]:
    """`Idempotent-Replayed`, if so."""
    return [(b"idempotent-replayed", b"true")] if accepted.replayed else []


def unless_known(request: Request, version: int, answer: Answer) -> Answer:
    """`answer`, or 304 with its headers if the caller has that version already."""
    if_none_match = request.header(b"if-none-match")
    if if_none_match is None or not is_known(if_none_match, version):
        return answer
    return Answer(304, [header for header in answer.headers if header is not JSON])


DOCUMENT = "/v1/users/{user}/docs/{collection}/{key}"
_ANY_JSON = Body({"application/json": Any})
_VALUE_WRITTEN = (ETAG, LAST_MODIFIED, SEQ, REPLAYED, SIBLINGS)
_MINIMAL = Reply(204, "Written; no body, as preferred.", headers=(*_VALUE_WRITTEN, PREFERENCE_APPLIED))
_WRITE_HEADERS = (IF_MATCH, IF_ABSENT, IDEMPOTENCY_KEY)
_MOMENT_ERRORS = (Code.NOT_FOUND, Code.CURSOR_AHEAD, Code.CURSOR_COMPACTED)
_WRITE_ERRORS = (Code.VERSION_CONFLICT, Code.PRECONDITION_REQUIRED, Code.IDEMPOTENCY_KEY_REUSED)
_VALUE_ERRORS = (*_WRITE_ERRORS, Code.INVALID_JSON, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE, Code.LIMIT_REACHED)

OPERATIONS = (
    Operation(
        "GET",
        DOCUMENT,
        get_document,
        "Read a document, as it is or was.",
        (
            Reply(200, "The bare JSON value, the newest of several.", Any, (ETAG, LAST_MODIFIED, SEQ, SIBLINGS)),
            Reply(304, "The caller has this version already.", None, (ETAG, LAST_MODIFIED, SEQ, SIBLINGS)),
        ),
        tag="Documents",
        errors=_MOMENT_ERRORS,
        query=shapes.AtQuery,
        headers=(IF_CHANGED, AT_LEAST),
    ),
    Operation(
        "PUT",
        DOCUMENT,
        put_document,
        "Write a document.",
        (
            Reply(200, "Replaced; the value as it is stored.", Any, _VALUE_WRITTEN),
            Reply(201, "Created; the value as it is stored.", Any, _VALUE_WRITTEN),
            _MINIMAL,
        ),
        tag="Documents",
        errors=_VALUE_ERRORS,
        headers=(*_WRITE_HEADERS, PREFER),
        body=_ANY_JSON,
    ),
    Operation(
        "PATCH",
        DOCUMENT,
        patch_document,
        "Change a document by a JSON Merge Patch, a JSON Patch, or edits.",
        (
            Reply(200, "Changed; the value afterwards.", Any, _VALUE_WRITTEN),
            Reply(201, "Created by a merge patch or by edits; the value afterwards.", Any, _VALUE_WRITTEN),
            _MINIMAL,
        ),
        tag="Documents",
        errors=(*_VALUE_ERRORS, Code.NOT_FOUND, Code.PATCH_FAILED),
        headers=(*_WRITE_HEADERS, PREFER),
        body=Body({_MERGE_PATCH: Any, _JSON_PATCH: changes.JsonPatch, _EDITS: shapes.Edits}),
        description="Edits change the value field by field, whatever it is by now.",
    ),
    Operation(
        "DELETE",
        DOCUMENT,
        delete_document,
        "Delete a document.",
        (Reply(204, "Deleted; the ETag is the tombstone's version.", None, (ETAG, SEQ, REPLAYED)),),
        tag="Documents",
        errors=(*_WRITE_ERRORS, Code.NOT_FOUND, Code.TOO_LARGE),
        headers=_WRITE_HEADERS,
    ),
    Operation(
        "GET",
        f"{DOCUMENT}/siblings",
        get_siblings,
        "Read all values of a document that stand side by side.",
        (
            Reply(200, "The values, the newest last; nearly always one.", shapes.Siblings, (ETAG, SEQ)),
            Reply(304, "The caller has this version already.", None, (ETAG, SEQ)),
        ),
        tag="Documents",
        errors=(Code.NOT_FOUND, Code.CURSOR_AHEAD),
        headers=(IF_CHANGED, AT_LEAST),
        description="A write with the ETag in `If-Match` has seen them all, and replaces them.",
    ),
    Operation(
        "GET",
        f"{DOCUMENT}/history",
        get_history,
        "List a document's versions, newest first.",
        (Reply(200, "A page of versions.", shapes.HistoryPage, (SEQ,)),),
        tag="Documents",
        errors=(Code.NOT_FOUND,),
        query=shapes.HistoryQuery,
    ),
    Operation(
        "POST",
        f"{DOCUMENT}/restore",
        restore_document,
        "Write the value of an older version again.",
        (
            Reply(200, "Replaced; the value as it is now.", Any, _VALUE_WRITTEN),
            Reply(201, "Brought back after a deletion; the value as it is now.", Any, _VALUE_WRITTEN),
            _MINIMAL,
        ),
        tag="Documents",
        errors=(*_VALUE_ERRORS, Code.NOT_FOUND, Code.CURSOR_COMPACTED),
        headers=(*_WRITE_HEADERS, PREFER),
        body=Body({"application/json": shapes.Restore}),
    ),
    Operation(
        "GET",
        "/v1/users/{user}/docs/{collection}",
        list_documents,
        "List a collection's documents by key.",
        (Reply(200, "A page of documents.", shapes.DocumentPage, (SEQ,)),),
        tag="Documents",
        errors=(Code.NOT_FOUND, Code.CURSOR_AHEAD),
        query=shapes.PageQuery,
        headers=(AT_LEAST,),
    ),
    Operation(
        "GET",
        "/v1/users/{user}/docs",
        get_snapshot,
        "Read all documents of a user at one moment.",
        (
            Reply(200, "One consistent snapshot.", shapes.Snapshot, (ETAG, SEQ)),
            Reply(304, "The caller has this snapshot already.", None, (ETAG, SEQ)),
        ),
        tag="Documents",
        errors=(*_MOMENT_ERRORS, Code.TOO_LARGE),
        query=shapes.AtQuery,
        headers=(IF_CHANGED, AT_LEAST),
    ),
    Operation(
        "POST",
        "/v1/users/{user}/batch",
        change_batch,
        "Change several documents of a user: all or none.",
        (Reply(200, "All ops are carried out.", shapes.BatchResult, (SEQ, REPLAYED)),),
        tag="Documents",
        errors=(*_VALUE_ERRORS, Code.NOT_FOUND, Code.PATCH_FAILED),
        headers=(IDEMPOTENCY_KEY,),
        body=Body({"application/json": changes.Batch}),
        description="A refusal names the op in `errors[0].pointer` and has the status that the op alone would have.",
    ),
)
