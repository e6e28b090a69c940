"""The applications that may ask for tokens, over HTTP: admins register them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from roost.authz.clients import REDIRECTS_MAX, SCOPE_PATTERN, SCOPES_MAX, Kind
from roost.authz.clients import Client as Stored
from roost.core.errors import Code
from roost.wire import decoding, shapes
from roost.wire.answer import JSON, NO_STORE, Answer
from roost.wire.operations import Body, Operation, Reply
from roost.wire.request import Request

_encode = msgspec.json.Encoder().encode

_Text = Annotated[str, Meta(min_length=1, max_length=200)]
_Uri = Annotated[
    str, Meta(max_length=2_000, description="Whole; https://, or http:// on loopback, or a scheme of one's own.")
]
_Scope = Annotated[str, Meta(extra_json_schema={"pattern": f"^{SCOPE_PATTERN}$"})]


class NewClient(shapes.Shape, frozen=True):
    """An application: `public` and `confidential` ones log users in, a `service` logs in as itself."""

    kind: Kind
    name: Annotated[_Text, Meta(description="As users are shown it.")]
    redirect_uris: Annotated[tuple[_Uri, ...], Meta(max_length=REDIRECTS_MAX)] = ()
    """Where users may be sent back to; compared letter by letter."""
    scopes: Annotated[tuple[_Scope, ...], Meta(max_length=SCOPES_MAX)] = ()
    """What a service may do at most, which has to be said; `roost:all` is everything."""
    new_secret: bool = False
    """Whether the secret is to be replaced."""


class Client(msgspec.Struct, frozen=True, omit_defaults=True):
    """An application. Its `secret` is told once: when it is made."""

    id: str
    kind: Kind
    name: str
    redirect_uris: tuple[str, ...]
    scopes: tuple[str, ...]
    secret: str | None = None


class ClientList(msgspec.Struct, frozen=True):
    """All applications, by id."""

    items: list[Client]


async def put_client(request: Request) -> Answer:
    """Register an application, or change one."""
    name = request.client
    given = decoding.body(await request.body(), NewClient, request.context.limits)
    client = Stored(given.kind, given.name, given.redirect_uris, given.scopes)
    done = await request.context.logins.register(request.caller, name, client, new_secret=given.new_secret)
    return Answer(201 if done.created else 200, [JSON, NO_STORE], _encode(_shape(done.id, done.client, done.secret)))


async def get_client(request: Request) -> Answer:
    """An application."""
    found = await request.context.logins.client(request.caller, request.client)
    return Answer(200, [JSON, NO_STORE], _encode(_shape(found.key, found.value)))


async def list_clients(request: Request) -> Answer:
    """All applications."""
    found = await request.context.logins.clients(request.caller)
    return Answer(200, [JSON, NO_STORE], _encode(ClientList([_shape(each.key, each.value) for each in found])))


async def delete_client(request: Request) -> Answer:
    """Delete an application."""
    await request.context.logins.remove(request.caller, request.client)
    return Answer(204, [NO_STORE])


def _shape(name: str, client: Stored, secret: str | None = None) -> Client:
    return Client(name, client.kind, client.name, client.redirect_uris, client.scopes, secret)


_CLIENT = "/v1/auth/clients/{client}"

OPERATIONS = (
    Operation(
        "GET",
        "/v1/auth/clients",
        list_clients,
        "List the applications.",
        (Reply(200, "All of them.", ClientList),),
        tag="Clients",
        description="For admins.",
    ),
    Operation(
        "GET",
        _CLIENT,
        get_client,
        "Read an application.",
        (Reply(200, "The application, without its secret.", Client),),
        tag="Clients",
        errors=(Code.NOT_FOUND,),
        description="For admins.",
    ),
    Operation(
        "PUT",
        _CLIENT,
        put_client,
        "Register an application.",
        (Reply(200, "Changed.", Client), Reply(201, "Registered.", Client)),
        tag="Clients",
        errors=(Code.INVALID_JSON, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE, Code.VERSION_CONFLICT),
        body=Body({"application/json": NewClient}),
        description="For admins. A secret is in the answer when it was made, and never again.",
    ),
    Operation(
        "DELETE",
        _CLIENT,
        delete_client,
        "Delete an application.",
        (Reply(204, "Deleted. What it got for itself is refused within a second; users' sessions stay."),),
        tag="Clients",
        errors=(Code.NOT_FOUND, Code.VERSION_CONFLICT),
        description="For admins.",
    ),
)
