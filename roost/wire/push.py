"""Pushes: the mutations of a device, as they come by WebSocket or by HTTP, checked and carried out; and the devices.

What is no mutation at all refuses the push. One that is, and still never can take effect (a name that is none, a value
that is too large), is answered in its turn like those that the state refuses, so that it does not block the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from roost.core import edits, jsonvalue
from roost.core.commands import Flaw, Mutation, Op, Push
from roost.core.errors import Code, RoostError
from roost.core.ids import check_collection, check_device, check_key
from roost.core.limits import Limits
from roost.sync import frames
from roost.wire import decoding, shapes
from roost.wire.answer import JSON, PRIVATE, Answer, seq_header, stamp
from roost.wire.documents import stored_value
from roost.wire.operations import SEQ, Body, Operation, Reply
from roost.wire.request import Request

F = TypeVar("F")
# A value inside a frame ({"mutations":[{"ops":[{"edits":[{"value":…}]}]}]}) may be as deep as a body that is a value.
_ENVELOPE_DEPTH = 7

_encode = msgspec.json.Encoder().encode
_body = msgspec.json.Decoder(frames.PushBody).decode


class KnownDevice(msgspec.Struct, frozen=True):
    """A device: whether it is connected, up to where it has read the log, and its last mutation that was answered."""

    device: frames.DeviceName
    connected: bool
    seen_at: shapes.Instant
    cursor: shapes.Seq
    number: shapes.Seq


class KnownDevices(msgspec.Struct, frozen=True):
    """All devices of a user, by name."""

    items: list[KnownDevice]


def frame(data: bytes, decode: Callable[[bytes], F], limits: Limits) -> F:
    """JSON as what `decode` makes of it, or raise `INVALID_JSON` or `INVALID_REQUEST`, with a pointer."""
    jsonvalue.decode(data, msgspec.structs.replace(limits, depth_max=limits.depth_max + _ENVELOPE_DEPTH))
    try:
        return decode(data)
    except msgspec.ValidationError as error:
        raise decoding.misfit(error) from None


def mutations(given: Sequence[frames.WireMutation], limits: Limits) -> tuple[Mutation, ...]:
    """Mutations out of a `frame`, those with a flaw marked so. Raises `TOO_LARGE` for more than a push may have."""
    if len(given) > limits.push_mutations_max:
        detail = f"At most {limits.push_mutations_max} mutations in one push."
        raise RoostError(Code.TOO_LARGE, detail, pointer="/mutations")
    for place, mutation in enumerate(given):
        # Not a flaw, with which each op would become a conflict of the inbox.
        if len(mutation.ops) > limits.batch_ops_max:
            detail = f"At most {limits.batch_ops_max} ops in one mutation."
            raise RoostError(Code.TOO_LARGE, detail, pointer=f"/mutations/{place}/ops")
    return tuple(_mutation(mutation, limits) for mutation in given)


async def push_mutations(request: Request) -> Answer:
    """Carry out a device's mutations."""
    user = request.user
    limits = request.context.limits
    body = frame(await request.body(), _body, limits)
    check_device(body.device)
    push = Push(user, body.device, mutations(body.mutations, limits), request.principal.actor)
    accepted = await request.context.gate.push(request.caller, push)
    answer = frames.PushAnswer(accepted.seq, accepted.results)
    return Answer(200, [JSON, seq_header(accepted.seq), PRIVATE], _encode(answer))


async def list_devices(request: Request) -> Answer:
    """All devices of a user."""
    devices = await request.context.gate.devices(request.caller, request.user)
    items = [
        KnownDevice(each.device, each.until is not None, stamp(each.seen_at), each.cursor, each.number)
        for each in devices
    ]
    return Answer(200, [JSON, PRIVATE], _encode(KnownDevices(items)))


def _mutation(given: frames.WireMutation, limits: Limits) -> Mutation:
    mutation = frames.mutation_of(given)
    ops = []
    flaw = None
    for index, op in enumerate(mutation.ops):
        try:
            ops.append(_checked(op, limits))
        except RoostError as refusal:
            flaw = flaw or Flaw(refusal.code, refusal.detail, f"/ops/{index}{refusal.pointer or ''}")
            value = jsonvalue.encode(msgspec.json.decode(op.argument)) if op.kind == "put" else None
            ops.append(msgspec.structs.replace(op, argument=value))
    return msgspec.structs.replace(mutation, ops=tuple(ops), flaw=flaw)


def _checked(op: Op, limits: Limits) -> Op:
    """The op with its value as it is stored. Raises what is wrong with it."""
    check_collection(op.collection)
    check_key(op.key)
    try:
        edits.check(op.edits or (), limits)
        for index, edit in enumerate(op.edits or ()):
            if edit.value is not edits.ABSENT:
                stored_value(edit.value, limits, f"/{index}/value")
    except RoostError as refusal:
        refusal.pointer = f"/edits{refusal.pointer or ''}"
        raise
    if op.kind != "put":
        return op
    return msgspec.structs.replace(op, argument=stored_value(msgspec.json.decode(op.argument), limits, "/value"))


OPERATIONS = (
    Operation(
        "POST",
        "/v1/users/{user}/push",
        push_mutations,
        "Push a device's mutations.",
        (Reply(200, "The answers, in order; where there are fewer, push the rest again.", frames.PushAnswer, (SEQ,)),),
        tag="Devices",
        errors=(
            Code.INVALID_JSON,
            Code.MUTATION_GAP,
            Code.CURSOR_AHEAD,
            Code.IDEMPOTENCY_KEY_REUSED,
            Code.TOO_LARGE,
            Code.LIMIT_REACHED,
            Code.UNSUPPORTED_MEDIA_TYPE,
        ),
        body=Body({"application/json": frames.PushBody}),
        description="Each mutation is answered once, and alone; a repeat is answered as the first time. `mutation_gap` "
        "has `expected`, the number to go on from.",
    ),
    Operation(
        "GET",
        "/v1/users/{user}/devices",
        list_devices,
        "List a user's devices.",
        (Reply(200, "All of them.", KnownDevices),),
        tag="Devices",
        errors=(Code.NOT_FOUND,),
    ),
)
