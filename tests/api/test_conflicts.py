"""The inbox: what conflicts between devices set aside is listed and dismissed, and nothing else writes there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from roost.client import NotFound, SyncClient
from tests.support.api import Account, problem

OLD, NEW = 1_000_000, 4_000_000_000_000_000
"""Clocks of devices (µs): one that loses against a write of today, and one that is cut back to a minute from now."""


@pytest.fixture(autouse=True)
def defined(admin: Account) -> None:
    """Collections with the policies that set something aside."""
    for policy in ("cas", "lww", "merge"):
        admin.http.put(f"/v1/collections/inbox_{policy}", json={"conflict": policy})


def push(account: Account, device: str, number: int, base: int, clock: int, *ops: dict[str, Any]) -> dict[str, Any]:
    """The answer to one mutation."""
    mutation = {"number": number, "base": base, "clock": clock, "ops": ops}
    response = account.http.post(account.at("push"), json={"device": device, "mutations": [mutation]})
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    assert isinstance(result, dict)
    return result


def put(collection: str, key: str, value: Any) -> dict[str, Any]:
    return {"op": "put", "collection": collection, "key": key, "value": value}


def conflicts(account: Account, **params: Any) -> dict[str, Any]:
    response = account.http.get(account.at("conflicts"), params=params)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def test_a_value_that_lost_is_kept_for_the_user_to_see(ada: Account) -> None:
    problem(ada.http.get(ada.at("conflicts")), 404, "not_found")
    ada.put("inbox_lww", "ui", {"theme": "light"})
    assert conflicts(ada) == {"items": [], "next": None}
    result = push(ada, "phone", 1, 0, OLD, put("inbox_lww", "ui", {"theme": "dark"}))
    assert result["status"] == "merged"
    (conflict,) = conflicts(ada)["items"]
    assert [conflict["id"]] == result["conflicts"]
    at = conflict.pop("at")
    assert at.endswith("Z")
    assert conflict == {
        "id": conflict["id"],
        "policy": "lww",
        "outcome": "merged",
        "collection": "inbox_lww",
        "key": "ui",
        "device": "phone",
        "mutation": 1,
        "base": 0,
        "kept": {"version": 1, "value": {"theme": "light"}},
        "lost": {"value": {"theme": "dark"}},
    }
    assert ada.value("inbox_lww", "ui") == {"theme": "light"}


def test_a_refused_mutation_says_why(ada: Account) -> None:
    ada.put("inbox_cas", "card", 1)
    result = push(ada, "phone", 1, 0, NEW, put("inbox_cas", "card", 2))
    assert result["status"] == "refused"
    (conflict,) = conflicts(ada)["items"]
    assert (conflict["outcome"], conflict["code"], conflict["policy"]) == ("refused", result["code"], "cas")
    assert conflict["detail"] == result["detail"]
    assert (conflict["kept"], conflict["lost"]) == ({"version": 1, "value": 1}, {"value": 2})


def test_edits_that_lost_are_kept_as_edits(ada: Account) -> None:
    ada.put("inbox_merge", "cart", {"note": "old"})
    ada.merge("inbox_merge", "cart", {"note": "theirs"})
    edits = [{"op": "set", "path": "/note", "value": "mine"}, {"op": "inc", "path": "/apples", "value": 2}]
    op = {"op": "edit", "collection": "inbox_merge", "key": "cart", "edits": edits}
    assert push(ada, "phone", 1, 1, OLD, op)["status"] == "merged"
    assert ada.value("inbox_merge", "cart") == {"note": "theirs", "apples": 2}
    (conflict,) = conflicts(ada)["items"]
    assert conflict["lost"]["edits"] == edits[:1]


def test_the_inbox_is_listed_oldest_first_in_pages(ada: Account, account: Callable[[], Account]) -> None:
    ada.put("inbox_cas", "card", 0)
    ids = [push(ada, "phone", n, 0, NEW, put("inbox_cas", "card", n))["conflicts"][0] for n in range(1, 8)]
    assert [conflict["id"] for conflict in conflicts(ada)["items"]] == ids
    found: list[str] = []
    page = conflicts(ada, limit=3)
    while True:
        found += [conflict["id"] for conflict in page["items"]]
        if page["next"] is None:
            break
        page = conflicts(ada, limit=3, after=page["next"])
    assert found == ids
    bob = account()
    bob.put("notes", "k", 1)
    cursor = conflicts(ada, limit=3)["next"]
    problem(bob.http.get(bob.at("conflicts"), params={"after": cursor}), 400, "invalid_request")


def test_a_conflict_is_dismissed_once_and_stays_in_the_log(ada: Account) -> None:
    ada.put("inbox_cas", "card", 0)
    for number in (1, 2):
        push(ada, "phone", number, 0, NEW, put("inbox_cas", "card", number))
    first, second = conflicts(ada)["items"]
    gone = ada.http.delete(ada.at("conflicts", first["id"]))
    assert (gone.status_code, gone.content) == (204, b"")
    assert int(gone.headers["roost-seq"]) == ada.head()["seq"]
    assert conflicts(ada)["items"] == [second]
    problem(ada.http.delete(ada.at("conflicts", first["id"])), 404, "not_found")
    kinds = [event["kind"] for event in ada.events(collections="roost_conflicts").json()["events"]]
    assert kinds == ["put", "put", "delete"]


def test_nobody_reaches_anothers_inbox(ada: Account, account: Callable[[], Account]) -> None:
    bob = account()
    ada.put("notes", "k", 1)
    problem(bob.http.get(ada.at("conflicts")), 403, "forbidden")
    problem(bob.http.delete(ada.at("conflicts", "0000000000000001")), 403, "forbidden")


def test_an_inbox_is_written_by_nobody(ada: Account, admin: Account) -> None:
    ada.put("inbox_cas", "card", 0)
    push(ada, "phone", 1, 0, NEW, put("inbox_cas", "card", 1))
    before = conflicts(ada)["items"]
    key = before[0]["id"]
    problem(ada.put("roost_conflicts", key, {}), 403, "forbidden")
    problem(ada.restore("roost_conflicts", key, 2), 403, "forbidden")
    problem(admin.http.put(ada.doc("roost_conflicts", key), json={}), 403, "forbidden")
    assert push(ada, "phone", 2, 2, NEW, put("roost_conflicts", key, {}))["code"] == "forbidden"
    assert conflicts(ada)["items"][0] == before[0]


def test_the_python_client_reads_and_dismisses(ada: Account) -> None:
    ada.put("inbox_cas", "card", 0)
    for number in (1, 2, 3):
        push(ada, "phone", number, 0, NEW, put("inbox_cas", "card", number))
    with SyncClient(ada.server.url, ada.token) as client:
        user = client.user(ada.user)
        found = list(user.conflicts(page_size=2))
        assert [(one.mutation, one.lost.value, one.kept.value) for one in found] == [(1, 1, 0), (2, 2, 0), (3, 3, 0)]
        assert all(one.outcome == "refused" and one.code for one in found)
        user.dismiss(found[1].id)
        assert list(user.conflicts()) == [found[0], found[2]]
        with pytest.raises(NotFound):
            user.dismiss(found[1].id)
