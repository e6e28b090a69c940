"""Sealing, as somebody meets it who has the disk, a dump, the logs or the metrics, and not the keyring."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest

from roost.engines.embedded import binaries
from tests.support.api import Account
from tests.support.server import Server, until

SECRETS = [f"swordfish-{number}" for number in range(9)]
CLEAR = "city-in-clear"


def select(server: Server, statement: str) -> list[tuple[Any, ...]]:
    async def rows() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(server.engine_url)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    return asyncio.run(rows())


def push(account: Account, number: int, base: int, clock: int, *ops: dict[str, Any]) -> Any:
    mutation = {"number": number, "base": base, "clock": clock, "ops": ops}
    response = account.http.post(account.at("push"), json={"device": "phone", "mutations": [mutation]})
    assert response.status_code == 200, response.text
    return response.json()["results"][0]


def write_secrets(server: Server) -> None:
    """A secret in everything that takes one: documents, edits, siblings, pushes, the inbox, refused requests."""
    definitions: dict[str, dict[str, Any]] = {
        "wishes": {"conflict": "merge"},
        "notes": {"conflict": "siblings"},
        "settings": {"conflict": "lww"},
        "homes": {"conflict": "lww", "queryable": ["city", "age"]},
    }
    with account(server, "nobody", server.admin()) as admin, account(server, "ada") as ada:
        for name, definition in definitions.items():
            assert admin.http.put(f"/v1/collections/{name}", json=definition).status_code < 300

        def known() -> bool:
            """Whether the worker that ada's connection leads to has heard of all definitions: that takes a moment."""
            ada.put("homes", "first", {"city": CLEAR, "street": SECRETS[8], "age": 7})
            return select(server, "SELECT fields FROM roost.documents WHERE collection = 'homes'") != [(None,)]

        until(known, what="the definitions in force on every worker")
        ada.put("profile", "me", {"name": SECRETS[0]}, idempotency_key="first")
        ada.put("wishes", "list", {"items": [1]})
        ada.put("wishes", "list", {"items": [1], "more": SECRETS[1]})
        ada.put("notes", "n", SECRETS[2])
        ada.put("notes", "n", SECRETS[3])
        ada.put("settings", "ui", {"theme": SECRETS[4]})
        put = {"op": "put", "collection": "settings", "key": "ui", "value": {"theme": SECRETS[5]}}
        assert push(ada, 1, 0, 1_000_000, put)["conflicts"]
        edit = [{"op": "add", "path": "/items", "value": SECRETS[6]}]
        push(ada, 2, 0, 2_000_000, {"op": "edit", "collection": "wishes", "key": "list", "edits": edit})
        ada.put("settings", "ui", {"theme": SECRETS[7]}, if_match='"1"', idempotency_key="refused")
        ada.put("homes", "second", {"city": "x" * 3000, "age": 8})
        ada.put("homes", "third", ["city"])


@contextmanager
def account(server: Server, user: str, token: str | None = None) -> Iterator[Account]:
    opened = Account(server, user, token)
    yield opened
    opened.close()


def ask(server: Server, who: Account, path: str) -> httpx.Response:
    """Ask on a connection of its own, so that any worker may answer."""
    return httpx.get(server.url + path, headers={"authorization": f"Bearer {who.token}"}, timeout=60, verify=False)


def found_in(blob: bytes) -> list[str]:
    return [secret for secret in SECRETS if secret.encode() in blob or secret.encode().hex().encode() in blob]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("sealed") / "data", workers=2) as server:
        write_secrets(server)
        yield server


def test_what_was_written_is_read(sealed: Server) -> None:
    with account(sealed, "ada") as ada:
        assert ada.value("profile", "me") == {"name": SECRETS[0]}
        log = ada.http.get(ada.at("events")).text
    assert [secret for secret in SECRETS if secret not in log] == [SECRETS[7]]


def test_nothing_of_it_is_on_the_disk(sealed: Server) -> None:
    """Tables, write-ahead log and everything else of the data directory, as the server has it open."""
    select(sealed, "CHECKPOINT")
    files = [path for path in sealed.data.rglob("*") if path.is_file()]
    assert any("pg_wal" in path.parts for path in files)
    blobs = {}
    for path in files:
        with suppress(FileNotFoundError):  # PostgreSQL replaces some of its own
            blobs[path] = path.read_bytes()
    assert not {path: found for path, blob in blobs.items() if (found := found_in(blob))}
    # This is how it would be found: what is declared to stay in clear is there, in tables and in the log of writes.
    clear = [path for path, blob in blobs.items() if CLEAR.encode() in blob]
    assert {"base", "pg_wal"} <= {part for path in clear for part in path.parts}


def test_nothing_of_it_is_in_a_dump(sealed: Server) -> None:
    dump = binaries.find().folder / "pg_dump"
    command = [str(dump), "--dbname", sealed.engine_url]
    dumped = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    assert CLEAR.encode() in dumped
    assert not found_in(dumped)
    keyring = json.loads((sealed.data / "keyring.json").read_text())
    assert keyring["keys"][0]["secret"].encode() not in dumped


def test_nothing_of_it_is_in_logs_and_metrics(sealed: Server) -> None:
    with sealed.client() as client:
        metrics = client.get("/metrics")
    assert metrics.status_code == 200
    assert not found_in(metrics.content)
    assert not found_in(sealed.log.read_bytes())


def test_declared_members_are_in_clear_for_sql(sealed: Server) -> None:
    statement = "SELECT key, fields::text FROM roost.documents WHERE collection = 'homes' ORDER BY key"
    assert select(sealed, statement) == [
        ("first", '{"age": 7, "city": "city-in-clear"}'),
        ("second", '{"age": 8}'),
        ("third", None),
    ]
    found = "SELECT user_id FROM roost.documents WHERE collection = 'homes' AND (fields ->> 'age')::int = 8"
    assert select(sealed, found) == [("ada",)]
    with account(sealed, "ada") as ada:
        ada.merge("homes", "first", {"age": 9})
        ada.delete("homes", "second")
    assert select(sealed, statement)[:2] == [("first", '{"age": 9, "city": "city-in-clear"}'), ("second", None)]
    others = "SELECT count(*) FROM roost.documents WHERE collection <> 'homes' AND fields IS NOT NULL"
    assert select(sealed, others) == [(0,)]


def test_a_value_that_was_tampered_with_is_a_clear_error_on_every_worker(sealed: Server) -> None:
    with account(sealed, "eve") as eve:
        eve.put("notes", "a", "one")
        eve.put("notes", "b", "two")
        select(
            sealed,
            "UPDATE roost.documents a SET value = b.value FROM roost.documents b"
            " WHERE a.user_id = 'eve' AND a.key = 'a' AND b.user_id = 'eve' AND b.key = 'b'",
        )
        for _ in range(6):
            response = ask(sealed, eve, eve.doc("notes", "a"))
            assert (response.status_code, response.json()["code"]) == (500, "corrupt")
            assert "two" not in response.text
        assert eve.value("notes", "b") == "two"
    assert re.search(r"cannot be opened.*notes/a", sealed.log.read_text())
    verified = sealed.run("verify", "--data", str(sealed.data))
    assert verified.returncode == 1
    assert "notes/a" in verified.stdout
    select(sealed, "DELETE FROM roost.events WHERE user_id = 'eve'")


def test_keys_are_changed_beside_a_running_server(sealed: Server) -> None:
    with account(sealed, "ada") as ada:
        before = ada.http.get(ada.at("events")).json()
        (old,) = json.loads((sealed.data / "keyring.json").read_text())["keys"]
        for command in (("rotate",), ("rotate-user", "ada"), ("reseal",)):
            done = sealed.run("keys", *command, "--data", str(sealed.data))
            assert (done.returncode, done.stderr) == (0, "")
            for _ in range(4):  # each worker has had the older keys in memory
                assert ask(sealed, ada, ada.at("events")).json() == before
    (new,) = json.loads((sealed.data / "keyring.json").read_text())["keys"]
    assert new["id"] != old["id"]
    status = sealed.run("keys", "status", "--data", str(sealed.data))
    assert re.search(rf"{new['id']}  current .* wraps \d+ keys", status.stdout)
    assert old["id"] not in status.stdout
    assert "newest key" in status.stdout
    refused = sealed.run("keys", "rotate-user", "nobody-at-all", "--data", str(sealed.data))
    assert (refused.returncode, refused.stderr) == (1, "roost: There is no user 'nobody-at-all'.\n")


def test_a_server_refuses_to_start_with_a_keyring_that_does_not_open_its_data(sealed: Server, tmp_path: Path) -> None:
    keyring = tmp_path / "data" / "keyring.json"

    def refusal(setting: str = "file") -> str:
        node = Server(tmp_path / "data", keyring=setting)
        done = node.run("serve", "--data", str(node.data), "--engine", sealed.engine_url, "--port", "0")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert re.search("sealed with the key .* does not hold: restore", refusal())
    assert not keyring.exists()
    assert "name its keyring with ROOST_KEYRING" in refusal("none")
    assert "is no keyring" in refusal("hsm:1")
    content = json.loads((sealed.data / "keyring.json").read_text())
    content["keys"][0]["secret"] = "A" * 43 + "="
    keyring.write_text(json.dumps(content))
    keyring.chmod(0o644)
    assert re.search("mode 0644.*chmod 600", refusal())
    keyring.chmod(0o600)
    assert "another key under the name" in refusal()


def test_what_was_there_before_sealing_is_adopted_and_sealed(sealed: Server, tmp_path: Path) -> None:
    select(sealed, "CREATE DATABASE older")
    engine = urlunsplit(urlsplit(sealed.engine_url)._replace(path="/older"))
    with Server(tmp_path / "data", engine=engine, keyring="none") as server:
        with account(server, "ada") as ada:
            ada.put("notes", "a", SECRETS[0], idempotency_key="one")
        assert not (server.data / "keyring.json").exists()
    with Server(tmp_path / "data", engine=engine) as server, account(server, "ada") as ada:
        assert ada.value("notes", "a") == SECRETS[0]
        assert ada.put("notes", "a", SECRETS[0], idempotency_key="one").headers["idempotent-replayed"] == "true"
        ada.put("notes", "b", SECRETS[1])
        done = server.run("keys", "reseal", "--data", str(server.data), "--engine", engine)
        assert "values were sealed anew" in done.stdout
        assert ada.value("notes", "a") == SECRETS[0]
        assert ada.put("notes", "a", SECRETS[0], idempotency_key="one").headers["idempotent-replayed"] == "true"
        assert not found_in(repr(select(server, "SELECT value, edits FROM roost.events")).encode())
