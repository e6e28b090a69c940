"""Commands on users' documents and logs, and on collections, against a running server."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roost.cli.output import PANEL, examples, fail, say, show, show_line
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Token, Url
from roost.cli.serve import seconds
from roost.core import jsonvalue
from roost.core.definitions import Audit, Policy, Privacy
from roost.core.errors import RoostError as CoreError
from roost.core.limits import Limits

if TYPE_CHECKING:
    from roost.client import Event, Members, SyncClient, SyncUser

User = Annotated[str, typer.Argument(help="Whose log.", metavar="USER", show_default=False)]
Collection = Annotated[str, typer.Argument(help="Such as preferences.", metavar="COLLECTION", show_default=False)]
Key = Annotated[str, typer.Argument(help="The document's key.", metavar="KEY", show_default=False)]
Value = Annotated[
    str, typer.Argument(metavar="JSON", help="As JSON; - or nothing reads standard input.", show_default=False)
]
IfVersion = Annotated[
    int | None, typer.Option(help="Only over this version; 0: only if there is none.", show_default=False)
]
Limit = Annotated[int | None, typer.Option(help="At most so many.", min=1, show_default="all")]


def get(
    user: User,
    collection: Annotated[str | None, typer.Argument(metavar="COLLECTION", show_default=False)] = None,
    key: Annotated[str | None, typer.Argument(metavar="KEY", show_default=False)] = None,
    *,
    at_seq: Annotated[int | None, typer.Option(help="As it was at this seq.", show_default=False)] = None,
    at: Annotated[
        str | None, typer.Option(help="As it was at this time, such as 2026-11-22T10:00.", show_default=False)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="With version, seq and time, not only the value.")] = False,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Show a document; without KEY, a collection; without COLLECTION, everything that a user has."""
    moment = _moment(at)
    with _server(url, token, profile) as client:
        found = client.user(user)
        if collection is not None and key is not None:
            document = found.docs(collection).get(key, at_seq=at_seq, at=moment)
            if document is None:
                fail(f"There is no {collection}/{key} of {user}.", f"`roost get {user}` shows what there is.")
            show(document if full else document.value)
            return
        snapshot = found.snapshot(at_seq=at_seq, at=moment)
        if collection is not None:
            documents = snapshot.docs.get(collection, {})
            if not documents:  # as after a typo, which no refusal tells of
                say(f"There is nothing in {collection} of {user}; `roost get {user}` shows what there is.")
            show(documents if full else {key: document.value for key, document in documents.items()})
        elif full:
            show(snapshot)
        else:
            show({name: {key: it.value for key, it in docs.items()} for name, docs in snapshot.docs.items()})


def put(
    user: User,
    collection: Collection,
    key: Key,
    value: Value = "-",
    *,
    if_version: IfVersion = None,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only if there is no document.")] = False,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Write a document."""
    given = _json(value)
    with _server(url, token, profile) as client:
        document = client.user(user).docs(collection).put(key, given, if_version=if_version, if_absent=if_absent)
        show({"version": document.version, "seq": document.seq})


def patch(
    user: User,
    collection: Collection,
    key: Key,
    value: Value = "-",
    *,
    if_version: IfVersion = None,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Change a document, and show it: an object is a merge patch (RFC 7396), an array a JSON Patch (RFC 6902)."""
    given = _json(value)
    with _server(url, token, profile) as client:
        docs = client.user(user).docs(collection)
        if isinstance(given, list):
            show(docs.patch(key, given, if_version=if_version).value)
        else:
            show(docs.merge(key, given, if_version=if_version).value)


def edit(
    user: User,
    collection: Collection,
    key: Key,
    value: Value = "-",
    *,
    if_version: IfVersion = None,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Change a document field by field, and show it: JSON is one edit or an array of them."""
    given = _json(value)
    with _server(url, token, profile) as client:
        edits = given if isinstance(given, list) else [given]
        show(client.user(user).docs(collection).edit(key, edits, if_version=if_version).value)


def siblings(
    user: User,
    collection: Collection,
    key: Key,
    *,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """List all values of a document that stand side by side, the newest last, a line each."""
    with _server(url, token, profile) as client:
        for sibling in client.user(user).docs(collection).siblings(key):
            show_line(sibling)


def delete(
    user: User,
    collection: Collection,
    key: Key,
    *,
    if_version: IfVersion = None,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Delete a document. Its history stays."""
    with _server(url, token, profile) as client:
        found = client.user(user)
        version = found.docs(collection).delete(key, if_version=if_version)
        show({"version": version, "seq": found.seq})


def history(
    user: User,
    collection: Collection,
    key: Key,
    *,
    limit: Limit = None,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """List a document's versions, newest first, a line each."""
    with _server(url, token, profile) as client:
        versions = client.user(user).docs(collection).history(key)
        for version in itertools.islice(versions, limit):
            show_line(version)


def events(
    user: User,
    *,
    after: Annotated[int, typer.Option(help="Only events after this seq.", min=0)] = 0,
    limit: Limit = None,
    collections: Annotated[
        str | None, typer.Option(help="Only of these collections: carts,wishes", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new event, until Ctrl-C.")] = False,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """List a user's log in order, an event a line."""
    names = collections.split(",") if collections else None
    with _server(url, token, profile) as client:
        found = client.user(user)
        stream = found.follow(after, collections=names) if follow else _log(found, after, names)
        for event in itertools.islice(stream, limit):
            show_line(event)


def users(
    user: Annotated[str | None, typer.Argument(metavar="USER", help="Only this one.", show_default=False)] = None,
    *,
    limit: Limit = None,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """List users, a line each, or show where one user's log stands."""
    with _server(url, token, profile) as client:
        if user is not None:
            show(client.user(user).get())
            return
        for info in itertools.islice(client.users(), limit):
            show_line(info)


def conflicts(
    user: User,
    *,
    dismiss: Annotated[str | None, typer.Option(metavar="ID", help="Dismiss this one.", show_default=False)] = None,
    limit: Limit = None,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """List what conflicts between devices have set aside, oldest first, a line each."""
    with _server(url, token, profile) as client:
        if dismiss is not None:
            client.user(user).dismiss(dismiss)
            return
        for conflict in itertools.islice(client.user(user).conflicts(), limit):
            show_line(conflict)


def collections(
    collection: Annotated[str | None, typer.Argument(metavar="COLLECTION", show_default=False)] = None,
    *,
    conflict: Annotated[
        Policy | None, typer.Option(help="What happens to writes that have not seen each other.", show_default=False)
    ] = None,
    privacy: Annotated[Privacy | None, typer.Option(help="Whom its documents concern.", show_default=False)] = None,
    audit: Annotated[Audit | None, typer.Option(help="What is put on record.", show_default=False)] = None,
    queryable: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Members kept in clear, for SQL: a,b", show_default=False)
    ] = None,
    masked: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Members that support does not see: a,b", show_default=False)
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How long after its last write a document goes: 12h, 30d, never.", show_default=False
        ),
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            "--history", metavar="TIME", help="How long history is kept: 12h, 30d, forever.", show_default=False
        ),
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Take its definition away.")] = False,
    if_version: IfVersion = None,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """List the collections that are defined, a line each, or show or define one: what is not said stays as it is."""
    members = _members(conflict, privacy, audit, queryable, masked, ttl, history)
    if (collection is None and (members or default)) or (members and default):
        fail("Name one collection, and what to define or --default.", "See `roost collections --help`.", code=2)
    with _server(url, token, profile) as client:
        if collection is None:
            for each in client.collections():
                show_line(each)
        elif members:
            show(client.define(collection, if_version=if_version, **members))
        elif default:
            client.undefine(collection, if_version=if_version)
        elif (found := client.collection(collection)) is not None:
            show(found)
        else:
            fail(f"{collection} is not defined.", "The server's settings say what happens there.")


@contextmanager
def _server(url: str | None, token: str | None, profile: str) -> Iterator[SyncClient]:
    """The server to talk to; what it refuses ends the command. Loaded late, so that `roost --help` is quick."""
    from roost.cli.connection import connect
    from roost.cli.refusals import refusals

    with refusals(), connect(url, token, profile) as client:
        yield client


def _members(
    conflict: Policy | None,
    privacy: Privacy | None,
    audit: Audit | None,
    queryable: str | None,
    masked: str | None,
    ttl: str | None,
    history: str | None,
) -> Members:
    """What is to be defined of a collection."""
    members: Members = {}
    if conflict is not None:
        members["conflict"] = conflict
    if privacy is not None:
        members["privacy"] = privacy
    if audit is not None:
        members["audit"] = audit
    if queryable is not None:
        members["queryable"] = [name for name in queryable.split(",") if name]
    if masked is not None:
        members["masked"] = [name for name in masked.split(",") if name]
    if ttl is not None:
        members["ttl_s"] = None if ttl == "never" else seconds(ttl)
    if history is not None:
        members["history_s"] = None if history == "forever" else seconds(history)
    return members


def _log(user: SyncUser, after: int, collections: list[str] | None) -> Iterator[Event]:
    """All events that there are now."""
    while True:
        log = user.events(after, collections=collections)
        yield from log.events
        if log.seq == after:
            return
        after = log.seq


def _json(text: str) -> Any:
    """A JSON value from an argument or, for `-`, from standard input."""
    body = text.encode("utf-8", "surrogateescape")
    if text == "-":
        if sys.stdin.isatty():
            fail("A JSON value is needed.", "Give it as the last argument, or on standard input.", code=2)
        body = sys.stdin.buffer.read()
    try:
        return jsonvalue.decode(body, Limits())
    except CoreError as error:
        hint = "" if text == "-" else """In a shell, quote it twice: '"dark"', '{"theme": "dark"}'."""
        fail(f"This is not a JSON value: {error.detail}", hint, code=2)


def _moment(text: str | None) -> datetime | None:
    """A time as people write it; without a zone, this machine's is meant."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        fail(f"{text!r} is not a time.", "Write it as 2026-11-22T10:00 or 2026-11-22T10:00:00Z.", code=2)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command, lines in _EXAMPLES.items():
        app.command(rich_help_panel=PANEL, epilog=examples(*lines))(command)


_EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {
    get: (
        "roost get ada",
        "roost get ada preferences ui",
        "roost get ada preferences ui --at-seq 12",
        "roost get ada carts --at 2026-11-22T10:00",
    ),
    put: (
        """roost put ada preferences ui '{"theme": "dark"}'""",
        "roost put ada preferences ui - < ui.json",
        """roost put ada carts main '{"items": []}' --if-version 7""",
    ),
    patch: (
        """roost patch ada preferences ui '{"theme": null, "size": 12}'""",
        """roost patch ada wishes list '[{"op": "add", "path": "/-", "value": "tea"}]'""",
    ),
    edit: (
        """roost edit ada carts main '{"op": "inc", "path": "/apples", "value": 2}'""",
        """roost edit ada wishes list '[{"op": "add", "path": "/tags", "value": "tea"}]'""",
    ),
    delete: ("roost delete ada preferences ui",),
    siblings: ("roost siblings ada notes n",),
    history: ("roost history ada preferences ui --limit 5",),
    events: ("roost events ada", "roost events ada --after 12 --collections carts,wishes", "roost events ada --follow"),
    users: ("roost users", "roost users ada"),
    conflicts: ("roost conflicts ada", "roost conflicts ada --dismiss 0000000000000045"),
    collections: (
        "roost collections",
        "roost collections carts --conflict merge",
        "roost collections carts --privacy sensitive --audit reads --ttl 90d",
        "roost collections carts --default",
    ),
}
