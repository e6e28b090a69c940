"""Users: how they come into being, what is told of them, and the list of all."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.api import Account, delete_op, problem, put_op
from tests.support.server import Server


def test_a_user_is_created_once(ada: Account) -> None:
    problem(ada.http.get(ada.at()), 404, "not_found")
    created = ada.http.put(ada.at())
    assert (created.status_code, created.headers["roost-seq"]) == (201, "0")
    told = created.json()
    assert told.keys() == {"user", "home", "seq", "floor", "created_at", "collections"}
    assert (told["user"], told["seq"], told["floor"], told["collections"]) == (ada.user, 0, 0, {})
    assert abs(datetime.now(UTC) - datetime.fromisoformat(told["created_at"])) < timedelta(minutes=5)
    again = ada.http.put(ada.at())
    assert (again.status_code, again.json()) == (200, told)
    assert ada.head() == told


def test_a_user_may_be_given_the_home_of_this_server(ada: Account) -> None:
    home = ada.http.put(ada.at()).json()["home"]
    assert ada.http.put(ada.at(), json={"home": home}).status_code == 200


def test_a_home_elsewhere_is_refused(ada: Account) -> None:
    problem(ada.http.put(ada.at(), json={"home": "atlantis"}), 400, "invalid_request", "/home")
    problem(ada.http.get(ada.at()), 404, "not_found")
    ada.http.put(ada.at())
    problem(ada.http.put(ada.at(), json={"home": "atlantis"}), 400, "invalid_request", "/home")


def test_an_empty_object_is_as_good_as_no_body(ada: Account) -> None:
    assert ada.http.put(ada.at(), json={}).status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [([], ""), (None, ""), ("eu", ""), ({"home": None}, "/home"), ({"home": 1}, "/home"), ({"hom": "local"}, "")],
)
def test_a_body_of_another_shape_is_told_where(ada: Account, body: Any, pointer: str) -> None:
    headers = {"content-type": "application/json"}
    refused = ada.http.put(ada.at(), content=json.dumps(body), headers=headers)
    problem(refused, 400, "invalid_request", pointer)
    problem(ada.http.get(ada.at()), 404, "not_found")


def test_a_body_of_another_media_type_is_refused(ada: Account) -> None:
    refused = ada.http.put(ada.at(), content=b"{}", headers={"content-type": "text/plain"})
    problem(refused, 415, "unsupported_media_type")


def test_the_first_write_brings_a_user_into_being(account: Callable[[], Account]) -> None:
    ways: list[Callable[[Account], Any]] = [
        lambda user: user.put("notes", "k", 1),
        lambda user: user.merge("notes", "k", {}),
        lambda user: user.batch(put_op("notes", "k", 1)),
    ]
    for way in ways:
        user = account()
        assert way(user).is_success
        assert user.head()["seq"] == 1


def test_a_refused_first_write_does_not(ada: Account) -> None:
    for refused in (
        ada.put("notes", "k", 1, if_match="*"),
        ada.delete("notes", "k"),
        ada.patch("notes", "k", []),
        ada.restore("notes", "k", 1),
        ada.batch(put_op("notes", "k", 1), delete_op("notes", "none")),
        ada.put_raw("notes", "k", b"{"),
        ada.put_raw("Notes", "k", b"1"),
    ):
        assert refused.is_client_error
        problem(ada.http.get(ada.at()), 404, "not_found")


def test_a_user_tells_how_many_documents_there_are(ada: Account) -> None:
    ada.batch(put_op("notes", "a", 1), put_op("notes", "b", 1), put_op("other", "c", 1), put_op("notes", "a", 2))
    assert ada.head()["collections"] == {"notes": 2, "other": 1}
    ada.delete("other", "c")
    assert ada.head()["collections"] == {"notes": 2}
    assert ada.http.get(ada.at()).headers["roost-seq"] == "5"


def test_creating_a_user_later_leaves_the_log_alone(ada: Account) -> None:
    ada.put("notes", "k", 1)
    assert ada.http.put(ada.at()).status_code == 200
    assert ada.head()["seq"] == 1
    assert ada.value("notes", "k") == 1


def test_an_admin_and_a_service_may_create_users(server: Server, account: Callable[[], Account]) -> None:
    for token in (server.admin(), server.service("shop")):
        user = account()
        other = Account(server, user.user, token)
        assert other.http.put(other.at()).status_code == 201
        assert user.head()["seq"] == 0
        other.close()


# The list of all users


def listed(admin: Account, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": limit}
    while True:
        page = admin.http.get("/v1/users", params=params).json()
        assert page.keys() == {"items", "next"}
        assert len(page["items"]) <= limit
        found += page["items"]
        if page["next"] is None:
            return found
        assert len(page["items"]) == limit
        params["after"] = page["next"]


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_together_are_all_users(admin: Account, account: Callable[[], Account], limit: int) -> None:
    mine = [account() for _ in range(5)]
    for user in mine:
        user.put("notes", "k", 1)
    found = {item["user"]: item for item in listed(admin, limit)}
    for user in mine:
        assert found[user.user] == user.head()
    assert len(found) == len(listed(admin, 1000))


def test_the_list_of_users_refuses_what_it_does_not_know(admin: Account, ada: Account) -> None:
    ada.put("notes", "a", 1)
    ada.put("notes", "b", 1)
    for params in ({"limit": 0}, {"limit": 1001}, {"after": "x"}, {"after": ""}, {"prefix": "a"}):
        problem(admin.http.get("/v1/users", params=params), 400, "invalid_request")
    cursor = ada.page("notes", limit=1).json()["next"]
    problem(admin.http.get("/v1/users", params={"after": cursor}), 400, "invalid_request")
