"""Leaving over HTTP: erase a user, prove it, and hand out everything about one first."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from roost.authz.departures import Item, Login, Proof, Told, check_place
from roost.core.errors import Code
from roost.core.events import Device, Document, Event, Head
from roost.wire import cursors, shapes
from roost.wire.answer import NO_STORE, PRIVATE, Answer, Header, event_shape, raw, several, stamp
from roost.wire.operations import Operation, Reply
from roost.wire.push import KnownDevice
from roost.wire.request import Request

MEDIA_TYPE = "application/x-ndjson"
_HEADERS: list[Header] = [(b"content-type", MEDIA_TYPE.encode()), NO_STORE]
_JSON: list[Header] = [(b"content-type", b"application/json"), PRIVATE]
_encode = msgspec.json.Encoder().encode


class Erasure(msgspec.Struct, frozen=True):
    """The receipt of an erasure."""

    user: shapes.UserName
    erased_at: shapes.Instant
    seq: Annotated[shapes.Version, Meta(description="The number of the event `erase`, the log's last.")]
    events: Annotated[shapes.Seq, Meta(description="How many events the log had had.")]
    documents: Annotated[shapes.Seq, Meta(description="How many documents there had been.")]
    shredded_at: Annotated[
        shapes.Instant | None,
        Meta(description="When older copies of the database had become unreadable; null before."),
    ]
    proof: Annotated[str, Meta(description="All this as a JWS, by a key of `/.well-known/jwks.json`.")]


class ExportQuery(shapes.Shape, frozen=True):
    """Where an export goes on, and about how much of it is wanted."""

    after: Annotated[str, Meta(description="`after` of the last line `cursor` that came.")] | UnsetType = UNSET
    limit: (
        Annotated[int, Meta(ge=1, description="End at the first line `cursor` after this many lines; else at the end.")]
        | UnsetType
    ) = UNSET


class UserLine(shapes.User, frozen=True, tag_field="type", tag="user"):
    """The user. The first line."""


class DocumentLine(msgspec.Struct, frozen=True, tag_field="type", tag="document"):
    """A document as it is, with all its values where several stand side by side."""

    collection: shapes.CollectionName
    key: shapes.Key
    version: shapes.Version
    value: shapes.JsonValue
    updated_at: shapes.Instant
    siblings: shapes.SomeSiblings = UNSET


class SessionLine(msgspec.Struct, frozen=True, tag_field="type", tag="session"):
    """A session: without what would let anybody into it."""

    session: str
    created_at: shapes.Instant
    used_at: shapes.Instant
    expires_at: shapes.Instant
    name: str | None
    device: str | None
    client: str | None
    address: str


class DeviceLine(KnownDevice, frozen=True, tag_field="type", tag="device"):
    """A device."""


class EventLine(shapes.Event, frozen=True, tag_field="type", tag="event"):
    """An event of the log, as far as it is kept."""


class CursorLine(msgspec.Struct, frozen=True, tag_field="type", tag="cursor"):
    """Everything up to here is complete: an export that breaks off goes on with `?after=`, whatever came behind it."""

    after: str


class EndLine(msgspec.Struct, frozen=True, tag_field="type", tag="end"):
    """That was all; the log stands at `seq`."""

    seq: shapes.Seq


ExportLine: TypeAlias = UserLine | DocumentLine | SessionLine | DeviceLine | EventLine | CursorLine | EndLine


async def erase_user(request: Request) -> Answer:
    """Erase a user."""
    return _receipt(await request.context.gate.erase(request.caller, request.user))


async def get_erasure(request: Request) -> Answer:
    """The receipt of an erasure."""
    return _receipt(await request.context.gate.erasure(request.caller, request.user))


async def export_user(request: Request) -> Answer:
    """Everything about a user."""
    query: ExportQuery = request.query
    user = request.user
    of = ("export", user)
    after = cursors.read(of, query.after, check_place)
    limit = None if query.limit is UNSET else query.limit
    pieces = request.context.gate.export(request.caller, user, after)
    # The first piece is read before the answer begins, so that a refusal is one.
    first = await anext(pieces)
    return Answer(200, list(_HEADERS), chunks=_lines(request, first, pieces, of, limit))


async def _lines(
    request: Request, first: Told, pieces: AsyncGenerator[Told, None], of: tuple[str, ...], limit: int | None
) -> AsyncGenerator[bytes, None]:
    region, count = request.context.settings.region, 0
    async with aclosing(pieces):
        piece: Told | None = first
        while piece is not None:
            # The token may have become good no longer meanwhile.
            request.context.identity.check(request.principal)
            lines = [_line(item, region) for item in piece.items]
            count += len(lines)
            following = piece.following
            if following is None:
                lines.append(EndLine(piece.head.seq))
            elif lines:
                lines.append(CursorLine(cursors.make(of, following)))
            yield b"".join(_encode(line) + b"\n" for line in lines)
            piece = None if limit is not None and count >= limit else await anext(pieces, None)


def _line(item: Item, region: str) -> ExportLine:
    match item:
        case Head():
            return UserLine(item.user, region, item.seq, item.floor, stamp(item.created_at), item.counts)
        case Document():
            at = stamp(item.updated_at)
            return DocumentLine(item.collection, item.key, item.version, raw(item.value), at, several(item))
        case Device():
            return DeviceLine(item.device, item.until is not None, stamp(item.seen_at), item.cursor, item.number)
        case Event():
            shape = event_shape(item)
            return EventLine(**{name: getattr(shape, name) for name in shape.__struct_fields__})
        case Login():
            times = stamp(item.created_at), stamp(item.used_at), stamp(item.expires_at)
            return SessionLine(item.session, *times, item.name, item.device, item.client, item.address)


def _receipt(proof: Proof) -> Answer:
    receipt = proof.receipt
    shredded_at = None if receipt.shredded_at is None else stamp(receipt.shredded_at)
    counts = receipt.seq, receipt.events, receipt.documents
    return Answer(
        200, list(_JSON), _encode(Erasure(receipt.user, stamp(receipt.erased_at), *counts, shredded_at, proof.signed))
    )


_USER = "/v1/users/{user}"

OPERATIONS = (
    Operation(
        "DELETE",
        _USER,
        erase_user,
        "Erase a user, for good.",
        (Reply(200, "Erased, now or before. The receipt.", Erasure),),
        tag="Users",
        errors=(Code.NOT_FOUND,),
        description="Documents, history, devices, sessions and keys are deleted; whoever follows is told so. From then "
        "on every operation on the user answers `user_erased`. It may be repeated.",
    ),
    Operation(
        "GET",
        f"{_USER}/erasure",
        get_erasure,
        "See the receipt of an erasure.",
        (Reply(200, "The receipt.", Erasure),),
        tag="Users",
        errors=(Code.NOT_FOUND,),
    ),
    Operation(
        "GET",
        f"{_USER}/export",
        export_user,
        "Take along everything about a user.",
        (Reply(200, "Lines of JSON, the last of the type `end`.", ExportLine, media_type=MEDIA_TYPE),),
        tag="Users",
        errors=(Code.NOT_FOUND,),
        query=ExportQuery,
        description="Streamed. Between the lines come those of the type `cursor`, from which an export that broke off "
        "goes on; it is whole once the line `end` is there.",
    ),
)
