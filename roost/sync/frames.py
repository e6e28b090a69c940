"""The frames that device and server exchange (`docs/guides/sync.md`), as types, and what they mean in core's words.

Both ends decode and encode with these, over a WebSocket and over HTTP, so none can say what another would not
understand. A device ignores members that it does not know, so that a newer server can say more; the server refuses
them, because what it ignored would be lost.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from roost.core.commands import Mutation, Op, Result
from roost.core.edits import Edit
from roost.core.events import Event
from roost.core.ids import COLLECTION_PATTERN, DEVICE_PATTERN
from roost.core.limits import NUMBER_MAX

SUBPROTOCOL = "roost.v1"

Seq = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
Number = Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
# What a name looks like is told here and checked in `core.ids`.
DeviceName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{DEVICE_PATTERN}$"})]
CollectionName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{COLLECTION_PATTERN}$"})]


# Mutations


class PutStep(msgspec.Struct, frozen=True, tag_field="op", tag="put", forbid_unknown_fields=True):
    """The document's value is now `value`; `edits` say what was changed to get there."""

    collection: str
    key: str
    value: Raw
    edits: tuple[Edit, ...] | UnsetType = UNSET


class EditStep(msgspec.Struct, frozen=True, tag_field="op", tag="edit", forbid_unknown_fields=True):
    """Change the document field by field."""

    collection: str
    key: str
    edits: tuple[Edit, ...]


class DeleteStep(msgspec.Struct, frozen=True, tag_field="op", tag="delete", forbid_unknown_fields=True):
    """The document goes."""

    collection: str
    key: str


class WireMutation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mutation on its way."""

    number: Number
    base: Seq
    clock: Seq
    ops: Annotated[tuple[PutStep | EditStep | DeleteStep, ...], Meta(min_length=1)]


Mutations = Annotated[
    tuple[WireMutation, ...], Meta(min_length=1, extra_json_schema={"x-at-most": "push_mutations_max"})
]


def mutation_frame(mutation: Mutation) -> WireMutation:
    """A mutation as it goes over the wire."""
    return WireMutation(mutation.number, mutation.base, mutation.clock, tuple(map(_sent, mutation.ops)))


def mutation_of(wire: WireMutation) -> Mutation:
    """A mutation as core knows it. Values are taken as they are: whoever does not trust them checks them."""
    return Mutation(wire.number, wire.base, wire.clock, tuple(map(_received, wire.ops)))


def _sent(op: Op) -> PutStep | EditStep | DeleteStep:
    if op.kind == "put":
        return PutStep(op.collection, op.key, Raw(op.argument), UNSET if op.edits is None else op.edits)
    if op.kind == "edit":
        return EditStep(op.collection, op.key, op.edits or ())
    return DeleteStep(op.collection, op.key)


def _received(op: PutStep | EditStep | DeleteStep) -> Op:
    if isinstance(op, PutStep):
        return Op("put", op.collection, op.key, bytes(op.value), edits=None if op.edits is UNSET else op.edits)
    if isinstance(op, EditStep):
        return Op("edit", op.collection, op.key, edits=op.edits)
    return Op("delete", op.collection, op.key)


# Events


class WireEvent(msgspec.Struct, frozen=True):
    """An event on its way: `value` is null unless the kind is `put`."""

    seq: Number
    kind: Literal["put", "delete", "erase"]
    collection: str
    key: str
    value: Raw
    at: datetime
    actor: str
    device: str | None = None
    mutation: Number | UnsetType | None = UNSET
    clock: Seq | UnsetType = UNSET
    beside: tuple[Number, ...] | UnsetType = UNSET
    edits: Raw | UnsetType = UNSET


def event_of(wire: WireEvent) -> Event:
    """An event as core knows it."""
    return Event(
        seq=wire.seq,
        kind=wire.kind,
        collection=wire.collection,
        key=wire.key,
        value=bytes(wire.value) if wire.kind == "put" else None,
        at=wire.at,
        actor=wire.actor,
        device=wire.device,
        mutation=None if wire.mutation is UNSET else wire.mutation,
        clock=None if wire.clock is UNSET else wire.clock,
        beside=() if wire.beside is UNSET else wire.beside,
        edits=None if wire.edits is UNSET else bytes(wire.edits),
    )


# The client's frames


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="hello", forbid_unknown_fields=True, omit_defaults=True):
    """Who it is and what it wants. Without `after`, no events; without `collections`, those of all."""

    device: DeviceName | None = None
    after: Seq | UnsetType = UNSET
    collections: tuple[CollectionName, ...] | None = None
    token: str | None = None
    presence: bool = False


class Push(msgspec.Struct, frozen=True, tag_field="type", tag="push", forbid_unknown_fields=True):
    """Mutations, answered in order by one `pushed` or `refused`."""

    mutations: Mutations


class Token(msgspec.Struct, frozen=True, tag_field="type", tag="token", forbid_unknown_fields=True):
    """A fresh token of the same principal."""

    token: str


class Read(msgspec.Struct, frozen=True, tag_field="type", tag="read", forbid_unknown_fields=True):
    """How far the device has read and kept."""

    seq: Seq


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping", forbid_unknown_fields=True):
    """Answered by `pong`."""


class PushBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A push by HTTP."""

    device: DeviceName
    mutations: Mutations


class PushAnswer(msgspec.Struct, frozen=True):
    """Where the log stands after a push by HTTP, and the answers, in order."""

    seq: Seq
    results: tuple[Result, ...]


ClientFrame: TypeAlias = Hello | Push | Token | Read | Ping


# The server's frames


class Welcome(msgspec.Struct, frozen=True, tag_field="type", tag="welcome"):
    """The log's end and floor, the device's last mutation that was answered, and when the token ends (Unix seconds)."""

    seq: Seq
    floor: Seq
    number: Seq
    expires_at: int | None
    heartbeat_s: float


class Events(msgspec.Struct, frozen=True, tag_field="type", tag="events"):
    """The next stretch, from the cursor `after` to `seq`; what is not among the events was left out.

    `live` once the log was read to its end.
    """

    events: tuple[WireEvent, ...]
    seq: Seq
    live: bool
    after: Seq | UnsetType = UNSET


class Pushed(msgspec.Struct, frozen=True, tag_field="type", tag="pushed"):
    """The answers to a push, in order; where there are fewer, the rest was not looked at."""

    results: tuple[Result, ...]


class Refused(msgspec.Struct, frozen=True, tag_field="type", tag="refused", omit_defaults=True):
    """A push that was not taken; `retry_after` in seconds, where trying again may help."""

    code: str
    detail: str
    expected: Number | None = None
    retry_after: float | None = None


class Present(msgspec.Struct, frozen=True):
    """A device that is connected."""

    device: str
    seen_at: datetime


class Presence(msgspec.Struct, frozen=True, tag_field="type", tag="presence"):
    """The connected devices of the user."""

    devices: tuple[Present, ...]


class Renewed(msgspec.Struct, frozen=True, tag_field="type", tag="renewed"):
    """A fresh token was taken; it ends at `expires_at` (Unix seconds)."""

    expires_at: int | None


class Pong(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to `ping`."""


ServerFrame: TypeAlias = Welcome | Events | Pushed | Refused | Presence | Renewed | Pong

encode = msgspec.json.Encoder().encode
"""A frame as the text of a message (bytes of UTF-8)."""
client_frame = msgspec.json.Decoder(ClientFrame).decode
"""A client's frame. Raises `msgspec.DecodeError` for what is none."""
server_frame = msgspec.json.Decoder(ServerFrame).decode
"""A server's frame. Raises `msgspec.DecodeError` for what is none."""
