"""Tokens as anybody could make them: with any header, any claims, and any key."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterable
from typing import Any

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

NEEDS = {"RS": "RSA", "PS": "RSA", "ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "Ed": "Ed25519"}
"""What kind of key an algorithm takes, by how its name begins."""


def encoded(part: Any) -> str:
    """Anything as JSON, or bytes as they are, as a part of a token."""
    body = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def signed(key: Key | bytes, claims: Any, **header: Any) -> str:
    """A token with this header (without the members that are None), signed by its `alg`; HS256 takes any bytes."""
    head = {name: value for name, value in header.items() if value is not None}
    text = f"{encoded(head)}.{encoded(claims)}"
    if isinstance(key, bytes):
        return f"{text}.{encoded(hmac.digest(key, text.encode(), 'sha256'))}"
    return f"{text}.{encoded(JWSRegistry.algorithms[head['alg']].sign(text.encode(), key))}"


def made(algorithm: str, kid: str, **more: Any) -> Key:
    """A new private key for an algorithm."""
    kind = next(kind for start, kind in NEEDS.items() if algorithm.startswith(start))
    parameters: Any = {"kid": kid, "use": "sig", "alg": algorithm, **more}
    if kind == "RSA":
        return RSAKey.generate_key(2048, parameters)
    if kind == "Ed25519":
        return OKPKey.generate_key("Ed25519", parameters)
    return ECKey.generate_key(kind, parameters)


def published(keys: Iterable[Key]) -> bytes:
    """The public halves of keys, as a JSON Web Key Set."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()
