"""The keys that sign tokens, and how they rest on disk.

A set of Ed25519 keys a data directory, as JSON Web Keys in one file that its owner alone may read. The newest signs;
older ones go on telling their own signatures, so that to rotate logs nobody out. Workers of one node start at the
same time and all need it, so the file comes into being whole and once: whoever links it first has made it, and
everybody else reads what is there. To rotate is to replace the file, and everybody who has it open looks now and
then whether that happened.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey

from roost import files

FILE_NAME = "signing_key.json"
LOOK_S = 0.5
"""How often the file is looked at, at most, while its keys are used."""
_ALGORITHMS = ["EdDSA"]


class SigningKeyError(Exception):
    """The signing keys cannot be used; the message is one line, with a next step."""


class BadSignature(Exception):
    """A token that none of these keys signed, or that is no token at all."""


class _Key(NamedTuple):
    """A key by its thumbprint (RFC 7638), and when it was made, in seconds since 1970 (0: unknown)."""

    kid: str
    key: OKPKey
    made_at: int


class _File(msgspec.Struct):
    """A JSON Web Key Set of private keys, the newest first. `iat` is ours: when the key was made."""

    keys: list[dict[str, Any]]


class SigningKeys:
    """Signs claims, and opens what these keys signed. `generation` changes whenever the keys did."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_as: tuple[int, int, int] | None = None
        self._looked = 0.0
        self._generation = 0
        self._keys: dict[str, _Key] = {}
        self._newest = self._load()

    @classmethod
    def load_or_create(cls, data: Path) -> Self:
        """The keys of a data directory; it is made, with a first key, where there is none. Raises `SigningKeyError`."""
        path = data / FILE_NAME
        with _usable(path):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _create(path)
            return cls(path)

    @property
    def kid(self) -> str:
        """The name of the key that signs."""
        self._look()
        return self._newest.kid

    @property
    def generation(self) -> int:
        """A number that is another one after the keys have changed. What was opened before may be a dropped key's."""
        self._look()
        return self._generation

    def sign(self, claims: dict[str, Any]) -> str:
        """`claims` as a compact JWS."""
        self._look()
        header = {"typ": "JWT", "alg": "EdDSA", "kid": self._newest.kid}
        with _eddsa_is_meant():
            return jws.serialize_compact(header, msgspec.json.encode(claims), self._newest.key, algorithms=_ALGORITHMS)

    def open(self, token: str) -> bytes:
        """The payload of a compact JWS that one of these keys signed, or raise `BadSignature`.

        The algorithm is ours to choose, never the token's: `none`, and HMAC with a public key, are refused.
        """
        self._look()
        try:
            with _eddsa_is_meant():
                kid = jws.extract_compact(token.encode()).headers().get("kid")
                known = self._find(kid if isinstance(kid, str) else "")
                return jws.deserialize_compact(token, known.key, algorithms=_ALGORITHMS).payload
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # The library means to raise its own errors only, but it is fed what strangers send.
            raise BadSignature from error

    def public(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 7517), the newest first."""
        self._look()
        return {
            "keys": [
                {**key.key.as_dict(private=False), "kid": key.kid, "use": "sig", "alg": "EdDSA"}
                for key in self._keys.values()
            ]
        }

    def rotate(self, now: int, keep_s: int) -> int:
        """Sign with a new key from now on; returns how many older ones are kept. Raises `SigningKeyError`.

        Kept are those that signed until less than `keep_s` ago: no token of the others is to be good any more. Workers
        and nodes that share the file take it up within a moment.
        """
        with _usable(self._path), _locked(self._path):
            self._newest = self._load()
            kept, retired_at = [], now
            for key in self._keys.values():
                if now - retired_at < keep_s:
                    kept.append(key)
                retired_at = key.made_at
            newest = _Key("", OKPKey.generate_key("Ed25519"), now)
            files.replace(self._path, _encoded([newest, *kept]), locked=True)
            self._newest = self._load()
        return len(kept)

    def _find(self, kid: str) -> _Key:
        key = self._keys.get(kid)
        if key is None:
            # Another process may have rotated a moment ago, and signed already.
            self._look(unless_within_s=0)
            key = self._keys[kid]
        return key

    def _look(self, unless_within_s: float = LOOK_S) -> None:
        """Read the file again if it was replaced. One that cannot be read changes nothing."""
        now = time.monotonic()
        if now - self._looked < unless_within_s:
            return
        self._looked = now
        try:
            if _identity(self._path.stat()) != self._read_as:
                self._newest = self._load()
        except (OSError, SigningKeyError):
            return

    def _load(self) -> _Key:
        """Take up what the file holds; returns the key that signs."""
        self._read_as, keys = _read(self._path)
        self._keys = {key.kid: key for key in keys}
        self._generation += 1
        return keys[0]


@contextmanager
def _eddsa_is_meant() -> Iterator[None]:
    # RFC 9864 renames the algorithm to the curve, and the library warns at each use; few verifiers know the new name.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        yield


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SigningKeyError(f"The signing key {path} cannot be used: {error.strerror}.") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep everybody else from replacing the file, who does so under this lock."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(path: Path) -> None:
    """Write a first key unless somebody else did meanwhile; nobody ever sees half a file."""
    draft = files.draft(path, _encoded([_Key("", OKPKey.generate_key("Ed25519"), 0)]))
    try:
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        files.sync(path.parent)
    finally:
        draft.unlink()


def _encoded(keys: Sequence[_Key]) -> bytes:
    """These keys as the file holds them."""
    return msgspec.json.encode(_File([{**key.key.as_dict(private=True), "iat": key.made_at} for key in keys]))


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> tuple[tuple[int, int, int], list[_Key]]:
    """The keys of a file, the newest first, and which file that was."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise SigningKeyError(
                f"The signing key {path} is open to other users (mode {mode:04o}): run `chmod 600 {path}`."
            )
        text = file.read()
    try:
        held = msgspec.json.decode(text)
        # What one key alone was kept as is read for ever.
        told = msgspec.convert(held, _File).keys if "keys" in held else [held]
        keys = [_key(jwk) for jwk in told]
        keys[0]  # none would be as bad
    except (msgspec.MsgspecError, JoseError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SigningKeyError(
            f"{path} is not a signing key: restore it, or delete it to sign with a new one."
        ) from error
    if any(key.key.curve_name != "Ed25519" or not key.key.is_private for key in keys):
        raise SigningKeyError(f"{path} is not a private Ed25519 key: restore it, or delete it to sign with a new one.")
    return _identity(status), keys


def _key(jwk: dict[str, Any]) -> _Key:
    made_at = msgspec.convert(jwk.get("iat", 0), int)
    key = OKPKey.import_key({name: value for name, value in jwk.items() if name != "iat"})
    return _Key(key.thumbprint(), key, made_at)
