"""Roost beside an earlier revision of itself: what the changes since then cost, or gained.

Both servers run at the same time, each on its own data, and are loaded by turns, so that what disturbs the machine
disturbs both. Rates are compared within a round.
"""

from __future__ import annotations

import statistics
import subprocess
from contextlib import ExitStack
from pathlib import Path

from bench.drivers import Action, Meter, wrk
from bench.postgres import BenchFailed, running_in
from bench.server import Server

ACTIONS: tuple[Action, ...] = ("put", "get")
FILL_S = 120


def checkout(revision: str, folder: Path) -> Path:
    """The files of a revision, in a folder of their own under `folder`."""
    tree = folder / "tree"
    tree.mkdir()
    packed = subprocess.run(["git", "archive", revision], check=False, capture_output=True)
    if packed.returncode:
        raise BenchFailed(f"git has no revision {revision!r}: {packed.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    return tree


def run(revision: str, folder: Path, *, users: int, rounds: int, seconds: int) -> list[str]:
    """The report, as lines of Markdown. `users` have one document each; a measurement takes `seconds`."""
    ratios: dict[str, list[float]] = {action: [] for action in ACTIONS}
    lines = [
        "| round | | this /s | before /s | ratio | this µs | before µs |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    tree = checkout(revision, folder)
    with ExitStack() as stack:
        sides = [
            stack.enter_context(Server(folder / "this", workers=1)),
            stack.enter_context(Server(folder / "before", workers=1, tree=tree)),
        ]
        for side in sides:
            wrk(side.url, side.token, "fill", users=users, seed=1, seconds=FILL_S)
        for number in range(1, rounds + 1):
            for action in ACTIONS:
                measures = []
                # Each begins every other round: what comes second finds a warmer machine.
                for side in sides if number % 2 else reversed(sides):
                    meter = Meter(side.processes, running_in(side.data).processes)
                    load = wrk(side.url, side.token, action, users=users, seed=number, seconds=seconds)
                    if load.refused or load.broken:
                        raise BenchFailed(f"{action}: {load.refused} answers of 400 and above, {load.broken} broken.")
                    measures.append(meter.read(load))
                now, before = measures if number % 2 else measures[::-1]
                ratios[action].append(now.rate / before.rate)
                rates = f"{now.rate:,.0f} | {before.rate:,.0f} | {ratios[action][-1]:.2f}"
                costs = " | ".join(f"{side.server_us:.0f} + {side.postgres_us:.0f}" for side in (now, before))
                lines.append(f"| {number} | {action.upper()} | {rates} | {costs} |")
                print(lines[-1], flush=True)
    medians = ", ".join(f"{action.upper()} {statistics.median(found):.2f}" for action, found in ratios.items())
    return [*lines, "", f"Median ratios: {medians}. µs are processor time of Roost + PostgreSQL for a request."]
