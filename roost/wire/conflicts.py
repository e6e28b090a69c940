"""A user's inbox over HTTP: what conflicts have set aside, to be looked at and dismissed.

It is a collection like any other (`roost.core.ids.INBOX`); what is added here is the conflict's id, which is its key.
"""

from __future__ import annotations

import msgspec

from roost.core.commands import Change, Op
from roost.core.errors import Code
from roost.core.events import Document
from roost.core.ids import INBOX, check_key
from roost.core.moment import Moment
from roost.wire import cursors, shapes
from roost.wire.answer import JSON, PRIVATE, Answer, seq_header
from roost.wire.documents import page_size, written_headers
from roost.wire.operations import AT_LEAST, ETAG, IDEMPOTENCY_KEY, REPLAYED, SEQ, Operation, Reply
from roost.wire.request import Request

_encode = msgspec.json.Encoder().encode


async def list_conflicts(request: Request) -> Answer:
    """A page of the inbox."""
    query: shapes.ListQuery = request.query
    user = request.user
    of = ("conflicts", user)
    after = cursors.read(of, query.after, check_key)
    moment = Moment(at_least=request.at_least)
    page = await request.context.gate.page(request.caller, user, INBOX, "", after, page_size(request), moment)
    answer = {
        "items": [_shown(document) for document in page.documents],
        "next": cursors.make(of, page.documents[-1].key) if page.more else None,
    }
    return Answer(200, [JSON, seq_header(page.head.seq), PRIVATE], _encode(answer))


async def dismiss_conflict(request: Request) -> Answer:
    """Take a conflict out of the inbox. It stays in the log."""
    user, op = request.user, Op("delete", INBOX, request.conflict)
    body = await request.body()
    change = Change(user, (op,), request.principal.actor, request.idempotency(body))
    return Answer(204, written_headers(await request.context.gate.change(request.caller, change)))


def _shown(document: Document) -> msgspec.Raw:
    """The conflict with its id, and no value in it parsed again: a stored conflict is an object with members."""
    stored = document.value or b"{}"
    return msgspec.Raw(b'{"id":%s,%s' % (_encode(document.key), stored[1:]))


_CONFLICTS = "/v1/users/{user}/conflicts"

OPERATIONS = (
    Operation(
        "GET",
        _CONFLICTS,
        list_conflicts,
        "List what conflicts have set aside, oldest first.",
        (Reply(200, "A page of the inbox.", shapes.ConflictPage, (SEQ,)),),
        tag="Conflicts",
        errors=(Code.NOT_FOUND, Code.CURSOR_AHEAD),
        query=shapes.ListQuery,
        headers=(AT_LEAST,),
        description="The inbox is the collection `roost_conflicts`, so devices get it like any other.",
    ),
    Operation(
        "DELETE",
        f"{_CONFLICTS}/{{conflict}}",
        dismiss_conflict,
        "Dismiss a conflict.",
        (Reply(204, "It is out of the inbox.", None, (ETAG, SEQ, REPLAYED)),),
        tag="Conflicts",
        errors=(Code.NOT_FOUND, Code.IDEMPOTENCY_KEY_REUSED, Code.TOO_LARGE),
        headers=(IDEMPOTENCY_KEY,),
    ),
)
