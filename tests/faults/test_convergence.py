"""Replicas in Python, Node and Chromium, two workers, and connections that are cut at random: all come to the same.

What a server, the devices and the network between them do, they do as real processes. The server is killed once, and so
is each device; what they are told to do, and when they are cut off, is drawn from a seed. In the end the state is
the same on all of them, byte by byte, and everything that a device had saved has counted exactly once.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pytest

from tests.support.chromium import ChromiumDevice, chromium
from tests.support.driven import PythonDevice
from tests.support.node import NodeDevice, program
from tests.support.server import Server, until
from tests.support.tcp import TcpProxy

USER = "ada"
POLICIES = {"cards": "cas", "carts": "merge", "notes": "siblings", "settings": "lww"}
STEPS = 150


class Proxy:
    """A proxy that runs in a thread of its own, because devices are waited for here."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._inner = TcpProxy(port)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    @contextmanager
    def running(self) -> Iterator[str]:
        """It runs inside, and is reached at the URL."""
        self._thread.start()
        self._ready.wait(30)
        try:
            yield self._inner.url
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
            self._loop.close()

    def cut(self) -> None:
        """Cut every connection."""
        self._loop.call_soon_threadsafe(self._inner.cut)

    def be_up(self, up: bool) -> None:
        """Let nobody in, or everybody again."""
        self._loop.call_soon_threadsafe(self._set, up)

    def _set(self, up: bool) -> None:
        if up:
            self._inner.up = True
        else:
            self._inner.down()

    async def _run(self) -> None:
        async with self._inner.running():
            self._ready.set()
            await self._stop.wait()
        await asyncio.sleep(0)  # what was cut last is closed in the loop's next turn


class Driven(Protocol):
    def ask(self, do: str, **more: Any) -> Any: ...
    def kill(self) -> None: ...
    def end(self) -> None: ...


class Device:
    """A device behind a proxy; `make` starts it, with what an earlier one of the name has kept."""

    def __init__(self, name: str, proxy: Proxy, make: Callable[[], Driven]) -> None:
        self.name = name
        self.proxy = proxy
        self.up = True
        self._make = make
        self._driven = make()

    def ask(self, do: str, **more: Any) -> Any:
        return self._driven.ask(do, **more)

    def die(self) -> None:
        """End at once, and begin again."""
        self._driven.kill()
        if isinstance(self._driven, ChromiumDevice):
            self._driven.again()
        else:
            self._driven = self._make()

    def end(self) -> None:
        self._driven.end()


def is_same(devices: list[Device], server: Server) -> bool:
    """Whether all have the same state, as canonical JSON, byte by byte."""
    with server.client() as client:
        snapshot = client.get(f"/v1/users/{USER}/docs").json()["docs"]
    states = [{name: {key: each["value"] for key, each in docs.items()} for name, docs in snapshot.items()}]
    states += [device.ask("view") for device in devices]
    return len({canonical(state) for state in states}) == 1


def canonical(state: Any) -> bytes:
    return json.dumps(state, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class People:
    """What is done on the devices, at random. `counted` and `added` are what has to be there in the end."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._words = 0
        self.counted = 0
        self.added: set[str] = set()

    def act(self, device: Device) -> None:
        """One edit, saved once this returns."""
        random = self._random
        self._words += 1
        word = f"{device.name} {self._words} ä"
        name = {"collection": random.choice(sorted(POLICIES)), "key": random.choice("ab")}
        verb = random.choice(["count", "count", "gather", "set", "set", "put", "add", "remove", "unset", "delete"])
        tally = {"collection": "carts", "key": "tally"}
        if verb == "count":
            by = random.randint(1, 9)
            device.ask("edit", **tally, edits=[{"op": "inc", "path": "/n", "value": by}])
            self.counted += by
        elif verb == "gather":
            device.ask("edit", **tally, edits=[{"op": "add", "path": "/s", "value": word}])
            self.added.add(word)
        elif verb == "put":
            device.ask("put", **name, value={"a": word, "o": {"x": self._words}})
        elif verb == "delete":
            device.ask("delete", **name)
        else:
            device.ask("edit", **name, edits=[self._edit(verb, word)])

    def _edit(self, verb: str, word: str) -> dict[str, Any]:
        if verb == "set":
            return {"op": "set", "path": self._random.choice(["/a", "/o/x", "/o/y"]), "value": word}
        if verb == "unset":
            return {"op": "unset", "path": self._random.choice(["/a", "/o/x"])}
        return {"op": verb, "path": "/s", "value": self._random.choice(["milk", "tea", "salt"])}


def converge(server: Server, devices: list[Device], seed: int) -> None:
    random = Random(seed)
    people = People(random)
    deaths = dict(zip(random.sample(range(STEPS), len(devices)), devices, strict=True))
    outage = random.randrange(STEPS // 3, STEPS // 2)
    back = outage + 15
    for step in range(STEPS):
        if step == outage:
            server.kill()
        if step == back:
            server.start()
        if step in deaths:
            deaths[step].die()
        device = random.choice(devices)
        people.act(device)
        chance = random.random()
        if chance < 0.1:
            device.proxy.cut()
        elif chance < 0.15:
            device.up = not device.up
            device.proxy.be_up(device.up)
        elif chance < 0.25 and device.up and not outage <= step < back:
            device.ask("synced")
    for device in devices:
        device.proxy.be_up(True)
    for device in devices:
        device.ask("synced")
    until(lambda: is_same(devices, server), 60, "all have the same")
    tally = devices[0].ask("view")["carts"]["tally"]
    assert tally["n"] == people.counted
    assert sorted(tally["s"]) == sorted(people.added)


@contextmanager
def setting(
    folder: Path, makes: dict[str, Callable[[Path, str, str], Driven]]
) -> Iterator[tuple[Server, list[Device]]]:
    """A server with two workers, and devices, each behind a proxy of its own."""
    with ExitStack() as stack:
        server = stack.enter_context(Server(folder / "data", workers=2, policies=json.dumps(POLICIES)))
        devices = []
        for name, make in makes.items():
            proxy = Proxy(server.port)
            url = stack.enter_context(proxy.running())
            made = Device(name, proxy, partial(make, folder / name, url, server.token(USER)))
            stack.callback(made.end)
            devices.append(made)
        yield server, devices
        server.verify()
        assert server.stop() == 0


def python(file: Path, url: str, token: str) -> Driven:
    return PythonDevice(file, url, USER, token)


def node(file: Path, url: str, token: str) -> Driven:
    device = NodeDevice(file, url, USER, token)
    device.ask("connect")
    return device


def test_replicas_in_python(tmp_path: Path) -> None:
    with setting(tmp_path, {"one": python, "two": python, "three": python}) as (server, devices):
        converge(server, devices, 1)


def test_replicas_in_python_and_node(tmp_path: Path) -> None:
    program()
    with setting(tmp_path, {"python": python, "node": node, "other": node}) as (server, devices):
        converge(server, devices, 2)


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 12))])
def test_replicas_in_python_and_node_and_chromium(tmp_path: Path, seed: int) -> None:
    program()
    with chromium() as browser:

        def page(_: Path, url: str, token: str) -> Driven:
            return ChromiumDevice(browser, url, USER, token)

        with setting(tmp_path, {"python": python, "node": node, "chromium": page}) as (server, devices):
            converge(server, devices, seed)
