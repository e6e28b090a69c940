"""Passwords: a few are hashed at once, a bounded number waits, and the event loop goes on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from roost.core.errors import Code, RoostError
from roost.crypto import passwords
from roost.crypto.passwords import Passwords
from roost.settings import PasswordHash

CHEAP = PasswordHash(8, 1, 1)


def test_a_password_matches_its_own_hash_only() -> None:
    async def go() -> None:
        hashing = Passwords(CHEAP, 1)
        one, two = await hashing.hash("a password"), await hashing.hash("a password")
        assert one != two  # a salt of its own
        assert await hashing.matches("a password", one)
        assert not await hashing.matches("another password", one)
        assert not await hashing.matches("a password", None)
        assert not await hashing.matches("a password that is never asked for", None)
        assert not await hashing.matches("a password", "$argon2id$spoilt")
        assert not hashing.outdated(one)
        assert Passwords(PasswordHash(16, 1, 1), 1).outdated(one)
        hashing.close()

    asyncio.run(go())


def test_so_many_are_hashed_at_once_and_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        monkeypatch.setattr(passwords, "WAITING_MAX", 3)
        hashing = Passwords(CHEAP, 2)
        go_on, busy, most = threading.Event(), 0, 0

        def slow(given: str, stored: str | None) -> bool:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            assert go_on.wait(30)
            busy -= 1
            return True

        monkeypatch.setattr(hashing, "_matches", slow)
        waiting = [asyncio.ensure_future(hashing.matches("a password", None)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(RoostError) as refusal:
            await hashing.matches("a password", None)
        assert (refusal.value.code, refusal.value.retry_after_s) == (Code.OVERLOADED, 2)
        go_on.set()
        assert await asyncio.gather(*waiting) == [True] * 5
        assert most <= 2
        assert await hashing.matches("a password", None)
        hashing.close()

    asyncio.run(go())
