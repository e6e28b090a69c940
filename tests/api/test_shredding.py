"""What becomes of erased users where it is hardest: on other workers, in killed processes, in copies of everything."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from roost.crypto.ledger import Entry, Ledger
from tests.support.api import Account
from tests.support.server import Server
from tests.support.sse import stream
from tests.support.websocket import Socket, socket

AT = datetime(2026, 1, 31, tzinfo=UTC)
SECRET = "the-most-secret-of-all"
LEDGER = "shredded.jsonl"
Known = Callable[[Server, str], Account]


@pytest.fixture
def known() -> Iterator[Known]:
    """Users of a server, as it is now."""
    accounts: list[Account] = []

    def make(server: Server, user: str) -> Account:
        accounts.append(Account(server, user))
        return accounts[-1]

    yield make
    for account in accounts:
        account.close()


def fill(account: Account) -> None:
    for number in range(3):
        assert account.put("notes", "k", {"n": number, "secret": f"{SECRET} of {account.user}"}).is_success


def gone(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["code"]) == (410, "user_erased")


def copy(what: Path, to: Path) -> None:
    """A copy of a whole folder, with owners: PostgreSQL may run as somebody else."""
    subprocess.run(["cp", "-a", what, to], check=True)


def refusal_of(server: Server) -> str:
    """Why a server does not start."""
    server.launch()
    assert server._process is not None
    try:
        assert server._process.wait(60) == 1, server.log.read_text()
    except subprocess.TimeoutExpired:
        raise AssertionError("it serves") from None
    finally:
        server.end()
    return server.log.read_text().splitlines()[-1]


def test_neither_a_crash_nor_a_backup_nor_a_copy_brings_anybody_back(known: Known, tmp_path: Path) -> None:
    folder, before = tmp_path / "data", tmp_path / "before"
    with Server(folder) as server:
        for user in ("ada", "bob", "carl"):
            fill(known(server, user))
        # One erasure has come as far as the ledger, and another not even that far.
        Ledger(folder / LEDGER).add([Entry("carl", AT)])
        with (folder / LEDGER).open("ab") as ledger:
            ledger.write(b'{"user":"bo')
        server.kill()
        server.start()
        carl = known(server, "carl")
        assert gone(carl.http.get(carl.at()))
        assert carl.http.get(carl.at("erasure")).json()["documents"] == 1
        server.stop()
        copy(folder, before)
        server.start()
        ada = known(server, "ada")
        receipt = ada.http.delete(ada.at()).json()
        assert {entry.user for entry in Ledger(folder / LEDGER).entries()} == {"ada", "carl"}

        # A backup that is as old as the present keys: they open it, and the ledger says who is not to be in it.
        server.stop()
        shutil.rmtree(folder / "postgres")
        copy(before / "postgres", folder / "postgres")
        Ledger(folder / LEDGER).add([Entry("eve", AT)])  # whom the backup does not know, but a device may
        server.start()
        ada, bob, eve = (known(server, user) for user in ("ada", "bob", "eve"))
        assert gone(ada.http.get(ada.doc("notes", "k")))
        assert gone(eve.put("notes", "k", 1))
        assert bob.value("notes", "k")["secret"] == f"{SECRET} of bob"
        again = ada.http.get(ada.at("erasure")).json()
        assert again == again | {name: receipt[name] for name in ("user", "seq", "events", "documents")}
        assert again["shredded_at"] is None
        shredded = server.run("keys", "shred", "--data", str(folder))
        assert shredded.returncode == 0, shredded.stderr
        again = ada.http.get(ada.at("erasure")).json()
        assert again["shredded_at"] > again["erased_at"]
        assert bob.value("notes", "k")["n"] == 2
        server.verify()

    # A copy of everything from before, with the keyring as it is now; it has not even the ledger to tell it.
    shutil.copy(folder / "keyring.json", before / "keyring.json")
    (before / LEDGER).unlink()
    refusal = refusal_of(Server(before))
    assert refusal.startswith("roost: ")
    assert "keyring" in refusal
    assert not any(SECRET.encode() in path.read_bytes() for path in before.rglob("*") if path.is_file())


def test_every_worker_tells_and_every_worker_refuses(known: Known, tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=2) as server:
        ada = known(server, "ada")
        fill(ada)

        async def act() -> None:
            async with asyncio.timeout(60), AsyncExitStack() as stack:
                devices: list[Socket] = []
                while min(map(len, server.clients().values())) < 2 or not devices:  # until each worker has some
                    name = f"d{len(devices)}"
                    opened = socket(server.port, "ada", ada.token, after=3, device=name)
                    devices.append(await stack.enter_async_context(opened))
                    await devices[-1].until_live()
                with stream(ada, "?after=3") as messages:
                    told = iter(messages)
                    next(told)
                    answer = await asyncio.to_thread(ada.http.delete, ada.at())
                    assert answer.json()["seq"] == 4
                    assert [message.data.get("kind", message.name) for message in told] == ["erase", "end"]
                for device in devices:
                    assert [event["kind"] for event in await device.events(4)] == ["erase"]
                    assert (await device.closed())[0] == 4410

        asyncio.run(act())
        statuses = set()
        for _ in range(20):
            with httpx.Client(headers={"authorization": f"Bearer {ada.token}"}, verify=False) as fresh:
                statuses.add(fresh.get(f"{server.url}{ada.doc('notes', 'k')}").status_code)
        assert statuses == {410}
