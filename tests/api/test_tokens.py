"""Tokens: nothing but this server's own signature opens a route. Which routes each kind opens is `test_matrix`'s."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.api import Account, problem
from tests.support.server import Server


def test_a_service_is_not_the_user_of_its_name(server: Server, ada: Account) -> None:
    """Rights come from the kind: a user called `admin` is a user."""
    like_admin = Account(server, "admin")
    problem(like_admin.http.get("/v1/users"), 403, "forbidden")
    problem(like_admin.http.get(ada.at()), 403, "forbidden")
    like_admin.close()


SCHEMES = ["", "Bearer", "Basic YWRhOmFkYQ==", "bearer: x", "Token x", "x", "Bearer x", "Bearer .", "Bearer .."]


@pytest.mark.parametrize("authorization", SCHEMES)
def test_what_is_no_token_is_refused(ada: Account, authorization: str) -> None:
    answer = ada.http.get(ada.at(), headers=[("authorization", authorization)])
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_scheme_may_be_in_any_case(ada: Account) -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        assert ada.http.put(ada.at(), headers={"authorization": f"{scheme} {ada.token}"}).is_success


def test_a_token_goes_in_the_header_only(server: Server, ada: Account) -> None:
    ada.put("notes", "k", 1)
    for params in ({"access_token": ada.token}, {"token": ada.token}):
        problem(httpx.get(server.url + ada.at(), params=params, verify=False), 401, "unauthenticated")
    cookies = {"cookie": f"token={ada.token}; Authorization=Bearer {ada.token}"}
    problem(httpx.get(server.url + ada.at(), headers=cookies, verify=False), 401, "unauthenticated")


def test_two_tokens_are_refused(server: Server, ada: Account) -> None:
    ada.put("notes", "k", 1)
    for other in (ada.token, server.admin(), "x"):
        headers = [("authorization", f"Bearer {ada.token}"), ("authorization", f"Bearer {other}")]
        answer = httpx.get(server.url + ada.at(), headers=headers, verify=False)
        problem(answer, 400, "invalid_request")


# Forgeries


class Key(NamedTuple):
    """The server's signing key, as somebody may hold it who should not; `kid` is its name in tokens."""

    private: Ed25519PrivateKey
    kid: str
    jwk: dict[str, Any]

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def key(server: Server) -> Key:
    jwk = json.loads((server.data / "signing_key.json").read_bytes())["keys"][0]
    header = json.loads(decoded(server.admin().split(".")[0]))
    return Key(Ed25519PrivateKey.from_private_bytes(decoded(jwk["d"])), header["kid"], jwk)


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(data: bytes | dict[str, Any]) -> str:
    return urlsafe_b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).decode().rstrip("=")


def claims(user: str, **more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": "roost", "sub": user, "kind": "user", "iat": now, "exp": now + 600} | more


def token(header: dict[str, Any], payload: dict[str, Any] | bytes, sign: Callable[[bytes], bytes]) -> str:
    signed = f"{encoded(header)}.{encoded(payload)}"
    return f"{signed}.{encoded(sign(signed.encode()))}"


def signed(key: Key, payload: dict[str, Any] | bytes, **header: Any) -> str:
    return token({"typ": "JWT", "alg": "EdDSA", "kid": key.kid} | header, payload, key.private.sign)


def refused(account: Account, forged: str) -> None:
    answer = account.http.get(account.at(), headers={"authorization": f"Bearer {forged}"})
    told = problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "roost" not in told["detail"].lower()
    assert account.http.get("/healthz").status_code == 200


def test_a_token_of_our_own_making_is_taken(ada: Account, key: Key) -> None:
    """Without this, the refusals below would show nothing."""
    ada.put("notes", "k", 1)
    made = signed(key, claims(ada.user))
    assert ada.http.get(ada.at(), headers={"authorization": f"Bearer {made}"}).status_code == 200


STRANGER = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
STRANGER_PUBLIC = STRANGER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
FORGERIES: dict[str, Callable[[Key, dict[str, Any]], str]] = {
    "none": lambda key, told: token({"alg": "none", "kid": key.kid}, told, lambda _: b""),
    "None": lambda key, told: token({"alg": "None", "kid": key.kid}, told, lambda _: b""),
    "none, with a signature": lambda key, told: token({"alg": "none", "kid": key.kid}, told, key.private.sign),
    "no algorithm": lambda key, told: token({"kid": key.kid}, told, key.private.sign),
    "no signature": lambda key, told: signed(key, told).rpartition(".")[0] + ".",
    "two parts": lambda key, told: signed(key, told).rpartition(".")[0],
    "four parts": lambda key, told: signed(key, told) + ".x",
    "HS256 with the public key": lambda key, told: token({"alg": "HS256", "kid": key.kid}, told, mac(key.public)),
    "HS256 with the PEM": lambda key, told: token({"alg": "HS256", "kid": key.kid}, told, mac(key.pem)),
    "HS256 with nothing": lambda key, told: token({"alg": "HS256", "kid": key.kid}, told, mac(b"")),
    "HS256 with x": lambda key, told: token({"alg": "HS256", "kid": key.kid}, told, mac(key.jwk["x"].encode())),
    "EdDSA by a MAC": lambda key, told: token({"alg": "EdDSA", "kid": key.kid}, told, mac(key.public)),
    "another key": lambda key, told: token({"alg": "EdDSA", "kid": key.kid}, told, STRANGER.sign),
    "another key, shown": lambda key, told: token(
        {"alg": "EdDSA", "kid": key.kid, "jwk": {"kty": "OKP", "crv": "Ed25519", "x": encoded(STRANGER_PUBLIC)}},
        told,
        STRANGER.sign,
    ),
    "another kid": lambda key, told: signed(key, told, kid="other"),
    "kid of a file": lambda key, told: signed(key, told, kid="../../../dev/null"),
    "no kid": lambda key, told: token({"alg": "EdDSA"}, told, key.private.sign),
    "kid of another type": lambda key, told: signed(key, told, kid=[key.kid]),
    "critical": lambda key, told: signed(key, told, crit=["exp2"], exp2=1),
    "not encoded": lambda key, told: signed(key, told, b64=False, crit=["b64"]),
    "changed claims": lambda key, told: swapped(signed(key, told), told | {"kind": "admin"}),
    "changed header": lambda key, told: encoded({"alg": "EdDSA", "kid": key.kid}) + "." + after(signed(key, told)),
    "a bit of the signature": lambda key, told: flipped(signed(key, told)),
    "padding": lambda key, told: signed(key, told) + "==",
    "a character that is no base64url": lambda key, told: signed(key, told)[:-1] + "+",
    "white space inside": lambda key, told: signed(key, told).replace(".", ". "),
    "JWE": lambda key, told: "e30.e30.e30.e30.e30",
    "JSON": lambda key, told: json.dumps({"payload": encoded(told), "signature": "x", "protected": "e30"}),
}


def mac(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda data: hmac.new(secret, data, hashlib.sha256).digest()


def after(text: str) -> str:
    return text.partition(".")[2]


def swapped(text: str, payload: dict[str, Any]) -> str:
    header, _, signature = text.split(".")
    return f"{header}.{encoded(payload)}.{signature}"


def flipped(text: str) -> str:
    head, _, signature = text.rpartition(".")
    octets = bytearray(decoded(signature))
    octets[0] ^= 1
    return f"{head}.{encoded(bytes(octets))}"


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_token_is_refused(ada: Account, key: Key, forgery: str) -> None:
    ada.put("notes", "k", 1)
    refused(ada, FORGERIES[forgery](key, claims(ada.user)))


# Far from the moment at which this is read: the tests come up to an hour later.
CLAIMS: dict[str, Any] = {
    "expired": {"exp": int(time.time()) - 1},
    "expired long ago": {"exp": 0},
    "expires before time": {"exp": -(2**62)},
    "not yet": {"nbf": int(time.time()) + 86_400},
    "issued tomorrow": {"iat": int(time.time()) + 86_400},
    "another issuer": {"iss": "somebody"},
    "another kind": {"kind": "root"},
    "no kind": {"kind": None},
    "kinds": {"kind": ["admin"]},
    "no user": {"sub": ""},
    "a bad user": {"sub": "a/b"},
    "a user with NUL": {"sub": "ada\0"},
    "a number of a user": {"sub": 7},
    "exp as text": {"exp": "tomorrow"},
    "exp as a fraction": {"exp": 1e300},
    "no exp": {"exp": None},
}


@pytest.mark.parametrize("case", CLAIMS)
def test_a_token_with_bad_claims_is_refused(ada: Account, key: Key, case: str) -> None:
    ada.put("notes", "k", 1)
    refused(ada, signed(key, claims(ada.user) | CLAIMS[case]))


@pytest.mark.parametrize("claim", ["iss", "sub", "kind", "iat", "exp"])
def test_no_claim_may_be_missing(ada: Account, key: Key, claim: str) -> None:
    told = claims(ada.user)
    del told[claim]
    refused(ada, signed(key, told))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"null", b"[]", b'"ada"', b"\xff", b"[" * 5000, b'{"a":' * 1000, b"\0", b'{"exp":1e999}'],
    ids=range(10),
)
def test_a_payload_that_is_no_claims_is_refused(ada: Account, key: Key, payload: bytes) -> None:
    refused(ada, signed(key, payload))


@pytest.mark.parametrize("length", [8_193, 50_000])
def test_a_token_of_great_length_is_refused(ada: Account, key: Key, length: int) -> None:
    refused(ada, signed(key, claims(ada.user, more="x" * length)))
    refused(ada, "x" * length)
    refused(ada, "." * length)


@pytest.mark.parametrize(
    "header", ['{"alg":' * 2000, "[" * 3000, "null", '"x"', "[]", '{"alg":["EdDSA"]}', '{"alg":{}}', "\0"]
)
def test_a_header_that_is_none_is_refused(ada: Account, key: Key, header: str) -> None:
    start = f"{encoded(header.encode())}.{encoded(claims(ada.user))}"
    refused(ada, f"{start}.{encoded(key.private.sign(start.encode()))}")


def test_a_token_that_was_good_is_refused_once_it_has_expired(ada: Account, key: Key) -> None:
    """Also by a server that remembers it."""
    ada.put("notes", "k", 1)
    expires = int(time.time()) + 5
    short = signed(key, claims(ada.user, exp=expires))
    headers = {"authorization": f"Bearer {short}"}
    assert ada.http.get(ada.at(), headers=headers).status_code == 200
    while time.time() < expires:
        assert ada.http.get(ada.at(), headers=headers).status_code in {200, 401}
    refused(ada, short)
