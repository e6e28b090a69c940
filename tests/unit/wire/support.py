"""A gate that remembers what it is asked and answers what a test says, and a client that needs no network."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

from starlette.types import ASGIApp, Message

from roost.authz.gate import Gate
from roost.authz.identity import Identity
from roost.authz.logins import Logins
from roost.authz.policy.model import Action
from roost.authz.principal import Caller, Principal
from roost.core.commands import Accepted, AppendLog, Change, Idempotency, Op, Push, Result, Written
from roost.core.events import Device, Document, Event, Head
from roost.core.ids import DEFINITIONS
from roost.core.moment import NOW as PRESENT
from roost.core.moment import Moment
from roost.core.ports import DocumentRef, History, Log, Page, Point, Snapshot
from roost.crypto.signing import SigningKeys
from roost.settings import Settings
from roost.wire.http import build
from roost.wire.request import Context

AT = datetime(2026, 1, 31, 12, 0, 5, 250_000, UTC)
HEAD = Head("ada", 9, 2, AT, AT, {"preferences": 1})
VALUE = b'{"theme":"dark"}'
UI = "/v1/users/ada/docs/preferences/ui"
JSON = {"content-type": "application/json"}
DEFINED = Document(DEFINITIONS, "carts", 3, b'{"conflict":"merge"}', AT)


def document(value: bytes | None = VALUE, version: int = 7, key: str = "ui") -> Document:
    return Document("preferences", key, version, value, AT)


def event(seq: int = 7, value: bytes | None = VALUE, key: str = "ui") -> Event:
    return Event(seq, "delete" if value is None else "put", "preferences", key, value, AT, "user:ada")


def accepted(*events: Event, created: bool = False, replayed: bool = False) -> Accepted:
    written = tuple(Written(one, created) for one in events)
    return Accepted(9, written, replayed=replayed)


class NoLogins:
    """Nobody logs in in these tests, and no session is ended."""

    @contextmanager
    def watch(self, principal: Principal, ended: Callable[[], None]) -> Iterator[None]:
        yield


class Gatekeeper(Gate):
    """Stands in for the gate. `outcomes` has what a method gives, or raises, in place of what is usual here."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.principals: list[Principal] = []
        self.outcomes: dict[str, Any] = {}
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    def _answer(self, method: str, caller: Caller, usual: Any, *asked: Any) -> Any:
        self.principals.append(caller.principal)
        self.asked.append((method, *asked))
        outcome = self.outcomes.get(method, usual)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def enter(self, caller: Caller, action: Action, user: str | None = None) -> None:
        self._answer("enter", caller, None, action, user)

    async def change(self, caller: Caller, change: Change) -> Accepted:
        events = [event(8 + index, None if op.kind == "delete" else VALUE) for index, op in enumerate(change.ops)]
        return self._answer("change", caller, accepted(*events), change)  # type: ignore[no-any-return]

    async def create_user(self, caller: Caller, user: str) -> tuple[Head, bool]:
        return self._answer("create_user", caller, (HEAD, True), user)  # type: ignore[no-any-return]

    async def append_log(self, caller: Caller, command: AppendLog) -> Accepted:
        return self._answer("append_log", caller, accepted(), command)  # type: ignore[no-any-return]

    async def document(self, caller: Caller, ref: DocumentRef, moment: Moment = PRESENT) -> Point:
        return self._answer("document", caller, Point(9, document()), ref, moment)  # type: ignore[no-any-return]

    async def page(
        self,
        caller: Caller,
        user: str,
        collection: str,
        prefix: str,
        after: str | None,
        limit: int,
        moment: Moment = PRESENT,
    ) -> Page:
        page = Page(HEAD, [document()], more=False)
        return self._answer("page", caller, page, user, collection, prefix, after, limit, moment)  # type: ignore[no-any-return]

    async def snapshot(self, caller: Caller, user: str, moment: Moment = PRESENT) -> Snapshot:
        return self._answer("snapshot", caller, Snapshot(HEAD, 9, [document()]), user, moment)  # type: ignore[no-any-return]

    async def history(self, caller: Caller, ref: DocumentRef, before: int | None, limit: int) -> History:
        history = History(HEAD, [event()], more=False)
        return self._answer("history", caller, history, ref, before, limit)  # type: ignore[no-any-return]

    async def log(
        self,
        caller: Caller,
        user: str,
        after: int,
        limit: int,
        collections: list[str] | None,
        wait_s: float = 0,
    ) -> Log:
        log = self._answer("log", caller, Log(HEAD, [event()], 7), user, after, limit, collections, wait_s)
        if log == "never":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        return log  # type: ignore[no-any-return]

    async def head(self, caller: Caller, user: str) -> Head:
        return self._answer("head", caller, HEAD, user)  # type: ignore[no-any-return]

    async def users(self, caller: Caller, after: str | None, limit: int) -> list[Head]:
        return self._answer("users", caller, [HEAD], after, limit)  # type: ignore[no-any-return]

    async def push(self, caller: Caller, push: Push) -> Accepted:
        results = tuple(Result(mutation.number, "applied", 10) for mutation in push.mutations)
        return self._answer("push", caller, Accepted(10, results=results), push)  # type: ignore[no-any-return]

    async def devices(self, caller: Caller, user: str) -> list[Device]:
        devices = [Device("laptop", 0, 3, AT), Device("phone", 7, 9, AT, AT)]
        return self._answer("devices", caller, devices, user)  # type: ignore[no-any-return]

    async def define(self, caller: Caller, op: Op, idempotency: Idempotency | None) -> Accepted:
        return self._answer("define", caller, accepted(event(4, op.argument)), op, idempotency)  # type: ignore[no-any-return]

    async def definition(self, caller: Caller, collection: str) -> Point:
        return self._answer("definition", caller, Point(9, DEFINED), collection)  # type: ignore[no-any-return]

    async def definitions(self, caller: Caller, after: str | None, limit: int) -> Page:
        page = Page(HEAD, [DEFINED], more=False)
        return self._answer("definitions", caller, page, after, limit)  # type: ignore[no-any-return]

    async def ready(self) -> None:
        return self._answer("ready", Caller(Principal("admin", "nobody")), None)  # type: ignore[no-any-return]


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and code of a problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        assert self.json["request_id"] == self.headers["roost-request-id"]
        return self.status, self.json["code"]


@functools.cache
def signing_key(folder: Path) -> SigningKeys:
    return SigningKeys.load_or_create(folder)


@dataclass
class Server:
    """The application with a gatekeeper, and requests to it."""

    folder: Path
    settings: Settings = field(default_factory=Settings)
    pages: Sequence[tuple[str, bytes, bytes]] = ()
    gate: Gatekeeper = field(default_factory=Gatekeeper)

    def __post_init__(self) -> None:
        self.identity = Identity(signing_key(self.folder), now=AT.timestamp)
        logins = cast("Logins", NoLogins())
        context = Context.of(self.gate, self.identity, logins, self.settings, lambda: AT, set())
        self.app: ASGIApp = build(context, self.pages)
        self.token = self.identity.issue("user", "ada", 60)

    def issue(self, kind: Literal["user", "service", "admin"], name: str) -> str:
        return self.identity.issue(kind, name, 60)

    def __call__(  # a request has that many parts
        self,
        method: str,
        target: str,
        body: Any = b"",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        token: str | None = "",
        messages: Sequence[Message] | None = None,
    ) -> Response:
        """One request; `token` is ada's unless given, None for none; `messages` are what is received, not `body`."""
        given = list(headers.items() if isinstance(headers, Mapping) else headers)
        if token is not None:
            given.append(("Authorization", f"Bearer {token or self.token}"))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if messages is None:
            messages = [{"type": "http.request", "body": content, "more_body": False}]
        return asyncio.run(exchange(self.app, method, target, given, messages))

    def get(self, target: str, **headers: str) -> Response:
        return self("GET", target, headers={name.replace("_", "-"): value for name, value in headers.items()})

    @property
    def change(self) -> Change:
        """The last change that the gate was asked for."""
        method, change = self.gate.asked[-1]
        assert method == "change"
        assert isinstance(change, Change)
        return change


async def exchange(
    app: ASGIApp, method: str, target: str, headers: Iterable[tuple[str, str]], messages: Iterable[Message]
) -> Response:
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": "what a server makes of it",
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    pending = iter(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        for message in pending:
            return message
        await asyncio.Event().wait()
        return unreachable()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *parts = sent
    names = [name for name, _ in start["headers"]]
    assert len(names) == len(set(names)), names
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Response(start["status"], found, b"".join(part["body"] for part in parts))


def unreachable() -> NoReturn:
    raise AssertionError
