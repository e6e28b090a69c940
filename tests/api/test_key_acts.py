"""Who changes keys is on record, whichever process does so: commands beside two workers, the workers, the start."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from roost.crypto.ledger import Entry, Ledger
from tests.support.server import Server, until

AT = datetime(2026, 1, 31, tzinfo=UTC)
LEDGER = "shredded.jsonl"
BY_ROOST = ("roost", "roost", "")
BY_COMMAND = (f"operator:{pwd.getpwuid(os.geteuid()).pw_name}", "operator", socket.gethostname())


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("acts") / "data", workers=2) as server:
        with server.client() as admin:
            assert admin.put("/v1/collections/strict", json={"conflict": "lww", "audit": "strict"}).is_success
            for user in ("ada", "bob", "cyd"):
                assert admin.put(f"/v1/users/{user}/docs/strict/k", json=user).is_success
        yield server


def acts(server: Server) -> list[dict[str, Any]]:
    """Changes of keys, as they are on record."""
    with server.client() as admin:
        page = admin.get("/v1/audit", params={"action": "keys", "limit": 1000}).raise_for_status().json()
        return list(page["records"])


def by(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["actor"], record["kind"], record.get("address", "")


def kek(server: Server) -> str:
    """The key-encryption key, which there is one of."""
    (key,) = json.loads((server.data / "keyring.json").read_text())["keys"]
    return str(key["id"])


def keys(server: Server, *command: str) -> str:
    """What a command says that has to succeed."""
    done = server.run("keys", *command, "--data", str(server.data))
    assert done.returncode == 0, done.stderr
    return done.stdout


def whole(server: Server) -> None:
    verified = server.run("audit", "verify", "--data", str(server.data))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def sql(server: Server, statement: str) -> list[Any]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(server.engine_url)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    return asyncio.run(run())


def test_the_first_start_is_the_first_record(acting: Server) -> None:
    adopted = acts(acting)[0]
    assert (adopted["n"], by(adopted)) == (1, BY_ROOST)
    assert adopted["detail"].startswith("adopt ")


def test_each_command_is_on_record_with_who_and_where(acting: Server, tmp_path: Path) -> None:
    known, first = len(acts(acting)), kek(acting)
    keys(acting, "rotate")
    second = kek(acting)
    keys(acting, "rotate-user", "ada")
    with acting.client() as admin:
        assert admin.delete("/v1/users/bob").is_success
    keys(acting, "shred")
    third = kek(acting)
    Ledger(tmp_path / LEDGER).add([Entry("cyd", AT)])
    keys(acting, "replay", "--ledger", str(tmp_path / LEDGER))
    assert "nothing to seal anew" in keys(acting, "reseal")
    assert acting.run("keys", "rotate-user", "nobody", "--data", str(acting.data)).returncode == 1
    signing = keys(acting, "rotate-signing").removeprefix("Tokens are signed with the key ").rstrip(".\n")
    told = acts(acting)[known:]
    assert [(record["detail"], record.get("user"), record["outcome"]) for record in told] == [
        (f"rotate {first} to {second}", None, "allowed"),
        (f"destroy {first}", None, "allowed"),
        ("rotate-user begun", "ada", "allowed"),
        ("rotate-user ended: 2", "ada", "allowed"),
        ("shred begun", None, "allowed"),
        (f"rotate {second} to {third}", None, "allowed"),
        (f"destroy {second}", None, "allowed"),
        (f"shred ended: {third}", None, "allowed"),
        ("replay begun", None, "allowed"),
        ("erase 1 users again", None, "allowed"),
        ("replay ended: 1", None, "allowed"),
        ("rotate-user begun", "nobody", "allowed"),
        ("rotate-user failed", "nobody", "failed"),
        ("rotate-signing begun", None, "allowed"),
        (f"rotate-signing ended: {signing}", None, "allowed"),
    ]
    assert {by(record) for record in told} == {BY_COMMAND}
    listed = acting.run("audit", "--actor", BY_COMMAND[0], "--url", acting.url, "--token", acting.admin())
    assert [json.loads(line)["detail"] for line in listed.stdout.splitlines()][-len(told) :] == [
        record["detail"] for record in told
    ]
    whole(acting)


def test_what_cannot_be_on_record_is_not_done(acting: Server, tmp_path: Path) -> None:
    with acting.client() as admin:
        assert admin.put("/v1/users/eve/docs/notes/k", json=1).is_success
        assert admin.put("/v1/users/dan/docs/notes/k", json=1).is_success
        assert admin.delete("/v1/users/dan").is_success
    Ledger(tmp_path / LEDGER).add([Entry("eve", AT)])
    files = [acting.data / name for name in ("keyring.json", "signing_key.json", LEDGER)]
    stored = "SELECT user_id, generation, kek, wrapped FROM roost.user_keys ORDER BY 1, 2"
    before = [file.read_bytes() for file in files], sql(acting, stored)
    sql(acting, "ALTER TABLE roost.audit ADD CONSTRAINT broken CHECK (action <> 'keys') NOT VALID")
    replay = ["replay", "--ledger", str(tmp_path / LEDGER)]
    for command in (["rotate"], ["rotate-user", "ada"], ["shred"], replay, ["rotate-signing"]):
        refused = acting.run("keys", *command, "--data", str(acting.data))
        assert refused.returncode == 1
        assert refused.stderr.startswith("roost: This has to be put on record first")
        assert refused.stderr.count("\n") == 1
        assert ([file.read_bytes() for file in files], sql(acting, stored)) == before
    sql(acting, "ALTER TABLE roost.audit DROP CONSTRAINT broken")
    keys(acting, "shred")


def test_commands_and_workers_append_to_one_chain(acting: Server) -> None:
    known, done = len(acts(acting)), threading.Event()
    answered: list[int] = []

    def read() -> None:
        while not done.is_set():
            with acting.client(acting.token("ada")) as ada:
                answered.append(ada.get("/v1/users/ada/docs/strict/k").status_code)

    readers = [threading.Thread(target=read) for _ in range(4)]
    rotations = [threading.Thread(target=keys, args=(acting, "rotate-user", "ada")) for _ in range(2)]
    for thread in readers + rotations:
        thread.start()
    for thread in rotations:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert set(answered) == {200}
    assert [record["detail"].split()[1] for record in acts(acting)[known:]].count("begun") == 2
    whole(acting)


def test_an_adoption_is_on_record_behind_what_was_there_before(tmp_path: Path) -> None:
    with Server(tmp_path / "data", keyring="none") as server, server.client() as admin:
        assert admin.put("/v1/collections/notes", json={"conflict": "lww"}).is_success
        assert admin.put("/v1/users/ada/docs/notes/k", json=1).is_success
        keys(server, "rotate-signing")
    with Server(tmp_path / "data") as server:
        keys(server, "reseal")
        began, signing, adopted, begun, ended = acts(server)
        assert [by(record) for record in (began, signing, begun, ended)] == [BY_COMMAND] * 4
        assert (by(adopted), adopted["detail"]) == (BY_ROOST, f"adopt {kek(server)}")
        assert (begun["detail"], ended["detail"].split(":")[0]) == ("reseal begun", "reseal ended")
        whole(server)


def test_what_a_server_does_by_itself_is_on_record(tmp_path: Path) -> None:
    with Server(tmp_path / "data", retention_interval_s="0.2", shred_interval_s="0.2") as server:
        with server.client() as admin:
            for user in ("ada", "bob"):
                assert admin.put(f"/v1/users/{user}/docs/notes/k", json=1).is_success
            first = kek(server)
            assert admin.delete("/v1/users/ada").is_success
        until(lambda: any(record["detail"].startswith("shred ended") for record in acts(server)))
        begun, rotated, destroyed, ended = acts(server)[1:5]
        assert (begun["detail"], destroyed["detail"]) == ("shred begun", f"destroy {first}")
        second = rotated["detail"].removeprefix(f"rotate {first} to ")
        assert ended["detail"] == f"shred ended: {second}"
        server.stop()
        Ledger(server.data / LEDGER).add([Entry("bob", AT)])
        server.start()
        again = acts(server)[5]
        assert again["detail"] == "erase 1 users again"
        until(lambda: sum(record["detail"].startswith("shred ended") for record in acts(server)) == 2)
        assert {by(record) for record in acts(server)} == {BY_ROOST}
        whole(server)
