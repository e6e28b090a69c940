"""Whatever is killed, whoever was answered about a `strict` collection is on record, in a chain that is whole."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx

from tests.support.server import Server, until

READERS = 4
ENOUGH = 20


def test_who_was_answered_is_on_record_after_a_kill(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        with server.client() as admin:
            assert admin.put("/v1/collections/strict", json={"conflict": "lww", "audit": "strict"}).is_success
            assert admin.put("/v1/users/ada/docs/strict/k", json=1).is_success
        answered: list[str] = []

        def read() -> None:
            while True:
                try:
                    with server.client(server.token("ada")) as ada:
                        answer = ada.get("/v1/users/ada/docs/strict/k")
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    answered.append(answer.headers["roost-request-id"])

        readers = [threading.Thread(target=read) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        until(lambda: len(answered) >= ENOUGH)
        server.kill()
        for reader in readers:
            reader.join()
        server.start()
        recorded: list[str] = []
        with server.client() as admin:
            after, live = "", False
            while not live:
                query = {"actor": "user:ada", "action": "read", **({"after": after} if after else {})}
                page = admin.get("/v1/audit", params=query).raise_for_status().json()
                recorded += [record["request_id"] for record in page["records"]]
                after, live = page["next"], page["live"]
        assert set(answered) <= set(recorded)
        assert len(recorded) == len(set(recorded))
        verified = server.run("audit", "verify", "--data", str(server.data))
        assert verified.returncode == 0, verified.stdout + verified.stderr
