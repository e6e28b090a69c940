"""The audit trail of a real server: two workers, one chain. What is on record, how it is found, that it is whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.http import connected
from tests.support.server import Server, until
from tests.support.sse import Stream

USER = "ada"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with collections of each kind."""
    settings = {"audit_interval_s": "0.05", "audit_flood_s": "2"}
    with Server(tmp_path_factory.mktemp("audit") / "data", workers=2, **settings) as server:
        with server.client() as admin:
            for name in ("reads", "strict"):
                definition = {"conflict": "lww", "audit": name}
                assert admin.put(f"/v1/collections/{name}", json=definition).status_code == 201
        with server.client(server.token(USER)) as ada:
            for name in ("plain", "reads", "strict"):
                assert ada.put(f"/v1/users/{USER}/docs/{name}/k", json={"secret": "wxyz-of-" + name}).is_success
        asyncio.run(known_on_each_worker(server))
        yield server


async def known_on_each_worker(server: Server) -> None:
    """Wait until what is defined is in force on every worker: that takes a moment."""
    async with asyncio.timeout(30), connected(server, server.token(USER), 2 * server.workers) as connections:
        for connection in connections:
            recorded = False
            while not recorded:
                reply = await connection.ask("GET", f"/v1/users/{USER}/docs/strict/k")
                statement, request = "SELECT FROM roost.audit WHERE request_id = $1", reply.headers["roost-request-id"]
                recorded = bool(await asyncio.to_thread(sql, server, statement, request))


def search(server: Server, **query: Any) -> list[dict[str, Any]]:
    """All records of a search, page by page."""
    found: list[dict[str, Any]] = []
    with server.client() as admin:
        while True:
            page = admin.get("/v1/audit", params=query).raise_for_status().json()
            found += page["records"]
            query["after"] = page["next"]
            if page["live"]:
                return found


def found(server: Server, condition: Callable[[list[dict[str, Any]]], bool], **query: Any) -> list[dict[str, Any]]:
    """The records of a search once they are as they should be: most come soon after what they tell of."""
    records: list[dict[str, Any]] = []

    def there() -> bool:
        records[:] = search(server, **query)
        return condition(records)

    until(there, what=f"{query}: {records}")
    return records


def sql(server: Server, statement: str, *arguments: Any) -> list[Any]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(server.engine_url)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    return asyncio.run(run())


def verify(server: Server, *options: str) -> tuple[int, str]:
    verified = server.run("audit", "verify", "--data", str(server.data), *options)
    return verified.returncode, verified.stdout + verified.stderr


def test_reads_are_on_record_with_who_from_where_and_why(audited: Server) -> None:
    headers = {"authorization": f"Bearer {audited.service('crm')}", "roost-purpose": "ticket 1"}
    with httpx.Client(base_url=audited.url, headers=headers, timeout=30) as crm:
        answers = {name: crm.get(f"/v1/users/{USER}/docs/{name}/k") for name in ("plain", "reads", "strict")}
        snapshot = crm.get(f"/v1/users/{USER}/docs")
    records = found(audited, lambda records: len(records) == 4, actor="service:crm")
    assert {(r["user"], r["purpose"], r["address"], r["outcome"]) for r in records} == {
        (USER, "ticket 1", "127.0.0.1", "allowed")
    }
    assert {(r["collection"], r["request_id"]) for r in records} == {
        (name, answer.headers["roost-request-id"])
        for name in ("reads", "strict")
        for answer in (answers[name], snapshot)
    }
    assert "wxyz" not in str(records)


def test_a_strict_read_is_on_record_before_it_is_answered(audited: Server) -> None:
    with audited.client(audited.token(USER)) as ada:
        for _ in range(5):
            answer = ada.get(f"/v1/users/{USER}/docs/strict/k")
            rows = sql(audited, "SELECT n FROM roost.audit WHERE request_id = $1", answer.headers["roost-request-id"])
            assert len(rows) == 1


def test_what_cannot_be_on_record_is_not_told_and_leaves_a_gap(audited: Server) -> None:
    sql(audited, "ALTER TABLE roost.audit ADD CONSTRAINT broken CHECK (action NOT IN ('read', 'define')) NOT VALID")
    with audited.client() as admin:
        refused = admin.get(f"/v1/users/{USER}/docs/strict/k")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert "wxyz" not in refused.text
        assert admin.put("/v1/collections/other", json={"conflict": "lww"}).status_code == 503
        sql(audited, "ALTER TABLE roost.audit DROP CONSTRAINT broken")
        for _ in range(8):  # some on each worker
            with audited.client() as other:
                assert other.get(f"/v1/users/{USER}/docs/strict/k").is_success
        assert admin.get("/v1/collections/other").status_code == 404
    gaps = found(audited, lambda records: sum(r.get("count", 1) for r in records) == 2, action="gap")
    assert {(r["actor"], r["outcome"]) for r in gaps} == {("roost", "failed")}


def test_denials_are_on_record_and_a_flood_of_them_is_a_number(audited: Server) -> None:
    with audited.client(audited.token("eve")) as eve:
        for n in range(120):
            assert eve.get(f"/v1/users/user-{n}/docs/plain/k").status_code == 403
    records = found(
        audited, lambda records: sum(r.get("count", 1) for r in records) == 120, actor="user:eve", outcome="denied"
    )
    assert records[0]["user"] == "user-0"
    assert len(records) <= 2 * 21


def test_of_one_user_the_writes_are_there_too(audited: Server) -> None:
    with audited.client(audited.token("cyd")) as cyd:
        cyd.put("/v1/users/cyd/docs/strict/k", json={"secret": "wxyz"})
        cyd.get("/v1/users/cyd/docs/strict/k")
        cyd.delete("/v1/users/cyd/docs/strict/k")
    # That somebody searched is there too.
    records = [record for record in search(audited, user="cyd", limit=1) if record["action"] != "audit"]
    assert [(r["action"], r.get("detail")) for r in records] == [("write", "put"), ("read", None), ("write", "delete")]
    assert [("seq" in r, "n" in r) for r in records] == [(True, False), (False, True), (True, False)]
    assert [r["at"] for r in records] == sorted(r["at"] for r in records)
    assert "wxyz" not in str(records)
    middle = records[1]["at"]
    assert search(audited, user="cyd", actor="user:cyd", **{"from": middle}) == records[1:]
    assert search(audited, user="cyd", to=middle) == records[:1]
    assert search(audited, user="cyd", action="read") == records[1:2]


def test_administrative_actions_are_on_record(audited: Server) -> None:
    (record, _) = search(audited, action="define")
    assert (record["actor"], record["kind"], record["outcome"]) == ("admin", "admin", "allowed")


@pytest.mark.parametrize(
    "query", [{"after": "x"}, {"from": "yesterday"}, {"outcome": "x"}, {"actor": "\0"}, {"n": "1"}]
)
def test_a_search_that_makes_no_sense_is_refused(audited: Server, query: dict[str, str]) -> None:
    with audited.client() as admin:
        assert admin.get("/v1/audit", params=query).json()["code"] == "invalid_request"


def test_a_cursor_is_good_for_its_own_search_alone(audited: Server) -> None:
    with audited.client() as admin:
        after = admin.get("/v1/audit", params={"limit": 1}).json()["next"]
        assert admin.get("/v1/audit", params={"after": after, "actor": "admin"}).is_success
        assert admin.get("/v1/audit", params={"after": after, "user": USER}).json()["code"] == "invalid_request"


@pytest.mark.parametrize("kind", ["user", "service"])
def test_only_admins_see_the_trail(audited: Server, kind: str) -> None:
    token = audited.token("dan") if kind == "user" else audited.service("dan")
    with audited.client(token) as dan:
        for accept in ("application/json", "text/event-stream"):
            assert dan.get("/v1/audit", headers={"accept": accept}).status_code == 403
    denied = found(audited, lambda records: len(records) == 2, actor=f"{kind}:dan")
    assert {(r["action"], r["outcome"]) for r in denied} == {("audit", "denied")}


def test_a_search_can_be_held_until_there_is_something(audited: Server) -> None:
    query = {"actor": "user:wil", "wait": "30"}
    answers: list[httpx.Response] = []
    with audited.client() as admin, audited.client(audited.token("wil")) as wil:
        held = threading.Thread(target=lambda: answers.append(admin.get("/v1/audit", params=query)))
        held.start()
        while not answers:
            wil.get(f"/v1/users/{USER}/docs")
            held.join(0.1)
    assert {record["actor"] for record in answers[0].json()["records"]} == {"user:wil"}


def test_the_trail_is_followed_on_every_worker(audited: Server) -> None:
    headers = {"authorization": f"Bearer {audited.admin()}", "accept": "text/event-stream"}
    with httpx.Client(base_url=audited.url, headers=headers, timeout=30) as admin:
        with admin.stream("GET", "/v1/audit", params={"actor": "user:fay"}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            stream = iter(Stream(response))
            assert next(stream).name == "live"
            for n in range(6):  # each on a connection of its own: some reach the other worker
                with audited.client(audited.token("fay")) as fay:
                    fay.get(f"/v1/users/user-{n}/docs")
            seen = [next(stream) for _ in range(6)]
        assert sorted(message.data["user"] for message in seen) == [f"user-{n}" for n in range(6)]
        resumed = {"last-event-id": seen[-1].id}
        with audited.client(audited.token("fay")) as fay:
            fay.get("/v1/users/user-9/docs")
        with admin.stream("GET", "/v1/audit", params={"actor": "user:fay"}, headers=resumed) as response:
            after = next(message for message in Stream(response) if message.name == "message")
        assert after.data["user"] == "user-9"


class TestVerify:
    """`roost audit verify`, beside the running server."""

    def test_the_trail_is_whole(self, audited: Server) -> None:
        status, said = verify(audited)
        assert status == 0, said
        assert "unbroken" in said

    def test_what_is_changed_in_the_database_is_found(self, audited: Server) -> None:
        (n, actor), *_ = sql(audited, "SELECT n, actor FROM roost.audit ORDER BY n LIMIT 1 OFFSET 1")
        sql(audited, "UPDATE roost.audit SET actor = 'user:nobody' WHERE n = $1", n)
        status, said = verify(audited)
        sql(audited, "UPDATE roost.audit SET actor = $2 WHERE n = $1", n, actor)
        assert (status, said.splitlines()[0].startswith(f"Record {n} is not")) == (1, True), said
        assert verify(audited)[0] == 0

    def test_an_end_that_is_cut_off_is_found_by_the_head_on_disk_and_by_one_that_was_printed(
        self, audited: Server
    ) -> None:
        printed = audited.run("audit", "head", "--data", str(audited.data)).stdout.strip()
        assert printed.startswith("roost-audit-1.")
        chain = sql(audited, "SELECT n, mac, at FROM roost.audit_chain")[0]
        (cut,) = sql(audited, "SELECT n, mac, at FROM roost.audit WHERE n = $1", chain["n"] - 3)
        gone = sql(audited, "SELECT * FROM roost.audit WHERE n > $1", cut["n"])
        update = "UPDATE roost.audit_chain SET n = $1, mac = $2, at = $3"
        sql(audited, "DELETE FROM roost.audit WHERE n > $1", cut["n"])
        sql(audited, update, *cut)
        kept = audited.data / "audit_head"
        until(lambda: b"audit records are gone" in audited.log.read_bytes(), what="the server notices")
        status, said = verify(audited)
        assert (status, "its end was cut off" in said) == (1, True), said
        aside = kept.rename(kept.with_name("aside"))
        assert verify(audited, "--head", printed)[0] == 1
        for row in gone:
            places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
            sql(audited, f"INSERT INTO roost.audit VALUES ({places})", *row)
        sql(audited, update, *chain)
        aside.rename(kept)
        assert verify(audited, "--head", printed)[0] == 0


def test_the_command_lists_what_is_on_record(audited: Server) -> None:
    token = ("--url", audited.url, "--token", audited.admin())
    listed = audited.run("audit", "--action", "define", "--since", "1h", *token)
    assert listed.returncode == 0, listed.stderr
    assert [line.count('"action":"define"') for line in listed.stdout.splitlines()] == [1, 1]
    assert len(audited.run("audit", "--limit", "3", *token).stdout.splitlines()) == 3
    refused = audited.run("audit", "--since", "yesterday", *token)
    assert refused.returncode == 2
    assert "is not a time" in refused.stderr
