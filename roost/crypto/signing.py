"""The key that signs tokens, and how it rests on disk.

One Ed25519 key a data directory, as a JSON Web Key that its owner alone may read. Workers of one node start at
the same time and all need it, so it comes into being whole and once: whoever links the file first has made it,
and everybody else reads what is there.
"""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey

FILE_NAME = "signing_key.json"
_ALGORITHMS = ["EdDSA"]


class SigningKeyError(Exception):
    """The signing key cannot be used; the message is one line, with a next step."""


class BadSignature(Exception):
    """A token that this key did not sign, or that is no token at all."""


class SigningKey:
    """Signs claims, and opens what it signed. `kid` is the key's thumbprint (RFC 7638)."""

    def __init__(self, key: OKPKey) -> None:
        self._key = key
        self.kid = key.thumbprint()

    @classmethod
    def load_or_create(cls, data: Path) -> Self:
        """The key of a data directory; both are made where there is none. Raises `SigningKeyError`."""
        path = data / FILE_NAME
        try:
            if not path.exists():
                _create(path)
            return cls(_read(path))
        except OSError as error:
            raise SigningKeyError(f"The signing key {path} cannot be used: {error.strerror}.") from error

    def sign(self, claims: dict[str, Any]) -> str:
        """`claims` as a compact JWS."""
        header = {"typ": "JWT", "alg": "EdDSA", "kid": self.kid}
        with _eddsa_is_meant():
            return jws.serialize_compact(header, msgspec.json.encode(claims), self._key, algorithms=_ALGORITHMS)

    def open(self, token: str) -> bytes:
        """The payload of a compact JWS that this key signed, or raise `BadSignature`.

        The algorithm is ours to choose, never the token's: `none`, and HMAC with the public key, are refused.
        """
        try:
            with _eddsa_is_meant():
                opened = jws.deserialize_compact(token, self._key, algorithms=_ALGORITHMS)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # The library means to raise its own errors only, but it is fed what strangers send.
            raise BadSignature from error
        if opened.headers().get("kid") != self.kid:
            raise BadSignature
        return opened.payload


@contextmanager
def _eddsa_is_meant() -> Iterator[None]:
    # RFC 9864 renames the algorithm to the curve, and the library warns at each use; few verifiers know the new name.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        yield


def _create(path: Path) -> None:
    """Write a new key unless somebody else did meanwhile; nobody ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    jwk = msgspec.json.encode(OKPKey.generate_key("Ed25519").as_dict(private=True))
    # mkstemp gives mode 0600, which the link keeps.
    descriptor, draft = tempfile.mkstemp(prefix=f".{FILE_NAME}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(jwk)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        Path(draft).unlink()


def _read(path: Path) -> OKPKey:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise SigningKeyError(
                f"The signing key {path} is open to other users (mode {mode:04o}): run `chmod 600 {path}`."
            )
        text = file.read()
    try:
        key = OKPKey.import_key(msgspec.json.decode(text, type=dict[str, str | list[str]]))
    except (msgspec.DecodeError, JoseError, ValueError, KeyError, TypeError) as error:
        raise SigningKeyError(
            f"{path} is not a signing key: restore it, or delete it to sign with a new one."
        ) from error
    if key.curve_name != "Ed25519" or not key.is_private:
        raise SigningKeyError(f"{path} is not a private Ed25519 key: restore it, or delete it to sign with a new one.")
    return key
