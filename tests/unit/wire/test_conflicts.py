"""The inbox over HTTP."""

from __future__ import annotations

import pytest

from roost.core.commands import Op
from roost.core.errors import Code, RoostError
from roost.core.events import Document
from roost.core.ids import INBOX
from roost.core.moment import Moment
from roost.core.ports import Page
from tests.unit.wire.support import AT, HEAD, Server, accepted, event

CONFLICTS = "/v1/users/ada/conflicts"
STORED = b'{"at":"2026-01-31T12:00:00Z","policy":"lww","lost":{"value":1.0}}'


def inbox(*keys: str, more: bool = False) -> Page:
    return Page(HEAD, [Document(INBOX, key, 7, STORED, AT) for key in keys], more)


def test_conflicts_have_their_key_as_an_id(server: Server) -> None:
    server.gate.outcomes["page"] = inbox("0000000000000045")
    response = server.get(CONFLICTS)
    assert response.body == b'{"items":[{"id":"0000000000000045",' + STORED[1:] + b'],"next":null}'
    assert response.headers["roost-seq"] == "9"
    assert server.gate.asked == [("page", "ada", INBOX, "", None, 100, Moment())]


def test_the_inbox_comes_in_pages(server: Server) -> None:
    server.gate.outcomes["page"] = inbox("1", "2", more=True)
    cursor = server.get(f"{CONFLICTS}?limit=2").json["next"]
    server("GET", f"{CONFLICTS}?after={cursor}", headers={"roost-at-least": "9"})
    assert server.gate.asked[-1] == ("page", "ada", INBOX, "", "2", 100, Moment(at_least=9))
    for target in (f"/v1/users/bob/conflicts?after={cursor}", f"/v1/users/ada/docs/{INBOX}?after={cursor}"):
        assert server.get(target).refusal == (400, "invalid_request")


def test_a_conflict_is_dismissed(server: Server) -> None:
    server.gate.outcomes["change"] = accepted(event(46, None))
    response = server("DELETE", f"{CONFLICTS}/0000000000000045", headers={"idempotency-key": "k"})
    assert (response.status, response.body, response.headers["etag"]) == (204, b"", '"46"')
    assert server.gate.asked[-1][1].ops == (Op("delete", INBOX, "0000000000000045"),)
    assert server.gate.asked[-1][1].idempotency.key == "k"


def test_a_conflict_that_is_not_there_is_not_found(server: Server) -> None:
    server.gate.outcomes["change"] = RoostError(Code.NOT_FOUND, "There is no such document.")
    assert server("DELETE", f"{CONFLICTS}/1").refusal == (404, "not_found")


@pytest.mark.parametrize("key", ["%0A", "%2F", "x" * 201])
def test_a_bad_id_is_refused(server: Server, key: str) -> None:
    assert server("DELETE", f"{CONFLICTS}/{key}").refusal == (400, "invalid_name")
