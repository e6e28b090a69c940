"""`roost demo`: half a minute of a shop's customers, so that a newcomer sees logs, conflicts and history at work.

It drives a server through the public client only: the one that --url names, or one of its own that lives in a
temporary directory for as long as the demo does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from roost.cli.output import examples, fail, say
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Token, Url, resolve

if TYPE_CHECKING:
    from roost.cli.shop import Customer
    from roost.client import Client, Event, PastVersion, Snapshot

CONNECTIONS = 24
FOLLOWED = 4
START_S_MAX = 60
STOP_S_MAX = 30


class Story(msgspec.Struct):
    """What the demo saw, for its summary."""

    customers: int
    documents: int = 0
    events: int = 0
    seconds: float = 0.0
    conflicts_met: int = 0
    conflicts_solved: int = 0
    followed: int = 0
    follower_agrees: bool = False
    user: str = ""
    cart: list[PastVersion] = []
    before: Snapshot | None = None
    after: Snapshot | None = None


def demo(
    customers: Annotated[int, typer.Option(help="How many customers the shop has.", min=10, max=1_000_000)] = 3_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same customers and visits.")] = 1,
    *,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Let a shop's customers loose on a server, and show what became of it.

    Without --url, a server is started for the demo, in a temporary directory, and stopped at its end.
    """
    from roost.cli.connection import refusals

    try:
        with contextlib.ExitStack() as stack:
            if url is None and profile == DEFAULT_PROFILE:
                say("Starting a server of its own …")
                url, token = stack.enter_context(own_server())
            found = resolve(url, token, profile)
            with refusals():
                story = asyncio.run(_play(found.url, found.token, customers, seed))
            _tell(story)
    except KeyboardInterrupt:
        fail("Interrupted.", code=130)


@contextlib.contextmanager
def own_server() -> Iterator[tuple[str, str]]:
    """A server in a temporary directory, with a token of the service `shop`; both gone at the end."""
    # Settings of other servers stay out of it: this one must never touch their engine or data.
    env = {name: value for name, value in os.environ.items() if not name.startswith("ROOST_")}
    roost = [sys.executable, "-m", "roost"]
    with tempfile.TemporaryDirectory(prefix="roost-demo-") as place:
        data = Path(place) / "data"
        command = [*roost, "serve", "--data", str(data), "--port", "0"]
        log = (Path(place) / "serve.log").open("w+b")
        with log, subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True) as server:  # noqa: S603
            try:
                url = _url_of(server, Path(log.name))
                issue = [*roost, "token", "--service", "shop", "--data", str(data)]
                token = subprocess.run(issue, env=env, check=True, capture_output=True, text=True)  # noqa: S603
                yield url, token.stdout.strip()
            finally:
                server.send_signal(signal.SIGTERM)
                try:
                    server.wait(STOP_S_MAX)
                except subprocess.TimeoutExpired:
                    server.kill()


def _url_of(server: subprocess.Popen[bytes], log: Path) -> str:
    """Where the server says that it serves, once it says so."""
    give_up = time.monotonic() + START_S_MAX
    while time.monotonic() < give_up and server.poll() is None:
        if found := re.search(r"http://[^\s/]+:\d+", log.read_text()):
            return found[0]
        time.sleep(0.05)
    lines = log.read_text().strip().splitlines() or ["it says nothing"]
    fail(f"The demo's server did not start: {lines[-1].removeprefix('roost: ')}", "Give a running one with --url.")


async def _play(url: str, token: str | None, count: int, seed: int) -> Story:
    """The whole demo against a running server."""
    from roost.cli.connection import JOB
    from roost.cli.shop import customers
    from roost.client import Client

    shop = list(customers(seed, count))
    story = Story(count)
    limits = msgspec.structs.replace(JOB, connections=CONNECTIONS + FOLLOWED)
    async with Client(url, token, limits=limits) as client:
        await client.ready()
        began = time.monotonic()
        # The busiest customers are worth following: their logs get the most events.
        watched = sorted(shop, key=lambda customer: -len(customer.visits))[:FOLLOWED]
        first = {customer.user: (await client.user(customer.user).create()).seq for customer in watched}
        logs: dict[str, list[Event]] = {user: [] for user in first}
        followers = [asyncio.create_task(_follow(client, user, first[user], logs[user])) for user in first]
        try:
            await _at_once("Customers arrive", shop, lambda customer: _arrive(client, customer))
            await _at_once("They shop", shop, lambda customer: _shop(client, customer))
            await _two_devices(client, shop, story)
            story.seconds = time.monotonic() - began
            await _count(client, shop, story)
            story.follower_agrees = await _agrees(client, first, logs)
            story.followed = sum(map(len, logs.values()))
        finally:
            for task in followers:
                task.cancel()
            await asyncio.gather(*followers, return_exceptions=True)
        await _look_back(client, watched[0].user, story)
    return story


async def _arrive(client: Client, customer: Customer) -> None:
    batch = client.user(customer.user).batch()
    for collection, key, value in customer.documents:
        batch.put(collection, key, value)
    await batch.commit()


async def _shop(client: Client, customer: Customer) -> None:
    for act in customer.visits:
        await act(client.user(customer.user))


async def _two_devices(client: Client, shop: list[Customer], story: Story) -> None:
    from roost.cli.shop import PRODUCTS, two_devices

    async def meet(customer: Customer) -> None:
        met, kept = await two_devices(client.user(customer.user), PRODUCTS[0], PRODUCTS[7])
        story.conflicts_met += met
        story.conflicts_solved += kept and met

    await _at_once("Two devices, one cart", [it for it in shop if it.two_devices], meet)


async def _follow(client: Client, user: str, after: int, log: list[Event]) -> None:
    async for event in client.user(user).follow(after):
        log.append(event)


async def _agrees(client: Client, first: dict[str, int], logs: dict[str, list[Event]]) -> bool:
    """Whether the followers saw each event once and in order, and their fold is what the server has."""
    for user, log in logs.items():
        head = await client.user(user).get()
        while first[user] + len(log) < head.seq:
            await asyncio.sleep(0.01)
        if [event.seq for event in log] != list(range(first[user] + 1, head.seq + 1)):
            return False
        documents: dict[tuple[str, str], Any] = {}
        for event in log:
            documents[event.collection, event.key] = event.value
            if event.kind == "delete":
                del documents[event.collection, event.key]
        snapshot = await client.user(user).snapshot()
        if any(snapshot.docs[collection][key].value != value for (collection, key), value in documents.items()):
            return False
    return True


async def _count(client: Client, shop: list[Customer], story: Story) -> None:
    ours = {customer.user for customer in shop}
    async for info in client.users(page_size=1_000):
        if info.user in ours:
            story.events += info.seq
            story.documents += sum(info.collections.values())


async def _look_back(client: Client, user: str, story: Story) -> None:
    found = client.user(user)
    story.user = user
    story.cart = [version async for version in found.docs("carts").history("main")]
    story.after = await found.snapshot()
    # Midway between the first cart and now.
    story.before = await found.snapshot(at_seq=(story.cart[-1].version + story.after.seq) // 2)


async def _at_once(what: str, shop: Iterable[Customer], act: Callable[[Customer], Awaitable[None]]) -> None:
    """`act` for every customer, several at once, with a progress bar."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    shop = list(shop)
    waiting = iter(shop)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{what:22}", total=len(shop))

        async def work() -> None:
            for customer in waiting:
                await act(customer)
                bar.advance(task)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(work())


def _tell(story: Story) -> None:
    """The summary."""
    from rich.console import Console
    from rich.table import Table

    from roost.cli.shop import total

    console = Console(highlight=False, soft_wrap=True)
    rate = story.events / story.seconds
    console.print(
        f"\n[bold]{story.customers:,}[/] customers, each with one ordered log: [bold]{story.events:,}[/] events"
        f" that add up to [bold]{story.documents:,}[/] documents, in {story.seconds:.1f} s ({rate:,.0f} events/s)."
    )
    console.print(
        f"[bold]{story.conflicts_met:,}[/] times two devices wrote one cart at once:"
        f" [bold]{story.conflicts_solved:,}[/] times both edits live on."
    )
    console.print(
        f"Followers saw [bold]{story.followed:,}[/] events of {FOLLOWED} customers live: "
        + ("each once, in order, and they add up to the same documents." if story.follower_agrees else "[red]wrong![/]")
    )
    table = Table(title=f"\nThe history of {story.user}'s cart, newest first", title_justify="left")
    for name in ("version", "when", "who", "what", "total"):
        table.add_column(name, justify="right" if name in ("version", "total") else "left")
    for version in story.cart[:8]:
        cart = version.value
        what = (
            "deleted (ordered)" if cart is None else ", ".join(f"{it['quantity']} {it['name']}" for it in cart["items"])
        )
        cost = "" if cart is None else f"{total(cart):.2f}"
        table.add_row(str(version.version), version.at.strftime("%H:%M:%S.%f"), version.actor, what, cost)
    console.print(table)
    for name, snapshot in (("Now", story.after), ("Then", story.before)):
        if snapshot is not None:
            counts = ", ".join(f"{len(documents)} {collection}" for collection, documents in snapshot.docs.items())
            console.print(f"{name}, at seq {snapshot.seq}: {counts}.")
    console.print(
        "\nLook on: roost serve, then roost users, roost get USER, roost history USER carts main, roost events USER -f."
    )


def register(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command(epilog=examples("roost demo", "roost demo --customers 500 --url http://127.0.0.1:8080"))(demo)
