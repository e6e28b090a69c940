"""What is tried again, when, and for how long."""

from __future__ import annotations

import itertools

import pytest

from roost.client.asking import Condition
from roost.client.errors import (
    Forbidden,
    Overloaded,
    RoostError,
    Unauthenticated,
    Unavailable,
    Unreachable,
    VersionConflict,
)
from roost.client.exchange import Answer, Ask, Limits, Lost, Session, exchange
from roost.client.protocol import Docs, Ops, User
from tests.unit.client.script import Script, ok, problem

LOST = Lost("connection refused")
READ = Ask("GET", "/v1/x", user="ada")


@pytest.mark.parametrize(
    "failure",
    [
        LOST,
        problem(503, "unavailable"),
        problem(503, "overloaded"),
        problem(429, "rate_limited"),
        Answer(502, {}, b"<html>"),
        Answer(504, {}, b""),
    ],
)
def test_what_may_pass_is_tried_again(failure: Answer | Lost) -> None:
    script = Script(failure, failure, ok())
    assert script.play(exchange(script.session(), READ)).status == 200
    assert len(script.sent) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 422, 428, 500])
def test_what_is_permanent_raises_at_once(status: int) -> None:
    script = Script(problem(status, "whatever"))
    with pytest.raises(RoostError) as caught:
        script.play(exchange(script.session(), READ))
    assert caught.value.status == status
    assert (len(script.sent), script.pauses) == (1, [])


def test_pauses_double_up_to_their_limit_and_are_random_up_to_that() -> None:
    limits = Limits(attempts=6, backoff_s=1.0, backoff_s_max=5.0)
    for chance in (1.0, 0.25, 0.0):
        script = Script(*[LOST] * 6)
        with pytest.raises(Unreachable):
            script.play(exchange(script.session(limits=limits, chance=chance), READ))
        assert script.pauses == [chance * most for most in (1, 2, 4, 5, 5)]


def test_attempts_are_bounded() -> None:
    script = Script(*[problem(503, "overloaded")] * 3)
    with pytest.raises(Overloaded):
        script.play(exchange(script.session(limits=Limits(attempts=3)), READ))
    assert len(script.sent) == 3


def test_the_deadline_bounds_the_whole_call() -> None:
    limits = Limits(deadline_s=10.0, attempt_s=4.0, attempts=100, backoff_s=1.0)
    script = Script(*[LOST] * 100, took_s=4.0)
    with pytest.raises(Unreachable):
        script.play(exchange(script.session(limits=limits), READ))
    # 4 s, a pause of 1 s, 4 s; the next pause would end after 10 s.
    assert script.now == 1009.0
    assert [request.timeout_s for request in script.sent] == [4.0, 4.0]


def test_the_last_attempt_only_has_what_is_left() -> None:
    script = Script(LOST, ok(), took_s=4.0)
    script.play(exchange(script.session(limits=Limits(deadline_s=6.0, attempt_s=4.0, backoff_s=1.0)), READ))
    assert [request.timeout_s for request in script.sent] == [4.0, 1.0]


def test_a_long_poll_has_its_wait_on_top() -> None:
    script = Script(ok())
    script.play(exchange(script.session(), Ask("GET", "/", wait_s=30)))
    assert script.sent[0].timeout_s == 40


def test_retry_after_is_waited_for() -> None:
    dated = {"retry-after": "Sun, 22 Nov 2026 10:00:09 GMT", "date": "Sun, 22 Nov 2026 10:00:05 GMT"}
    script = Script(
        problem(503, "unavailable", headers={"retry-after": "3"}), problem(429, "rate_limited", headers=dated), ok()
    )
    script.play(exchange(script.session(chance=0.0), READ))
    assert script.pauses == [3.0, 4.0]


def test_retry_after_beyond_the_deadline_raises_at_once() -> None:
    script = Script(problem(503, "unavailable", headers={"retry-after": "3600"}))
    with pytest.raises(Unavailable) as caught:
        script.play(exchange(script.session(), READ))
    assert caught.value.retry_after_s == 3600
    assert script.pauses == []


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "Sun, 22 Nov 2026 10:00:09 GMT"])
def test_a_retry_after_that_says_nothing_is_ignored(text: str) -> None:
    script = Script(problem(503, "unavailable", headers={"retry-after": text}), ok())
    script.play(exchange(script.session(chance=0.0), READ))
    assert script.pauses == [0.0]


def test_every_write_carries_one_idempotency_key_through_all_its_attempts() -> None:
    none = Condition()
    keys = set()
    session = Script().session()
    docs = Docs(session, "ada", "preferences")
    user = User(session, "ada")
    for call in (
        docs.put("k", 1, none, None),
        docs.merge("k", {}, none, None),
        docs.patch("k", [], none, None),
        docs.delete("k", none, None),
        docs.restore("k", 1, none, None),
        user.commit(Ops(None).delete("c", "k")),
    ):
        answer = ok({"seq": 7, "results": []})
        script = Script(LOST, problem(503, "unavailable"), answer)
        script.play(call)
        (key,) = {request.headers["idempotency-key"] for request in script.sent}
        assert len(script.sent) == 3
        keys.add(key)
    assert len(keys) == 6


def test_a_write_that_stays_unknown_says_under_which_key_it_was_sent() -> None:
    script = Script(*[LOST] * 8)
    with pytest.raises(Unavailable) as caught:
        script.play(Docs(script.session(), "ada", "c").put("k", 1, Condition(), "mine"))
    assert caught.value.idempotency_key == "mine"
    assert {request.headers["idempotency-key"] for request in script.sent} == {"mine"}


def test_reads_ask_for_what_was_written() -> None:
    script = Script(ok(), ok(1, roost_seq="9"), ok(2, roost_seq="8"), ok())
    session = script.session()
    docs, others = Docs(session, "ada", "c"), Docs(session, "bob", "c")
    script.play(docs.get("k", None, None))
    assert "roost-at-least" not in script.sent[-1].headers  # only writes count, so reads can be spread over replicas
    script.play(docs.put("k", 1, Condition(), None))
    script.play(docs.get("k", None, None))
    assert script.sent[-1].headers["roost-at-least"] == "9"
    script.play(others.get("k", None, None))
    assert "roost-at-least" not in script.sent[-1].headers


def test_a_late_answer_does_not_turn_the_token_back() -> None:
    session = Script().session()
    session.wrote("ada", 9)
    session.wrote("ada", 4)
    assert session.at_least("ada") == 9


def test_only_so_many_users_are_remembered_the_latest() -> None:
    session = Script().session(limits=Limits(users_remembered=2))
    for user in ("a", "b", "a", "c"):
        session.wrote(user, 1)
    assert [session.at_least(user) for user in "abc"] == [1, 0, 1]


def test_a_token_function_is_asked_for_each_call_and_once_more_if_its_token_had_expired() -> None:
    tokens = (f"t{number}" for number in itertools.count(1))
    script = Script(problem(401, "unauthenticated"), ok(), ok())
    session = script.session(token=lambda: next(tokens))
    script.play(exchange(session, READ))
    script.play(exchange(session, READ))
    assert [request.headers["authorization"] for request in script.sent] == ["Bearer t1", "Bearer t2", "Bearer t3"]


def test_a_token_that_stays_the_same_is_not_tried_twice() -> None:
    script = Script(problem(401, "unauthenticated"))
    with pytest.raises(Unauthenticated):
        script.play(exchange(script.session(token=lambda: "old"), READ))


def test_a_refused_fresh_token_ends_it() -> None:
    tokens = iter(["t1", "t2", "t3"])
    script = Script(problem(401, "unauthenticated"), problem(401, "unauthenticated"))
    with pytest.raises(Unauthenticated):
        script.play(exchange(script.session(token=lambda: next(tokens)), READ))


def test_errors_carry_what_the_problem_document_says() -> None:
    script = Script(problem(403, "forbidden", errors=[{"pointer": "/ops/3", "message": "no"}]))
    with pytest.raises(Forbidden) as caught:
        script.play(exchange(script.session(), READ))
    error = caught.value
    assert (error.code, error.status, error.detail, error.request_id) == ("forbidden", 403, "D.", "r1")
    assert (error.errors[0].pointer, error.errors[0].message) == ("/ops/3", "no")
    assert str(error) == "forbidden: D."


@pytest.mark.parametrize("current", [{"version": 3, "value": None}, None])
def test_a_version_conflict_says_what_stands_there(current: dict[str, object] | None) -> None:
    script = Script(problem(412, "version_conflict", current=current))
    with pytest.raises(VersionConflict) as caught:
        script.play(exchange(script.session(), READ))
    got = caught.value.current
    assert (got and {"version": got.version, "value": got.value}) == current


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"errors": 3}', b"\xff"])
def test_any_body_of_an_error_gives_an_exception(body: bytes) -> None:
    script = Script(Answer(418, {"roost-request-id": "r2"}, body))
    with pytest.raises(RoostError) as caught:
        script.play(exchange(script.session(), READ))
    assert (caught.value.status, caught.value.request_id) == (418, "r2")


def test_a_url_that_is_none_is_refused_with_a_sentence() -> None:
    with pytest.raises(RoostError, match="http://"):
        Session("localhost:8080", None, Limits())
