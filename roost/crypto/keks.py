"""The key-encryption keys of one database: that the keyring has them, and how one takes the place of another.

Changing the key rewraps every user's key and then destroys the old one: copies of the database from before open
nothing any more. It can be broken off anywhere: what is left to be done stands in the database, and whoever goes on
with it, on any node, does so while everybody writes. A key that is not current any more wraps nothing new, because
whoever adds a wrapped key holds a lock on the KEK's row until that is committed. Each step is on record first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from time import monotonic

import structlog

from roost.core.errors import RoostError
from roost.core.keys import CLEAR, Kek, KekState, KeyStore, UserKey
from roost.core.ports import TransactionLost
from roost.crypto.acts import Recorder, unrecorded
from roost.crypto.keyring import Keyring, KeyringError
from roost.crypto.seal import NotSealed, Wrap

BATCH_KEYS = 500
"""Keys that one transaction rewraps."""

Progress = Callable[[int, int | None], None]
"""Hears how much is done, and of how much where that is known."""

log = structlog.get_logger(__name__)


def no_progress(_done: int, _of: int | None) -> None:
    """For whoever does not want to know."""


class Keks:
    """The KEKs of the database that `store` is in. Opened ones stay in memory for `keep_s`."""

    def __init__(
        self,
        store: KeyStore,
        keyring: Keyring,
        clock: Callable[[], datetime],
        *,
        keep_s: float,
        record: Recorder = unrecorded,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._clock = clock
        self._keep_s = keep_s
        self._record = record
        self._opened: dict[str, tuple[Wrap, float]] = {}
        self._current: str | None = None

    async def wrap(self, kek: str) -> Wrap | None:
        """A KEK; None where the keyring has none of that name. Raises `KeyringError`."""
        opened, until = self._opened.get(kek, (None, 0.0))
        if opened is None or until < monotonic():
            secret = await asyncio.to_thread(self._keyring.get, kek)
            opened = None if secret is None else Wrap(kek, secret)
            # With it go those that nobody asks for any more, because they were replaced.
            now = monotonic()
            self._opened = {name: held for name, held in self._opened.items() if name != kek and held[1] >= now}
            if opened is not None:
                self._opened[kek] = opened, now + self._keep_s
        return opened

    async def current(self) -> Wrap:
        """The KEK that wraps new keys, as far as this node knows; the first one is made where there is none.

        Raises `KeyringError`.
        """
        # Another node may have changed it, and destroyed the one that this node took for the current one.
        if self._current is None or (wrap := await self.wrap(self._current)) is None:
            await self.unlock()
            kek = self._current or ""
            wrap = await self.wrap(kek)
            if wrap is None:
                raise self._lacking(kek)
        return wrap

    def outdated(self) -> None:
        """The KEK that this node held for the current one is not: ask the store next time."""
        self._current = None

    async def unlock(self, progress: Progress = no_progress) -> None:
        """See that the keyring opens this database. The first time, its users of before are vouched for.

        Raises `KeyringError`.
        """
        while not (keks := await self._store.keks()):
            await self._begin("adopting", None)
        for kek in keks:
            wrap = await self.wrap(kek.kek)
            if wrap is None and (kek.state != "retiring" or await self._store.count(kek.kek)):
                if await self._store.keks() != keks:
                    await self.unlock(progress)  # it was retired and destroyed since
                    return
                raise self._lacking(kek.kek)
            if wrap is not None and not wrap.proves(kek.check):
                raise KeyringError(
                    f"The keyring {self._keyring.place} has another key under the name {kek.kek} than the one that"
                    " the database is sealed with: restore it from its backup."
                )
            if kek.state == "adopting" and wrap is not None:
                await self._adopt(wrap, progress)
        self._current = next(kek.kek for kek in keks if kek.state != "retiring")

    async def rotate(self, progress: Progress = no_progress) -> str:
        """Put a new KEK in the place of the current one, rewrap all keys, and destroy the old one; returns its id.

        The rotation begins after this was called, whatever else was under way. Raises `KeyringError`.
        """
        await self.finish(progress)
        while True:
            self.outdated()
            before = await self.current()
            kek = await self._begin("current", before.kek)
            if kek is not None:
                break
        log.info("the key-encryption key is being changed", kek=kek, before=before.kek)
        await self.finish(progress)
        return kek

    async def finish(self, progress: Progress = no_progress) -> bool:
        """Bring every rotation to its end that somebody has begun; whether there was one."""
        retiring = [kek for kek in await self._store.keks() if kek.state == "retiring"]
        for kek in retiring:
            await self._retire(kek.kek, progress)
        return bool(retiring)

    async def _begin(self, state: KekState, before: str | None) -> str | None:
        """A new KEK in the place of `before`, or None where that is not the current one."""
        kek = await asyncio.to_thread(self._keyring.add)
        wrap = await self.wrap(kek)
        if wrap is None:
            raise self._lacking(kek)
        if before is not None:  # the first one is on record when it is adopted: its trail has no key yet
            try:
                await self._record(f"rotate {before} to {kek}")
            except RoostError:
                await asyncio.to_thread(self._keyring.destroy, kek)
                raise
        if await self._store.begin(Kek(kek, state, wrap.check(), self._clock()), before):
            self.outdated()
            return kek
        await asyncio.to_thread(self._keyring.destroy, kek)
        if before is not None:
            await self._record(f"rotate {before} to {kek}", outcome="failed")
        elif not await self._store.keks():
            raise KeyringError("The database holds keys and does not say what wraps them: restore it from a backup.")
        return None

    async def _adopt(self, wrap: Wrap, progress: Progress) -> None:
        # The first key that this one wraps is the trail's.
        self._current = wrap.kek
        try:
            await self._record(f"adopt {wrap.kek}")
        finally:
            self.outdated()
        after, done = None, 0
        while users := await self._store.unvouched(after, BATCH_KEYS):
            await self._store.vouch([UserKey(user, CLEAR, wrap.kek, wrap.wrap(b"", user, CLEAR)) for user in users])
            after, done = users[-1], done + len(users)
            progress(done, None)
        await self._store.adopted(wrap.kek)
        if done:
            log.info("what is stored in clear was adopted, and will be sealed", users=done)

    async def _retire(self, kek: str, progress: Progress) -> None:
        """Rewrap what a retiring KEK wraps, and destroy it."""
        done, total = 0, await self._store.count(kek)
        while keys := await self._store.wrapped_by(kek, BATCH_KEYS):
            before = await self.wrap(kek)
            if before is None:
                raise self._lacking(kek)
            after = await self.current()
            try:
                rewrapped = await self._store.rewrap([_rewrapped(key, before, after) for key in keys], kek)
            except TransactionLost:
                continue
            if not rewrapped:
                self.outdated()
                continue
            done += len(keys)
            progress(done, max(done, total))
        # Nothing can be added any more: see the head of this module.
        await self._record(f"destroy {kek}")
        await asyncio.to_thread(self._keyring.destroy, kek)
        self._opened.pop(kek, None)
        await self._store.end(kek)
        log.info("a key-encryption key was destroyed", kek=kek, rewrapped=done)

    def _lacking(self, kek: str) -> KeyringError:
        return KeyringError(
            f"The database is sealed with the key {kek}, which the keyring {self._keyring.place} does not hold: restore"
            " the keyring from its backup, or name the right one with ROOST_KEYRING. A copy of a database from before"
            " that key was destroyed cannot be opened any more."
        )


def _rewrapped(key: UserKey, before: Wrap, after: Wrap) -> UserKey:
    try:
        secret = before.unwrap(key.wrapped, key.user, key.generation)
    except NotSealed:
        # Whatever it was that changed it, nobody can open it; it must not keep the old KEK alive.
        log.exception("a key cannot be opened", user=key.user, generation=key.generation)
        return key._replace(kek=after.kek)
    return UserKey(key.user, key.generation, after.kek, after.wrap(secret, key.user, key.generation))
