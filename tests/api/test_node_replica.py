"""The TypeScript replica in Node, on a file, with a real server: killed at any moment, it loses and doubles nothing."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.node import NodeDevice
from tests.support.server import Server

INC = {"collection": "carts", "key": "main", "edits": [{"op": "inc", "path": "/n", "value": 1}]}


def test_two_devices_converge(server: Server, tmp_path: Path) -> None:
    user = "node-two"
    one, other = (NodeDevice(tmp_path / name, server.url, user, server.token(user)) for name in ("one", "other"))
    try:
        for device in (one, other):
            device.ask("edit", **INC)
            device.ask("put", collection="notes", key=device.name, value=[None, True, "ä"])
            device.ask("connect")
        one.ask("synced")
        other.ask("synced")
        one.ask("synced")
        assert one.ask("view") == other.ask("view")
        assert len(one.ask("view")["notes"]) == 2
    finally:
        one.end()
        other.end()


def test_killed_at_any_moment(server: Server, tmp_path: Path) -> None:
    user, file, chance = "node-killed", tmp_path / "file", random.Random(7)
    saved = asked = 0
    for _ in range(6):
        device = NodeDevice(file, server.url, user, server.token(user))
        device.ask("connect")
        upto = chance.randrange(5, 60)
        for _ in range(upto):
            device.say("edit", **INC)
        asked += upto
        for _ in range(chance.randrange(upto)):
            device.heard()
            saved += 1
        device.kill()
    device = NodeDevice(file, server.url, user, server.token(user))
    device.ask("connect")
    device.ask("synced")
    shown = device.ask("view")["carts"]["main"]["n"]
    device.end()
    with server.client() as client:
        assert client.get(f"/v1/users/{user}/docs/carts/main").json() == {"n": shown}
        history = client.get(f"/v1/users/{user}/events", params={"limit": 1000}).json()["events"]
    assert saved <= shown <= asked
    assert len(history) == shown, "each once"
