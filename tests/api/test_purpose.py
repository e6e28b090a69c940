"""Support staff, who have to say what for: by the Python client, on both of its surfaces, and by the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from roost.client import Client, Document, Forbidden, SyncClient
from tests.support.api import Account
from tests.support.server import Server
from tests.support.shell import Shell, failed

PURPOSE = "ticket 4711"


@pytest.fixture
def staff(server: Server, ada: Account) -> str:
    """A token of support; ada has something that they may read."""
    ada.put("notes", "k", "hers")
    return server.issue("support", "ann")


def test_a_client_says_what_its_calls_are_for(server: Server, ada: Account, staff: str) -> None:
    async def read() -> Document | None:
        async with Client(server.url, staff, purpose=PURPOSE) as client:
            return await client.user(ada.user).docs("notes").get("k")

    found = asyncio.run(read())
    assert found is not None
    assert found.value == "hers"
    with SyncClient(server.url, staff, purpose=PURPOSE) as client:
        assert client.user(ada.user).docs("notes").get("k") == found
    with SyncClient(server.url, staff) as client, pytest.raises(Forbidden, match="purpose"):
        client.user(ada.user).docs("notes").get("k")


def test_a_command_says_what_it_is_for(server: Server, ada: Account, staff: str, tmp_path: Path) -> None:
    shell = Shell(server, tmp_path)
    shell.known["ROOST_TOKEN"] = staff
    assert shell.json("--purpose", PURPOSE, "get", ada.user, "notes", "k") == "hers"
    assert shell.run("get", ada.user, "notes", "k", ROOST_PURPOSE=PURPOSE).stdout == '"hers"\n'
    failed(shell.run("get", ada.user, "notes", "k"), "purpose")
