"""The live scenes: devices that hear of each other's writes, devices that do nothing, devices that were away, pushes.

Each scene is a coroutine against a running server, in this process, so that one clock sees a write leave and arrive.
Writes come at random moments (a Poisson process), whether or not earlier ones are answered: a server that stalls
does not get fewer of them, and its stall is in the figures.
"""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

import asyncpg
import httpx
import msgspec

from bench.devices import Device, Frame, Page, Seen
from bench.grow import VALUE, user_id
from bench.postgres import BenchFailed, Postgres
from bench.processes import Memory, cpu_s, memory_of, peers_of
from bench.server import Server
from roost.core.ids import lane_of
from roost.engines.embedded import DATABASE, ROLE

AT_ONCE = 24
"""Connections that are made at the same time."""
WARM_S = 2.0
"""Load before measuring begins."""
LATE_S = 10.0
"""How long after the last write everything must have arrived."""
SETTLE_S = 3.0
PUSHERS = 100
"""Devices that push at the same time, each as soon as it has its answer."""
SELECT = """
    SELECT seq, kind, collection, key, value, at, actor, device, mutation, clock, beside, edits
    FROM roost.events WHERE lane = $1 AND user_id = $2 ORDER BY seq
"""
"""The rows that a device's events are made of."""


class Live(NamedTuple):
    """What a write took, in milliseconds, each list sorted: to be answered, and to be with the other device."""

    workers: int
    notify: bool
    devices: int
    rate: float
    """Writes a second that were made."""
    answered: list[float]
    near: list[float]
    """Delivered, where the other device hangs on the same worker; `far`: on another."""
    far: list[float]
    server_us: float
    """Processor time a write: of Roost's processes, of PostgreSQL's, of the devices."""
    postgres_us: float
    load_us: float

    @property
    def delivered(self) -> list[float]:
        """Near and far."""
        return sorted(self.near + self.far)

    @property
    def ratio(self) -> float:
        """p50 of delivered to p50 of answered."""
        return quantile(self.delivered, 0.5) / quantile(self.answered, 0.5)

    @property
    def name(self) -> str:
        """What it is called in a table."""
        workers = f"{self.workers} worker{'s' * (self.workers > 1)}"
        return workers if self.notify else f"{workers}, polling"


class Idle(NamedTuple):
    """A worker's memory without WebSockets and with them, and how long they took to connect."""

    sockets: int
    before: Memory
    after: Memory
    seconds: float

    @property
    def kb(self) -> tuple[float, float]:
        """RSS and PSS of each WebSocket."""
        rss, pss = (1024 * (now - then) / self.sockets for now, then in zip(self.after, self.before, strict=True))
        return rss, pss


class CatchUp(NamedTuple):
    """Events a second, by the way they were read; medians."""

    events: int
    rates: dict[str, float]


class Pushes(NamedTuple):
    """A closed loop of pushes of so many mutations each."""

    batch: int
    rate: float
    """Mutations a second."""
    p50_ms: float
    p99_ms: float


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def write_of(number: int, key: str = "ui") -> list[dict[str, Any]]:
    """A mutation's operations: one put of 110 bytes."""
    value = msgspec.Raw((VALUE % (0, number)).encode())
    return [{"op": "put", "collection": "preferences", "key": key, "value": value}]


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do it all at the same time; the first `BenchFailed` ends it."""
    failed: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except* BenchFailed as group_failed:
        failed = group_failed.exceptions[0]
    if failed is not None:
        raise failed


async def connect(server: Server, devices: Sequence[Device], *, after: int | None) -> float:
    """Connect all, `AT_ONCE` at the same time; how long that took, in seconds."""
    tokens = {device.user: server.token_of(device.user) for device in devices}
    waiting = iter(devices)
    began = time.perf_counter()

    async def work() -> None:
        for device in waiting:
            await device.connect(server.url, tokens[device.user], after=after)

    await together(work() for _ in range(AT_ONCE))
    return time.perf_counter() - began


class Writes:
    """Writes under way and what became of them. Times are those of `perf_counter`."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, str, int], float] = {}
        self.awaited: dict[tuple[str, str], list[int]] = {}
        """Numbers of the mutations that each device has no answer to, oldest first."""
        self.answers: dict[tuple[str, str, int], float] = {}
        self.arrivals: dict[tuple[str, str, int], float] = {}
        self.trouble: list[str] = []

    def write(self, device: Device) -> None:
        """Let a device write, now: to a document of its own, so that no policy can set its event aside."""
        frame = device.draft([write_of(device.number, device.name)])
        key = (device.user, device.name, device.number)
        self.awaited.setdefault(key[:2], []).append(device.number)
        self.sent[key] = time.perf_counter()
        device.send(frame)

    def heard(self, device: Device, frame: Frame, now: float) -> None:
        """Take note of what a device is told."""
        if frame.type == "pushed":
            for answer in frame.results:
                number = self.awaited[device.user, device.name].pop(0)
                self.answers[device.user, device.name, number] = now
                if answer.status not in ("applied", "merged"):
                    self.trouble.append(f"a write was {answer.status}")
        elif frame.type == "refused":
            self.trouble.append(f"a push was refused: {frame.code}")
        elif frame.type == "events":
            for event in frame.events:
                if event.device and event.mutation and event.device != device.name:
                    key = (device.user, event.device, event.mutation)
                    if key in self.sent and self.arrivals.setdefault(key, now) != now:
                        self.trouble.append("an event came twice")

    def forget(self) -> None:
        """Begin anew; everything must be settled."""
        for times in (self.sent, self.answers, self.arrivals):
            times.clear()

    async def settle(self) -> None:
        """Wait until everything is answered and delivered; raises `BenchFailed` if it is not."""
        until = time.perf_counter() + LATE_S
        while (len(self.answers), len(self.arrivals)) != (len(self.sent), len(self.sent)):
            if time.perf_counter() > until:
                missing = len(self.sent) - len(self.answers), len(self.sent) - len(self.arrivals)
                self.trouble.append(f"of {len(self.sent)}, {missing[0]} writes unanswered, {missing[1]} undelivered")
                break
            await asyncio.sleep(0.05)
        if self.trouble:
            raise BenchFailed(f"Live: {len(self.trouble)} troubles, first: {self.trouble[0]}.")


async def live(server: Server, postgres: Postgres, *, users: int, rate: int, seconds: float, notify: bool) -> Live:
    """Two devices of each user, `rate` writes a second by all together, each of which the user's other device gets."""
    writes = Writes()
    devices = [Device(user_id(number), name, writes.heard) for number in range(users) for name in ("laptop", "phone")]
    await connect(server, devices, after=0)
    place = {peer: pid for pid in server.worker_processes() for peer in peers_of(pid)}
    worker = {(device.user, device.name): place.get(device.port) for device in devices}
    randomly = random.Random(1)
    await _load(writes, devices, randomly, rate, WARM_S)
    writes.forget()
    gc.collect()
    gc.freeze()
    before = _cpu(server, postgres)
    began = time.perf_counter()
    await _load(writes, devices, randomly, rate, seconds)
    costs = [1e6 * (now - then) / len(writes.sent) for now, then in zip(_cpu(server, postgres), before, strict=True)]
    made = len(writes.sent) / (max(writes.sent.values()) - began)
    for device in devices:
        device.close()
    split: dict[bool, list[float]] = {True: [], False: []}
    for (user, name, number), arrived in writes.arrivals.items():
        same = worker[user, "laptop"] == worker[user, "phone"]
        split[same].append(1000 * (arrived - writes.sent[user, name, number]))
    answered = sorted(1000 * (at - writes.sent[key]) for key, at in writes.answers.items())
    return Live(server.workers, notify, len(devices), made, answered, sorted(split[True]), sorted(split[False]), *costs)


async def _load(writes: Writes, devices: list[Device], randomly: random.Random, rate: int, seconds: float) -> None:
    """Writes by one device after another, in an order without meaning, at random moments."""
    end = due = time.perf_counter()
    end += seconds
    order: list[Device] = []
    while (due := due + randomly.expovariate(rate)) < end:
        wait_s = due - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        if not order:
            order = randomly.sample(devices, len(devices))
        writes.write(order.pop())
    await writes.settle()


def _cpu(server: Server, postgres: Postgres) -> tuple[float, float, float]:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return cpu_s(server.processes()), cpu_s(postgres.processes()), own.ru_utime + own.ru_stime


async def idle(server: Server, count: int) -> Idle:
    """Devices of so many users follow their logs, in which nothing happens; what each costs a worker's memory."""
    (pid,) = server.worker_processes()
    before = memory_of(pid)
    devices = [Device(user_id(number), "phone") for number in range(count)]
    seconds = await connect(server, devices, after=0)
    await asyncio.sleep(SETTLE_S)
    after = memory_of(pid)
    gone = [device.closed for device in devices if device.closed]
    if gone:
        raise BenchFailed(f"Of {count} idle WebSockets, {len(gone)} were let go, first: {gone[0]}.")
    for device in devices:
        device.close()
    return Idle(count, before, after, seconds)


async def catch_up(server: Server, postgres: Postgres, *, events: int, rounds: int) -> CatchUp:
    """A device that has read nothing of a log reads it all, by each way; against a SELECT of the same rows."""
    user = "behind"
    writer = Device(user, "writer")
    token = server.token_of(user)
    await writer.connect(server.url, token, after=None)
    while writer.number < events:
        mutations = [write_of(writer.number + at, f"k{at:03d}") for at in range(100)]
        await writer.push(mutations)
    writer.close()
    ways: dict[str, Callable[[], Awaitable[int]]] = {
        "WebSocket": lambda: _by_websocket(server, token, user),
        "SSE": lambda: _by_sse(server, token, user),
        "pages of 1,000": lambda: _by_pages(server, token, user),
        "SELECT": lambda: _by_select(postgres, user),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            seen = await way()
            rates[name].append(events / (time.perf_counter() - began))
            if seen != events:
                raise BenchFailed(f"Catching up by {name}: {seen} of {events} events.")
    return CatchUp(events, {name: quantile(sorted(each), 0.5) for name, each in rates.items()})


async def _by_websocket(server: Server, token: str, user: str) -> int:
    seen = 0

    def heard(_: Device, frame: Frame, __: float) -> None:
        nonlocal seen
        seen += len(frame.events)

    device = Device(user, "reader", heard)
    await device.connect(server.url, token, after=0)
    device.close()
    return seen


async def _by_sse(server: Server, token: str, user: str) -> int:
    headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
    seen, rest = 0, b""
    async with (
        httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client,
        client.stream("GET", f"/v1/users/{user}/events", params={"after": 0}) as answer,
    ):
        async for chunk in answer.aiter_raw():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line == b"event: live":
                    return seen
                if line.startswith(b"data:"):
                    msgspec.json.decode(line[5:], type=Seen)
                    seen += 1
    return seen


async def _by_pages(server: Server, token: str, user: str) -> int:
    seen = after = 0
    async with httpx.AsyncClient(base_url=server.url, headers={"authorization": f"Bearer {token}"}) as client:
        while True:
            answer = await client.get(f"/v1/users/{user}/events", params={"after": after, "limit": 1000})
            page = msgspec.json.decode(answer.raise_for_status().content, type=Page)
            if not page.events:
                return seen
            seen, after = seen + len(page.events), page.seq


async def _by_select(postgres: Postgres, user: str) -> int:
    connection = await asyncpg.connect(host=str(postgres.socket), port=postgres.port, user=ROLE, database=DATABASE)
    try:
        rows = await connection.fetch(SELECT, lane_of(user), user)
    finally:
        await connection.close()
    return len(rows)


async def pushes(server: Server, *, batch: int, seconds: float) -> Pushes:
    """Devices push `batch` mutations at a time, as fast as they are answered, and follow their logs."""
    devices = [Device(user_id(number), f"pusher-{batch}") for number in range(PUSHERS)]
    await connect(server, devices, after=0)
    times: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def run(device: Device) -> None:
        while (start := time.perf_counter()) < end:
            frame = await device.push([write_of(device.number + at) for at in range(batch)])
            if len(frame.results) != batch:
                raise BenchFailed(f"A push of {batch} got {len(frame.results)} answers.")
            times.append(time.perf_counter() - start)

    await together(run(device) for device in devices)
    rate = batch * len(times) / (time.perf_counter() - began)
    for device in devices:
        device.close()
    times.sort()
    return Pushes(batch, rate, 1000 * quantile(times, 0.5), 1000 * quantile(times, 0.99))
