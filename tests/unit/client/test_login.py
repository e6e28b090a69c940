"""Being logged in: when a session is renewed, by whom, and what is kept of it."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.client.errors import RoostError, SessionEnded, Unauthenticated, Unavailable, Unreachable, UserErased
from roost.client.exchange import Answer, Ask, Call, Lost, Pause, Request, Session, exchange
from roost.client.login import ATTEMPT_S, Login, LoginFile, LoginStore, Tokens
from roost.client.logins import About, change_password, log_in, log_out, sign_up
from tests.unit.client.script import Script, ok, problem

TTL_S = 600
READ = Ask("GET", "/v1/x")
INVALID = Answer(400, {}, b'{"error":"invalid_grant","error_description":"The session is over: log in again."}')
URL = "http://h/base"


def granted(number: int) -> Answer:
    return ok({
        "access_token": f"access-{number}", "token_type": "Bearer", "expires_in": TTL_S,
        "refresh_token": f"refresh-{number}", "user": "ada", "session": "s",
    })  # fmt: skip


def tokens(number: int, at: float, url: str = URL) -> Tokens:
    return Tokens(
        url=url,
        user="ada",
        session="s",
        access_token=f"access-{number}",
        refresh_token=f"refresh-{number}",
        renewed_at=at,
        expires_at=at + TTL_S - 1,  # of a server that counts in whole seconds
    )


class Noted(LoginStore):
    """Remembers how many requests had been sent when something was saved."""

    def __init__(self, script: Script, kept: Tokens | None) -> None:
        super().__init__()
        super().save(kept)
        self.script = script
        self.saved: list[tuple[int, Tokens | None]] = []

    def save(self, tokens: Tokens | None) -> None:
        self.saved.append((len(self.script.sent), tokens))
        super().save(tokens)


def made(script: Script, kept: Tokens | None) -> tuple[Session, Login, Noted]:
    store = Noted(script, kept)
    login = Login(store, clock=lambda: script.now)
    return script.session(login), login, store


def bearers(script: Script) -> list[str | None]:
    return [request.headers.get("authorization") for request in script.sent]


def refresh_of(request: Request) -> str:
    assert request.url == f"{URL}/v1/auth/token"
    assert "authorization" not in request.headers
    form = parse_qs((request.content or b"").decode())
    assert form["grant_type"] == ["refresh_token"]
    return form["refresh_token"][0]


def test_a_token_is_renewed_before_it_ends_and_saved_before_it_is_used() -> None:
    script = Script(ok(), granted(2), ok())
    session, _, store = made(script, tokens(1, script.now))
    script.play(exchange(session, READ))
    script.now += TTL_S - 30
    script.play(exchange(session, READ))
    assert bearers(script) == ["Bearer access-1", None, "Bearer access-2"]
    assert refresh_of(script.sent[1]) == "refresh-1"
    assert store.saved == [(2, tokens(2, script.now))]


class Rotating(Script):
    """A server that rotates refresh tokens, by the rule that it has; it loses what a test says."""

    GRACE_S = 10.0

    def __init__(self, losses: str = "") -> None:
        super().__init__()
        self.losses = list(losses)  # of each renewal: r, the request; a, the answer; anything else: nothing
        self.number = 0
        self.before = -1
        self.rotated_at = self.now
        self.ends = {"access-0": self.now + TTL_S}
        self.over = False

    def answer(self, request: Request) -> Answer | Lost:
        if not request.url.endswith("/token"):
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            return ok() if self.ends.get(token, 0) > self.now and not self.over else problem(401, "unauthenticated")
        loss = self.losses.pop(0) if self.losses else ""
        if loss == "r":
            return Lost("the request")
        number = int(refresh_of(request).removeprefix("refresh-"))
        graced = number == self.before and self.now - self.rotated_at <= self.GRACE_S
        if self.over or (number != self.number and not graced):
            self.over = True
            return INVALID
        if number == self.number:
            self.before, self.number, self.rotated_at = number, number + 1, self.now
        self.ends[f"access-{self.number}"] = self.now + TTL_S
        return Lost("the answer") if loss == "a" else granted(self.number)


@given(
    st.lists(st.floats(min_value=0, max_value=3 * TTL_S), max_size=12),
    st.text("ra ", max_size=24).filter(lambda losses: all(len(run) < 5 for run in losses.split(" "))),
)
def test_whatever_is_lost_on_the_way_the_session_is_not(pauses: list[float], losses: str) -> None:
    script = Rotating(losses)
    session, _, _ = made(script, tokens(0, script.now))
    for pause in pauses:
        script.now += pause
        assert script.play(exchange(session, READ)).status == 200
    # No call was sent with a token that was over: each was accepted at once.
    assert all(bearer is None or bearer.startswith("Bearer access-") for bearer in bearers(script))
    assert bearers(script).count(None) == len(script.sent) - len(pauses)


def test_a_process_that_dies_between_the_answer_and_saving_it_goes_on(tmp_path: Path) -> None:
    script = Rotating()
    LoginFile(tmp_path / "login").save(tokens(0, script.now - TTL_S))

    class Dies(LoginFile):
        def save(self, tokens: Tokens | None) -> None:
            raise SystemExit

    with pytest.raises(SystemExit):
        script.play(exchange(script.session(Login(Dies(tmp_path / "login"), clock=lambda: script.now)), READ))
    script.now += Rotating.GRACE_S / 2
    login = Login(LoginFile(tmp_path / "login"), clock=lambda: script.now)
    assert script.play(exchange(script.session(login), READ)).status == 200
    assert [refresh_of(request) for request in script.sent if request.url.endswith("token")] == ["refresh-0"] * 2


def test_a_lost_answer_is_asked_for_again_within_the_grace() -> None:
    script = Rotating("a")
    script.took_s = 0.0
    session, _, _ = made(script, tokens(0, script.now - TTL_S))
    script.play(exchange(session, READ))
    assert script.sent[0].timeout_s == ATTEMPT_S < Rotating.GRACE_S / 2


def test_a_token_that_is_refused_is_renewed_and_the_call_sent_again() -> None:
    script = Script(problem(401, "unauthenticated"), granted(2), ok(), ok())
    session, _, _ = made(script, tokens(1, script.now))
    script.play(exchange(session, READ))
    script.play(exchange(session, READ))
    assert bearers(script) == ["Bearer access-1", None, "Bearer access-2", "Bearer access-2"]


def test_a_fresh_token_that_is_refused_too_is_not_renewed_for_ever() -> None:
    script = Script(problem(401, "unauthenticated"), granted(2), problem(401, "unauthenticated"))
    session, _, _ = made(script, tokens(1, script.now))
    with pytest.raises(Unauthenticated):
        script.play(exchange(session, READ))
    assert len(script.sent) == 3


def test_a_session_that_was_ended_is_a_clear_error_and_asked_about_once() -> None:
    script = Script(problem(401, "unauthenticated"), INVALID)
    session, login, store = made(script, tokens(1, script.now))
    for _ in range(3):
        with pytest.raises(SessionEnded, match="log in again") as ended:
            script.play(exchange(session, READ))
        assert ended.value.code == "unauthenticated"
    assert len(script.sent) == 2
    assert (login.user, store.load()) == (None, None)


def test_logging_in_again_with_the_same_login_lets_others_go_on() -> None:
    script = Script(problem(401, "unauthenticated"), INVALID, granted(5), ok())
    session, login, _ = made(script, tokens(1, script.now))
    with pytest.raises(SessionEnded):
        script.play(exchange(session, READ))
    assert script.play(log_in(script.session(login), "ada", "a password", About("phone"))) is login
    script.play(exchange(session, READ))
    assert bearers(script)[-1] == "Bearer access-5"


def test_an_erased_user_is_told_apart_from_a_session_that_was_ended() -> None:
    script = Script(problem(410, "user_erased"))
    session, _, _ = made(script, tokens(1, script.now - TTL_S))
    with pytest.raises(UserErased):
        script.play(exchange(session, READ))


def test_a_token_that_is_still_good_serves_while_it_cannot_be_renewed() -> None:
    script = Script(*[Lost("no network")] * 8, ok(), ok())
    session, _, _ = made(script, tokens(1, script.now))
    script.now += TTL_S - 59
    script.play(exchange(session, READ))
    script.play(exchange(session, READ))  # without trying at once again
    assert bearers(script) == [None] * 8 + ["Bearer access-1"] * 2


def test_one_that_is_over_does_not() -> None:
    script = Script(*[Lost("no network")] * 8)
    session, _, store = made(script, tokens(1, script.now - TTL_S))
    with pytest.raises(Unreachable):
        script.play(exchange(session, READ))
    assert store.load() is not None


def test_one_renews_and_all_others_wait_for_it() -> None:
    script = Rotating()
    session, _, _ = made(script, tokens(0, script.now - TTL_S))
    played = run([exchange(session, READ) for _ in range(5)], script)
    assert [answer.status for answer in played] == [200] * 5
    assert sum(request.url.endswith("/token") for request in script.sent) == 1


def test_two_processes_that_share_a_file_renew_once(tmp_path: Path) -> None:
    script = Rotating()
    LoginFile(tmp_path / "login").save(tokens(0, script.now - TTL_S))
    logins = [Login(LoginFile(tmp_path / "login"), clock=lambda: script.now) for _ in range(2)]
    run([exchange(script.session(login), READ) for login in logins], script)
    assert sum(request.url.endswith("/token") for request in script.sent) == 1


def run(calls: list[Call[Answer]], script: Script) -> list[Answer]:
    """Play calls side by side, a step of each in turn; those that go on apart too."""
    stacks: list[list[Call[Answer] | Call[None]]] = [[call] for call in calls]
    back: list[Answer | Lost | RoostError | None] = [None] * len(calls)
    results: dict[int, Answer] = {}
    while len(results) < len(calls):
        script.now += 0.01
        for number, stack in enumerate(stacks):
            if not stack:
                continue
            try:
                todo = stack[-1].send(back[number])
            except StopIteration as end:
                stack.pop()
                back[number] = None
                if not stack:
                    results[number] = end.value
            else:
                back[number] = None
                if isinstance(todo, Request):
                    script.sent.append(todo)
                    back[number] = script.answer(todo)
                elif not isinstance(todo, Pause):
                    stack.append(todo.call)
    return [results[number] for number in range(len(calls))]


def test_a_turn_that_never_comes_is_an_error() -> None:
    script = Script()
    session, _, store = made(script, tokens(1, script.now - TTL_S))
    assert store.claim()
    with pytest.raises(Unavailable, match="renewing"):
        script.play(exchange(session, READ))


def test_a_call_that_is_given_up_lets_others_have_their_turn() -> None:
    script = Rotating()
    session, login, _ = made(script, tokens(0, script.now - TTL_S))
    given_up = login._renewed(session)
    assert isinstance(next(given_up), Request)
    given_up.close()
    assert script.play(exchange(session, READ)).status == 200


def test_tokens_are_sent_to_no_other_server() -> None:
    script = Script()
    session, _, _ = made(script, tokens(1, script.now, url="http://elsewhere"))
    with pytest.raises(Unauthenticated, match="http://elsewhere"):
        script.play(exchange(session, READ))
    assert script.sent == []


# Logging in and out


def test_a_client_without_a_token_is_logged_in_from_then_on() -> None:
    script = Script(granted(1), ok())
    session = script.session(None)
    login = script.play(log_in(session, "ada", "a password", About("phone", "the phone")))
    script.play(exchange(session, READ))
    assert (login.user, login.session) == ("ada", "s")
    assert bearers(script) == [None, "Bearer access-1"]
    body = b'{"user":"ada","password":"a password","device":"phone","name":"the phone"}'
    assert script.sent[0].content == body


def test_an_admins_client_signs_others_up_and_stays_an_admins() -> None:
    script = Script(granted(1), ok())
    session = script.session("admin")
    script.play(sign_up(session, "ada", "a password", About()))
    script.play(exchange(session, READ))
    assert bearers(script) == ["Bearer admin", "Bearer admin"]


def test_logging_out_ends_the_session_by_what_renews_it_and_keeps_nothing() -> None:
    script = Script(Answer(200, {}, b""), problem(401, "unauthenticated"))
    session, _, store = made(script, tokens(1, script.now - TTL_S))
    script.play(log_out(session))
    assert script.sent[0].url == f"{URL}/v1/auth/revoke"
    assert parse_qs((script.sent[0].content or b"").decode()) == {"token": ["refresh-1"]}
    assert store.load() is None
    script.play(log_out(session))
    assert len(script.sent) == 1


def test_logging_out_may_be_tried_again_where_the_server_does_not_answer() -> None:
    script = Script(*[Lost("x")] * 8, Answer(200, {}, b""))
    session, _, store = made(script, tokens(1, script.now))
    with pytest.raises(Unreachable):
        script.play(log_out(session))
    assert store.load() is not None
    script.play(log_out(session))
    assert store.load() is None


def test_a_password_is_changed() -> None:
    script = Script(Answer(204, {}, b""))
    script.play(change_password(script.session(), "new", "old", None))
    assert script.sent[0].content == b'{"password":"new","current":"old"}'


def test_a_secret_is_not_shown_by_accident() -> None:
    assert "access" not in repr(tokens(1, 0.0))
    assert "refresh" not in str(tokens(1, 0.0))


# The file


def test_a_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "shop" / "login"
    kept = tokens(1, 1000.0)
    LoginFile(path).save(kept)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert LoginFile(path).load() == kept
    path.chmod(0o644)
    with pytest.raises(RoostError, match="chmod 600"):
        LoginFile(path).load()


def test_a_file_that_is_none_is_nobody_and_rubbish_is_said(tmp_path: Path) -> None:
    assert LoginFile(tmp_path / "none").load() is None
    (tmp_path / "rubbish").touch(mode=0o600)
    with pytest.raises(RoostError, match="holds no login"):
        LoginFile(tmp_path / "rubbish").load()
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(RoostError):
        LoginFile(tmp_path / "folder").load()


def test_a_claim_is_held_by_one(tmp_path: Path) -> None:
    one, other = LoginFile(tmp_path / "login"), LoginFile(tmp_path / "login")
    assert one.claim()
    assert not other.claim()
    assert not one.claim()
    one.release()
    assert other.claim()
