"""How one value is sealed under its user's key, and opened again.

A sealed value is a format byte, the generation of the key, a nonce and what AES-256-GCM-SIV (RFC 8452) makes of the
value. That mode forgives a nonce that comes twice, as it may on a machine that was cloned. Where the value belongs is
authenticated with it, so it opens nowhere else: not in another row, nor under another version.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FORMAT = b"\x01"
"""The first byte of what is sealed. Nothing that Roost stored in clear begins so: JSON does not."""
KEY_BYTES = 32
_NONCE_BYTES = 12
_HEAD = struct.Struct(">cI")
_HEAD_BYTES = _HEAD.size
_PLACE = struct.Struct(">BQHH")
_START = _HEAD_BYTES + _NONCE_BYTES
_generation = struct.Struct(">I").unpack_from
_NEITHER = (b"", FORMAT)
OVERHEAD = _START + 16
"""How many bytes a value grows by."""


class Slot(IntEnum):
    """Which of a row's values it is. A document's value is its last event's, so both are sealed as one."""

    VALUE = 1
    EDITS = 2
    SIBLINGS = 3
    ANSWER = 4
    FINGERPRINT = 5


class NotSealed(Exception):
    """It was not sealed under this key for this place, or was changed since."""


class Seal:
    """Seals and opens the values of one user under one generation of the key."""

    __slots__ = ("_bound", "_head", "_key", "_secret")

    def __init__(self, user: str, generation: int, secret: bytes) -> None:
        self._secret = secret
        self._key = derived(secret, b"roost value")
        self._head = _HEAD.pack(FORMAT, generation)
        name = user.encode()
        self._bound = self._head + struct.pack(">H", len(name)) + name

    def seal(self, value: bytes, collection: str, key: str, seq: int, slot: Slot) -> bytes:
        """Seal a value for its place. `seq` is the version, or what else tells apart what was there one after another.

        `collection` and `key` are as long as 65,535 bytes at most, `seq` is below 2^64.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return self._head + nonce + AESGCMSIV(self._key).encrypt(nonce, value, self._place(collection, key, seq, slot))

    def open(self, sealed: bytes, collection: str, key: str, seq: int, slot: Slot) -> bytes:
        """The value. Raises `NotSealed`."""
        try:
            nonce, secret = sealed[_HEAD_BYTES:_START], sealed[_START:]
            return AESGCMSIV(self._key).decrypt(nonce, secret, self._place(collection, key, seq, slot))
        except (InvalidTag, ValueError) as error:
            raise NotSealed from error

    def derive(self, purpose: bytes) -> bytes:
        """A key of 32 bytes for something else, from the user's."""
        return derived(self._secret, b"roost purpose " + purpose)

    def _place(self, collection: str, key: str, seq: int, slot: Slot) -> bytes:
        one, other = collection.encode(), key.encode()
        return self._bound + _PLACE.pack(slot, seq, len(one), len(other)) + one + other


class Wrap:
    """Wraps users' keys under one key-encryption key, each for its user and generation."""

    def __init__(self, kek: str, secret: bytes) -> None:
        self.kek = kek
        self._aead = AESGCMSIV(derived(secret, b"roost wrap"))

    def wrap(self, secret: bytes, user: str, generation: int) -> bytes:
        """Wrap a user's key; an empty one vouches for generation 0."""
        nonce = os.urandom(_NONCE_BYTES)
        return FORMAT + nonce + self._aead.encrypt(nonce, secret, self._place(user, generation))

    def unwrap(self, wrapped: bytes, user: str, generation: int) -> bytes:
        """The key. Raises `NotSealed`."""
        start = 1 + _NONCE_BYTES
        try:
            if wrapped[:1] != FORMAT:
                raise NotSealed
            return self._aead.decrypt(wrapped[1:start], wrapped[start:], self._place(user, generation))
        except (InvalidTag, ValueError) as error:
            raise NotSealed from error

    def check(self) -> bytes:
        """What only this key opens."""
        return self.wrap(self.kek.encode(), "", 0)

    def proves(self, check: bytes) -> bool:
        """Whether `check` came from this key."""
        try:
            return self.unwrap(check, "", 0) == self.kek.encode()
        except NotSealed:
            return False

    @staticmethod
    def _place(user: str, generation: int) -> bytes:
        return FORMAT + struct.pack(">I", generation) + user.encode()


def generation_of(stored: bytes) -> int:
    """Under which generation of the user's key it is sealed; 0 for what is in clear, -1 for what is neither."""
    if len(stored) >= OVERHEAD and stored[0] == 1:
        return _generation(stored, 1)[0] or -1
    return -1 if stored[:1] in _NEITHER else 0


def derived(secret: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes from a secret that is as random: HKDF with SHA-256 (RFC 5869)."""
    return HKDF(hashes.SHA256(), KEY_BYTES, None, purpose).derive(secret)
