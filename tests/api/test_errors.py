"""Refusals: one shape for all, what there is no route for, and a server in trouble that tells no secrets."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.support.api import Account, carry_out, problem, true_of_every_answer
from tests.support.server import Server, until

SECRET = "correct horse battery staple"


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with little room, and little patience: more than it takes a slow disk to write something down."""
    data = tmp_path_factory.mktemp("frail") / "data"
    with Server(data, engine_timeout_s="3", queue_commands_max="4", pages_max="2", waiters_max="1") as server:
        yield server


@pytest.fixture
def bob(frail: Server, account: Callable[[], Account]) -> Iterator[Account]:
    """A user of the frail server."""
    bob = Account(frail, account().user)
    yield bob
    bob.close()


def test_every_answer_has_an_id_of_its_own(ada: Account) -> None:
    ids = {ada.http.get(path).headers["roost-request-id"] for path in ("/healthz", ada.at(), "/nowhere") * 5}
    assert len(ids) == 15


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v2/users", "/v1/users/", "/nowhere", "/healthz/", "//healthz", "/V1/users"]
)
def test_what_is_not_served_is_not_found(ada: Account, method: str, path: str) -> None:
    answer = ada.http.request(method, ada.server.url + path)
    if method == "HEAD":
        assert (answer.status_code, answer.content) == (404, b"")
    else:
        problem(answer, 404, "not_found")


def test_another_method_is_told_which_there_are(ada: Account) -> None:
    paths = httpx.get(f"{ada.server.url}/openapi.json", verify=False, timeout=30).json()["paths"]
    for template, methods in paths.items():
        path = template.replace("{user}", ada.user).replace("{collection}", "notes").replace("{key}", "k")
        there = {method.upper() for method in methods}
        allowed = there | {"OPTIONS"} | ({"HEAD"} if "GET" in there else set())
        for method in {"GET", "PUT", "POST", "PATCH", "DELETE", "TRACE", "PROPFIND"} - allowed:
            refused = ada.http.request(method, path)
            problem(refused, 405, "method_not_allowed")
            assert set(refused.headers["allow"].split(", ")) == allowed
        options = ada.http.options(path)
        assert (options.status_code, options.content) == (204, b"")
        assert set(options.headers["allow"].split(", ")) == allowed


def test_a_refusal_shows_its_code_where_its_type_points(ada: Account) -> None:
    told = problem(ada.get("notes", "k"), 404, "not_found")
    page = ada.http.get(told["type"])
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


def test_codes_and_statuses_are_those_of_the_contract(server: Server) -> None:
    told = httpx.get(f"{server.url}/openapi.json", verify=False, timeout=30).json()["x-problems"]
    statuses = {
        "invalid_request": 400, "invalid_name": 400, "invalid_json": 400, "unauthenticated": 401, "forbidden": 403,
        "not_found": 404, "method_not_allowed": 405, "patch_failed": 409, "cursor_ahead": 409,
        "home_conflict": 409, "log_conflict": 409, "mutation_gap": 409, "user_exists": 409,
        "cursor_compacted": 410, "user_erased": 410,
        "version_conflict": 412, "too_large": 413, "unsupported_media_type": 415,
        "idempotency_key_reused": 422, "limit_reached": 422, "precondition_required": 428, "rate_limited": 429,
        "corrupt": 500, "internal": 500, "unavailable": 503, "overloaded": 503,
    }  # fmt: skip
    assert {code: about["status"] for code, about in told.items()} == statuses


# A server in trouble


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The engine hears nothing inside."""
    pids = [server.postmaster()]

    def send(what: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # a backend may end before it is stopped
                os.kill(pid, what)

    try:
        send(signal.SIGSTOP)
        # A postmaster that is stopped starts no more of them.
        pids += server.backends()
        send(signal.SIGSTOP)
        yield
    finally:
        send(signal.SIGCONT)


def recovered(account: Account) -> bool:
    return account.put("notes", "k", "after").is_success and account.page("notes").is_success


def test_an_engine_that_does_not_answer_is_unavailable_and_one_may_try_again(bob: Account) -> None:
    bob.put("notes", "k", SECRET)
    pid = bob.server.listening()
    ways: list[Callable[[], httpx.Response]] = [
        lambda: bob.put("notes", "k", SECRET),
        lambda: bob.get("notes", "k"),
        lambda: bob.page("notes"),
        bob.events,
    ]
    with stopped(bob.server), ThreadPoolExecutor(len(ways)) as pool:
        for answer in pool.map(lambda way: way(), ways):
            told = problem(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert SECRET not in json.dumps(told)
        assert bob.http.get("/healthz").json() == {"status": "ok"}
        problem(bob.http.get("/readyz"), 503, "unavailable")
    until(lambda: recovered(bob), what="the server serves again")
    assert bob.http.get("/readyz").status_code == 200
    assert bob.server.listening() == pid


def test_more_than_there_is_room_for_is_overloaded(bob: Account) -> None:
    bob.put("notes", "k", 1)
    with stopped(bob.server), ThreadPoolExecutor(16) as pool:
        writes = [pool.submit(bob.put, "notes", "k", n) for n in range(8)]
        reads = [pool.submit(bob.page, "notes") for _ in range(8)]
        answers = [future.result() for future in (*writes, *reads)]
    for half in (answers[:8], answers[8:]):
        codes = {answer.json()["code"] for answer in half}
        assert "overloaded" in codes
        assert codes <= {"overloaded", "unavailable"}
    for answer in answers:
        problem(answer, 503, answer.json()["code"])
        assert int(answer.headers["retry-after"]) >= 1
    until(lambda: recovered(bob), what="the server serves again")


def test_more_polls_than_there_is_room_for_are_overloaded(bob: Account) -> None:
    """There is one place: of two polls it is the one that comes first that has it."""
    bob.put("notes", "k", 1)
    with ThreadPoolExecutor(2) as pool:
        polls = [pool.submit(bob.events, after=1, wait=30) for _ in range(2)]
        (refused,), (held,) = wait(polls, return_when=FIRST_COMPLETED)
        assert "long polls" in problem(refused.result(), 503, "overloaded")["detail"]
        assert int(refused.result().headers["retry-after"]) >= 1
        assert bob.events(after=1).status_code == 200  # what does not wait needs no place
        bob.put("notes", "k", 2)
        assert [event["seq"] for event in held.result().json()["events"]] == [2]
    assert bob.events(after=2, wait=0.01).status_code == 200


def test_a_client_that_goes_away_makes_room(bob: Account) -> None:
    bob.put("notes", "k", 1)
    with pytest.raises(httpx.ReadTimeout):
        bob.http.get(bob.at("events"), params={"after": 1, "wait": 30}, timeout=0.3)
    until(lambda: bob.events(after=1, wait=0.01).status_code == 200, what="the place is free again")


def test_a_server_whose_schema_is_not_there_yet_cannot_serve(frail: Server, bob: Account) -> None:
    carry_out(frail, "UPDATE roost.migrations SET version = -version")
    try:
        problem(bob.http.get("/readyz"), 503, "unavailable")
        assert bob.http.get("/healthz").status_code == 200
    finally:
        carry_out(frail, "UPDATE roost.migrations SET version = -version")
    assert bob.http.get("/readyz").status_code == 200


def test_an_error_that_nobody_foresaw_tells_nothing(frail: Server, bob: Account) -> None:
    """Somebody has renamed a column: every statement that names it fails."""
    bob.put("notes", "k", SECRET)
    headers = {"authorization": f"Bearer {bob.token}", "content-type": "application/json"}
    carry_out(frail, "ALTER TABLE roost.documents RENAME COLUMN value TO another_name")
    try:
        with httpx.Client(base_url=frail.url, headers=headers, timeout=60, verify=False) as client:
            answers = [
                client.put(bob.doc("notes", "k"), content=json.dumps(SECRET)),
                client.get(bob.doc("notes", "k")),
                client.get(bob.at("docs")),
            ]
            assert client.get("/healthz").status_code == 200
    finally:
        carry_out(frail, "ALTER TABLE roost.documents RENAME COLUMN another_name TO value")
    log = frail.log.read_text()
    for answer in answers:
        told = problem(answer, 500, "internal")
        assert told.keys() == {"type", "title", "status", "code", "detail", "request_id"}
        shown = answer.text + str(answer.headers)
        for word in (SECRET, "SELECT", "column", "documents", "asyncpg", "Traceback", "File ", ".py"):
            assert word not in shown
    assert "UndefinedColumnError" in log
    assert SECRET not in log
    until(lambda: recovered(bob), what="the server serves again")
    true_of_every_answer(bob.get("notes", "k"))
