"""Users over HTTP: bring one into being, look at one, list them all."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from roost.core.errors import Code, RoostError
from roost.core.events import Head
from roost.core.ids import check_user
from roost.wire import cursors, decoding, shapes
from roost.wire.answer import JSON, PRIVATE, Answer, seq_header, stamp
from roost.wire.documents import page_size
from roost.wire.operations import SEQ, Body, Operation, Reply
from roost.wire.request import Request

_encode = msgspec.json.Encoder().encode
_ALL_USERS = ("users",)


async def create_user(request: Request) -> Answer:
    """Bring a user with an empty log into being, unless there is one."""
    user = request.user
    body = await request.body()
    region = request.context.settings.region
    if body:
        home = decoding.body(body, shapes.NewUser, request.context.limits).home
        if home is not UNSET and home != region:
            detail = f"This server keeps users whose home is {region!r}."
            raise RoostError(Code.INVALID_REQUEST, detail, pointer="/home")
    head, created = await request.context.gate.create_user(request.caller, user)
    return _user_answer(201 if created else 200, head, region)


async def get_user(request: Request) -> Answer:
    """Where a user's log stands."""
    head = await request.context.gate.head(request.caller, request.user)
    return _user_answer(200, head, request.context.settings.region)


async def list_users(request: Request) -> Answer:
    """A page of all users."""
    query: shapes.ListQuery = request.query
    after = cursors.read(_ALL_USERS, query.after, check_user)
    limit = page_size(request)
    # One more than is shown tells whether another page follows.
    heads = await request.context.gate.users(request.caller, after, limit + 1)
    region = request.context.settings.region
    answer = shapes.UserPage(
        [_shape(head, region) for head in heads[:limit]],
        cursors.make(_ALL_USERS, heads[limit - 1].user) if len(heads) > limit else None,
    )
    return Answer(200, [JSON, PRIVATE], _encode(answer))


def _user_answer(status: int, head: Head, region: str) -> Answer:
    return Answer(status, [JSON, seq_header(head.seq), PRIVATE], _encode(_shape(head, region)))


def _shape(head: Head, region: str) -> shapes.User:
    return shapes.User(head.user, region, head.seq, head.floor, stamp(head.created_at), head.counts)


OPERATIONS = (
    Operation(
        "PUT",
        "/v1/users/{user}",
        create_user,
        "Bring a user into being.",
        (
            Reply(200, "There already.", shapes.User, (SEQ,)),
            Reply(201, "Created, with an empty log.", shapes.User, (SEQ,)),
        ),
        tag="Users",
        errors=(Code.INVALID_JSON, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE),
        body=Body({"application/json": shapes.NewUser}, required=False),
        description="A first write does so too. It may be repeated without an idempotency key.",
    ),
    Operation(
        "GET",
        "/v1/users/{user}",
        get_user,
        "See where a user's log stands.",
        (Reply(200, "The user.", shapes.User, (SEQ,)),),
        tag="Users",
        errors=(Code.NOT_FOUND,),
    ),
    Operation(
        "GET",
        "/v1/users",
        list_users,
        "List all users.",
        (Reply(200, "A page of users.", shapes.UserPage),),
        tag="Users",
        query=shapes.ListQuery,
        description="For admins and services.",
    ),
)
