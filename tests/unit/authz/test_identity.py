"""Tokens: what is issued is recognised, and nothing else is."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import string
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roost.authz import identity as identity_module
from roost.authz.identity import Identity
from roost.authz.principal import Kind, Principal
from roost.core.errors import Code, RoostError
from roost.crypto.signing import FILE_NAME, SigningKeys


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, 12, 0, 0, 500_000, UTC)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def key(folder: Path) -> SigningKeys:
    return SigningKeys.load_or_create(folder)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def identity(key: SigningKeys, clock: Clock) -> Identity:
    return Identity(key, now=clock.seconds)


def authenticate(identity: Identity, token: str) -> Principal:
    return asyncio.run(identity.authenticate(token))


def refusal(identity: Identity, token: str) -> str:
    with pytest.raises(RoostError) as refused:
        authenticate(identity, token)
    assert refused.value.code is Code.UNAUTHENTICATED
    return refused.value.detail


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def claims(clock: Clock, **changed: Any) -> dict[str, Any]:
    now = int(clock.now.timestamp())
    usual = {"iss": "roost", "sub": "ada", "kind": "user", "iat": now, "exp": now + 60}
    return {name: value for name, value in {**usual, **changed}.items() if value is not None}


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_token_names_its_bearer_and_its_end(identity: Identity, clock: Clock, kind: Any) -> None:
    token = identity.issue(kind, "ada", 60)
    bearer = authenticate(identity, token)
    assert bearer == Principal(kind, "ada", int(clock.now.timestamp()) + 60, bearer.session)
    assert authenticate(identity, token) == bearer


def test_a_token_is_of_its_session_or_its_own(identity: Identity) -> None:
    first, second = (authenticate(identity, identity.issue("user", "ada", 60)).session for _ in range(2))
    assert first
    assert second
    assert first != second
    assert authenticate(identity, identity.issue("user", "ada", 60, session="s1")).session == "s1"


def test_a_token_without_an_id_has_one_by_what_it_says(key: SigningKeys, identity: Identity, clock: Clock) -> None:
    token = key.sign(claims(clock))
    other = key.sign(claims(clock, sub="bob"))
    session = authenticate(identity, token).session
    assert session
    assert session != authenticate(identity, other).session
    # However its signature is written: the last character's low bits carry nothing.
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    again = token[:-1] + letters[letters.index(token[-1]) ^ 1]
    with suppress(RoostError):
        assert authenticate(identity, again).session == session


def test_scopes_are_carried(identity: Identity) -> None:
    token = identity.issue("service", "billing", 60, scopes={"documents:read", "preferences:write"})
    assert authenticate(identity, token).scopes == {"documents:read", "preferences:write"}
    assert authenticate(identity, identity.issue("service", "billing", 60)).scopes == frozenset()


@pytest.mark.parametrize("known", [True, False])
def test_a_session_that_was_ended_is_refused_at_once(key: SigningKeys, clock: Clock, known: bool) -> None:
    ended: set[str | None] = set()
    identity = Identity(key, now=clock.seconds, revoked=lambda principal: principal.session in ended)
    token = identity.issue("user", "ada", 60, session="s1")
    other = identity.issue("user", "ada", 60, session="s2")
    principal = authenticate(identity, token)
    if not known:
        identity = Identity(key, now=clock.seconds, revoked=lambda principal: principal.session in ended)
    ended.add("s1")
    assert "ended" in refusal(identity, token)
    with pytest.raises(RoostError, match="ended"):
        identity.check(principal)
    authenticate(identity, other)


def test_a_token_of_a_key_that_was_dropped_is_not_remembered(tmp_path: Path, clock: Clock) -> None:
    keys = SigningKeys.load_or_create(tmp_path)
    identity = Identity(keys, now=clock.seconds)
    token = identity.issue("user", "ada", 60)
    authenticate(identity, token)
    now = int(clock.now.timestamp())
    keys.rotate(now, keep_s=60)
    authenticate(identity, token)
    keys.rotate(now + 120, keep_s=60)
    keys.rotate(now + 240, keep_s=60)
    refusal(identity, token)


def test_a_bad_name_gets_no_token(identity: Identity) -> None:
    with pytest.raises(RoostError):
        identity.issue("user", "a/b", 60)


@pytest.mark.parametrize("known", [True, False])
def test_a_token_expires_on_the_second(identity: Identity, clock: Clock, known: bool) -> None:
    token = identity.issue("user", "ada", 60)
    if known:
        authenticate(identity, token)
    clock.go(59.4)
    if known:
        authenticate(identity, token)
    clock.go(0.2)
    assert "expired" in refusal(identity, token)


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_of_the_future_is_refused_beyond_the_skew(
    key: SigningKeys, identity: Identity, clock: Clock, claim: str
) -> None:
    now = int(clock.now.timestamp())
    authenticate(identity, key.sign(claims(clock, **{claim: now + 30})))
    assert "not valid yet" in refusal(identity, key.sign(claims(clock, **{claim: now + 32})))


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "other"},
        {"iss": None},
        {"sub": None},
        {"sub": "a/b"},
        {"sub": ""},
        {"sub": 7},
        {"kind": None},
        {"kind": "root"},
        {"exp": None},
        {"exp": "2030"},
        {"exp": True},
        {"iat": None},
        {"jti": 7},
        {"sid": 7},
        {"scope": ["documents:read"]},
    ],
)
def test_claims_that_are_not_ours_are_refused(
    key: SigningKeys, identity: Identity, clock: Clock, changed: dict[str, Any]
) -> None:
    authenticate(identity, key.sign(claims(clock)))
    refusal(identity, key.sign(claims(clock, **changed)))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a" * 9000,
        "\x00",
        "é.é.é",
        "eyJhbGciOiJFZERTQSJ9..",
        "eyJhbGciOiJFZERTQSJ9.e30.",
        "[].{}.x",
    ],
)
def test_garbage_is_refused(identity: Identity, token: str) -> None:
    refusal(identity, token)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "zip", "enc"]), json_values),
    algorithm=st.sampled_from(["EdDSA", "Ed25519", "none", "HS256", "dir"]),
    payload=json_values,
    signature=st.binary(max_size=70),
)
def test_no_head_breaks_more_than_its_token(
    identity: Identity, head: dict[str, Any], algorithm: str, payload: Any, signature: bytes
) -> None:
    text = f"{encoded({'alg': algorithm, **head})}.{encoded(payload)}"
    refusal(identity, f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_no_text_breaks_more_than_its_token(identity: Identity, token: str) -> None:
    refusal(identity, token)


def test_every_changed_character_is_noticed(identity: Identity) -> None:
    token = identity.issue("user", "ada", 60)
    last = len(token) - 1
    for index, character in enumerate(token):
        # The last character has bits that carry nothing; a decoder may ignore them.
        changed = {"A": "B", ".": "A"}.get(character, "A") if index < last else ("A" if character != "A" else "Q")
        refusal(identity, token[:index] + changed + token[index + 1 :])


def test_a_token_without_a_signature_is_refused(identity: Identity, key: SigningKeys, clock: Clock) -> None:
    for algorithm in ("none", "None", "NONE", ""):
        head = encoded({"alg": algorithm, "kid": key.kid, "typ": "JWT"})
        refusal(identity, f"{head}.{encoded(claims(clock))}.")
        refusal(identity, f"{head}.{encoded(claims(clock))}.{identity.issue('user', 'ada', 60).split('.')[2]}")


def test_the_public_key_is_no_secret_to_sign_with(
    identity: Identity, key: SigningKeys, clock: Clock, folder: Path
) -> None:
    jwk = json.loads((folder / FILE_NAME).read_bytes())["keys"][0]
    public = base64.urlsafe_b64decode(jwk["x"] + "==")
    text = f"{encoded({'alg': 'HS256', 'kid': key.kid})}.{encoded(claims(clock))}"
    for secret in (public, jwk["x"].encode()):
        mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        refusal(identity, f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}")


def test_another_key_is_refused_even_if_the_token_brings_it(
    identity: Identity, key: SigningKeys, clock: Clock, tmp_path: Path
) -> None:
    other = SigningKeys.load_or_create(tmp_path)
    assert other.kid != key.kid
    refusal(identity, other.sign(claims(clock)))
    private = Ed25519PrivateKey.generate()
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": base64.urlsafe_b64encode(private.public_key().public_bytes_raw()).decode(),
    }
    text = f"{encoded({'alg': 'EdDSA', 'kid': key.kid, 'jwk': jwk})}.{encoded(claims(clock))}"
    refusal(identity, f"{text}.{base64.urlsafe_b64encode(private.sign(text.encode())).decode().rstrip('=')}")


def test_the_right_key_under_another_name_is_refused(
    identity: Identity, key: SigningKeys, clock: Clock, folder: Path
) -> None:
    jwk = json.loads((folder / FILE_NAME).read_bytes())["keys"][0]
    private = Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(jwk["d"] + "=="))

    def signed(**head: Any) -> str:
        text = f"{encoded({'alg': 'EdDSA', **head})}.{encoded(claims(clock))}"
        return f"{text}.{base64.urlsafe_b64encode(private.sign(text.encode())).decode().rstrip('=')}"

    authenticate(identity, signed(kid=key.kid))
    refusal(identity, signed(kid="other"))
    refusal(identity, signed())
    refusal(identity, signed(kid=key.kid, crit=["b64"], b64=False))
    refusal(identity, signed(kid=key.kid, crit=["x"], x=1))


def test_a_token_of_a_session_outlasts_no_end_that_is_remembered(key: SigningKeys, clock: Clock) -> None:
    """Tokens were given for longer when the settings were others."""
    identity = Identity(key, now=clock.seconds, session_s=600)
    of_session, of_none = (identity.issue("user", "ada", 3_600, session=session) for session in ("s", None))
    clock.go(599)
    authenticate(identity, of_session)
    clock.go(1)
    refusal(identity, of_session)
    authenticate(identity, of_none)


def test_what_is_remembered_is_bounded(
    key: SigningKeys, clock: Clock, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_module, "CACHED_TOKENS_MAX", 3)
    opened = []

    class Counting(SigningKeys):
        def open(self, token: str) -> bytes:
            opened.append(token)
            return super().open(token)

    identity = Identity(Counting(folder / FILE_NAME), now=clock.seconds)
    tokens = [identity.issue("user", f"user{number}", 60) for number in range(4)]
    for token in (*tokens, tokens[3], tokens[1]):
        authenticate(identity, token)
    assert opened == tokens
    assert len(identity._known) == 3
    authenticate(identity, tokens[0])
    assert opened == [*tokens, tokens[0]]
    refusal(identity, "bad")
    clock.go(100)
    for token in tokens:
        refusal(identity, token)
    assert not identity._known
