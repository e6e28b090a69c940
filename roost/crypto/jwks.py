"""The public keys of others (JSON Web Key Sets, RFC 7517), and what was signed with them (RFC 7515).

A token is what a stranger sends. Of its header two things are heard: which of the published keys signed it, and which
of the algorithms that its issuer is known to use; the key must be one for that algorithm. Keys or places of keys that a
token brings along (`jwk`, `jku`, `x5c`, `x5u`) are not looked at.
"""

from __future__ import annotations

import binascii
import warnings
from base64 import b64decode
from collections.abc import Collection
from typing import Any, NamedTuple, get_args

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from roost.core.issuers import Algorithm
from roost.crypto.signing import BadSignature

KEYS_MAX = 100
RSA_BITS_MIN, RSA_BITS_MAX = 2_048, 8_192
PARTS = 3

_MODELS = {name: JWSRegistry.algorithms[name] for name in get_args(Algorithm)}
_PUBLIC: dict[str, type[Key]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}


class UnknownKey(Exception):
    """The set has no key of that name."""


class BadKeySet(Exception):
    """That is no set of keys; the message says in a few words why."""


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str
    typ: str = "JWT"
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_header = msgspec.json.Decoder(_Header).decode


class Token(NamedTuple):
    """A compact JWS, read but not checked: nothing in it is true before `KeySet.open` says so."""

    alg: str
    kid: str
    typ: str
    payload: bytes
    signed: bytes
    signature: bytes

    @classmethod
    def read(cls, text: str) -> Token:
        """A token from what was sent. Raises `BadSignature` for what is none, or demands extensions (`crit`)."""
        parts = text.split(".")
        if len(parts) != PARTS:
            raise BadSignature
        try:
            header_bytes, payload, signature = map(_bytes, parts)
            header = _decode_header(header_bytes)
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            raise BadSignature from error
        if header.crit is not msgspec.UNSET:
            raise BadSignature
        return cls(header.alg, header.kid, header.typ, payload, text.rpartition(".")[0].encode(), signature)


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    kid: str
    use: str = "sig"
    alg: str | None = None
    key_ops: tuple[str, ...] = ("verify",)


class _Published(NamedTuple):
    key: Key
    algorithms: frozenset[str]
    """What the key may be used for."""


class KeySet:
    """What an issuer publishes. Keys for other ends, too weak, or of kinds that are not known here are left out."""

    def __init__(self, keys: dict[str, list[_Published]]) -> None:
        self._keys = keys

    @classmethod
    def decode(cls, body: bytes) -> KeySet:
        """A JSON Web Key Set. Raises `BadKeySet`."""
        try:
            members = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadKeySet("it is no JSON object") from error
        listed = members.get("keys")
        if not isinstance(listed, list) or len(listed) > KEYS_MAX:
            raise BadKeySet(f"it has no list `keys` of at most {KEYS_MAX}")
        keys: dict[str, list[_Published]] = {}
        for item in listed:
            published = _published(item)
            if published is not None:
                keys.setdefault(item["kid"], []).append(published)
        return cls(keys)

    def open(self, token: Token, allowed: Collection[str]) -> bytes:
        """The payload of a token that one of the keys signed by an allowed algorithm.

        Raises `UnknownKey` where no key has the name that the token gives, else `BadSignature`.
        """
        if token.alg not in allowed or token.alg not in _MODELS:
            raise BadSignature
        named = self._keys.get(token.kid)
        if named is None:
            raise UnknownKey
        for key, algorithms in named:
            if token.alg in algorithms and _verify(token, key):
                return token.payload
        raise BadSignature

    def holds_all_of(self, other: KeySet) -> bool:
        """Whether every key of the other set is here too, by the same name."""
        return other.prints() <= self.prints()

    def prints(self) -> set[tuple[str, str]]:
        """All keys by name and thumbprint (RFC 7638)."""
        return {(kid, key.thumbprint()) for kid, named in self._keys.items() for key, _ in named}


def _bytes(part: str) -> bytes:
    """Base64url without padding, and without leniency. Raises `ValueError`."""
    if "=" in part or "+" in part or "/" in part:
        raise binascii.Error
    return b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _published(item: Any) -> _Published | None:
    """A key of a set, if it is one to check signatures with."""
    try:
        jwk = msgspec.convert(item, _Jwk)
        if jwk.use != "sig" or "verify" not in jwk.key_ops or jwk.kty not in _PUBLIC:
            return None
        public = {name: value for name, value in item.items() if name in {"kty", "n", "e", "crv", "x", "y"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # of weak keys, which are left out below
            key = JWKRegistry.import_key(public)
        algorithms = frozenset(name for name in _MODELS if _suits(key, name) and jwk.alg in {None, name})
    except (msgspec.ValidationError, JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError):
        return None  # the library means to raise its own errors only, but it is fed what others publish
    return _Published(key, algorithms) if algorithms else None


def _suits(key: Key, algorithm: str) -> bool:
    if isinstance(key, RSAKey):
        return algorithm.startswith(("RS", "PS")) and RSA_BITS_MIN <= key.public_key.key_size <= RSA_BITS_MAX
    return isinstance(key, ECKey | OKPKey) and _CURVES.get(algorithm) == key.curve_name


def _verify(token: Token, key: Key) -> bool:
    try:
        return _MODELS[token.alg].verify(token.signed, token.signature, key)
    except (JoseError, ValueError, TypeError) as error:
        raise BadSignature from error
