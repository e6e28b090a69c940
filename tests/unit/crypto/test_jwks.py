"""Key sets of others: which keys are taken, and what they may be used for."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import Key, RSAKey

from roost.core.issuers import Algorithm
from roost.crypto.jwks import KEYS_MAX, BadKeySet, KeySet, Token, UnknownKey
from roost.crypto.signing import BadSignature
from tests.support.tokens import encoded, made, published, signed

ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
KEYS = {name: made(name, name) for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA")}
PAYLOAD = {"sub": "ada"}


def key_of(algorithm: str) -> Key:
    return KEYS["RS256" if algorithm[:2] in {"RS", "PS"} else "EdDSA" if algorithm == "Ed25519" else algorithm]


def public(key: Key, **more: Any) -> dict[str, Any]:
    """A published key, under the name `one`, without what it may be used for."""
    plain = {name: value for name, value in key.as_dict(private=False).items() if name not in {"alg", "use"}}
    return {**plain, "kid": "one", **more}


def keys(*published: Any) -> KeySet:
    return KeySet.decode(json.dumps({"keys": published}).encode())


def opened(key_set: KeySet, token: str, allowed: tuple[str, ...] = ALGORITHMS) -> Any:
    return json.loads(key_set.open(Token.read(token), allowed))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_opens_what_it_signed_by_an_allowed_algorithm_only(algorithm: str) -> None:
    key = key_of(algorithm)
    token = signed(key, PAYLOAD, alg=algorithm, kid="one")
    assert opened(keys(public(key)), token, (algorithm,)) == PAYLOAD
    others = tuple(name for name in ALGORITHMS if name != algorithm)
    for key_set in (keys(public(key)), keys(public(key, alg=algorithm))):
        with pytest.raises(BadSignature):
            opened(key_set, token, others)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_for_the_algorithm_that_its_issuer_says(algorithm: str) -> None:
    key = key_of(algorithm)
    token = signed(key, PAYLOAD, alg=algorithm, kid="one")
    assert opened(keys(public(key, alg=algorithm)), token) == PAYLOAD
    with pytest.raises((BadSignature, UnknownKey)):
        opened(keys(public(key, alg="RS256" if algorithm != "RS256" else "PS256")), token)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("other", ["RS256", "ES256", "ES384", "EdDSA"])
def test_a_key_of_another_kind_opens_nothing(algorithm: str, other: str) -> None:
    token = signed(key_of(algorithm), PAYLOAD, alg=algorithm, kid="one")
    if other == algorithm:
        assert opened(keys(public(key_of(other))), token) == PAYLOAD
    else:
        with pytest.raises(BadSignature):
            opened(keys(public(key_of(other))), token)


def test_what_a_set_holds_besides_is_left_out() -> None:
    good = KEYS["ES256"]
    weak = {"kty": "RSA", "n": encoded((1 << 1023 | 1).to_bytes(128, "big")), "e": "AQAB"}
    secret = {"kty": "oct", "k": encoded(b"x" * 32)}
    private = KEYS["RS256"].as_dict(private=True) | {"alg": "RS256"}
    useless: list[Any] = [
        *(None, 7, "key", [], {}),
        {"kty": "oct"},
        {"kty": "RSA", "n": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": encoded(b"x" * 32)},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        secret,
        weak,
        public(KEYS["ES384"], use="enc"),
        public(KEYS["ES384"], key_ops=["encrypt"]),
        public(KEYS["ES384"], kid=None),
        public(KEYS["ES384"], kid=7),
    ]
    named = [item if not isinstance(item, dict) else {"kid": "one", **item} for item in useless]
    key_set = keys(*named, public(good, key_ops=["verify"]), {**private, "kid": "two"})
    assert {kid for kid, _ in key_set.prints()} == {"one", "two"}
    assert len(key_set.prints()) == 2
    assert opened(key_set, signed(good, PAYLOAD, alg="ES256", kid="one")) == PAYLOAD
    assert opened(key_set, signed(KEYS["RS256"], PAYLOAD, alg="RS256", kid="two")) == PAYLOAD


def test_two_keys_of_one_name_are_both_tried() -> None:
    first, second = made("EdDSA", "one"), made("EdDSA", "one")
    key_set = keys(public(first), public(KEYS["ES256"]), public(second))
    for key in (first, second):
        assert opened(key_set, signed(key, PAYLOAD, alg="EdDSA", kid="one")) == PAYLOAD


def test_a_key_that_is_not_published_is_unknown() -> None:
    key_set = keys(public(KEYS["ES256"]))
    for kid in ("two", "", "ONE", "one ", "../one", "one' OR '1'='1", "one\x00", "é"):
        with pytest.raises(UnknownKey):
            opened(key_set, signed(KEYS["ES256"], PAYLOAD, alg="ES256", kid=kid))


@pytest.mark.parametrize("secret", ["pem", "der", "jwk", "n", "kid"])
def test_a_public_key_is_no_secret_to_sign_with(secret: str) -> None:
    key = KEYS["RS256"]
    assert isinstance(key, RSAKey)
    jwk = public(key)
    secrets = {
        "pem": key.as_pem(private=False),
        "der": key.as_der(private=False),
        "jwk": json.dumps(jwk).encode(),
        "n": jwk["n"].encode(),
        "kid": b"one",
    }
    token = signed(secrets[secret], PAYLOAD, alg="HS256", kid="one")
    for allowed in (ALGORITHMS, (*ALGORITHMS, "HS256", "none")):
        with pytest.raises(BadSignature):
            opened(keys(jwk), token, allowed)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "rs256", "RS1"])
def test_a_token_without_a_signature_opens_nothing(algorithm: str) -> None:
    text = f"{encoded({'alg': algorithm, 'kid': 'one'})}.{encoded(PAYLOAD)}"
    signature = signed(KEYS["RS256"], PAYLOAD, alg="RS256", kid="one").rpartition(".")[2]
    for token in (f"{text}.", f"{text}.{signature}"):
        with pytest.raises(BadSignature):
            opened(keys(public(KEYS["RS256"])), token, (*ALGORITHMS, "none", algorithm))


def test_keys_that_a_token_brings_are_not_looked_at() -> None:
    mine = made("RS256", "one")
    brought = {"jwk": public(mine), "jku": "https://evil.example/keys", "x5u": "https://evil.example/x", "x5c": ["AA"]}
    key_set = keys(public(KEYS["RS256"]))
    with pytest.raises(BadSignature):
        opened(key_set, signed(mine, PAYLOAD, alg="RS256", kid="one", **brought))
    assert opened(key_set, signed(KEYS["RS256"], PAYLOAD, alg="RS256", kid="one", **brought)) == PAYLOAD


@pytest.mark.parametrize("header", [{"crit": ["b64"], "b64": False}, {"crit": ["x"], "x": 1}, {"crit": []}])
def test_demands_that_nobody_here_knows_are_refused(header: dict[str, Any]) -> None:
    with pytest.raises(BadSignature):
        opened(keys(public(KEYS["ES256"])), signed(KEYS["ES256"], PAYLOAD, alg="ES256", kid="one", **header))


def test_a_token_is_written_in_one_way() -> None:
    token = signed(KEYS["ES256"], PAYLOAD, alg="ES256", kid="one")
    key_set = keys(public(KEYS["ES256"]))
    head, payload, signature = token.split(".")
    for other in (
        f"{head}.{payload}.{signature}=",
        f"{head}.{payload}.{signature}==",
        f"{head}.{payload}.{signature}\n",
        f" {head}.{payload}.{signature}",
        f"{head}.{payload}.{signature}.",
        f"{head}.{payload}.{signature}.{signature}.{signature}",
        f"{head}.{payload}",
        f"{head}..{signature}",
        f".{payload}.{signature}",
        f"{head}.{payload}.{signature[:-4]}",
        f"{head}.{payload}.{signature}AAAA",
        f"{head}.{payload[:-1]}.{signature}",
    ):
        with pytest.raises(BadSignature):
            opened(key_set, other)


def test_a_set_is_all_of_another_if_no_key_is_missing_or_changed() -> None:
    one, other = made("EdDSA", "one"), made("EdDSA", "one")
    ours = KeySet.decode(published([one, KEYS["ES256"]]))
    assert ours.holds_all_of(KeySet.decode(published([one])))
    assert ours.holds_all_of(KeySet({}))
    assert not ours.holds_all_of(KeySet.decode(published([other])))
    assert not ours.holds_all_of(KeySet.decode(published([one, KEYS["ES384"]])))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"keys": null}',
        b'{"keys": {}}',
        b"\xff",
        b"<html>",
        b"[" * 100_000,
        json.dumps({"keys": [{}] * (KEYS_MAX + 1)}).encode(),
    ],
)
def test_what_is_no_set_is_refused(body: bytes) -> None:
    with pytest.raises(BadKeySet):
        KeySet.decode(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
members = st.sampled_from(["kty", "kid", "use", "alg", "key_ops", "n", "e", "d", "crv", "x", "y", "k"])
likely = st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "sig", "RS256", "AQAB", "AA"])


@given(st.lists(st.dictionaries(members, likely | json_values) | json_values, max_size=5))
def test_no_set_breaks_more_than_itself(listed: list[Any]) -> None:
    with pytest.raises((BadSignature, UnknownKey)):
        opened(keys(*listed), signed(KEYS["RS256"], PAYLOAD, alg="RS256", kid="one"))


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_break_more_than_a_set(body: bytes) -> None:
    with pytest.raises(BadKeySet):
        KeySet.decode(body)


@given(
    head=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "zip", "enc"]), json_values
    ),
    algorithm=st.sampled_from([*ALGORITHMS, "none", "HS256", "dir"]),
    payload=json_values,
    signature=st.binary(max_size=300),
)
def test_no_token_breaks_more_than_itself(head: dict[str, Any], algorithm: str, payload: Any, signature: bytes) -> None:
    key_set = keys(*(public(key) for key in KEYS.values()))
    token = f"{encoded({'alg': algorithm, 'kid': 'one', **head})}.{encoded(payload)}.{encoded(signature)}"
    with pytest.raises((BadSignature, UnknownKey)):
        opened(key_set, token)
