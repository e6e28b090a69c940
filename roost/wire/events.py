"""Events over HTTP: poll a user's log, hold the poll until something happens, take in an exported log."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from roost.core import events as core
from roost.core.commands import AppendLog
from roost.core.edits import encode
from roost.core.errors import Code, RoostError
from roost.core.ids import INBOX, check_collection, check_key
from roost.core.limits import Limits
from roost.wire import decoding, shapes, sse
from roost.wire.answer import JSON, PRIVATE, Answer, event_shape, seq_header
from roost.wire.documents import page_size, stored_value
from roost.wire.operations import LAST_EVENT_ID, SEQ, Body, Operation, Reply
from roost.wire.request import Request, whole_number

_encode = msgspec.json.Encoder().encode


async def get_events(request: Request) -> Answer:
    """A piece of the log; with `wait`, an empty one is held until there is an event."""
    query: shapes.LogQuery = request.query
    user = request.user
    last = request.header(b"last-event-id")
    after = query.after if last is None else whole_number("Last-Event-ID", last)
    collections = None
    if query.collections is not UNSET:
        collections = sorted({check_collection(name) for name in query.collections.split(",")})
    if sse.wanted(request):
        return await sse.answer(request, after, collections)
    work = request.context.gate.log(request.caller, user, after, page_size(request), collections, float(query.wait))
    log = await (request.unless_gone(work) if query.wait else work)
    if query.wait:
        # The token may have become good no longer meanwhile.
        request.context.identity.check(request.principal)
    body = _encode(shapes.Log([event_shape(event) for event in log.events], log.reached, log.head.floor))
    return Answer(200, [JSON, seq_header(log.head.seq), PRIVATE], body)


async def append_events(request: Request) -> Answer:
    """Append events that another Roost exported."""
    user = request.user
    limits = request.context.limits
    given = decoding.body(await request.body(), shapes.NewEvents, limits).events
    events = tuple(_event(event, limits, f"/events/{index}") for index, event in enumerate(given))
    command = AppendLog(user, events, request.principal.actor)
    accepted = await request.context.gate.append_log(request.caller, command)
    return Answer(200, [JSON, seq_header(accepted.seq), PRIVATE], _encode(shapes.LogSeq(accepted.seq)))


def _event(event: shapes.Event, limits: Limits, pointer: str) -> core.Event:
    try:
        check_collection(event.collection)
        check_key(event.key)
    except RoostError as error:
        error.pointer = pointer
        raise
    value = None
    if event.kind == "put":
        if event.collection == INBOX:
            _check_conflict(event, f"{pointer}/value")
        value = stored_value(event.value, limits, f"{pointer}/value")
    elif event.kind == "erase":
        raise RoostError(
            Code.INVALID_REQUEST, "A user is erased by DELETE, not by an event.", pointer=f"{pointer}/kind"
        )
    elif event.value is not None:
        raise RoostError(Code.INVALID_REQUEST, "A `delete` has the value null.", pointer=f"{pointer}/value")
    at = decoding.instant(event.at, "at", f"{pointer}/at")
    edits = None
    if event.edits is not UNSET:
        # An event may hold more of them than a request: what changed between two values.
        enough = msgspec.structs.replace(limits, batch_ops_max=len(event.edits))
        edits = encode(decoding.edits(event.edits, enough, f"{pointer}/edits"))
    return core.Event(
        event.seq,
        event.kind,
        event.collection,
        event.key,
        value,
        at,
        event.actor,
        event.device,
        None if event.mutation is UNSET else event.mutation,
        None if event.clock is UNSET else event.clock,
        () if event.beside is UNSET else tuple(event.beside),
        edits,
    )


def _check_conflict(event: shapes.Event, pointer: str) -> None:
    """Refuse what is no conflict: whoever reads the inbox relies on it."""
    value = event.value
    try:
        decoding.convert({"id": event.key, **value} if isinstance(value, dict) else value, shapes.Conflict)
    except RoostError as error:
        error.pointer = f"{pointer}{error.pointer or ''}"
        raise


_EVENTS = "/v1/users/{user}/events"

OPERATIONS = (
    Operation(
        "GET",
        _EVENTS,
        get_events,
        "Read a user's log, or wait for what comes next.",
        (
            Reply(
                200,
                "Events in `seq` order, without what the caller does not see.",
                shapes.Log,
                (SEQ,),
                also=("text/event-stream",),
            ),
        ),
        tag="Events",
        headers=(LAST_EVENT_ID,),
        description="With `Accept: text/event-stream`, a stream of server-sent events: `id` is the seq, `data` the "
        "event, and a message `live` follows once the log was read to its end. `Last-Event-ID` resumes.",
        errors=(Code.NOT_FOUND, Code.CURSOR_AHEAD, Code.CURSOR_COMPACTED),
        query=shapes.LogQuery,
    ),
    Operation(
        "POST",
        _EVENTS,
        append_events,
        "Append events of an exported log.",
        (Reply(200, "The log has all of them.", shapes.LogSeq, (SEQ,)),),
        tag="Events",
        errors=(
            Code.INVALID_JSON,
            Code.LOG_CONFLICT,
            Code.CURSOR_COMPACTED,
            Code.TOO_LARGE,
            Code.UNSUPPORTED_MEDIA_TYPE,
            Code.LIMIT_REACHED,
        ),
        body=Body({"application/json": shapes.NewEvents}),
        description="For admins and services. Events that the log has already are compared and skipped, so it may be "
        "repeated without an idempotency key.",
    ),
)
