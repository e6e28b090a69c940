"""Collections over HTTP: what is defined of them. A definition is read and written like a document, by its name."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import msgspec

from roost.core import definitions
from roost.core.commands import Accepted, Op
from roost.core.errors import Code, RoostError
from roost.core.ids import DEFINITIONS, check_collection
from roost.wire import cursors, decoding, shapes
from roost.wire.answer import JSON, PRIVATE, Answer, Header, etag, last_modified
from roost.wire.documents import page_size, replayed, unless_known
from roost.wire.operations import (
    ETAG,
    IDEMPOTENCY_KEY,
    IF_ABSENT,
    IF_CHANGED,
    IF_MATCH,
    LAST_MODIFIED,
    REPLAYED,
    Body,
    Operation,
    Reply,
)
from roost.wire.request import Request

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
_ALL_COLLECTIONS = ("collections",)


async def get_collection(request: Request) -> Answer:
    """A collection's definition."""
    name = request.collection
    point = await unless_none(request.context.gate.definition(request.caller, name))
    document = point and point.document
    if document is None or document.value is None:
        raise RoostError(Code.NOT_FOUND, f"The collection {name!r} is not defined: it has the policy of the settings.")
    headers = [JSON, etag(document.version), last_modified(document.updated_at), PRIVATE]
    return unless_known(request, document.version, Answer(200, headers, document.value))


async def put_collection(request: Request) -> Answer:
    """Define a collection."""
    name = request.collection
    body = await request.body()
    definition = decoding.body(body, shapes.Definition, request.context.limits)
    op = Op("put", DEFINITIONS, name, definitions.encode(definition), request.condition)
    accepted = await request.context.gate.define(request.caller, op, request.idempotency(body))
    return put_answer(accepted)


async def delete_collection(request: Request) -> Answer:
    """Take a definition away. The collection's documents stay."""
    name = request.collection
    body = await request.body()
    op = Op("delete", DEFINITIONS, name, None, request.condition)
    return Answer(204, headers_of(await request.context.gate.define(request.caller, op, request.idempotency(body))))


async def list_collections(request: Request) -> Answer:
    """A page of what is defined."""
    query: shapes.ListQuery = request.query
    after = cursors.read(_ALL_COLLECTIONS, query.after, check_collection)
    page = await unless_none(request.context.gate.definitions(request.caller, after, page_size(request)))
    documents = page.documents if page else []
    answer = {
        "items": [msgspec.json.decode(d.value or b"null") | {"name": d.key, "version": d.version} for d in documents],
        "next": cursors.make(_ALL_COLLECTIONS, documents[-1].key) if page and page.more else None,
    }
    return Answer(200, [JSON, PRIVATE], _encode(answer))


async def unless_none(asked: Awaitable[T]) -> T | None:
    """What is asked for; None as long as nothing was ever defined."""
    try:
        return await asked
    except RoostError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise


def put_answer(accepted: Accepted) -> Answer:
    """What stands now, of something that every node goes by."""
    written = accepted.written[0]
    headers = [JSON, *headers_of(accepted), last_modified(written.event.at)]
    return Answer(201 if written.created else 200, headers, written.event.value or b"null")


def headers_of(accepted: Accepted) -> list[Header]:
    """Of an answer to a change of such a thing."""
    return [etag(accepted.written[0].event.seq), PRIVATE, *replayed(accepted)]


_COLLECTION = "/v1/collections/{collection}"
WRITTEN = (ETAG, REPLAYED)
CONDITIONS = (IF_MATCH, IF_ABSENT, IDEMPOTENCY_KEY)
_ERRORS = (Code.VERSION_CONFLICT, Code.IDEMPOTENCY_KEY_REUSED, Code.TOO_LARGE)

OPERATIONS = (
    Operation(
        "GET",
        _COLLECTION,
        get_collection,
        "Read a collection's definition.",
        (
            Reply(200, "The definition.", shapes.Definition, (ETAG, LAST_MODIFIED)),
            Reply(304, "The caller has this version already.", None, (ETAG, LAST_MODIFIED)),
        ),
        tag="Collections",
        errors=(Code.NOT_FOUND,),
        headers=(IF_CHANGED,),
        description="A collection that is not defined may be used all the same: it has the policy of the settings.",
    ),
    Operation(
        "PUT",
        _COLLECTION,
        put_collection,
        "Define a collection.",
        (
            Reply(200, "Defined anew.", shapes.Definition, (*WRITTEN, LAST_MODIFIED)),
            Reply(201, "Defined for the first time.", shapes.Definition, (*WRITTEN, LAST_MODIFIED)),
        ),
        tag="Collections",
        errors=(*_ERRORS, Code.INVALID_JSON, Code.UNSUPPORTED_MEDIA_TYPE, Code.LIMIT_REACHED),
        headers=CONDITIONS,
        body=Body({"application/json": shapes.Definition}),
        description="For admins. It is in force here at once, elsewhere within a second or so.",
    ),
    Operation(
        "DELETE",
        _COLLECTION,
        delete_collection,
        "Take a collection's definition away.",
        (Reply(204, "Taken away; the ETag is the tombstone's version.", None, WRITTEN),),
        tag="Collections",
        errors=(*_ERRORS, Code.NOT_FOUND),
        headers=CONDITIONS,
        description="For admins. The documents stay; the policy is again that of the settings.",
    ),
    Operation(
        "GET",
        "/v1/collections",
        list_collections,
        "List the collections that are defined.",
        (Reply(200, "A page of collections.", shapes.DefinitionPage),),
        tag="Collections",
        query=shapes.ListQuery,
    ),
)
