"""`roost policy`: check, try out and explain policies, on this machine; put them in force on a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roost.cli.output import PANEL, examples, fail, say, show_line
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Token, Url

if TYPE_CHECKING:
    import httpx

    from roost.authz.policy.cases import Case
    from roost.authz.policy.policies import Policies

_NOT_LET_IN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A file of Cedar policies.", dir_okay=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the text.")]
Given = Annotated[
    list[Path] | None,
    typer.Option("--policy", metavar="FILE", help="Policies to try beside those that ship; may be repeated."),
]

commands = typer.Typer(help="Check, try out and explain who may do what; put policies in force.", no_args_is_help=True)


@commands.command(epilog=examples("roost policy check night.cedar"))
def check(file: File) -> None:
    """Look for mistakes in a file of policies. The status is 1 if there are any."""
    from roost.authz.policy import check as checking

    with _faults():
        policies = checking.read(file.stem, _text(file))
    for policy in policies:
        say(f"{policy.id}: line {policy.line}, {policy.json['effect']}s")
    say(f"{len(policies)} policies, no mistakes.")


@commands.command(
    "test", epilog=examples("roost policy test cases.toml", "roost policy test cases.toml --policy a.cedar")
)
def try_out(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file of cases (TOML): see the guide on policies.", dir_okay=False)
    ],
    policy: Given = None,
) -> None:
    """Try cases out: who does what to whom, and what should be decided. The status is 1 if one is decided otherwise."""
    from roost.authz.policy import cases as trying

    with _faults():
        found = trying.read(_text(file))
        own = [*(file.parent / name for name in found.policies), *(policy or [])]
        wrong = 0
        for number, case in enumerate(found.case, 1):
            policies = _policies(own, case)
            answer = trying.ask(policies, case)
            if (difference := trying.wrong(case, answer)) is not None:
                wrong += 1
                say(f"case {number}: {difference}")
                for line in trying.explain(policies, case, answer):
                    say(f"  {line}")
    say(
        f"{len(found.case)} cases, {wrong} decided otherwise."
        if wrong
        else f"{len(found.case)} cases, all as expected."
    )
    if wrong:
        raise typer.Exit(1)


@commands.command(
    epilog=examples(
        "roost policy why user:ada read bob/notes",
        'roost policy why support:ann read ada/cards --purpose "ticket 7" --privacy sensitive',
        "roost policy why service:billing erase ada --scope payments:read",
        "roost policy why admin define --server",
    )
)
def why(
    principal: Annotated[
        str,
        typer.Argument(metavar="PRINCIPAL", help="Who: user:ada, service:billing, support:ann, analyst:bo, admin."),
    ],
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="What: read, write, see, erase, export, define, audit, …")
    ],
    resource: Annotated[
        str, typer.Argument(metavar="RESOURCE", help="Whose: ada/notes or ada; nothing for what is no user's.")
    ] = "roost",
    *,
    purpose: Annotated[str | None, typer.Option(help="What they say that it is for.", show_default=False)] = None,
    address: Annotated[str, typer.Option(help="Where they ask from.", show_default=False)] = "",
    device: Annotated[str | None, typer.Option(help="On which device.", show_default=False)] = None,
    scope: Annotated[list[str] | None, typer.Option(help="A scope of the token; may be repeated.")] = None,
    privacy: Annotated[str | None, typer.Option(help="The collection's privacy.", show_default="personal")] = None,
    at: Annotated[str | None, typer.Option(help="When: 2026-11-22T03:00:00Z.", show_default="now")] = None,
    policy: Given = None,
    server: Annotated[
        bool, typer.Option("--server", help="With the policies and definitions of a running server.")
    ] = False,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Tell whether a request would be allowed, and which policies decide. The status is 1 if it would not be."""
    import msgspec

    from roost.authz.policy import cases as trying
    from roost.authz.policy.model import ACTIONS

    told: dict[str, object] = {"principal": principal, "action": action, "resource": resource}
    told |= {"purpose": purpose, "address": address}
    told |= {"device": device, "scopes": scope, "at": at, "privacy": privacy}
    texts: dict[str, str] = {}
    with _faults():
        if server:
            with _connected(url, token, profile) as http:
                texts = {item["name"]: item["text"] for item in _every(http, "/v1/policies")}
                told["privacy"] = privacy or _privacy(http, resource)
        if action not in ACTIONS:
            raise trying.BadCase(f"An action is one of {', '.join(ACTIONS)}.")
        try:
            case = msgspec.convert({name: value for name, value in told.items() if value is not None}, trying.Case)
        except msgspec.ValidationError as error:
            raise trying.BadCase(f"{error}.") from None
        policies = _policies(policy or [], case, texts)
        answer = trying.ask(policies, case)
    for line in trying.explain(policies, case, answer):
        typer.echo(line)
    if not answer.allowed:
        raise typer.Exit(1)


@commands.command("list", epilog=examples("roost policy list"))
def list_(url: Url = None, token: Token = None, profile: ProfileName = DEFAULT_PROFILE) -> None:
    """List the texts that were put in force on a server, a line each. For admins."""
    with _connected(url, token, profile) as http:
        for item in _every(http, "/v1/policies"):
            show_line(item)


@commands.command(epilog=examples("roost policy put night night.cedar"))
def put(name: Name, file: File, url: Url = None, token: Token = None, profile: ProfileName = DEFAULT_PROFILE) -> None:
    """Put a file of policies in force on a server, under a name. For admins."""
    with _connected(url, token, profile) as http:
        headers = {"content-type": "text/plain"}
        _answered(http.put(f"/v1/policies/{name}", content=_text(file).encode(), headers=headers))
    say(f"The policies {name!r} are in force.")


@commands.command(epilog=examples("roost policy remove night"))
def remove(name: Name, url: Url = None, token: Token = None, profile: ProfileName = DEFAULT_PROFILE) -> None:
    """Take policies out of force on a server. For admins."""
    with _connected(url, token, profile) as http:
        response = http.delete(f"/v1/policies/{name}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            fail(f"There are no policies {name!r}.", "`roost policy list` shows what there is.")
        _answered(response)
    say(f"The policies {name!r} are out of force.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands, name="policy", rich_help_panel=PANEL)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {error}.")


def _policies(files: list[Path], case: Case, texts: dict[str, str] | None = None) -> Policies:
    """What ships, and what is given, at the time of a case."""
    import os

    from roost.authz.policy import cases as trying
    from roost.authz.policy import check as checking
    from roost.authz.policy.policies import Policies, from_directory
    from roost.settings import Settings

    settings = Settings.from_env(os.environ)
    own = from_directory(settings.policy_dir)
    for name, text in {**{file.stem: _text(file) for file in files}, **(texts or {})}.items():
        own += checking.read(name, text)
    return Policies(settings.region, lambda: trying.clock_of(case), own)


@contextmanager
def _faults() -> Iterator[None]:
    """End the command with what is wrong in policies or cases."""
    from roost.authz.policy.cases import BadCase
    from roost.authz.policy.check import PolicyFaults

    try:
        yield
    except PolicyFaults as faults:
        for fault in faults.faults:
            say(f"{faults.name}, {fault}")
        fail(f"The policies {faults.name!r} have mistakes.", "See docs/guides/policies.md.")
    except BadCase as error:
        fail(str(error), "See `roost policy why --help`.")


@contextmanager
def _connected(url: str | None, token: str | None, profile: str) -> Iterator[httpx.Client]:
    import httpx

    from roost.cli.connection import connect
    from roost.cli.profile import resolve
    from roost.cli.refusals import refusals

    found = resolve(url, token, profile)
    with refusals(), connect(url, token, profile) as client:
        bearer = client.bearer()
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    try:
        with httpx.Client(base_url=found.url, headers=headers, timeout=20) as http:
            yield http
    except httpx.HTTPError as error:
        fail(f"{found.url} does not answer: {error}.", "Is the server running (`roost serve`), and is --url right?")


def _answered(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = f"The server answered {response.status_code}."
        fail(detail, "`roost token --admin` makes a token for this." if response.status_code in _NOT_LET_IN else "")
    return response


def _every(http: httpx.Client, path: str) -> Iterator[dict[str, str]]:
    after: str | None = None
    while True:
        page = _answered(http.get(path, params={"after": after} if after else {})).json()
        yield from page["items"]
        if (after := page["next"]) is None:
            return


def _privacy(http: httpx.Client, resource: str) -> str | None:
    """How private a server has the collection of a resource; None where it is not defined."""
    _, _, collection = resource.partition("/")
    if not collection:
        return None
    response = http.get(f"/v1/collections/{collection}")
    return None if response.status_code == HTTPStatus.NOT_FOUND else _answered(response).json().get("privacy")
