"""Policies over HTTP: texts of Cedar policies, each under a name. They are checked before they are stored."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from roost.authz.policy import check
from roost.core.errors import Code, RoostError
from roost.core.ids import check_policy
from roost.wire import cursors, decoding, shapes
from roost.wire.answer import JSON, PRIVATE, Answer, etag, last_modified
from roost.wire.collections import CONDITIONS, WRITTEN, headers_of, put_answer, unless_none
from roost.wire.documents import page_size, unless_known
from roost.wire.operations import ETAG, IF_CHANGED, LAST_MODIFIED, Body, Operation, Reply
from roost.wire.request import Request

_encode = msgspec.json.Encoder().encode
_ALL_POLICIES = ("policies",)
_CEDAR = "text/plain"

PolicyText = Annotated[str, Meta(max_length=check.TEXT_CHARS_MAX, description="Cedar policies.")]


class PolicyDocument(shapes.Shape, frozen=True):
    """A text of Cedar policies."""

    text: PolicyText


class ListedPolicy(msgspec.Struct, frozen=True):
    """A text of policies, its name and its version."""

    name: shapes.PolicyName
    version: shapes.Version
    text: PolicyText


class PolicyPage(msgspec.Struct, frozen=True):
    """Texts of policies, by name. `next` is the cursor of the page that follows, null at the end."""

    items: list[ListedPolicy]
    next: str | None


async def get_policy(request: Request) -> Answer:
    """A text of policies."""
    name = request.policy
    point = await unless_none(request.context.gate.policies.get(request.caller, name))
    document = point and point.document
    if document is None or document.value is None:
        raise RoostError(Code.NOT_FOUND, f"There are no policies {name!r}.")
    headers = [JSON, etag(document.version), last_modified(document.updated_at), PRIVATE]
    return unless_known(request, document.version, Answer(200, headers, document.value))


async def put_policy(request: Request) -> Answer:
    """Put a text of policies in force."""
    name = request.policy
    body = await request.body()
    if request.media_type == _CEDAR:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise RoostError(Code.INVALID_REQUEST, "The body is not UTF-8.") from None
    else:
        text = decoding.body(body, PolicyDocument, request.context.limits).text
    shelf = request.context.gate.policies
    try:
        accepted = await shelf.put(request.caller, name, text, request.condition, request.idempotency(body))
    except check.PolicyFaults as faults:
        pointer = "" if request.media_type == _CEDAR else "/text"
        raise RoostError(Code.INVALID_REQUEST, str(faults), pointer=pointer) from None
    return put_answer(accepted)


async def delete_policy(request: Request) -> Answer:
    """Take a text of policies out of force."""
    name = request.policy
    idempotency = request.idempotency(await request.body())
    accepted = await request.context.gate.policies.put(request.caller, name, None, request.condition, idempotency)
    return Answer(204, headers_of(accepted))


async def list_policies(request: Request) -> Answer:
    """A page of the texts that were put."""
    query: shapes.ListQuery = request.query
    after = cursors.read(_ALL_POLICIES, query.after, check_policy)
    page = await unless_none(request.context.gate.policies.page(request.caller, after, page_size(request)))
    documents = page.documents if page else []
    answer = {
        "items": [{"name": d.key, "version": d.version} | msgspec.json.decode(d.value or b"{}") for d in documents],
        "next": cursors.make(_ALL_POLICIES, documents[-1].key) if page and page.more else None,
    }
    return Answer(200, [JSON, PRIVATE], _encode(answer))


_POLICY = "/v1/policies/{policy}"
_ERRORS = (Code.VERSION_CONFLICT, Code.IDEMPOTENCY_KEY_REUSED, Code.TOO_LARGE, Code.INVALID_REQUEST)

OPERATIONS = (
    Operation(
        "GET",
        _POLICY,
        get_policy,
        "Read a text of policies.",
        (
            Reply(200, "The text.", PolicyDocument, (ETAG, LAST_MODIFIED)),
            Reply(304, "The caller has this version already.", None, (ETAG, LAST_MODIFIED)),
        ),
        tag="Policies",
        errors=(Code.NOT_FOUND,),
        headers=(IF_CHANGED,),
    ),
    Operation(
        "PUT",
        _POLICY,
        put_policy,
        "Put a text of policies in force.",
        (
            Reply(200, "Another text is in force.", PolicyDocument, (*WRITTEN, LAST_MODIFIED)),
            Reply(201, "The text is in force.", PolicyDocument, (*WRITTEN, LAST_MODIFIED)),
        ),
        tag="Policies",
        errors=(*_ERRORS, Code.INVALID_JSON, Code.UNSUPPORTED_MEDIA_TYPE, Code.LIMIT_REACHED),
        headers=CONDITIONS,
        body=Body({"application/json": PolicyDocument, _CEDAR: PolicyText}),
        description="For admins. A text with a mistake is refused, with the line and the reason, as is one after which "
        "its author could not change policies any more. It is in force here at once, elsewhere within a second or so.",
    ),
    Operation(
        "DELETE",
        _POLICY,
        delete_policy,
        "Take a text of policies out of force.",
        (Reply(204, "Taken away; the ETag is the tombstone's version.", None, WRITTEN),),
        tag="Policies",
        errors=(*_ERRORS, Code.NOT_FOUND),
        headers=CONDITIONS,
        description="For admins. The policies that ship stay.",
    ),
    Operation(
        "GET",
        "/v1/policies",
        list_policies,
        "List the texts of policies that were put.",
        (Reply(200, "A page of texts.", PolicyPage),),
        tag="Policies",
        query=shapes.ListQuery,
        description="For admins. Those that ship, and those of the server's directory, are not among them.",
    ),
)
