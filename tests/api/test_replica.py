"""The Python replica against a real server, through a network that comes and goes."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from roost.client import Unauthenticated
from roost.client.replica import Edit, Replica, ReplicaInUse, ReplicaUnusable, Result
from tests.support.api import Account
from tests.support.server import Server
from tests.support.tcp import TcpProxy

PATIENCE_S = 60
"""Longer than the longest pause of a replica between two attempts."""


async def seen(replica: Replica, condition: Callable[[], bool]) -> None:
    """Wait until the replica shows something."""
    changes = replica.changes()
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await anext(changes)


async def synced(*replicas: Replica) -> None:
    async with asyncio.timeout(PATIENCE_S):
        for replica in replicas:
            await replica.synced()


@asynccontextmanager
async def behind_proxy(account: Account, path: Path, **options: Any) -> AsyncIterator[tuple[Replica, TcpProxy]]:
    async with TcpProxy(account.server.port).running() as proxy:
        replica = Replica(path, proxy.url, account.user, options.pop("token", account.token), **options)
        async with replica:
            yield replica, proxy


@pytest.fixture
def merged(admin: Account) -> Iterator[str]:
    """A collection whose documents are merged."""
    admin.http.put("/v1/collections/counters", json={"conflict": "merge"}).raise_for_status()
    yield "counters"
    admin.http.delete("/v1/collections/counters").raise_for_status()


def value(replica: Replica, collection: str, key: str) -> Any:
    view = replica.get(collection, key)
    return None if view is None else view.value


def test_what_one_device_does_shows_on_the_other(ada: Account, tmp_path: Path) -> None:
    async def run() -> None:
        url, user, token = ada.server.url, ada.user, ada.token
        phone = Replica(tmp_path / "phone", url, user, token, device="phone")
        laptop = Replica(tmp_path / "laptop", url, user, token, device="laptop", collections=["carts"])
        async with phone, laptop:
            await synced(phone, laptop)
            phone.put("preferences", "ui", {"theme": "dark"})
            with phone.transaction() as edits:
                edits.inc("carts", "main", "/apples", 2)
                edits.add("carts", "main", "/tags", "fruit")
            assert value(phone, "carts", "main") == {"apples": 2, "tags": ["fruit"]}
            await seen(laptop, lambda: value(laptop, "carts", "main") == {"apples": 2, "tags": ["fruit"]})
            laptop.edit("carts", "main", Edit("inc", "/apples", 1), Edit("remove", "/tags", "fruit"))
            await seen(phone, lambda: value(phone, "carts", "main") == {"apples": 3, "tags": []})
            await synced(phone, laptop)
            assert (phone.pending, phone.seq, laptop.seq) == (0, 4, 4)
            assert laptop.get("preferences", "ui") is None
        assert phone.status == "offline"

    asyncio.run(run())
    assert ada.value("carts", "main") == {"apples": 3, "tags": []}


def test_edits_made_offline_arrive_after_a_restart(ada: Account, tmp_path: Path) -> None:
    async def offline() -> None:
        async with behind_proxy(ada, tmp_path / "phone") as (replica, proxy):
            await synced(replica)
            proxy.down()
            await seen(replica, lambda: replica.status == "offline")
            replica.put("notes", "a", {"text": "x"})
            replica.set("notes", "a", "/text", "y")
            replica.delete("notes", "b")
            assert value(replica, "notes", "a") == {"text": "y"}
            assert replica.pending == 3

    async def later() -> None:
        async with behind_proxy(ada, tmp_path / "phone") as (replica, _):
            view = replica.get("notes", "a")
            assert view is not None
            assert (view.value, view.pending, replica.pending) == ({"text": "y"}, True, 3)
            await synced(replica)

    ada.put("notes", "b", 1)
    asyncio.run(offline())
    ada.delete("notes", "b")
    asyncio.run(later())
    assert ada.value("notes", "a") == {"text": "y"}


def test_connections_that_are_cut_lose_and_double_nothing(ada: Account, merged: str, tmp_path: Path) -> None:
    seeded = random.Random(7)

    async def run() -> None:
        first = behind_proxy(ada, tmp_path / "phone", device="phone")
        second = behind_proxy(ada, tmp_path / "laptop", device="laptop")
        async with first as (phone, one), second as (laptop, other):
            await synced(phone, laptop)
            for _ in range(12):
                for replica, proxy in ((phone, one), (laptop, other)):
                    proxy.cut_after = seeded.randrange(1, 1_500)
                    for _ in range(5):
                        replica.inc(merged, "all", "/n")
                await seen(phone, lambda: phone.core.unanswered == 0)
            await synced(phone, laptop)
            for replica in (phone, laptop):
                await seen(replica, lambda: value(replica, merged, "all") == {"n": 120})  # noqa: B023
            assert phone.core.documents == laptop.core.documents
            assert one.upgrades > 3
            assert phone.device == "phone"

    asyncio.run(run())
    assert ada.value(merged, "all") == {"n": 120}


COUNTING = """
import asyncio, sys
from roost.client.replica import Replica

async def main(path, url, user, token):
    async with Replica(path, url, user, token, device="phone") as replica:
        while True:
            print(replica.inc("counters", "all", "/n"), replica.core.unanswered, flush=True)
            await asyncio.sleep(0)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.usefixtures("merged")
def test_a_process_that_is_killed_at_any_moment_loses_and_doubles_nothing(ada: Account, tmp_path: Path) -> None:
    path = tmp_path / "phone"
    command = [sys.executable, "-c", COUNTING, str(path), ada.server.url, ada.user, ada.token]
    told = 0
    for lines in (1, 40, 7, 150, 23):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in islice(process.stdout, lines):
                told = int(line.split()[0])
            process.kill()
            # Some more were on their way when it was killed.
            for line in process.stdout.read().splitlines(keepends=True):
                if line.endswith("\n"):
                    told = int(line.split()[0])

    async def finish() -> None:
        async with Replica(path, ada.server.url, ada.user, ada.token) as replica:
            made = replica.core.saved.number
            assert made - told in (0, 1), "an edit is on disk when the call returns"
            await synced(replica)
            assert value(replica, "counters", "all") == {"n": made}

    asyncio.run(finish())
    assert ada.value("counters", "all")["n"] >= told >= 221
    mutations = [event["mutation"] for event in ada.events(after=0, limit=1000).json()["events"]]
    assert mutations == list(range(1, len(mutations) + 1))


def test_where_websockets_are_refused_it_polls(ada: Account, tmp_path: Path) -> None:
    async def run(status: int) -> None:
        async with TcpProxy(ada.server.port).running() as proxy:
            proxy.no_upgrades = status
            async with Replica(tmp_path / f"phone-{status}", proxy.url, ada.user, ada.token) as replica:
                await synced(replica)
                replica.inc("counters", "all", "/n")
                await synced(replica)
                before = value(replica, "counters", "all")["n"]
                http = asyncio.to_thread(ada.put, "counters", "all", {"n": before + 10})
                _, _ = await asyncio.gather(
                    http, seen(replica, lambda: value(replica, "counters", "all") == {"n": before + 10})
                )
                assert (replica.status, proxy.upgrades) == ("live", 0)

    for status in (403, 426, 400, 0):
        asyncio.run(run(status))


def test_a_user_that_is_not_there_comes_into_being_with_the_first_edit(ada: Account, tmp_path: Path) -> None:
    async def run() -> None:
        async with Replica(tmp_path / "phone", ada.server.url, ada.user, ada.token) as replica:
            await synced(replica)
            assert replica.seq == 0
            replica.put("notes", "a", 1)
            await synced(replica)
            assert replica.seq == 1

    asyncio.run(run())


def test_a_refused_edit_vanishes_and_is_in_the_inbox(ada: Account, tmp_path: Path) -> None:
    async def run() -> None:
        async with behind_proxy(ada, tmp_path / "phone") as (replica, proxy):
            await synced(replica)
            proxy.down()
            await seen(replica, lambda: replica.status == "offline")
            number = replica.put("payments", "card", {"last": "2222"})
            await asyncio.to_thread(ada.put, "payments", "card", {"last": "3333"}, if_match="*")
            changes = replica.changes()
            proxy.up = True
            results: list[Result] = []
            async with asyncio.timeout(PATIENCE_S):
                while not results:
                    results += (await anext(changes)).results
            assert [(each.number, each.status, each.code) for each in results] == [
                (number, "refused", "version_conflict")
            ]
            await synced(replica)
            assert value(replica, "payments", "card") == {"last": "3333"}
            [conflict] = replica.conflicts()
            assert (conflict.lost.value, conflict.kept.value) == ({"last": "2222"}, {"last": "3333"})
            replica.dismiss(conflict.id)
            await synced(replica)
            assert not replica.conflicts()

    ada.put("payments", "card", {"last": "1111"})
    asyncio.run(run())


def test_two_devices_of_one_name_both_keep_their_edits(ada: Account, tmp_path: Path) -> None:
    """A copied file, or one that a backup brought back: the numbers of one are those of the other."""

    async def run(path: str) -> str:
        async with Replica(tmp_path / path, ada.server.url, ada.user, ada.token, device="phone") as replica:
            replica.put("notes", path, path)
            await synced(replica)
            return replica.device

    assert asyncio.run(run("one")) == "phone"
    assert asyncio.run(run("copy")).startswith("phone~")
    assert (ada.value("notes", "one"), ada.value("notes", "copy")) == ("one", "copy")


def test_a_token_is_renewed_on_the_open_line(ada: Account, tmp_path: Path) -> None:
    asked = asyncio.Queue[None]()

    def token() -> str:
        asked.put_nowait(None)
        # It is renewed when a fifth of this is left: a process may stand still in that time.
        return ada.server.token(ada.user, ttl_s=12)

    async def run() -> None:
        async with behind_proxy(ada, tmp_path / "phone", token=token) as (replica, proxy):
            await synced(replica)
            upgrades = proxy.upgrades
            while asked.qsize():
                asked.get_nowait()
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(2):
                    await asked.get()
            # The first token has ended by now.
            replica.put("notes", "b", 2)
            await synced(replica)
            assert (replica.status, proxy.upgrades) == ("live", upgrades)

    ada.put("notes", "a", 1)
    asyncio.run(run())


def test_without_a_good_token_it_stays_offline_and_says_why(ada: Account, tmp_path: Path) -> None:
    tokens = ["nonsense"]

    async def run() -> None:
        replica = Replica(tmp_path / "phone", ada.server.url, ada.user, lambda: tokens[-1])
        async with replica:
            await seen(replica, lambda: isinstance(replica.problem, Unauthenticated))
            replica.put("notes", "a", 1)
            assert value(replica, "notes", "a") == 1

    asyncio.run(run())


def test_one_process_at_a_time_and_one_user_for_ever(ada: Account, tmp_path: Path) -> None:
    async def run() -> None:
        async with Replica(tmp_path / "phone", ada.server.url, ada.user, ada.token) as replica:
            with pytest.raises(ReplicaInUse):
                Replica(tmp_path / "phone", ada.server.url, ada.user, ada.token)
            replica.put("notes", "a", 1)
        with pytest.raises(ReplicaUnusable, match="another user"):
            Replica(tmp_path / "phone", ada.server.url, "somebody-else", ada.token)
        (tmp_path / "text").write_text("This is not a database, but long enough to look at. " * 10)
        with pytest.raises(ReplicaUnusable, match="no replica"):
            Replica(tmp_path / "text", ada.server.url, ada.user, ada.token)

    asyncio.run(run())


def test_other_collections_are_fetched_when_they_are_asked_for(ada: Account, tmp_path: Path) -> None:
    async def run(collections: list[str] | None, expected: list[str]) -> None:
        path = tmp_path / "phone"
        async with Replica(path, ada.server.url, ada.user, ada.token, collections=collections) as replica:
            await synced(replica)
            assert sorted({name for name, _ in replica.core.names()}) == expected

    for number, collection in enumerate(["a", "b", "b", "c"]):
        ada.put(collection, str(number), number)
    asyncio.run(run(["a"], ["a"]))
    asyncio.run(run(["a", "b"], ["a", "b"]))
    asyncio.run(run(None, ["a", "b", "c"]))
    asyncio.run(run(["c"], ["c"]))


def test_a_server_that_restarts_is_found_again(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:

        async def run() -> None:
            async with Replica(tmp_path / "phone", server.url, "ada", server.token("ada")) as replica:
                replica.put("notes", "a", 1)
                await synced(replica)
                await asyncio.to_thread(server.stop)
                replica.put("notes", "a", 2)
                await asyncio.to_thread(server.start)
                await synced(replica)
                assert replica.seq == 2

        asyncio.run(run())
        server.verify()


def test_what_was_folded_away_is_fetched_as_a_snapshot(tmp_path: Path) -> None:
    """A device that stays away longer than logs wait for it."""
    ageless = json.dumps({"idempotency_hours": 0})
    with Server(tmp_path / "data", history_keep_s="0", device_away_s="0", limits=ageless) as server:
        ada = Account(server, "ada")

        async def away() -> None:
            async with Replica(tmp_path / "phone", server.url, "ada", ada.token, device="phone") as replica:
                for key in ("a", "b", "gone"):
                    replica.put("notes", key, 1)
                await synced(replica)
            replica = Replica(tmp_path / "phone", server.url, "ada", ada.token)
            replica.put("notes", "mine", "offline")
            await replica.close()

        async def back() -> None:
            async with Replica(tmp_path / "phone", server.url, "ada", ada.token) as replica:
                await synced(replica)
                shown = {view.key: view.value for view in replica.list("notes")}
                assert shown == {"a": 1, "b": 9, "mine": "offline"}
                assert replica.seq == ada.head()["seq"]

        asyncio.run(away())
        ada.delete("notes", "gone")
        for number in range(10):
            ada.put("notes", "b", number)
        ran = server.run("compact", "--data", str(server.data), "--user", "ada")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ada.head()["floor"] > 3
        asyncio.run(back())
        ada.close()
        server.verify()


def test_a_disk_that_is_full_is_no_end(ada: Account, tmp_path: Path) -> None:
    async def run() -> None:
        replica = Replica(tmp_path / "phone", ada.server.url, ada.user, ada.token)
        replica.store._db.execute("PRAGMA query_only = ON")
        async with replica:
            await seen(replica, lambda: isinstance(replica.problem, ReplicaUnusable))
            replica.store._db.execute("PRAGMA query_only = OFF")
            await synced(replica)
            assert value(replica, "notes", "a") == 1

    ada.put("notes", "a", 1)
    asyncio.run(run())


def test_a_backup_that_is_restored_and_has_gone_on_since_is_noticed(tmp_path: Path) -> None:
    """The log is longer than what the devices have read, and still another one."""
    data, backup = tmp_path / "data", tmp_path / "backup"

    def restore(server: Server) -> None:
        server.stop()
        shutil.rmtree(data)
        subprocess.run(["cp", "-a", backup, data], check=True)
        server.start()

    def back_up(server: Server) -> None:
        server.stop()
        subprocess.run(["cp", "-a", data, backup], check=True)
        server.start()

    with Server(data) as server:

        def opened(device: str) -> Replica:
            return Replica(tmp_path / device, server.url, "ada", server.token("ada"), device=device)

        async def run() -> None:
            async with opened("phone") as phone, opened("laptop") as laptop:
                phone.put("notes", "a", "before")
                laptop.put("notes", "b", "before")
                await synced(phone, laptop)
            await asyncio.to_thread(back_up, server)
            async with opened("phone") as phone:
                phone.put("notes", "a", "lost")
                phone.put("notes", "c", "lost")
                await synced(phone)
            phone = opened("phone")
            phone.put("notes", "d", "made offline")
            await phone.close()
            await asyncio.to_thread(restore, server)
            async with opened("laptop") as laptop:
                for number in range(5):
                    laptop.put("notes", "b", number)
                    await synced(laptop)
            async with opened("phone") as phone, opened("laptop") as laptop:
                await synced(phone, laptop)
                end = max(phone.seq, laptop.seq)
                await seen(laptop, lambda: laptop.seq >= end)
                await seen(phone, lambda: phone.seq >= end)
                kept = {"a": "before", "b": 4, "d": "made offline"}
                for replica in (phone, laptop):
                    assert {view.key: view.value for view in replica.list("notes")} == kept
                assert phone.device.startswith("phone~")

        asyncio.run(run())
        server.verify()
