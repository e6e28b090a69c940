"""Frames: strict from devices, lenient from servers, and the same mutation again after the way over the wire."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from roost.core.commands import Mutation, Op
from roost.core.edits import Edit
from roost.sync import frames

MUTATION = Mutation(
    3,
    2,
    1_769_860_800_000_000,
    (
        Op("put", "notes", "k", b'{"a":[1,null]}', edits=(Edit("set", "/a", [1, None]),)),
        Op("put", "notes", "l", b"1"),
        Op("edit", "notes", "m", edits=(Edit("unset", "/x"), Edit("add", "/s", {"y": 1}))),
        Op("delete", "notes", "n"),
    ),
)


def test_a_mutation_is_the_same_after_the_wire() -> None:
    sent = frames.encode(frames.Push((frames.mutation_frame(MUTATION),)))
    received = frames.client_frame(sent)
    assert isinstance(received, frames.Push)
    assert frames.mutation_of(received.mutations[0]) == MUTATION


def test_what_is_left_out_is_not_sent() -> None:
    assert json.loads(frames.encode(frames.Hello())) == {"type": "hello"}
    assert json.loads(frames.encode(frames.Refused("overloaded", "x"))) == {
        "type": "refused",
        "code": "overloaded",
        "detail": "x",
    }


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"type": "welcome"},
        {"type": "hello", "more": 1},
        {"type": "hello", "after": -1},
        {"type": "hello", "after": 2**53 + 1},
        {"type": "hello", "after": None},
        {"type": "token"},
        {"type": "read", "seq": 1.5},
        {"type": "push"},
        {"type": "push", "mutations": []},
        {"type": "push", "mutations": [{"number": 1, "base": 0, "clock": 0, "ops": []}]},
        {"type": "push", "mutations": [{"number": 1, "base": 0, "clock": 0, "ops": [{"op": "put"}]}]},
    ],
)
def test_a_server_refuses_what_it_does_not_know(frame: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        frames.client_frame(json.dumps(frame).encode())


def test_a_device_passes_over_what_it_does_not_know() -> None:
    told = {"type": "events", "events": [], "seq": 3, "live": True, "more": 1}
    assert frames.server_frame(json.dumps(told).encode()) == frames.Events((), 3, live=True)
