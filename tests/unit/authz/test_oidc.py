"""Tokens of other issuers: who their bearers are, which are refused, and what happens while a provider is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roost.authz import oidc
from roost.authz.identity import Identity
from roost.core.errors import RoostError
from roost.core.issuers import Issuer
from roost.crypto.signing import SigningKeys
from tests.support.tokens import made, signed
from tests.unit.authz.issuer import AUDIENCE, KEYS_URL, NOW, ONE, OTHER, URL, World, claims, token


def test_a_token_names_its_bearer_and_its_end(world: Callable[..., World]) -> None:
    given = world(prefix="corp:", leeway_s=10)
    principal = given.authenticate(token(scope="openid documents:read"))
    assert principal.kind == "user"
    assert principal.id == "corp:ada"
    assert principal.expires_at == NOW.timestamp() + 70
    assert principal.scopes == frozenset()
    assert given.authenticate(token(scope="openid documents:read")) == principal


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://id.example"},
        {"iss": URL + "/"},
        {"iss": "roost"},
        {"iss": None},
        {"iss": [URL]},
        {"aud": None},
        {"aud": "https://other.example"},
        {"aud": AUDIENCE + "/"},
        {"aud": []},
        {"aud": ["https://other.example"]},
        {"aud": [AUDIENCE, "https://other.example"]},
        {"aud": {"a": AUDIENCE}},
        {"aud": 7},
        {"sub": None},
        {"sub": ""},
        {"sub": "a/b"},
        {"sub": "$roost"},
        {"sub": 7},
        {"sub": ["ada"]},
        {"sub": "a" * 200},
        {"exp": None},
        {"exp": True},
        {"exp": "2030"},
        {"exp": 10**300},
        {"exp": 10**400},
        {"exp": int(NOW.timestamp()) - 30},
        {"iat": None},
        {"iat": int(NOW.timestamp()) + 31},
        {"nbf": int(NOW.timestamp()) + 31},
        {"nonce": "n"},
        {"nonce": ""},
        {"at_hash": "h"},
        {"c_hash": "h"},
        {"cnf": {"jkt": "k"}},
        {"azp": 7},
        {"sid": 7},
    ],
)
def test_claims_that_are_not_for_us_are_refused(world: Callable[..., World], changed: dict[str, Any]) -> None:
    given = world()
    given.authenticate(token())
    given.refused(token(**changed))


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", None])
def test_an_access_token_says_what_it_is_or_nothing(world: Callable[..., World], typ: str | None) -> None:
    assert world().authenticate(token(typ=typ)).id == "ada"


@pytest.mark.parametrize("typ", ["logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", ""])
def test_another_kind_of_token_is_refused(world: Callable[..., World], typ: str) -> None:
    world().refused(token(typ=typ))


def test_the_clocks_may_be_apart_by_the_leeway(world: Callable[..., World]) -> None:
    given = world(leeway_s=5)
    now = int(NOW.timestamp())
    given.authenticate(token(exp=now - 4.5, iat=now + 5, nbf=now + 5.0))
    assert "expired" in given.refused(token(exp=now - 5)).detail
    for ahead in (token(iat=now + 5.5), token(nbf=now + 5.5)):
        assert "not valid yet" in given.refused(ahead).detail


def test_a_known_token_expires_too(world: Callable[..., World]) -> None:
    given = world(leeway_s=0)
    given.authenticate(token())
    given.now += timedelta(seconds=59.9)
    given.authenticate(token())
    given.now += timedelta(seconds=0.2)
    assert "expired" in given.refused(token()).detail


def test_of_several_audiences_one_is_enough(world: Callable[..., World]) -> None:
    given = world(Issuer(audience=("one", "two"), jwks_uri=KEYS_URL))
    for audience in ("one", "two", ["one"], ["two", "one"]):
        given.authenticate(token(aud=audience))
    given.refused(token(aud="three"))


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [
        ({}, True),
        ({"client_id": "evil"}, False),
        ({"client_id": None}, False),
        ({"client_id": None, "azp": "web"}, True),
        ({"client_id": None, "azp": "ios"}, True),
        ({"client_id": "web", "azp": "evil"}, False),
        ({"client_id": "evil", "azp": "web"}, False),
        ({"aud": [AUDIENCE, "https://other.example"]}, True),
        ({"aud": [AUDIENCE, "https://other.example"], "client_id": "evil"}, False),
        ({"aud": ["https://other.example"]}, False),
    ],
)
def test_clients_that_are_named_are_the_only_ones(
    world: Callable[..., World], changed: dict[str, Any], accepted: bool
) -> None:
    given = world(clients=("web", "ios"))
    if accepted:
        given.authenticate(token(**changed))
    else:
        given.refused(token(**changed))


def test_id_tokens_are_taken_where_the_settings_say_so(world: Callable[..., World]) -> None:
    id_token = token(typ="JWT", aud="web", azp="web", nonce="n", at_hash="h")
    assert world(Issuer(audience="web", jwks_uri=KEYS_URL, id_tokens=True)).authenticate(id_token).id == "ada"
    assert "ID token" in world(Issuer(audience="web", jwks_uri=KEYS_URL)).refused(id_token).detail


@pytest.mark.parametrize(
    ("roles", "kind"),
    [
        (None, "user"),
        ([], "user"),
        ("none", "user"),
        ("staff", "support"),
        (["staff"], "support"),
        (["x", "root", "staff"], "support"),
        (["root"], "admin"),
        ("root staff", "user"),
        ({"staff": True}, "user"),
        ([["root"]], "user"),
        (7, "user"),
    ],
)
def test_roles_make_a_bearer_what_the_settings_say(world: Callable[..., World], roles: Any, kind: str) -> None:
    kinds: Any = {"staff": "support", "root": "admin"}
    found = world(kinds=kinds).authenticate(token(roles=roles))
    assert found.kind == kind
    # On record each is told from the others: admins too.
    assert found.actor == f"{kind}:{found.id}"
    nested = world(kinds=kinds, roles=("realm_access", "roles"))
    assert nested.authenticate(token(realm_access={"roles": roles}, roles=["root"])).kind == kind
    strict = world(kinds=kinds, kind=None)
    if kind == "user":
        strict.refused(token(roles=roles))
    else:
        assert strict.authenticate(token(roles=roles)).kind == kind


def test_of_several_roles_the_one_that_the_settings_name_first_decides(world: Callable[..., World]) -> None:
    names = [f"role-{number}" for number in range(20)]
    kinds: Any = dict.fromkeys(names, "admin")
    for first in names[::5]:
        given = world(kinds={first: "support", **{name: kinds[name] for name in names if name != first}})
        assert given.authenticate(token(roles=names)).kind == "support"
        assert given.authenticate(token(roles=names[::-1])).kind == "support"


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("read openid", {"documents:read"}),
        ("read write", {"documents:read", "documents:write", "preferences:write"}),
        (["read"], {"documents:read"}),
        ("openid", None),
        ("readwrite", None),
        ("", None),
        (None, None),
        ([["read"]], None),
        ({"read": True}, None),
    ],
)
def test_scopes_are_translated_and_a_service_needs_one(
    world: Callable[..., World], scope: Any, scopes: set[str] | None
) -> None:
    mapping = {"read": ("documents:read",), "write": ("documents:write", "preferences:write")}
    given = world(kind="service", scopes=mapping)
    if scopes is None:
        given.refused(token(scope=scope))
    else:
        assert given.authenticate(token(scope=scope)).scopes == scopes
    assert world(kind="service").authenticate(token(scope=scope)).scopes == set()
    assert world(scopes=mapping).authenticate(token(scope=scope)).scopes == set()


def test_the_name_may_come_from_another_claim(world: Callable[..., World]) -> None:
    assert world(user="oid").authenticate(token(oid="0-1")).id == "0-1"
    assert world(user=("app", "id")).authenticate(token(app={"id": "u1"})).id == "u1"
    assert "`app.id`" in world(user=("app", "id")).refused(token(app="u1")).detail


@pytest.mark.parametrize("verified", [None, False, "true", 1])
def test_an_address_that_nobody_has_verified_is_nobodys(world: Callable[..., World], verified: Any) -> None:
    given = world(user="email")
    assert given.authenticate(token(email="ada@example.org", email_verified=True)).id == "ada@example.org"
    given.refused(token(email="ada@example.org", email_verified=verified))


def test_a_session_is_the_issuers_or_the_tokens_own_and_no_other_issuers(
    own: SigningKeys, world: Callable[..., World]
) -> None:
    given = world()

    def session(**changed: Any) -> str | None:
        return given.authenticate(token(**changed)).session

    assert session(sid="s", jti="a") == session(sid="s", jti="b", iat=NOW.timestamp() - 1)
    ids = [session(sid="s"), session(jti="a"), session(jti="b"), session(jti=None), session(jti=None, scope="x")]
    assert len(set(ids)) == len(ids)
    assert all(each and each.isalnum() for each in ids)
    text = token(jti=None)
    again = token(jti=None)
    assert text != again, "signatures by ECDSA differ"
    assert given.authenticate(text).session == given.authenticate(again).session
    elsewhere = Identity(
        own,
        now=NOW.timestamp,
        issuers={"https://b.example": Issuer(audience=AUDIENCE, jwks_uri=KEYS_URL)},
        fetch=given.web.fetch,
    )
    theirs = asyncio.run(elsewhere.authenticate(token(iss="https://b.example", sid="s"))).session
    assert theirs not in ids


def test_nobody_signs_for_another(world: Callable[..., World], own: SigningKeys) -> None:
    given = world()
    given.refused(own.sign(claims()))
    given.refused(token(iss="roost", kind="admin"))
    given.refused(token(OTHER))
    assert given.authenticate(given.identity.issue("admin", "root", 60)).kind == "admin"
    given.refused(signed(ONE, claims(), alg="ES256", kid=None))


def test_algorithms_are_those_of_the_settings(world: Callable[..., World]) -> None:
    for algorithm, kid in (("PS256", "one"), ("ES384", "two"), ("HS256", "three")):
        key = made(algorithm, kid) if algorithm != "HS256" else b"secret"
        given = world()
        given.web.publish(*([key] if not isinstance(key, bytes) else [ONE]))
        given.refused(signed(key, claims(), alg=algorithm, kid=kid))
    pinned = world(algorithms=("RS256",))
    pinned.refused(token())


def test_a_token_does_not_say_where_its_key_is(world: Callable[..., World]) -> None:
    given = world()
    brought = {"jku": "https://evil.example/keys", "x5u": "https://evil.example/x", "jwk": OTHER.as_dict(private=False)}
    given.refused(signed(OTHER, claims(), alg="ES256", kid="one", **brought))
    for kid in ("../../etc/passwd", "https://evil.example/keys", "one' UNION SELECT 1", "\u0000", "x" * 3000):
        given.elapsed += oidc.PAUSE_S
        given.refused(signed(OTHER, claims(), alg="ES256", kid=kid, **brought))
    assert set(given.web.asked) == {KEYS_URL}


def test_the_settings_refuse_what_could_not_be_meant() -> None:
    wrongs: list[dict[str, Any]] = [
        {},
        {"audience": ""},
        {"audience": []},
        {"audience": "a", "algorithms": []},
        {"audience": "a", "algorithms": ["HS256"]},
        {"audience": "a", "algorithms": ["none"]},
        {"audience": "a", "jwks_uri": "http://keys.example/"},
        {"audience": "a", "leeway_s": 3600},
        {"audience": "a", "prefix": "$"},
        {"audience": "a", "kinds": {"x": "root"}},
        {"audience": "a", "user": []},
        {"audience": "a", "audiences": "b"},
    ]
    for wrong in wrongs:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Issuer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
names = st.sampled_from(
    ["aud", "exp", "iat", "nbf", "sub", "azp", "client_id", "sid", "jti", "roles", "scope", "email", "email_verified"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed=st.dictionaries(names, json_values), user=st.sampled_from(["sub", "email", ("roles", "sub")]))
def test_no_claims_break_more_than_their_token(world: Callable[..., World], changed: dict[str, Any], user: Any) -> None:
    given = world(user=user, kinds={"": "admin"}, kind=None, scopes={"": ("x",)})
    with suppress(RoostError):
        given.authenticate(token(**changed))
        return
    given.refused(token(**changed))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=json_values | st.just({"iss": URL}))
def test_no_payload_breaks_more_than_its_token(world: Callable[..., World], payload: Any) -> None:
    world().refused(signed(ONE, payload, alg="ES256", kid="one"))
