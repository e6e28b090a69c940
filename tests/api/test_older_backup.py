"""The guide on erasure, followed to the letter: an older backup is usable again, for everybody who was not erased."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from roost.engines.embedded import Embedded, binaries
from tests.api.test_guides import snippets
from tests.api.test_shredding import gone, refusal_of
from tests.support.api import Account
from tests.support.server import Server


class Shell:
    """A person's shell in a folder of theirs, with PostgreSQL's programs and `roost` at hand."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        programs = [Path(sys.executable).parent, binaries.find().folder, os.environ["PATH"]]
        self.env = {**server.environment(), "PATH": os.pathsep.join(map(str, programs)), "ROOST_DATA": str(server.data)}

    def run(self, script: str, engine: str) -> str:
        """What a script says that has to succeed."""
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            env=self.env | {"ROOST_ENGINE": engine},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Embedded(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


def database(url: str, name: str) -> str:
    """The URL of a new, empty database."""

    async def create() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@contextmanager
def account(server: Server, user: str) -> Iterator[Account]:
    opened = Account(server, user)
    yield opened
    opened.close()


def put(server: Server, user: str, value: str) -> None:
    with account(server, user) as who:
        assert who.put("notes", "k", value).is_success


def test_an_older_backup_is_usable_again_for_everybody_who_was_not_erased(postgresql: str, tmp_path: Path) -> None:
    live, restored = database(postgresql, "live"), database(postgresql, "restored")
    shredding, keep, replace = snippets("erasure.md", "sh")[2:5]
    with Server(tmp_path / "data", engine=live) as server:
        shell = Shell(tmp_path, server)
        for user in ("ada", "bob", "eve"):
            put(server, user, f"of {user}")
        with server.client() as admin:  # known, and nothing of his is sealed yet
            assert admin.put("/v1/users/carl").is_success
        shell.run('pg_dump "$ROOST_ENGINE" > before.sql', live)
        with account(server, "ada") as ada:
            assert ada.http.delete(ada.at()).is_success
        shell.run("roost keys rotate-user eve", live)
        put(server, "bob", "later")
        put(server, "carl", "later")
        put(server, "dan", "later")  # whom the backup does not know
        shell.run(shredding, live)
        shell.run(keep, live)
    shell.run('psql "$ROOST_ENGINE" --quiet --set ON_ERROR_STOP=1 --file before.sql', restored)
    server = Server(tmp_path / "data", engine=restored)
    assert "keyring" in refusal_of(server)
    shell.run(replace, restored)
    with server:
        with account(server, "bob") as bob:
            assert bob.value("notes", "k") == "of bob"
        with account(server, "ada") as ada:
            assert gone(ada.http.get(ada.doc("notes", "k")))
        with server.client() as admin:
            lost = admin.get("/v1/users/eve/docs/notes/k")
            assert (lost.status_code, lost.json()["code"]) == (500, "corrupt")
        for user in ("bob", "carl", "dan", "eve", "fay"):
            put(server, user, f"anew of {user}")
            with account(server, user) as who:
                assert who.value("notes", "k") == f"anew of {user}"
        verified = server.run("verify", "--data", str(server.data))
        *differences, _ = verified.stdout.splitlines()
        assert differences
        assert [line for line in differences if "eve" not in line] == []
        with server.client() as admin:
            found = admin.get("/v1/audit", params={"action": "keys"}).raise_for_status().json()["records"]
        assert found[-1]["detail"] == "erase 1 users again"
