"""Collections and what is defined of them: by admins, in force at once, known to every worker, and like documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests.support.api import Account, problem, version_of
from tests.support.server import Server, until

numbers = count()


@pytest.fixture
def name() -> str:
    """A collection that is not defined."""
    return f"defined_{next(numbers)}"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two workers."""
    with Server(tmp_path_factory.mktemp("pair") / "data", workers=2) as server:
        yield server


def path(name: str) -> str:
    return f"/v1/collections/{name}"


def test_a_definition_comes_back_with_its_version(admin: Account, ada: Account, name: str) -> None:
    problem(admin.http.get(path(name)), 404, "not_found")
    made = admin.http.put(path(name), json={"conflict": "cas"})
    assert (made.status_code, made.json()) == (201, {"conflict": "cas"})
    changed = admin.http.put(path(name), json={"conflict": "merge"})
    assert changed.status_code == 200
    assert version_of(changed) > version_of(made)
    read = ada.http.get(path(name))
    assert (read.json(), read.headers["etag"]) == ({"conflict": "merge"}, changed.headers["etag"])
    assert "last-modified" in read.headers
    assert ada.http.get(path(name), headers={"if-none-match": read.headers["etag"]}).status_code == 304
    gone = admin.http.delete(path(name))
    assert (gone.status_code, gone.content) == (204, b"")
    assert version_of(gone) > version_of(changed)
    problem(ada.http.get(path(name)), 404, "not_found")
    problem(admin.http.delete(path(name)), 404, "not_found")


def test_definitions_have_preconditions(admin: Account, name: str) -> None:
    first = admin.http.put(path(name), json={"conflict": "cas"}, headers={"if-none-match": "*"})
    told = problem(
        admin.http.put(path(name), json={"conflict": "lww"}, headers={"if-none-match": "*"}), 412, "version_conflict"
    )
    assert told["current"] == {"version": version_of(first), "value": {"conflict": "cas"}}
    ours = {"if-match": first.headers["etag"]}
    assert admin.http.put(path(name), json={"conflict": "lww"}, headers=ours).status_code == 200
    problem(admin.http.put(path(name), json={"conflict": "lww"}, headers=ours), 412, "version_conflict")
    problem(admin.http.delete(path(name), headers=ours), 412, "version_conflict")


def test_a_definition_is_written_once_under_one_key(admin: Account, name: str) -> None:
    key = {"idempotency-key": f"define-{name}"}
    first = admin.http.put(path(name), json={"conflict": "cas"}, headers=key)
    again = admin.http.put(path(name), json={"conflict": "cas"}, headers=key)
    assert (again.status_code, again.headers["etag"]) == (201, first.headers["etag"])
    assert again.headers["idempotent-replayed"] == "true"
    problem(admin.http.put(path(name), json={"conflict": "lww"}, headers=key), 422, "idempotency_key_reused")


def test_only_admins_define(server: Server, ada: Account, name: str) -> None:
    service = Account(server, ada.user, server.service("shop"))
    for who in (ada, service):
        problem(who.http.put(path(name), json={"conflict": "cas"}), 403, "forbidden")
        problem(who.http.delete(path(name)), 403, "forbidden")
        problem(who.http.get(path(name)), 404, "not_found")
        assert who.http.get("/v1/collections").status_code == 200
    service.close()


def test_what_is_wrong_is_told_where(admin: Account, name: str) -> None:
    for body, pointer in (({"conflict": "first"}, "/conflict"), ({}, ""), ({"conflict": "cas", "x": 1}, ""), ([], "")):
        problem(admin.http.put(path(name), json=body), 400, "invalid_request", pointer)
    problem(admin.http.put(path("Notes"), json={"conflict": "cas"}), 400, "invalid_name")
    problem(admin.http.put(path("roost_notes"), json={"conflict": "cas"}), 403, "forbidden")
    text = {"content-type": "text/plain"}
    problem(admin.http.put(path(name), content=b"{}", headers=text), 415, "unsupported_media_type")


def test_a_definition_is_in_force_once_it_is_answered(admin: Account, ada: Account, name: str) -> None:
    for _ in range(20):
        admin.http.put(path(name), json={"conflict": "cas"})
        ada.put(name, "k", 1)
        problem(ada.put(name, "k", 2), 428, "precondition_required")
        admin.http.put(path(name), json={"conflict": "siblings"})
        torn = ada.put(name, "k", 3)
        assert torn.headers["roost-siblings"] == "2"
        admin.http.delete(path(name))
        assert ada.put(name, "k", 4).status_code == 200
        ada.delete(name, "k")


def test_a_definition_comes_before_the_settings(admin: Account, ada: Account) -> None:
    ada.put("payments", "k", 1)
    problem(ada.put("payments", "k", 2), 428, "precondition_required")  # the settings of this server say so
    try:
        admin.http.put(path("payments"), json={"conflict": "lww"})
        assert ada.put("payments", "k", 2).status_code == 200
    finally:
        admin.http.delete(path("payments"))
    problem(ada.put("payments", "k", 3), 428, "precondition_required")


def test_pages_together_are_all_collections(admin: Account) -> None:
    mine = sorted(f"listed_{next(numbers)}" for _ in range(5))
    for name in mine:
        admin.http.put(path(name), json={"conflict": "cas"})
    found = []
    params: dict[str, str] = {"limit": "2"}
    while True:
        page = admin.http.get("/v1/collections", params=params).json()
        found += page["items"]
        if page["next"] is None:
            break
        params["after"] = page["next"]
    assert [item["name"] for item in found] == sorted(item["name"] for item in found)
    # Other tests may have defined more, and more of it.
    ours = [item for item in found if item["name"] in mine]
    assert [item["name"] for item in ours] == mine
    for item in ours:
        assert item.keys() == {"name", "version", "conflict"}
    for refused in ({"limit": "0"}, {"after": "x"}, {"prefix": "a"}):
        problem(admin.http.get("/v1/collections", params=refused), 400, "invalid_request")


def test_nobody_sees_the_user_that_definitions_belong_to(admin: Account, name: str) -> None:
    admin.http.put(path(name), json={"conflict": "cas"})
    around = {f"around-{number}" for number in range(64)}  # before and after it, in whatever order
    for user in around:
        admin.http.put(f"/v1/users/{user}")
    # Others come into being meanwhile, so one walk may see more of them than the next.
    for limit in (1, 1_000):
        found, after = [], ""
        while True:
            page = admin.http.get("/v1/users", params={"limit": limit} | ({"after": after} if after else {})).json()
            found += [item["user"] for item in page["items"]]
            if page["next"] is None:
                break
            after = page["next"]
        assert around <= set(found)
        assert len(found) == len(set(found))
        assert not any(user.startswith("$") for user in found)
    for url in ("/v1/users/$roost", "/v1/users/%24roost", "/v1/users/$roost/docs", "/v1/users/%24roost/events"):
        problem(admin.http.get(url), 400, "invalid_name")


def test_roosts_own_collections_are_not_written_by_others(admin: Account, ada: Account) -> None:
    ada.put("notes", "k", 1)
    for who in (ada, Account(admin.server, ada.user, admin.token)):
        problem(who.put("roost_conflicts", "k", 1), 403, "forbidden")
        problem(who.merge("roost_anything", "k", {}), 403, "forbidden")
        problem(who.delete("roost_definitions", "k"), 403, "forbidden")
        op = {"op": "put", "collection": "roost_conflicts", "key": "k", "value": 1}
        problem(who.batch({"op": "delete", "collection": "notes", "key": "k"}, op), 403, "forbidden", "/ops/1")
        if who is not ada:
            who.close()
    assert ada.value("notes", "k") == 1
    assert ada.page("roost_conflicts").json()["items"] == []


def test_a_server_knows_its_definitions_again_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Server(tmp_path_factory.mktemp("again") / "data") as server:
        admin = Account(server, "ada", server.admin())
        admin.http.put(path("notes"), json={"conflict": "cas"})
        admin.close()
        server.stop()
        server.start()
        admin = Account(server, "ada", server.admin())
        admin.put("notes", "k", 1)
        problem(admin.put("notes", "k", 2), 428, "precondition_required")
        admin.close()


def test_every_worker_learns_of_it_soon(pair: Server) -> None:
    accounts: list[Account] = []
    # Both workers have some of the connections.
    while len(accounts) < 16 or sum(bool(ports) for ports in pair.clients().values()) < 2:
        accounts.append(Account(pair, f"ada-{len(accounts)}", pair.admin()))
        accounts[-1].put("notes", "k", 1)
    accounts[0].http.put(path("notes"), json={"conflict": "cas"})
    until(lambda: all(account.put("notes", "k", 2).status_code == 428 for account in accounts))
    for account in accounts:
        account.close()
