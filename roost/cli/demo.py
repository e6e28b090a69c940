"""`roost demo`: a page with two devices of one person. `roost shop`: half a minute of a shop's customers.

So a newcomer sees sync and conflicts, or logs and history, at work. Either has a server of its own, which lives in a
temporary directory for as long as it is needed; the shop also comes to the one that --url names.
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
    from roost.client.exchange import Token as Bearer

CONNECTIONS = 24
FOLLOWED = 4
CART_VERSIONS = 10
START_S_MAX = 60
STOP_S_MAX = 30


class Story(msgspec.Struct):
    """What was seen, for the summary. `began` holds each customer's seq before the shop wrote anything."""

    customers: int
    began: dict[str, int] = {}
    documents: int = 0
    events: int = 0
    seconds: float = 0.0
    conflicts_met: int = 0
    conflicts_solved: int = 0
    followed: int = 0
    follower_agrees: bool = False
    user: str = ""
    cart: list[PastVersion] = []
    moments: list[Snapshot] = []


def demo(
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser, where there is one.")
    ] = True,
) -> None:
    """Show two devices of one person side by side, each with an offline switch, until Ctrl-C.

    The server is started for it, in a temporary directory, and stopped at its end.
    """
    from roost.cli import demo_page
    from roost.node.signals import Stopped, stopped_by_signals

    with contextlib.suppress(Stopped), stopped_by_signals(), own_server() as (url, issue):
        demo_page.show(url, issue, browser=browser)


def shop(
    customers: Annotated[int, typer.Option(help="How many customers the shop has.", min=10, max=1_000_000)] = 3_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same customers and visits.")] = 1,
    *,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Let a shop's customers loose on a server, and show what became of it.

    Without --url, a server is started for them, in a temporary directory, and stopped at the end.
    """
    from roost.cli.connection import credential
    from roost.cli.refusals import refusals

    try:
        with contextlib.ExitStack() as stack:
            if url is None and profile == DEFAULT_PROFILE:
                url, issue = stack.enter_context(own_server())
                token = issue("--service", "shop")
            found = resolve(url, token, profile)
            with refusals():
                story = asyncio.run(_play(found.url, credential(found, profile), customers, seed))
            _tell(story)
    except KeyboardInterrupt:
        fail("Interrupted.", code=130)


@contextlib.contextmanager
def own_server() -> Iterator[tuple[str, Callable[..., str]]]:
    """A server in a temporary directory, and what gets its tokens: `issue("--user", "ada")`. Both gone at the end."""
    say("Starting a server of its own …")
    # Settings of other servers stay out of it: this one must never touch their engine or data.
    env = {name: value for name, value in os.environ.items() if not name.startswith("ROOST_")}
    roost = [sys.executable, "-m", "roost"]
    with tempfile.TemporaryDirectory(prefix="roost-demo-") as place:
        data = Path(place) / "data"
        command = [*roost, "serve", "--data", str(data), "--port", "0"]

        def issue(*whom: str) -> str:
            wanted = [*roost, "token", *whom, "--data", str(data)]
            return subprocess.run(wanted, env=env, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603

        log = (Path(place) / "serve.log").open("w+b")
        with log, subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True) as server:  # noqa: S603
            try:
                yield _url_of(server, Path(log.name)), issue
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
    lines = log.read_text().strip().splitlines() or ["it says nothing."]
    return fail(f"The server did not start: {lines[-1].removeprefix('roost: ')}", "See whether `roost serve` does.")


async def _play(url: str, token: Bearer, count: int, seed: int) -> Story:
    """The whole of it, against a running server."""
    from roost.cli.refusals import JOB
    from roost.cli.shop import customers
    from roost.client import Client

    shop = list(customers(seed, count))
    story = Story(count)
    limits = msgspec.structs.replace(JOB, connections=CONNECTIONS + FOLLOWED)
    async with Client(url, token, limits=limits) as client:
        await client.ready()
        started = time.monotonic()
        # The busiest customers are the ones worth following.
        busiest = sorted(shop, key=lambda customer: -len(customer.visits))[:FOLLOWED]
        followers = [Follower(client, customer.user) for customer in busiest]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follower.run()) for follower in followers]
            await _at_once("Customers arrive", shop, lambda customer: _arrive(client, customer, story))
            await _at_once("They shop", shop, lambda customer: _visit(client, customer))
            await _two_devices(client, shop, story)
            story.seconds = time.monotonic() - started
            await _count(client, story)
            story.follower_agrees = all([await follower.agrees() for follower in followers])
            story.followed = sum(len(follower.log) for follower in followers)
            for task in tasks:
                task.cancel()
        await _look_back(client, max(followers, key=lambda follower: len(follower.log)).user, story)
    return story


class Follower:
    """Another device of a customer: it reads nothing but the log, as it grows."""

    def __init__(self, client: Client, user: str) -> None:
        self.user = user
        self.log: list[Event] = []
        self._client = client
        self._after = 0
        self._grown = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        self._after = (await self._client.user(self.user).create()).seq
        async for event in self._client.user(self.user).follow(self._after):
            self.log.append(event)
            self._grown.set()

    async def agrees(self) -> bool:
        """Whether each event came once and in order, and what they add up to is what the server has."""
        head = await self._client.user(self.user).get()
        while self._after + len(self.log) < head.seq:
            self._grown.clear()
            await self._grown.wait()
        documents: dict[tuple[str, str], Any] = {}
        for event in self.log:
            documents[event.collection, event.key] = event.value
            if event.kind == "delete":
                del documents[event.collection, event.key]
        snapshot = await self._client.user(self.user).snapshot()
        in_order = [event.seq for event in self.log] == list(range(self._after + 1, head.seq + 1))
        return in_order and all(
            snapshot.docs[collection][key].value == value for (collection, key), value in documents.items()
        )


async def _arrive(client: Client, customer: Customer, story: Story) -> None:
    batch = client.user(customer.user).batch()
    for collection, key, value in customer.documents:
        batch.put(collection, key, value)
    story.began[customer.user] = (await batch.commit()).seq - len(batch)


async def _visit(client: Client, customer: Customer) -> None:
    for act in customer.visits:
        await act(client.user(customer.user))


async def _two_devices(client: Client, shop: list[Customer], story: Story) -> None:
    from roost.cli.shop import PRODUCTS, two_devices

    async def meet(customer: Customer) -> None:
        met, kept = await two_devices(client.user(customer.user), PRODUCTS[0], PRODUCTS[7])
        story.conflicts_met += met
        story.conflicts_solved += kept and met

    await _at_once("Two devices, one cart", [it for it in shop if it.two_devices], meet)


async def _count(client: Client, story: Story) -> None:
    async for info in client.users(page_size=1_000):
        if info.user in story.began:
            story.events += info.seq - story.began[info.user]
            story.documents += sum(info.collections.values())


async def _look_back(client: Client, user: str, story: Story) -> None:
    """One customer's cart through its versions, and everything they had at four moments."""
    found = client.user(user)
    story.user = user
    story.cart = [version async for version in found.docs("carts").history("main")]
    first, last = story.began[user], (await found.get()).seq
    for quarter in (1, 2, 3, 4):
        story.moments.append(await found.snapshot(at_seq=first + (last - first) * quarter // 4))


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
    history = Table(title=f"\nHistory: the cart of {story.user}, newest version first", title_justify="left")
    for name in ("version", "when", "by", "holds", "total"):
        history.add_column(name, justify="right" if name in ("version", "total") else "left")
    for version in story.cart[:CART_VERSIONS]:
        row = (str(version.version), f"{version.at:%H:%M:%S}", version.actor)
        history.add_row(*row, *_cart(version.value))
    console.print(history)
    then = Table(title=f"\nTime travel: everything of {story.user}, as it was", title_justify="left")
    for name in ("at seq", "theme", "street", "wishes", "orders", "cart", "total"):
        then.add_column(name, justify="left" if name in ("theme", "street", "cart") else "right")
    for moment in story.moments:
        then.add_row(*_moment(moment))
    console.print(then)
    console.print("\nNext: `make run` starts a server that stays; `roost --help` shows how to look into it.")


def _cart(cart: Any) -> tuple[str, str]:
    """A cart in words, and what it costs."""
    from roost.cli.shop import total

    if cart is None:
        return "– (bought)", ""
    return ", ".join(f"{item['quantity']} {item['name']}" for item in cart["items"]), f"{total(cart):.2f}"


def _moment(snapshot: Snapshot) -> tuple[str, ...]:
    docs = snapshot.docs
    cart = docs.get("carts", {}).get("main")
    return (
        str(snapshot.seq),
        docs["preferences"]["ui"].value["theme"] if "ui" in docs.get("preferences", {}) else "",
        docs["addresses"]["home"].value["street"] if "home" in docs.get("addresses", {}) else "",
        str(len(docs.get("wishes", {}))),
        str(len(docs.get("orders", {}))),
        *_cart(cart and cart.value),
    )


def register(app: typer.Typer) -> None:
    """Add `demo` and `shop`."""
    panel = "Try it"
    app.command(rich_help_panel=panel, epilog=examples("roost demo"))(demo)
    app.command(
        rich_help_panel=panel,
        epilog=examples("roost shop", "roost shop --customers 500 --url http://127.0.0.1:8080"),
    )(shop)
