"""Which request each operation is, and how its answer reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from roost.client.asking import Condition
from roost.client.errors import InvalidJson, InvalidName, InvalidRequest, RoostError, Unavailable, VersionConflict
from roost.client.exchange import Answer, Limits, Lost, Request
from roost.client.models import Document, Event, Versioned
from roost.client.protocol import Docs, Ops, User, ready, users_page
from tests.unit.client.script import Script, ok, problem

ANY = Condition()
AT = datetime(2026, 11, 22, 10, tzinfo=UTC)


def docs(script: Script, collection: str = "prefs") -> Docs:
    return Docs(script.session(), "ada", collection)


def line(request: Request) -> str:
    return f"{request.method} {request.url.removeprefix('http://h/base')}"


def test_get_reads_value_version_seq_and_time() -> None:
    script = Script(ok({"theme": "dark"}))
    assert script.play(docs(script).get("ui", None, None)) == Document("prefs", "ui", {"theme": "dark"}, 7, 7, AT)
    assert line(script.sent[0]) == "GET /v1/users/ada/docs/prefs/ui"
    assert script.sent[0].headers["authorization"] == "Bearer t"


def test_get_gives_none_where_there_is_none() -> None:
    script = Script(problem(404, "not_found"), problem(404, "not_found"), problem(404, "not_found"))
    assert script.play(docs(script).get("ui", None, None)) is None
    assert script.play(docs(script).version("ui")) is None
    assert script.play(docs(script).refresh(Document("prefs", "ui", 1, 7, 7, AT))) is None


def test_a_null_is_a_value() -> None:
    script = Script(ok(None))
    document = script.play(docs(script).get("ui", None, None))
    assert document is not None
    assert document.value is None


def test_moments_of_the_past() -> None:
    script = Script(ok(), ok())
    script.play(docs(script).get("ui", 3, None))
    script.play(docs(script).get("ui", None, AT))
    assert [line(request).partition("?")[2] for request in script.sent] == [
        "at_seq=3",
        "at=2026-11-22T10%3A00%3A00%2B00%3A00",
    ]
    with pytest.raises(InvalidRequest, match="time zone"):
        script.play(docs(script).get("ui", None, datetime(2026, 1, 1)))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("key", "segment"),
    [
        ("a b", "a%20b"),
        ("ö?#%", "%C3%B6%3F%23%25"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        ("a:b@c|d~e", "a%3Ab%40c%7Cd~e"),
    ],
)
def test_keys_are_encoded_so_that_nothing_on_the_way_changes_them(key: str, segment: str) -> None:
    script = Script(ok())
    script.play(docs(script).get(key, None, None))
    assert script.sent[0].url.rpartition("/")[2] == segment


@pytest.mark.parametrize("key", ["", "a/b", "a\nb", "x" * 201, "\ud800"])
def test_names_that_are_none_are_refused_before_anything_is_sent(key: str) -> None:
    script = Script()
    with pytest.raises(InvalidName):
        script.play(docs(script).get(key, None, None))
    with pytest.raises(InvalidName):
        Ops(None).delete("prefs", key)


def test_names_of_users_and_collections_too() -> None:
    with pytest.raises(InvalidName):
        User(Script().session(), "../admin")
    with pytest.raises(InvalidName):
        docs(Script(), "Prefs")


@pytest.mark.parametrize(
    ("condition", "headers"),
    [
        (ANY, {}),
        (Condition(version=7), {"if-match": '"7"'}),
        (Condition(version=0), {"if-none-match": "*"}),
        (Condition(absent=True), {"if-none-match": "*"}),
        (Condition(present=True), {"if-match": "*"}),
    ],
)
def test_conditions_are_preconditions(condition: Condition, headers: dict[str, str]) -> None:
    script = Script(*[ok({})] * 5)
    it = docs(script)
    script.play(it.put("k", 1, condition, None))
    script.play(it.merge("k", {}, condition, None))
    script.play(it.patch("k", [], condition, None))
    script.play(it.delete("k", condition, None))
    script.play(it.restore("k", 1, condition, None))
    for request in script.sent:
        assert {name: value for name, value in request.headers.items() if name.startswith("if-")} == headers


def test_two_conditions_are_one_too_many() -> None:
    for condition in (Condition(version=1, absent=True), Condition(absent=True, present=True)):
        with pytest.raises(InvalidRequest):
            condition.headers()


def test_put_spares_the_way_back() -> None:
    script = Script(Answer(204, ok().headers, b""))
    document = script.play(docs(script).put("ui", {"a": [1, "é"]}, ANY, None))
    assert document == Document("prefs", "ui", {"a": [1, "é"]}, 7, 7, AT)
    assert script.sent[0].content == '{"a":[1,"é"]}'.encode()
    assert script.sent[0].headers["prefer"] == "return=minimal"


def test_patches_have_their_media_types_and_give_the_value() -> None:
    script = Script(ok({"a": 2}), ok({"a": 3}))
    assert script.play(docs(script).merge("ui", {"a": 2}, ANY, None)).value == {"a": 2}
    operations = [{"op": "replace", "path": "/a", "value": 3}]
    assert script.play(docs(script).patch("ui", operations, ANY, None)).value == {"a": 3}
    assert [request.headers["content-type"] for request in script.sent] == [
        "application/merge-patch+json",
        "application/json-patch+json",
    ]


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**53 + 1, {"a": [-(2**53) - 2]}, "\ud800", "a\0b", (float("nan"),), object()],
)
def test_what_is_no_json_is_refused_here(value: Any) -> None:
    script = Script()
    with pytest.raises(InvalidJson):
        script.play(docs(script).put("ui", value, ANY, None))


def test_typed_values_are_written_as_plain_json() -> None:
    @dataclass
    class Size:
        width: int
        seen: datetime

    script = Script(ok())
    document = script.play(docs(script).put("ui", {1: (Size(3, AT),)}, ANY, None))
    assert document.value == {"1": [{"width": 3, "seen": "2026-11-22T10:00:00Z"}]}
    assert msgspec.json.decode(script.sent[0].content or b"") == document.value


def test_what_was_written_does_not_change_with_what_was_given() -> None:
    value = {"a": [1]}
    script = Script(ok())
    document = script.play(docs(script).put("ui", value, ANY, None))
    value["a"].append(2)
    assert document.value == {"a": [1]}


def test_nesting_without_end_is_refused_here() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidJson):
        Script().play(docs(Script()).put("ui", value, ANY, None))


def test_refresh_sends_nothing_back_that_is_known() -> None:
    script = Script(Answer(304, {"etag": '"7"'}, b""), ok(2))
    before = Document("prefs", "ui", 1, 7, 7, AT)
    assert script.play(docs(script).refresh(before)) is before
    after = script.play(docs(script).refresh(before))
    assert after is not None
    assert after.value == 2
    assert script.sent[0].headers["if-none-match"] == '"7"'


def test_an_etag_that_a_proxy_weakened_still_reads() -> None:
    script = Script(ok(1, etag='W/"12"'))
    document = script.play(docs(script).get("ui", None, None))
    assert document is not None
    assert document.version == 12


@pytest.mark.parametrize("broken", ["etag", "roost-seq", "last-modified"])
def test_what_does_not_answer_like_roost_is_said_to(broken: str) -> None:
    answer = ok(1)
    script = Script(Answer(200, {**answer.headers, broken: "?"}, answer.body), Answer(200, answer.headers, b"<html>"))
    for _ in range(2):
        with pytest.raises(RoostError, match="Roost server"):
            script.play(docs(script).get("ui", None, None))


def test_update_replaces_the_version_that_it_read() -> None:
    script = Script(ok({"n": 1}), ok())
    script.play(docs(script).update("ui", lambda value: {"n": value["n"] + 1}))
    assert script.sent[1].headers["if-match"] == '"7"'
    assert script.sent[1].content == b'{"n":2}'


def test_update_makes_what_is_not_there() -> None:
    script = Script(problem(404, "not_found"), ok())
    script.play(docs(script).update("ui", lambda value: [value]))
    assert script.sent[1].headers["if-none-match"] == "*"
    assert script.sent[1].content == b"[null]"


def test_update_starts_again_from_what_it_lost_to_without_another_read() -> None:
    script = Script(
        ok(1), problem(412, "version_conflict", current={"version": 9, "value": 5}),
        problem(412, "version_conflict", current=None), ok(),
    )  # fmt: skip
    seen: list[object] = []

    def change(value: object) -> object:
        seen.append(value)
        return value

    script.play(docs(script).update("ui", change))
    assert seen == [1, 5, None]
    assert [request.method for request in script.sent] == ["GET", "PUT", "PUT", "PUT"]
    assert [request.headers.get("if-match") for request in script.sent] == [None, '"7"', '"9"', None]
    assert len({request.headers["idempotency-key"] for request in script.sent[1:]}) == 3


def test_update_gives_up_in_the_end() -> None:
    conflict = problem(412, "version_conflict", current={"version": 9, "value": 5})
    script = Script(ok(1), *[conflict] * 3)
    calls = Docs(script.session(limits=Limits(conflicts=3)), "ada", "prefs")
    with pytest.raises(VersionConflict):
        script.play(calls.update("ui", lambda value: value))


def test_pages_carry_prefix_limit_and_cursor() -> None:
    item = {"key": "k", "version": 3, "value": 1, "updated_at": "2026-11-22T10:00:00.000000Z", "new_field": 1}
    script = Script(ok({"items": [item], "next": "c2"}))
    page = script.play(docs(script).page("a b", "c1", 10))
    assert line(script.sent[0]) == "GET /v1/users/ada/docs/prefs?prefix=a+b&limit=10&after=c1"
    assert page.items == (Document("prefs", "k", 1, 3, 7, AT),)
    assert page.next == "c2"


def test_history_snapshot_and_user() -> None:
    past = {
        "version": 3,
        "kind": "delete",
        "value": None,
        "at": "2026-11-22T10:00:00Z",
        "actor": "admin",
        "device": None,
    }
    script = Script(
        ok({"items": [past], "next": None}),
        ok({"user": "ada", "seq": 4, "docs": {"prefs": {"ui": {"version": 2, "value": 1}}}}),
        ok(
            {"user": "ada", "home": "eu", "seq": 4, "floor": 0, "created_at": "2026-11-22T10:00:00Z", "collections": {}}
        ),
    )
    assert script.play(docs(script).history_page("ui", "9", 5)).items[0].at == AT
    user = User(script.session(), "ada")
    assert script.play(user.snapshot(4, None)).docs["prefs"]["ui"] == Versioned(2, 1)
    assert script.play(user.create("eu")).home == "eu"
    assert [line(request) for request in script.sent] == [
        "GET /v1/users/ada/docs/prefs/ui/history?limit=5&before=9",
        "GET /v1/users/ada/docs?at_seq=4",
        "PUT /v1/users/ada",
    ]
    assert script.sent[2].content == b'{"home":"eu"}'


def test_a_batch_is_one_request_under_one_key_however_often_it_is_committed() -> None:
    batch = (
        Ops(None)
        .put("carts", "main", {"n": 1}, if_version=3)
        .merge("prefs", "ui", {"a": None}, if_version=0)
        .patch("prefs", "x", [{"op": "test", "path": "", "value": 1}])
        .delete("wishes", "1")
    )
    answer = ok({"seq": 12, "results": [{"collection": "carts", "key": "main", "version": 9}]})
    script = Script(answer, answer, ok())
    session = script.session()
    committed = script.play(User(session, "ada").commit(batch))
    script.play(User(session, "ada").commit(batch))
    assert (committed.seq, committed.results[0].version) == (12, 9)
    assert session.at_least("ada") == 12
    assert script.sent[0].headers["idempotency-key"] == script.sent[1].headers["idempotency-key"]
    assert msgspec.json.decode(script.sent[0].content or b"") == {
        "ops": [
            {"op": "put", "collection": "carts", "key": "main", "value": {"n": 1}, "if_version": 3},
            {"op": "merge", "collection": "prefs", "key": "ui", "patch": {"a": None}, "if_version": 0},
            {"op": "patch", "collection": "prefs", "key": "x", "patch": [{"op": "test", "path": "", "value": 1}]},
            {"op": "delete", "collection": "wishes", "key": "1"},
        ]
    }
    assert len(batch) == 4


EVENT = {
    "seq": 3, "kind": "put", "collection": "prefs", "key": "ui", "value": {"a": 1.0},
    "at": "2026-11-22T10:00:00.000001Z", "actor": "user:ada", "device": "phone", "mutation": 4,
}  # fmt: skip


def test_events_narrow_wait_and_resume() -> None:
    script = Script(ok({"events": [EVENT], "seq": 5, "floor": 0}), ok({"events": [], "seq": 5, "floor": 0}))
    user = User(script.session(), "ada")
    log = script.play(user.events(2, 10, 2.5, ["prefs", "carts"]))
    script.play(user.events(5, None, 0.0, "prefs"))  # a name alone is no list of letters
    assert (log.seq, log.events[0].key) == (5, "ui")
    assert [line(request) for request in script.sent] == [
        "GET /v1/users/ada/events?after=2&limit=10&wait=2.5&collections=prefs%2Ccarts",
        "GET /v1/users/ada/events?after=5&collections=prefs",
    ]


def test_an_exported_event_goes_back_as_it_came() -> None:
    event = msgspec.convert(EVENT, Event)
    script = Script(ok({"seq": 3}))
    assert script.play(User(script.session(), "ada").append_events([event])) == 3
    assert msgspec.json.decode(script.sent[0].content or b"") == {"events": [EVENT]}


def test_following_waits_through_empty_answers_and_outages() -> None:
    empty = ok({"events": [], "seq": 2, "floor": 0})
    script = Script(empty, *[Lost("refused")] * 16, empty, ok({"events": [EVENT], "seq": 3, "floor": 0}))
    log = script.play(User(script.session(), "ada").next_events(2, 25.0, None))
    assert log.seq == 3


def test_following_moves_over_what_was_left_out() -> None:
    script = Script(ok({"events": [], "seq": 9, "floor": 0}))
    assert script.play(User(script.session(), "ada").next_events(2, 25.0, ["prefs"])).seq == 9


def test_following_gives_up_after_a_long_outage() -> None:
    script = Script(*[Lost("refused")] * 10_000)
    limits = Limits(outage_s=100.0, attempts=2, backoff_s=1.0)
    with pytest.raises(Unavailable):
        script.play(User(script.session(limits=limits), "ada").next_events(2, 25.0, None))
    assert 100.0 <= script.now - 1000.0 < 110.0


def test_users_and_ready() -> None:
    script = Script(ok({"items": [], "next": None}), ok({"status": "ok"}))
    assert script.play(users_page(script.session(), "c1", 50)).items == ()
    script.play(ready(script.session()))
    assert [line(request) for request in script.sent] == ["GET /v1/users?after=c1&limit=50", "GET /readyz"]
