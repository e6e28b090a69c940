"""Pushes over HTTP: what the gate is asked for, what is refused as a whole, and what in its turn."""

from __future__ import annotations

import json
from typing import Any

import pytest

from roost.commands.pushes import MutationGap
from roost.core.commands import Flaw, Mutation, Op, Push
from roost.core.edits import Edit
from roost.core.errors import Code, RoostError
from roost.core.ports import EngineUnavailable
from tests.unit.wire.support import JSON, Response, Server

PATH = "/v1/users/ada/push"
PUT = {"op": "put", "collection": "notes", "key": "k", "value": 1}


def push(server: Server, *ops: Any, **members: Any) -> Response:
    mutation = {"number": 1, "base": 0, "clock": 5, "ops": list(ops)}
    return server("POST", PATH, {"device": "phone", "mutations": [mutation], **members}, JSON)


def asked(server: Server) -> Mutation:
    """The one mutation that the gate was asked for."""
    ((method, command),) = server.gate.asked
    assert method == "push"
    assert (command.user, command.device, command.actor) == ("ada", "phone", "user:ada")
    (mutation,) = command.mutations
    assert isinstance(mutation, Mutation)
    return mutation


def test_a_push_is_carried_out_and_answered(server: Server) -> None:
    edit = {"op": "edit", "collection": "carts", "key": "main", "edits": [{"op": "inc", "path": "/n", "value": 2}]}
    put = PUT | {"edits": [{"op": "unset", "path": "/a"}]}
    response = push(server, put, edit, {"op": "delete", "collection": "notes", "key": "é"})
    assert response.json == {"seq": 10, "results": [{"number": 1, "status": "applied", "seq": 10}]}
    assert response.headers["roost-seq"] == "10"
    assert asked(server) == Mutation(
        1,
        0,
        5,
        (
            Op("put", "notes", "k", b"1", edits=(Edit("unset", "/a"),)),
            Op("edit", "carts", "main", edits=(Edit("inc", "/n", 2),)),
            Op("delete", "notes", "é"),
        ),
    )


@pytest.mark.parametrize(
    "value", ['{"b": 1.50, "a" : "\\u00e9\\/"}', "[ 1e2, -0 ]", '" x "', "9007199254740992", "null", "1.0"]
)
def test_a_value_is_stored_as_a_put_would_store_it(server: Server, value: str) -> None:
    op = json.dumps(PUT).replace('"value": 1', f'"value": {value}')
    body = f'{{"device":"phone","mutations":[{{"number":1,"base":0,"clock":5,"ops":[{op}]}}]}}'.encode()
    assert server("POST", PATH, body, JSON).status == 200
    pushed = asked(server).ops[0].argument
    server("PUT", "/v1/users/ada/docs/notes/k", value.encode(), JSON)
    assert pushed == server.change.ops[0].argument


@pytest.mark.parametrize(
    ("op", "code", "pointer"),
    [
        (PUT | {"collection": "Notes"}, Code.INVALID_NAME, "/ops/0"),
        (PUT | {"key": ""}, Code.INVALID_NAME, "/ops/0"),
        (PUT | {"value": "x" * (256 << 10)}, Code.TOO_LARGE, "/ops/0/value"),
        (PUT | {"value": json.loads("[" * 65 + "]" * 65)}, Code.INVALID_JSON, "/ops/0/value"),
        (PUT | {"edits": [{"op": "unset", "path": ""}]}, Code.INVALID_REQUEST, "/ops/0/edits/0"),
        (PUT | {"edits": [{"op": "set", "path": "/a"}]}, Code.INVALID_REQUEST, "/ops/0/edits/0"),
        (PUT | {"edits": [{"op": "unset", "path": "/a"}] * 501}, Code.TOO_LARGE, "/ops/0/edits"),
    ],
)
def test_what_can_never_take_effect_is_answered_in_its_turn(
    server: Server, op: dict[str, Any], code: Code, pointer: str
) -> None:
    assert push(server, op, PUT).status == 200
    flaw = asked(server).flaw
    assert isinstance(flaw, Flaw)
    assert (flaw.code, flaw.pointer) == (code, pointer)


def test_too_many_ops_and_too_many_mutations_are_refused(server: Server) -> None:
    response = push(server, *[PUT] * 501)
    assert response.refusal == (413, "too_large")
    assert response.json["errors"][0]["pointer"] == "/mutations/0/ops"
    mutations = [{"number": number, "base": 0, "clock": 5, "ops": [PUT]} for number in range(1, 102)]
    response = push(server, mutations=mutations)
    assert response.refusal == (413, "too_large")


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"mutations": []}, "/mutations"),
        ({"mutations": [{"number": 0, "base": 0, "clock": 5, "ops": [PUT]}]}, "/mutations/0/number"),
        ({"mutations": [{"number": 1, "base": -1, "clock": 5, "ops": [PUT]}]}, "/mutations/0/base"),
        ({"mutations": [{"number": 1, "base": 0, "clock": 5, "ops": []}]}, "/mutations/0/ops"),
        ({"mutations": [{"number": 1, "base": 0, "clock": 5, "ops": [PUT], "more": 1}]}, "/mutations/0"),
        ({"mutations": [{"number": 1, "base": 0, "clock": 5, "ops": [PUT | {"more": 1}]}]}, "/mutations/0/ops/0"),
        ({"mutations": [{"number": 1, "base": 0, "clock": 5, "ops": [PUT | {"op": "x"}]}]}, "/mutations/0/ops/0"),
        ({"more": 1}, ""),
    ],
)
def test_what_is_no_push_is_refused(server: Server, members: dict[str, Any], pointer: str) -> None:
    response = push(server, PUT, **members)
    assert response.refusal == (400, "invalid_request")
    assert response.json["errors"][0]["pointer"].startswith(pointer)
    assert not server.gate.asked


@pytest.mark.parametrize("value", ["1e400", "9007199254740993", '{"a":1,"a":2}', '"\\ud800"', "NaN"])
def test_json_that_would_not_be_read_back_is_refused(server: Server, value: str) -> None:
    op = json.dumps(PUT).replace('"value": 1', f'"value": {value}')
    body = f'{{"device":"phone","mutations":[{{"number":1,"base":0,"clock":5,"ops":[{op}]}}]}}'.encode()
    assert server("POST", PATH, body, JSON).refusal == (400, "invalid_json")


def test_a_device_has_a_name(server: Server) -> None:
    assert push(server, PUT, device="a b").refusal == (400, "invalid_name")


def test_refusals_of_the_whole_are_problems(server: Server) -> None:
    server.gate.outcomes["push"] = MutationGap(7)
    response = push(server, PUT)
    assert response.refusal == (409, "mutation_gap")
    assert response.json["expected"] == 7
    server.gate.outcomes["push"] = RoostError(Code.CURSOR_AHEAD, "The log stands at 9.", pointer="/mutations/0/base")
    response = push(server, PUT)
    assert response.refusal == (409, "cursor_ahead")
    assert "expected" not in response.json
    server.gate.outcomes["push"] = EngineUnavailable("away")
    assert push(server, PUT).refusal == (503, "unavailable")


def test_devices_are_listed(server: Server) -> None:
    told = server.get("/v1/users/ada/devices").json["items"]
    assert [(one["device"], one["connected"], one["cursor"], one["number"]) for one in told] == [
        ("laptop", False, 3, 0),
        ("phone", True, 9, 7),
    ]
    assert told[0]["seen_at"] == "2026-01-31T12:00:05.250000Z"


def test_the_actor_is_whoever_pushes(server: Server) -> None:
    body = {"device": "phone", "mutations": [{"number": 1, "base": 0, "clock": 5, "ops": [PUT]}]}
    server("POST", PATH, body, JSON, token=server.issue("service", "sync"))
    ((_, command),) = server.gate.asked
    assert isinstance(command, Push)
    assert command.actor == "service:sync"
