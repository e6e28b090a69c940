"""The audit trail over HTTP: search it, hold the search until something happens, follow it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from roost.core.audit import Cursor, Entry, Excerpt, Outcome, Selection
from roost.core.errors import Code, RoostError
from roost.core.ids import check_user
from roost.core.limits import NUMBER_MAX
from roost.wire import cursors, decoding, sse
from roost.wire.answer import JSON, PRIVATE, Answer, stamp
from roost.wire.documents import page_size
from roost.wire.operations import HeaderField, Operation, Reply
from roost.wire.request import Request
from roost.wire.shapes import AT_MOST, CollectionName, Instant, PageSize, Shape, UserName
from roost.wire.shapes import Cursor as CursorText

_encode = msgspec.json.Encoder().encode
_TRAIL = "audit"
_place = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})").fullmatch

_Name = Annotated[str, Meta(max_length=200, pattern="^[ -~]*$")]


class AuditQuery(Shape, frozen=True, rename={"since": "from", "until": "to"}):
    """Which records are asked for."""

    user: Annotated[UserName, Meta(description="Only what was done to this user's state, writes too.")] | UnsetType = (
        UNSET
    )
    actor: (
        Annotated[_Name, Meta(description="Only what this one did: `user:ada`, `service:billing`, `admin`.")]
        | UnsetType
    ) = UNSET
    action: Annotated[_Name, Meta(description="Only this: `read`, `login`, `erase`, …")] | UnsetType = UNSET
    outcome: Annotated[Outcome, Meta(description="Only what came to this.")] | UnsetType = UNSET
    since: Annotated[Instant, Meta(description="Only from this time on.")] | UnsetType = UNSET
    until: Annotated[Instant, Meta(description="Only from before this time.")] | UnsetType = UNSET
    after: CursorText | UnsetType = UNSET
    limit: PageSize | UnsetType = UNSET
    wait: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds to hold an empty answer until there is a record.",
            extra_json_schema={AT_MOST: "wait_s_max"},
        ),
    ] = 0


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who did or tried what, when, from where, for which purpose. What is not known is left out.

    A record of the trail has its number `n` there; a write, told by the user's log, has its `seq` in that.
    """

    n: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    seq: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    at: Instant
    actor: Annotated[str, Meta(description="Empty for somebody who did not prove who that is.")]
    kind: Annotated[str, Meta(description="The actor's role.")]
    action: str
    outcome: Outcome
    address: str = ""
    request_id: str = ""
    purpose: str | None = None
    user: str | None = None
    collection: CollectionName | None = None
    key: str | None = None
    count: Annotated[int, Meta(ge=1, description="How many alike this one stands for.")] = 1
    detail: str | None = None


class AuditPage(msgspec.Struct, frozen=True):
    """Records by time. `next` is the cursor to go on from; there is always one. `live`: that was all, for now."""

    records: list[AuditRecord]
    next: CursorText
    live: bool


async def get_audit(request: Request) -> Answer:
    """A piece of the trail; with `wait`, an empty one is held until there is a record."""
    query: AuditQuery = request.query
    selection = _selection(query)
    last = request.header(b"last-event-id")
    cursor = _cursor(selection, query.after if last is None else last)
    gate, limit = request.context.gate, page_size(request)
    if sse.wanted(request):
        pages = gate.follow_audit(request.caller, selection, cursor, limit)
        _, answer = await sse.stream(request, _pieces(selection, pages))
        return answer
    work = gate.audit(request.caller, selection, cursor, limit, float(query.wait))
    found = await (request.unless_gone(work) if query.wait else work)
    if query.wait:
        # The token may have become good no longer meanwhile.
        request.context.identity.check(request.principal)
    page = AuditPage([_shape(entry) for entry in found.entries], _text(selection, found.cursor), found.live)
    return Answer(200, [JSON, PRIVATE], _encode(page))


async def _pieces(selection: Selection, pages: AsyncGenerator[Excerpt, None]) -> AsyncGenerator[sse.Piece, None]:
    live = False
    async with aclosing(pages):
        async for page in pages:
            text = b"".join(b"data: %s\n\n" % _encode(_shape(entry)) for entry in page.entries)
            at = _text(selection, page.cursor).encode()
            if text:
                # The cursor is behind all of them: who loses the connection in between is told them again.
                text = text[:-1] + b"id: %s\n\n" % at
            if page.live and not live:
                live = True
                text += b"event: live\nid: %s\ndata: {}\n\n" % at
            yield sse.Piece(text, at)


def _selection(query: AuditQuery) -> Selection:
    return Selection(
        user=None if query.user is UNSET else check_user(query.user),
        actor=None if query.actor is UNSET else query.actor,
        action=None if query.action is UNSET else query.action,
        outcome=None if query.outcome is UNSET else query.outcome,
        since=_time(query.since, "from"),
        until=_time(query.until, "to"),
    )


def _time(text: str | UnsetType, name: str) -> datetime | None:
    return None if text is UNSET else decoding.instant(text, name)


def _shape(entry: Entry) -> AuditRecord:
    return AuditRecord(
        n=UNSET if entry.n is None else entry.n,
        seq=UNSET if entry.seq is None else entry.seq,
        at=stamp(entry.at),
        actor=entry.actor,
        kind=entry.kind,
        action=entry.action,
        outcome=entry.outcome,
        address=entry.address,
        request_id=entry.request_id,
        purpose=entry.purpose,
        user=entry.user,
        collection=entry.collection,
        key=entry.key,
        count=entry.count,
        detail=entry.detail,
    )


def _list(selection: Selection) -> tuple[str, ...]:
    """What a cursor belongs to: a place in one user's log means nothing in another's."""
    return (_TRAIL, selection.user or "")


def _text(selection: Selection, cursor: Cursor) -> str:
    return cursors.make(_list(selection), f"{cursor.n}.{cursor.seq}")


def _cursor(selection: Selection, text: str | UnsetType) -> Cursor:
    place = cursors.read(_list(selection), text, _check)
    if place is None:
        return Cursor()
    n, _, seq = place.partition(".")
    return Cursor(int(n), int(seq))


def _check(place: str) -> str:
    if not (found := _place(place)) or max(map(int, found.groups())) > NUMBER_MAX:
        raise RoostError(Code.INVALID_REQUEST, "This is no place in the trail.")
    return place


_LAST_EVENT_ID = HeaderField(
    "Last-Event-ID", "The cursor of a stream that goes on, in place of `after`.", {"type": "string"}
)

OPERATIONS = (
    Operation(
        "GET",
        "/v1/audit",
        get_audit,
        "Search the audit trail, or wait for what comes next.",
        (Reply(200, "Records by time.", AuditPage, also=("text/event-stream",)),),
        tag="Audit",
        query=AuditQuery,
        headers=(_LAST_EVENT_ID,),
        description="For admins. Of one user, the writes that the user's log has are among them. With "
        "`Accept: text/event-stream`, a stream of server-sent events: `data` is a record, `id` a cursor, and a message "
        "`live` follows once the trail was read to its end. `Last-Event-ID` resumes.",
    ),
)
