"""`make bench`: Roost over HTTP and pgbench on the same PostgreSQL, turn by turn; then its live side, by WebSockets.

Over HTTP (`make bench ARGS=http`) there are four scenes: a thousand documents, a hundred thousand with one worker and
with two, a million. In each, rounds of `pgbench -N`, PUT, `pgbench -S` and strong GET, so that what disturbs the
machine disturbs both sides. Rates are compared within a round, then the median of the rounds is taken.

The live scenes (`make bench ARGS=live`): devices that hear of each other's writes, with one worker, with two, and with
two that do not wake each other; devices that do nothing; a device that was away; pushes as fast as they go.

Beside an earlier revision (`make bench ARGS="beside --revision REV"`): PUT and GET of both, by turns.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvloop

from bench import beside, live, livereport
from bench.drivers import CLIENTS, CONNECTIONS, Action, Measure, Meter, Pgbench, find_wrk, wrk
from bench.grow import grow
from bench.postgres import BenchFailed, Postgres, running_in
from bench.report import Round, Scene, machine, write
from bench.server import Server

SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")
FILL_S = 120
"""The longest that writing the first users through the API may take."""
BEHIND_EVENTS = 10_000
BATCHES = (1, 10, 100)
FILES_BESIDES = 500
"""Open files besides those of idle WebSockets."""


class Bench:
    """One run, in a throw-away folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._data = folder / "data"
        self._folder = folder
        self._options = options
        self._pgbench: Pgbench | None = None
        self._seed = 0
        self._filled = ""
        self.scenes: list[Scene] = []
        self.notes: list[str] = []
        self.acknowledged = 0
        """PUTs that wrk counted as answered, and how many more may have been under way when it stopped."""
        self.under_way = 0

    def run(self) -> None:
        """All scenes, smallest first; each grows the same database."""
        few, some, many = self._options.documents
        with Server(self._data, workers=1) as server:
            postgres = self._begin(server, some)
            self._fill(server, few)
            self._scene(server, few, 2)
            self._fill(server, some)
            self.notes.append(self._filled)
            self._scene(server, some, self._options.rounds)
        with Server(self._data, workers=2) as server:
            self._scene(server, some, self._options.rounds)
        if many > some:
            with Server(self._data, workers=1) as server:
                postgres = running_in(self._data)
                say(f"Growing to {many:,} documents with COPY")
                grow(postgres, self._data, self._folder, some, many)
                self._scene(server, many, 2)
                self._check(postgres, many - some)
        else:
            with Server(self._data, workers=1):
                self._check(running_in(self._data), 0)

    def close(self) -> None:
        """Forget what pgbench left."""
        if self._pgbench:
            self._pgbench.close()

    def _begin(self, server: Server, rows: int) -> Postgres:
        postgres = running_in(server.data)
        values = ", ".join(f"{name} = {postgres.query(f'SHOW {name}')}" for name in SETTINGS)
        self.notes += [
            machine(),
            f"One PostgreSQL under both: {values}",
            f"Roost: wrk, {CONNECTIONS} connections, 110-byte values, users at random; GET is strong",
            f"pgbench: {CLIENTS} clients, prepared, {rows:,} accounts in a database of its own, unix socket",
            f"Medians of {self._options.rounds} rounds (2 at the ends), {self._options.seconds} s each",
        ]
        self._pgbench = Pgbench(postgres, rows)
        return postgres

    def _fill(self, server: Server, users: int) -> None:
        say(f"Writing {users:,} users through the API")
        measure = self._load(server, "fill", users, FILL_S)
        self._filled = f"First writes of new users through the API, 1 worker: {measure.rate:,.0f}/s"

    def _scene(self, server: Server, documents: int, rounds: int) -> None:
        assert self._pgbench
        postgres = self._pgbench.postgres = running_in(self._data)
        taken = []
        for number in range(1, rounds + 1):
            seconds = self._options.seconds
            measures: dict[str, Measure] = {}
            for kind, load in (
                ("-N", partial(self._pgbench.measure, "-N", seconds=seconds)),
                ("put", partial(self._load, server, "put", documents, seconds)),
                ("-S", partial(self._pgbench.measure, "-S", seconds=seconds)),
                ("get", partial(self._load, server, "get", documents, seconds)),
            ):
                meter = Meter(server.processes, postgres.processes)
                measures[kind] = meter.read(load())
            taken.append(Round(measures))
            rates = "  ".join(f"{kind} {measure.rate:,.0f}/s" for kind, measure in measures.items())
            say(f"{documents:>9,} documents, {server.workers} worker(s), round {number} of {rounds}: {rates}")
        self.scenes.append(Scene(documents, server.workers, taken, server.memory()))

    def _load(self, server: Server, action: Action, users: int, seconds: int) -> Measure:
        self._seed += 1
        measure = wrk(server.url, server.token, action, users=users, seed=self._seed, seconds=seconds)
        if measure.refused or measure.broken:
            raise BenchFailed(
                f"{action}: {measure.refused} answers of 400 and above, {measure.broken} broken connections."
            )
        if action != "get":
            self.acknowledged += measure.requests
            self.under_way += CONNECTIONS
        return measure

    def _check(self, postgres: Postgres, copied: int) -> None:
        """Every acknowledged PUT is an event, and no more events than were asked for."""
        events = int(postgres.query("SELECT count(*) FROM roost.events")) - copied
        heads = int(postgres.query("SELECT sum(seq) FROM roost.users")) - copied
        lanes = int(postgres.query("SELECT sum(pos) FROM roost.lanes")) - copied
        if not (self.acknowledged <= events <= self.acknowledged + self.under_way and events == heads == lanes):
            raise BenchFailed(
                f"{self.acknowledged} PUTs were acknowledged; events {events}, heads {heads}, lanes {lanes}."
            )
        self.notes.append(f"All {self.acknowledged:,} acknowledged PUTs are in the logs; events, heads and lanes agree")


class LiveBench:
    """One run of the live scenes, in a folder of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._data = folder / "live"
        self._options = options
        self.results = livereport.Results()

    def run(self) -> None:
        """All scenes; the users that they need come first."""
        results = self.results
        _allow_files(self._options.sockets + FILES_BESIDES)
        with Server(self._data, workers=1) as server:
            postgres = running_in(self._data)
            values = ", ".join(f"{name} = {postgres.query(f'SHOW {name}')}" for name in SETTINGS)
            results.notes += [machine(), f"PostgreSQL: {values}"]
            wrk(server.url, server.token, "fill", users=self._options.sockets, seed=1, seconds=FILL_S)
        with Server(self._data, workers=1) as server:
            results.idle = uvloop.run(live.idle(server, self._options.sockets))
            say(f"{results.idle.sockets:,} idle WebSockets: {results.idle.kb[0]:.1f} kB each")
        with Server(self._data, workers=1) as server:
            self._live(server, notify=True)
            catch_up = live.catch_up(server, running_in(self._data), events=BEHIND_EVENTS, rounds=self._options.rounds)
            results.catch_up = uvloop.run(catch_up)
            say("Catching up: " + "  ".join(f"{way} {rate:,.0f}/s" for way, rate in results.catch_up.rates.items()))
            for batch in BATCHES:
                pushes = uvloop.run(live.pushes(server, batch=batch, seconds=self._options.seconds / 2))
                say(f"Pushes of {batch}: {pushes.rate:,.0f} mutations/s")
                results.pushes.append(pushes)
        with Server(self._data, workers=2) as server:
            self._live(server, notify=True)
        with Server(self._data, workers=2, notify="false") as server:
            self._live(server, notify=False)

    def _live(self, server: Server, *, notify: bool) -> None:
        users, rate, seconds = self._options.devices // 2, self._options.rate, self._options.seconds
        postgres = running_in(self._data)
        for number in range(1, (self._options.rounds if notify else 1) + 1):
            scene = uvloop.run(live.live(server, postgres, users=users, rate=rate, seconds=seconds, notify=notify))
            self.results.live.append(scene)
            answered, delivered = (live.quantile(times, 0.5) for times in (scene.answered, scene.delivered))
            say(
                f"{scene.devices:,} devices, {scene.rate:,.0f} writes/s, {server.workers} worker(s)"
                f"{'' if notify else ' that poll'}, round {number}: answered {answered:.1f} ms, "
                f"delivered {delivered:.1f} ms, ratio {scene.ratio:.2f}"
            )


def _allow_files(count: int) -> None:
    """Let this process, and the server that it starts, have so many files open: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and hard < count:
        raise BenchFailed(f"{count:,} open files are needed, and `ulimit -Hn` says {hard:,}: try fewer --sockets.")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def say(line: str) -> None:
    """Tell whoever waits."""
    print(line, flush=True)


def arguments() -> argparse.Namespace:
    """What the run is to be like."""
    parser = argparse.ArgumentParser("make bench ARGS=…", description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=("all", "http", "live", "beside"), default="all", help="which scenes (all)"
    )
    parser.add_argument("--revision", default="HEAD", help="of `beside`: what this tree is put beside (%(default)s)")
    parser.add_argument("--seconds", type=int, default=7, help="length of each measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the main scenes (%(default)s)")
    parser.add_argument(
        "--documents",
        type=lambda text: sorted(int(number) for number in text.split(",")),
        default=[1_000, 100_000, 1_000_000],
        help="sizes: small, main, large (1000,100000,1000000)",
    )
    parser.add_argument("--devices", type=int, default=1_000, help="that hear of each other's writes (%(default)s)")
    parser.add_argument("--rate", type=int, default=500, help="their writes a second (%(default)s)")
    parser.add_argument("--sockets", type=int, default=10_000, help="idle WebSockets (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"), help="where results go")
    parser.add_argument("--keep", action="store_true", help="keep the data directory and say where it is")
    options = parser.parse_args()
    if len(options.documents) != 3:
        parser.error("--documents takes three numbers")
    return options


def on_signal(stop: Callable[[int], NoReturn]) -> None:
    """Let SIGTERM end the run as Ctrl-C does: through every `finally`."""

    def handler(number: int, _: FrameType | None) -> None:
        stop(128 + number)

    signal.signal(signal.SIGTERM, handler)


def main() -> int:
    """Run it all; 0 if the measuring worked, whatever the figures are."""
    options = arguments()
    on_signal(sys.exit)
    folder = Path(tempfile.mkdtemp(prefix="roost-bench-"))
    bench = None
    began = time.monotonic()
    try:
        find_wrk()
        if options.what == "beside":
            users = options.documents[0]
            report = beside.run(options.revision, folder, users=users, rounds=options.rounds, seconds=options.seconds)
            say("\n".join(["", *report]))
            return 0
        if options.what != "live":
            bench = Bench(folder, options)
            bench.run()
            bench.notes.append(f"The run took {time.monotonic() - began:.0f} s")
            say("\n" + write(options.results, bench.scenes, bench.notes))
            say(f"Written: {options.results / 'latest.md'}, latest.json and latest.png\n")
        if options.what != "http":
            began = time.monotonic()
            live_bench = LiveBench(folder, options)
            live_bench.run()
            live_bench.results.notes.append(f"The run took {time.monotonic() - began:.0f} s")
            say("\n" + livereport.write(options.results, live_bench.results))
            say(f"Written: {options.results / 'live.md'}, live.json and live.png")
    except BenchFailed as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if bench is not None:
            bench.close()
        if options.keep:
            say(f"Kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
