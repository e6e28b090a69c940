"""`roost bench`: a short load through the Python client against a running server.

It tells what one client process sees, its own work included; `make bench` measures the server itself, with a
compiled load generator beside the engine's own limit.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from roost.cli.output import PANEL, examples, say, show_line
from roost.cli.profile import DEFAULT_PROFILE, ProfileName, Token, Url

if TYPE_CHECKING:
    from roost.client import Client

KEYS = 10
"""Documents that each user of the load has."""


class Measured(msgspec.Struct, frozen=True):
    """What one phase reached. Times in milliseconds, per call, as the caller sees them."""

    operation: str
    calls: int
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def bench(
    seconds: Annotated[float, typer.Option(help="How long each phase lasts.", min=0.1, max=3600.0)] = 5.0,
    connections: Annotated[int, typer.Option(help="Calls under way at once.", min=1, max=1024)] = 16,
    users: Annotated[int, typer.Option(help="Users to spread the load over.", min=1)] = 1_000,
    value_bytes: Annotated[int, typer.Option(help="Size of a value.", min=16, max=200_000)] = 110,
    *,
    url: Url = None,
    token: Token = None,
    profile: ProfileName = DEFAULT_PROFILE,
) -> None:
    """Put a short load on a running server: writes, reads, then both.

    It leaves the users bench-0, bench-1, … behind.
    """
    from roost.cli.connection import connect_async
    from roost.cli.refusals import PERSON, refusals

    limits = msgspec.structs.replace(PERSON, connections=connections)
    with refusals():
        results = asyncio.run(
            _run(connect_async(url, token, profile, limits), seconds, connections, users, value_bytes)
        )
    if not sys.stdout.isatty():
        for result in results:
            show_line(result)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("operation", *(("calls", "per second", "p50 ms", "p99 ms", "max ms")))
    for column in table.columns[1:]:
        column.justify = "right"
    for it in results:
        numbers = (f"{it.calls:,}", f"{it.per_second:,.0f}", f"{it.p50_ms:.1f}", f"{it.p99_ms:.1f}", f"{it.max_ms:.1f}")
        table.add_row(it.operation, *numbers)
    Console().print(table)


async def _run(client: Client, seconds: float, connections: int, users: int, value_bytes: int) -> list[Measured]:
    rng = random.Random(1)  # noqa: S311  # which document, not a secret
    value = {"text": "x" * (value_bytes - len('{"text":""}'))}

    def docs() -> Any:
        return client.user(f"bench-{rng.randrange(users)}").docs("bench")

    def key() -> str:
        return f"k{rng.randrange(KEYS)}"

    async def put() -> None:
        await docs().put(key(), value)

    async def get() -> None:
        await docs().get(key())

    async def mixed() -> None:
        await (put() if rng.random() < 0.2 else get())  # noqa: PLR2004  # one in five

    async with client:
        await client.ready()
        results = []
        for name, call in (("put", put), ("get", get), ("4 get : 1 put", mixed)):
            say(f"{name} for {seconds:g} s …")
            results.append(await _measure(name, call, seconds, connections))
        return results


async def _measure(name: str, call: Callable[[], Awaitable[None]], seconds: float, connections: int) -> Measured:
    took: list[float] = []
    began = time.perf_counter()

    async def work() -> None:
        while (start := time.perf_counter()) < began + seconds:
            await call()
            took.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    elapsed = time.perf_counter() - began
    took.sort()
    at = [1e3 * took[min(len(took) - 1, int(share * len(took)))] for share in (0.5, 0.99, 1.0)]
    return Measured(name, len(took), round(len(took) / elapsed, 1), *(round(ms, 3) for ms in at))


def register(app: typer.Typer) -> None:
    """Add `bench`."""
    app.command(
        rich_help_panel=PANEL,
        epilog=examples("roost bench", "roost bench --seconds 2 --connections 64 --value-bytes 1000"),
    )(bench)
