"""The checker of histories finds what is wrong: each kind of trouble, put into a history in which all is well."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.history import Change, Logs, Read, Write, violations


def event(seq: int, key: str, value: Any) -> dict[str, Any]:
    return {"seq": seq, "collection": "notes", "key": key, "value": value}


def put(value: str, key: str = "a") -> Change:
    return Change("notes", key, value)


WRITES = [
    Write("ada", (put("one"),), "accepted", began=0, ended=10, seq=1),
    Write("ada", (put("two"), put("three", "b")), "accepted", began=5, ended=20, seq=3),
    Write("ada", (Change("notes", "b", None),), "accepted", began=21, ended=30, seq=4),
    Write("ada", (put("lost"),), "unknown", began=22),
    Write("ada", (put("never"),), "unknown", began=23),
    Write("ada", (put("no"),), "refused", began=24, ended=25),
]
READS = [
    Read("ada", 11, 12, 1, {("notes", "a"): (1, "one")}),
    Read("ada", 11, 13, None, {("notes", "b"): None}),
    Read("ada", 21, 22, 3, {("notes", "a"): (2, "two"), ("notes", "b"): (3, "three")}, whole=True),
    Read("ada", 31, 32, 5, {("notes", "a"): (5, "lost")}, whole=True),
]
LOG = [event(1, "a", "one"), event(2, "a", "two"), event(3, "b", "three"), event(4, "b", None), event(5, "a", "lost")]


def test_a_history_in_which_all_is_well() -> None:
    assert violations(WRITES, READS, {"ada": LOG}) == []


def test_nothing_is_asked_of_users_that_nobody_used() -> None:
    assert violations([], [], {"ada": LOG}) == []


WRONG: dict[str, tuple[list[Write], list[Read], Logs, str]] = {
    "a gap": (WRITES, READS, {"ada": [*LOG[:2], *LOG[3:]]}, "gap"),
    "the end of the log is lost": (WRITES, READS, {"ada": LOG[:3]}, "not there as it was written"),
    "all of the log is lost": (WRITES, [], {}, "not there as it was written"),
    "another value": (WRITES, [], {"ada": [event(1, "a", "other"), *LOG[1:]]}, "not there as it was written"),
    "another key": (WRITES, [], {"ada": [event(1, "b", "one"), *LOG[1:]]}, "not there as it was written"),
    "a write carried out twice": (WRITES, READS, {"ada": [*LOG, event(6, "a", "one")]}, "nobody wrote"),
    "an unknown one carried out twice": (WRITES, READS, {"ada": [*LOG, event(6, "a", "lost")]}, "nobody wrote"),
    "a refused one carried out": (WRITES, READS, {"ada": [*LOG, event(6, "a", "no")]}, "was refused, and is there"),
    "a write of nobody's": (WRITES, READS, {"ada": [*LOG, event(6, "a", "new")]}, "nobody wrote"),
    "half of an unknown write": (
        [*WRITES, Write("ada", (put("half"), put("whole", "b")), "unknown", began=40)],
        READS,
        {"ada": [*LOG, event(6, "b", "whole")]},
        "not there as it was written",
    ),
    "two writes with one seq": (
        [*WRITES, Write("ada", (put("one"),), "accepted", began=0, ended=10, seq=1)],
        READS,
        {"ada": LOG},
        "two writes claim 1",
    ),
    "a later write with an earlier seq": (
        [Write("ada", (put("one"),), "accepted", 20, 30, 1), Write("ada", (put("two"),), "accepted", 0, 10, 2)],
        [],
        {"ada": LOG[:2]},
        "before this was asked",
    ),
    "an unknown write before what it came after": (
        [Write("ada", (put("one"),), "unknown", 20), Write("ada", (put("two"),), "accepted", 0, 10, 2)],
        [],
        {"ada": LOG[:2]},
        "before this was asked",
    ),
    "a read that does not see what was acknowledged": (
        WRITES,
        [Read("ada", 21, 22, 1, {("notes", "a"): (1, "one")})],
        {"ada": LOG},
        "before this was asked",
    ),
    "a read that goes back": (
        WRITES,
        [Read("ada", 6, 7, 3, {("notes", "a"): (2, "two")}), Read("ada", 8, 9, 1, {("notes", "a"): (1, "one")})],
        {"ada": LOG},
        "before this was asked",
    ),
    "a read that sees what is not written yet": (
        WRITES,
        [Read("ada", 15, 20, 4, {("notes", "b"): None})],
        {"ada": LOG},
        "before this was asked",
    ),
    "a read ahead of the log": (WRITES, [Read("ada", 40, 41, 6, {("notes", "b"): None})], {"ada": LOG}, "no prefix"),
    "an old value": (WRITES, [Read("ada", 40, 41, 5, {("notes", "a"): (2, "two")})], {"ada": LOG}, "no prefix"),
    "a wrong version": (WRITES, [Read("ada", 40, 41, 5, {("notes", "a"): (4, "lost")})], {"ada": LOG}, "no prefix"),
    "a document that is gone": (
        WRITES,
        [Read("ada", 40, 41, 5, {("notes", "b"): (3, "three")})],
        {"ada": LOG},
        "no prefix",
    ),
    "a snapshot that lacks one": (
        WRITES,
        [Read("ada", 21, 22, 3, {("notes", "a"): (2, "two")}, whole=True)],
        {"ada": LOG},
        "no prefix",
    ),
    "a snapshot of two moments": (
        WRITES,
        [Read("ada", 21, 22, 3, {("notes", "a"): (1, "one"), ("notes", "b"): (3, "three")}, whole=True)],
        {"ada": LOG},
        "no prefix",
    ),
    "a document that was there already": (
        WRITES,
        [Read("ada", 11, 12, None, {("notes", "a"): None})],
        {"ada": LOG},
        "no prefix",
    ),
    "a document that was not gone yet": (
        WRITES,
        [Read("ada", 6, 7, 3, {("notes", "b"): (3, "three")}), Read("ada", 8, 9, None, {("notes", "b"): None})],
        {"ada": LOG},
        "no prefix",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_trouble_is_found(name: str) -> None:
    writes, reads, logs, text = WRONG[name]
    assert any(text in found for found in violations(writes, reads, logs)), violations(writes, reads, logs)
